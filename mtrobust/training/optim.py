"""Which parameters learn, at which rate, and how the rate changes over the run."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import nn

from mtrobust.errors import UserError
from mtrobust.registry import Registry

if TYPE_CHECKING:
    from mtrobust.config import TrainConfig
    from mtrobust.models.multitask import MultiTaskModel

_TOP = ("pooler", "final")  # parts of a base model that stand above its layers: pooler, final norm


def depths(model: MultiTaskModel) -> dict[int, int]:
    """`id(parameter)` -> place in the encoder, for every encoder parameter: 0 the embedding block (with what all
    layers share, such as relative-position tables), i the i-th layer, number of layers + 1 what stands above.

    ALBERT's layers share their weights: they all count as the last layer. Parameters of heads are not in the result.
    """
    encoder = model.encoder
    layers = list(encoder.layer_list)
    shared = len(layers) != encoder.num_layers
    places: dict[int, int] = {}
    for number, layer in enumerate(layers, start=1):
        for parameter in layer.parameters():
            places[id(parameter)] = encoder.num_layers if shared else number
    for name, parameter in encoder.base.named_parameters():
        top = any(part.startswith(_TOP) for part in name.split("."))
        places.setdefault(id(parameter), encoder.num_layers + 1 if top else 0)
    return places


def check_depth(model: MultiTaskModel, config: TrainConfig) -> list[str]:
    """Faults of the settings that depend on the encoder's depth."""
    encoder, wanted = model.encoder, config.freeze_layers
    faults = []
    if wanted > encoder.num_layers:
        faults.append(
            f"freeze_layers: {wanted}: the encoder has {encoder.num_layers} layers (allowed: 0-{encoder.num_layers})"
        )
    if len(list(encoder.layer_list)) != encoder.num_layers:
        alone = f"all layers of '{encoder.model_type}' share their weights"
        if 0 < wanted <= encoder.num_layers:
            faults.append(f"freeze_layers: {wanted}: {alone} (allowed: 0; freeze_embeddings is possible)")
        if config.layerwise_lr_decay != 1:
            faults.append(f"layerwise_lr_decay: {config.layerwise_lr_decay}: {alone} (allowed: 1)")
    return faults


def freeze(model: MultiTaskModel, config: TrainConfig) -> None:
    """Takes the embedding block, or it and the first layers, out of training."""
    if not config.freeze_embeddings and not config.freeze_layers:
        return
    places = depths(model)
    for parameter in model.parameters():
        if places.get(id(parameter), config.freeze_layers + 1) <= config.freeze_layers:
            parameter.requires_grad_(False)


def param_groups(step: nn.Module, model: MultiTaskModel, config: TrainConfig) -> list[dict]:
    """Groups of one learning rate and weight decay each, with the names of their parameters under `names`.

    step: the module whose parameters learn (the model, and whatever a method owns). Encoder parameters learn at
    `learning_rate * layerwise_lr_decay ** (layers above them)`, learned task weights at
    `task_weighting_learning_rate`, all others at `head_learning_rate`. Biases and norms (everything with at most one
    dimension) do not decay.
    """
    weights = getattr(step, "weighting", None)
    weighs = {id(parameter) for parameter in weights.parameters()} if weights is not None else set()
    places, top = depths(model), model.encoder.num_layers + 1
    groups: dict[tuple[float, float], dict] = {}
    for name, parameter in step.named_parameters():
        if not parameter.requires_grad:
            continue
        place = places.get(id(parameter))
        if id(parameter) in weighs:
            rate = config.task_weighting_learning_rate
        elif place is None:
            rate = config.head_learning_rate or config.learning_rate
        else:
            rate = config.learning_rate * config.layerwise_lr_decay ** (top - place)
        decay = config.weight_decay if parameter.dim() > 1 else 0.0
        fresh = {"params": [], "names": [], "lr": rate, "base_lr": rate, "weight_decay": decay}
        group = groups.setdefault((rate, decay), fresh)
        group["params"].append(parameter)
        group["names"].append(name)
    if not groups:
        raise UserError("freeze_layers: nothing is left to train")
    return list(groups.values())


def build_optimizer(step: nn.Module, model: MultiTaskModel, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW (fused), Adamax or Adafactor over `param_groups`."""
    return OPTIMIZERS[config.optim](param_groups(step, model, config), config)


OPTIMIZERS: Registry[Callable[[list[dict], TrainConfig], torch.optim.Optimizer]] = Registry("optimizer")


@OPTIMIZERS.register("adamw")
def _adamw(groups: list[dict], config: TrainConfig) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, betas=(config.adam_beta1, config.adam_beta2), eps=config.adam_epsilon, fused=True)


@OPTIMIZERS.register("adamax")
def _adamax(groups: list[dict], config: TrainConfig) -> torch.optim.Optimizer:
    return torch.optim.Adamax(groups, betas=(config.adam_beta1, config.adam_beta2), eps=config.adam_epsilon)


@OPTIMIZERS.register("adafactor")
def _adafactor(groups: list[dict], config: TrainConfig) -> torch.optim.Optimizer:
    """At the given rates: neither relative to the step nor to the size of a weight, as T5 is usually fine-tuned.

    Source: Shazeer and Stern 2018, Adafactor, with its update clipping at 1 and decay t^-0.8, without first moment.
    """
    from transformers.optimization import Adafactor

    return Adafactor(groups, lr=config.learning_rate, scale_parameter=False, relative_step=False, warmup_init=False)


# --- schedules: the factor on the learning rate, of how far the rest of the run after warm-up has come (0 to 1) ------

SCHEDULES: Registry[Callable[[float], float]] = Registry("learning-rate schedule")


@SCHEDULES.register("linear")
def _linear(done: float) -> float:
    return 1 - done


@SCHEDULES.register("cosine")
def _cosine(done: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * done))


@SCHEDULES.register("constant")
def _constant(done: float) -> float:
    return 1.0


@SCHEDULES.register("polynomial")
def _polynomial(done: float) -> float:
    """Power 2: power 1 would be the linear schedule."""
    return (1 - done) ** 2


def warmup_steps(config: TrainConfig, total: int) -> int:
    """Steps over which the rate rises linearly from 0."""
    return math.ceil(total * config.warmup_ratio) if config.warmup_steps is None else config.warmup_steps


def lr_factor(config: TrainConfig, number: int, total: int) -> float:
    """What the base rates are multiplied by at step `number` (from 0) of `total`. A pure function, so that nothing of
    the schedule has to be saved. As in transformers, the first step of a warm-up has rate 0."""
    warmup = warmup_steps(config, total)
    if number < warmup:
        return number / warmup
    return max(0.0, SCHEDULES[config.lr_scheduler_type](min(1.0, (number - warmup) / max(1, total - warmup))))
