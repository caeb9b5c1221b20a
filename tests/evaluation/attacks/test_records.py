"""Files of an attack: figures, going on, refusals."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from mtrobust.errors import UserError
from mtrobust.evaluation.attacks.base import Change, Outcome
from mtrobust.evaluation.attacks.records import AttackLog, figures, record_of
from mtrobust.evaluation.attacks.target import chosen

LABELS = ["bad", "good"]
OUTCOMES = {
    "a": Outcome(1, True, 30, 10, "a dull film", 0, [Change(1, "great", "dull"), Change(3, "x", "y")]),
    "b": Outcome(1, False, 50, 20),
    "c": Outcome(0, None, 1, 5),
    "d": Outcome(1, True, 10, 4, "a poor film", 0, [Change(1, "great", "poor")]),
}


def record(name: str) -> dict:
    return record_of({"id": name, "text": f"text {name}", "label": 1}, "text", LABELS, OUTCOMES[name])


def log_of(folder: Path, ids: str = "abcd", settings: dict | None = None, **options) -> AttackLog:
    return AttackLog(folder / "attack", "t.dev", settings or {"top_k": 48}, list(ids), **options)


def test_the_figures_are_what_their_definitions_say():
    found = figures(map(record, "abcd"))
    assert found == {
        "examples": 4, "skipped": 1, "attacked": 3, "succeeded": 2, "original_accuracy": 75.0, "attack_accuracy": 25.0,
        "success_rate": pytest.approx(200 / 3), "query_number": 30.0, "query_number_succeeded": 20.0,
        "perturbed_percentage": pytest.approx((20 + 25) / 2),
    }  # fmt: skip
    nothing = figures([record("c")])
    assert nothing["original_accuracy"] == nothing["attack_accuracy"] == 0.0
    assert nothing["query_number"] is nothing["perturbed_percentage"] is nothing["success_rate"] is None


def test_a_record_has_labels_by_name():
    assert record("a") == {
        "id": "a", "text": "text a", "label": "good", "prediction": "good", "field": "text", "success": True,
        "adversarial": "a dull film", "adversarial_prediction": "bad", "queries": 30, "words": 10,
        "changes": [{"index": 1, "from": "great", "to": "dull"}, {"index": 3, "from": "x", "to": "y"}],
    }  # fmt: skip


def test_lines_come_into_the_order_of_the_rows(tmp_path: Path):
    with log_of(tmp_path) as written:
        for name in "cadb":
            written.add(record(name))
        found = written.finish(["a note"])
    with open(tmp_path / "attack/t.dev.jsonl", encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    assert lines == [record(name) for name in "abcd"]
    summary = json.loads((tmp_path / "attack/t.dev.json").read_text(encoding="utf-8"))
    assert summary == {"format": 1, "complete": True, **found, "notes": ["a note"], "settings": {"top_k": 48}}


@pytest.mark.parametrize("cut", [1, 30])
def test_a_half_written_line_is_dropped(tmp_path: Path, caplog: pytest.LogCaptureFixture, cut: int):
    with log_of(tmp_path) as written:
        written.add(record("b"))
        written.add(record("a"))
    path = tmp_path / "attack/t.dev.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    assert json.loads((tmp_path / "attack/t.dev.json").read_text(encoding="utf-8"))["complete"] is False
    with caplog.at_level(logging.WARNING):
        again = log_of(tmp_path)
    assert list(again.done) == ["b"] and "t.dev.jsonl:2: the last line is cut off" in caplog.text
    with again:
        for name in "acd":
            again.add(record(name))
        again.finish([])
    assert [json.loads(line)["id"] for line in path.open(encoding="utf-8")] == list("abcd")


def test_what_is_done_stays_when_more_rows_are_asked_for(tmp_path: Path):
    with log_of(tmp_path, "bd") as written:
        for name in "bd":
            written.add(record(name))
        written.finish([])
    more = log_of(tmp_path)
    assert list(more.done) == ["b", "d"] and not more.complete
    with pytest.raises(UserError, match="id 'd' is not among the 2 rows to attack; name as many with --examples"):
        log_of(tmp_path, "ab")


def test_a_finished_attack_is_read_and_not_written(tmp_path: Path):
    with log_of(tmp_path, "a") as written:
        written.add(record("a"))
        found = written.finish([])
    before = [(path.name, path.read_bytes()) for path in sorted((tmp_path / "attack").iterdir())]
    with log_of(tmp_path, "a") as again:
        assert again.complete and again.finish([]) == found
    assert [(path.name, path.read_bytes()) for path in sorted((tmp_path / "attack").iterdir())] == before


def test_other_settings_are_refused_and_can_replace(tmp_path: Path):
    with log_of(tmp_path) as written:
        written.add(record("a"))
    with pytest.raises(UserError, match="with other settings .top_k: 48 there, 10 now.; --overwrite starts anew"):
        log_of(tmp_path, settings={"top_k": 10})
    with log_of(tmp_path, settings={"top_k": 10}, overwrite=True) as anew:
        assert not anew.done
    assert (tmp_path / "attack/t.dev.jsonl").read_bytes() == b""


@pytest.mark.parametrize(
    ("lines", "fault"),
    [
        (["{}", "ok"], ":1: is no record of an attack"),
        (["ok", "ok"], ":2: id 'a' is there twice"),
        (["[1]"], ":1: is no record of an attack"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, lines: list[str], fault: str):
    with log_of(tmp_path):
        pass
    good = json.dumps(record("a"))
    text = "".join((good if line == "ok" else line) + "\n" for line in lines)
    (tmp_path / "attack/t.dev.jsonl").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=fault):
        log_of(tmp_path)
    (tmp_path / "attack/t.dev.json").unlink()
    with pytest.raises(UserError, match="t.dev.json: is missing beside t.dev.jsonl"):
        log_of(tmp_path)


def test_a_larger_number_of_rows_holds_a_smaller_one():
    rows = [{"id": str(i)} for i in range(50)]
    few, many = chosen(rows, 7, 3), chosen(rows, 20, 3)
    assert len(few) == 7 and all(row in many for row in few) and few != chosen(rows, 7, 4)
    assert [int(row["id"]) for row in many] == sorted(int(row["id"]) for row in many)
    assert chosen(rows, 7, None) == rows[:7] and chosen(rows, None, 3) == chosen(rows, 99, 3) == rows
