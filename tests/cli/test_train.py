"""`mtrobust train` from the command line to the finished run folder, and what can only fail once a model is read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.world import fingerprint

RECIPE = """\
task_def: defs.yml
data_dir: data
model_name_or_path: model
output_dir: run
max_seq_length: 32
max_steps: 6
eval_steps: 3
save_steps: 3
logging_steps: 1
per_device_train_batch_size: 2
per_device_eval_batch_size: 4
progress: "off"
use_cpu: true
"""


@pytest.fixture
def ready(world: Path, tiny_model_dir: Callable[[str], Path]) -> Path:
    """The small world with a real tiny encoder and a recipe."""
    shutil.rmtree(world / "model")
    shutil.copytree(tiny_model_dir("bert"), world / "model")
    (world / "recipe.yml").write_text(RECIPE, encoding="utf-8")
    return world


def test_train_evaluate_predict_export(ready: Path, mtrobust: Callable):
    ended = mtrobust("train", "recipe.yml", "--perturb", "rapt", "--perturb.layers", "1-2", "--perturb.eta", 1)
    assert ended.code == 0, ended.err
    results = json.loads((ready / "run" / "all_results.json").read_text(encoding="utf-8"))
    assert {"pairs", "mood", "score", "qa"} <= set(results)
    for name in ("config.yml", "task_def.yml", "metrics.jsonl", "model", "checkpoints", "tensorboard"):
        assert (ready / "run" / name).exists(), name

    evaluated = mtrobust("evaluate", "run", "--tasks", "pairs,qa", "--use_cpu")
    assert evaluated.code == 0, evaluated.err
    again = json.loads((ready / "run" / "all_results.json").read_text(encoding="utf-8"))
    assert again["pairs"] == pytest.approx(results["pairs"]) and again["qa"] == pytest.approx(results["qa"])

    flags = ["--task", "qa", "--input", "data/qa/dev.jsonl", "--output", "answers.jsonl", "--use_cpu"]
    assert mtrobust("predict", "run", *flags).code == 0
    assert len((ready / "answers.jsonl").read_text(encoding="utf-8").strip().split("\n")) == 2
    exported = mtrobust("export", "run", "--task", "mood", "--out", "hf", "--use_cpu")
    assert exported.code == 0 and (ready / "hf" / "config.json").is_file(), exported.err

    before = fingerprint(ready / "run")
    taken = mtrobust("train", "recipe.yml")
    assert taken.code == 2 and "holds a run" in taken.err and fingerprint(ready / "run") == before


def test_a_run_goes_on_from_its_own_configuration(ready: Path, mtrobust: Callable):
    assert mtrobust("train", "recipe.yml", "--train_tasks", "mood").code == 0
    before = (ready / "run" / "all_results.json").read_bytes()
    ended = mtrobust("train", "run/config.yml", "--resume")
    assert ended.code == 0, ended.err
    assert (ready / "run" / "all_results.json").read_bytes() == before
    overwritten = mtrobust("train", "recipe.yml", "--train_tasks", "mood", "--overwrite_output_dir", "--max_steps", 2)
    assert overwritten.code == 0, overwritten.err


def test_few_labels_from_the_command_line(ready: Path, mtrobust: Callable):
    flags = ["--train_tasks", "pairs,qa", "--label_fraction", 0.5, "--perturb", "rpt", "--data_fraction", 0.75]
    ended = mtrobust("train", "recipe.yml", *flags)
    assert ended.code == 0 and "task pairs: 2 rows with label, 1 without" in ended.err, ended.err
    results = json.loads((ready / "run" / "all_results.json").read_text(encoding="utf-8"))
    assert results["train"]["rows"] == {
        "pairs": {"labelled": 2, "unlabelled": 1, "left_out": 0},
        "qa": {"labelled": 1, "unlabelled": 1, "left_out": 0},
    }
    ended = mtrobust("train", "recipe.yml", "--output_dir", "other", "--train_tasks", "mood", "--label_fraction", 0.25)
    assert ended.code == 0, ended.err
    assert "task mood: 3 rows without label are left out: standard learns from labels only; " in ended.err


def test_a_task_without_labels_is_refused(ready: Path, mtrobust: Callable):
    path = ready / "data" / "mood" / "train.jsonl"
    path.write_text('{"text": "A film."}\n{"text": "Another.", "label": null}\n', encoding="utf-8")
    ended = mtrobust("train", "recipe.yml", "--perturb", "rapt")
    assert ended.code == 2 and "error: mood: none of its 2 training rows has a label" in ended.err, ended.err
    assert not (ready / "run").exists()


@pytest.mark.parametrize("key", ["label_fraction", "data_fraction"])
@pytest.mark.parametrize("value", ["0", "1.5", "-0.1", "nan", "half", "none"])
def test_fractions_out_of_range_are_refused(key: str, value: str, world: Path, mtrobust: Callable):
    base = ["--task_def", "defs.yml", "--data_dir", "data", "--model_name_or_path", "model", "--output_dir", "run"]
    ended = mtrobust("train", *base, f"--{key}={value}")
    lines = ended.err.strip().split("\n")
    assert ended.code == 2 and len(lines) == 1 and f"--{key}: {value}" in lines[0], ended.err
    assert not (world / "run").exists()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--perturb rapt --perturb.layers 1-9", ["1-9", "3 layers", "1-3"]),
        ("--perturb smart --perturb.layers 4", ["4", "3 layers"]),
        ("--freeze_layers 9", ["freeze_layers", "9", "3"]),
        ("--model_name_or_path gpt", ["gpt2"]),
        ("--model_name_or_path no_weights", ["no_weights"]),
        ("--model_name_or_path cut", ["cut"]),
        ("--model_name_or_path no_tokenizer", ["no_tokenizer"]),
        ("--model_name_or_path not_on_the_hub_at_all", ["not_on_the_hub_at_all"]),
        ("--max_seq_length 4096", ["4096", "128"]),
        ("--metric_for_best_model mood.f7", ["metric_for_best_model", "mood.f7"]),
    ],
)
def test_faults_that_only_the_model_shows(flags: str, says: list[str], ready: Path, mtrobust: Callable):
    for name in ("gpt", "no_weights", "cut", "no_tokenizer"):
        shutil.copytree(ready / "model", ready / name)
    (ready / "gpt" / "config.json").write_text('{"model_type": "gpt2", "n_layer": 2}', encoding="utf-8")
    (ready / "no_weights" / "model.safetensors").unlink()
    (ready / "cut" / "model.safetensors").write_bytes((ready / "cut" / "model.safetensors").read_bytes()[:1000])
    for path in (ready / "no_tokenizer").glob("*token*"):
        path.unlink()
    ended = mtrobust("train", "recipe.yml", "--train_tasks", "mood", *flags.split())
    assert ended.code == 2, ended.err
    assert all(text in ended.err for text in says), ended.err
    assert "Traceback" not in ended.err and not (ready / "run").exists()


def test_a_faulty_row_stops_the_run_before_it_begins(ready: Path, mtrobust: Callable):
    path = ready / "data" / "mood" / "train.jsonl"
    path.write_text(path.read_text(encoding="utf-8") + '{"text": "x", "label": "ugly"}\n', encoding="utf-8")
    ended = mtrobust("train", "recipe.yml")
    assert ended.code == 2 and "data/mood/train.jsonl:5: label" in ended.err and not (ready / "run").exists()


def test_other_settings_than_the_run_s_are_no_resuming(ready: Path, mtrobust: Callable):
    flags = ["--train_tasks", "mood", "--max_steps", 2]
    assert mtrobust("train", "recipe.yml", *flags).code == 0
    before = fingerprint(ready / "run")
    ended = mtrobust("train", "recipe.yml", *flags, "--resume", "--learning_rate", 0.1, "--perturb", "rpt")
    assert ended.code == 2 and "--learning_rate: 0.1: the run in run has 5e-05" in ended.err
    assert "--perturb:" in ended.err and "mtrobust train run/config.yml --resume" in ended.err
    assert fingerprint(ready / "run") == before


def test_a_run_that_diverges_ends_with_one_line_and_code_1(ready: Path, mtrobust: Callable):
    ended = mtrobust("train", "recipe.yml", "--train_tasks", "score", "--learning_rate", 1e30, "--max_steps", 9)
    errors = [line for line in ended.err.split("\n") if line.startswith("error: ")]
    assert ended.code == 1 and len(errors) == 1 and "score" in errors[0], ended.err
    assert "Traceback" not in ended.err and not (ready / "run" / "model").exists()


def test_a_start_that_is_no_run_is_one_fault(ready: Path, mtrobust: Callable):
    text = (ready / "recipe.yml").read_text(encoding="utf-8").replace("model_name_or_path: model\n", "")
    (ready / "recipe.yml").write_text(text, encoding="utf-8")
    ended = mtrobust("train", "recipe.yml", "--train_tasks", "mood", "--init_from", "nowhere")
    assert ended.code == 2 and len(ended.err.strip().split("\n")) == 1 and "--init_from: nowhere" in ended.err, (
        ended.err
    )
