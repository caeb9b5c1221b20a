"""SQuAD v1.1 and v2.0: official JSON files to one row a question.

A row: `{"id", "question", "context", "title", "answers": {"text": [...], "answer_start": [...]}}`; unanswerable
questions of v2.0 have empty lists. Context and answers are kept to the letter (offsets count characters); an answer
that does not stand where its offset says is rejected.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mtrobust.errors import UserError

from . import hub
from .common import (
    Items,
    Record,
    Reject,
    Row,
    RowFault,
    accept,
    existing_folder,
    name_faults,
    text_of,
    writable_folder,
)
from .readers import read_json_file
from .writing import write_task

HELP = "SQuAD v1.1 / v2.0 from the official JSON files (--raw, --train_file, ...) or from the hub (--hub)"
TASK_NAMES = {"1.1": "squad", "2.0": "squad2"}
HUB_NAMES = {"1.1": "rajpurkar/squad", "2.0": "rajpurkar/squad_v2"}


def questions(path: Path) -> Iterator[Record | Reject]:
    """Every question of a file with its context and title. Raises `UserError` for a file that is not SQuAD's JSON."""
    document = read_json_file(path)
    articles = document.get("data") if isinstance(document, dict) else None
    if not isinstance(articles, list):
        raise UserError(f"{path}: not a SQuAD file: expected an object with a list under 'data'")
    for a, article in enumerate(articles):
        paragraphs = article.get("paragraphs") if isinstance(article, dict) else None
        if not isinstance(paragraphs, list):
            yield Reject(f"{path}: data[{a}]", "paragraphs: expected a list")
            continue
        for p, paragraph in enumerate(paragraphs):
            place = f"{path}: data[{a}].paragraphs[{p}]"
            qas = paragraph.get("qas") if isinstance(paragraph, dict) else None
            if not isinstance(qas, list):
                yield Reject(place, "qas: expected a list")
                continue
            shared = {"context": paragraph.get("context"), "title": article.get("title", "")}
            for q, qa in enumerate(qas):
                if isinstance(qa, dict):
                    yield Record(f"{place}.qas[{q}]", shared | qa)
                else:
                    yield Reject(f"{place}.qas[{q}]", "expected an object")


def _spans(answers: Any, context: str) -> dict[str, list[Any]]:
    if not isinstance(answers, list):
        raise RowFault("answers: expected a list")
    texts, starts = [], []
    for i, answer in enumerate(answers):
        text = answer.get("text") if isinstance(answer, dict) else None
        start = answer.get("answer_start") if isinstance(answer, dict) else None
        if not isinstance(text, str) or not text or not isinstance(start, int) or isinstance(start, bool):
            raise RowFault(f"answers[{i}]: expected a text and its answer_start, got {answer!r}")
        if start < 0 or context[start : start + len(text)] != text:
            found = context[start : start + len(text)] if start >= 0 else ""
            raise RowFault(f"answers[{i}]: '{text}' is not at {start} (there: '{found}')")
        texts.append(text)
        starts.append(start)
    return {"text": texts, "answer_start": starts}


def convert(record: Record, unanswerable_allowed: bool) -> Row:
    """One question as a row. Raises `RowFault` for missing texts, misplaced answers and contradictory marks."""
    fields = record.fields
    if not isinstance(fields.get("id"), str) or not fields["id"]:
        raise RowFault(f"id: expected text, got {fields.get('id')!r}")
    text_of(fields, "context")  # only checked: stripping it would shift the offsets
    answers = _spans(fields.get("answers"), fields["context"])
    impossible = fields.get("is_impossible", not answers["text"])
    if impossible and answers["text"]:
        raise RowFault("is_impossible: true, but answers are given")
    if not answers["text"] and not (impossible and unanswerable_allowed):
        remedy = "is_impossible is false" if unanswerable_allowed else "unanswerable questions: --version 2.0"
        raise RowFault(f"answers: none given ({remedy})")
    row = {"id": fields["id"], "question": text_of(fields, "question"), "context": fields["context"]}
    return row | {"title": fields["title"], "answers": answers}


def hub_splits(version: str) -> dict[str, Items]:
    """Train and dev of the hub's copy, whose answers stand as two lists already."""
    path = HUB_NAMES[version]

    def one(record: Record) -> Row:
        lists = record.fields["answers"]
        pairs = zip(lists["text"], lists["answer_start"], strict=True)
        answers = [{"text": text, "answer_start": int(start)} for text, start in pairs]
        return convert(Record(record.place, record.fields | {"answers": answers}), version == "2.0")

    return {
        hub.SPLITS.get(name, name): accept(hub.records(path, name, rows), one) for name, rows in hub.load(path).items()
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `mtrobust prep squad`."""
    parser.add_argument("--raw", type=Path, help="folder with train-v1.1.json and dev-v1.1.json (or -v2.0)")
    parser.add_argument("--train_file", type=Path, help="training file, where it has another name or is a subset")
    parser.add_argument("--dev_file", type=Path, help="dev file, where it has another name")
    parser.add_argument("--eval_file", action="append", default=[], metavar="SPLIT=FILE", help="a further set")
    parser.add_argument("--hub", action="store_true", help="load it with the `datasets` library instead")
    parser.add_argument("--version", choices=list(TASK_NAMES), default="1.1", help="2.0 allows unanswerable questions")
    parser.add_argument("--task", help="name of the output folder; default: squad, or squad2 for version 2.0")
    parser.add_argument("--out", type=Path, required=True, help="folder that gets <task>/<split>.jsonl")


def task_of(args: argparse.Namespace) -> str:
    """The name of the output folder."""
    return TASK_NAMES[args.version] if args.task is None else str(args.task)


def input_files(args: argparse.Namespace) -> dict[str, Path]:
    """Split name -> file, explicit files first. Raises `UserError` with every file that is not there."""
    files: dict[str, Path] = {}
    if args.raw is not None:
        existing_folder(args.raw, "--raw")
        for split in ("train", "dev", "test"):
            path = args.raw / f"{split}-v{args.version}.json"
            if path.is_file():
                files[split] = path
    named = [("train", args.train_file), ("dev", args.dev_file)]
    files |= {split: path for split, path in named if path is not None}
    faults = name_faults(task_of(args))
    for item in args.eval_file:
        split, _, path = item.partition("=")
        if not split.replace("_", "").isalnum() or not path:
            faults.append(f"--eval_file: '{item}' is not SPLIT=FILE (letters, digits and _ in the split's name)")
        elif split in files:
            faults.append(f"--eval_file: split '{split}' is given twice")
        else:
            files[split] = Path(path)
    faults += [f"{split}: no file {path}" for split, path in files.items() if not path.is_file()]
    if not files and not faults:
        names = f"train-v{args.version}.json or dev-v{args.version}.json"
        faults.append(f"nothing to prepare: no {names} in --raw {args.raw}")
    if faults:
        raise UserError(faults)
    return files


def run(args: argparse.Namespace) -> int:
    """Writes `<out>/<task>/<split>.jsonl` for every file found or named."""
    if args.hub:
        faults = name_faults(task_of(args))
        if args.raw or args.train_file or args.dev_file or args.eval_file:
            faults.append("--hub: takes no files; leave out --raw, --train_file, --dev_file and --eval_file")
        if faults:
            raise UserError(faults)
    files = {} if args.hub else input_files(args)
    writable_folder(args.out)
    unanswerable = args.version == "2.0"
    splits = (
        hub_splits(args.version)
        if args.hub
        else {split: accept(questions(path), lambda r: convert(r, unanswerable)) for split, path in files.items()}
    )
    write_task(args.out, task_of(args), splits)
    return 0
