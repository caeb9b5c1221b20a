"""What methods say that a step costs, and the ascent in bfloat16."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mtrobust.perturb import METHODS, Compose, Passes
from mtrobust.perturb.noise import KeyedNoise
from tests.perturb.cells import batch_of, step_of


class Six:
    """An encoder of six layers, as far as options ask."""

    model_type, hidden_size, num_layers = "bert", 8, 6

    def width(self, site: Any) -> int:
        return 8


def compose(*specs: tuple[str, dict[str, Any]]) -> Compose:
    return Compose({name: METHODS[name](METHODS[name].Options(**options), Six()) for name, options in specs})


@pytest.mark.parametrize(
    ("specs", "compute", "memory"),
    [
        ([("standard", {})], 1, 1),
        ([("rapt", {"layers": "3"})], 1.5, 1.5),
        ([("rapt", {"layers": "1-3"})], 2 - 2 / 6, 2 - 2 / 6),
        ([("rapt", {"layers": "1-3", "pick": "each"})], 3, 3),
        ([("rapt", {"layers": "3", "alpha": 0})], 1, 1),
        ([("rpt", {})], 2, 2),
        ([("smart", {})], 2 + 2 / 3, 2),
        ([("vat", {"steps": 3})], 4, 2),
        ([("smart", {"bregman": 0.9})], 3, 2),
        ([("jacobian", {"draws": 2})], 3, 3),
        ([("freelb", {})], 3, 1),
        ([("freelb", {}), ("rpt", {})], 6, 2),
        ([("prior_aug", {})], 2, 2),
        ([("word_dropout", {})], 1, 1),
        ([("adv_aug", {})], 2 + 5 * 2 / 3, 2),
        ([("rapt", {"layers": "3"}), ("smart", {"layers": "3"})], 1 + 0.5 + 0.5 * 5 / 3, 2),
    ],
)
def test_the_arithmetic_of_a_step(specs, compute, memory):
    cost = compose(*specs).cost(6)
    assert cost.compute == pytest.approx(compute)
    assert cost.memory == pytest.approx(memory)


@pytest.mark.parametrize("name", ["smart", "vat"])
def test_ascent_steps_in_bfloat16_keep_the_direction_and_leave_the_last_pass(name):
    model = step_of("bert", "Classification", []).model
    batch, found = batch_of("bert", "Classification"), []
    for options in ({}, {"inner_bf16": True}):
        start = {"noise_std": 0.1} if name == "smart" else {"start": 1.0}
        method = METHODS[name](METHODS[name].Options(**start, **options), model.encoder)
        passes = Passes(model.encoder, model.heads["classification"], batch, KeyedNoise(1), method.needs)
        torch.manual_seed(0)
        hidden = passes.h(0)
        found.append(method.gradient(passes, 0, method.start(passes, 0, hidden)).double())
        method.forward(passes)
        assert passes.out["logits"].dtype == torch.float32
    assert torch.cosine_similarity(*(grad.flatten() for grad in found), dim=0) > 0.95
    assert not torch.equal(*found)


@pytest.mark.parametrize("name", ["smart", "vat"])
def test_the_default_start_of_an_ascent_in_bfloat16_is_that_of_a_bfloat16_run(name):
    method = METHODS[name](METHODS[name].Options(inner_bf16=True), Six())
    assert method.rough(torch.zeros(1))
    assert not METHODS[name](METHODS[name].Options(), Six()).rough(torch.zeros(1))
