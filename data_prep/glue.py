"""The nine GLUE tasks and the diagnostic set, from the original download's folders or from the hub.

The files are tab-separated without quoting. Labels become names; the unlabelled test files become rows without a
label. Texts are taken over as they stand, stripped at both ends. Row ids are the position of the row in its file,
counted from 0, which is also the `index` that the leaderboard's submission files want.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field, replace
from pathlib import Path

from mtrobust.errors import UserError

from . import hub
from .common import (
    Items,
    Record,
    Row,
    accept,
    existing_folder,
    label_of,
    score_of,
    stable_share,
    text_of,
    writable_folder,
)
from .labels import named, numbered
from .readers import read_lines, read_tsv
from .writing import write_task

HELP = "GLUE's nine tasks and its diagnostic set, from the original download's folders (--raw) or from the hub (--hub)"


@dataclass(frozen=True)
class GlueTask:
    """How one task stands in the download: folder, text columns, label column, raw label values, files by split."""

    folder: str
    texts: tuple[str, ...]
    label: str
    names: dict[str, str] | None  # raw value -> name; None: a score from 0 to 5
    files: dict[str, str] = field(default_factory=lambda: {"train": "train.tsv", "dev": "dev.tsv", "test": "test.tsv"})
    headerless: tuple[str, ...] | None = None  # the columns of labelled files where those have no header line
    keep: tuple[str, ...] = ()  # columns taken over beside texts and label

    def convert(self, record: Record, labelled: bool) -> Row:
        """A raw row as `{"text", "text_pair"?, "label"?, ...}`."""
        row: Row = dict(zip(("text", "text_pair"), (text_of(record.fields, name) for name in self.texts), strict=False))
        if labelled and self.names is None:
            row["label"] = score_of(record.fields, self.label, 0, 5)
        elif labelled:
            row["label"] = label_of(record.fields, self.label, self.names or {})
        return row | {name: record.fields[name] for name in self.keep if name in record.fields}

    def read(self, path: Path, labelled: bool) -> Items:
        """The rows of one file of the download."""
        header = self.headerless if labelled else None
        needed = (*self.texts, *((self.label,) if labelled else ()))
        return accept(read_tsv(path, needed, header), lambda record: self.convert(record, labelled))


MNLI_FILES = {
    "train": "train.tsv",
    "matched_dev": "dev_matched.tsv",
    "mismatched_dev": "dev_mismatched.tsv",
    "matched_test": "test_matched.tsv",
    "mismatched_test": "test_mismatched.tsv",
}
SENTENCES = ("sentence1", "sentence2")
TASKS = {
    "cola": GlueTask(
        "CoLA", ("sentence",), "label", numbered("cola"), headerless=("source", "label", "mark", "sentence")
    ),
    "sst2": GlueTask("SST-2", ("sentence",), "label", numbered("sst2")),
    "mrpc": GlueTask("MRPC", ("#1 String", "#2 String"), "Quality", numbered("mrpc")),
    "stsb": GlueTask("STS-B", SENTENCES, "score", None, keep=("genre",)),
    "qqp": GlueTask("QQP", ("question1", "question2"), "is_duplicate", numbered("qqp")),
    "mnli": GlueTask("MNLI", SENTENCES, "gold_label", named("mnli"), MNLI_FILES, keep=("genre",)),
    "qnli": GlueTask("QNLI", ("question", "sentence"), "label", named("qnli")),
    "rte": GlueTask("RTE", SENTENCES, "label", named("rte")),
    "wnli": GlueTask("WNLI", SENTENCES, "label", numbered("wnli")),
    "ax": GlueTask("diagnostic", SENTENCES, "label", named("mnli"), {"test": "diagnostic.tsv"}),
}
# The diagnostic set's one file, as downloads name and place it; the last ones have labels.
DIAGNOSTIC = (
    *("diagnostic/diagnostic.tsv", "diagnostic/AX.tsv", "AX/AX.tsv", "AX.tsv"),
    *("diagnostic/diagnostic-full.tsv", "diagnostic-full.tsv"),
)
MSR_TRAIN, MSR_TEST = "msr_paraphrase_train.txt", "msr_paraphrase_test.txt"
MSR_DEV_IDS = ("dev_ids.tsv", "mrpc_dev_ids.tsv")
MSR_DEV_SHARE = 0.1


def _pair(record: Record) -> tuple[str, str]:
    return record.fields["#1 ID"], record.fields["#2 ID"]


def read_msr(folder: Path) -> dict[str, Items]:
    """MRPC from the original Microsoft files: train cut into train and dev, and the test set with its labels.

    GLUE's own cut is a list of id pairs (`dev_ids.tsv`). Without that file a fixed tenth, chosen by a hash of the
    ids, becomes dev, and a line says so.
    """
    task = TASKS["mrpc"]
    records = list(read_tsv(folder / MSR_TRAIN, (task.label, "#1 ID", "#2 ID", *task.texts)))
    lists = [folder / name for name in MSR_DEV_IDS if (folder / name).is_file()]
    if lists:
        dev = {_pair(r) for r in read_tsv(lists[0], (), ("#1 ID", "#2 ID")) if isinstance(r, Record)}
    else:
        print(f"mrpc: no {MSR_DEV_IDS[0]} beside {MSR_TRAIN}: dev is a fixed tenth of our own, not GLUE's dev set")
        dev = {_pair(r) for r in records if isinstance(r, Record) and stable_share(" ".join(_pair(r))) < MSR_DEV_SHARE}
    in_dev = [isinstance(record, Record) and _pair(record) in dev for record in records]
    splits: dict[str, Items] = {
        name: accept(
            [r for r, inside in zip(records, in_dev, strict=True) if inside == (name == "dev")],
            lambda record: task.convert(record, True),
        )
        for name in ("train", "dev")
    }
    if (folder / MSR_TEST).is_file():
        splits["test"] = task.read(folder / MSR_TEST, labelled=True)
    return splits


def read_diagnostic(path: Path) -> Items:
    """The rows of the diagnostic set, with MNLI's labels where the file has them."""
    _, header = next(read_lines(path), (1, ""))
    task = TASKS["ax"]
    if "Premise" in header.split("\t"):  # the file with labels and categories
        task = replace(task, texts=("Premise", "Hypothesis"), label="Label")
    records = read_tsv(path, task.texts)
    return accept(records, lambda record: task.convert(record, bool(record.fields.get(task.label, "").strip())))


def find_diagnostic(raw: Path) -> Path | None:
    """The file of the diagnostic set."""
    return next((raw / name for name in DIAGNOSTIC if (raw / name).is_file()), None)


def read_task(name: str, raw: Path) -> dict[str, Items]:
    """The splits of one task that are there; empty when its folder, or every file in it, is missing."""
    task = TASKS[name]
    if name == "ax":
        found = find_diagnostic(raw)
        return {"test": read_diagnostic(found)} if found else {}
    folder = raw / task.folder
    if name == "mrpc" and (folder / MSR_TRAIN).is_file() and not (folder / "train.tsv").is_file():
        return read_msr(folder)
    paths = {split: folder / file for split, file in task.files.items()}
    missing = [path.name for path in paths.values() if not path.is_file()]
    if missing and len(missing) < len(paths):
        print(f"{name}: not in {folder}: {', '.join(missing)}")
    return {
        split: task.read(path, labelled=not split.endswith("test")) for split, path in paths.items() if path.is_file()
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `mtrobust prep glue`."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--raw", type=Path, help="folder with CoLA, SST-2, MRPC, STS-B, QQP, MNLI, QNLI, RTE, WNLI, diagnostic"
    )
    source.add_argument("--hub", action="store_true", help="load nyu-mll/glue with the `datasets` library")
    parser.add_argument("--out", type=Path, required=True, help="folder that gets <task>/<split>.jsonl")
    parser.add_argument("--tasks", help=f"comma-separated, of {', '.join(TASKS)}; default: every task found")


def chosen_tasks(text: str | None) -> list[str]:
    """The tasks named by `--tasks`, all by default. Raises `UserError` with every unknown name."""
    names = [name.strip() for name in text.split(",") if name.strip()] if text is not None else list(TASKS)
    faults = [f"--tasks: unknown task '{name}' (allowed: {', '.join(TASKS)})" for name in names if name not in TASKS]
    if faults or not names:
        raise UserError(faults or f"--tasks: no task named (allowed: {', '.join(TASKS)})")
    return list(dict.fromkeys(names))


def run(args: argparse.Namespace) -> int:
    """Writes the rows of the chosen tasks; a task named by --tasks must be there, others are reported as missing."""
    names = chosen_tasks(args.tasks)
    if args.hub:
        writable_folder(args.out)
        for name in names:
            write_task(args.out, name, hub.glue_splits(name))
        return 0
    existing_folder(args.raw, "--raw")
    absent = [name for name in names if not (args.raw / TASKS[name].folder).is_dir()]
    absent = [name for name in absent if name != "ax" or find_diagnostic(args.raw) is None]
    if args.tasks is not None and absent:
        raise UserError([f"--tasks: {name}: no folder {args.raw / TASKS[name].folder}" for name in absent])
    writable_folder(args.out)
    written = 0
    for name in names:
        splits = {} if name in absent else read_task(name, args.raw)
        if splits:
            write_task(args.out, name, splits)
            written += 1
        elif args.tasks is not None:
            files = ", ".join(TASKS[name].files.values())
            raise UserError(f"--tasks: {name}: none of {files} is in {args.raw / TASKS[name].folder}")
        else:
            print(f"{name}: missing (no files in {args.raw / TASKS[name].folder})")
    if not written:
        raise UserError(f"--raw: {args.raw} holds none of {', '.join(task.folder for task in TASKS.values())}")
    return 0
