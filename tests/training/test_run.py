"""Whole runs on a tiny encoder: what stands in the run folder, resuming, accumulation, and what is refused at start."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from mtrobust.config import PerturbSpec
from mtrobust.errors import RunError, UserError
from mtrobust.models.multitask import MultiTaskModel
from mtrobust.training import run as run_module
from mtrobust.training.run import train
from tests.evaluation.runs import read_lines, text_rows, write_rows
from tests.training.world import SIZES, losses, settings, write_world

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def world(tmp_path_factory, tiny_model_dir):
    return write_world(tmp_path_factory.mktemp("world"), tiny_model_dir("bert"))


@pytest.fixture
def copy(world, tmp_path):
    """A world of its own, for tests that change it."""
    return Path(shutil.copytree(world, tmp_path / "copy", ignore=shutil.ignore_patterns("run*")))


def state_of(run):
    """All that an interrupted run must share with a whole one: weights, figures, results but times and memory."""
    weights = {
        f"{file.name}/{k}": v for file in (run / "model").glob("*.safetensors") for k, v in load_file(file).items()
    }
    results = json.loads((run / "all_results.json").read_text(encoding="utf-8"))
    for name in ("seconds", "examples_per_second", "peak_memory_mib"):
        del results["train"][name]
    predictions = {file.name: file.read_bytes() for file in (run / "predictions").glob("*.jsonl")}
    return weights, (run / "metrics.jsonl").read_bytes(), results, predictions


# --- the run folder -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(world):
    config = settings(world, "run-finished", "rapt", num_train_epochs=2)
    return config, train(config)


def test_the_run_folder_is_whole(finished):
    config, results = finished
    run = config.output_dir
    names = {path.name for path in run.iterdir()}
    assert names == {
        *("config.yml", "task_def.yml", "metrics.jsonl", "status.json", "all_results.json"),
        *("checkpoints", "model", "tensorboard", "predictions"),
    }
    assert json.loads((run / "all_results.json").read_text(encoding="utf-8")) == results
    assert set(results) == {*SIZES, "train"} and results["squad"].keys() == {"em", "f1"}
    steps = results["train"]["steps"]
    assert results["train"]["examples"] >= 2 * sum(SIZES.values()) and results["train"]["model_step"] == steps
    assert len(read_lines(run / "predictions" / "mood.dev.jsonl")) == 9
    assert (run / "predictions" / "squad.dev" / "predictions.json").is_file()
    assert not (run / "checkpoints").joinpath(".tmp-step-1").exists()


def test_the_model_of_a_run_gives_its_results(finished):
    from mtrobust.evaluation.evaluator import Evaluator
    from mtrobust.evaluation.run_folder import load_run

    config, results = finished
    opened = load_run(config.output_dir)
    assert opened.config.perturb == config.perturb and list(opened.tasks) == list(SIZES)
    again = Evaluator(opened.model, opened.tasks, config.data_dir, opened.tokenizer, max_len=64).evaluate()
    for task in SIZES:
        assert again[task] == pytest.approx({k: v for k, v in results[task].items() if v is not None}, nan_ok=True)


def test_a_finished_run_is_left_alone_when_resumed(finished):
    config, results = finished
    before = {path: path.stat().st_mtime_ns for path in config.output_dir.rglob("*.safetensors")}
    assert train(config.model_copy(update={"resume": True})) == results
    assert {path: path.stat().st_mtime_ns for path in config.output_dir.rglob("*.safetensors")} == before


def test_a_run_killed_after_training_is_finished_by_resuming(finished, world):
    config, _ = finished
    half = world / "run-half"
    shutil.copytree(config.output_dir, half, symlinks=True)
    for name in ("model", "predictions"):
        shutil.rmtree(half / name)
    (half / "all_results.json").unlink()
    train(config.model_copy(update={"resume": True, "output_dir": half}))
    first, second = state_of(config.output_dir), state_of(half)
    assert all(torch.equal(first[0][name], second[0][name]) for name in first[0])
    assert first[1:] == second[1:]


# --- interruption -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["standard", "rapt", "smart"])
def test_interrupted_runs_end_with_the_same_bits(copy, method):
    model = json.loads((copy / "model" / "config.json").read_text(encoding="utf-8"))
    model |= {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
    (copy / "model" / "config.json").write_text(json.dumps(model), encoding="utf-8")
    values = {"eval_steps": 4, "save_steps": 3, "logging_steps": 2}
    train(settings(copy, "whole", method, **values))

    class Killed(Exception):
        pass

    for point in (("step", 5), ("saving", 9), ("evaluated", 12)):

        def on_event(kind, step, point=point):
            if (kind, step) == point:
                raise Killed

        with pytest.raises(Killed):
            train(settings(copy, "broken", method, resume=True, **values), on_event)
    train(settings(copy, "broken", method, resume=True, **values))
    whole, broken = state_of(copy / "whole"), state_of(copy / "broken")
    assert all(torch.equal(value, broken[0][name]) for name, value in whole[0].items())
    assert whole[1:] == broken[1:]


@pytest.mark.slow
def test_sigterm_ends_the_command_with_a_checkpoint(copy):
    config = settings(copy, "run", max_steps=4000, save_steps=1000, eval_steps=1000)
    recipe = copy / "recipe.yml"
    recipe.write_text(yaml.safe_dump(config.model_dump(mode="json")), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "mtrobust", "train", str(recipe)]
    process = subprocess.Popen(command, cwd=copy, env=environment, stderr=subprocess.PIPE, text=True)
    metrics = copy / "run" / "metrics.jsonl"
    while not (metrics.is_file() and metrics.stat().st_size > 0):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in err, err
    assert "stopped by SIGTERM after step" in err and "--resume" in err
    assert (copy / "run" / "checkpoints" / "last" / "COMPLETE").is_file()


# --- accumulation -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["standard", "rapt", "rpt", "smart"])
def test_four_times_four_equals_sixteen(world, method):
    """Per task and mixed; micro-batches differ in labelled rows, tokens and windows."""
    # Rates this small leave the weights alone, so that each step compares the same weights on both sides.
    common = {"learning_rate": 1e-9, "num_train_epochs": 2, "overwrite_output_dir": True}
    train(settings(world, "run-16", method, per_device_train_batch_size=16, **common))
    train(settings(world, "run-4x4", method, gradient_accumulation_steps=4, **common))
    large, small = losses(world / "run-16"), losses(world / "run-4x4")
    assert [task for task, _ in large] == [task for task, _ in small] and {task for task, _ in large} == set(SIZES)
    for (_, a), (_, b) in zip(large, small, strict=True):
        shares = [name for name in a if name in ("loss", "task") or name.endswith("/divergence")]
        assert len(shares) >= 2
        for name in shares:
            assert b[name] == pytest.approx(a[name], rel=2e-6, abs=1e-6), name
    norms = [
        [line["grad_norm"] for line in read_lines(world / run / "metrics.jsonl") if "grad_norm" in line]
        for run in ("run-16", "run-4x4")
    ]
    assert norms[1] == pytest.approx(norms[0], rel=1e-5)


# --- refused at start ---------------------------------------------------------------------------------------------

SMART = PerturbSpec(name="smart", options={"layers": "1-9"})
REFUSED = {
    "layers beyond the encoder": ({"perturb": [SMART]}, ["1-9"]),
    "unknown method": ({"perturb": [PerturbSpec(name="smrt")]}, ["smrt", "smart"]),
    "freezing too much": ({"freeze_layers": 4}, ["freeze_layers: 4", "0-3"]),
    "unknown tasks": (
        {"train_tasks": ["moood"], "eval_tasks": ["sts"]},
        ["moood", "did you mean 'mood'", "eval_tasks: sts"],
    ),
    "missing splits": ({"train_tasks": ["mood", "cola"]}, ["cola", "there: mood"]),
    "unknown metric": ({"metric_for_best_model": "mood.f2"}, ["mood.f2", "mood.acc", "squad.em"]),
    "main task": ({"sampling": "main_ratio"}, ["main_task", "mood"]),
    "no data": ({"data_dir": "nowhere"}, ["data_dir", "nowhere"]),
    "no definitions": ({"task_def": ["nowhere.yml"]}, ["nowhere.yml"]),
    "no model": ({"model_name_or_path": "nowhere"}, ["nowhere"]),
    "too long": ({"max_seq_length": 400}, ["max_seq_length: 400", "128"]),
    "both": ({"resume": True, "overwrite_output_dir": True}, ["resume"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_faults_are_found_before_anything_is_written(world, name):
    values, says = REFUSED[name]
    with pytest.raises(UserError) as caught:
        train(settings(world, "run-refused", **values))
    assert all(word in str(caught.value) for word in says), str(caught.value)
    assert not (world / "run-refused").exists()


def test_all_faults_come_at_once(world):
    with pytest.raises(UserError) as caught:
        train(settings(world, "run-refused", train_tasks=["moood"], metric_for_best_model="x.y", data_dir="nowhere"))
    assert len(caught.value.faults) == 3


@pytest.mark.parametrize("kind", ["a file", "below a file", "foreign", "a run"])
def test_output_folders_that_cannot_be_used(copy, kind):
    run = copy / "run"
    if kind == "a file":
        run.write_text("x", encoding="utf-8")
    elif kind == "below a file":
        (copy / "file").write_text("x", encoding="utf-8")
        run = copy / "file" / "run"
    else:
        run.mkdir()
        (run / ("notes.txt" if kind == "foreign" else "config.yml")).write_text("x", encoding="utf-8")
    before = sorted(
        (path, path.read_bytes()) for path in copy.rglob("*") if path.is_file() and ".features" not in str(path)
    )
    with pytest.raises(UserError, match="output_dir"):
        train(settings(copy, str(run)))
    after = sorted(
        (path, path.read_bytes()) for path in copy.rglob("*") if path.is_file() and ".features" not in str(path)
    )
    assert before == after


def test_bad_rows_are_reported_before_the_run_folder_is_made(copy):
    with open(copy / "data" / "mood" / "dev.jsonl", "a", encoding="utf-8") as file:
        file.write('{"text": "x", "label": "angry"}\n')
    with pytest.raises(UserError, match=r"dev.jsonl:10.*angry"):
        train(settings(copy))
    assert not (copy / "run").exists()


SCORED = {  # what is asked for, where no dev row has a label, and what is said; None: it trains
    "a named metric": ({"metric_for_best_model": "mood.acc"}, "metric_for_best_model: mood.acc: no row of mood.dev "),
    "a set's metric": ({"metric_for_best_model": "mood.far/acc"}, "mood.far/acc: no row of mood.far "),
    "early stopping": ({"early_stopping_patience": 1}, "early_stopping_patience: 1: no dev row .*\\(mood\\)"),
    "a task that has labels": (
        {"early_stopping_patience": 1, "eval_tasks": ["mood", "stsb"], "max_steps": 1}, None,
    ),
    "no comparison": ({"max_steps": 1}, None),
}  # fmt: skip


@pytest.mark.parametrize("name", SCORED)
def test_checkpoints_are_not_compared_by_rows_without_labels(copy, name):
    text = (copy / "defs.yml").read_text(encoding="utf-8")
    (copy / "defs.yml").write_text(text.replace("mood:\n", "mood:\n  eval_sets: {far: {}}\n", 1), encoding="utf-8")
    for place in ("mood", "far"):
        write_rows(copy / "data" / place / "dev.jsonl", text_rows(6, None, pair=False))
    values, says = SCORED[name]
    config = settings(copy, train_tasks=["mood"], **values)
    if says is None:
        assert train(config)["train"]["steps"] == 1
    else:
        with pytest.raises(UserError, match=says):
            train(config)
        assert not (copy / "run").exists()


def test_resuming_with_other_settings_names_them(copy):
    train(settings(copy, max_steps=2))
    with pytest.raises(UserError) as caught:
        train(settings(copy, max_steps=2, resume=True, learning_rate=0.5, seed=7))
    assert "learning_rate: 0.5" in str(caught.value) and "seed: 7" in str(caught.value)
    text = (copy / "defs.yml").read_text(encoding="utf-8")
    (copy / "defs.yml").write_text(text.replace("[ACC, F1MAC]", "[ACC]"), encoding="utf-8")
    with pytest.raises(UserError, match="task_def: the definitions differ"):
        train(settings(copy, max_steps=2, resume=True))


def test_resuming_on_other_data_is_refused(copy):
    train(settings(copy, num_train_epochs=1))
    write_rows(copy / "data" / "mood" / "train.jsonl", text_rows(5, ["sad"], pair=False))
    (copy / "run" / "all_results.json").unlink()
    with pytest.raises(UserError, match="steps, this one has"):
        train(settings(copy, num_train_epochs=1, resume=True))


def test_overwriting_removes_what_a_run_wrote_and_nothing_else(copy):
    train(settings(copy, max_steps=3))
    (copy / "run" / "notes.txt").write_text("mine", encoding="utf-8")
    results = train(settings(copy, max_steps=2, overwrite_output_dir=True))
    assert results["train"]["steps"] == 2
    assert (copy / "run" / "notes.txt").is_file()
    assert max(line["step"] for line in read_lines(copy / "run" / "metrics.jsonl")) == 2


# --- the rest -----------------------------------------------------------------------------------------------------


def test_with_early_stopping_the_model_is_the_best_one(copy, monkeypatch):
    scores, weights = [20.0, 50.0, 10.0, 10.0], {}
    evaluate = run_module.Evaluator.evaluate

    def scripted(self, tasks=None, split="dev"):
        table = evaluate(self, tasks, split)
        weights[len(weights)] = {k: v.clone() for k, v in self.model.heads.state_dict().items()}
        table["mood"]["acc"] = scores[len(weights) - 1] if len(weights) <= len(scores) else 50.0
        return table

    monkeypatch.setattr(run_module.Evaluator, "evaluate", scripted)
    config = settings(
        copy,
        eval_steps=2,
        max_steps=20,
        early_stopping_patience=2,
        metric_for_best_model="mood.acc",
        train_tasks=["mood"],
    )
    results = train(config)
    assert results["train"]["stopped_early"] and results["train"]["steps"] == 8
    assert results["train"]["model_step"] == results["train"]["best_step"] == 4
    saved = load_file(copy / "run" / "model" / "heads.safetensors")
    assert all(torch.equal(saved[name], weights[1][name]) for name in saved)
    assert not all(torch.equal(saved[name], weights[3][name]) for name in saved)


def test_a_part_of_the_training_rows(world):
    results = train(settings(world, "run-part", max_train_samples=5, max_eval_samples=4, train_tasks=["mood"]))
    assert results["train"]["rows"] == {"mood": {"labelled": 3, "unlabelled": 0, "left_out": 2}}
    assert results["train"]["examples"] == 3
    assert len(read_lines(world / "run-part" / "predictions" / "mood.dev.jsonl")) == 4


def test_batch_sizes_and_weights_of_a_task(copy):
    text = (copy / "defs.yml").read_text(encoding="utf-8")
    (copy / "defs.yml").write_text(text.replace("mood:\n", "mood:\n  batch_size: 13\n"), encoding="utf-8")
    assert train(settings(copy, train_tasks=["mood"]))["train"]["steps"] == 2


def test_a_full_disk_at_the_end_says_how_to_finish(copy, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_module, "write_json", full)
    with pytest.raises(RunError, match="No space left on device.*--resume"):
        train(settings(copy, max_steps=1))


def test_a_run_starts_from_another(tmp_path: Path, tiny_model_dir):
    """Encoder and heads of the same tasks are those of the run; a task that it had not gets a fresh head."""
    world = write_world(tmp_path, tiny_model_dir("bert"))
    train(settings(world, "first", train_tasks=["mood"]))
    start = {"init_from": world / "first", "model_name_or_path": ""}
    nothing = {"learning_rate": 1e-12, "max_steps": 1, "warmup_ratio": 0.0}
    train(settings(world, "second", train_tasks=["mood", "stsb"], **start, **nothing))
    first, second = (MultiTaskModel.load(world / run / "model") for run in ("first", "second"))
    ours, theirs = second.state_dict(), first.state_dict()
    assert set(theirs) < set(ours)
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-8) for name in theirs)


def test_a_start_that_is_no_run_is_refused(tmp_path: Path, tiny_model_dir):
    world = write_world(tmp_path, tiny_model_dir("bert"))
    with pytest.raises(UserError, match="init_from: .*nowhere: no finished run"):
        train(settings(world, "x", train_tasks=["mood"], init_from=world / "nowhere", model_name_or_path=""))
    (world / "done" / "model").mkdir(parents=True)
    (world / "done" / "model" / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match="model_name_or_path: .*not together with init_from"):
        train(settings(world, "x", train_tasks=["mood"], init_from=world / "done"))


@pytest.mark.parametrize(
    ("given", "needed"),
    [
        ({"sampling_temperature": 3.0}, "sampling temperature"),
        ({"main_task_ratio": 0.7}, "sampling main_ratio"),
        ({"main_task": "mood"}, "sampling main_ratio or sampling_order main_last"),
        ({"task_weighting_learning_rate": 0.1}, "task_weighting uncertainty"),
    ],
)
def test_a_setting_without_effect_is_refused(world, given, needed):
    (key,) = given
    with pytest.raises(UserError, match=f"{key}: .*: without effect without {needed}"):
        train(settings(world, "in-vain", train_tasks=["mood"], **given))
