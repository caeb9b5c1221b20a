"""SQuAD: small files in the official format, the published counts on the real ones, and broken questions."""

from __future__ import annotations

import copy
import json

import datasets
import pytest

from mtrobust.errors import UserError
from tests.data_prep.helpers import prep, rows, write

CONTEXT = "  Zo\u00eb lives in Oslo.\u2028Her cat is 7."
V1 = {
    "version": "1.1",
    "data": [
        {
            "title": "Zo\u00eb",
            "paragraphs": [
                {
                    "context": CONTEXT,
                    "qas": [
                        {"id": "a", "question": " Where? ", "answers": [{"text": "Oslo", "answer_start": 15}] * 2},
                        {"id": "b", "question": "How old?", "answers": [{"text": "7", "answer_start": 32}]},
                    ],
                }
            ],
        }
    ],
}


def save(path, document):
    return write(path, json.dumps(document))


def test_v1(tmp_path):
    save(tmp_path / "raw/train-v1.1.json", V1)
    save(tmp_path / "raw/dev-v1.1.json", V1)
    assert prep("squad", "--raw", tmp_path / "raw", "--out", tmp_path / "out") == 0
    for split in ("train", "dev"):
        got = rows(tmp_path / f"out/squad/{split}.jsonl")
        assert [(r["id"], r["question"], r["title"]) for r in got] == [
            ("a", "Where?", "Zo\u00eb"),
            ("b", "How old?", "Zo\u00eb"),
        ]
        assert got[0]["answers"] == {"text": ["Oslo", "Oslo"], "answer_start": [15, 15]}
        assert all(r["context"] == CONTEXT for r in got)


def test_v2_has_unanswerable_questions(tmp_path):
    document = copy.deepcopy(V1)
    qas = document["data"][0]["paragraphs"][0]["qas"]
    qas[1] |= {"answers": [], "is_impossible": True, "plausible_answers": [{"text": "7", "answer_start": 31}]}
    save(tmp_path / "raw/dev-v2.0.json", document)
    assert prep("squad", "--raw", tmp_path / "raw", "--out", tmp_path / "out", "--version", "2.0") == 0
    got = rows(tmp_path / "out/squad2/dev.jsonl")
    assert [r["answers"]["text"] for r in got] == [["Oslo", "Oslo"], []]


def test_a_subset_another_set_and_another_task_name(tmp_path):
    one, two = save(tmp_path / "some.json", V1), save(tmp_path / "other.json", V1)
    arguments = ["--train_file", one, "--dev_file", two, "--eval_file", f"adversarial={two}", "--task", "qa"]
    assert prep("squad", *arguments, "--out", tmp_path / "out") == 0
    assert {p.name for p in (tmp_path / "out/qa").iterdir()} == {"train.jsonl", "dev.jsonl", "adversarial.jsonl"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"answers": [{"text": "Oslo", "answer_start": 14}]}, "'Oslo' is not at 14"),
        ({"answers": [{"text": "Oslo", "answer_start": -1}]}, "is not at -1"),
        ({"answers": [{"text": "Oslo", "answer_start": 9999}]}, "is not at 9999"),
        ({"answers": [{"text": "", "answer_start": 0}]}, "expected a text"),
        ({"answers": [{"text": "Oslo"}]}, "expected a text"),
        ({"answers": [{"text": "Oslo", "answer_start": "15"}]}, "expected a text"),
        ({"answers": ["Oslo"]}, "expected a text"),
        ({"answers": None}, "expected a list"),
        ({"answers": []}, "unanswerable questions: --version 2.0"),
        ({"is_impossible": True}, "but answers are given"),
        ({"question": "  "}, "question: the text is empty"),
        ({"question": 3}, "question: expected text"),
        ({"id": 5}, "id: expected text"),
        ({"id": "b"}, "'b' is already used"),
    ],
)
def test_broken_questions_are_rejected_with_their_place(tmp_path, change, reason):
    document = copy.deepcopy(V1)
    qas = document["data"][0]["paragraphs"][0]["qas"]
    qas.append(copy.deepcopy(qas[0]) | {"id": "c"} | change)
    path = save(tmp_path / "f.json", document)
    assert prep("squad", "--dev_file", path, "--out", tmp_path / "out") == 0
    assert len(rows(tmp_path / "out/squad/dev.jsonl")) == 2
    (reject,) = rows(tmp_path / "out/squad/dev.rejects.jsonl")
    assert reject["place"].endswith("data[0].paragraphs[0].qas[2]") and reason in reject["reason"]


@pytest.mark.parametrize(
    ("where", "value", "place"),
    [
        (("data", 0), [], "data[0]"),
        (("data", 0, "paragraphs", 0), "x", "data[0].paragraphs[0]"),
        (("data", 0, "paragraphs", 0, "qas", 1), 1, "data[0].paragraphs[0].qas[1]"),
        (("data", 0, "paragraphs", 0, "context"), None, "data[0].paragraphs[0].qas[0]"),
    ],
)
def test_broken_structure(tmp_path, where, value, place):
    document = {"data": copy.deepcopy(V1["data"]) + copy.deepcopy(V1["data"])}
    for i, qa in enumerate(document["data"][1]["paragraphs"][0]["qas"]):
        qa["id"] = f"second-{i}"
    inner = document
    for key in where[:-1]:
        inner = inner[key]
    inner[where[-1]] = value
    assert prep("squad", "--dev_file", save(tmp_path / "f.json", document), "--out", tmp_path / "out") == 0
    assert rows(tmp_path / "out/squad/dev.rejects.jsonl")[0]["place"].endswith(place)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"data": [', r"f\.json:1: not JSON"),
        (b"[]", "expected an object with a list under 'data'"),
        (b'{"data": 3}', "expected an object with a list under 'data'"),
        (b'{"data": NaN}', "NaN is not a number"),
        (b'{"data": "caf\xe9"}', "byte 0xe9"),
        (b'{"data": []}', "no usable row"),
        (b"", "not JSON"),
    ],
)
def test_files_that_are_not_squad(tmp_path, content, message):
    path = tmp_path / "f.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        prep("squad", "--dev_file", path, "--out", tmp_path / "out")
    assert not (tmp_path / "out/squad").exists()


def test_files_that_are_not_there_are_all_named(tmp_path):
    arguments = ["--train_file", tmp_path / "a.json", "--dev_file", tmp_path / "b.json", "--eval_file", "x"]
    with pytest.raises(UserError) as caught:
        prep("squad", *arguments, "--out", tmp_path / "out")
    assert len(caught.value.faults) == 3
    with pytest.raises(UserError, match="nothing to prepare"):
        prep("squad", "--raw", tmp_path, "--out", tmp_path / "out")
    with pytest.raises(UserError, match="--hub: takes no files"):
        prep("squad", "--hub", "--raw", tmp_path, "--out", tmp_path / "out")


@pytest.mark.parametrize("source", [("--raw", "raw"), ("--hub",)])
def test_names_that_lead_out_of_the_folder_are_refused(tmp_path, source, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "raw/dev-v1.1.json", json.dumps({"data": []}))
    with pytest.raises(UserError, match="--task: '../../esc': a task's name is made of letters"):
        prep("squad", *source, "--out", "o/deep", "--task", "../../esc")
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_from_the_hub(tmp_path, monkeypatch):
    row = {"id": "a", "title": "T", "context": CONTEXT, "question": "Where?"}
    items = [
        row | {"answers": {"text": ["Oslo"], "answer_start": [15]}},
        row | {"id": "b", "answers": {"text": [], "answer_start": []}},
    ]
    data = {"validation": datasets.Dataset.from_list(items)}
    monkeypatch.setattr(datasets, "load_dataset", lambda path, name: data)
    assert prep("squad", "--hub", "--version", "2.0", "--out", tmp_path) == 0
    assert [r["answers"]["answer_start"] for r in rows(tmp_path / "squad2/dev.jsonl")] == [[15], []]


def test_published_counts(real_data, tmp_path):
    one, two = real_data / "SQuAD-v1.1", real_data / "SQuAD-v2.0"
    prep("squad", "--raw", one, "--train_file", one / "train-subset-v1.1.json", "--out", tmp_path)
    assert len(rows(tmp_path / "squad/dev.jsonl")) == 10570
    assert len(rows(tmp_path / "squad/train.jsonl")) == 11877
    arguments = ["--train_file", two / "dev-subset-v2.0.json", "--dev_file", two / "dev-2articles-v2.0.json"]
    prep("squad", *arguments, "--version", "2.0", "--out", tmp_path)
    for split, expected in {"train": (6078, 3168), "dev": (706, 320)}.items():
        unanswerable = [not row["answers"]["text"] for row in rows(tmp_path / f"squad2/{split}.jsonl")]
        assert (len(unanswerable), sum(unanswerable)) == expected
    assert not list(tmp_path.rglob("*.rejects.jsonl"))
