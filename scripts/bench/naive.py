"""Methods written the plain way around a Hugging Face classifier: whole passes, every token, nothing shared.

What a user would write first, and what the benchmark of methods is held against. Each function gives the loss of one
batch: `losses[name](model, inputs, labels)`, BERT classifiers only. Passes and gradients are as many as at the methods'
defaults (`rapt` at layers 1 to 3); noise is simplified where that costs nothing: it falls on padding too, and `smart`
is written as `vat`, whose steps are as many.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

Inputs = dict[str, Tensor]


def _logits(model: nn.Module, inputs: Inputs, noise: Tensor | None = None, layer: int = 0) -> Tensor:
    """One whole pass. noise: added to the input of layer number `layer` (0: the embedding output)."""
    plain: Any = model
    if noise is None:
        return plain(**inputs).logits
    target = plain.base_model.encoder.layer[layer]
    handle = target.register_forward_pre_hook(lambda module, args: (args[0] + noise, *args[1:]))
    try:
        return plain(**inputs).logits
    finally:
        handle.remove()


def _like_states(model: nn.Module, inputs: Inputs) -> Tensor:
    plain: Any = model
    return torch.randn(*inputs["input_ids"].shape, plain.config.hidden_size)


def _kl(clean: Tensor, noisy: Tensor) -> Tensor:
    return functional.kl_div(noisy.log_softmax(-1), clean.softmax(-1), reduction="batchmean")


def standard(model: nn.Module, inputs: Inputs, labels: Tensor) -> Tensor:
    """Cross-entropy."""
    return functional.cross_entropy(_logits(model, inputs), labels)


def rpt(model: nn.Module, inputs: Inputs, labels: Tensor, layer: int = 0) -> Tensor:
    """A clean pass and one with noise of norm 1e-3 per token."""
    clean = _logits(model, inputs)
    noise = 1e-3 * functional.normalize(_like_states(model, inputs), dim=-1)
    noisy = _logits(model, inputs, noise, layer)
    return functional.cross_entropy(clean, labels) + _kl(clean.detach(), noisy)


def rapt(model: nn.Module, inputs: Inputs, labels: Tensor) -> Tensor:
    """As `rpt`, at a layer drawn from 1 to 3."""
    return rpt(model, inputs, labels, random.randint(1, 3))


def vat(model: nn.Module, inputs: Inputs, labels: Tensor) -> Tensor:
    """One ascent step, then the pass with the noise found; gradients of all weights are formed on the way."""
    clean = _logits(model, inputs)
    start = (1e-3 * functional.normalize(_like_states(model, inputs), dim=-1)).requires_grad_(True)
    # The plain way: `backward`, whose gradients of the weights are thrown away.
    kept = [(p, p.grad) for p in model.parameters()]
    _kl(clean.detach(), _logits(model, inputs, start)).backward()
    for parameter, grad in kept:
        parameter.grad = grad
    assert start.grad is not None
    noise = 1e-3 * functional.normalize(start.grad, dim=-1)
    return functional.cross_entropy(clean, labels) + _kl(clean.detach(), _logits(model, inputs, noise))


def freelb(model: nn.Module, inputs: Inputs, labels: Tensor) -> Tensor:
    """Three passes, the ascent between them; the gradients of the first two are added up at once."""
    delta = 1e-2 * functional.normalize(_like_states(model, inputs), dim=-1)
    for step in range(3):
        delta = delta.detach().requires_grad_(True)
        loss = functional.cross_entropy(_logits(model, inputs, delta), labels) / 3
        if step == 2:
            return loss
        loss.backward()
        assert delta.grad is not None
        delta = delta + 0.1 * delta.grad / delta.grad.norm(dim=(1, 2), keepdim=True).clamp_min(1e-12)
    raise AssertionError


losses: dict[str, Callable[[nn.Module, Inputs, Tensor], Tensor]] = {
    "standard": standard, "rpt": rpt, "rapt": rapt, "vat": vat, "smart": vat, "freelb": freelb,
}  # fmt: skip
