"""SQuADShifts (Miller et al. 2020): test sets for SQuAD v1.1 models: new Wikipedia articles, three other domains.

The files are SQuAD v1.1 JSON, without titles.
"""

from __future__ import annotations

import argparse

from .common import accept, add_raw_and_out, existing_folder, writable_folder
from .squad import convert, questions
from .squad_adversarial import known_files
from .writing import write_task

HELP = "SQuADShifts: new Wikipedia, New York Times, Reddit and Amazon questions, one task folder per file"
FILES = {
    "new_wiki_v1.0.json": "squadshifts_new_wiki",
    "nyt_v1.0.json": "squadshifts_nyt",
    "reddit_v1.0.json": "squadshifts_reddit",
    "amazon_reviews_v1.0.json": "squadshifts_amazon",
    "amazon_v1.0.json": "squadshifts_amazon",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `mtrobust prep squadshifts`."""
    add_raw_and_out(parser, f"folder with {', '.join(FILES)}")


def run(args: argparse.Namespace) -> int:
    """Writes `<out>/squadshifts_<domain>/dev.jsonl` for every file that is there."""
    found = known_files(existing_folder(args.raw, "--raw"), FILES)
    writable_folder(args.out)
    for task, path in found.items():
        write_task(args.out, task, {"dev": accept(questions(path), lambda record: convert(record, False))})
    return 0
