"""Adversarial SQuAD, SQuADShifts and MRQA: small files in the official formats, broken ones, and the real files."""

from __future__ import annotations

import copy
import gzip
import json

import pytest

from mtrobust.errors import UserError
from mtrobust.tasks.base import Prediction
from mtrobust.tasks.squad_metrics import normalize_answer
from mtrobust.tasks.taskdef import TaskDef
from tests.data_prep.helpers import prep, rows, write

CONTEXT = "Zo\u00eb lives in Oslo.\u2028Her cat, the Great Tom, is 7."


def document(*ids):
    qas = [{"id": i, "question": "Where?", "answers": [{"text": "Oslo", "answer_start": 13}]} for i in ids]
    return json.dumps({"version": "1.1", "data": [{"paragraphs": [{"context": CONTEXT, "qas": qas}]}]})


def test_adversarial_copies_know_their_question(tmp_path, capsys):
    ids = ["56be", "56be-high-conf-turk1", "56be-high-conf-turk0", "57aa"]
    write(tmp_path / "raw/sample1k-HCVerifySample.json", document(*ids[:2], ids[3]))
    write(tmp_path / "raw/sample1k-HCVerifyAll.json", document(*ids))
    write(tmp_path / "raw/other.json", "{}")
    prep("squad_adversarial", "--raw", tmp_path / "raw", "--out", tmp_path / "out")
    got = [(r["id"], r["question_group"], r["adversarial"]) for r in rows(tmp_path / "out/addsent/dev.jsonl")]
    assert got == [(ids[0], "56be", False), (ids[1], "56be", True), (ids[2], "56be", True), ("57aa", "57aa", False)]
    assert len(rows(tmp_path / "out/addonesent/dev.jsonl")) == 3
    out = capsys.readouterr().out
    assert "addsent: 2 original questions, 2 adversarial copies" in out and "not known: other.json" in out


def test_shifts_one_folder_a_domain(tmp_path):
    for name in ("nyt_v1.0.json", "amazon_reviews_v1.0.json"):
        write(tmp_path / "raw" / name, document("a", "b"))
    prep("squadshifts", "--raw", tmp_path / "raw", "--out", tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["squadshifts_amazon", "squadshifts_nyt"]
    assert rows(tmp_path / "out/squadshifts_nyt/dev.jsonl")[0]["answers"] == {"text": ["Oslo"], "answer_start": [13]}


@pytest.mark.parametrize("name", ["squad_adversarial", "squadshifts"])
def test_folders_without_a_known_file(tmp_path, name):
    write(tmp_path / "raw/dev-v1.1.json", document("a"))
    with pytest.raises(UserError, match="none of .* found"):
        prep(name, "--raw", tmp_path / "raw", "--out", tmp_path / "out")
    write(tmp_path / "two/amazon_v1.0.json", document("a"))
    write(tmp_path / "two/amazon_reviews_v1.0.json", document("a"))
    write(tmp_path / "two/AddSent.json", document("a"))
    write(tmp_path / "two/sample1k-HCVerifyAll.json", document("a"))
    with pytest.raises(UserError, match="keep one of them"):
        prep(name, "--raw", tmp_path / "two", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def found(text, *spans):
    return {"text": text, "char_spans": [list(span) for span in spans], "token_spans": [[0, 0]]}


QA = {
    "qid": "q1",
    "question": " Where? ",
    "answers": ["Oslo", "oslo", "Oslo"],
    "detected_answers": [found("Oslo", (13, 16)), found("Oslo", (13, 16)), found("great tom", (28, 40))],
}


def lines(*qas, header='{"header": {"dataset": "BioASQ", "split": "dev"}}', context=CONTEXT):
    first = [header] if header else []
    return [*first, json.dumps({"id": "", "context": context, "qas": list(qas), "context_tokens": []})]


def test_mrqa_spans_answers_and_names(tmp_path):
    write(tmp_path / "raw/BioASQ.jsonl", *lines(QA))
    train = "\n".join(lines(QA, header='{"header": {"dataset": "TriviaQA-web", "split": "train"}}')) + "\n"
    (tmp_path / "raw/train").mkdir()
    (tmp_path / "raw/train/TriviaQA.jsonl.gz").write_bytes(gzip.compress(train.encode()))
    (tmp_path / "raw/dev").mkdir()
    write(tmp_path / "raw/dev/My.Own-Set.jsonl", *lines(QA, header=""))
    write(tmp_path / "raw/train/RACE.jsonl", *lines(QA, header=""))
    prep("mrqa", "--raw", tmp_path / "raw", "--out", tmp_path / "out")
    written = sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.jsonl"))
    assert written == [
        "mrqa_bioasq/dev.jsonl",
        "mrqa_my_own_set/dev.jsonl",
        "mrqa_race/train.jsonl",
        "mrqa_triviaqa/train.jsonl",
    ]
    (row,) = rows(tmp_path / "out/mrqa_bioasq/dev.jsonl")
    assert row == {
        "id": "q1",
        "question": "Where?",
        "context": CONTEXT,
        # once each, and the words of the context where the answer is written otherwise
        "answers": {"text": ["Oslo", "the Great Tom"], "answer_start": [13, 28]},
        "gold_answers": ["Oslo", "oslo"],
    }
    assert all(CONTEXT[s : s + len(t)] == t for t, s in zip(*row["answers"].values(), strict=True))


@pytest.mark.parametrize(
    ("change", "reasons"),
    [
        ({"detected_answers": [found("Oslo", (12, 15))]}, ["'Oslo' is not at [12, 15]", "no answer stands"]),
        ({"detected_answers": [found("Oslo", (13, 99))]}, ["outside the context", "no answer stands"]),
        ({"detected_answers": [found("Oslo", (16, 13))]}, ["outside the context", "no answer stands"]),
        ({"detected_answers": [found("Oslo", (13,))]}, ["expected [first, last]", "no answer stands"]),
        ({"detected_answers": [found("Oslo", (True, 16))]}, ["expected [first, last]", "no answer stands"]),
        ({"detected_answers": [{"text": "Oslo"}]}, ["list of char_spans", "no answer stands"]),
        ({"detected_answers": [found("the", (3, 3))]}, ["holds only space", "no answer stands"]),
        ({"detected_answers": "x"}, ["expected a list", "no answer stands"]),
        ({"detected_answers": []}, ["no answer stands"]),
        ({"question": ""}, ["question: the text is empty"]),
        ({"qid": 3}, ["qid: expected text"]),
        ({"qid": "q1"}, ["'q1' is already used"]),
        ({"answers": "Oslo"}, ["answers: expected a list"]),
    ],
)
def test_mrqa_broken_questions(tmp_path, change, reasons):
    write(tmp_path / "raw/X.jsonl", *lines(QA, copy.deepcopy(QA) | {"qid": "q2"} | change))
    prep("mrqa", "--raw", tmp_path / "raw", "--out", tmp_path / "out")
    assert [r["id"] for r in rows(tmp_path / "out/mrqa_bioasq/dev.jsonl")] == ["q1"]
    rejects = rows(tmp_path / "out/mrqa_bioasq/dev.rejects.jsonl")
    assert len(rejects) == len(reasons)
    for reject, reason in zip(rejects, reasons, strict=True):
        assert reason in reject["reason"] and "X.jsonl:2: qas[1]" in reject["place"]


def test_mrqa_a_question_keeps_its_sound_spans(tmp_path):
    mixed = QA | {"detected_answers": [found("Oslo", (0, 2), (13, 16))]}
    write(tmp_path / "raw/X.jsonl", *lines(mixed), "{", '{"context": 3, "qas": []}')
    prep("mrqa", "--raw", tmp_path / "raw", "--out", tmp_path / "out")
    assert rows(tmp_path / "out/mrqa_bioasq/dev.jsonl")[0]["answers"]["answer_start"] == [13]
    places = [r["place"].partition("X.jsonl:")[2] for r in rows(tmp_path / "out/mrqa_bioasq/dev.rejects.jsonl")]
    assert places == ["2: qas[0].detected_answers[0].char_spans[0]", "3", "4"]


def test_mrqa_files_that_cannot_be_placed_are_all_named(tmp_path):
    with pytest.raises(UserError, match="no .jsonl or .jsonl.gz file"):
        prep("mrqa", "--raw", tmp_path, "--out", tmp_path / "out")
    write(tmp_path / "a.jsonl", *lines(QA))
    write(tmp_path / "b.jsonl", *lines(QA))
    write(tmp_path / "c.jsonl", "not json")
    write(tmp_path / "d.jsonl", '{"text": "a row"}')
    (tmp_path / "e.jsonl").write_bytes(b"")
    with pytest.raises(UserError) as caught:
        prep("mrqa", "--raw", tmp_path, "--out", tmp_path / "out")
    assert len(caught.value.faults) == 4
    for part in (
        "dev of mrqa_bioasq is already",
        "c.jsonl:1: not JSON",
        "d.jsonl:1: not an MRQA",
        "e.jsonl:1: not JSON",
    ):
        assert any(part in fault for fault in caught.value.faults), part


def test_the_real_files(real_data, tmp_path, capsys):
    prep("squad_adversarial", "--raw", real_data / "SQuAD-adversarial", "--out", tmp_path)
    prep("squadshifts", "--raw", real_data / "SQuADShifts", "--out", tmp_path)
    prep("mrqa", "--raw", real_data / "MRQA", "--out", tmp_path)
    assert not list(tmp_path.rglob("*.rejects.jsonl"))
    assert "addonesent: 1000 original questions, 787 adversarial copies" in capsys.readouterr().out
    one_sent = rows(tmp_path / "addonesent/dev.jsonl")
    assert len(one_sent) == 1787 and len({r["question_group"] for r in one_sent}) == 1000
    originals = {r["id"] for r in one_sent if not r["adversarial"]}
    assert {r["question_group"] for r in one_sent if r["adversarial"]} <= originals
    shifts = rows(tmp_path / "squadshifts_new_wiki/dev.jsonl")
    assert len(shifts) == 7938 and len({r["context"] for r in shifts}) == 1581


def test_mrqa_spans_are_those_of_squad_itself(real_data, tmp_path):
    """The same questions as published by SQuAD: an independent account of where the answers stand."""
    prep("mrqa", "--raw", real_data / "MRQA", "--out", tmp_path)
    got = rows(tmp_path / "mrqa_squad/dev.jsonl")
    assert len(got) == 2379 and len({r["context"] for r in got}) == 400
    squad = json.loads((real_data / "SQuAD-v1.1/dev-v1.1.json").read_text(encoding="utf-8"))
    official = {}
    for paragraph in (p for article in squad["data"] for p in article["paragraphs"]):
        for qa in paragraph["qas"]:
            answers = {(a["answer_start"], a["text"]) for a in qa["answers"]}
            official[paragraph["context"], qa["question"].strip()] = answers
    shared = [(r, official[key]) for r in got if (key := (r["context"], r["question"])) in official]
    assert len(shared) > 2300
    # MRQA brought some answers to whole tokens of its own, so not all are SQuAD's to the letter
    spans = [set(zip(r["answers"]["answer_start"], r["answers"]["text"], strict=True)) == known for r, known in shared]
    texts = [set(r["gold_answers"]) == {text for _, text in known} for r, known in shared]
    assert sum(spans) > 0.9 * len(shared) and sum(texts) > 0.99 * len(shared)


def test_mrqa_is_scored_by_the_answers_of_its_file(real_data, tmp_path):
    """Each answer of the file, taken as the prediction, is right, also where the passage has it in other words."""
    prep("mrqa", "--raw", real_data / "MRQA", "--out", tmp_path)
    got = rows(tmp_path / "mrqa_squad/dev.jsonl")
    plain = lambda texts: {normalize_answer(text) for text in texts}  # noqa: E731
    apart = [r for r in got if not plain(r["gold_answers"]) <= plain(r["answers"]["text"])]
    assert len(apart) > 20
    kind = TaskDef(name="squad", task_type="SpanClassification", data_format="MRC").type
    parsed = [kind.parse_row(dict(row)) for row in apart]
    for k in range(max(len(row["gold_answers"]) for row in apart)):
        texts = [row["gold_answers"][k % len(row["gold_answers"])] for row in apart]
        found = [Prediction({"prediction": text}, text) for text in texts]
        assert kind.score(parsed, found) == {"em": 100.0, "f1": 100.0}
