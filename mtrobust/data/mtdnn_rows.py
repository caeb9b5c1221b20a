"""MT-DNN's rows in the keys of JSON Lines: its canonical TSV, and the lines of token ids that it preprocesses to."""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

from mtrobust.tasks import labels as given
from mtrobust.tasks.base import RowError
from mtrobust.tasks.tokenised import MASKS, is_tokenised, with_tokens

if TYPE_CHECKING:
    from mtrobust.tasks.taskdef import TaskDef

# --- canonical TSV: fixed columns, no header, no quoting --------------------------------------------------------------

_MOST_DIGITS = 18  # of a place in a text; Python refuses to read numbers of thousands
_MANY = "PremiseAndMultiHypothesis"  # the only one with any number of columns
_COLUMNS = {
    "PremiseOnly": ("id", "label", "text"),
    "PremiseAndOneHypothesis": ("id", "label", "text", "text_pair"),
    _MANY: ("id", "candidate ids", "labels", "text", "candidate", "candidate"),
    "Sequence": ("id", "tags", "tokens"),
    "MRC": ("id", "answer", "context", "question"),
}
TSV_FORMATS = tuple(_COLUMNS)


def tsv_row(task: TaskDef, fields: Sequence[str]) -> dict[str, Any]:
    """The row of a line's fields, by the task's data format (one of `TSV_FORMATS`). Raises `RowError`."""
    columns = _COLUMNS[task.data_format]
    if len(fields) < len(columns) or (len(fields) > len(columns) and task.data_format != _MANY):
        more = " or more" if task.data_format == _MANY else ""
        raise RowError("columns", f"{len(fields)} found, {len(columns)}{more} needed ({', '.join(columns)})")
    if task.data_format == _MANY:
        return _ranking_row(task, fields)
    raw: dict[str, Any] = dict(zip(columns, fields, strict=True))
    if task.data_format == "Sequence":
        tags = _listed(raw["tags"], "tags") if raw["tags"] else None
        return raw | {"tokens": _listed(raw["tokens"], "tokens"), "tags": tags}
    if task.data_format == "MRC":
        answers = _answers(raw.pop("answer"))
        return raw if answers is None else raw | {"answers": answers}
    raw["label"] = _label(raw["label"], task.labels)
    return raw


def _label(text: str, labels: list[str]) -> str | int | float | None:
    """A label as JSON would have it: a name stays text, numbers become numbers, nothing is no label."""
    if text in labels:
        return text
    number: int | float | str = given.from_decimal(given.from_digits(text))
    return None if number == "" else number


def _ranking_row(task: TaskDef, fields: Sequence[str]) -> dict[str, Any]:
    """Candidates with their ids and `label`, see `_best`."""
    name, ids, labels, text, *candidates = fields
    row: dict[str, Any] = {"id": name, "text": text, "candidates": candidates, "candidate_ids": ids.split(",")}
    if len(row["candidate_ids"]) != len(candidates):
        fault = f"{len(row['candidate_ids'])} ids for {len(candidates)} candidates; one for each is needed"
        raise RowError("candidate ids", fault)
    row["label"] = None
    if not labels:
        return row
    values = [_relevance(label, task.labels) for label in labels.split(",")]
    if len(values) != len(candidates):
        raise RowError("label", f"{len(values)} labels for {len(candidates)} candidates; one for each is needed")
    row["label"] = _best(values)
    return row


def _best(values: list[float]) -> int | list[float] | None:
    """The place of the largest where there are two kinds of labels and it has one of them to itself, else all of them;
    None where they are all the same."""
    kinds = set(values)
    if len(kinds) == 2 and values.count(max(values)) == 1:
        return values.index(max(values))
    return values if len(kinds) > 1 else None


def _relevance(text: str, labels: list[str]) -> float:
    if text in labels:
        return float(labels.index(text))  # not an int, whose text might be another name
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if math.isfinite(number):
        return number
    allowed = f"a number{' or one of ' + ', '.join(labels) if labels else ''} is needed for each candidate"
    raise RowError("label", f"{text!r:.60}: {allowed}")


def _listed(text: str, field: str) -> list[str]:
    """A list of texts as Python prints it (or JSON)."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        value = None
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise RowError(field, f"{text!r:.60}: a list of texts is needed, ['a', 'b']")
    return value


def _answers(text: str) -> dict[str, list[Any]] | None:
    """`start:::end:::is_impossible:::answer`, or the answers of SQuAD as JSON; an empty field is no label."""
    if not text:
        return None
    if text[0] in "{[":
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise RowError("answer", f"{text!r:.60}: not valid JSON: {error}") from None
        return {"text": [], "answer_start": []} if isinstance(value, dict) and value.get("is_impossible") else value
    start, *rest = text.split(":::", 3)
    start = start.strip()
    if len(rest) == 3 and rest[1].strip() == "1":
        return {"text": [], "answer_start": []}
    if len(rest) != 3 or not start.isdecimal() or len(start) > _MOST_DIGITS or rest[1].strip() != "0":
        raise RowError("answer", f"{text!r:.60}: start:::end:::is_impossible:::answer is needed, or JSON")
    return {"text": [rest[2]], "answer_start": [int(start)]}


# --- lines of token ids -----------------------------------------------------------------------------------------------

_OF_WINDOW = ("token_id", "type_id", "attention_mask", "mask", "start_position", "end_position", "offset_mapping")


def mtdnn_keys(raw: Mapping[str, Any]) -> dict[str, Any]:
    """A raw row in our keys: of one with token ids `uid` becomes `id`, and padding is cut off. Raises `RowError`."""
    row = dict(raw)
    if not is_tokenised(row):
        return row
    if "uid" in row:
        row = {"id": row.pop("uid")} | row
    if isinstance(row.get("token_id"), list) and any(isinstance(ids, list) for ids in row["token_id"]):
        row = _with_candidates(row)
    for name in ("windows", "candidates"):
        if name in row:
            return row | {name: _each_with_tokens(row[name], name)}
    return with_tokens(row)


def _each_with_tokens(parts: Any, name: str) -> list[dict[str, Any]]:
    if not isinstance(parts, list) or not parts or not all(isinstance(part, dict) for part in parts):
        raise RowError(name, f"{parts!r:.60}: a list of objects with token_id is needed")
    return [with_tokens(part, f"{name}[{i}].") for i, part in enumerate(parts)]


def _with_candidates(row: dict[str, Any]) -> dict[str, Any]:
    """A preprocessed list of candidates: each field is a list with one entry per candidate."""
    count = len(row["token_id"])
    fields = [name for name in ("token_id", "type_id", *MASKS) if row.get(name) is not None]
    for name in [*fields, *(name for name in ("ruid", "olabel") if name in row)]:
        if not isinstance(row[name], list) or len(row[name]) != count:
            raise RowError(name, f"{row[name]!r:.60}: a list of {count} is needed, one for each candidate")
    rest = {key: value for key, value in row.items() if key not in (*fields, "ruid", "olabel")}
    rest["candidates"] = [{name: row[name][i] for name in fields} for i in range(count)]
    if "ruid" in row:
        rest["candidate_ids"] = row["ruid"]
    if "olabel" in row:
        rest["label"] = _best([_relevance(str(label), []) for label in row["olabel"]])
    return rest


class Record(NamedTuple):
    """One raw row, or what is wrong with it. place: a line number, or a path inside a JSON document."""

    place: str
    raw: dict[str, Any] | None
    fault: str = ""  # `field: message`


def joined_windows(records: Iterable[Record]) -> Iterator[Record]:
    """Span tasks: lines of token ids that follow each other with the same `uid` are the windows of one question, and
    become one record with `windows`. Others pass."""
    for uid, group in groupby(records, _question):
        if uid is None:
            yield from group
            continue
        lines = list(group)
        first = lines[0].raw or {}
        windows = [{key: (line.raw or {})[key] for key in _OF_WINDOW if key in (line.raw or {})} for line in lines]
        rest = {key: value for key, value in first.items() if key not in _OF_WINDOW}
        yield lines[0]._replace(raw=rest | {"windows": windows})


def _question(record: Record) -> tuple[str, Any] | None:
    """What windows of one question have in common; None for a record that is none. Without a `uid` each is its own."""
    if record.raw is None or "token_id" not in record.raw or not is_tokenised(record.raw):
        return None
    uid = record.raw.get("uid", record.raw.get("id"))
    return ("line", record.place) if uid is None else ("uid", uid)
