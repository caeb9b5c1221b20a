"""Task folders made from other task folders: new rows in one split, the other splits copied byte for byte."""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from mtrobust.errors import RunError, UserError
from mtrobust.files import folder_faults

from .common import Record, Reject, Row, RowFault, accept, name_faults
from .readers import read_jsonl

ENDINGS = (".jsonl", ".jsonl.gz")
COPIED = (*ENDINGS, ".json", ".tsv")


@dataclass(frozen=True)
class Origin:
    """The split that gets new rows: its file, the folder it stands in, and the task folder that is made."""

    file: Path
    split: str
    out: Path
    task: str

    @property
    def target(self) -> Path:
        """The new task folder."""
        return self.out / self.task

    def rows(self) -> Iterator[Row | Reject]:
        """The rows as they stand, each with an id and the column `source`; a line that is no row is a `Reject`."""
        return accept(read_jsonl(self.file, ()), _original)

    def ids(self) -> set[str]:
        """The ids of the rows, among which new ones have to find a place."""
        return {row["id"] for row in self.rows() if not isinstance(row, Reject)}

    def others(self) -> list[Path]:
        """The files of the other splits."""
        files = [path for path in sorted(self.file.parent.iterdir()) if path.is_file() and path.name.endswith(COPIED)]
        return [path for path in files if path != self.file and not path.name.endswith(".rejects.jsonl")]

    def copy_others(self) -> None:
        """Copies the files of the other splits, each under a temporary name first. Raises `RunError`."""
        for path in self.others():
            temporary = self.target / f".{path.name}.{os.getpid()}.tmp"
            try:
                self.target.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, temporary)
                os.replace(temporary, self.target / path.name)
            except OSError as error:
                raise RunError(f"{self.target / path.name}: cannot be written ({error.strerror})") from error
            finally:
                temporary.unlink(missing_ok=True)
        if self.others():
            print(f"{self.task}: copied unchanged: {', '.join(path.name for path in self.others())}")


def fresh_ids(stem: str, taken: set[str], first: str = "1") -> Iterator[str]:
    """Ids for new rows, `stem` with `first`, 2, 3, ... behind it, without those that are taken: rows may have been made
    from these rows before."""
    for number in count(1):
        name = f"{stem}{number if number > 1 else first}"
        if name not in taken:
            taken.add(name)
            yield name


def _original(record: Record) -> Row:
    """A row of the split. Rows without an id are called after their line, as they are when they are trained on."""
    given = record.fields.get("id")
    if given is not None and (not isinstance(given, str | int) or isinstance(given, bool) or given == ""):
        raise RowFault(f"id: expected text, got {given!r}")
    name = f"line-{record.place.rpartition(':')[2]}" if given is None else str(given)
    return {"source": "original"} | record.fields | {"id": name}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that name the rows and the new folder."""
    parser.add_argument("--rows", type=Path, required=True, help="folder of the task's rows (such as data/mr)")
    parser.add_argument("--split", default="train", help="split that gets the new rows; default: train")
    parser.add_argument("--out", type=Path, required=True, help="data folder that gets <task>/<split>.jsonl")
    parser.add_argument("--task", help="name of the new task folder; default: that of --rows")


def origin(args: argparse.Namespace) -> tuple[Origin | None, list[str]]:
    """The split named by the options, or None, and every fault of them."""
    task = args.rows.resolve().name if args.task is None else args.task
    faults = name_faults(task) + name_faults(args.split, "--split", "split")
    if not args.rows.is_dir():
        return None, [*faults, f"--rows: {args.rows} is not a folder"]
    found = [path for path in (args.rows / f"{args.split}{ending}" for ending in ENDINGS) if path.is_file()]
    if len(found) != 1:
        there = ", ".join(sorted(path.name for path in args.rows.iterdir() if path.name.endswith(ENDINGS))) or "nothing"
        problem = "several files" if found else "no file"
        names = " or ".join(f"{args.split}{ending}" for ending in ENDINGS)
        return None, [*faults, f"--rows: {args.rows}: {problem} {names} (there: {there})"]
    made = Origin(found[0], args.split, args.out, task)
    if made.target.exists() and made.target.samefile(args.rows):
        faults.append(f"--out: {made.target} holds the rows themselves; name another folder or --task")
    faults += folder_faults("--out", made.target)
    return (None, faults) if faults else (made, [])


def checked(args: argparse.Namespace, faults: list[str]) -> Origin:
    """The split named by the options. Raises `UserError` with its faults and the given ones."""
    found, own = origin(args)
    if found is None or faults:
        raise UserError([*own, *faults])
    return found
