"""The sample benchmark: five small English tasks made by our own grammar, learnable by a tiny encoder in a minute.

Writes `<out>/<task>/{train,dev,dev_shift,dev_adv}.jsonl`, `<out>/task_def.yml` and `<out>/corpus.txt` (for the
vocabulary of `mtrobust prep tiny_encoder`). The same seed gives the same bytes. No text of an evaluation split stands
in train.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from random import Random

from mtrobust.errors import UserError

from .common import Row, Split, writable_folder, write_atomically
from .sample_text import GENERATORS
from .sample_words import HOME, SHIFTED
from .writing import write_task

HELP = "the sample benchmark: five small generated tasks with in-domain, shifted and adversarial sets"
SPLITS = {"train": ("plain", HOME), "dev": ("plain", HOME), "dev_shift": ("shift", SHIFTED), "dev_adv": ("adv", HOME)}
TASK_DEF = """\
# Five small generated tasks. dev: as train; dev_shift: other words and sentence frames; dev_adv: traps.
sentiment:
  task_type: Classification
  data_format: PremiseOnly
  labels: [negative, positive]
  metric_meta: [ACC]
  split_names: [train, dev, dev_shift, dev_adv]
  max_len: 32
entailment:
  task_type: Classification
  data_format: PremiseAndOneHypothesis
  labels: [contradiction, neutral, entailment]
  metric_meta: [ACC]
  split_names: [train, dev, dev_shift, dev_adv]
  max_len: 48
similarity:
  task_type: Regression
  data_format: PremiseAndOneHypothesis
  metric_meta: [Pearson, Spearman]
  split_names: [train, dev, dev_shift, dev_adv]
  max_len: 48
acceptability:
  task_type: Classification
  data_format: PremiseOnly
  labels: [unacceptable, acceptable]
  metric_meta: [MCC, ACC]
  split_names: [train, dev, dev_shift, dev_adv]
  max_len: 32
questions:
  task_type: SpanClassification
  data_format: MRC
  metric_meta: [EmF1]
  split_names: [train, dev, dev_shift, dev_adv]
  max_len: 64
  doc_stride: 16
"""


def texts_of(row: Row) -> list[str]:
    """All texts of a row, in a fixed order."""
    return [row[key] for key in ("text", "text_pair", "question", "context") if key in row]


def make_task(name: str, seed: int, n_train: int, n_eval: int) -> dict[str, Split]:
    """All splits of one task. Every split has its own random source, so that its rows do not depend on other sizes.

    Raises `UserError` when the grammar cannot give that many different rows.
    """
    splits: dict[str, Split] = {}
    seen: set[str] = set()
    for split, (mode, words) in reversed(SPLITS.items()):  # train last: it gives way to the evaluation splits
        rows: list[Row] = []
        rng, wanted = Random(f"{seed}/{name}/{split}"), n_train if split == "train" else n_eval
        for _ in range(60 * wanted):
            row = GENERATORS[name](rng, words, mode)
            key = json.dumps(texts_of(row))
            if key not in seen:
                seen.add(key)
                rows.append({"id": f"{split}-{len(rows)}"} | row)
            if len(rows) == wanted:
                break
        else:
            raise UserError(f"{name}: {split}: only {len(rows)} different rows can be made (asked for: {wanted})")
        splits[split] = Split(rows)
    return {split: splits[split] for split in SPLITS}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `mtrobust prep sample`."""
    parser.add_argument("--out", type=Path, required=True, help="folder that gets rows, task_def.yml and corpus.txt")
    parser.add_argument("--seed", type=int, default=1, help="same seed, same rows; default: 1")
    parser.add_argument("--train_rows", type=int, default=2000, help="training rows of each task; default: 2000")
    parser.add_argument("--eval_rows", type=int, default=300, help="rows of each other split; default: 300")


def run(args: argparse.Namespace) -> int:
    """Makes and writes the five tasks, their definition and the corpus."""
    sizes = {"train_rows": args.train_rows, "eval_rows": args.eval_rows}
    faults = [f"--{name}: {size} (allowed: 1 and more)" for name, size in sizes.items() if size < 1]
    if faults:
        raise UserError(faults)
    writable_folder(args.out)
    tasks = {name: make_task(name, args.seed, args.train_rows, args.eval_rows) for name in GENERATORS}
    for name, splits in tasks.items():
        write_task(args.out, name, splits)
    texts = (text for splits in tasks.values() for s in splits.values() for row in s.rows for text in texts_of(row))
    write_atomically(args.out / "corpus.txt", (f"{text}\n" for text in dict.fromkeys(texts)))
    write_atomically(args.out / "task_def.yml", [TASK_DEF])
    print(f"wrote {args.out / 'task_def.yml'} and {args.out / 'corpus.txt'}")
    return 0
