"""Whole runs of a masked language model, alone and beside another task: bits, accumulation, evaluation, the tie."""

from __future__ import annotations

import json

import pytest
import torch
import yaml

from mtrobust.config import PerturbSpec
from mtrobust.errors import UserError
from mtrobust.evaluation.evaluator import Evaluator
from mtrobust.evaluation.predict import predict
from mtrobust.evaluation.run_folder import load_run
from mtrobust.models.multitask import load_encoder
from mtrobust.training.checks import check_run
from mtrobust.training.run import train
from tests.evaluation.runs import read_lines, sentence, write_rows
from tests.training.test_distributed import train_command
from tests.training.test_run import state_of
from tests.training.world import losses, settings, write_world

DEFS = """
lm:
  task_type: MaskLM
  data_format: MLM
  metric_meta: [MaskAcc, PPL]
  split_names: [train, dev]
  max_len: 24
  mlm_probability: 0.3
mood:
  task_type: Classification
  data_format: PremiseOnly
  labels: [sad, calm, glad]
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory, tiny_model_dir):
    folder = write_world(tmp_path_factory.mktemp("world"), tiny_model_dir("bert"))
    (folder / "defs.yml").write_text(DEFS, encoding="utf-8")
    texts = [" ".join(sentence(i + j) for j in range(1 + i % 4)) for i in range(24)]
    rows = [{"id": str(i), "text": text} for i, text in enumerate(texts)]
    write_rows(folder / "data" / "lm" / "train.jsonl", rows)
    write_rows(folder / "data" / "lm" / "dev.jsonl", rows[:8])
    return folder


def of(world, run: str, tasks: list[str] | None = None, method: str | None = None, **values):
    return settings(world, run, method, train_tasks=tasks or ["lm"], **values)


def output_of(model):
    return model.heads["lm"].net.model.get_output_embeddings()


@pytest.fixture(scope="module")
def finished(world):
    config = of(world, "run-finished", num_train_epochs=12, learning_rate=5e-3, logging_steps=10)
    return config, train(config)


def test_it_learns_what_the_texts_are_made_of(finished):
    config, results = finished
    assert results["lm"].keys() == {"acc", "ppl"}
    first, last = (losses(config.output_dir)[i][1]["loss"] for i in (0, -1))
    assert first > 5 and last < 0.75 * first, "192 pieces: log 192 is 5.3"
    assert results["lm"]["acc"] > 5
    records = read_lines(config.output_dir / "predictions" / "lm.dev.jsonl")
    assert [set(record) for record in records] == [{"id", "masked", "right", "nll"}] * 8
    assert sum(r["right"] for r in records) / sum(r["masked"] for r in records) == pytest.approx(
        results["lm"]["acc"] / 100
    )


def test_evaluation_is_the_same_for_any_batch_size_and_part(finished, tmp_path):
    config, results = finished
    run = load_run(config.output_dir)
    assert output_of(run.model).weight is run.model.encoder.word_embeddings.weight
    for size in (1, 5, 64):
        made = Evaluator(run.model, run.tasks, config.data_dir, run.tokenizer, max_len=64, batch_size=size)
        assert made.evaluate()["lm"] == pytest.approx(results["lm"], rel=1e-4), size
    records = read_lines(config.output_dir / "predictions" / "lm.dev.jsonl")
    part = write_rows(tmp_path / "part.jsonl", read_lines(config.data_dir / "lm" / "dev.jsonl")[3:6])
    predict(run, "lm", part, tmp_path / "out.jsonl", batch_size=2)
    for given, expected in zip(read_lines(tmp_path / "out.jsonl"), records[3:6], strict=True):
        assert given.pop("id") == expected.pop("id")
        assert given == pytest.approx(expected, rel=1e-4), "masked by the row's own id, wherever it stands"


@pytest.mark.parametrize("tasks", [["lm"], ["lm", "mood"]], ids=["alone", "beside another task"])
def test_interrupted_runs_end_with_the_same_bits(world, tasks):
    name = "-".join(tasks)
    values = {"eval_steps": 4, "save_steps": 3, "logging_steps": 2, "num_train_epochs": 2}
    train(of(world, f"whole-{name}", tasks, "rapt", **values))

    class Killed(Exception):
        pass

    for point in (("step", 5), ("saving", 9), ("evaluated", 12)):

        def on_event(kind, step, point=point):
            if (kind, step) == point:
                raise Killed

        with pytest.raises(Killed):
            train(of(world, f"broken-{name}", tasks, "rapt", resume=True, **values), on_event)
    train(of(world, f"broken-{name}", tasks, "rapt", resume=True, **values))
    whole, broken = state_of(world / f"whole-{name}"), state_of(world / f"broken-{name}")
    assert all(torch.equal(value, broken[0][key]) for key, value in whole[0].items())
    assert whole[1:] == broken[1:]


@pytest.mark.parametrize("method", ["standard", "rapt", "smart"])
def test_four_times_four_equals_sixteen(world, method):
    """Rates this small leave the weights alone, so that each step compares the same weights on both sides."""
    common = {"learning_rate": 1e-9, "overwrite_output_dir": True, "num_train_epochs": 2}
    train(of(world, "run-16", None, method, per_device_train_batch_size=16, **common))
    train(of(world, "run-4x4", None, method, gradient_accumulation_steps=4, **common))
    large, small = losses(world / "run-16"), losses(world / "run-4x4")
    assert len(large) == len(small) > 3
    for (_, a), (_, b) in zip(large, small, strict=True):
        for name in ("loss", "task"):
            assert b[name] == pytest.approx(a[name], rel=3e-6), name
    norms = [
        [line["grad_norm"] for line in read_lines(world / run / "metrics.jsonl") if "grad_norm" in line]
        for run in ("run-16", "run-4x4")
    ]
    assert norms[1] == pytest.approx(norms[0], rel=1e-5)


def test_masks_are_drawn_anew_in_every_epoch(world):
    config = of(world, "run-anew", learning_rate=1e-9, num_train_epochs=3, per_device_train_batch_size=64)
    train(config)
    found = [figures["loss"] for _, figures in losses(config.output_dir)]
    assert len(found) == 3 and len(set(found)) == 3, "one step an epoch, the same rows and weights"


def test_frozen_embeddings_and_layers_leave_only_the_head(world):
    config = of(world, "run-frozen", freeze_layers=3, max_steps=3)
    train(config)
    model = load_run(config.output_dir).model
    before, after = load_encoder(str(world / "model")).state_dict(), model.encoder.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in after.items() if "pool" not in name)
    assert output_of(model).bias.abs().sum() > 0


def test_what_cannot_be_trained_is_said_at_the_start(world, tiny_model_dir):
    with pytest.raises(UserError, match="lm.task_type: MaskLM: model type 't5' has no Hugging Face class"):
        train(of(world, "run-t5", model_name_or_path=str(tiny_model_dir("t5"))))
    with pytest.raises(UserError, match=r"metric_for_best_model: lm.ppl: .*allowed: mean, lm.acc"):
        check_run(of(world, "run-ppl", metric_for_best_model="lm.ppl"))
    assert not (world / "run-t5").exists()
    smart = PerturbSpec(name="smart", options={"layers": "1-9"})
    with pytest.raises(UserError, match="1-9"):
        train(of(world, "run-smart", perturb=[smart]))


def test_the_saved_definition_is_the_one_that_was_trained(finished):
    config, _ = finished
    text = (config.output_dir / "task_def.yml").read_text(encoding="utf-8")
    assert "mlm_probability: 0.3" in text and "whole_word_masking" not in text
    assert json.loads((config.output_dir / "all_results.json").read_text(encoding="utf-8"))["lm"]["ppl"] > 1


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one(world):
    """The tied matrix has gradients from both of its uses, exchanged once; masked tokens are counted over both."""
    for run, processes, size in (("alone", 1, 4), ("both", 2, 2)):
        config = of(world, run, ["lm", "mood"], per_device_train_batch_size=size, num_train_epochs=2)
        (world / f"{run}.yml").write_text(yaml.safe_dump(config.model_dump(mode="json")), encoding="utf-8")
        train_command(world / f"{run}.yml", processes)
    alone, both = losses(world / "alone"), losses(world / "both")
    assert [task for task, _ in alone] == [task for task, _ in both] and len(alone) > 20
    for (_, one), (_, two) in zip(alone, both, strict=True):
        assert two["loss"] == pytest.approx(one["loss"], abs=1e-5, rel=1e-5)
