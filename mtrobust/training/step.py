"""One training step as a module: clean pass, perturbations and loss in a single forward, as DDP wants it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mtrobust.models.multitask import MultiTaskModel
from mtrobust.perturb import Compose, Passes
from mtrobust.perturb.noise import KeyedNoise
from mtrobust.tasks.base import Batch


@dataclass
class StepOutput:
    """loss: 0-d tensor to call backward on, this batch's share of the step's loss; terms: each term's own mean
    (unweighted, without a graph) over the step's counts, so that micro-batches and ranks add up; stats: figures that
    methods log (means over this batch)."""

    loss: Tensor
    terms: dict[str, Tensor] = field(default_factory=dict)
    stats: dict[str, Any] = field(default_factory=dict)


class TrainStep(nn.Module):
    """model and methods[task] as they are trained together; seed keys the noise.

    Task weights come from the definitions (`weight`).
    """

    def __init__(self, model: MultiTaskModel, methods: Mapping[str, Compose], seed: int) -> None:
        super().__init__()
        self.model = model
        self.methods = dict(methods)
        self.noise = KeyedNoise(seed)
        owned: dict[str, nn.Module] = {}
        for task, compose in self.methods.items():
            for name, method in compose.methods.items():
                module = method.module()
                if module is not None and module not in owned.values():
                    owned[f"{task}_{name}"] = module
        self.owned = nn.ModuleDict(owned)

    def counts(self, batch: Batch) -> dict[str, float]:
        """What the terms' means run over in this batch, by kind; the trainer sums these over a step."""
        head: Any = self.model.heads[batch.task]
        return {
            "labels": float(head.count(batch)),
            "items": float(head.items(batch)),
            "tokens": float(batch.inputs["attention_mask"].sum()),
        }

    def forward(self, batch: Batch) -> StepOutput:
        """The batch's share of the step's loss; `batch.norms` None means that this batch is the whole step."""
        compose = self.methods[batch.task]
        head: Any = self.model.heads[batch.task]
        passes = Passes(self.model.encoder, head, batch, self.noise, compose.needs)
        terms, stats = compose.forward(passes)
        norms = batch.norms or self.counts(batch)
        weight = self.model.tasks[batch.task].weight
        # `or`, not `max`: one labelled row shared by two ranks has a norm of a half. Without any, the total is 0 too.
        means = {name: term.total / (norms[term.over] or 1.0) for name, term in terms.items()}
        # A weight of 0 leaves the term out altogether, so that it is `standard` bit for bit and 0 * inf is not NaN.
        weighted = [weight * terms[name].weight * mean for name, mean in means.items() if terms[name].weight]
        loss = torch.stack(weighted).sum()
        return StepOutput(loss, {name: mean.detach() for name, mean in means.items()}, stats)
