"""Whole runs of a T5 that writes answers, alone and beside another task: learning, bits, accumulation, refusals."""

from __future__ import annotations

import pytest
import torch
import yaml

from mtrobust.errors import UserError
from mtrobust.evaluation.evaluator import Evaluator
from mtrobust.evaluation.predict import predict
from mtrobust.evaluation.run_folder import load_run
from mtrobust.training.run import train
from tests.evaluation.runs import read_lines
from tests.t5 import question_rows, write_rows, write_t5
from tests.training.test_distributed import train_command
from tests.training.test_run import state_of
from tests.training.world import losses, settings

DEFS = """
qa:
  task_type: SequenceGeneration
  data_format: Generation
  metric_meta: [EmF1, Exact]
  split_names: [train, dev]
  max_len: 48
  max_target_len: 8
  num_beams: 2
news_qa:
  task_type: SequenceGeneration
  data_format: Generation
  data: qa
  split_names: [train, dev]
mood:
  task_type: Classification
  data_format: PremiseOnly
  labels: [sad, calm, glad]
  split_names: [train, dev]
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    (folder / "defs.yml").write_text(DEFS, encoding="utf-8")
    rows = question_rows(26, 1)
    moods = [{"id": row["id"], "text": row["context"], "label": i % 3} for i, row in enumerate(rows)]
    for split, part in (("train", slice(0, 26)), ("dev", slice(0, 5))):
        write_rows(folder / "data" / "qa" / f"{split}.jsonl", rows[part])
        write_rows(folder / "data" / "mood" / f"{split}.jsonl", moods[part])
    write_t5(folder / "model")
    write_t5(folder / "dropping", dropout=0.1)
    return folder


def of(world, run: str, tasks: list[str] | None = None, method: str | None = None, **values):
    return settings(world, run, method, train_tasks=tasks or ["qa"], **values)


CASES = [
    pytest.param(["qa"], "swep", "adamw", marks=pytest.mark.slow, id="alone"),
    pytest.param(["qa", "mood"], "smart", "adafactor", id="beside another task"),
]


@pytest.mark.parametrize(("tasks", "method", "optim"), CASES)
def test_interrupted_runs_end_with_the_same_bits(world, tasks, method, optim):
    values = {
        "eval_steps": 4, "save_steps": 3, "logging_steps": 2, "num_train_epochs": 2, "optim": optim,
        "model_name_or_path": str(world / "dropping"),
    }  # fmt: skip
    name = "-".join(tasks)
    train(of(world, f"whole-{name}", tasks, method, **values))

    class Killed(Exception):
        pass

    for point in (("step", 5), ("saving", 9), ("evaluated", 12)):

        def on_event(kind, step, point=point):
            if (kind, step) == point:
                raise Killed

        with pytest.raises(Killed):
            train(of(world, f"broken-{name}", tasks, method, resume=True, **values), on_event)
    train(of(world, f"broken-{name}", tasks, method, resume=True, **values))
    whole, broken = state_of(world / f"whole-{name}"), state_of(world / f"broken-{name}")
    assert all(torch.equal(value, broken[0][key]) for key, value in whole[0].items())
    assert any("decoder.block" in key for key in whole[0]) and whole[1:] == broken[1:]


@pytest.mark.parametrize("method", ["swep", "smart"])
def test_four_times_four_equals_sixteen(world, method):
    """Rates this small leave the weights alone, so that each step compares the same weights on both sides."""
    common = {"learning_rate": 1e-9, "overwrite_output_dir": True, "num_train_epochs": 2}
    train(of(world, "run-16", None, method, per_device_train_batch_size=16, **common))
    train(of(world, "run-4x4", None, method, gradient_accumulation_steps=4, **common))
    large, small = losses(world / "run-16"), losses(world / "run-4x4")
    assert len(large) == len(small) == 4
    for (_, a), (_, b) in zip(large, small, strict=True):
        for name in ("loss", "task"):
            assert b[name] == pytest.approx(a[name], rel=1e-5), name
    norms = [
        [line["grad_norm"] for line in read_lines(world / run / "metrics.jsonl") if "grad_norm" in line]
        for run in ("run-16", "run-4x4")
    ]
    assert norms[1] == pytest.approx(norms[0], rel=1e-4)


def test_evaluation_and_prediction_agree_for_any_batch_size(world, tmp_path):
    config = of(world, "run-short", ["qa", "mood"], max_steps=6, bf16=True)
    results = train(config)
    assert set(results["qa"]) == {"em", "f1", "exact"}
    run = load_run(config.output_dir)
    records = read_lines(config.output_dir / "predictions" / "qa.dev.jsonl")
    assert [set(record) for record in records] == [{"id", "prediction", "log_probability"}] * 5
    (made,) = (config.output_dir / "predictions" / "qa.dev").iterdir()
    assert made.name == "predictions.json"
    texts = []
    for size in (1, 4):
        evaluator = Evaluator(run.model, run.tasks, config.data_dir, run.tokenizer, max_len=64, batch_size=size)
        evaluator.evaluate(["qa"])
        texts.append([p.record["prediction"] for p in evaluator.results["qa", "dev"].predictions])
    assert texts[0] == texts[1]
    blank = [{"text": f"question: {row['question']} context: {row['context']}"} for row in question_rows(5, 1)]
    write_rows(tmp_path / "in.jsonl", blank)
    assert predict(run, "qa", tmp_path / "in.jsonl", tmp_path / "out.jsonl", batch_size=2, bf16=False) == 5
    assert [record["prediction"] for record in read_lines(tmp_path / "out.jsonl")] == texts[0]


def test_rows_without_a_target_are_refused(world, tmp_path):
    rows = question_rows(6, 1)
    for row in rows[:2]:
        del row["answers"]
    write_rows(tmp_path / "qa" / "train.jsonl", rows)
    write_rows(tmp_path / "qa" / "dev.jsonl", rows)
    with pytest.raises(UserError, match="qa: 2 of its training rows have no label, without which SequenceGeneration"):
        train(of(world, "run-blank", method="rpt", data_dir=tmp_path))
    assert not (world / "run-blank").exists()


def test_labels_cannot_be_held_out(world):
    with pytest.raises(UserError) as caught:
        train(of(world, "run-held", ["qa", "mood"], "rpt", label_fraction=0.5))
    (fault,) = caught.value.faults
    assert fault.startswith("label_fraction: 0.5: qa (SequenceGeneration) cannot train on a row without label")


def test_adafactor_has_no_use_for_adams_settings(world):
    with pytest.raises(UserError, match="adam_beta1: 0.8: without effect with optim adafactor"):
        train(of(world, "run-adam", optim="adafactor", adam_beta1=0.8))


def test_a_run_starts_from_another_ones_decoder(world):
    first, second = of(world, "run-first", max_steps=4), None
    train(first)
    common = {"init_from": world / "run-first", "model_name_or_path": str(world / "run-first" / "model")}
    second = of(world, "run-second", ["qa", "mood"], max_steps=1, learning_rate=1e-12, warmup_ratio=0, **common)
    train(second)
    one, two = (load_run(config.output_dir).model.heads["qa"].state_dict() for config in (first, second))
    assert all(torch.allclose(one[name], two[name], atol=1e-8) for name in one)
    with pytest.raises(UserError, match=r"news_qa.task_type: SequenceGeneration: .* of the decoder are not in it"):
        train(of(world, "run-third", ["news_qa"], max_steps=1, **common))


@pytest.mark.slow
def test_it_learns_to_copy_short_answers(tmp_path):
    """Held-out questions: any of the 24 words would be right 4 % of the time, any of the sentence's three 33 %."""
    write_t5(tmp_path / "model", d_model=48, d_ff=96)
    (tmp_path / "defs.yml").write_text(DEFS, encoding="utf-8")
    rows = question_rows(640, 1)
    seen = {(row["question"], row["context"]) for row in rows}
    held = [row for row in question_rows(80, 2) if (row["question"], row["context"]) not in seen]
    write_rows(tmp_path / "data" / "qa" / "train.jsonl", rows)
    write_rows(tmp_path / "data" / "qa" / "dev.jsonl", held)
    config = of(
        tmp_path, "run", num_train_epochs=12, per_device_train_batch_size=32, learning_rate=5e-3, warmup_ratio=0.05,
        logging_steps=40, eval_steps=240,
    )  # fmt: skip
    assert len(held) > 40
    results = train(config)
    assert results["qa"]["em"] > 60 and results["qa"]["exact"] > 60


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one(world):
    for run, processes, size in (("alone", 1, 4), ("both", 2, 2)):
        config = of(world, run, ["qa", "mood"], "swep", per_device_train_batch_size=size, num_train_epochs=2)
        (world / f"{run}.yml").write_text(yaml.safe_dump(config.model_dump(mode="json")), encoding="utf-8")
        train_command(world / f"{run}.yml", processes)
    alone, both = losses(world / "alone"), losses(world / "both")
    assert [task for task, _ in alone] == [task for task, _ in both] and len(alone) > 20
    for (_, one), (_, two) in zip(alone, both, strict=True):
        assert two["loss"] == pytest.approx(one["loss"], abs=1e-5, rel=1e-4)
    texts = [read_lines(world / run / "predictions" / "qa.dev.jsonl") for run in ("alone", "both")]
    assert [r["prediction"] for r in texts[0]] == [r["prediction"] for r in texts[1]]
