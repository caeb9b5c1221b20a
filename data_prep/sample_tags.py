"""Generated sentences with named entities, for sequence labelling without a public set.

Persons, organisations and places share words (`jordan`, `chelsea`, `florence` are all of them), so that the sentence
decides: a preposition, a verb, a company's suffix. Writes `<out>/entities/{train,dev,dev_shift}.jsonl` and
`<out>/entities.yml`; dev_shift has other names and other sentence frames. The same seed gives the same bytes. No
sentence of an evaluation split stands in train.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from random import Random

from mtrobust.errors import UserError

from .common import Row, Split, writable_folder, write_atomically
from .writing import write_task

HELP = "generated sentences with tags of persons, organisations and places, for sequence labelling"
TASK_DEF = """\
# Generated sentences with named entities. dev: as train; dev_shift: other names and sentence frames.
entities:
  task_type: SequenceLabeling
  data_format: Sequence
  labels: [O, B-LOC, I-LOC, B-ORG, I-ORG, B-PER, I-PER]
  metric_meta: [SeqEval, ACC]
  split_names: [train, dev, dev_shift]
  max_len: 48
"""
SHARED = ("jordan", "chelsea", "florence", "lincoln", "austin", "paris", "madison", "sydney", "houston", "victoria")


@dataclass(frozen=True)
class Names:
    """Words of names, and frames in which `PER`, `ORG`, `LOC` stand for a name of the kind."""

    first: tuple[str, ...]
    last: tuple[str, ...]
    places: tuple[str, ...]
    firms: tuple[str, ...]
    suffixes: tuple[str, ...]
    frames: tuple[str, ...]


HOME = Names(
    first=("anna", "tom", "maria", "paul", "emma", "jack", "nora", "david", *SHARED[:6]),
    last=("miller", "stone", "baker", "wolf", "brooks", "hill", "field", "rivers"),
    places=("rome", "berlin", "oslo", "new haven", "lake stone", "north hill", *SHARED[:6]),
    firms=("baker", "north star", "river", "stone", "golden field", *SHARED[:6]),
    suffixes=("bank", "motors", "foods", "group", "airlines"),
    frames=(
        "PER lives in LOC and works for ORG .",
        "PER met PER near the station in LOC .",
        "the ORG opened an office in LOC last year .",
        "ORG sold its shares to ORG , said PER .",
        "yesterday PER left LOC by train .",
        "the river runs from LOC to LOC .",
        "PER , who founded ORG , was born in LOC .",
        "many people like the quiet streets of LOC .",
        "the old bridge was closed for two days .",
        "the baker sold fresh bread near the river .",
        "a wolf was seen on the hill behind the field .",
        "workers of ORG asked PER for better wages .",
    ),
)
SHIFTED = Names(
    first=("omar", "lisa", "peter", "ivan", *SHARED[4:]),
    last=("carter", "moss", "wolf", "hill", "marsh"),
    places=("vienna", "lima", "port moss", "oslo", *SHARED[4:]),
    firms=("carter", "silver", "marsh", "north star", *SHARED[4:]),
    suffixes=("bank", "media", "energy", "group"),
    frames=(
        "in LOC , ORG named PER as its new head .",
        "after ten years at ORG , PER moved to LOC .",
        "flights between LOC and LOC were late , ORG said .",
        "PER wrote to PER about the house in LOC .",
        "the marsh near the old mill was dry .",
        "a new bridge in LOC was paid for by ORG .",
    ),
)
SPLITS = {"train": HOME, "dev": HOME, "dev_shift": SHIFTED}


def name(rng: Random, names: Names, kind: str) -> list[str]:
    """The words of a name."""
    if kind == "PER":
        first, last = rng.choice(names.first), rng.choice(names.last)
        return [first, last] if rng.random() < 0.6 else [first]
    if kind == "ORG":
        return [*rng.choice(names.firms).split(" "), rng.choice(names.suffixes)]
    return rng.choice(names.places).split(" ")


def sentence(rng: Random, names: Names) -> Row:
    """A frame with its names filled in."""
    tokens: list[str] = []
    tags: list[str] = []
    for word in rng.choice(names.frames).split(" "):
        words = name(rng, names, word) if word in ("PER", "ORG", "LOC") else [word]
        tokens += words
        tags += [f"{'I' if i else 'B'}-{word}" for i in range(len(words))] if word.isupper() else ["O"]
    return {"tokens": tokens, "tags": tags}


def make(seed: int, n_train: int, n_eval: int) -> dict[str, Split]:
    """All splits. Raises `UserError` when the frames cannot give that many different sentences."""
    splits: dict[str, Split] = {}
    seen: set[tuple[str, ...]] = set()
    for split, names in reversed(SPLITS.items()):  # train last: it gives way to the evaluation splits
        rng, wanted, rows = Random(f"{seed}/entities/{split}"), n_train if split == "train" else n_eval, list[Row]()
        for _ in range(60 * wanted):
            row = sentence(rng, names)
            if tuple(row["tokens"]) not in seen:
                seen.add(tuple(row["tokens"]))
                rows.append({"id": f"{split}-{len(rows)}"} | row)
            if len(rows) == wanted:
                break
        else:
            raise UserError(f"entities: {split}: only {len(rows)} different rows can be made (asked for: {wanted})")
        splits[split] = Split(rows)
    return {split: splits[split] for split in SPLITS}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `mtrobust prep sample_tags`."""
    parser.add_argument("--out", type=Path, required=True, help="folder that gets rows and entities.yml")
    parser.add_argument("--seed", type=int, default=1, help="same seed, same rows; default: 1")
    parser.add_argument("--train_rows", type=int, default=1000, help="training rows; default: 1000")
    parser.add_argument("--eval_rows", type=int, default=300, help="rows of each other split; default: 300")


def run(args: argparse.Namespace) -> int:
    """Makes and writes the sentences and their definition."""
    sizes = {"train_rows": args.train_rows, "eval_rows": args.eval_rows}
    faults = [f"--{flag}: {size} (allowed: 1 and more)" for flag, size in sizes.items() if size < 1]
    if faults:
        raise UserError(faults)
    writable_folder(args.out)
    write_task(args.out, "entities", make(args.seed, args.train_rows, args.eval_rows))
    write_atomically(args.out / "entities.yml", [TASK_DEF])
    print(f"wrote {args.out / 'entities.yml'}")
    return 0
