"""Names of classes in definitions: numbers among them, and how many there may be."""

from __future__ import annotations

from pathlib import Path

import pytest

from mtrobust.errors import UserError
from mtrobust.tasks.base import RowError
from mtrobust.tasks.taskdef import TaskDef, load_task_defs, task_defs_yaml

SOUND = {"task_type": "Classification", "data_format": "PremiseOnly", "labels": ["a", "b"]}


def write(folder: Path, text: str) -> Path:
    path = folder / "tasks.yml"
    path.write_text(text, encoding="utf-8")
    return path


def test_numbers_as_labels_are_as_they_are_written(tmp_path: Path) -> None:
    task = "t: {task_type: Classification, data_format: PremiseOnly, labels: %s, eval_sets: {s: {labels: %s, map: %s}}}"
    given = ("[01, 1e1, 2.50, +1]", "[01, 1.0]", "{01: 01, 1e1: 1.0, 2.50: 1.0, +1: 01}")
    made = load_task_defs([write(tmp_path, task % given)])["t"]
    assert made.labels == ["01", "1e1", "2.50", "+1"] and made.eval_sets["s"].labels == ["01", "1.0"]
    assert made.eval_sets["s"].map == {"01": "01", "1e1": "1.0", "2.50": "1.0", "+1": "01"}
    assert load_task_defs([write(tmp_path, task_defs_yaml([made]))])["t"] == made
    assert [made.type.parse_row({"text": "x", "label": x})["label"] for x in ("01", "+1")] == [0, 3]
    for number in (1, "1", 0):  # of which name it is cannot be known
        with pytest.raises(RowError, match=r"unknown.* \(allowed: 01, 1e1, 2.50, \+1\)"):
            made.type.parse_row({"text": "x", "label": number})


def test_fractions_are_no_labels_of_definitions_in_python() -> None:
    assert TaskDef(name="t", **SOUND | {"labels": [1, 0]}).labels == ["1", "0"]
    with pytest.raises(ValueError, match="2.5: a fraction can be written in several ways; quote the label"):
        TaskDef(name="t", **SOUND | {"labels": [2.5, 0]})


@pytest.mark.parametrize("count", ["0", "-5", "500001", "1000000000"])
def test_a_number_of_classes_out_of_bounds_is_one_fault(tmp_path: Path, count: str) -> None:
    path = write(tmp_path, f"t: {{task_type: Classification, data_format: PremiseOnly, n_class: {count}}}")
    with pytest.raises(UserError) as caught:
        load_task_defs([path])
    assert caught.value.faults == [f"{path}: t.n_class: {count}: must be an integer >= 1 and <= 500000"]


def test_many_classes_are_taken_up_to_a_bound() -> None:
    task = TaskDef(name="t", **{**SOUND, "labels": None, "n_class": 200_000})
    assert len(task.labels) == 200_000 and task.faults() == []
    with pytest.raises(ValueError, match="500001 labels: at most 500000 are taken"):
        TaskDef(name="t", **SOUND | {"labels": [str(i) for i in range(500_001)]})
