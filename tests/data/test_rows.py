"""Reading rows: all formats, and broken files named by file, line and field."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from mtrobust.data.rows import find_split, read_rows
from mtrobust.errors import UserError
from mtrobust.tasks.taskdef import TaskDef, load_task_defs

SINGLE = TaskDef(name="mr", task_type="Classification", data_format="PremiseOnly", labels=["negative", "positive"])
PAIR = TaskDef(
    name="nli",
    task_type="Classification",
    data_format="PremiseAndOneHypothesis",
    labels=["contradiction", "entailment"],
)
SCORE = TaskDef(name="sts", task_type="Regression", data_format="PremiseAndOneHypothesis")
SPAN = TaskDef(name="squad", task_type="SpanClassification", data_format="MRC")
SPAN_YN = TaskDef(name="squad2", task_type="SpanClassificationYN", data_format="MRC")
MASKED = TaskDef(name="mlm", task_type="MaskLM", data_format="MLM")
GOOD = '{"text": "fine", "label": "positive"}\n'


def put(folder: Path, data: str | bytes, name: str = "train.jsonl") -> Path:
    path = folder / name
    path.write_bytes(data.encode("utf-8") if isinstance(data, str) else data)
    return path


def lines(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def faults(task: TaskDef, path: Path) -> list[str]:
    with pytest.raises(UserError) as caught:
        read_rows(task, path)
    assert all(line.startswith(f"{path}:") for line in caught.value.faults)
    return [line.removeprefix(f"{path}:") for line in caught.value.faults]


def test_jsonl_with_names_ids_missing_labels_and_extra_columns(tmp_path: Path) -> None:
    path = put(
        tmp_path,
        lines(
            {"id": 7, "text": "good", "label": "positive", "source": "x"},
            {"text": "bad", "label": 0},
            {"id": "u", "text": "who knows", "label": None},
            {"text": "no key"},
        ),
    )
    rows = read_rows(SINGLE, path)
    assert [row["id"] for row in rows] == ["7", "line-2", "u", "line-4"]
    assert [row["label"] for row in rows] == [1, 0, None, None]
    assert rows[0]["source"] == "x"


def test_only_line_feeds_end_a_line(tmp_path: Path) -> None:
    text = "one\u0085two\u2028three\u000bfour\rfive"
    rows = [{"text": text, "label": 1}, {"text": "second", "label": 0}]
    data = "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    path = put(tmp_path, b"\xef\xbb\xbf" + data.encode("utf-8") + b"\r\n\r\n  \n")
    assert [row["text"] for row in read_rows(SINGLE, path)] == [text, "second"]
    tsv = put(tmp_path, f"0\tpositive\t{text}\r\n1\t0\tno end", "train.tsv")
    assert [(row["text"], row["label"]) for row in read_rows(SINGLE, tsv)] == [(text, 1), ("no end", 0)]


def test_an_id_may_begin_as_the_mark_of_an_archive(tmp_path: Path) -> None:
    assert [row["id"] for row in read_rows(SINGLE, put(tmp_path, "PK7\t1\tfine\n", "train.tsv"))] == ["PK7"]


def test_gzip(tmp_path: Path) -> None:
    path = put(tmp_path, gzip.compress(GOOD.encode() * 2), "train.jsonl.gz")
    assert [row["id"] for row in read_rows(SINGLE, path)] == ["line-1", "line-2"]


def test_canonical_tsv_of_mtdnn(tmp_path: Path) -> None:
    path = put(tmp_path, '0\t1\tan "unbalanced quote\tb\n1\tcontradiction\tc\td\n2\t\te\tf\n', "train.tsv")
    assert [(row["id"], row["label"], row["text"], row["text_pair"]) for row in read_rows(PAIR, path)] == [
        ("0", 1, 'an "unbalanced quote', "b"),
        ("1", 0, "c", "d"),
        ("2", None, "e", "f"),
    ]
    scores = put(tmp_path, "0\t3.8\ta\tb\n1\t5\tc\td\n", "s.tsv")
    assert [row["label"] for row in read_rows(SCORE, scores)] == [3.8, 5.0]


def squad(questions: list[dict[str, Any]], context: str = "Anna went to Rome.") -> str:
    return json.dumps(
        {"version": "2.0", "data": [{"title": "T", "paragraphs": [{"context": context, "qas": questions}]}]}
    )


def test_squad_json(tmp_path: Path) -> None:
    asked = {"id": "q1", "question": "Where?", "answers": [{"text": "Rome", "answer_start": 13}]}
    path = put(tmp_path, squad([asked, {"id": "q2", "question": "Who?"}]), "dev.json")
    rows = read_rows(SPAN, path)
    assert rows[0]["answers"] == {"text": ["Rome"], "answer_start": [13]} and rows[0]["id"] == "q1"
    assert rows[1]["answers"] is None and rows[1]["context"] == "Anna went to Rome."
    none = {"id": "q3", "question": "When?", "is_impossible": True, "answers": []}
    assert read_rows(SPAN_YN, put(tmp_path, squad([none]), "n.json"))[0]["answers"] == {"text": [], "answer_start": []}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ('{"text": "a", "label": 1', "1: row: not valid JSON at column 25: Expecting ',' delimiter (cut off?)"),
        ('{"text": "a, "label": 1}', "1: row: not valid JSON"),
        ('{"text": "a", "label": NaN}', "1: row: not valid JSON: NaN is not a JSON number"),
        ('{"text": "a", "label": 0, "score": -Infinity}', "-Infinity is not a JSON number"),
        ('{"text": "a", "label": 0, "score": 1e999}', "1: score: inf: must be a finite number"),
        ('["a", 1]', "1: row: must be a JSON object, not a list"),
        ('"a"', "1: row: must be a JSON object, not a text"),
        ("null", "1: row: must be a JSON object, not null"),
        ("[" * 100_000, "1: row: not valid JSON"),
        ('{"text": "\\ud83d", "label": 0}', "1: row: holds half of a surrogate pair"),
        ('{"text": "a", "label": 0, "text": "b"}', "1: row: not valid JSON: key 'text' is written twice"),
        ('{"text": "a", "label": 0, "x": [{"y": 1, "y": 1}]}', "1: row: not valid JSON: key 'y' is written twice"),
        ('{"label": 0}', "1: text: "),
        ('{"text": "", "label": 0}', "1: text: "),
        ('{"text": " \\t ", "label": 0}', "1: text: "),
        ('{"text": 5, "label": 0}', "1: text: "),
        ('{"text": "a", "label": "postive"}', "; did you mean 'positive'? (allowed: negative, positive"),
        ('{"text": "a", "label": 2}', "1: label: "),
        ('{"text": "a", "label": true}', "1: label: "),
        ('{"text": "a", "label": 0.5}', "1: label: "),
        ('{"id": [1], "text": "a", "label": 0}', "1: id: [1]: must be a text or an integer"),
        ('{"id": "", "text": "a", "label": 0}', "1: id: '': must be a text or an integer"),
        ('{"id": true, "text": "a", "label": 0}', "1: id: True: must be a text or an integer"),
        ('{"text": "a", "text_pair": "b", "label": 0}', "1: text_pair: "),
        (GOOD + "{", "2: row: not valid JSON"),
        ('{"id": 1, "text": "a", "label": 0}\n{"id": "1", "text": "b", "label": 0}', "2: id: '1': used before, at 1"),
        ("", " has no rows"),
        ("\n \n", " has no rows"),
        (GOOD.encode() + '{"text": "caf\u00e9"}'.encode("latin-1"), "2: row: byte 0xe9 at column 14 is not UTF-8"),
        (GOOD.encode("utf-16"), "1: the file is UTF-16, not UTF-8 text"),
        (gzip.compress(b"x", mtime=0), "1: the file is gzip, not UTF-8 text"),
        (b"PK\x03\x04\x14\x00", "1: the file is a zip archive, not UTF-8 text"),
    ],
)
def test_broken_jsonl(tmp_path: Path, data: str | bytes, message: str) -> None:
    found = faults(SINGLE, put(tmp_path, data))
    assert len(found) == 1 and message in found[0], found


@pytest.mark.parametrize(
    ("task", "row", "message"),
    [
        (PAIR, {"text": "a", "label": 0}, "text_pair: "),
        (PAIR, {"text": "a", "text_pair": ["b"], "label": 0}, "text_pair: "),
        (SCORE, {"text": "a", "text_pair": "b", "label": "high"}, "label: "),
        (SCORE, {"text": "a", "text_pair": "b", "label": "nan"}, "label: "),
        (SCORE, {"text": "a", "text_pair": "b", "label": [1]}, "label: "),
        (SPAN, {"question": "q", "context": "c", "answers": {"text": [], "answer_start": []}}, "answers: "),
        (SPAN, {"question": "q", "context": "c", "answers": {"text": ["d"], "answer_start": [0]}}, "answers"),
        (SPAN, {"question": "q", "context": "c", "answers": {"text": ["c"], "answer_start": [-1]}}, "answers"),
        (SPAN, {"question": "q", "context": "c", "answers": {"text": ["c"], "answer_start": []}}, "answers"),
        (SPAN, {"question": "q", "context": "c", "answers": {"text": ["c"], "answer_start": ["0"]}}, "answers"),
        (SPAN, {"question": "q", "context": "c", "answers": "c"}, "answers: "),
        (SPAN, {"question": " ", "context": "c"}, "question: "),
        (SPAN, {"question": "q"}, "context: "),
    ],
)
def test_broken_fields(tmp_path: Path, task: TaskDef, row: dict[str, Any], message: str) -> None:
    found = faults(task, put(tmp_path, lines(row)))
    assert len(found) == 1 and found[0].startswith("1: ") and message in found[0], found


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ('{"data": [', " not valid JSON"),
        ("[]", " must be an object with the list `data`"),
        ('{"data": [{"paragraphs": 3}]}', "data[0]: paragraphs: must be a list"),
        ('{"data": [3]}', "data[0]: paragraphs: must be a list"),
        ('{"data": [{"paragraphs": [{"context": "c"}]}]}', "data[0].paragraphs[0]: qas: must be a list"),
        (
            squad([{"id": "q", "question": "Q", "answers": {"text": []}}]),
            "data[0].paragraphs[0].qas[0]: answers: must be a list",
        ),
        (squad(["q"]), "data[0].paragraphs[0].qas[0]: question: must be an object"),  # type: ignore[list-item]
        (
            squad(
                [{"id": "q", "question": "Q", "is_impossible": True, "answers": [{"text": "Rome", "answer_start": 13}]}]
            ),
            "is_impossible: true, but there are answers",
        ),
        ('{"data": []}', " has no rows"),
        ('{"data": [], "data": [3]}', " not valid JSON: key 'data' is written twice"),
        ("[" * 100_000, " not valid JSON: maximum recursion depth"),
        (b'{"data": [\n"caf\xe9"]}', "2: byte 0xe9 is not UTF-8"),
    ],
)
def test_broken_squad(tmp_path: Path, data: str | bytes, message: str) -> None:
    found = faults(SPAN, put(tmp_path, data, "dev.json"))
    assert len(found) == 1 and message in found[0], found


def test_wrong_kind_of_file(tmp_path: Path) -> None:
    assert faults(SINGLE, put(tmp_path, '{"data": []}', "a.json")) == [
        " a .json document is SQuAD's, for span tasks; Classification wants one JSON object a line"
    ]
    assert faults(MASKED, put(tmp_path, "0\t1\ta\n", "a.tsv"))[0].startswith(" TSV is read for PremiseOnly, ")
    assert faults(SINGLE, put(tmp_path, "a", "a.csv")) == [" unknown ending; read are .jsonl, .jsonl.gz, .json, .tsv"]
    assert faults(SINGLE, put(tmp_path, "0\ta\n", "b.tsv")) == ["1: columns: 2 found, 3 needed (id, label, text)"]
    assert faults(SINGLE, tmp_path / "absent.jsonl") == [" no such file"]
    (tmp_path / "folder.jsonl").mkdir()
    assert faults(SINGLE, tmp_path / "folder.jsonl") == [" is a folder, not a file of rows"]
    assert (
        "is damaged or cut off"
        in faults(SINGLE, put(tmp_path, gzip.compress(GOOD.encode() * 99)[:-9], "c.jsonl.gz"))[0]
    )
    assert "is damaged or cut off" in faults(SINGLE, put(tmp_path, GOOD, "d.jsonl.gz"))[0]


def test_every_bad_row_is_counted_and_twenty_are_shown(tmp_path: Path) -> None:
    path = put(tmp_path, (GOOD + '{"text": "", "label": 1}\n') * 30)
    found = faults(SINGLE, path)
    assert [int(line.split(":")[0]) for line in found[:20]] == list(range(2, 42, 2))
    assert found[20:] == [" 30 faults in all, the first 20 shown"]


def test_find_split(tmp_path: Path) -> None:
    def fault(split: str, task: TaskDef = SINGLE, root: Path = tmp_path) -> str:
        with pytest.raises(UserError) as caught:
            find_split(task, root, split)
        return str(caught.value)

    assert fault("train", root=tmp_path / "absent") == f"{tmp_path / 'absent'}: no such data folder"
    (tmp_path / "mrr").mkdir()
    assert "no folder 'mr' for task mr; did you mean 'mrr'? (there: mrr)" in fault("train")
    (tmp_path / "mr").mkdir()
    path = put(tmp_path / "mr", GOOD, "train.jsonl")
    assert find_split(SINGLE, tmp_path, "train") == path
    assert find_split(SINGLE.model_copy(update={"name": "x", "data": "mr"}), tmp_path, "train") == path
    assert fault("dev").startswith(
        f"{tmp_path / 'mr'}: no file of split 'dev' for task mr: looked for dev.jsonl, dev.jsonl.gz"
    )
    assert fault("dev").endswith("(there: train.jsonl)")
    put(tmp_path / "mr", "0\t1\ta\n", "train.tsv")
    assert "several files (train.jsonl, train.tsv)" in fault("train")
    flat = put(tmp_path, "0\t1\ta\n", "mr_test.tsv")
    assert find_split(SINGLE, tmp_path, "test") == flat


def test_real_files(real_data: Path) -> None:
    tasks = load_task_defs(["squad"])
    rows = read_rows(tasks["squad"], real_data / "SQuAD-v1.1" / "dev-v1.1.json")
    assert len(rows) == 10570 and len({row["id"] for row in rows}) == 10570
    rows = read_rows(tasks["squad2"], real_data / "SQuAD-v2.0" / "dev-subset-v2.0.json")
    assert len(rows) == 6078 and sum(not row["answers"]["text"] for row in rows) == 3168
    found = faults(tasks["squad"], real_data / "SQuAD-v2.0" / "dev-subset-v2.0.json")
    assert len(found) == 21 and found[-1] == " 3168 faults in all, the first 20 shown"


def test_real_files_of_another_format_are_refused_by_line(real_data: Path, tmp_path: Path) -> None:
    path = put(tmp_path, (real_data / "MR" / "rt-polarity.pos").read_bytes(), "train.jsonl")
    assert len(faults(SINGLE, path)) == 21
    cola = faults(SINGLE, real_data / "CoLA" / "train.tsv")
    assert cola[0] == "1: columns: 4 found, 3 needed (id, label, text)" and "8551 faults" in cola[-1]
