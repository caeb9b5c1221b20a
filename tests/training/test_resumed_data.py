"""A run is resumed on the training rows that it was begun with, wherever they lie, and on no others."""

from __future__ import annotations

import json
import shutil

import pytest

from mtrobust.errors import UserError
from mtrobust.training.run import train
from tests.evaluation.runs import read_lines, write_rows
from tests.training.world import SIZES, settings, write_world


@pytest.fixture
def copy(tmp_path, tiny_model_dir):
    return write_world(tmp_path, tiny_model_dir("bert"))


@pytest.mark.parametrize("change", ["order", "label", "as many others", "further rows"])
def test_resuming_on_other_rows_is_refused_where_the_steps_are_as_many(copy, change):
    train(settings(copy, max_steps=2))
    path = copy / "data" / "stsb" / "train.jsonl"
    rows = read_lines(path)
    changed = {
        "order": [*rows[1:], rows[0]],
        "label": [*rows[:-1], rows[-1] | {"label": 0.25}],
        "as many others": [row | {"text": row["text_pair"]} for row in rows],
        "further rows": [*rows, rows[1] | {"id": "new"}],
    }
    write_rows(path, changed[change])
    with pytest.raises(UserError, match=r"step-2: belongs to a run on other data: the training rows of stsb have"):
        train(settings(copy, max_steps=2, resume=True))


def test_resuming_goes_on_where_the_rows_are_the_same(copy):
    """Moved, with another cache, written in another way; or from a checkpoint that does not say of which rows it is."""
    results = train(settings(copy, max_steps=2))
    moved = copy / "moved"
    shutil.copytree(copy / "data", moved, ignore=shutil.ignore_patterns(".features"))
    path = moved / "mood" / "train.jsonl"
    write_rows(path, [{"id": f"other {i}", **row} for i, row in enumerate(read_lines(path))])
    values = {"max_steps": 2, "resume": True, "data_dir": moved, "cache_dir": copy / "cache"}
    assert train(settings(copy, **values)) == results
    last = copy / "run" / "checkpoints" / "step-2"
    state = json.loads((last / "state.json").read_text(encoding="utf-8"))
    assert set(state.pop("data")) == set(SIZES)
    (last / "state.json").write_text(json.dumps(state), encoding="utf-8")
    marker = json.loads((last / "COMPLETE").read_text(encoding="utf-8"))
    marker["state.json"] = (last / "state.json").stat().st_size
    (last / "COMPLETE").write_text(json.dumps(marker), encoding="utf-8")
    write_rows(path, read_lines(path)[::-1])
    assert train(settings(copy, **values)) == results
