"""Adversarial data augmentation: the training rows, and beside them the texts with which an attack fooled a model.

The texts come from `mtrobust attack --split train`: JSON Lines with `id`, `label`, `success` (null where the model was
wrong before any change), `field` (the attacked one, `text` or `text_pair`), `adversarial` (its new text) and the texts
before the attack. Each success becomes a copy of its training row with the new text, the same label, an id that ends in
`-adv`, `-adv2`, ... (the first that no row has), and `source: adversarial`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mtrobust.errors import UserError

from . import derived
from .common import Record, Reject, Row, RowFault, text_of, writable_folder
from .readers import read_jsonl
from .writing import write_task

HELP = "training rows plus the successful adversarial texts of `mtrobust attack --split train`"
FIELDS = ("text", "text_pair")
NEEDED = ("id", "success", "field", "adversarial")


@dataclass
class Attacks:
    """The successful attacks by the id of their row; how many failed, or had no right answer to change."""

    by_id: dict[str, list[Record]] = field(default_factory=dict)
    rejects: list[Reject] = field(default_factory=list)
    failed: int = 0
    wrong: int = 0
    added: int = 0

    def read(self, path: Path) -> None:
        """Takes the lines of a file; what is no attack becomes a reject."""
        for item in read_jsonl(path, NEEDED):
            if isinstance(item, Reject):
                self.rejects.append(item)
            elif item.fields["success"] is False:
                self.failed += 1
            elif item.fields["success"] is None:  # the model was wrong before any change
                self.wrong += 1
            elif item.fields["success"] is not True or not isinstance(item.fields["id"], str | int):
                self.rejects.append(Reject(item.place, "success: expected true, false or null, and an id"))
            else:
                self.by_id.setdefault(str(item.fields["id"]), []).append(item)

    def applied(self, origin: derived.Origin) -> Iterator[Row | Reject]:
        """Every row of the split, followed by its adversarial copies."""
        yield from self.rejects
        taken = origin.ids()
        for row in origin.rows():
            yield row
            if isinstance(row, Reject):
                continue
            ids = derived.fresh_ids(f"{row['id']}-adv", taken, first="")
            for attack in self.by_id.pop(row["id"], ()):
                try:
                    made = adversarial(row, attack.fields)
                except RowFault as fault:
                    yield Reject(attack.place, str(fault))
                    continue
                yield made | {"id": next(ids)}
                self.added += 1
        for attack in (attack for attacks in self.by_id.values() for attack in attacks):
            yield Reject(attack.place, f"id: '{attack.fields['id']}' is no row of {origin.file}")
        if not self.added:
            raise UserError("--adversarial: no successful attack on a row of the split; nothing to add")


def adversarial(row: Row, attack: dict[str, Any]) -> Row:
    """The row with its adversarial text. Raises `RowFault` where the attack was on another text or label."""
    name = attack["field"]
    if name not in FIELDS or not isinstance(row.get(name), str):
        there = ", ".join(key for key in FIELDS if key in row)
        raise RowFault(f"field: {name!r}: the row has {there or 'no text'}")
    text = text_of(attack, "adversarial")
    for key in FIELDS:
        if isinstance(attack.get(key), str) and attack[key].strip() != str(row.get(key) or "").strip():
            raise RowFault(f"{key}: differs from the text of row '{row['id']}'; was another file attacked?")
    if isinstance(attack.get("label"), str) and isinstance(row.get("label"), str) and attack["label"] != row["label"]:
        raise RowFault(f"label: '{attack['label']}' is not '{row['label']}' of row '{row['id']}'")
    if row.get("label") is None:
        raise RowFault(f"label: row '{row['id']}' has none")
    if text == row[name].strip():
        raise RowFault("adversarial: is the original text")
    return row | {name: text, "source": "adversarial"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `mtrobust prep augment`."""
    derived.add_arguments(parser)
    parser.add_argument(
        "--adversarial", type=Path, nargs="+", required=True, metavar="FILE.jsonl", help="what the attack wrote"
    )


def run(args: argparse.Namespace) -> int:
    """Writes the new task folder."""
    faults = [f"--adversarial: no file {path}" for path in args.adversarial if not path.is_file()]
    origin = derived.checked(args, faults)
    attacks = Attacks()
    for path in args.adversarial:
        attacks.read(path)
    writable_folder(args.out)
    others = {path.name.split(".")[0] for path in origin.others()}
    write_task(args.out, origin.task, {origin.split: attacks.applied(origin)}, others)
    origin.copy_others()
    others_told = f"{attacks.failed} attacks had failed, {attacks.wrong} rows were wrong before"
    print(f"{origin.task}: {attacks.added} adversarial rows added; {others_told}")
    return 0
