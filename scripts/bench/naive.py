"""Methods written the plain way around a Hugging Face classifier: whole passes, every token, nothing shared.

What a user would write first, and what the benchmark of methods is held against. Each function gives the loss of one
batch: `losses[name](model, inputs, labels)`, BERT classifiers only; `prepare` comes first, for what needs a network of
their own or a language model. Passes and gradients are as many as at the methods' defaults (`rapt` at layers 1 to 3).
What costs nothing is simplified: noise of `rpt`, `vat`, `swep` falls on padding too, and `smart` is written as `vat`,
whose steps are as many.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AutoModelForMaskedLM

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


def rpt(model: nn.Module, inputs: Inputs, labels: Tensor) -> Tensor:
    """A clean pass and one with noise of norm 1e-3 per token."""
    clean = _logits(model, inputs)
    noise = 1e-3 * functional.normalize(_like_states(model, inputs), dim=-1)
    noisy = _logits(model, inputs, noise)
    return functional.cross_entropy(clean, labels) + _kl(clean.detach(), noisy)


def rapt(model: nn.Module, inputs: Inputs, labels: Tensor) -> Tensor:
    """A clean pass and one with noise at a layer drawn from 1 to 3, whose largest entry in each example is 2."""
    clean = _logits(model, inputs)
    noise = _like_states(model, inputs) * inputs["attention_mask"].unsqueeze(-1)
    noise = 2 * noise / noise.abs().amax((1, 2), keepdim=True)
    noisy = _logits(model, inputs, noise, random.randint(1, 3))
    return functional.cross_entropy(clean, labels) + _kl(clean.detach(), noisy)


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


def jacobian(model: nn.Module, inputs: Inputs, labels: Tensor) -> Tensor:
    """The squared norm of the posteriors' derivative along one random direction over the classes."""
    held: list[Tensor] = []
    plain: Any = model
    block = plain.base_model.embeddings
    handle = block.register_forward_hook(lambda module, args, out: held.append(out))
    try:
        with sdpa_kernel(SDPBackend.MATH):  # the fused kernel has no second derivative
            logits = _logits(model, inputs)
    finally:
        handle.remove()
    posterior = logits.softmax(-1)
    direction = functional.normalize(torch.randn_like(posterior), dim=-1)
    (grad,) = torch.autograd.grad((posterior * direction).sum(), held[0], create_graph=True)
    penalty = posterior.shape[-1] * grad.square().sum() / len(labels)
    return functional.cross_entropy(logits, labels) + 0.01 * penalty


def prepare(model: nn.Module, sides: Iterable[str], mlm: str | None) -> None:
    """Gives the classifier what the methods among `sides` need: `swep`'s noise network, which learns with it, and
    `vda`'s language model (a folder or hub name), which does not."""
    plain: Any = model
    width = plain.config.hidden_size
    if "swep" in sides:
        plain.noise = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2 * width))
        nn.init.zeros_(plain.noise[2].weight)
    if "vda" in sides and mlm:
        found = AutoModelForMaskedLM.from_pretrained(mlm, dtype=torch.float32)
        object.__setattr__(plain, "mlm", found.eval().requires_grad_(False))  # beside the model, not part of it


def _edited_words(model: nn.Module, inputs: Inputs, edit: Callable[[Tensor], Tensor]) -> Tensor:
    """One whole pass with the rows of the word-embedding table edited."""
    plain: Any = model
    handle = plain.base_model.embeddings.word_embeddings.register_forward_hook(lambda module, args, out: edit(out))
    try:
        return plain(**inputs).logits
    finally:
        handle.remove()


def swep(model: nn.Module, inputs: Inputs, labels: Tensor) -> Tensor:
    """A clean pass whose last states feed the noise network, and one with the word embeddings multiplied."""
    plain: Any = model
    clean = plain(**inputs, output_hidden_states=True)
    mu, log_var = plain.noise(clean.hidden_states[-1].detach()).chunk(2, dim=-1)
    z = 1 + mu + (0.5 * log_var).exp() * torch.randn_like(mu)
    noisy = _edited_words(model, inputs, lambda words: words * z)
    prior = (0.1 / 0.9) ** 0.5
    spread = (log_var.exp() + mu.square()) / prior - 1 - log_var + math.log(prior)
    mask = inputs["attention_mask"]
    kl = (0.5 * spread.sum(-1) * mask).sum() / mask.sum()
    both = functional.cross_entropy(clean.logits, labels) + functional.cross_entropy(noisy, labels)
    return 0.5 * both + kl


def vda(model: nn.Module, inputs: Inputs, labels: Tensor) -> Tensor:
    """The language model in float32 over its whole vocabulary, a dense mixture of embeddings, a second pass."""
    plain: Any = model
    clean = _logits(model, inputs)
    with torch.no_grad():
        scores = plain.mlm(**inputs).logits.log_softmax(-1)
        weights = (scores + 0.1 * torch.randn_like(scores)).softmax(-1)
    table = plain.base_model.embeddings.word_embeddings.weight
    virtual = _edited_words(model, inputs, lambda words: weights @ table)
    return functional.cross_entropy(clean, labels) + _kl(clean, virtual) + _kl(virtual, clean)


losses: dict[str, Callable[[nn.Module, Inputs, Tensor], Tensor]] = {
    "standard": standard, "rpt": rpt, "rapt": rapt, "vat": vat, "smart": vat, "freelb": freelb,
    "jacobian": jacobian, "swep": swep, "vda": vda,
}  # fmt: skip
