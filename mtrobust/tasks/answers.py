"""Accepted answers of a question: the spans that a model learns from, and the texts that a score compares with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mtrobust.tasks.base import RowError


def checked_answers(value: Any, context: str) -> dict[str, list[Any]] | None:
    """Accepted answers as `{"text": [...], "answer_start": [...]}`, each found in the context; None if not given.

    The official list form `[{"text", "answer_start"}, ...]` is taken too. Raises `RowError`.
    """
    if value is None:
        return None
    if isinstance(value, list) and all(isinstance(a, dict) for a in value):
        value = {key: [answer.get(key) for answer in value] for key in ("text", "answer_start")}
    if not isinstance(value, dict) or not all(isinstance(value.get(k), list) for k in ("text", "answer_start")):
        raise RowError("answers", f'is {value!r:.60}; {{"text": [...], "answer_start": [...]}} is needed')
    texts, starts = value["text"], value["answer_start"]
    if len(texts) != len(starts):
        raise RowError("answers", f"{len(texts)} texts and {len(starts)} answer_start; the same number is needed")
    for text, start in zip(texts, starts, strict=True):
        if not isinstance(text, str) or not text.strip():
            raise RowError("answers.text", f"is {text!r:.60}; a text that is not empty is needed")
        if not isinstance(start, int) or isinstance(start, bool):
            raise RowError("answers.answer_start", f"is {start!r:.60}; a whole number is needed")
        found = context[start : start + len(text)] if start >= 0 else ""
        if found != text:
            fault = f"at {start!r:.60} the context has {found!r:.60}, not the answer {text!r:.60}"
            raise RowError("answers.answer_start", fault)
    return {"text": texts, "answer_start": starts}


def check_gold(raw: Mapping[str, Any], answers: Mapping[str, Any] | None) -> None:
    """Raises `RowError` unless `gold_answers`, where a row has any, are texts, and spans are there too."""
    gold = raw.get("gold_answers")
    if gold is None:
        return
    if not isinstance(gold, list) or not gold or not all(isinstance(text, str) and text.strip() for text in gold):
        raise RowError("gold_answers", f"is {gold!r:.60}; a list of texts that are not empty is needed")
    if answers is None or not answers["text"]:
        raise RowError("gold_answers", "is given without `answers`; where the passage has them is needed too")


def accepted_texts(row: Mapping[str, Any]) -> list[str] | None:
    """The texts that count as right; [] where there is no answer, None where it is not known.

    `gold_answers` where a row has them: in MRQA they may be written otherwise than the spans of `answers`, and its
    scorer compares with them alone.
    """
    answers = row.get("answers")
    if not isinstance(answers, Mapping) or "text" not in answers:
        return None
    return list(row.get("gold_answers") or answers["text"])
