"""Checkpoint files: whole or not there; what is damaged is passed over; failures to write leave the rest alone."""

from __future__ import annotations

import errno
import json
import logging
import os

import pytest
import torch

from mtrobust.errors import RunError, UserError
from mtrobust.training import checkpoint as disk
from mtrobust.training import state as memory

TENSORS = {"step": {"w": torch.arange(6.0).reshape(2, 3).T}, "optimizer": {}}


def saved(folder, *steps):
    return [disk.save_checkpoint(folder, step, TENSORS, {"at": step}) for step in steps]


def test_what_was_saved_comes_back(tmp_path):
    (path,) = saved(tmp_path, 7)
    tensors, state = disk.load_checkpoint(path)
    assert torch.equal(tensors["step"]["w"], TENSORS["step"]["w"])
    assert tensors["optimizer"] == {} and state == {"at": 7}
    assert (tmp_path / "last").resolve() == path
    assert {file.suffix for file in path.iterdir()} == {".safetensors", ".json", ""}


def test_the_latest_step_is_found_by_number(tmp_path):
    saved(tmp_path, 9, 10, 100)
    assert disk.last_complete(tmp_path).name == "step-100"
    assert disk.last_complete(tmp_path / "nowhere") is None


def damage(kind, path):
    if kind == "no marker":
        (path / "COMPLETE").unlink()
    elif kind == "empty marker":
        (path / "COMPLETE").write_text("")
    elif kind == "strange marker":
        (path / "COMPLETE").write_text("[]")
    elif kind == "binary marker":
        (path / "COMPLETE").write_bytes(b"\xff\xfe")
    elif kind == "short file":
        with open(path / "step.safetensors", "r+b") as file:
            file.truncate(20)
    elif kind == "file gone":
        (path / "optimizer.safetensors").unlink()
    elif kind == "state gone":
        (path / "state.json").unlink()
    elif kind == "empty folder":
        for file in path.iterdir():
            file.unlink()


DAMAGES = [
    "no marker",
    "empty marker",
    "strange marker",
    "binary marker",
    "short file",
    "file gone",
    "state gone",
    "empty folder",
]


@pytest.mark.parametrize("kind", DAMAGES)
def test_an_incomplete_checkpoint_is_passed_over_with_a_warning(tmp_path, kind, caplog):
    first, second = saved(tmp_path, 1, 2)
    damage(kind, second)
    with caplog.at_level(logging.WARNING):
        assert disk.last_complete(tmp_path) == first
    assert "step-2" in caplog.text and "passed over" in caplog.text


def test_a_temporary_folder_is_no_checkpoint(tmp_path):
    saved(tmp_path, 1)
    (tmp_path / ".tmp-step-2").mkdir()
    (tmp_path / "step-x").mkdir()
    assert disk.last_complete(tmp_path).name == "step-1"
    disk.prune(tmp_path, 1)
    assert not (tmp_path / ".tmp-step-2").exists()


@pytest.mark.parametrize("call", ["fsync", "rename", "replace"])
@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_full_disk_leaves_the_earlier_checkpoint(tmp_path, monkeypatch, call, at):
    saved(tmp_path, 1)
    calls, original = [], getattr(os, call)

    def failing(*args, **kwargs):
        calls.append(args)
        if len(calls) == at:
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(*args, **kwargs)

    monkeypatch.setattr(os, call, failing)
    try:
        saved(tmp_path, 2)
    except RunError as error:
        assert "No space left" in str(error) and "step-2" in str(error)
        assert "--resume" in str(error)
    else:
        assert len(calls) < at, "the failure was swallowed"
    monkeypatch.undo()
    found = disk.last_complete(tmp_path)
    assert found.name == "step-2" if disk.fault(tmp_path / "step-2") is None else found.name == "step-1"
    assert not list(tmp_path.glob(".tmp-*"))


def test_safetensors_failing_to_write_is_a_run_error(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise disk.SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(disk, "save_file", full)
    with pytest.raises(RunError, match="there is none yet"):
        saved(tmp_path, 2)


def test_a_folder_that_cannot_be_made_is_a_run_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="could not be written"):
        saved(tmp_path / "file" / "checkpoints", 1)


def test_a_step_can_be_written_again(tmp_path):
    saved(tmp_path, 3)
    disk.save_checkpoint(tmp_path, 3, TENSORS, {"at": "again"})
    assert disk.load_checkpoint(tmp_path / "step-3")[1] == {"at": "again"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last", "step-3"]


def test_pruning_keeps_the_latest_and_the_protected(tmp_path):
    saved(tmp_path, 1, 2, 3, 4, 5)
    disk.prune(tmp_path, 2, ["step-2"])
    assert [path.name for path in disk.steps(tmp_path)] == ["step-2", "step-4", "step-5"]


def test_damage_inside_a_file_of_the_right_size_is_a_clear_error(tmp_path):
    (path,) = saved(tmp_path, 1)
    raw = (path / "step.safetensors").read_bytes()
    (path / "step.safetensors").write_bytes(b"\xff" * len(raw))
    with pytest.raises(UserError, match="remove this folder"):
        disk.load_checkpoint(path)
    (path / "state.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        disk.load_checkpoint(path)


# --- what goes into one -------------------------------------------------------------------------------------------


def test_generators_come_back(tmp_path):
    import random

    import numpy as np

    memory.seed_all(5)
    draw = lambda: (torch.randn(3).tolist(), random.gauss(0, 1), np.random.standard_normal(3).tolist())  # noqa: E731
    draw()
    kept = json.loads(json.dumps(memory.rng_state(torch.device("cpu"))))
    expected = [draw(), draw()]
    memory.set_rng_state(kept, torch.device("cpu"))
    assert [draw(), draw()] == expected


def test_tied_weights_are_saved_once_and_load():
    tied = torch.nn.Module()
    tied.a, tied.b = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)
    tied.b.weight = tied.a.weight
    assert list(memory.module_tensors(tied)) == ["a.weight", "a.bias", "b.bias"]
    content = {name: torch.full_like(value, 2) for name, value in memory.module_tensors(tied).items()}
    memory.load_module_tensors(tied, content, "here")
    assert tied.b.weight is tied.a.weight and bool((tied.b.weight == 2).all())


def test_another_model_is_refused_by_name():
    a, b = torch.nn.Linear(3, 2), torch.nn.Linear(4, 2, bias=False)
    with pytest.raises(UserError, match=r"weight: \(2, 3\) saved, the model has \(2, 4\)"):
        memory.load_module_tensors(b, memory.module_tensors(a), "step-3")
    with pytest.raises(UserError, match="bias: not in the checkpoint"):
        memory.load_module_tensors(a, memory.module_tensors(b), "step-3")


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.Adamax])
def test_optimizer_moments_come_back_by_name(kind):
    def make():
        torch.manual_seed(1)
        net = torch.nn.ModuleDict({"x": torch.nn.Linear(3, 3), "never": torch.nn.Linear(2, 2)})
        named = list(net.named_parameters())
        return net, kind([{"params": [p for _, p in named], "names": [n for n, _ in named], "lr": 0.1}])

    def go(net, optimizer, times):
        for _ in range(times):
            net["x"](torch.ones(2, 3)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()

    net, optimizer = make()
    go(net, optimizer, 3)
    moments = {name: value.clone() for name, value in memory.optimizer_tensors(optimizer).items()}
    assert not any(name.startswith("never") for name in moments)
    weights = {name: value.detach().clone() for name, value in net.state_dict().items()}
    go(net, optimizer, 2)
    again, other = make()
    again.load_state_dict(weights)
    memory.load_optimizer_tensors(other, moments)
    go(again, other, 2)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), again.parameters(), strict=True))
