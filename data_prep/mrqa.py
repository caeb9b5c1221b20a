"""MRQA 2019 (Fisch et al.): JSON Lines, gzipped or not, one line a context with its questions.

Every file of the folder becomes a split (`train`, `dev`, `test`, as its header line says) of a task folder
`mrqa_<set>`: SQuAD, NewsQA, BioASQ and the others alike. A row is a span-QA row; its id is the `qid`, by which the
official scorer goes, and `gold_answers` are the answer texts which that scorer compares with: they may be written
otherwise than the words in the context.

The spans of `detected_answers` end at their last character. Each is looked up in the context: where the words there are
the answer but for case, punctuation, articles and spacing (the scorer's own comparison), the words of the context are
taken. A span that fails is listed among the rejected ones, and the question keeps its other spans; a question left
without any is rejected.
"""

from __future__ import annotations

import argparse
import re
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mtrobust.errors import UserError

from .common import Record, Reject, Row, RowFault, accept, add_raw_and_out, existing_folder, text_of, writable_folder
from .readers import parse_json, read_jsonl, read_lines
from .writing import write_task

HELP = "MRQA JSONL(.gz): every set of a folder, in-domain and out-of-domain, one task folder each"
SUFFIXES = (".jsonl", ".jsonl.gz")
SPLITS = ("train", "dev", "test")
SETS = {  # letters and digits of a set's name -> task; files and headers carry longer names (TriviaQA-web)
    "squad": "mrqa_squad",
    "newsqa": "mrqa_newsqa",
    "triviaqa": "mrqa_triviaqa",
    "searchqa": "mrqa_searchqa",
    "hotpotqa": "mrqa_hotpotqa",
    "naturalquestions": "mrqa_natural_questions",
    "bioasq": "mrqa_bioasq",
    "drop": "mrqa_drop",
    "duorc": "mrqa_duorc",
    "race": "mrqa_race",
    "relationextraction": "mrqa_relation_extraction",
    "textbookqa": "mrqa_textbookqa",
}
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalised(text: str) -> str:
    """An answer as SQuAD's scorer compares it: lower case, no punctuation, no articles, single spaces."""
    text = "".join(character for character in text.lower() if character not in string.punctuation)
    return " ".join(_ARTICLES.sub(" ", text).split())


def files_of(folder: Path) -> list[Path]:
    """The files of a folder and of those inside it (`train/`, `dev/`), in a fixed order."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name.endswith(SUFFIXES))


def place_of(path: Path) -> tuple[str, str]:
    """Task and split of a file, from its header line; without one from its name and its folder's.

    Raises `UserError` for a first line that is no JSON object.
    """
    number, line = next(read_lines(path), (1, ""))
    try:
        first = parse_json(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}:{number}: not JSON: {error}") from error
    header = first.get("header") if isinstance(first, dict) else None
    if not isinstance(first, dict) or not ("header" in first or "context" in first):
        raise UserError(f"{path}:{number}: not an MRQA file: expected a header or a context")
    header = header if isinstance(header, dict) else {}
    stem = next(path.name.removesuffix(suffix) for suffix in reversed(SUFFIXES) if path.name.endswith(suffix))
    name = str(header.get("dataset") or stem)
    plain = "".join(character for character in name.lower() if character.isalnum() and character.isascii())
    known = [task for start, task in SETS.items() if plain.startswith(start)]
    task = known[0] if known else "mrqa_" + (re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") or "set")
    told = [str(header.get("split") or ""), *reversed(re.split(r"[^a-z]+", stem.lower())), path.parent.name]
    return task, next((word for word in told if word in SPLITS), "dev")


def sources(folder: Path) -> dict[str, dict[str, Path]]:
    """Task -> split -> file. Raises `UserError` with every file that cannot be placed, or when there is none."""
    found: dict[str, dict[str, Path]] = {}
    faults = []
    for path in files_of(folder):
        try:
            task, split = place_of(path)
        except UserError as error:
            faults += error.faults
            continue
        earlier = found.setdefault(task, {}).setdefault(split, path)
        if earlier != path:
            faults.append(f"--raw: {path}: {split} of {task} is already {earlier}")
    if not found and not faults:
        faults.append(f"--raw: {folder}: no {' or '.join(SUFFIXES)} file in it")
    if faults:
        raise UserError(faults)
    return found


def questions(path: Path) -> Iterator[Record | Reject]:
    """Every question with its context and the spans that stand in it; a `Reject` for every span that does not."""
    for record in read_jsonl(path, ()):
        if isinstance(record, Reject):
            yield record
            continue
        if "header" in record.fields:
            continue
        context, qas = record.fields.get("context"), record.fields.get("qas")
        if not isinstance(context, str) or not isinstance(qas, list):
            yield Reject(record.place, "expected a context (text) and qas (a list)")
            continue
        for q, qa in enumerate(qas):
            place = f"{record.place}: qas[{q}]"
            if not isinstance(qa, dict):
                yield Reject(place, "expected an object")
                continue
            found: dict[tuple[int, str], None] = {}  # in order, each span once
            for where, span, reason in spans(qa.get("detected_answers"), context):
                if reason:
                    yield Reject(f"{place}.{where}", reason)
                else:
                    found[span] = None
            yield Record(place, qa | {"context": context, "spans": list(found)})


def spans(detected: Any, context: str) -> Iterator[tuple[str, tuple[int, str], str]]:
    """(where, (start, words of the context), what is wrong) of every span of a question."""
    if not isinstance(detected, list):
        yield "detected_answers", (0, ""), "expected a list"
        return
    for a, answer in enumerate(detected):
        place = f"detected_answers[{a}]"
        text = answer.get("text") if isinstance(answer, dict) else None
        pairs = answer.get("char_spans") if isinstance(answer, dict) else None
        if not isinstance(text, str) or not isinstance(pairs, list) or not pairs:
            yield place, (0, ""), "expected a text and a list of char_spans"
            continue
        for i, pair in enumerate(pairs):
            yield f"{place}.char_spans[{i}]", *_span(text, pair, context)


def _span(text: str, pair: Any, context: str) -> tuple[tuple[int, str], str]:
    """((start, words of the context), what is wrong)."""
    if not isinstance(pair, list) or len(pair) != 2 or not all(type(number) is int for number in pair):
        return (0, ""), f"expected [first, last] character, got {pair!r}"
    first, last = pair
    if not 0 <= first <= last < len(context):
        return (0, ""), f"[{first}, {last}] is outside the context of {len(context)} characters"
    words = context[first : last + 1]
    if words != text and normalised(words) != normalised(text):
        return (0, ""), f"'{text}' is not at [{first}, {last}] (there: '{words}')"
    if not words.strip():
        return (0, ""), f"[{first}, {last}] holds only space"
    return (first, words), ""


def convert(record: Record) -> Row:
    """One question as a row. Raises `RowFault`."""
    fields = record.fields
    if not isinstance(fields.get("qid"), str) or not fields["qid"]:
        raise RowFault(f"qid: expected text, got {fields.get('qid')!r}")
    text_of(fields, "context")  # only checked: stripping it would shift the offsets
    if not fields["spans"]:
        raise RowFault("detected_answers: no answer stands in the context")
    answers = {"text": [text for _, text in fields["spans"]], "answer_start": [start for start, _ in fields["spans"]]}
    row = {"id": fields["qid"], "question": text_of(fields, "question"), "context": fields["context"]}
    gold = fields.get("answers")
    if not isinstance(gold, list) or not all(isinstance(text, str) for text in gold):
        raise RowFault("answers: expected a list of texts")
    return row | {"answers": answers, "gold_answers": list(dict.fromkeys(gold))}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `mtrobust prep mrqa`."""
    add_raw_and_out(parser, "folder of MRQA files, also in folders inside it (train/, dev/)")


def run(args: argparse.Namespace) -> int:
    """Writes `<out>/mrqa_<set>/<split>.jsonl` for every file."""
    found = sources(existing_folder(args.raw, "--raw"))
    writable_folder(args.out)
    for task, files in found.items():
        write_task(args.out, task, {split: accept(questions(path), convert) for split, path in files.items()})
    return 0
