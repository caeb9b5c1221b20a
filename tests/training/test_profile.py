"""`profile`: where the time of a step goes is written down, and nothing else changes."""

from __future__ import annotations

import itertools
import json

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import mtrobust.clock
from mtrobust.clock import Clock
from mtrobust.training.profile import PARTS
from mtrobust.training.run import train
from tests.training.test_run import state_of
from tests.training.world import settings, write_world


def test_time_goes_to_the_innermost_part_and_is_shared_by_two_names(monkeypatch):
    ticks = itertools.count()
    monkeypatch.setattr(mtrobust.clock.time, "perf_counter", lambda: float(next(ticks)))
    clock = Clock()
    clock.start("other")
    with clock.part("outer"):
        with clock.part("inner"):
            pass
        with clock.part("inner", "outer"):
            pass
    seconds = clock.stop()
    # readings at: start 0, outer 1, inner 2-3, both 4-5, outer ends 6, stop 7
    assert seconds == {"other": 2.0, "outer": 3.5, "inner": 1.5}


def test_a_clock_that_does_not_run_charges_nothing():
    clock = Clock(wait=lambda: pytest.fail("waited"))
    with clock.part("clean"):
        pass
    assert clock.seconds == {}


@pytest.fixture(scope="module")
def world(tmp_path_factory, tiny_model_dir):
    return write_world(tmp_path_factory.mktemp("world"), tiny_model_dir("bert"))


@pytest.mark.parametrize("method", ["standard", "rapt", "freelb"])
def test_a_profile_is_written_and_changes_no_number(world, method):
    train(settings(world, f"plain-{method}", method))
    train(settings(world, f"timed-{method}", method, profile=4))
    plain, timed = (state_of(world / f"{run}-{method}") for run in ("plain", "timed"))
    assert all(torch.equal(value, timed[0][name]) for name, value in plain[0].items())
    assert plain[1:] == timed[1:]
    assert not (world / f"plain-{method}" / "profile.json").exists()

    record = json.loads((world / f"timed-{method}" / "profile.json").read_text(encoding="utf-8"))
    assert (record["steps"], record["first_step"], record["last_step"]) == (4, 2, 5)
    assert list(record["parts"]) == list(PARTS)
    assert sum(part["mean"] for part in record["parts"].values()) == pytest.approx(record["step"]["mean"])
    assert sum(part["share"] for part in record["parts"].values()) == pytest.approx(1)
    shares = {name: part["share"] for name, part in record["parts"].items()}
    assert all(shares[name] > 0 for name in ("data", "backward", "optimiser"))
    assert (shares["perturbation"] > 0) == (method != "standard")
    assert (shares["clean"] > 0) == (method != "freelb")  # its passes stand in place of the clean one

    board = EventAccumulator(str(world / f"timed-{method}" / "tensorboard"))
    board.Reload()
    written = {tag: board.Scalars(tag) for tag in board.Tags()["scalars"] if tag.startswith("profile/")}
    assert set(written) == {f"profile/{name}" for name in PARTS}
    assert [event.step for event in written["profile/backward"]] == [5]


def test_a_run_shorter_than_its_profile_writes_what_there_is(world):
    train(settings(world, "short", "rapt", profile=100, max_steps=3))
    assert json.loads((world / "short" / "profile.json").read_text(encoding="utf-8"))["steps"] == 2
