"""Adversarial SQuAD (Jia and Liang 2017): AddSent and AddOneSent, in the official JSON of SQuAD v1.1.

A file holds original questions and copies of them with a distracting sentence added to the paragraph; the id of a copy
is the original's with a suffix (`-high-conf-turk1`). Rows are SQuAD rows with two more columns: `question_group`, the
id of the original question, and `adversarial`. The published score takes the worst result of each group (the copies of
a question and the question itself); the plain mean takes every row alike.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from mtrobust.errors import UserError

from .common import Items, Record, Reject, Row, accept, add_raw_and_out, existing_folder, writable_folder
from .squad import convert, questions
from .writing import write_task

HELP = "Adversarial SQuAD: AddSent and AddOneSent, with the original question of every adversarial one"
FILES = {  # file -> task
    "sample1k-HCVerifyAll.json": "addsent",
    "AddSent.json": "addsent",
    "sample1k-HCVerifySample.json": "addonesent",
    "AddOneSent.json": "addonesent",
}


def known_files(folder: Path, known: Mapping[str, str]) -> dict[str, Path]:
    """Task -> its file, of the known names that are there; others are named in a line of output.

    Raises `UserError` when there is none, or a task has two.
    """
    found: dict[str, Path] = {}
    faults = []
    for path in sorted(folder.glob("*.json")):
        if path.name not in known:
            print(f"left out, the name is not known: {path.name}")
        elif known[path.name] in found:
            faults.append(f"--raw: {path}: a copy of {found[known[path.name]].name}? keep one of them")
        else:
            found[known[path.name]] = path
    if not found:
        faults.append(f"--raw: {folder}: none of {', '.join(known)} found")
    if faults:
        raise UserError(faults)
    return found


def question(record: Record) -> Row:
    """A row of SQuAD with its group, both told by the id. Raises `RowFault`."""
    row = convert(record, unanswerable_allowed=False)
    original, dash, _ = row["id"].partition("-")
    return row | {"question_group": original, "adversarial": bool(dash)}


def counted(items: Items, seen: Counter[bool]) -> Iterator[Row | Reject]:
    """The same items; `seen` gets how many originals (False) and copies (True) went by."""
    for item in items:
        if not isinstance(item, Reject):
            seen[item["adversarial"]] += 1
        yield item


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `mtrobust prep squad_adversarial`."""
    add_raw_and_out(parser, f"folder with {', '.join(FILES)}")


def run(args: argparse.Namespace) -> int:
    """Writes `addsent` and `addonesent`, whichever is there."""
    found = known_files(existing_folder(args.raw, "--raw"), FILES)
    writable_folder(args.out)
    for task, path in found.items():
        seen: Counter[bool] = Counter()
        write_task(args.out, task, {"dev": counted(accept(questions(path), question), seen)})
        print(f"{task}: {seen[False]} original questions, {seen[True]} adversarial copies")
    return 0
