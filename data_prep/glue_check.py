"""Whether a folder can be handed to the GLUE server: names, headers, labels, row counts and order of its files.

The official files are `index<TAB>prediction`, one line per row of the test set, numbered from 0. Sizes are those of the
official test sets.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mtrobust.errors import UserError

from .common import existing_folder
from .readers import bad_byte, open_raw

HELP = "checks a GLUE submission: file names, headers, labels, row counts, order"
HEADER = "index\tprediction"
SHOWN = 5  # faults of one file


@dataclass(frozen=True)
class Official:
    """A file of the submission: rows of its test set, and the predictions allowed; None: a number from 0 to 5."""

    rows: int
    labels: tuple[str, ...] | None


_BITS = ("0", "1")
_NLI = ("entailment", "neutral", "contradiction")
_ENTAILMENT = ("entailment", "not_entailment")
FILES = {
    "CoLA.tsv": Official(1063, _BITS),
    "SST-2.tsv": Official(1821, _BITS),
    "MRPC.tsv": Official(1725, _BITS),
    "STS-B.tsv": Official(1379, None),
    "QQP.tsv": Official(390965, _BITS),
    "MNLI-m.tsv": Official(9796, _NLI),
    "MNLI-mm.tsv": Official(9847, _NLI),
    "QNLI.tsv": Official(5463, _ENTAILMENT),
    "RTE.tsv": Official(3000, _ENTAILMENT),
    "WNLI.tsv": Official(146, _BITS),
    "AX.tsv": Official(1104, _NLI),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `mtrobust prep glue_check`."""
    parser.add_argument("folder", type=Path, help="folder of the submission's .tsv files")
    parser.add_argument("--partial", action="store_true", help="files may be missing (the server wants all eleven)")


def line_faults(path: Path, official: Official) -> Iterator[str]:
    """Every fault of one file, as `line: message`; the row count comes last."""
    rows = 0
    with open_raw(path) as file:
        if file.buffer.read(3) == b"\xef\xbb\xbf":
            yield "1: begins with a byte-order mark; write it without"
        file.seek(0)
        header = file.readline()
        if header.rstrip("\r\n") != HEADER:
            yield f"1: the header is {header.rstrip()!r:.60}; needed: 'index<TAB>prediction'"
        if header.endswith("\r\n"):
            yield "1: lines end in a carriage return; needed: a line feed alone"
        for number, line in enumerate(file, start=2):
            fault = _cell_fault(line.rstrip("\n").removesuffix("\r"), rows, official)
            rows += 1
            if fault:
                yield f"{number}: {fault}"
    if rows != official.rows:
        yield f"{rows + 1}: {rows} predictions; the official test set has {official.rows}"


def _cell_fault(line: str, index: int, official: Official) -> str | None:
    cells = line.split("\t")
    if bad_byte(line):
        return bad_byte(line)
    if len(cells) != 2:
        return f"{len(cells)} columns; needed: 2 (index, prediction)"
    if cells[0] != str(index):
        return f"index: {cells[0]!r:.30}; needed: {index} (rows in the order of the test set, from 0)"
    if official.labels is not None:
        allowed = ", ".join(official.labels)
        return None if cells[1] in official.labels else f"prediction: {cells[1]!r:.40} (allowed: {allowed})"
    try:
        score = float(cells[1])
    except ValueError:
        score = math.nan
    return None if 0 <= score <= 5 else f"prediction: {cells[1]!r:.40} (allowed: a number from 0 to 5)"


def file_faults(path: Path, official: Official) -> list[str]:
    """The first faults of one file, how many more there are, and always a wrong row count."""
    shown: list[str] = []
    more, last = 0, ""
    for fault in line_faults(path, official):
        if len(shown) < SHOWN:
            shown.append(fault)
        else:
            more, last = more + 1, fault
    if more and "official test set" in last:
        shown.append(last)
        more -= 1
    lines = [f"{path}:{fault}" for fault in shown]
    return [*lines, f"{path}: {more} further faults"] if more else lines


def folder_faults(folder: Path, partial: bool) -> list[str]:
    """Files that are missing or have other names than the official ones."""
    there = sorted(path.name for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    by_letters = {_letters(name): name for name in FILES}
    faults = []
    for name in there:
        if name not in FILES:
            meant = by_letters.get(_letters(name))
            hint = f" (did you mean {meant}?)" if meant else ""
            faults.append(f"{folder / name}: no file of a submission{hint}; they are {', '.join(FILES)}")
    missing = [name for name in FILES if name not in there]
    if missing and not partial:
        faults.append(f"{folder}: missing: {', '.join(missing)} (--partial checks the others alone)")
    if len(missing) == len(FILES):
        faults.append(f"{folder}: no file of a submission in it")
    return faults


def _letters(name: str) -> str:
    return "".join(character for character in name.lower() if character.isalnum())


def run(args: argparse.Namespace) -> int:
    """Prints the files and their rows. Raises `UserError` with every fault."""
    folder = existing_folder(args.folder, "folder")
    faults = folder_faults(folder, args.partial)
    sound = []
    for name, official in FILES.items():
        if (folder / name).is_file():
            found = file_faults(folder / name, official)
            faults += found
            sound += [] if found else [name]
    for name in sound:
        print(f"{name:<12} {FILES[name].rows:>7} predictions, no faults")
    if faults:
        raise UserError(faults)
    return 0
