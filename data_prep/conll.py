"""Column files as of CoNLL: a word a line, its tag in another column, a blank line after each sentence.

A row: `{"id", "tokens", "tags"}`. Columns are separated by tabs or, in lines without any, by spaces. `-DOCSTART-` lines
and comments before a sentence (`# text = ...`, as CoNLL-U has them) are passed over. Chunk tags come out as BIO (IOB2):
the first word of a chunk has B, the others I. From IOB1 (B only between adjacent chunks of one name) and IOBES they are
converted; other tags stay as they are.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mtrobust.errors import UserError

from .common import Record, Reject, Row, RowFault, accept, existing_folder, name_faults, writable_folder
from .readers import bad_byte, open_raw
from .writing import write_task

HELP = "column files with a word and its tag a line (CoNLL-2003 and its kin): named entities, parts of speech"
FILES = {  # split -> names of its file
    "train": ("train.txt", "train.conll", "train.tsv", "eng.train"),
    "dev": ("dev.txt", "dev.conll", "dev.tsv", "valid.txt", "valid.conll", "devel.tsv", "eng.testa"),
    "test": ("test.txt", "test.conll", "test.tsv", "eng.testb"),
}
_CHUNK = re.compile(r"O|[BIES]-.+")
_COMMENT = re.compile(r"# [a-z_:]+( = .*)?$")


@dataclass
class Columns:
    """Where words and tags stand, and what was met. token, tag: numbers of columns from 0, negative from the end;
    chunks: whether tags are brought to BIO, None: where all of a file are chunk tags."""

    token: int = 0
    tag: int = -1
    chunks: bool | None = None
    changed: int = 0
    words: int = 0
    labels: Counter[str] = field(default_factory=Counter)


def to_bio(tags: Iterable[str]) -> list[str]:
    """Chunk tags of IOB1, BIO or IOBES as BIO. A tag that continues nothing begins a chunk."""
    made, before = [], ""  # before: name of the chunk that the last word is in and the next may continue
    for tag in tags:
        mark, _, name = tag.partition("-")
        begins = mark in ("B", "S") or name != before
        made.append("O" if tag == "O" else f"{'B' if begins else 'I'}-{name}")
        before = "" if tag == "O" or mark in ("E", "S") else name
    return made


def sentences(path: Path) -> Iterator[Record | Reject]:
    """The lines of each sentence as lists of columns, placed by their first line."""
    place, fault = "", ""
    lines: list[list[str]] = []
    with open_raw(path) as file:
        for number, line in enumerate(file, start=1):
            text = line.rstrip("\r\n")
            if text.startswith("-DOCSTART-") or (not lines and _COMMENT.match(text)):
                continue
            if text.strip():
                place = place or f"{path}:{number}"
                reason = bad_byte(text)
                fault = fault or (f"line {number}: {reason}" if reason else "")
                lines.append(text.split("\t") if "\t" in text else text.split())
            elif lines:
                yield Reject(place, fault) if fault else Record(place, {"lines": lines})
                place, lines, fault = "", [], ""
    if lines:  # the last sentence needs no blank line
        yield Reject(place, fault) if fault else Record(place, {"lines": lines})


def are_chunks(path: Path, columns: Columns) -> bool:
    """Whether every tag of a file is O or a chunk tag, and one is the latter."""
    found = set()
    for item in sentences(path):
        if isinstance(item, Record):
            found |= {line[columns.tag] for line in item.fields["lines"] if -len(line) <= columns.tag < len(line)}
    return bool(found - {"O"}) and all(map(_CHUNK.fullmatch, found))


def convert(record: Record, columns: Columns, chunks: bool) -> Row:
    """A sentence as a row. Raises `RowFault` for a line without one of the columns."""
    lines: list[list[str]] = record.fields["lines"]
    first = int(record.place.rpartition(":")[2])
    for line in lines:
        for what, column in (("token", columns.token), ("tag", columns.tag)):
            if not -len(line) <= column < len(line) or not line[column].strip():
                raise RowFault(f"line {' '.join(line)!r:.40}: {len(line)} columns, no {what} in column {column}")
        if columns.token % len(line) == columns.tag % len(line):
            raise RowFault(f"line {' '.join(line)!r:.40}: {len(line)} columns, token and tag are the same one")
    tags = [line[columns.tag].strip() for line in lines]
    if chunks:
        wrong = [tag for tag in tags if not _CHUNK.fullmatch(tag)]
        if wrong:
            raise RowFault(f"tag '{wrong[0]}': expected O, or B-, I-, E- or S- and a name")
        made = to_bio(tags)
        columns.changed += sum(a != b for a, b in zip(tags, made, strict=True))
        tags = made
    columns.words += len(tags)
    columns.labels.update(tags)
    return {"id": f"line-{first}", "tokens": [line[columns.token].strip() for line in lines], "tags": tags}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `mtrobust prep conll`."""
    names = "; ".join(f"{split}: {', '.join(files)}" for split, files in FILES.items())
    parser.add_argument("--raw", type=Path, help=f"folder with files of these names: {names}")
    for split in FILES:
        parser.add_argument(f"--{split}_file", type=Path, help=f"the file of {split}, where it has another name")
    parser.add_argument("--token_column", type=int, default=0, help="from 0, negative from the end; default: 0")
    parser.add_argument("--tag_column", type=int, default=-1, help="default: -1, the last one")
    parser.add_argument(
        "--tags", choices=["chunks", "plain"],
        help="chunks: to BIO; plain: as they are; default: by the tags of the first file",
    )  # fmt: skip
    parser.add_argument("--task", default="ner", help="name of the output folder; default: ner")
    parser.add_argument("--out", type=Path, required=True, help="folder that gets <task>/<split>.jsonl")


def input_files(args: argparse.Namespace) -> dict[str, Path]:
    """Split -> file. Raises `UserError` with every fault of the flags."""
    faults, files = name_faults(args.task), {}
    if args.raw is not None:
        existing_folder(args.raw, "--raw")
    for split, names in FILES.items():
        given = getattr(args, f"{split}_file")
        found = [args.raw / name for name in names if (args.raw / name).is_file()] if args.raw else []
        if given is not None and not given.is_file():
            faults.append(f"--{split}_file: no file {given}")
        elif given is None and len(found) > 1:
            there = ", ".join(path.name for path in found)
            faults.append(f"--raw: {split}: several files ({there}); name one: --{split}_file")
        elif given is not None or found:
            files[split] = given or found[0]
    if not files and not faults:
        faults.append("nothing to prepare: name files by --raw or --train_file, --dev_file, --test_file")
    if faults:
        raise UserError(faults)
    return files


def run(args: argparse.Namespace) -> int:
    """Writes `<out>/<task>/<split>.jsonl` for every file."""
    files = input_files(args)
    columns = Columns(args.token_column, args.tag_column)
    chunks = args.tags == "chunks" if args.tags else are_chunks(next(iter(files.values())), columns)
    writable_folder(args.out)
    write_task(
        args.out,
        args.task,
        {split: accept(sentences(path), lambda r: convert(r, columns, chunks)) for split, path in files.items()},
    )
    kind = f"chunks as BIO, {columns.changed} of {columns.words} tags changed" if chunks else "tags as they are"
    print(f"{args.task}: {kind}")
    print(f"\nA task definition for these rows:\n\n{definition(args.task, list(files), list(columns.labels), chunks)}")
    return 0


def definition(task: str, splits: list[str], labels: list[str], chunks: bool) -> str:
    """The task definition that fits the rows, `O` first."""
    names = ", ".join(quoted(label) for label in sorted(labels, key=lambda label: (label != "O", label)))
    lines = ["task_type: SequenceLabeling", "data_format: Sequence", f"labels: [{names}]"]
    lines += [f"metric_meta: [{'SeqEval, ACC' if chunks else 'ACC'}]", f"split_names: [{', '.join(splits)}]"]
    return "\n".join([f"{task}:", *(f"  {line}" for line in lines)])


def quoted(label: str) -> str:
    """A label as YAML reads it as text: punctuation and words such as `no` in quotes."""
    plain = re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", label)
    return label if plain and label.lower() not in ("y", "n", "yes", "no", "on", "off", "true", "false", "null") else (
        "'" + label.replace("'", "''") + "'"
    )
