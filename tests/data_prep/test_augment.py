"""Adversarial data augmentation: which attacks become rows, and that nothing else of a task changes."""

from __future__ import annotations

import json

import pytest

from mtrobust.errors import UserError
from tests.data_prep.helpers import prep, rows, write

TRAIN = [
    {"id": "a", "text": "A good\u2028film.", "text_pair": "One.", "label": "same", "genre": "x"},
    {"id": 7, "text": "A bad film.", "text_pair": "Two.", "label": "different"},
    {"text": "No id.", "text_pair": "Three.", "label": "same"},
    {"id": "u", "text": "No label.", "text_pair": "Four."},
]


def attack(id, adversarial, **more):
    base = {"id": id, "success": adversarial is not None, "field": "text", "adversarial": adversarial}
    return base | more


@pytest.fixture
def data(tmp_path):
    """A task folder with another split, which must come out as it is."""
    write(tmp_path / "data/pairs/train.jsonl", *map(json.dumps, TRAIN))
    (tmp_path / "data/pairs/dev.jsonl").write_bytes(b'{"text": "odd   spacing\xc2\x85"}')
    write(tmp_path / "data/pairs/train.rejects.jsonl", "{}")
    return tmp_path


def augment(data, *attacks, out="out", extra=()):
    path = write(data / "attack.jsonl", *map(json.dumps, attacks))
    return prep("augment", "--rows", data / "data/pairs", "--adversarial", path, "--out", data / out, *extra)


def test_successes_follow_their_rows(data, capsys):
    attacks = [
        attack("7", "A bat film.", text="A bad film.", text_pair="Two.", label="different"),
        attack("a", None),
        attack("u", None, success=None),
        attack("a", "Won.", field="text_pair"),
        attack("a", "A goof film."),
        attack("line-3", "No yd."),
    ]
    assert augment(data, *attacks) == 0
    got = rows(data / "out/pairs/train.jsonl")
    assert [(r["id"], r["text"], r["text_pair"], r.get("label"), r["source"]) for r in got] == [
        ("a", "A good\u2028film.", "One.", "same", "original"),
        ("a-adv", "A good\u2028film.", "Won.", "same", "adversarial"),
        ("a-adv2", "A goof film.", "One.", "same", "adversarial"),
        ("7", "A bad film.", "Two.", "different", "original"),
        ("7-adv", "A bat film.", "Two.", "different", "adversarial"),
        ("line-3", "No id.", "Three.", "same", "original"),
        ("line-3-adv", "No yd.", "Three.", "same", "adversarial"),
        ("u", "No label.", "Four.", None, "original"),
    ]
    assert got[1]["genre"] == "x"
    assert (data / "out/pairs/dev.jsonl").read_bytes() == (data / "data/pairs/dev.jsonl").read_bytes()
    assert sorted(p.name for p in (data / "out/pairs").iterdir()) == ["dev.jsonl", "train.jsonl"]
    out = capsys.readouterr().out
    assert (
        "4 adversarial rows added; 1 attacks had failed, 1 rows were wrong before" in out
        and "copied unchanged: dev.jsonl" in out
    )
    assert "left from an earlier preparation" not in out


def test_rows_that_were_made_before_keep_their_ids(data):
    write(data / "data/pairs/train.jsonl", *map(json.dumps, TRAIN), json.dumps(TRAIN[0] | {"id": "a-adv3"}))
    attacks = [attack("a", "A goof film."), attack("7", "A bat film.")]
    augment(data, *attacks)
    attacks += [attack("a", "A gold film."), attack("a-adv", "A.")]
    path = write(data / "attack.jsonl", *map(json.dumps, attacks))
    prep("augment", "--rows", data / "out/pairs", "--adversarial", path, "--out", data / "more")
    got = {row["id"]: row["text"] for row in rows(data / "more/pairs/train.jsonl")}
    assert len(got) == len(rows(data / "more/pairs/train.jsonl")) == 11
    assert got["a-adv"] == got["a-adv2"] == "A goof film."
    assert got["a-adv4"] == "A gold film." and got["a-adv-adv"] == "A."
    assert got["7-adv"] == got["7-adv2"] == "A bat film." and got["a-adv3"] == TRAIN[0]["text"]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (attack("gone", "x"), "'gone' is no row of"),
        (attack("a", "x", text="Another film."), "text: differs from the text of row 'a'"),
        (attack("a", "x", label="different"), "label: 'different' is not 'same'"),
        (attack("a", "x", field="question"), "field: 'question': the row has text, text_pair"),
        (attack("a", "x", field=None), "field: None"),
        (attack("u", "x"), "label: row 'u' has none"),
        (attack("a", " "), "adversarial: the text is empty"),
        (attack("a", "A good\u2028film. "), "adversarial: is the original text"),
        (attack("a", None, success=True), "adversarial: expected text"),
        (attack("a", "x", success="yes"), "success: expected true, false or null"),
        (attack(["a"], "x"), "success: expected true, false or null, and an id"),
        ({"id": "a"}, "success, field, adversarial: missing"),
        ([], "not a JSON object"),
    ],
)
def test_attacks_that_do_not_fit_are_listed(data, bad, reason):
    augment(data, attack("7", "A bat film."), bad)
    (reject,) = rows(data / "out/pairs/train.rejects.jsonl")
    assert reason in reject["reason"] and reject["place"].endswith("attack.jsonl:2")
    assert [r["id"] for r in rows(data / "out/pairs/train.jsonl")] == ["a", "7", "7-adv", "line-3", "u"]


def test_nothing_to_add(data):
    with pytest.raises(UserError, match="no successful attack on a row"):
        augment(data, attack("a", None))
    assert not (data / "out/pairs").exists()


def test_faults_of_the_flags_come_together(data):
    with pytest.raises(UserError) as caught:
        arguments = ["--rows", data / "data/pairs", "--split", "test", "--task", "a b", "--out", data / "out"]
        prep("augment", *arguments, "--adversarial", data / "no")
    text = "\n".join(caught.value.faults)
    for part in ("--task: 'a b'", "no file test.jsonl or test.jsonl.gz (there: dev.jsonl", "--adversarial: no file"):
        assert part in text
    with pytest.raises(UserError, match="holds the rows themselves"):
        augment(data, attack("a", "x"), out="data")
    with pytest.raises(UserError, match="--rows: .* is not a folder"):
        prep("augment", "--rows", data / "x", "--out", data / "out", "--adversarial", data / "attack.jsonl")


def test_another_name_in_the_same_data_folder(data):
    augment(data, attack("a", "A goof film."), out="data", extra=["--task", "pairs_adv"])
    assert len(rows(data / "data/pairs_adv/train.jsonl")) == 5
    assert len(rows(data / "data/pairs/train.jsonl")) == 4


def test_the_rows_can_be_trained_on(data):
    from mtrobust.data.rows import find_split, read_rows
    from mtrobust.tasks.taskdef import load_task_defs

    augment(data, attack("a", "A goof film."))
    lines = ("task_type: Classification", "data_format: PremiseAndOneHypothesis", "labels: [different, same]")
    path = write(data / "d.yml", "pairs:", *(f"  {line}" for line in lines))
    task = load_task_defs([path])["pairs"]
    got = read_rows(task, find_split(task, data / "out", "train"))
    assert [row["label"] for row in got] == [1, 1, 0, 1, None]
