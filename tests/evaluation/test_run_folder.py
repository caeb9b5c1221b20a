"""Opening finished and unfinished run folders; writing results."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from mtrobust.errors import UserError
from mtrobust.evaluation.run_folder import (
    atomic_file,
    check_run,
    complete_checkpoints,
    json_line,
    jsonable,
    load_run,
    update_results,
    write_json,
)
from tests.evaluation.runs import copy_run


def faults(run: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_run(run)
    assert all("\n" not in fault for fault in caught.value.faults)
    return "\n".join(caught.value.faults)


def checkpoint(run: Path, step: int, complete: bool) -> Path:
    folder = run / "checkpoints" / f"step-{step}"
    folder.mkdir(parents=True)
    if complete:
        (folder / "COMPLETE").touch()
    return folder


def test_a_finished_run_opens_with_everything(run):
    assert list(run.tasks) == ["mood", "mnli", "cola", "stsb", "squad", "squad2"]
    assert set(run.model.heads) == set(run.tasks)
    assert not run.model.training
    assert run.config.max_seq_length == 64
    assert run.tokenizer.is_fast and run.tokenizer.pad_token_id == run.model.encoder.config.pad_token_id


def test_tasks_are_chosen_by_name(run):
    assert list(run.select(None)) == list(run.tasks)
    assert list(run.select(["squad", "mood", "squad"])) == ["squad", "mood"]
    with pytest.raises(UserError) as caught:
        run.select(["mod", "mood", "rte"])
    assert len(caught.value.faults) == 2
    assert "did you mean 'mood'?" in caught.value.faults[0]
    assert "squad2" in caught.value.faults[1]


def test_no_such_folder(tmp_path):
    text = faults(tmp_path / "nothing")
    assert "nothing" in text and "no such run folder" in text


def test_a_file_instead_of_a_folder(tmp_path):
    (tmp_path / "f").write_text("x")
    assert "is a file" in faults(tmp_path / "f")


def test_a_folder_that_is_no_run(tmp_path):
    assert "config.yml, task_def.yml, model missing" in faults(tmp_path)


def test_the_model_folder_inside_a_run_points_to_the_run(run_dir):
    assert f"did you mean '{run_dir}'?" in faults(run_dir / "model")


def test_a_checkpoint_inside_a_run_points_to_the_run(run_dir, tmp_path):
    run = copy_run(run_dir, tmp_path / "run")
    assert f"did you mean '{run}'?" in faults(checkpoint(run, 5, complete=True))


def test_an_unfinished_run_names_its_last_complete_checkpoint_and_how_to_go_on(run_dir, tmp_path):
    run = copy_run(run_dir, tmp_path / "run")
    shutil.rmtree(run / "model")
    for step, complete in ((90, True), (100, True), (110, False)):
        checkpoint(run, step, complete)
    text = faults(run)
    assert "has not finished" in text
    assert str(run / "checkpoints" / "step-100") in text
    assert f"mtrobust train {run / 'config.yml'} --resume" in text
    assert [folder.name for folder in complete_checkpoints(run)] == ["step-90", "step-100"]


def test_an_unfinished_run_without_a_checkpoint_says_so(run_dir, tmp_path):
    run = copy_run(run_dir, tmp_path / "run")
    shutil.rmtree(run / "model")
    checkpoint(run, 10, complete=False)
    assert "no complete checkpoint" in faults(run)
    assert "--overwrite_output_dir" in faults(run)


@pytest.mark.parametrize(
    ("content", "expected"),
    [("[1, 2]", "must be a mapping"), ("a: [", "not valid YAML"), ("seed: x", "seed"), ("nonsense: 1", "nonsense")],
)
def test_a_damaged_configuration_is_named(run_dir, tmp_path, content, expected):
    run = copy_run(run_dir, tmp_path / "run")
    (run / "config.yml").write_text(content, encoding="utf-8")
    text = faults(run)
    assert "config.yml" in text and expected in text


@pytest.mark.parametrize("name", ["model.safetensors", "heads.safetensors"])
def test_damaged_weights_are_named(run_dir, tmp_path, name):
    run = copy_run(run_dir, tmp_path / "run")
    whole = (run / "model" / name).read_bytes()
    (run / "model" / name).write_bytes(whole[: len(whole) // 2])
    assert str(run / "model") in faults(run)


def test_missing_weights_are_named(run_dir, tmp_path):
    run = copy_run(run_dir, tmp_path / "run")
    (run / "model" / "heads.safetensors").unlink()
    assert "heads.safetensors" in faults(run)


def test_a_head_without_a_definition_is_a_fault(run_dir, tmp_path):
    run = copy_run(run_dir, tmp_path / "run")
    text = (run / "task_def.yml").read_text(encoding="utf-8")
    (run / "task_def.yml").write_text(re.sub(r"(?ms)^stsb:.*?(?=^\w|\Z)", "", text), encoding="utf-8")
    assert "stsb" in faults(run)


def test_check_run_reads_no_model(run_dir):
    check_run(run_dir)


def test_json_is_strict():
    value = {"a": math.nan, "b": [np.float32(1.5), np.inf, np.int64(3)], "c": np.array([1.0, np.nan]), 4: (True, None)}
    assert jsonable(value) == {"a": None, "b": [1.5, None, 3], "c": [1.0, None], "4": [True, None]}
    assert json.loads(json_line({"text": "Zürich \u2028 x", "x": math.nan})) == {"text": "Zürich \u2028 x", "x": None}
    assert json_line({"a": 1}).endswith("}\n")


def test_a_file_that_is_not_finished_never_appears(tmp_path):
    path = tmp_path / "deep" / "x.json"
    write_json(path, {"old": 1})
    with pytest.raises(ZeroDivisionError), atomic_file(path) as file:
        file.write("half")
        file.flush()
        1 / 0  # noqa: B018
    assert json.loads(path.read_text()) == {"old": 1}
    assert [p.name for p in path.parent.iterdir()] == ["x.json"]


def test_a_written_file_is_readable_by_others(tmp_path):
    write_json(tmp_path / "x.json", {})
    (tmp_path / "plain").touch()
    assert (tmp_path / "x.json").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_results_are_merged(tmp_path):
    write_json(tmp_path / "all_results.json", {"train": {"seconds": 3.0}, "cola": {"mcc": 1.0, "old": 2.0}})
    update_results(tmp_path, {"cola": {"mcc": 50.0}, "stsb": {"pearson": math.nan}})
    update_results(tmp_path, {"cola": {"mcc": 40.0}}, split="test")
    assert json.loads((tmp_path / "all_results.json").read_text()) == {
        "train": {"seconds": 3.0},
        "cola": {"mcc": 50.0, "old": 2.0, "test/mcc": 40.0},
        "stsb": {"pearson": None},
    }


def test_results_that_are_not_json_are_not_overwritten(tmp_path):
    (tmp_path / "all_results.json").write_text("{broken")
    with pytest.raises(UserError, match="not JSON"):
        update_results(tmp_path, {"cola": {"mcc": 1.0}})
    assert (tmp_path / "all_results.json").read_text() == "{broken"
