"""The 1,000-example files that TextFooler (Jin et al. 2020) attacked, and attack papers after it.

`label text` with a single space for the sets of one text, `label<TAB>premise<TAB>hypothesis` for the pairs. Texts are
tokenised as published. Yelp's line breaks, written as a backslash and an n, become spaces, as in `prep textcls`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mtrobust.errors import UserError

from .common import (
    Items,
    Record,
    Reject,
    Row,
    accept,
    add_raw_and_out,
    existing_folder,
    label_of,
    text_of,
    writable_folder,
)
from .labels import INFERENCE, numbered
from .readers import bad_byte, read_lines, read_tsv
from .textcls_sets import spaced
from .writing import write_task

HELP = "the attack examples of TextFooler (files mr, imdb, yelp, ag, snli, mnli, ...), one task folder each"
PAIR = ("label", "text", "text_pair")


def read_single(path: Path) -> Iterator[Record | Reject]:
    """`label text` lines."""
    for number, line in read_lines(path):
        place, reason = f"{path}:{number}", bad_byte(line)
        label, _, text = line.partition(" ")
        yield Reject(place, reason) if reason else Record(place, {"label": label, "text": text})


def read_pairs(path: Path) -> Iterator[Record | Reject]:
    """Lines of label, premise and hypothesis."""
    return read_tsv(path, PAIR, PAIR)


@dataclass(frozen=True)
class Sample:
    """One file: how its lines are read, its labels, and what stands for a line break in it."""

    read: Callable[[Path], Iterator[Record | Reject]]
    names: dict[str, str]
    line_break: str | None = None


FILES = {
    "mr": Sample(read_single, numbered("mr")),
    "imdb": Sample(read_single, numbered("imdb")),
    "yelp": Sample(read_single, numbered("yelp"), "\\n"),
    "ag": Sample(read_single, numbered("agnews")),
    "snli": Sample(read_pairs, INFERENCE),
    "mnli": Sample(read_pairs, INFERENCE),
    "mnli_matched": Sample(read_pairs, INFERENCE),
    "mnli_mismatched": Sample(read_pairs, INFERENCE),
}


def rows_of(name: str, path: Path) -> Items:
    """The rows of one file."""
    sample = FILES[name]

    def convert(record: Record) -> Row:
        row = {key: text_of(record.fields, key) for key in PAIR[1:] if key in record.fields}
        return row | {"label": label_of(record.fields, "label", sample.names)}

    rows = accept(sample.read(path), convert)
    return rows if sample.line_break is None else spaced(rows, sample.line_break)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `mtrobust prep textfooler`."""
    add_raw_and_out(parser, f"folder with {', '.join(FILES)}")


def run(args: argparse.Namespace) -> int:
    """Writes `<out>/textfooler_<file>/test.jsonl` for every file that is there."""
    folder = existing_folder(args.raw, "--raw")
    found = {name: folder / name for name in FILES if (folder / name).is_file()}
    if not found:
        raise UserError(f"--raw: {folder}: none of {', '.join(FILES)} found")
    writable_folder(args.out)
    for name, path in found.items():
        write_task(args.out, f"textfooler_{name}", {"test": rows_of(name, path)})
    return 0
