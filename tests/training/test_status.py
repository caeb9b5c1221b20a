"""`status.json` and `mtrobust status`: running, finished, stopped, killed, failed, and folders that are no runs."""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from mtrobust.cli import main
from mtrobust.errors import RunError
from mtrobust.training import status
from mtrobust.training.trainer import Interrupted
from tests.training.fake import Step, trainer

SETTINGS = {"max_steps": 12, "logging_steps": 3, "eval_steps": 4, "save_steps": 4}


def begun(run, **values):
    """A trainer whose run has the configuration that makes its folder one."""
    run.mkdir(parents=True)
    (run / "config.yml").write_text("seed: 1\n", encoding="utf-8")
    return trainer(run, **(SETTINGS | values))


def train(made):
    with made.monitor.watched():
        made.train()


def told(capsys, *words, code=0):
    capsys.readouterr()
    assert main(["status", *map(str, words)]) == code
    found = capsys.readouterr()
    return json.loads(found.out) if "--json" in words else (found.out if not code else found.err)


def test_a_running_run(tmp_path, capsys):
    seen = {}

    def on_event(kind, step):
        if (kind, step) in (("log", 3), ("log", 9), ("saving", 8)):
            seen[kind, step] = told(capsys, tmp_path / "runs", "--json")[0]
            seen["text"] = told(capsys, tmp_path / "runs")

    train(begun(tmp_path / "runs" / "one", on_event=on_event))
    first, later = seen["log", 3], seen["log", 9]
    assert (first["state"], first["pid"], first["host"]) == ("running", os.getpid(), socket.gethostname())
    assert (first["step"], first["total"], first["checkpoint"], first["metrics"]) == (3, 12, None, {})
    assert first["examples_per_second"] > 0 and first["seconds_left"] > 0 and 0 <= first["seen"] < 60
    assert (later["step"], later["checkpoint"], later["evaluated_step"]) == (9, "step-8", 8)
    assert set(later["losses"]) <= {"a", "b"} and set(later["losses"]["a"]) == {"loss", "task", "fake/change"}
    assert later["metrics"]["a"]["acc"] > 0 and later["best"]["of"] == "mean" and later["best"]["step"] in (4, 8)
    assert later["epoch"] == pytest.approx(9 / 16)
    head, row, sign, *details = seen["text"].strip().split("\n")
    assert head.split() == ["run", "state", "step", "epoch", "ex/s", "left", "best", "checkpoint"]
    assert row.split()[:6] == [str(tmp_path / "runs" / "one"), "running", "9/12", "(75", "%)", "0.56"]
    assert f"training, process {os.getpid()} on" in sign
    assert any(line.startswith("    a: loss ") for line in details)
    assert any(line.startswith("    a: dev @8  acc ") for line in details)


def test_a_finished_run(tmp_path, capsys):
    train(begun(tmp_path / "one"))
    (found,) = told(capsys, tmp_path / "one", "--json")
    assert (found["state"], found["step"], found["checkpoint"], found["message"]) == ("finished", 12, "step-12", None)
    assert "resume" not in found
    assert len(told(capsys, tmp_path / "one").strip().split("\n")) == 2


def test_a_failed_run_says_why(tmp_path, capsys):
    step = Step()
    step.hook = lambda batch, loss: loss * math.nan if batch.step == 6 else loss
    with pytest.raises(RunError):
        train(begun(tmp_path / "one", step=step))
    (found,) = told(capsys, tmp_path / "one", "--json")
    assert (found["state"], found["step"], found["checkpoint"]) == ("failed", 6, "step-4")
    assert found["message"].startswith("step 7, task '") and "loss is not finite" in found["message"]
    text = told(capsys, tmp_path / "one")
    assert "loss is not finite" in text
    assert f"goes on with: mtrobust train {tmp_path / 'one' / 'config.yml'} --resume" in text


def test_a_bug_has_its_kind_in_the_message(tmp_path, capsys):
    def on_event(kind, step):
        if step == 2:
            raise KeyError("oops")

    with pytest.raises(KeyError):
        train(begun(tmp_path / "one", on_event=on_event))
    (found,) = told(capsys, tmp_path / "one", "--json")
    assert (found["state"], found["message"]) == ("failed", "KeyError: 'oops'")


def test_a_run_that_was_asked_to_stop_and_goes_on(tmp_path, capsys):
    made = begun(tmp_path / "one")
    made.on_event = lambda kind, step: setattr(made.signals, "received", signal.SIGTERM) if step == 5 else None
    with pytest.raises(Interrupted):
        train(made)
    (found,) = told(capsys, tmp_path / "one", "--json")
    assert (found["state"], found["checkpoint"]) == ("stopped", "step-6") and "stopped by SIGTERM" in found["message"]
    again = trainer(tmp_path / "one", resume=True, **SETTINGS)
    train(again)
    (found,) = told(capsys, tmp_path / "one", "--json")
    assert (found["state"], found["step"], found["message"]) == ("finished", 12, None)
    assert found["evaluated_step"] == 12 and found["best"]["score"] == pytest.approx(again.state.best_score)


def written(run, **facts):
    run.mkdir(parents=True, exist_ok=True)
    (run / "config.yml").write_text("seed: 1\n", encoding="utf-8")
    known = {"state": "running", "pid": os.getpid(), "host": socket.gethostname(), "updated": time.time(), "step": 3}
    (run / "status.json").write_text(json.dumps(known | {"total": 12} | facts), encoding="utf-8")
    return run


def test_a_killed_run_is_told_from_a_running_one(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    time.sleep(0.01)
    run = written(tmp_path / "one", pid=ended.pid, born=status.born(ended.pid))
    ended.wait()
    found = status.read_status(run)
    assert found["state"] == "stopped" and f"process {ended.pid} is gone without a last word" in found["message"]
    # the number is in use again, by a process that began at another time
    if status.born(os.getpid()) is not None:
        assert status.read_status(written(run, born=status.born(os.getpid()) - 5))["state"] == "stopped"
    assert status.read_status(written(run, born=status.born(os.getpid())))["state"] == "running"


def test_a_process_that_ended_and_was_not_waited_for_is_gone():
    ended = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    began = status.born(ended.pid)
    if began is None:
        pytest.skip("this system does not say when a process began")
    ended.stdout.read()
    for _ in range(500):
        if status.born(ended.pid) == 0:
            break
        time.sleep(0.01)
    assert not status.alive(ended.pid, began)
    ended.wait()


def test_runs_on_other_machines_are_known_by_their_signs(tmp_path):
    elsewhere = {"host": "elsewhere.invalid", "pid": 1}
    assert status.read_status(written(tmp_path / "one", **elsewhere))["state"] == "running"
    found = status.read_status(written(tmp_path / "one", **elsewhere, updated=time.time() - 3600))
    assert found["state"] == "stopped"
    assert found["message"] == "no sign of process 1 on elsewhere.invalid for 60 minutes"


def test_signs_of_life_between_reports_are_few(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(status.time, "monotonic", lambda: now[0])
    made = status.Status(tmp_path, 0, 1000)
    seen = []
    for step in range(1, 101):
        now[0] += 0.5
        made.step(step)
        seen.append(json.loads((tmp_path / "status.json").read_text(encoding="utf-8"))["step"])
    assert sorted(set(seen)) == list(range(0, 101, 10))
    assert [path.name for path in tmp_path.iterdir()] == ["status.json"]


def test_a_status_that_cannot_be_written_stops_nothing(tmp_path):
    made = status.Status(tmp_path / "missing", 0, 10)
    made.write(step=4)
    assert made.facts["step"] == 4


def test_runs_of_earlier_versions(tmp_path, capsys):
    run = written(tmp_path / "one")
    (run / "status.json").unlink()
    (found,) = told(capsys, run, "--json")
    assert found["state"] == "stopped" and found["message"].startswith("no status.json")
    (run / "model").mkdir()
    train_figures = {"steps": 7, "best_step": 6, "best_score": 50.0, "metric_for_best_model": "mean"}
    (run / "all_results.json").write_text(json.dumps({"a": {"acc": 50.0}, "train": train_figures}), encoding="utf-8")
    (found,) = told(capsys, run, "--json")
    assert (found["state"], found["step"], found["metrics"]) == ("finished", 7, {"a": {"acc": 50.0}})


def test_several_runs_and_a_damaged_one(tmp_path, capsys):
    written(tmp_path / "run-10", state="finished")
    written(tmp_path / "run-2", state="failed", message="step 4: no")
    names = [row.split()[0] for row in told(capsys, tmp_path).strip().split("\n") if not row.startswith(" ")]
    assert names == ["run", str(tmp_path / "run-2"), str(tmp_path / "run-10")]
    (tmp_path / "run-10" / "status.json").write_text("{", encoding="utf-8")
    err = told(capsys, tmp_path, code=2)
    assert err.count("\n") == 1 and err.startswith(f"error: {tmp_path / 'run-10' / 'status.json'}: is not JSON")


def test_bad_input_is_one_line(tmp_path, capsys):
    assert told(capsys, tmp_path / "nowhere", code=2) == (
        f"error: {tmp_path / 'nowhere'}: no such folder, and no folder matches it\n"
    )
    err = told(capsys, tmp_path, code=2)
    assert err.count("\n") == 1 and "neither a run folder" in err
    assert told(capsys, code=2).count("\n") == 1
