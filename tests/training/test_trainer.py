"""What the loop does beside resuming: skipping, clipping, best checkpoints, files it writes, bfloat16, budgets."""

from __future__ import annotations

import errno
import json
import math

import pytest
import torch

from mtrobust.errors import RunError
from mtrobust.training import checkpoint as disk
from mtrobust.training.monitor import Monitor, finite
from mtrobust.training.progress import Rate, clock
from tests.training.fake import Data, Step, config, trainer, weights


def lines(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").strip().split("\n")]


def poisoned(at, value):
    step = Step()
    step.hook = lambda batch, loss: loss * value if batch.step == at else loss
    return step


# --- non-finite losses --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_non_finite_loss_stops_the_run_with_its_place(tmp_path, value):
    made = trainer(tmp_path, step=poisoned(4, value), save_steps=2)
    with pytest.raises(RunError, match=r"step 5, task '[ab]': loss is not finite \(rows .*on_nonfinite: skip"):
        made.train()
    assert disk.last_complete(tmp_path / "checkpoints").name == "step-4"
    assert all(bool(value.isfinite().all()) for value in weights(made).values())


def test_the_term_at_fault_is_named(tmp_path):
    step = Step()
    with torch.no_grad():
        step.model.encoder.base.embeddings.weight.fill_(math.nan)
    with pytest.raises(RunError, match="step 1, task .*: task is not finite"):
        trainer(tmp_path, step=step).train()


def test_a_finite_loss_with_non_finite_gradients_is_caught(tmp_path):
    step = Step()
    weight = step.model.encoder.base.layer[0].weight
    step.hook = lambda batch, loss: loss + (weight - weight.detach()).abs().sum().sqrt() * (batch.step == 2)
    with pytest.raises(RunError, match="gradient norm is not finite"):
        trainer(tmp_path, step=step).train()


def test_skipping_leaves_out_the_step_and_counts_it(tmp_path):
    made = trainer(tmp_path, step=poisoned(4, math.nan), on_nonfinite="skip", logging_steps=1)
    before = {}
    made.on_event = lambda kind, n: before.setdefault(n, weights(made)) if kind == "step" else None
    state = made.train()
    assert state.skipped == 1 and state.step == made.total
    assert all(torch.equal(before[4][name], before[5][name]) for name in before[4])
    assert any(not torch.equal(before[5][name], before[6][name]) for name in before[5])
    at_five = next(line for line in lines(tmp_path) if line["step"] == 5)
    assert at_five["train"] == {} and at_five["grad_norm"] is None


# --- clipping, schedules ------------------------------------------------------------------------------------------


def test_gradients_are_clipped_and_the_norm_before_is_logged(tmp_path, monkeypatch):
    made = trainer(tmp_path, max_grad_norm=0.01, logging_steps=1, max_steps=3)
    norms, original = [], made.optimizer.step

    def step():
        grads = [p.grad for p in made.parameters if p.grad is not None]
        norms.append(float(torch.nn.utils.get_total_norm(grads)))
        original()

    monkeypatch.setattr(made.optimizer, "step", step)
    made.train()
    assert norms == pytest.approx([0.01] * 3, rel=1e-3)
    assert all(line["grad_norm"] > 0.05 for line in lines(tmp_path) if "train" in line)


def test_logged_rates_follow_the_schedule(tmp_path):
    trainer(tmp_path, logging_steps=1, max_steps=10, warmup_ratio=0.2, learning_rate=0.5).train()
    rates = [line["lr"] for line in lines(tmp_path) if "lr" in line]
    assert rates == pytest.approx([0, 0.25, *(0.5 * (10 - n) / 8 for n in range(2, 10))])


@pytest.mark.parametrize("optim", ["adamw", "adamax"])
def test_training_learns(tmp_path, optim):
    made = trainer(tmp_path, optim=optim, num_train_epochs=20, data=Data(0.0), dropout=0.0, learning_rate=0.03)
    made.train()
    assert made.state.metrics["a"]["acc"] > 80 and made.state.metrics["b"]["acc"] > 70


def test_frozen_parts_stay(tmp_path):
    from mtrobust.training.optim import freeze

    step = Step()
    freeze(step.model, config(tmp_path, freeze_layers=2))
    before = {name: value.clone() for name, value in step.state_dict().items()}
    made = trainer(tmp_path, step=step, freeze_layers=2)
    made.train()
    changed = {name for name, value in weights(made).items() if not torch.equal(value, before[name])}
    assert changed and not any("embeddings" in name or "layer.0" in name or "layer.1" in name for name in changed)


def test_bfloat16_computes_in_half_precision_and_keeps_float32_weights(tmp_path):
    step, seen = Step(), set()
    step.model.encoder.base.layer[0].register_forward_hook(lambda module, args, out: seen.add(out.dtype))
    made = trainer(tmp_path, step=step, bf16=True, max_steps=4)
    made.train()
    assert torch.bfloat16 in seen
    assert {p.dtype for p in made.parameters} == {torch.float32}


def test_token_budget(tmp_path):
    made = trainer(tmp_path, max_tokens_per_batch=64, num_train_epochs=1)
    seen = []
    fetch = made.fetch
    made.fetch = lambda *asked: (seen.append(fetch(*asked)), seen[-1])[1]
    made.train()
    assert all(batch.inputs["input_ids"].numel() <= 64 for batch in seen)
    assert sum(len(batch.row_ids) for batch in seen) == 59


# --- evaluation, best, early stopping -----------------------------------------------------------------------------


def scripted(values):
    """An evaluation that gives these accuracies for task a, one after the other."""
    left = list(values)
    return lambda model: {"a": {"acc": left.pop(0)}}


def test_the_best_checkpoint_is_kept_and_pointed_to(tmp_path):
    made = trainer(
        tmp_path, evaluation=scripted([10.0, 30.0, 20.0, 25.0, 5.0]), eval_steps=2, save_steps=5, max_steps=10,
        save_total_limit=1,
    )  # fmt: skip
    at_best = {}
    made.on_event = lambda kind, n: at_best.update(weights(made)) if (kind, n) == ("evaluated", 4) else None
    state = made.train()
    assert (state.best_step, state.best_score) == (4, 30.0)
    folder = tmp_path / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["best", "last", "step-10", "step-4"]
    assert (folder / "best").resolve().name == "step-4" and (folder / "last").resolve().name == "step-10"
    assert made.load_best()
    assert all(torch.equal(value, at_best[name]) for name, value in weights(made).items())
    (folder / "step-4" / "COMPLETE").unlink()
    assert not made.load_best()


def test_early_stopping(tmp_path):
    made = trainer(
        tmp_path, evaluation=scripted([10, 20, 15, 20, 99]), eval_steps=2, max_steps=20, early_stopping_patience=2
    )
    state = made.train()
    assert state.stopped_early and state.step == 8 and state.best_step == 4
    assert disk.last_complete(tmp_path / "checkpoints").name == "step-8"


def test_what_checkpoints_are_compared_by(tmp_path):
    metrics = {"a": {"acc": 50.0, "f1": 20.0}, "b": {"acc": math.nan}}
    assert trainer(tmp_path).score(metrics) == 25.0
    assert trainer(tmp_path, metric_for_best_model="a.f1").score(metrics) == 20.0
    assert math.isnan(trainer(tmp_path).score({"a": {}, "b": {}}))
    with pytest.raises(RunError, match="a.f2: the evaluation gives no such metric.*a.acc, a.f1, b.acc"):
        trainer(tmp_path, metric_for_best_model="a.f2").score(metrics)


def test_evaluation_leaves_training_as_it_was(tmp_path):
    """Whatever an evaluation draws, the weights are those of a run that never evaluated."""

    def greedy(model):
        torch.randn(100)
        model.eval()
        return {"a": {"acc": 1.0}}

    one = trainer(tmp_path / "one", evaluation=greedy, eval_steps=1, max_steps=8)
    one.train()
    two = trainer(tmp_path / "two", evaluation=lambda model: {}, eval_steps=100, max_steps=8)
    two.train()
    assert all(torch.equal(value, weights(two)[name]) for name, value in weights(one).items())


# --- what is written ----------------------------------------------------------------------------------------------


def tags(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0})
    board.Reload()
    return {tag: [(event.step, event.value) for event in board.Scalars(tag)] for tag in board.Tags()["scalars"]}


def test_metrics_and_tensorboard_hold_the_same(tmp_path):
    trainer(tmp_path, logging_steps=4, max_steps=10, eval_steps=5).train()
    written, board = lines(tmp_path), tags(tmp_path)
    assert [line["step"] for line in written if "train" in line] == [4, 8, 10]
    assert [line["step"] for line in written if "eval" in line] == [5, 10]
    for name in ("loss", "task", "fake/change", "fake/delta_norm"):
        expected = [(line["step"], line["train"]["a"][name]) for line in written if "a" in line.get("train", {})]
        assert dict(board[f"train/a/{name}"]) == pytest.approx(dict(expected))
    assert {"train/lr", "train/grad_norm", "train/examples_per_second", "eval/a/acc", "eval/b/acc"} <= set(board)
    assert [step for step, _ in board["eval/a/acc"]] == [5, 10]
    assert written[0]["epoch"] == pytest.approx(4 / 16)


def test_resuming_leaves_each_step_once_on_the_board(tmp_path):
    def on_event(kind, step):
        if (kind, step) == ("step", 9):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path, on_event, logging_steps=1, max_steps=12, save_steps=5).train()
    trainer(tmp_path, logging_steps=1, max_steps=12, save_steps=5, resume=True).train()
    assert [step for step, _ in tags(tmp_path)["train/lr"]] == list(range(1, 13))


def test_a_full_disk_ends_the_run_with_one_clear_error(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(disk, "save_file", full)
    with pytest.raises(RunError, match="step-3.*No space left on device.*there is none yet"):
        trainer(tmp_path, save_steps=3).train()


def test_a_full_disk_while_writing_metrics(tmp_path, monkeypatch):
    made = trainer(tmp_path, logging_steps=2)

    class Full:
        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

        def close(self):
            self.closed = True

    start = made.monitor.start

    def broken(*args):
        start(*args)
        made.monitor._file.close()
        made.monitor._file = Full()

    monkeypatch.setattr(made.monitor, "start", broken)
    with pytest.raises(RunError, match="No space left on device.*--resume"):
        made.train()


def test_rates_leave_out_pauses(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("mtrobust.training.progress.time.monotonic", lambda: now[0])
    rate = Rate(10, 30)
    rate.add(40)
    now[0], rate.paused = 114.0, 10.0
    assert rate.lap() == pytest.approx(10) and rate.left(20) == pytest.approx(4) and rate.overall() == pytest.approx(10)
    assert [clock(5), clock(65), clock(3725)] == ["0:05", "1:05", "1:02:05"]


def test_a_process_that_is_not_the_first_writes_nothing(tmp_path):
    monitor = Monitor(tmp_path / "other", config(tmp_path), 5, main=False)
    monitor.start(0, None)
    monitor.add(1, "a", {"loss": 1.0}, 4)
    monitor.log(1, 0.1, 0.5, 1.0)
    monitor.evaluated(1, 0.1, {"a": {"acc": 1.0}})
    monitor.say("nothing")
    assert monitor.state() == {}
    monitor.best(1, 1.0)
    monitor.samples(1, {"a": "text"})
    monitor.close(finished=True)
    assert not (tmp_path / "other").exists()


def test_finite():
    assert finite({"a": {"b": math.nan, "c": 1.5}, "d": -math.inf, "e": "x"}) == {
        "a": {"b": None, "c": 1.5},
        "d": None,
        "e": "x",
    }
