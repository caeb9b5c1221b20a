"""Inference sets besides GLUE's: SNLI, MultiNLI's own release, SciTail, ANLI.

Which of a set's published forms a folder has is told by the file names, and which columns a file has by its header or
its keys. Files are tab-separated without quoting, JSON Lines, or one JSON object of rows. A pair without a gold label
(`-`: the annotators reached no majority) is rejected and counted.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mtrobust.errors import UserError

from .common import Items, Record, Reject, Row, RowFault, accept, existing_folder, text_of, writable_folder
from .labels import INFERENCE, LABELS, NO_GOLD
from .readers import read_json_object, read_jsonl, read_lines, read_tsv
from .writing import write_task

HELP = "inference: SNLI, MultiNLI's own release, SciTail, ANLI rounds 1-3, in each of their published forms"
TEXTS = (("sentence1", "sentence2"), ("premise", "hypothesis"), ("context", "hypothesis"), ("text_a", "text_b"))
LABEL_KEYS = ("gold_label", "label")
ID = "uid"  # ANLI's; a pairID is kept as a column
KEPT = ("pairID", "genre")
SCITAIL_COLUMNS = ("premise", "hypothesis", "label")  # its TSV has no header


def read_text(path: Path) -> Iterator[Record | Reject]:
    """A `.txt` file: JSON Lines in SciTail's SNLI form, tab-separated with a header elsewhere."""
    _, first = next(read_lines(path), (1, ""))
    if first.startswith("{"):
        return read_jsonl(path, ())
    return read_tsv(path, (), optional="label")


def read_scitail(path: Path) -> Iterator[Record | Reject]:
    """SciTail's own TSV, without a header."""
    return read_tsv(path, SCITAIL_COLUMNS, SCITAIL_COLUMNS)


@dataclass(frozen=True)
class InferenceSet:
    """How a set lies on disk.

    files: per split the names it may have, the first that is there is taken. tops: folders in the raw folder that may
    hold them ("": the raw folder itself). readers: what reads a file, by its ending, where that is not the usual way.
    """

    files: dict[str, tuple[str, ...]]
    tops: tuple[str, ...] = ("",)
    readers: dict[str, Callable[[Path], Iterator[Record | Reject]]] = field(default_factory=dict)


READERS: dict[str, Callable[[Path], Iterator[Record | Reject]]] = {
    ".jsonl": lambda path: read_jsonl(path, ()),
    ".json": read_json_object,
    ".txt": read_text,
    ".tsv": lambda path: read_tsv(path, (), optional="label"),
}
SETS = {
    "snli": InferenceSet(
        {
            split: (
                f"snli_1.0_{split}.jsonl",
                f"snli_1.0_{split}.txt",
                f"{split}.tsv",
                f"{split}.jsonl",
                f"{split}_sample.json",
            )
            for split in ("train", "dev", "test")
        },
        tops=("", "snli_1.0", "SNLI"),
    ),
    "mnli": InferenceSet(
        {
            split: (f"multinli_1.0_{name}.jsonl", f"multinli_1.0_{name}.txt")
            for split, name in {
                "train": "train",
                "matched_dev": "dev_matched",
                "mismatched_dev": "dev_mismatched",
            }.items()
        },
        tops=("", "multinli_1.0"),
    ),
    "scitail": InferenceSet(
        {
            split: tuple(
                f"{folder}scitail_1.0_{split}.{ending}"
                for ending, folders in {"tsv": ("tsv_format/", ""), "txt": ("snli_format/", "")}.items()
                for folder in folders
            )
            for split in ("train", "dev", "test")
        },
        tops=("", "SciTailV1.1"),
        readers={".tsv": read_scitail},
    ),
    "anli": InferenceSet(
        {f"r{n}_{split}": (f"R{n}/{split}.jsonl",) for n in (1, 2, 3) for split in ("train", "dev", "test")},
        tops=("", "anli_v1.0", "anli_v0.1"),
    ),
}


def converter(dataset: str) -> Callable[[Record], Row]:
    """What makes a row of a record of that set: its texts, its label's name, its id where it has one."""
    allowed = {raw: name for raw, name in INFERENCE.items() if name in LABELS[dataset]}

    def convert(record: Record) -> Row:
        fields = record.fields
        columns = next((names for names in TEXTS if names[0] in fields and names[1] in fields), None)
        key = next((name for name in LABEL_KEYS if name in fields), None)
        if columns is None or key is None:
            texts = " or ".join(f"{one} and {two}" for one, two in TEXTS)
            raise RowFault(f"columns: {texts}, and {' or '.join(LABEL_KEYS)} are needed (found: {', '.join(fields)})")
        row: Row = {"id": text_of(fields, ID)} if ID in fields else {}
        row |= {"text": text_of(fields, columns[0]), "text_pair": text_of(fields, columns[1])}
        raw = str(fields[key]).strip()
        if raw in NO_GOLD:
            raise RowFault(f"{key}: '{raw}': no gold label, the annotators reached no majority")
        if raw not in allowed:
            raise RowFault(f"{key}: unknown label '{raw}' (allowed: {', '.join(allowed)})")
        row["label"] = allowed[raw]
        return row | {name: fields[name] for name in KEPT if isinstance(fields.get(name), str) and fields[name]}

    return convert


def find(dataset: str, raw: Path) -> dict[str, Path]:
    """Split -> file of a set. Raises `UserError` naming what was looked for when there is none."""
    known = SETS[dataset]
    found = {}
    for split, names in known.files.items():
        places = [raw / top / name for top in known.tops for name in names]
        path = next((path for path in places if path.is_file()), None)
        if path is not None:
            found[split] = path
    if not found:
        names = tuple(name for group in known.files.values() for name in group)
        raise UserError(f"--raw: {raw}: nothing of {dataset}: none of {', '.join(names)} found")
    missing = [split for split in known.files if split not in found]
    if missing:
        print(f"{dataset}: not in {raw}: {', '.join(missing)}")
    return found


def read_set(dataset: str, raw: Path) -> dict[str, Items]:
    """The splits of a set that are there, in its order."""
    splits: dict[str, Items] = {}
    for split, path in find(dataset, raw).items():
        print(f"{dataset}: {split} from {path.relative_to(raw)}")
        read = (READERS | SETS[dataset].readers)[path.suffix]
        splits[split] = accept(read(path), converter(dataset))
    return splits


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `mtrobust prep nli`."""
    parser.add_argument("--dataset", choices=list(SETS), required=True, help="the set; its name is the task's")
    parser.add_argument("--raw", type=Path, required=True, help="folder of the set's files, as published")
    parser.add_argument("--out", type=Path, required=True, help="folder that gets <task>/<split>.jsonl")


def run(args: argparse.Namespace) -> int:
    """Writes the splits of one set."""
    splits = read_set(args.dataset, existing_folder(args.raw, "--raw"))
    write_task(writable_folder(args.out), args.dataset, splits)
    return 0
