"""What every preparation command shares: rows and rejects, checks of fields and folders, atomic writing."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mtrobust.errors import RunError, UserError
from mtrobust.files import folder_faults

Row = dict[str, Any]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


class RowFault(ValueError):
    """Why one raw row cannot be used; the place is added by `collect`."""


@dataclass(frozen=True)
class Record:
    """One raw row: where it stands (`file:line`) and its named fields."""

    place: str
    fields: dict[str, Any]


@dataclass(frozen=True)
class Reject:
    """A raw row that was not taken over, and why."""

    place: str
    reason: str


@dataclass
class Split:
    """The accepted rows of a split, in file order, and the rejected ones."""

    rows: list[Row] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)

    def __iter__(self) -> Iterator[Row | Reject]:
        yield from self.rows
        yield from self.rejects


Items = Iterable[Row | Reject]  # what becomes the files of a split: a stream, or a `Split`


def accept(records: Iterable[Record | Reject], convert: Callable[[Record], Row]) -> Iterator[Row | Reject]:
    """Converts record after record; one whose conversion raises `RowFault`, or whose id was seen before, is a reject.

    A row without "id" gets its position in the file, counted from 0 over all records, rejected ones included. Of the
    rows that went by only the ids and their places are kept.
    """
    places: dict[str, str] = {}
    for position, record in enumerate(records):
        if isinstance(record, Reject):
            yield record
            continue
        try:
            row = {"id": str(position)} | convert(record)
            json.dumps(row, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            yield Reject(record.place, "a lone surrogate (\\ud800 to \\udfff) is no letter")
            continue
        except RowFault as fault:
            yield Reject(record.place, str(fault).encode(errors="backslashreplace").decode())
            continue
        earlier = places.setdefault(row["id"], record.place)
        if earlier is not record.place:
            yield Reject(record.place, f"id: '{row['id']}' is already used at {earlier}")
            continue
        yield row


def collect(records: Iterable[Record | Reject], convert: Callable[[Record], Row]) -> Split:
    """All of `accept` at once, for those who need the rows in memory."""
    split = Split()
    for item in accept(records, convert):
        if isinstance(item, Reject):
            split.rejects.append(item)
        else:
            split.rows.append(item)
    return split


def text_of(fields: dict[str, Any], name: str) -> str:
    """The stripped text of a field. Raises `RowFault` when it is missing, no string, or empty."""
    value = fields.get(name)
    if not isinstance(value, str):
        raise RowFault(f"{name}: expected text, got {value!r}")
    if not value.strip():
        raise RowFault(f"{name}: the text is empty")
    return value.strip()


def label_of(fields: dict[str, Any], name: str, names: dict[str, str]) -> str:
    """The label name of a raw value. Raises `RowFault` naming the allowed raw values."""
    raw = str(fields.get(name, "")).strip()
    if raw not in names:
        raise RowFault(f"{name}: unknown label '{raw}' (allowed: {', '.join(names)})")
    return names[raw]


def score_of(fields: dict[str, Any], name: str, low: float, high: float) -> float:
    """A finite number in [low, high]. Raises `RowFault` otherwise."""
    raw = fields.get(name, "")
    try:
        score = float(raw)
    except (TypeError, ValueError):
        raise RowFault(f"{name}: '{raw}' is not a number") from None
    if not low <= score <= high:
        raise RowFault(f"{name}: {raw} is outside {low:g} to {high:g}")
    return score


def add_raw_and_out(parser: argparse.ArgumentParser, raw: str) -> None:
    """The two options that most commands have."""
    parser.add_argument("--raw", type=Path, required=True, help=raw)
    parser.add_argument("--out", type=Path, required=True, help="folder that gets <task>/<split>.jsonl")


def name_faults(name: str, flag: str = "--task", what: str = "task") -> list[str]:
    """The fault, if there is one, of a name that becomes a folder or a file below `--out`."""
    return [] if _NAME.fullmatch(name) else [f"{flag}: {name!r}: a {what}'s name is made of letters, digits, - and _"]


def existing_folder(path: Path, flag: str) -> Path:
    """The folder itself. Raises `UserError` when there is none."""
    if not path.is_dir():
        raise UserError(f"{flag}: {path} is not a folder")
    return path


def writable_folder(path: Path, flag: str = "--out") -> Path:
    """The folder itself, made if need be. Raises `UserError` when that, or writing into it, is not possible."""
    if faults := folder_faults(flag, path):
        raise UserError(faults)
    path.mkdir(parents=True, exist_ok=True)
    return path


def write_atomically(path: Path, chunks: Iterable[str]) -> None:
    """Writes UTF-8 text under a temporary name in the same folder, syncs it to disk and renames it.

    Raises `RunError` when the disk refuses; the earlier file, if any, is then still whole.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "w", encoding="utf-8", newline="\n") as file:
            file.writelines(chunks)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise RunError(f"{path}: cannot be written ({error.strerror})") from error
    finally:
        temporary.unlink(missing_ok=True)


def json_lines(items: Iterable[dict[str, Any]]) -> Iterator[str]:
    """One JSON object a line, non-ASCII letters as they are."""
    for item in items:
        yield json.dumps(item, ensure_ascii=False) + "\n"


def stable_share(text: str) -> float:
    """A number in [0, 1) that depends on the text alone: rows below a share form a fixed, order-free subset."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64
