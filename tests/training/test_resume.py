"""A run that was interrupted and resumed ends with the same bits as one that was not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from mtrobust.errors import UserError
from mtrobust.training import checkpoint as disk
from mtrobust.training.trainer import Interrupted
from tests.training.fake import trainer, weights

ROOT = Path(__file__).resolve().parents[2]
# Logging, evaluation and saving fall on different steps, so that a checkpoint cuts through open windows.
SETTINGS = {"logging_steps": 4, "eval_steps": 5, "save_steps": 3, "save_total_limit": 1, "num_train_epochs": 1.5}


class Killed(Exception):
    """Stands for the end of the process."""


def outcome(run, made):
    return weights(made), (run / "metrics.jsonl").read_bytes(), asdict(made.state)


def assert_same(a, b):
    assert a[0].keys() == b[0].keys()
    for name, value in a[0].items():
        assert torch.equal(value, b[0][name]), name
    assert a[1] == b[1]
    assert a[2] == b[2]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    run = tmp_path_factory.mktemp("undisturbed")
    made = trainer(run, **SETTINGS)
    made.train()
    return outcome(run, made)


def killing(kind, step):
    def on_event(happened, at):
        if (happened, at) == (kind, step):
            raise Killed

    return on_event


POINTS = [
    *[("step", at) for at in (1, 2, 3, 4, 7, 16, 17, 24)],
    *[("log", at) for at in (4, 12, 24)],
    *[("evaluated", at) for at in (5, 15, 20)],
    *[("saving", at) for at in (3, 9, 24)],
    *[("saved", at) for at in (3, 6, 15, 24)],
]


@pytest.mark.parametrize(("kind", "step"), POINTS, ids=lambda value: str(value))
def test_interrupted_anywhere(tmp_path, undisturbed, kind, step):
    assert undisturbed[2]["step"] == 24
    with pytest.raises(Killed):
        trainer(tmp_path, killing(kind, step), **SETTINGS).train()
    made = trainer(tmp_path, resume=True, **SETTINGS)
    made.train()
    assert_same(outcome(tmp_path, made), undisturbed)


def test_interrupted_inside_a_checkpoint_write(tmp_path, undisturbed, monkeypatch):
    """At each call that reaches the disk while checkpoints are written, the process ends and is started again."""
    original, seen, stop = disk._sync, [], [1]

    def dying(path):
        seen.append(path)
        if len(seen) == stop[0]:
            raise Killed
        original(path)

    monkeypatch.setattr(disk, "_sync", dying)
    for attempt in range(100):
        seen.clear()
        stop[0] = 1 + attempt % 12
        made = trainer(tmp_path, resume=attempt > 0, **SETTINGS)
        try:
            made.train()
        except Killed:
            continue
        break
    assert attempt > 8, "too few interruptions to mean anything"
    assert_same(outcome(tmp_path, made), undisturbed)


def test_several_interruptions_and_a_damaged_checkpoint(tmp_path, undisturbed, caplog):
    for step in (5, 11, 13, 20):
        with pytest.raises(Killed):
            trainer(tmp_path, killing("step", step), resume=True, **(SETTINGS | {"save_total_limit": 3})).train()
    latest = disk.last_complete(tmp_path / "checkpoints")
    (latest / "optimizer.safetensors").unlink()
    made = trainer(tmp_path, resume=True, **(SETTINGS | {"save_total_limit": 3}))
    made.train()
    assert f"{latest.name}: incomplete" in caplog.text
    assert_same(outcome(tmp_path, made), undisturbed)


def test_a_finished_run_stays_as_it_is(tmp_path, undisturbed):
    trainer(tmp_path, **SETTINGS).train()
    made = trainer(tmp_path, resume=True, **SETTINGS)
    made.train()
    assert_same(outcome(tmp_path, made), undisturbed)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_after_the_step_with_a_checkpoint(tmp_path, undisturbed, number):
    def on_event(kind, step):
        if (kind, step) == ("evaluated", 10):
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with pytest.raises(Interrupted) as caught:
        trainer(tmp_path, on_event, **SETTINGS).train()
    assert signal.getsignal(number) is before
    message = str(caught.value)
    assert number.name in message and "after step 11 of 24" in message
    assert f"mtrobust train {tmp_path / 'config.yml'} --resume" in message
    assert disk.last_complete(tmp_path / "checkpoints").name == "step-11"
    made = trainer(tmp_path, resume=True, **SETTINGS)
    made.train()
    assert_same(outcome(tmp_path, made), undisturbed)


def test_resuming_with_other_settings_is_refused(tmp_path):
    trainer(tmp_path, max_steps=4, save_steps=2).train()
    with pytest.raises(UserError, match="belongs to a run of 4 steps, this one has 6"):
        trainer(tmp_path, resume=True, max_steps=6).train()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{}", "state.json has no run, monitor, generators, total"),
        ('{"run": {}, "monitor": {}, "total": 4}', "state.json has no generators"),
        ("[]", "state.json has no contents"),
        ("3", "state.json has no contents"),
    ],
)
def test_a_state_that_lacks_its_parts_is_damaged(tmp_path, content, says):
    trainer(tmp_path, max_steps=4).train()
    path = tmp_path / "checkpoints" / "step-4"
    (path / "state.json").write_text(content, encoding="utf-8")
    marker = json.loads((path / "COMPLETE").read_text(encoding="utf-8")) | {"state.json": len(content)}
    (path / "COMPLETE").write_text(json.dumps(marker), encoding="utf-8")
    with pytest.raises(UserError, match=rf"step-4: cannot be read \({says}\); remove this folder to go on from"):
        trainer(tmp_path, resume=True, max_steps=4).train()


def test_early_stopping_stays_stopped(tmp_path):
    made = trainer(tmp_path, evaluation=lambda model: {"a": {"acc": 50.0}}, eval_steps=2, early_stopping_patience=2)
    made.train()
    assert made.state.step == 6 and made.state.stopped_early and made.state.best_step == 2
    again = trainer(tmp_path, resume=True, eval_steps=2, early_stopping_patience=2)
    again.train()
    assert again.state == made.state


@pytest.mark.slow
def test_sigkill_at_random_moments(tmp_path):
    """Real processes, real SIGKILL, at least 20 times, some of them while a checkpoint is written."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.training.kill", str(tmp_path)],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout.strip().split("\n")[-1])
    assert report["kills"] >= 20 and report["inside_a_write"] >= 3, report
    assert report["different"] == [], report
