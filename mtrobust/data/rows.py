"""Rows from data files: JSON Lines (also gzipped), SQuAD JSON, MT-DNN's TSV and lines of token ids. Needs no torch.

A reader turns a file into records; the task type checks and types each one. Whatever is wrong with a row becomes one
line `file:line: field: message`; the first 20 are shown, all are counted.
"""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from mtrobust.data.mtdnn_rows import TSV_FORMATS, Record, joined_windows, mtdnn_keys, tsv_row
from mtrobust.errors import UserError
from mtrobust.registry import suggestion
from mtrobust.tasks.base import TASK_TYPES, RowError
from mtrobust.tasks.tokenised import is_tokenised

if TYPE_CHECKING:
    from mtrobust.tasks.taskdef import TaskDef

SHOWN_FAULTS = 20
_UTF8_BOM = b"\xef\xbb\xbf"
_HALF = "row: holds half of a surrogate pair (\\ud800 to \\udfff), which is no character"
_OTHER_BOMS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16", b"PK\x03\x04": "a zip archive", b"\x1f\x8b": "gzip"}


class Faults:
    """Collects the faults of one file: the first few as lines, the others as a number."""

    def __init__(self, path: Path) -> None:
        self.path, self.count = path, 0
        self.lines: list[str] = []

    def add(self, place: str, message: str) -> None:
        """Notes one fault; an empty `place` means the file as a whole."""
        self.count += 1
        if len(self.lines) < SHOWN_FAULTS:
            colon = ":" if place and not place.startswith("[") else ""
            self.lines.append(f"{self.path}{colon}{place}: {message}")

    def raise_if_any(self) -> None:
        """Raises `UserError` with the collected lines and the total."""
        if not self.count:
            return
        more = [f"{self.path}: {self.count} faults in all, the first {SHOWN_FAULTS} shown"]
        raise UserError(self.lines + (more if self.count > SHOWN_FAULTS else []))


def read_rows(task: TaskDef, path: str | Path) -> list[dict[str, Any]]:
    """All rows of a file, checked and typed by the task type, each with an `id`; further columns are kept.

    Label names become ids; a missing or null label stays None. Raises `UserError` naming every bad row (up to 20, and
    how many there are).
    """
    return list(iter_rows(task, Path(path)))


def iter_rows(
    task: TaskDef, path: Path, also: Callable[[dict[str, Any]], None] | None = None
) -> Iterator[dict[str, Any]]:
    """The rows of a file one by one, as `read_rows` has them.

    also: a further check of each parsed row, which raises `RowError`. All rows are looked at before `UserError` is
    raised: a consumer may get rows of a file that turns out to be bad, and must not keep what it made of them. After
    the first fault no more rows come.
    """
    return (row for _, row in raw_and_parsed(task, path, also))


def raw_and_parsed(
    task: TaskDef, path: Path, also: Callable[[dict[str, Any]], None] | None = None
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Each row of a file in the keys of JSON Lines, as it was written and as `iter_rows` has it."""
    faults = Faults(path)
    yield from _checked(task, _records(task, path, faults), faults, also)


def parse_rows(task: TaskDef, raws: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows given as mappings, as a JSON Lines file has them, checked as `read_rows` does; messages name `rows[3]`.

    A row without an id is called after its place.
    """
    faults = Faults(Path("rows"))
    return [row for _, row in _checked(task, map(_given, count(), raws), faults)]


def _given(number: int, raw: Any) -> Record:
    if not isinstance(raw, Mapping):
        return Record(f"[{number}]", None, f"row: must be a mapping of fields, not {type(raw).__name__}")
    if _has_surrogate(dict(raw)):
        return Record(f"[{number}]", None, _HALF)
    return Record(f"[{number}]", {**raw, "id": number if raw.get("id") is None else raw["id"]})


def _checked(
    task: TaskDef, records: Iterable[Record], faults: Faults, also: Callable[[dict[str, Any]], None] | None = None
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """The rows of records, see `raw_and_parsed`."""
    kind, seen = task.type, 0
    first_place: dict[str, str] = {}
    for record in records:
        seen += 1
        if record.raw is None:
            faults.add(record.place, record.fault)
            continue
        if is_tokenised(record.raw) and not kind.tokenised:
            kinds = ", ".join(name for name, other in TASK_TYPES.items() if other.tokenised)
            faults.add(record.place, f"token_id: {task.task_type} reads no token ids (supported: {kinds}); give texts")
            break  # so are all the others
        try:
            raw = _with_id(record)
            _refuse_soft(raw, task)
            row = {**raw, **kind.parse_row(raw)}
            if also is not None:
                also(row)
        except RowError as error:
            faults.add(record.place, str(error))
            continue
        earlier = first_place.setdefault(row["id"], record.place)
        if earlier is not record.place:
            faults.add(record.place, f"id: '{row['id']}': used before, at {earlier}")
        elif not faults.count:
            yield raw, row
    if not seen and not faults.count:
        faults.add("", "has no rows")
    faults.raise_if_any()


def _refuse_soft(raw: dict[str, Any], task: TaskDef) -> None:
    """Soft labels are not left unread where a task type takes none."""
    given = next((name for name in ("soft_label", "softlabel") if raw.get(name) is not None), None)
    if given and not task.type.soft_labels:
        kinds = ", ".join(name for name, kind in TASK_TYPES.items() if kind.soft_labels)
        raise RowError(given, f"{task.task_type} does not learn from soft labels (supported: {kinds})")


def _with_id(record: Record) -> dict[str, Any]:
    """The raw row with its id as text; rows without one are called after their place."""
    raw = mtdnn_keys(record.raw or {})
    given = raw.get("id")
    if given is None:
        raw["id"] = f"line-{record.place}" if record.place.isdigit() else record.place
    elif isinstance(given, str | int) and not isinstance(given, bool) and given != "":
        raw["id"] = str(given)
    else:
        raise RowError("id", f"{given!r}: must be a text or an integer")
    for key, value in raw.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise RowError(key, f"{value}: must be a finite number")
    return raw


# --- readers ----------------------------------------------------------------------------------------------------------


def _records(task: TaskDef, path: Path, faults: Faults) -> Iterator[Record]:
    """The records of a file by its ending; what is wrong with the file as a whole goes to `faults`."""
    reader = next((read for ending, read in READERS.items() if path.name.endswith(ending)), None)
    if reader is None:
        faults.add("", f"unknown ending; read are {', '.join(READERS)}")
        return
    try:
        with path.open("rb") as file:
            records = reader(task, file, faults)
            yield from joined_windows(records) if task.data_format == "MRC" else records
    except FileNotFoundError:
        faults.add("", "no such file")
    except IsADirectoryError:
        faults.add("", "is a folder, not a file of rows")
    except OSError as error:
        faults.add("", f"cannot be read: {error.strerror or error}")


def _lines(file: IO[bytes], faults: Faults) -> Iterator[tuple[str, str | None, str]]:
    """(line number, text without its line end, fault) of each line that is not blank; only \\n ends a line."""
    number = 0
    try:
        for number, line in enumerate(file, start=1):  # noqa: B007  (the number is needed after the loop)
            if number == 1:
                other = next((name for mark, name in _OTHER_BOMS.items() if line.startswith(mark)), None)
                if other:
                    faults.add("1", f"the file is {other}, not UTF-8 text")
                    return
                line = line.removeprefix(_UTF8_BOM)
            if not line.strip():
                continue
            try:
                yield str(number), line.decode("utf-8").rstrip("\r\n"), ""
            except UnicodeDecodeError as error:
                byte = error.object[error.start]
                fault = f"row: byte 0x{byte:02x} at column {error.start + 1} is not UTF-8; convert the file"
                yield str(number), None, fault
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        faults.add(str(number + 1), f"the gzip file is damaged or cut off here: {error}")


def _read_jsonl(task: TaskDef, file: IO[bytes], faults: Faults) -> Iterator[Record]:
    """One JSON object a line."""
    for place, text, fault in _lines(file, faults):
        if text is None:
            yield Record(place, None, fault)
            continue
        value, fault = _parse_json(text)
        if not fault and not isinstance(value, dict):
            fault = f"row: must be a JSON object, not {_json_name(value)}"
        yield Record(place, None if fault else value, fault)


def _read_jsonl_gz(task: TaskDef, file: IO[bytes], faults: Faults) -> Iterator[Record]:
    with gzip.GzipFile(fileobj=file, mode="rb") as unpacked:
        yield from _read_jsonl(task, cast(IO[bytes], unpacked), faults)


def _parse_json(text: str) -> tuple[Any, str]:
    """(value, "") or (None, what is wrong)."""
    try:
        value = _JSON.decode(text)
        if "\\u" in text and _has_surrogate(value):
            return None, _HALF
        return value, ""
    except json.JSONDecodeError as error:
        cut = error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated")
        place = f"line {error.lineno} column {error.colno}" if error.lineno > 1 else f"column {error.colno}"
        return None, f"row: not valid JSON at {place}: {error.msg}{' (cut off?)' if cut else ''}"
    except (ValueError, RecursionError) as error:
        return None, f"row: not valid JSON: {error}"


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number; leave the field out, or give a finite number")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; a repeated key is a fault instead of the last one winning in silence."""
    made = dict(pairs)
    if len(made) < len(pairs):
        twice = next(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)
        raise ValueError(f"key '{twice:.60}' is written twice")
    return made


# kept, since making a decoder takes longer than reading a short row
_JSON = json.JSONDecoder(parse_constant=_no_constant, object_pairs_hook=_object)


def _has_surrogate(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False, skipkeys=True, default=str).encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


def _json_name(value: Any) -> str:
    names = {list: "a list", dict: "an object", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _read_tsv(task: TaskDef, file: IO[bytes], faults: Faults) -> Iterator[Record]:
    """MT-DNN's canonical TSV."""
    if task.data_format not in TSV_FORMATS:
        faults.add("", f"TSV is read for {', '.join(TSV_FORMATS)}, not {task.data_format}; give JSON Lines")
        return
    for place, text, fault in _lines(file, faults):
        if text is None:
            yield Record(place, None, fault)
            continue
        try:
            yield Record(place, tsv_row(task, text.split("\t")))
        except RowError as error:
            yield Record(place, None, str(error))


def _read_json(task: TaskDef, file: IO[bytes], faults: Faults) -> Iterator[Record]:
    """SQuAD's document, or lines as MT-DNN's preprocessing writes them: the first line says which."""
    first = next((line for line in file if line.strip()), b"")
    file.seek(0)
    try:
        head = json.loads(first.decode("utf-8-sig"))
    except (ValueError, RecursionError):  # a document over several lines, or bad text, which the readers tell
        head = None
    document = task.data_format == "MRC" if head is None else not isinstance(head, dict) or "data" in head
    yield from (_read_squad if document else _read_jsonl)(task, file, faults)


def _read_squad(task: TaskDef, file: IO[bytes], faults: Faults) -> Iterator[Record]:
    """SQuAD's JSON (v1.1 and v2.0): one record per question, placed by its path in the document."""
    if task.data_format != "MRC":
        faults.add("", f"a .json document is SQuAD's, for span tasks; {task.task_type} wants one JSON object a line")
        return
    data = file.read()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        faults.add(str(line), f"byte 0x{data[error.start]:02x} is not UTF-8; convert the file")
        return
    document, fault = _parse_json(text)
    if fault:
        faults.add("", fault.removeprefix("row: "))
        return
    articles = document.get("data") if isinstance(document, dict) else None
    if not isinstance(articles, list):
        faults.add("", "must be an object with the list `data`, as SQuAD's files are")
        return
    for a, article in enumerate(articles):
        for p, paragraph in _items(article, "paragraphs", f"data[{a}]", faults):
            for q, question in _items(paragraph, "qas", p, faults):
                yield _squad_record(question, paragraph, q)


def _items(parent: Any, key: str, place: str, faults: Faults) -> Iterator[tuple[Any, Any]]:
    """(place, entry) of each entry of a list inside a document; a missing list is a fault."""
    entries = parent.get(key) if isinstance(parent, dict) else None
    if not isinstance(entries, list):
        faults.add(place, f"{key}: must be a list")
        return
    for i, entry in enumerate(entries):
        yield f"{place}.{key}[{i}]", entry


def _squad_record(question: Any, paragraph: dict[str, Any], place: str) -> Record:
    """A question with its paragraph as a row of the JSON Lines format."""
    if not isinstance(question, dict):
        return Record(place, None, f"question: must be an object, not {_json_name(question)}")
    answers = question.get("answers")
    raw = {key: question[key] for key in ("id", "question", "is_impossible") if key in question}
    raw["context"] = paragraph.get("context")
    if answers is None:
        return Record(place, raw)
    sound = isinstance(answers, list) and all(
        isinstance(a, dict) and {"text", "answer_start"} <= a.keys() for a in answers
    )
    if not sound:
        return Record(place, None, "answers: must be a list of objects with text and answer_start")
    if answers and question.get("is_impossible") is True:
        return Record(place, None, "is_impossible: true, but there are answers")
    raw["answers"] = {key: [answer[key] for answer in answers] for key in ("text", "answer_start")}
    return Record(place, raw)


Reader = Callable[["TaskDef", IO[bytes], Faults], Iterator[Record]]
READERS: dict[str, Reader] = {
    ".jsonl": _read_jsonl,
    ".jsonl.gz": _read_jsonl_gz,
    ".json": _read_json,
    ".tsv": _read_tsv,
}


OLD_ENDINGS = (".tsv", ".json")  # of files in MT-DNN's layout


# --- finding files ----------------------------------------------------------------------------------------------------


def find_split(task: TaskDef, data_dir: str | Path, split: str) -> Path:
    """The file of a split: `<data_dir>/<task>/<split>.jsonl` or another ending; else `<data_dir>/<task>_<split>.tsv`
    or `.json` (MT-DNN's layout). Raises `UserError` naming the folder, what was looked for and what is there.
    """
    root, name = Path(data_dir), task.data or task.name
    folder = root / name
    found = [path for path in (folder / f"{split}{ending}" for ending in READERS) if path.is_file()]
    found = found or [path for path in (root / f"{name}_{split}{ending}" for ending in OLD_ENDINGS) if path.is_file()]
    if len(found) > 1:
        several = ", ".join(path.name for path in found)
        raise UserError(f"{found[0].parent}: {split}: several files ({several}); keep one of them")
    if found:
        return found[0]
    if not root.is_dir():
        raise UserError(f"{root}: no such data folder")
    if not folder.is_dir():
        there = [path.name for path in _inside(root) if path.is_dir() and not path.name.startswith(".")]
        fault = f"{root}: no folder '{name}' for task {task.name}{suggestion(name, there)} (there: {_listed(there)}); "
        raise UserError(f"{fault}the definition's key `data` names another folder")
    there = [path.name for path in _inside(folder) if path.name.endswith(tuple(READERS))]
    wanted = ", ".join(f"{split}{ending}" for ending in READERS)
    raise UserError(
        f"{folder}: no file of split '{split}' for task {task.name}: looked for {wanted} (there: {_listed(there)})"
    )


def _inside(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise UserError(f"{folder}: cannot be read: {error.strerror or error}") from error


def _listed(names: list[str]) -> str:
    return (", ".join(names[:12]) + (", ..." if len(names) > 12 else "")) or "nothing"
