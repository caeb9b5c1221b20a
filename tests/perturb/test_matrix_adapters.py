"""Every method on encoders with low-rank adapters: they and the heads learn, the base keeps still."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from mtrobust.models.adapters import new_adapters
from mtrobust.models.multitask import MultiTaskModel
from mtrobust.perturb import METHODS, Passes, build_methods
from mtrobust.training.step import TrainStep
from tests.models.tiny import LAYERS, tiny_encoder
from tests.perturb.cells import batch_of, gradients, spec, task_of

FAMILIES = ["bert", "roberta", "deberta-v2", "distilbert", "modernbert", "t5", "albert"]
SETTINGS = {"lora_r": 4, "lora_alpha": 8.0, "lora_dropout": 0.0, "lora_targets": None, "model_name_or_path": "tiny"}


def step_of(family: str, specs, dropout: float = 0.1, task_type: str = "Classification", **lora) -> TrainStep:
    """As in `cells`, with adapters that are no longer at their start, where they add nothing."""
    encoder = tiny_encoder(family, dropout)
    new_adapters(encoder, SimpleNamespace(**SETTINGS | lora))
    with torch.no_grad():
        for weight in encoder.adapter_weights().values():
            weight.add_(0.1 * torch.randn_like(weight))
    tasks = {task_type.lower(): task_of(task_type, dropout_p=dropout)}
    model = MultiTaskModel(encoder, tasks).train()
    return TrainStep(model, build_methods(specs, tasks, encoder), seed=3).train()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", list(METHODS))
def test_one_step(method, family):
    step = step_of(family, [spec(method)], lora_dropout=0.1)
    encoder = step.model.encoder
    own, still = encoder.adapter_weights(), encoder.reloaded()
    before = [weight.clone() for weight in still]
    _, grads = gradients(step, batch_of(family, "Classification", labelled=[True, False, True, True]))
    assert all(weight.grad is None for weight in still)
    assert all(torch.isfinite(grad).all() for grad in grads.values())
    assert own and [name for name, weight in own.items() if weight.grad is None or not weight.grad.abs().sum()] == []
    assert any(name.startswith("model.heads.") for name in grads)
    learning = [weight for weight in step.parameters() if weight.requires_grad]
    started = [weight.detach().clone() for weight in own.values()]
    torch.optim.AdamW(learning, lr=0.1).step()
    assert all(torch.equal(weight, old) for weight, old in zip(still, before, strict=True))
    assert not any(torch.equal(weight, old) for weight, old in zip(own.values(), started, strict=True))


@pytest.mark.parametrize("task_type", ["Regression", "SpanClassification", "SpanClassificationYN", "MaskLM"])
@pytest.mark.parametrize("method", ["standard", "smart", "swep", "freelb"])
def test_task_types(method, task_type):
    step = step_of("bert", [spec(method)], task_type=task_type)
    _, grads = gradients(step, batch_of("bert", task_type))
    assert all(weight.grad is None for weight in step.model.encoder.reloaded())
    assert sum(".lora_" in name and bool(grad.abs().sum()) for name, grad in grads.items()) == 4 * LAYERS


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", ["rapt", "smart"])
def test_without_noise_a_pass_is_the_clean_one_bit_for_bit(method, family):
    step, batch = step_of(family, [spec(method, layers="all")], dropout=0.0), batch_of(family, "Classification")
    compose = step.methods["classification"]
    passes = Passes(step.model.encoder, step.model.heads["classification"], batch, step.noise, compose.needs)
    clean = passes.out["logits"]
    for site in ("words", *range(LAYERS + 1)):
        if site in compose.needs.sites:
            assert torch.equal(passes.at(site, passes.h(site) + 0).out["logits"], clean), site
    plain, expected = gradients(step_of(family, [], dropout=0.0), batch)
    loss, got = gradients(step_of(family, [spec(method, alpha=0.0, layers=1)], dropout=0.0), batch)
    assert torch.equal(loss, plain) and got.keys() == expected.keys()
    assert all(torch.equal(got[name], grad) for name, grad in expected.items())


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()  # PyTorch multiplies in another order where the weights learn
def test_fresh_adapters_change_nothing(family):
    inputs = batch_of(family, "Classification").inputs
    plain, adapted = tiny_encoder(family).eval(), tiny_encoder(family).eval()
    new_adapters(adapted, SimpleNamespace(**SETTINGS))
    sites = ["words", *range(LAYERS + 1)]
    one, other = plain.record(inputs, sites), adapted.record(inputs, sites)
    assert all(torch.equal(one.h[site], other.h[site]) for site in sites) and torch.equal(one.last, other.last)


def test_shared_masks_repeat_the_dropout_of_adapters():
    step = step_of("bert", [spec("smart", layers=1)], dropout=0.3, lora_dropout=0.5)
    batch, compose = batch_of("bert", "Classification"), step.methods["classification"]
    passes = Passes(step.model.encoder, step.model.heads["classification"], batch, step.noise, compose.needs)
    clean = passes.out["logits"]
    assert torch.equal(passes.at(1, passes.h(1), dropout="shared").out["logits"], clean)
    assert not torch.allclose(passes.at(1, passes.h(1)).out["logits"], clean, atol=1e-3)


def test_averaged_weights_share_what_keeps_still():
    """The copy that the proximal term of `smart` keeps has adapters of its own and the base of the model."""
    step = step_of("bert", [spec("smart", bregman=0.9)])
    copied = next(module for name, module in step.owned.items() if "smart" in name).copy["encoder"]
    encoder = step.model.encoder
    assert {id(weight) for weight in copied.reloaded()} == {id(weight) for weight in encoder.reloaded()}
    theirs, ours = copied.adapter_weights(), encoder.adapter_weights()
    assert theirs.keys() == ours.keys() and all(theirs[name] is not ours[name] for name in ours)
