"""Lists of candidates from questions with contexts and from labelled pairs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from data_prep.ranking import sentences
from mtrobust.data.rows import read_rows
from mtrobust.errors import UserError
from mtrobust.tasks.taskdef import load_task_defs
from tests.data_prep.helpers import prep, rows, write

CONTEXT = 'It rose in 1886. Dr. J. Smith of the U.S. Navy said: "It is old." (Nobody knows.) Was it? 3.5 percent did.'


def question(i: int, text: str, context: str = CONTEXT, **more) -> str:
    answers = {"text": [text], "answer_start": [context.index(text)]}
    return json.dumps({"id": f"q{i}", "question": f"Number {i}?", "context": context, "answers": answers} | more)


def test_sentences():
    assert [CONTEXT[begin:end] for begin, end in sentences(CONTEXT)] == [
        "It rose in 1886.", 'Dr. J. Smith of the U.S. Navy said: "It is old."', "(Nobody knows.)", "Was it?",
        "3.5 percent did.",
    ]  # fmt: skip
    assert sentences("  one without an end ") == [(2, 20)]
    text = "A cat.\n\nA dog."
    assert [text[begin:end] for begin, end in sentences(text)] == ["A cat.", "A dog."]


def test_questions(tmp_path, capsys):
    other = {"answers": None}
    write(
        tmp_path / "in" / "train.jsonl",
        question(0, "1886"), question(1, "old"), question(2, "3.5 percent"), question(3, "old", **other),
        question(4, "1886. Dr. J. Smith"), question(5, "b", "a b"),
    )  # fmt: skip
    write(tmp_path / "in" / "dev.jsonl", question(0, "1886"))
    write(tmp_path / "in" / "train.rejects.jsonl", '{"place": "x", "reason": "y"}')
    assert prep("ranking", "--rows", tmp_path / "in", "--task", "lists", "--out", tmp_path / "out") == 0
    made = rows(tmp_path / "out" / "lists" / "train.jsonl")
    assert [(row["id"], row["label"], len(row["candidates"])) for row in made] == [
        ("q0", 0, 5), ("q1", 1, 5), ("q2", 4, 5), ("q3", None, 5),
    ]  # fmt: skip
    assert made[0]["text"] == "Number 0?" and made[0]["candidates"][0] == "It rose in 1886."
    reasons = [row["reason"] for row in rows(tmp_path / "out" / "lists" / "train.rejects.jsonl")]
    assert reasons == [
        "answers: none of them lies in one sentence", "context: a single sentence, nothing to choose from",
    ]  # fmt: skip
    out = capsys.readouterr().out
    assert "lists:\n  task_type: Ranking" in out and "split_names: [train, dev]" in out
    (tmp_path / "t.yml").write_text(out[out.index("lists:\n  task") :], encoding="utf-8")
    task = load_task_defs([tmp_path / "t.yml"])["lists"]
    assert len(read_rows(task, tmp_path / "out" / "lists" / "train.jsonl")) == 4


def pair(text: str, other: str, label: str | None) -> str:
    return json.dumps({"text": text, "text_pair": other, "label": label})


def test_pairs(tmp_path):
    lines = [
        pair("a?", "one", "entailment"), pair("b?", "one", "not_entailment"), pair("a?", "two", "not_entailment"),
        pair("c?", "one", None), pair("c?", "two", None), pair("d?", "x", "not_entailment"),
        pair("d?", "y", "not_entailment"), pair("a?", "two", "not_entailment"),
    ]  # fmt: skip
    write(tmp_path / "in" / "dev.jsonl", *lines)
    prep("ranking", "--rows", tmp_path / "in", "--right", "entailment", "--task", "qnli_lists", "--out", tmp_path)
    made = rows(tmp_path / "qnli_lists" / "dev.jsonl")
    assert [(row["text"], row["candidates"], row["label"]) for row in made] == [
        ("a?", ["one", "two"], [1, 0]), ("c?", ["one", "two"], None),
    ]  # fmt: skip
    reasons = [row["reason"] for row in rows(tmp_path / "qnli_lists" / "dev.rejects.jsonl")]
    assert reasons == ["text: stands in a single row, nothing to choose from", "label: no candidate is right"]
    assert len(read_rows(load_task_defs(["ranking"])["qnli_lists"], tmp_path / "qnli_lists" / "dev.jsonl")) == 2


def test_the_first_lists(tmp_path):
    write(tmp_path / "in" / "dev.jsonl", *(question(i, "old") for i in range(9)))
    prep("ranking", "--rows", tmp_path / "in", "--out", tmp_path, "--max_rows", 4)
    assert len(rows(tmp_path / "in-lists" / "dev.jsonl")) == 4


def test_faults(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    for argv, message in [
        (("--rows", tmp_path / "gone"), "--rows: .*gone is not a folder"),
        (("--rows", empty, "--task", "a/b", "--max_rows", 0), "--task: 'a/b'"),
        (("--rows", empty, "--max_rows", 0), "--max_rows: 0"),
        (("--rows", empty), "no file of rows"),
        (("--rows", empty, "--task", "empty"), "holds the rows themselves"),
    ]:
        with pytest.raises(UserError) as caught:
            prep("ranking", *argv, "--out", tmp_path)
        assert any(re.search(message, fault) for fault in caught.value.faults), caught.value.faults
    write(empty / "dev.jsonl", question(0, "old"))
    with pytest.raises(UserError, match="no usable row"):
        prep("ranking", "--rows", empty, "--right", "entailment", "--out", tmp_path / "out")
    assert not Path(tmp_path / "out" / "empty-lists").exists()


def test_real_questions(real_data, tmp_path):
    prep("squad", "--dev_file", real_data / "SQuAD-v1.1" / "dev-v1.1.json", "--out", tmp_path)
    prep("ranking", "--rows", tmp_path / "squad", "--out", tmp_path, "--max_rows", 2000)
    made = rows(tmp_path / "squad-lists" / "dev.jsonl")
    rejects = rows(tmp_path / "squad-lists" / "dev.rejects.jsonl")
    contexts = {row["id"]: row for row in rows(tmp_path / "squad" / "dev.jsonl")}
    assert len(made) == 2000 and sum("one sentence" in row["reason"] for row in rejects) < 20
    for row in made:
        answers = contexts[row["id"]]["answers"]["text"]
        assert any(answer in row["candidates"][row["label"]] for answer in answers)
        assert all(candidate in contexts[row["id"]]["context"] for candidate in row["candidates"])
