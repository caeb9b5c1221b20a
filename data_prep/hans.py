"""HANS (McCoy et al. 2019): sentence pairs on which shallow heuristics of entailment models go wrong.

The official evaluation and training sets and what the set's own generator prints have the same columns, tab-separated
without quoting. A row keeps `heuristic`, `subcase` and `template`, by which results are grouped; its id is the pairID.
Labels: entailment, non-entailment.
"""

from __future__ import annotations

import argparse

from mtrobust.errors import UserError

from .common import (
    Items,
    Record,
    Row,
    RowFault,
    accept,
    add_raw_and_out,
    existing_folder,
    label_of,
    text_of,
    writable_folder,
)
from .labels import HANS
from .readers import read_tsv
from .writing import write_task

HELP = "HANS: the official files or the generator's output, with heuristic, subcase and template of every pair"
FILES = {  # the first that is there becomes the split
    "train": ("heuristics_train_set.txt",),
    "dev": ("heuristics_evaluation_set.txt", "heuristics_generated.txt"),
}
KEPT = ("heuristic", "subcase", "template")


def convert(record: Record) -> Row:
    """A pair with its groups. Raises `RowFault`."""
    fields = record.fields
    if not fields["pairID"].strip():
        raise RowFault("pairID: is empty")
    row: Row = {"id": fields["pairID"].strip()}
    row |= {"text": text_of(fields, "sentence1"), "text_pair": text_of(fields, "sentence2")}
    row["label"] = label_of(fields, "gold_label", {name: name for name in HANS})
    return row | {name: text_of(fields, name) for name in KEPT}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `mtrobust prep hans`."""
    add_raw_and_out(parser, f"folder with {' or '.join(FILES['dev'])}, and {FILES['train'][0]} where you have it")


def run(args: argparse.Namespace) -> int:
    """Writes `<out>/hans/dev.jsonl`, and `train.jsonl` where the training set is there."""
    folder = existing_folder(args.raw, "--raw")
    splits: dict[str, Items] = {}
    for split, names in FILES.items():
        found = [folder / name for name in names if (folder / name).is_file()]
        if found:
            print(f"hans: {split} from {found[0].name}")
            needed = ("gold_label", "sentence1", "sentence2", "pairID", *KEPT)
            splits[split] = accept(read_tsv(found[0], needed), convert)
    if not splits:
        raise UserError(f"--raw: {folder}: none of {', '.join(sum(FILES.values(), ()))} found")
    write_task(writable_folder(args.out), "hans", splits)
    return 0
