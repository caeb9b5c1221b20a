"""What a step keeps for its backward pass, counted exactly: the counter itself, and `rapt` against two whole passes."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest
import torch

from mtrobust.models.multitask import MultiTaskModel
from mtrobust.tasks.base import Batch
from mtrobust.tasks.taskdef import TaskDef
from tests.models.tiny import FAMILIES, tiny_encoder, tiny_inputs

BENCH = Path(__file__).resolve().parents[2] / "scripts" / "bench"
TASK = TaskDef(name="mood", task_type="Classification", data_format="PremiseOnly", labels=["sad", "glad"])


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """scripts/bench/memory.py, which is no part of a package."""
    monkeypatch.syspath_prepend(BENCH)
    return importlib.import_module("memory")


def batch_of(family: str, rows: int, length: int) -> Batch:
    labels = torch.arange(rows) % 2
    targets = {"labels": labels, "labelled": torch.ones(rows, dtype=torch.bool)}
    return Batch("mood", tiny_inputs(family, rows, length), targets, torch.arange(rows), step=1)


def test_storages_count_once_and_as_long_as_they_are_held(memory: ModuleType):
    weight, x = torch.ones(8, 4, requires_grad=True), torch.ones(16, 8, requires_grad=True)
    with memory.Saved([weight]) as saved:
        hidden = x @ weight  # keeps x; the weight is known
        assert saved.live == 16 * 8 * 4
        out = hidden.exp()  # keeps its result
        assert saved.live == 16 * 8 * 4 + 16 * 4 * 4
        total = (out * out[:1]).sum()  # keeps two views of one storage, which is kept already
        assert saved.live == 16 * 8 * 4 + 16 * 4 * 4
        total.backward()
    assert saved.live == 0 and saved.peak == 16 * 8 * 4 + 16 * 4 * 4


def test_an_inner_backward_pass_gives_back_what_it_kept(memory: ModuleType):
    x = torch.ones(10, requires_grad=True)
    with memory.Saved([]) as saved:
        torch.autograd.grad(x.exp().sum(), x)
        assert saved.live == 0
        x.exp().sum().backward()
    assert saved.peak == 40


@pytest.mark.parametrize("family", FAMILIES)
def test_rapt_keeps_no_more_than_its_layers_twice_and_the_others_once(memory: ModuleType, family: str):
    model = MultiTaskModel(tiny_encoder(family), {"mood": TASK}).train()
    bench, batch = memory.Bench(model, TASK), batch_of(family, rows=6, length=24)
    layers = model.encoder.num_layers
    two = memory.kept(model, batch, lambda: memory.two_passes(model, batch))
    ratios = [bench.of(batch, "rapt", layers=site) / two for site in range(layers)]
    assert all(ratio <= memory.bound(site, layers) for site, ratio in enumerate(ratios))
    assert ratios == sorted(ratios, reverse=True) and ratios[0] - ratios[-1] > 0.2
