"""Lists of candidates for the task types Ranking and MultipleChoice, from prepared rows of other tasks.

- question and context (SQuAD): the candidates are the context's sentences; right is the one that holds an answer whole;
- pairs with a label (QNLI): the candidates are the second texts of all rows that share the first; right are those with
  the label given by --right. This is how MT-DNN turned QNLI into a ranking task.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mtrobust.errors import UserError

from .common import Record, Reject, Row, RowFault, accept, existing_folder, name_faults, text_of, writable_folder
from .derived import ENDINGS
from .readers import read_jsonl
from .writing import write_task

HELP = "lists of candidates: sentences of SQuAD's contexts, or pairs with a label (QNLI) grouped by their first text"
_END = re.compile(r"[.!?][\"')\]\u201d\u2019]*\s+(?=[\"'(\[\u201c\u2018]*[A-Z0-9])")
# A full stop after these ends no sentence: single letters (initials, U.S.) and titles.
_SHORT = re.compile(r"(?:^|[\s.(\"'])(?:[A-Za-z]|Mr|Mrs|Ms|Dr|Prof|St|Gen|Col|Sen|Rep|Jr|Sr|No|Vol|vs|etc|ca)\.$")


def sentences(text: str) -> list[tuple[int, int]]:
    """(begin, end) of each sentence of a text, without the space around it. A rule: an end mark, space, then a capital
    or a digit; not after initials and common short forms."""
    cuts = [match for match in _END.finditer(text) if not _SHORT.search(text[: match.start() + 1])]
    begins, ends = [0, *(match.end() for match in cuts)], [*(match.end() for match in cuts), len(text)]
    spans = []
    for begin, end in zip(begins, ends, strict=True):
        piece = text[begin:end]
        if piece.strip():
            spans.append((begin + len(piece) - len(piece.lstrip()), begin + len(piece.rstrip())))
    return spans


def of_question(record: Record) -> Row:
    """A question with the sentences of its context. Raises `RowFault` where there is nothing to choose, or no sentence
    holds an answer."""
    fields = record.fields
    question, context = text_of(fields, "question"), fields["context"]
    text_of(fields, "context")  # only checked: stripping it would shift the offsets
    spans = sentences(context)
    if len(spans) < 2:
        raise RowFault("context: a single sentence, nothing to choose from")
    row: Row = {"text": question, "candidates": [context[begin:end] for begin, end in spans], "label": None}
    if isinstance(fields.get("id"), str):
        row["id"] = fields["id"]
    answers = fields.get("answers")
    if answers is None:
        return row
    if not isinstance(answers, dict) or not all(isinstance(answers.get(key), list) for key in ("text", "answer_start")):
        raise RowFault('answers: expected {"text": [...], "answer_start": [...]}')
    for text, start in zip(answers["text"], answers["answer_start"], strict=True):
        holds = [i for i, (begin, end) in enumerate(spans) if begin <= start and start + len(text) <= end]
        if holds:
            return row | {"label": holds[0]}
    raise RowFault("answers: none of them lies in one sentence" if answers["text"] else "answers: none given")


def of_pairs(path: Path, right: str) -> Iterator[Record | Reject]:
    """One record per first text of a file of labelled pairs, in the order of their first rows."""
    groups: dict[str, Record] = {}
    for item in read_jsonl(path, ("text", "text_pair", "label")):
        if isinstance(item, Reject):
            yield item
            continue
        try:
            first, second = text_of(item.fields, "text"), text_of(item.fields, "text_pair")
        except RowFault as fault:
            yield Reject(item.place, str(fault))
            continue
        group = groups.setdefault(first, Record(item.place, {"text": first, "candidates": [], "label": []}))
        if second not in group.fields["candidates"]:
            group.fields["candidates"].append(second)
            group.fields["label"].append(None if item.fields["label"] is None else item.fields["label"] == right)
    yield from groups.values()


def of_group(record: Record) -> Row:
    """The list of a group. Raises `RowFault` where there is nothing to choose, or nothing is right."""
    fields: dict[str, Any] = record.fields
    if len(fields["candidates"]) < 2:
        raise RowFault("text: stands in a single row, nothing to choose from")
    if None in fields["label"]:
        return fields | {"label": None}
    if not any(fields["label"]):
        raise RowFault("label: no candidate is right")
    return fields | {"label": [int(right) for right in fields["label"]]}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `mtrobust prep ranking`."""
    parser.add_argument("--rows", type=Path, required=True, help="folder of a prepared task, such as data/squad")
    parser.add_argument("--right", metavar="LABEL", help="of pairs: the label of a right candidate (QNLI: entailment)")
    parser.add_argument("--task", help="name of the output folder; default: that of --rows with -lists")
    parser.add_argument("--max_rows", type=int, help="at most so many lists of each split, the first ones")
    parser.add_argument("--out", type=Path, required=True, help="folder that gets <task>/<split>.jsonl")


def _records(path: Path, right: str | None) -> Iterator[Row | Reject]:
    """The lists of a file of questions or pairs."""
    if right is None:
        return accept(read_jsonl(path, ("question", "context")), of_question)
    return accept(of_pairs(path, right), of_group)


def _first(items: Iterator[Row | Reject], most: int | None) -> Iterator[Row | Reject]:
    """Items up to that many rows."""
    rows = 0
    for item in items:
        rows += not isinstance(item, Reject)
        if most is not None and rows > most:
            return
        yield item


def run(args: argparse.Namespace) -> int:
    """Writes the lists of every split of the folder."""
    task = f"{args.rows.resolve().name}-lists" if args.task is None else args.task
    faults = name_faults(task)
    if args.max_rows is not None and args.max_rows < 1:
        faults.append(f"--max_rows: {args.max_rows} (allowed: 1 and more)")
    existing_folder(args.rows, "--rows")
    files = {path.name.split(".")[0]: path for path in args.rows.iterdir()
             if path.name.endswith(ENDINGS) and not path.name.endswith(".rejects.jsonl")}  # fmt: skip
    splits = sorted(files, key=lambda split: (split != "train", split))
    if not files:
        faults.append(f"--rows: {args.rows}: no file of rows ({' or '.join(ENDINGS)})")
    if (args.out / task).exists() and (args.out / task).samefile(args.rows):
        faults.append(f"--out: {args.out / task} holds the rows themselves; name another folder or --task")
    if faults:
        raise UserError(faults)
    writable_folder(args.out)
    write_task(args.out, task, {name: _first(_records(files[name], args.right), args.max_rows) for name in splits})
    print(f"\nA task definition for these rows:\n\n{definition(task, splits)}")
    return 0


def definition(task: str, splits: list[str]) -> str:
    """The task definition that fits the rows."""
    lines = ["task_type: Ranking", "data_format: PremiseAndMultiHypothesis", "metric_meta: [ACC, MRR]"]
    return "\n".join([f"{task}:", *(f"  {line}" for line in [*lines, f"split_names: [{', '.join(splits)}]"])])
