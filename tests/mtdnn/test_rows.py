"""MT-DNN's canonical TSV as rows, its layout of files, and what is said of bad lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mtrobust.data.mtdnn_rows import tsv_row
from mtrobust.data.rows import find_split, read_rows
from mtrobust.errors import UserError
from mtrobust.tasks.base import RowError
from mtrobust.tasks.taskdef import TaskDef

MOOD = TaskDef(name="mood", task_type="Classification", data_format="PremiseOnly", labels=["bad", "good"])
QA = TaskDef(name="squad", task_type="SpanClassification", data_format="MRC")
QA2 = TaskDef(name="squad2", task_type="SpanClassificationYN", data_format="MRC")
TEXT = TaskDef(name="mlm", task_type="MaskLM", data_format="MLM")
RANK = {"name": "qnnli", "task_type": "Ranking", "data_format": "PremiseAndMultiHypothesis", "metric_meta": ["ACC"]}
NAMED = TaskDef(**RANK, labels=["not_entailment", "entailment"])
NUMBERS = TaskDef(**RANK)
TAGS = TaskDef(
    name="ner", task_type="SequenceLabeling", data_format="Sequence", labels=["O", "B-PER"], metric_meta=["SeqEval"]
)


def row(task: TaskDef, line: str) -> dict[str, Any]:
    return tsv_row(task, line.split("\t"))


@pytest.mark.parametrize(
    ("task", "labels", "label"),
    [
        (NAMED, "not_entailment,entailment", 1),
        (NUMBERS, "1,0", 0),
        (NUMBERS, "0.5,0.25", 0),
        (NUMBERS, "1,1", None),  # the same for all, as in test files: says nothing
        (NUMBERS, "", None),
    ],
)
def test_a_line_of_candidates(task: TaskDef, labels: str, label: Any) -> None:
    assert row(task, f"7\ta1,a2\t{labels}\tWho?\tAnna.\tIn Rome.") == {
        "id": "7", "text": "Who?", "candidates": ["Anna.", "In Rome."], "candidate_ids": ["a1", "a2"], "label": label,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "label"),
    [("a", "a"), ("1", 1), ("01", 1.0), ("-2.5", -2.5), ("1e-3", 0.001), ("1_0", "1_0"), ("\u0661",) * 2, ("", None)],
)
def test_a_label_is_a_name_or_a_number_in_plain_digits(text: str, label: Any) -> None:
    task = TaskDef(name="t", task_type="Classification", data_format="PremiseOnly", labels=["a", "b"])
    found = row(task, f"7\t{text}\tWho?")["label"]
    assert found == label and type(found) is type(label)  # 01 is no id, which is a whole number


def test_several_levels_of_relevance_stay_numbers() -> None:
    assert row(NUMBERS, "7\ta,b,c\t2,0,1\tWho?\tx\ty\tz")["label"] == [2, 0, 1]
    assert row(NUMBERS, "7\ta,b,c\t1,1,0\tWho?\tx\ty\tz")["label"] == [1, 1, 0]


def test_a_line_of_tagged_words() -> None:
    quoted = row(TAGS, """0\t['B-PER', 'O']\t["O'Neill", 'won']""")
    assert quoted == {"id": "0", "tokens": ["O'Neill", "won"], "tags": ["B-PER", "O"]}
    assert row(TAGS, '0\t\t["won"]') == {"id": "0", "tokens": ["won"], "tags": None}


def test_a_line_of_a_question(tmp_path: Path) -> None:
    path = tmp_path / "squad_train.tsv"
    lines = [
        "q1\t13:::17:::0:::Rome\tAnna went to Rome.\tWhere?",
        'q2\t{"text": ["Anna"], "answer_start": [0]}\tAnna went to Rome.\tWho?',
        "q3\t\tAnna went to Rome.\tWhen?",
        "q4\t-1:::-1:::1:::\tAnna went to Rome.\tWhy?",
    ]
    path.write_text("\n".join(lines[:3]) + "\n", encoding="utf-8")
    assert find_split(QA, tmp_path, "train") == path
    rows = read_rows(QA, path)
    answers = [{"text": ["Rome"], "answer_start": [13]}, {"text": ["Anna"], "answer_start": [0]}, None]
    assert [row["answers"] for row in rows] == answers
    assert (rows[0]["id"], rows[0]["context"], rows[0]["question"]) == ("q1", "Anna went to Rome.", "Where?")
    path.write_text("\n".join(lines), encoding="utf-8")
    assert read_rows(QA2, path)[3]["answers"] == {"text": [], "answer_start": []}


@pytest.mark.parametrize(
    ("task", "line", "message"),
    [
        (MOOD, "0\tgood", "columns: 2 found, 3 needed (id, label, text)"),
        (NUMBERS, "0\ta\t1\tWho?\tx", "columns: 5 found, 6 or more needed (id, candidate ids, labels, "),
        (NUMBERS, "0\ta,b\t1\tWho?\tx\ty", "label: 1 labels for 2 candidates; one for each is needed"),
        (NUMBERS, "0\ta\t1,0\tWho?\tx\ty", "candidate ids: 1 ids for 2 candidates; one for each is needed"),
        (NUMBERS, "0\ta,b,c\t\tWho?\tx\ty", "candidate ids: 3 ids for 2 candidates; one for each is needed"),
        (NAMED, "0\ta,b\tno,yes\tWho?\tx\ty", "label: 'no': a number or one of not_entailment, entailment is needed"),
        (NUMBERS, "0\ta,b\t1,nan\tWho?\tx\ty", "label: 'nan': a number is needed for each candidate"),
        (TAGS, "0\tO O\t['a', 'b']", "tags: 'O O': a list of texts is needed, ['a', 'b']"),
        (TAGS, "0\t['O']\t[print(1)]", "tokens: '[print(1)]': a list of texts is needed"),
        (TAGS, "0\t['O']\t[1]", "tokens: '[1]': a list of texts is needed"),
        (QA, "0\t13:::Rome\tAnna.\tWho?", "answer: '13:::Rome': start:::end:::is_impossible:::answer is needed"),
        (QA, '0\t{"text"\tAnna.\tWho?', "answer: '{\"text\"': not valid JSON"),
        (QA, f"0\t{'[' * 100_000}\tAnna.\tWho?", f"answer: '{'[' * 59}: not valid JSON: maximum recursion depth"),
        (QA, f"0\t{'9' * 5000}:::3:::0:::c\tAnna.\tWho?", f"answer: '{'9' * 59}: start:::end:::is_impossible:::answer"),
    ],
)
def test_bad_lines(task: TaskDef, line: str, message: str) -> None:
    with pytest.raises(RowError) as caught:
        row(task, line)
    assert str(caught.value).startswith(message)


def test_documents_for_masking_are_lines_of_json(tmp_path: Path) -> None:
    path = tmp_path / "mlm_train.json"
    path.write_text('{"text": "One paragraph.\\n\\nAnother."}\n{"text": "A text."}\n', encoding="utf-8")
    assert [row["text"] for row in read_rows(TEXT, find_split(TEXT, tmp_path, "train"))] == [
        "One paragraph.\n\nAnother.", "A text.",
    ]  # fmt: skip


def test_files_lie_flat_in_the_data_folder(tmp_path: Path) -> None:
    document = {"data": [{"paragraphs": [{"context": "Anna.", "qas": [{"id": "q", "question": "Who?"}]}]}]}
    for name, indent in (("squad_dev.json", None), ("squad_train.json", 1)):
        (tmp_path / name).write_text(json.dumps(document, indent=indent), encoding="utf-8")
        assert read_rows(QA, find_split(QA, tmp_path, name[6:-5]))[0]["question"] == "Who?"
    (tmp_path / "squad_dev.tsv").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match=r"dev: several files \(squad_dev.tsv, squad_dev.json\); keep one"):
        find_split(QA, tmp_path, "dev")


def test_a_row_with_a_text_is_read_as_one_whatever_its_further_columns(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text('{"text": "Glass.", "windows": 3, "token_id": "t7", "label": "good"}\n', encoding="utf-8")
    (row,) = read_rows(MOOD, path)
    assert (row["label"], row["windows"], row["token_id"]) == (1, 3, "t7")
