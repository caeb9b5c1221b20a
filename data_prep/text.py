"""Plain text to unlabelled rows, for masked language modelling: one paragraph a line, or text fields of other rows."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mtrobust.errors import UserError

from .common import Record, Reject, Row, RowFault, Split, collect, name_faults, stable_share, text_of, writable_folder
from .readers import bad_byte, open_raw, read_jsonl
from .writing import write_task

HELP = "plain text (one paragraph a line), or text fields of prepared rows, to rows without labels"
FIELDS = ("text", "text_pair", "question", "context")
DEV_SHARE = 0.05
_HEADING = re.compile(r"=( =)* .*\S.* =( =)*")  # WikiText's ` = Title = ` and ` = = Section = = `


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `mtrobust prep text`."""
    parser.add_argument("--file", type=Path, nargs="+", default=[], help="plain text in UTF-8, one paragraph a line")
    parser.add_argument(
        "--rows", type=Path, nargs="+", default=[], metavar="FILE.jsonl",
        help=f"rows of any task (such as mr/train.jsonl): each of {', '.join(FIELDS)} makes a row; labels are left out",
    )  # fmt: skip
    parser.add_argument("--dev_file", type=Path, nargs="+", default=[], help="text or .jsonl for dev, all of it")
    parser.add_argument(
        "--dev_fraction", type=float, help=f"share of the rows for dev, without --dev_file; default {DEV_SHARE}"
    )
    parser.add_argument("--headings", choices=["skip", "keep"], default="skip", help="lines as ` = Title = `")
    parser.add_argument("--task", default="mlm", help="name of the output folder; default: mlm")
    parser.add_argument("--out", type=Path, required=True, help="folder that gets <task>/<split>.jsonl")


@dataclass
class Read:
    """Where the rows of a split come from, and what was passed over on the way."""

    files: list[Path]
    headings: bool
    lines: int = 0
    blank: int = 0
    left: int = 0  # headings
    repeated: int = 0  # fields of rows that came before (a context has many questions)
    names: dict[str, int] = field(default_factory=dict)

    def records(self) -> Iterator[Record | Reject]:
        """A record for each text of all files; its id tells the file and the line."""
        for path in self.files:
            name = self._name(path)
            yield from self._rows(path, name) if path.suffix == ".jsonl" else self._paragraphs(path, name)

    def _name(self, path: Path) -> str:
        """What ids of the file begin with: its name, numbered where another one had it."""
        self.names[path.stem] = self.names.get(path.stem, 0) + 1
        return path.stem if self.names[path.stem] == 1 else f"{path.stem}.{self.names[path.stem]}"

    def _paragraphs(self, path: Path, name: str) -> Iterator[Record | Reject]:
        with open_raw(path) as file:
            for number, line in enumerate(file, start=1):
                self.lines += 1
                text, reason = line.strip(), bad_byte(line)
                if not text:
                    self.blank += 1
                elif reason:
                    yield Reject(f"{path}:{number}", reason)
                elif _HEADING.fullmatch(text) and not self.headings:
                    self.left += 1
                else:
                    yield Record(f"{path}:{number}", {"id": f"{name}-{number}", "text": text})

    def _rows(self, path: Path, name: str) -> Iterator[Record | Reject]:
        seen = set()
        for record in read_jsonl(path, ()):
            self.lines += 1
            if isinstance(record, Reject):
                yield record
                continue
            number, fields = record.place.rpartition(":")[2], record.fields
            found = [key for key in FIELDS if fields.get(key) is not None]
            if not found:
                yield Reject(record.place, f"none of {', '.join(FIELDS)}")
            for key in found:
                if isinstance(fields[key], str):
                    if fields[key] in seen:
                        self.repeated += 1
                        continue
                    seen.add(fields[key])
                yield Record(record.place, {"id": f"{name}-{number}-{key}", "text": fields[key]})

    def split(self) -> Split:
        """The rows of all files."""
        return collect(self.records(), _row)

    def told(self) -> str:
        """What was read and what was passed over, in one line."""
        passed = f"{self.blank} blank lines, {self.left} headings, {self.repeated} repeated fields"
        return f"{self.lines} lines of {len(self.files)} files; passed over: {passed}"


def _row(record: Record) -> Row:
    if not isinstance(record.fields["text"], str):
        raise RowFault(f"expected text, got {record.fields['text']!r:.60}")
    return {"id": record.fields["id"], "text": text_of(record.fields, "text")}


def check_arguments(args: argparse.Namespace) -> None:
    """Raises `UserError` with every fault of the flags that can be seen before reading."""
    faults = [] if args.file or args.rows else ["--file: name at least one text file (or rows by --rows)"]
    for flag in ("file", "rows", "dev_file"):
        faults += [f"--{flag}: no file {path}" for path in getattr(args, flag) if not path.is_file()]
    faults += [f"--rows: {path}: expected a .jsonl file" for path in args.rows if path.suffix != ".jsonl"]
    faults += [f"--file: {path}: rows are given by --rows" for path in args.file if path.suffix == ".jsonl"]
    if args.dev_file and args.dev_fraction is not None:
        faults.append("--dev_fraction: not together with --dev_file")
    if args.dev_fraction is not None and not 0 < args.dev_fraction < 1:
        faults.append(f"--dev_fraction: {args.dev_fraction} is outside 0 to 1 (both excluded)")
    faults += name_faults(args.task)
    if faults:
        raise UserError(faults)


def run(args: argparse.Namespace) -> int:
    """Writes train and dev rows."""
    check_arguments(args)
    train = Read([*args.file, *args.rows], args.headings == "keep")
    splits, told = {"train": train.split()}, {"train": train}
    if args.dev_file:
        told["dev"] = Read(args.dev_file, args.headings == "keep")
        splits["dev"] = told["dev"].split()
    else:
        splits |= _cut(splits["train"], args.dev_fraction or DEV_SHARE)
    writable_folder(args.out)
    write_task(args.out, args.task, splits)
    for name, read in told.items():
        print(f"{args.task} {name}: {read.told()}")
    if not args.dev_file:
        print(f"{args.task} dev: paragraphs of the same files; a file of its own (--dev_file) is a stricter measure")
    print(f"\nA task definition for these rows:\n\n{definition(args.task)}")
    return 0


def _cut(train: Split, share: float) -> dict[str, Split]:
    """Train and dev by a hash of each text: fixed, and equal texts stay on one side.

    Raises `UserError` when one of them gets nothing of what there is.
    """
    # Not the hash that other commands cut by: of rows that they left in train it would take none.
    inside = [stable_share(f"text {row['text']}") < share for row in train.rows]
    splits = {
        "train": Split([row for row, dev in zip(train.rows, inside, strict=True) if not dev], train.rejects),
        "dev": Split([row for row, dev in zip(train.rows, inside, strict=True) if dev]),
    }
    for name, split in splits.items():
        if train.rows and not split.rows:
            raise UserError(f"--dev_fraction: {share} of {len(train.rows)} rows leaves {name} empty; give a --dev_file")
    return splits


def definition(task: str) -> str:
    """The task definition that fits the rows."""
    lines = ["task_type: MaskLM", "data_format: MLM", "metric_meta: [MaskAcc, PPL]", "split_names: [train, dev]"]
    return "\n".join([f"{task}:", *(f"  {line}" for line in lines)])
