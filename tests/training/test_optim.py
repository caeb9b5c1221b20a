"""Learning rates, decay and freezing land on the right parameters, for every encoder family."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from mtrobust.errors import UserError
from mtrobust.models.multitask import load_encoder
from mtrobust.training.optim import OPTIMIZERS, check_depth, depths, freeze, lr_factor, param_groups, warmup_steps
from mtrobust.training.state import load_optimizer_tensors, optimizer_tensors
from tests.tiny import FAMILIES
from tests.training.fake import Step, config


@pytest.fixture
def model(tiny_model_dir):
    def make(family):
        made = torch.nn.Module()
        made.encoder = load_encoder(str(tiny_model_dir(family)))
        made.heads = torch.nn.ModuleDict({"a": torch.nn.Linear(32, 2)})
        return made

    return make


@pytest.mark.parametrize("family", FAMILIES)
def test_every_encoder_parameter_has_a_place(model, family):
    made = model(family)
    places = depths(made)
    assert set(places) == {id(parameter) for parameter in made.encoder.base.parameters()}
    assert places[id(made.encoder.word_embeddings.weight)] == 0
    names = {name: places[id(parameter)] for name, parameter in made.encoder.base.named_parameters()}
    if len(made.encoder.layer_list) == 3:
        assert set(names.values()) - {4} == {0, 1, 2, 3}
        inside = [name for name, place in names.items() if place == 2]
        assert inside and all(name.startswith(f"{made.encoder.family.layers}.1.") for name in inside)
    top = {name for name, place in names.items() if place == 4}
    assert all("pooler" in name or "final" in name for name in top)
    assert family not in ("bert", "modernbert", "t5") or top


@pytest.mark.parametrize("family", FAMILIES)
def test_freezing_the_first_layers(model, family, tmp_path):
    made = model(family)
    if family == "albert":
        (fault,) = check_depth(made, config(tmp_path, freeze_layers=2))
        assert "share their weights" in fault
        freeze(made, config(tmp_path, freeze_embeddings=True))
        assert not made.encoder.word_embeddings.weight.requires_grad
        assert all(parameter.requires_grad for parameter in made.encoder.layer_list.parameters())
        return
    assert check_depth(made, config(tmp_path, freeze_layers=2)) == []
    freeze(made, config(tmp_path, freeze_layers=2))
    learning = [any(p.requires_grad for p in layer.parameters()) for layer in made.encoder.layer_list]
    assert learning == [False, False, True]
    assert not made.encoder.word_embeddings.weight.requires_grad
    assert all(parameter.requires_grad for parameter in made.heads.parameters())


def test_depths_that_the_encoder_does_not_have_are_refused(tmp_path):
    step = Step()
    (fault,) = check_depth(step.model, config(tmp_path, freeze_layers=9))
    assert "freeze_layers: 9" in fault and "0-3" in fault
    (shared,) = check_depth(
        SimpleNamespace(encoder=SimpleNamespace(layer_list=[1], num_layers=6, model_type="albert")),
        config(tmp_path, layerwise_lr_decay=0.9),
    )
    assert shared.startswith("layerwise_lr_decay: 0.9")


def test_rates_and_decay_by_group(tmp_path):
    step = Step()
    settings = config(
        tmp_path, learning_rate=0.1, layerwise_lr_decay=0.5, head_learning_rate=0.7, weight_decay=0.01, freeze_layers=1
    )
    freeze(step.model, settings)
    groups = param_groups(step, step.model, settings)
    found = {name: (group["lr"], group["weight_decay"]) for group in groups for name in group["names"]}
    base = "model.encoder.base."
    assert found == {
        **{f"{base}layer.1.weight": (0.025, 0.01), f"{base}layer.1.bias": (0.025, 0.0)},
        **{f"{base}layer.2.weight": (0.05, 0.01), f"{base}layer.2.bias": (0.05, 0.0)},
        **{f"{base}final_norm.weight": (0.1, 0.0), f"{base}final_norm.bias": (0.1, 0.0)},
        **{f"model.heads.{head}.weight": (0.7, 0.01) for head in "ab"},
        **{f"model.heads.{head}.bias": (0.7, 0.0) for head in "ab"},
    }


def test_nothing_left_to_train_is_refused(tmp_path):
    step = Step()
    step.requires_grad_(False)
    with pytest.raises(UserError, match="nothing is left"):
        param_groups(step, step.model, config(tmp_path))


def test_optimizers(tmp_path):
    assert set(OPTIMIZERS) == {"adamw", "adamax", "adafactor"}
    settings = config(tmp_path, adam_beta1=0.8, adam_beta2=0.95, adam_epsilon=1e-5)
    step = Step()
    made = OPTIMIZERS["adamw"](param_groups(step, step.model, settings), settings)
    assert made.defaults["fused"] and made.defaults["betas"] == (0.8, 0.95) and made.defaults["eps"] == 1e-5
    made = OPTIMIZERS["adamax"](param_groups(step, step.model, settings), settings)
    assert isinstance(made, torch.optim.Adamax) and made.defaults["betas"] == (0.8, 0.95)


def adafactor(weight, gradients, rate, decay):
    """Shazeer and Stern 2018, Algorithm 4 with Section 7.2's decay and Section 6's clipping at 1, at a fixed rate."""
    rows, columns, weight = torch.zeros(len(weight)), torch.zeros(weight.shape[1]), weight.clone()
    for t, gradient in enumerate(gradients, start=1):
        squares, keep = gradient.square() + 1e-30, 1 - t**-0.8
        rows = keep * rows + (1 - keep) * squares.mean(1)
        columns = keep * columns + (1 - keep) * squares.mean(0)
        update = gradient / (torch.outer(rows, columns) / rows.mean()).sqrt()
        update = update / max(1.0, float(update.square().mean().sqrt()))
        weight = weight * (1 - rate * decay) - rate * update
    return weight


def test_adafactor_takes_the_rate_as_it_is_and_keeps_rows_and_columns(tmp_path):
    settings = config(tmp_path, optim="adafactor", learning_rate=0.01, weight_decay=0.1)
    step = Step()
    made = OPTIMIZERS["adafactor"](param_groups(step, step.model, settings), settings)
    weight = step.model.encoder.base.layer[0].weight
    start, gradients = weight.detach().clone(), [torch.randn_like(weight) * (i + 1) for i in range(3)]
    for gradient in gradients:
        weight.grad = gradient.clone()
        made.step()
    torch.testing.assert_close(weight.detach(), adafactor(start, gradients, 0.01, 0.1), atol=1e-6, rtol=1e-5)
    assert sum(value.numel() for value in made.state[weight].values() if torch.is_tensor(value)) < weight.numel() / 2


def test_the_state_of_adafactor_comes_back(tmp_path):
    settings = config(tmp_path, optim="adafactor", learning_rate=0.01)
    torch.manual_seed(3)
    found = []
    for pause in (False, True):
        step = Step()
        made = OPTIMIZERS["adafactor"](param_groups(step, step.model, settings), settings)
        generator = torch.Generator().manual_seed(1)
        for number in range(6):
            for parameter in step.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            made.step()
            if pause and number == 2:
                saved = {key: value.clone() for key, value in optimizer_tensors(made).items()}
                made = OPTIMIZERS["adafactor"](param_groups(step, step.model, settings), settings)
                load_optimizer_tensors(made, saved)
        found.append([parameter.detach().clone() for parameter in step.parameters()])
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))


# --- schedules ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["linear", "cosine"])
@pytest.mark.parametrize("warmup", [0, 4])
def test_schedules_equal_those_of_transformers(tmp_path, kind, warmup):
    from transformers import get_scheduler

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = get_scheduler(kind, optimizer, num_warmup_steps=warmup, num_training_steps=20)
    settings = config(tmp_path, lr_scheduler_type=kind, warmup_steps=warmup)
    for number in range(20):
        assert lr_factor(settings, number, 20) == pytest.approx(theirs.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        theirs.step()


def test_other_schedules_and_the_warmup(tmp_path):
    constant = config(tmp_path, lr_scheduler_type="constant", warmup_ratio=0.1)
    assert [lr_factor(constant, n, 20) for n in (0, 1, 2, 19)] == [0, 0.5, 1, 1]
    polynomial = config(tmp_path, lr_scheduler_type="polynomial", warmup_ratio=0)
    assert [lr_factor(polynomial, n, 4) for n in range(4)] == [1, 0.5625, 0.25, 0.0625]
    assert warmup_steps(config(tmp_path, warmup_ratio=0.1), 15) == math.ceil(1.5)
    assert warmup_steps(config(tmp_path, warmup_ratio=0.1, warmup_steps=0), 15) == 0
    assert lr_factor(config(tmp_path, warmup_ratio=1.0), 9, 10) == 0.9
