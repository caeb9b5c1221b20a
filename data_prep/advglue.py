"""AdvGLUE (Wang et al. 2021): its public dev set, one JSON object of task -> list of rows.

Label numbers are those of GLUE's copies on the hub. A row keeps how it was made (`method`, `data_construction`) and the
texts before the attack (`original_...`).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtrobust.errors import UserError

from .common import Record, Reject, Row, accept, add_raw_and_out, existing_folder, label_of, text_of, writable_folder
from .labels import INFERENCE, numbered
from .readers import read_json_file
from .writing import write_task

HELP = "AdvGLUE's dev set (dev_ann.json): adversarial versions of SST-2, QQP, MNLI, QNLI, RTE"
FILES = ("dev_ann.json", "dev.json")
KEPT = ("method", "data_construction")


@dataclass(frozen=True)
class Part:
    """One task of the file: our folder, its text columns, its label numbers."""

    task: str
    texts: tuple[str, ...]
    names: dict[str, str]


_NLI = {number: INFERENCE[number] for number in "012"}
_ENTAILMENT = {"0": "entailment", "1": "not_entailment"}
PARTS = {
    "sst2": Part("advglue_sst2", ("sentence",), numbered("sst2")),
    "qqp": Part("advglue_qqp", ("question1", "question2"), numbered("qqp")),
    "mnli": Part("advglue_mnli", ("premise", "hypothesis"), _NLI),
    "mnli-mm": Part("advglue_mnli_mm", ("premise", "hypothesis"), _NLI),
    "qnli": Part("advglue_qnli", ("question", "sentence"), _ENTAILMENT),
    "rte": Part("advglue_rte", ("sentence1", "sentence2"), _ENTAILMENT),
}


def convert(record: Record, part: Part) -> Row:
    """One row of a part. Raises `RowFault`."""
    fields = record.fields
    row: Row = dict(zip(("text", "text_pair"), (text_of(fields, name) for name in part.texts), strict=False))
    row["label"] = label_of(fields, "label", part.names)
    row |= {name: fields[name] for name in KEPT if isinstance(fields.get(name), str)}
    for key, name in zip(("text", "text_pair"), part.texts, strict=False):
        before = fields.get(f"original_{name}")
        if isinstance(before, str) and before.strip():
            row[f"original_{key}"] = before.strip()
    return row


def records(path: Path, name: str, rows: list[Any]) -> Iterator[Record | Reject]:
    """The entries of one list of the file."""
    for i, fields in enumerate(rows):
        place = f"{path}: {name}[{i}]"
        yield Record(place, fields) if isinstance(fields, dict) else Reject(place, "expected an object")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `mtrobust prep advglue`."""
    add_raw_and_out(parser, f"folder with {' or '.join(FILES)}")


def run(args: argparse.Namespace) -> int:
    """Writes `<out>/advglue_<task>/dev.jsonl` for every task of the file."""
    folder = existing_folder(args.raw, "--raw")
    path = next((folder / name for name in FILES if (folder / name).is_file()), None)
    if path is None:
        raise UserError(f"--raw: {folder}: none of {', '.join(FILES)} found")
    document = read_json_file(path)
    if not isinstance(document, dict) or not all(isinstance(rows, list) for rows in document.values()):
        raise UserError(f"{path}: expected a JSON object of task -> list of rows")
    known = [name for name in PARTS if name in document]
    if not known:
        raise UserError(f"{path}: none of the tasks {', '.join(PARTS)} (found: {', '.join(document)})")
    for name in document:
        if name not in PARTS:
            print(f"left out, the task is not known: {name}")
    writable_folder(args.out)
    for name in known:
        part = PARTS[name]
        rows = accept(records(path, name, document[name]), lambda record: convert(record, part))  # noqa: B023
        write_task(args.out, part.task, {"dev": rows})
    return 0
