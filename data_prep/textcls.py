"""Text classification and scoring: MR, AG News, IMDB, Yelp, and any TSV, CSV or JSON Lines file with named columns."""

from __future__ import annotations

import argparse
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mtrobust.errors import UserError

from .common import (
    Items,
    Record,
    Reject,
    Row,
    RowFault,
    accept,
    existing_folder,
    name_faults,
    score_of,
    stable_share,
    text_of,
    writable_folder,
)
from .readers import bad_byte, read_by_suffix, read_lines
from .textcls_sets import SETS, letters
from .writing import Tally, TaskWriter

HELP = "text classification: MR, AG News, IMDB, Yelp, or any TSV/CSV/JSONL with named columns"
FILE_FLAGS = ("train", "dev", "test")
OWN = {  # flags that are for one's own files, with their defaults
    **dict.fromkeys(["train_file", "dev_file", "test_file", "text_pair_column", "id_column", "labels"]),
    "text_column": "text",
    "label_column": "label",
    "regression": False,
}
ORDER = ("train", "dev", "test", "held_out")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `mtrobust prep textcls`."""
    parser.add_argument("--dataset", choices=[*SETS, "file"], required=True, help="a known set, or your own files")
    parser.add_argument("--raw", type=Path, help="folder of a known set's original files")
    parser.add_argument("--out", type=Path, required=True, help="folder that gets <task>/<split>.jsonl")
    parser.add_argument("--task", help="name of the output folder; default: the set's name (needed for --dataset file)")
    parser.add_argument("--dev_share", type=float, help="share of training rows for dev, where the set has no dev part")
    parser.add_argument(
        "--hold_out", type=Path, metavar="FILE", help="rows `label text` (attack examples) to keep out of train and dev"
    )
    own = parser.add_argument_group("your own files (--dataset file)")
    for name in FILE_FLAGS:
        own.add_argument(f"--{name}_file", type=Path, help=f"{name} rows: .tsv (no quoting), .csv or .jsonl")
    own.add_argument("--text_column", default="text", help="column of the text; default: text")
    own.add_argument("--text_pair_column", help="column of the second text, for pairs")
    own.add_argument("--label_column", default="label", help="column of the label; default: label")
    own.add_argument("--id_column", help="column of a unique id; default: the row's position")
    own.add_argument("--labels", help="allowed labels, comma-separated; others are rejected. default: those of train")
    own.add_argument("--regression", action="store_true", help="the label is a number, not a class")


def _cell(value: Any, name: str) -> str:
    """A label or id as text; JSON numbers and booleans count, nothing else does."""
    if isinstance(value, (str, int, float)) and str(value).strip():
        return str(value).strip()
    raise RowFault(f"{name}: expected a value, got {value!r}")


def convert_own(record: Record, args: argparse.Namespace, labels: set[str] | None) -> Row:
    """One row of a user's file. An empty or null label makes an unlabelled row."""
    fields = record.fields
    row: Row = {"id": _cell(fields.get(args.id_column), args.id_column)} if args.id_column else {}
    row["text"] = text_of(fields, args.text_column)
    if args.text_pair_column:
        row["text_pair"] = text_of(fields, args.text_pair_column)
    if fields.get(args.label_column) in (None, ""):
        return row
    if args.regression:
        row["label"] = score_of(fields, args.label_column, -1e30, 1e30)
        return row
    row["label"] = _cell(fields[args.label_column], args.label_column)
    if labels is not None and row["label"] not in labels:
        raise RowFault(f"{args.label_column}: unknown label '{row['label']}' (allowed: {', '.join(sorted(labels))})")
    return row


def own_files(args: argparse.Namespace) -> dict[str, Path]:
    """The user's files by split."""
    named = {name: getattr(args, f"{name}_file") for name in FILE_FLAGS}
    return {name: path for name, path in named.items() if path is not None}


def read_own(args: argparse.Namespace) -> dict[str, Items]:
    """The user's files by split. Labels seen in train are the allowed ones unless --labels names them."""
    files = own_files(args)
    given = {name.strip() for name in args.labels.split(",")} if args.labels else None
    seen: set[str] = set()  # of train, which is read to its end before the others
    from_train = "train" in files and given is None and not args.regression

    def stream(name: str, path: Path) -> Iterator[Row | Reject]:
        needed = [args.text_column, args.text_pair_column, args.id_column]
        needed += [args.label_column] if name != "test" else []  # a test set may have no labels
        allowed = seen if from_train and name != "train" else given
        records = read_by_suffix(path, [column for column in needed if column])
        for item in accept(records, lambda record: convert_own(record, args, allowed)):
            if name == "train" and from_train and not isinstance(item, Reject) and "label" in item:
                seen.add(item["label"])
            yield item

    return {name: stream(name, path) for name, path in files.items()}


def read_hold_out(path: Path) -> dict[str, str]:
    """Texts of a `label text` file by their letters. Raises `UserError` for an empty or undecodable file."""
    held: dict[str, str] = {}
    for number, line in read_lines(path):
        if bad_byte(line):
            raise UserError(f"--hold_out: {path}:{number}: {bad_byte(line)}")
        text = line.split(maxsplit=1)
        if len(text) != 2:
            raise UserError(f"--hold_out: {path}:{number}: expected a label and a text")
        held[letters(text[1])] = text[1]
    if not held:
        raise UserError(f"--hold_out: {path} is empty")
    return held


@dataclass
class Router:
    """Where a row goes that the raw files have in some split.

    Rows whose text is held out leave train and dev for `aside`; a share of train becomes dev, chosen by a hash of each
    text: fixed, free of file order, and equal texts stay on one side. Texts are compared by letters and digits, for
    attack samples are tokenised.
    """

    held: dict[str, str]
    aside: str
    dev_share: float
    moved: int = 0
    found: set[str] = field(default_factory=set)

    def split(self, name: str, row: Row) -> str:
        """The split that gets the row."""
        key = letters(row["text"]) if self.held or (name == "train" and self.dev_share) else ""
        if key in self.held:
            self.found.add(key)
            if name in ("train", "dev"):
                self.moved += 1
                return self.aside
        if name == "train" and self.dev_share and stable_share(key) < self.dev_share:
            return "dev"
        return name

    def tell(self) -> None:
        """Prints how many rows were moved, and which held-out texts stand in no split."""
        if not self.held:
            return
        absent = [text for key, text in self.held.items() if key not in self.found]
        told = f"{self.moved} rows moved from train and dev; {len(absent)} of {len(self.held)} texts are in no split"
        print(f"held out: {told}")
        for text in absent[:3]:
            print(f"  not found: {text[:100]}")


def definition(task: str, args: argparse.Namespace, splits: Mapping[str, Tally]) -> str:
    """The task definition that fits a user's files, to be pasted into a YAML file."""
    seen = sorted(set(next(iter(splits.values())).labels) - {"unlabelled"})
    labels = [name.strip() for name in args.labels.split(",")] if args.labels else seen
    listed = json.dumps(labels, ensure_ascii=False)  # quoted, for YAML would read 0 or no as something else
    kind = ["task_type: Regression"] if args.regression else ["task_type: Classification", f"labels: {listed}"]
    shape = "PremiseAndOneHypothesis" if args.text_pair_column else "PremiseOnly"
    metrics = "[Pearson, Spearman]" if args.regression else "[ACC]"
    lines = [*kind, f"data_format: {shape}", f"metric_meta: {metrics}", f"split_names: [{', '.join(splits)}]"]
    return "\n".join([f"{task}:", *(f"  {line}" for line in lines)])


def check_arguments(args: argparse.Namespace) -> None:
    """Raises `UserError` with every fault of the flags that can be seen before reading."""
    faults = []
    if args.dev_share is not None and not 0 <= args.dev_share < 1:
        faults.append(f"--dev_share: {args.dev_share} is outside 0 to 1 (1 excluded)")
    if args.hold_out is not None and not args.hold_out.is_file():
        faults.append(f"--hold_out: no file {args.hold_out}")
    faults += name_faults(args.task) if args.task is not None else []
    faults += _own_faults(args) if args.dataset == "file" else _known_faults(args)
    if faults:
        raise UserError(faults)


def _own_faults(args: argparse.Namespace) -> list[str]:
    files = own_files(args)
    faults = [f"--{name}_file: no file {path}" for name, path in files.items() if not path.is_file()]
    faults += [] if files else ["--dataset file: needs --train_file, --dev_file or --test_file"]
    faults += [] if args.task is not None else ["--dataset file: needs --task, the name of the output folder"]
    faults += ["--labels: a score has none; leave it out with --regression"] if args.labels and args.regression else []
    faults += ["--raw: without effect with --dataset file; name the files"] if args.raw is not None else []
    return faults


def _known_faults(args: argparse.Namespace) -> list[str]:
    needed = f"--dataset {args.dataset}: needs --raw, the folder of the original files"
    given = [flag for flag, default in OWN.items() if getattr(args, flag) != default]
    return [needed] * (args.raw is None) + [f"--{flag}: only with --dataset file" for flag in given]


def share_of_dev(args: argparse.Namespace, splits: Collection[str], default: float) -> float:
    """The share of the training rows that becomes dev. Raises `UserError` where one is asked for in vain."""
    if args.dev_share is not None and ("dev" in splits or "train" not in splits):
        why = "there is a dev part" if "dev" in splits else "there is no train part"
        raise UserError(f"--dev_share: {args.dev_share}: without effect, for {why} (found: {', '.join(splits)})")
    return 0.0 if "dev" in splits else default if args.dev_share is None else float(args.dev_share)


def run(args: argparse.Namespace) -> int:
    """Writes the rows of one set."""
    check_arguments(args)
    if args.dataset == "file":
        task, sources, share = args.task, read_own(args), 0.0
    else:
        task, known = args.task or args.dataset, SETS[args.dataset]
        sources, share = known.read(existing_folder(args.raw, "--raw")), known.dev_share
    cut = share_of_dev(args, sources, share)
    held = read_hold_out(args.hold_out) if args.hold_out is not None else {}
    writable_folder(args.out)
    router = Router(held, "held_out" if "test" in sources else "test", cut)
    with TaskWriter(args.out, task, [name for name in ORDER if name in sources]) as writer:
        for name, items in sources.items():
            for item in items:
                target = name if isinstance(item, Reject) else router.split(name, item)
                if target not in writer.tallies:  # made by the router
                    writer.tallies[target] = Tally()
                writer.add(target, item)
        if cut and "train" in sources and "dev" not in writer.tallies:
            writer.tallies["dev"] = Tally()  # empty, which `finish` reports
        writer.tallies = {name: writer.tallies[name] for name in ORDER if name in writer.tallies}
        router.tell()
        writer.finish()
    if args.dataset == "file":
        print(f"\nA task definition for these rows:\n\n{definition(task, args, writer.tallies)}")
    return 0
