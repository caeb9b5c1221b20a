"""Readers of raw files. Each yields a `Record` per row, or a `Reject` for a row that cannot be read, with its line.

Lines end at \\n only: a text may hold U+0085, U+2028 or a lone \\r. Bytes that are no UTF-8 spoil their own row, not
the file. Readers raise `UserError` when the file cannot be opened or lacks a needed column.
"""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, TextIO, cast

from mtrobust.errors import UserError

from .common import Record, Reject

LONGEST_FIELD = 1 << 24  # characters of one CSV field; the csv module stops at 131072 by default


def open_raw(path: Path, newline: str = "\n") -> TextIO:
    """Opens UTF-8 text, also gzipped (`.gz`); a BOM is dropped.

    Undecodable bytes become lone surrogates, found later by `bad_byte`.
    """
    try:
        if path.suffix == ".gz":
            return cast(TextIO, gzip.open(path, "rt", encoding="utf-8-sig", errors="surrogateescape", newline=newline))
        return open(path, encoding="utf-8-sig", errors="surrogateescape", newline=newline)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def bad_byte(text: str) -> str | None:
    """The reason to reject a text that was not UTF-8, naming its first bad byte; None for sound text."""
    if text.isascii():
        return None
    for position, character in enumerate(text):
        if "\udc80" <= character <= "\udcff":
            return f"not UTF-8: byte 0x{ord(character) - 0xDC00:02x} at character {position + 1}"
    return None


def _need(path: Path, header: Sequence[str], needed: Sequence[str]) -> None:
    """Raises `UserError` where a needed column is not there, or not to be told from another one."""
    missing = [name for name in needed if name not in header]
    faults = [f"{path}:1: no column {', '.join(missing)} (found: {', '.join(header)})"] if missing else []
    twice = [name for name in dict.fromkeys(needed) if header.count(name) > 1]
    faults += [
        f"{path}:1: column {name}: {header.count(name)} columns have this name; rename all but one" for name in twice
    ]
    if faults:
        raise UserError(faults)


def _record(place: str, header: Sequence[str], values: list[str]) -> Record | Reject:
    if len(values) != len(header):
        return Reject(place, f"{len(values)} columns where {len(header)} are expected")
    for name, value in zip(header, values, strict=True):
        reason = bad_byte(value)
        if reason:
            return Reject(place, f"{name}: {reason}")
    return Record(place, dict(zip(header, values, strict=True)))


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(line number from 1, line without its end) of every line that is not empty. Raises `UserError` for a gzip file
    that is none, or is cut off."""
    number = 0
    with open_raw(path) as file:
        try:
            for number, line in enumerate(file, start=1):
                stripped = line.rstrip("\n").removesuffix("\r")
                if stripped:
                    yield number, stripped
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise UserError(f"{path}:{number + 1}: the gzip file is damaged or cut off here ({error})") from error


def read_tsv(
    path: Path, needed: Sequence[str], header: Sequence[str] | None = None, optional: str | None = None
) -> Iterator[Record | Reject]:
    """Tab-separated rows without any quoting; `header` names the columns of a file that has no header line.

    optional: columns at the end whose names begin with this may be missing in a row; they are then empty.
    """
    for number, line in read_lines(path):
        values = line.split("\t")
        if header is None:
            header = values
            _need(path, header, needed)
            continue
        missing = header[len(values) :]
        if optional is not None and all(name.startswith(optional) for name in missing):
            values += [""] * len(missing)
        yield _record(f"{path}:{number}", header, values)


def read_csv(path: Path, needed: Sequence[str], header: Sequence[str] | None = None) -> Iterator[Record | Reject]:
    """Comma-separated rows with double quotes; a quoted field may run over several lines (the first one is named)."""
    csv.field_size_limit(LONGEST_FIELD)
    with open_raw(path, newline="") as file:
        reader = csv.reader(file)
        while True:
            place = f"{path}:{reader.line_num + 1}"
            try:
                values = next(reader, None)
            except csv.Error as error:
                yield Reject(place, str(error))
                continue
            if values is None:
                return
            if not values:
                continue
            if header is None:
                header = values
                _need(path, header, needed)
                continue
            yield _record(place, header, values)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number in JSON")


def parse_json(text: str) -> Any:
    """Strict JSON: NaN and Infinity are refused. Raises ValueError."""
    return json.loads(text, parse_constant=_refuse_constant)


def read_jsonl(path: Path, needed: Sequence[str]) -> Iterator[Record | Reject]:
    """One JSON object a line; a row without a needed key is rejected."""
    for number, line in read_lines(path):
        place = f"{path}:{number}"
        reason, fields = bad_byte(line), None
        try:
            fields = None if reason else parse_json(line)
        except (ValueError, RecursionError) as error:
            reason = f"not JSON: {error}"
        if reason is None and not isinstance(fields, dict):
            reason = "not a JSON object"
        missing = [name for name in needed if name not in fields] if isinstance(fields, dict) else []
        if missing:
            reason = f"{', '.join(missing)}: missing"
        yield Reject(place, reason) if reason else Record(place, fields)  # type: ignore[arg-type]


def read_json_file(path: Path) -> Any:
    """A whole JSON file. Raises `UserError` naming line and column of the first fault."""
    with open_raw(path) as file:
        text = file.read()
    reason = bad_byte(text)
    if reason:
        raise UserError(f"{path}: {reason}")
    try:
        return parse_json(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not JSON: {error.msg} at column {error.colno}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON: {error}") from error


def read_json_object(path: Path) -> Iterator[Record | Reject]:
    """The rows of one JSON object `{"0": {...}, "1": {...}}`. Raises `UserError` for anything else."""
    document = read_json_file(path)
    if not isinstance(document, dict):
        raise UserError(f"{path}: expected a JSON object of rows")
    for key, value in document.items():
        place = f"{path}: {key}"
        yield Record(place, value) if isinstance(value, dict) else Reject(place, "expected an object")


def read_by_suffix(path: Path, needed: Sequence[str]) -> Iterator[Record | Reject]:
    """TSV, CSV or JSON Lines by the file's suffix."""
    readers = {".tsv": read_tsv, ".csv": read_csv, ".jsonl": read_jsonl}
    if path.suffix not in readers:
        raise UserError(f"{path}: unknown kind of file '{path.suffix}' (allowed: {', '.join(readers)})")
    return readers[path.suffix](path, needed)
