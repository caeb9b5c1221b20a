"""What every preparation command shares: rows and rejects of a split, atomic writing, and the table of counts."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mtrobust.errors import RunError, UserError

Row = dict[str, Any]
SHOWN_REJECTS = 10


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


def collect(records: Iterable[Record | Reject], convert: Callable[[Record], Row]) -> Split:
    """Converts every record; one whose conversion raises `RowFault`, or whose id was seen before, becomes a reject.

    A row without "id" gets its position in the file, counted from 0 over all records, rejected ones included.
    """
    split = Split()
    places: dict[str, str] = {}
    for position, record in enumerate(records):
        if isinstance(record, Reject):
            split.rejects.append(record)
            continue
        try:
            row = {"id": str(position)} | convert(record)
            json.dumps(row, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            split.rejects.append(Reject(record.place, "a lone surrogate (\\ud800 to \\udfff) is no letter"))
            continue
        except RowFault as fault:
            split.rejects.append(Reject(record.place, str(fault).encode(errors="backslashreplace").decode()))
            continue
        if row["id"] in places:
            reason = f"id: '{row['id']}' is already used at {places[row['id']]}"
            split.rejects.append(Reject(record.place, reason))
            continue
        places[row["id"]] = record.place
        split.rows.append(row)
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


def existing_folder(path: Path, flag: str) -> Path:
    """The folder itself. Raises `UserError` when there is none."""
    if not path.is_dir():
        raise UserError(f"{flag}: {path} is not a folder")
    return path


def writable_folder(path: Path, flag: str = "--out") -> Path:
    """Makes the folder if need be. Raises `UserError` when that, or writing into it, is not possible."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return path
    except OSError as error:
        raise UserError(f"{flag}: cannot write to {path} ({error.strerror})") from error


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


def write_task(out: Path, task: str, splits: dict[str, Split]) -> None:
    """Writes `<out>/<task>/<split>.jsonl` (and `<split>.rejects.jsonl` where rows were rejected) and prints the counts.

    Raises `UserError`, before anything is written, when a split has no usable row at all.
    """
    empty = []
    for name, split in splits.items():
        first = "".join(f"; first: {reject.place}: {reject.reason}" for reject in split.rejects[:1])
        empty += [] if split.rows else [f"{task}: {name}: no usable row{first}"]
    if empty:
        raise UserError(empty)
    for name, split in splits.items():
        write_atomically(out / task / f"{name}.jsonl", json_lines(split.rows))
        rejects = out / task / f"{name}.rejects.jsonl"
        if split.rejects:
            write_atomically(rejects, json_lines({"place": r.place, "reason": r.reason} for r in split.rejects))
        else:
            rejects.unlink(missing_ok=True)  # left over from an earlier preparation
    old = sorted(path.name for path in (out / task).glob("*.jsonl") if path.name.split(".")[0] not in splits)
    if old:
        print(f"{task}: not written now, left from an earlier preparation: {', '.join(old)}")
    print_counts(task, splits)


def describe_labels(rows: list[Row]) -> str:
    """The label distribution in one line: counts and percent, the range of scores, or (un)answerable questions."""
    if "answers" in rows[0]:
        labels: list[Any] = ["answerable" if row["answers"]["text"] else "unanswerable" for row in rows]
    else:
        labels = [row.get("label") for row in rows]
    scores = [label for label in labels if isinstance(label, float)]
    if scores:
        mean = sum(scores) / len(scores)
        return f"min {min(scores):g}, mean {mean:.3f}, max {max(scores):g}"
    counts = Counter("unlabelled" if label is None else label for label in labels)
    return ", ".join(f"{name} {n} ({100 * n / len(rows):.1f} %)" for name, n in sorted(counts.items()))


def print_counts(task: str, splits: dict[str, Split]) -> None:
    """Prints one line a split (rows, rejected, labels) and the first rejected rows with their reasons."""
    for name, split in splits.items():
        counts = f"{len(split.rows):>8} rows {len(split.rejects):>5} rejected"
        print(f"{task:<14} {name:<16} {counts}   {describe_labels(split.rows)}")
    for name, split in splits.items():
        for reject in split.rejects[:SHOWN_REJECTS]:
            print(f"  rejected: {reject.place}: {reject.reason}")
        if len(split.rejects) > SHOWN_REJECTS:
            print(f"  ... and {len(split.rejects) - SHOWN_REJECTS} more in {task}/{name}.rejects.jsonl")


def stable_share(text: str) -> float:
    """A number in [0, 1) that depends on the text alone: rows below a share form a fixed, order-free subset."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64
