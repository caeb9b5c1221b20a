"""From trained runs to rows with soft labels to a student, through the commands; SAN on the way."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.test_train import RECIPE
from tests.cli.world import fingerprint

HEADS = {"pairs": "  enable_san: true\n  san_steps: 2\n", "score": "  head_input: mean\n", "mood": "  kd_loss: kl\n"}


@pytest.fixture
def ready(world: Path, tiny_model_dir: Callable[[str], Path]) -> Path:
    """The small world with a real tiny encoder; `pairs` has a SAN, `score` reads the mean."""
    shutil.rmtree(world / "model")
    shutil.copytree(tiny_model_dir("bert"), world / "model")
    (world / "recipe.yml").write_text(RECIPE, encoding="utf-8")
    text = (world / "defs.yml").read_text(encoding="utf-8")
    for name, lines in HEADS.items():
        text = text.replace(f"{name}:\n", f"{name}:\n{lines}")
    (world / "defs.yml").write_text(text, encoding="utf-8")
    return world


def lines(path: Path) -> list[dict]:
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def test_teachers_soft_rows_student(ready: Path, mtrobust: Callable):
    for seed in (1, 2):
        ended = mtrobust("train", "recipe.yml", "--seed", seed, "--output_dir", f"t{seed}", "--learning_rate", 1e-3)
        assert ended.code == 0, ended.err
    for task in ("pairs", "mood", "score"):
        flags = ["--task", task, "--input", f"data/{task}/train.jsonl", "--use_cpu"]
        ended = mtrobust("predict", "t1", "t2", "--soft", *flags, "--output", f"soft/{task}/train.jsonl")
        assert ended.code == 0 and "4 rows with soft labels of 2 runs" in ended.out, ended.err
        single = []
        for run in ("t1", "t2"):
            assert mtrobust("predict", run, *flags, "--output", "one.jsonl").code == 0
            single.append(lines(ready / "one.jsonl"))
        original = lines(ready / "data" / task / "train.jsonl")
        for row, given, one, two in zip(original, lines(ready / "soft" / task / "train.jsonl"), *single, strict=True):
            soft = given.pop("soft_label")
            given.pop("id")
            assert given == row
            if task == "score":
                assert soft == pytest.approx((one["prediction"] + two["prediction"]) / 2)
            else:
                mean = [(a + two["probabilities"][k]) / 2
                        for k, a in one["probabilities"].items()]  # fmt: skip
                assert soft == pytest.approx(mean) and one["probabilities"] != two["probabilities"]
        shutil.copy(ready / "data" / task / "dev.jsonl", ready / "soft" / task / "dev.jsonl")
    # half of the rows have the teachers' word alone
    kept = [row if i % 2 else {k: v for k, v in row.items() if k != "label"}
            for i, row in enumerate(lines(ready / "soft" / "mood" / "train.jsonl"))]  # fmt: skip
    (ready / "soft" / "mood" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
    student = ["--data_dir", "soft", "--train_tasks", "pairs,mood,score", "--output_dir", "student"]
    ended = mtrobust("train", "recipe.yml", *student, "--task_weighting", "uncertainty", "--perturb", "smart")
    assert ended.code == 0, ended.err
    rows = json.loads((ready / "student" / "all_results.json").read_text(encoding="utf-8"))["train"]["rows"]
    assert rows["mood"] == {"labelled": 4, "unlabelled": 0, "left_out": 0}
    before = fingerprint(ready / "student")
    for task in ("pairs", "score"):
        ended = mtrobust("export", "student", "--task", task, "--out", "hf", "--use_cpu")
        assert ended.code == 2 and "cannot be exported: its head" in ended.err and not (ready / "hf").exists()
    assert mtrobust("export", "student", "--task", "mood", "--out", "hf", "--use_cpu").code == 0
    assert fingerprint(ready / "student") == before
    assert mtrobust("evaluate", "student", "--tasks", "pairs", "--use_cpu").code == 0


def test_what_predict_soft_refuses(ready: Path, mtrobust: Callable):
    steps = ["--max_steps", 1]
    assert mtrobust("train", "recipe.yml", "--output_dir", "a", "--train_tasks", "mood,qa", *steps).code == 0
    text = (ready / "defs.yml").read_text(encoding="utf-8").replace("[bad, good]", "[good, bad]")
    (ready / "other.yml").write_text(text, encoding="utf-8")
    flags = ["--output_dir", "b", "--train_tasks", "mood", "--task_def", "other.yml"]
    assert mtrobust("train", "recipe.yml", *flags, *steps).code == 0
    mood = ["--task", "mood", "--input", "data/mood/train.jsonl", "--output", "out.jsonl"]
    qa = ["--task", "qa", "--input", "data/qa/train.jsonl", "--output", "out.jsonl"]
    for words, says in [
        (["a", "b", *mood], "b: several runs only with --soft"),
        (["a", "a", "--soft", *mood], "a: named twice"),
        (["a", "b", "--soft", *mood], "--soft: b: mood.labels: ['good', 'bad']: but a has ['bad', 'good']"),
        (["a", "--soft", *qa], "--soft: qa is SpanClassification, which has no soft labels (supported: Classification"),
        (["a", "nowhere", "--soft", *mood], "nowhere: no such run folder"),
        (["a", "--soft", "--glue_submission", "g"], "--soft: not together with --glue_submission"),
        (["a", "--soft"], "--task: needed"),
    ]:  # fmt: skip
        ended = mtrobust("predict", *words)
        assert ended.code == 2 and says in ended.err, (words, ended.err)
        assert not (ready / "out.jsonl").exists()


def test_main_last_needs_a_task_that_is_trained(ready: Path, mtrobust: Callable):
    ended = mtrobust("train", "recipe.yml", "--sampling_order", "main_last")
    assert ended.code == 2 and "main_task: None: sampling_order main_last needs a training task" in ended.err
    ended = mtrobust("train", "recipe.yml", "--sampling_order", "main_last", "--main_task", "mod")
    assert ended.code == 2 and "--main_task: mod: " in ended.err and "did you mean 'mood'?" in ended.err
    ended = mtrobust("train", "recipe.yml", "--sampling_order", "main_last", "--main_task", "mood", "--max_steps", 2)
    assert ended.code == 0, ended.err


def test_a_bad_soft_label_stops_the_run_before_it_begins(ready: Path, mtrobust: Callable):
    path = ready / "data" / "mood" / "train.jsonl"
    path.write_text(path.read_text(encoding="utf-8") + '{"text": "x", "soft_label": [1, 1]}\n', encoding="utf-8")
    ended = mtrobust("train", "recipe.yml")
    assert ended.code == 2 and "data/mood/train.jsonl:5: soft_label" in ended.err and not (ready / "run").exists()
