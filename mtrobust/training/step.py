"""One training step as a module: clean pass, perturbations and loss in a single forward, as DDP wants it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from mtrobust.clock import Clock
from mtrobust.models.multitask import MultiTaskModel
from mtrobust.perturb import Compose, Passes, counts
from mtrobust.perturb.noise import KeyedNoise
from mtrobust.tasks.base import Batch
from mtrobust.training.weighting import WEIGHTINGS


@dataclass
class StepOutput:
    """loss: 0-d tensor to call backward on, this batch's share of the step's loss; terms: each term's own mean
    (unweighted, without a graph) over the step's counts, so that micro-batches and ranks add up; stats: figures that
    methods log (means over this batch)."""

    loss: Tensor
    terms: dict[str, Tensor] = field(default_factory=dict)
    stats: dict[str, Any] = field(default_factory=dict)


class TrainStep(nn.Module):
    """model and methods[task] as they are trained together; seed keys the noise; weighting: a name in `WEIGHTINGS`.

    Task weights come from the definitions (`weight`), beside what the weighting learns. `clock` charges the clean pass
    to the part `clean` and all that methods do to `perturbation`; where no method adds anything, the task loss too is
    `clean`.
    """

    def __init__(
        self, model: MultiTaskModel, methods: Mapping[str, Compose], seed: int, weighting: str = "fixed"
    ) -> None:
        super().__init__()
        self.model = model
        self.methods = dict(methods)
        self.noise = KeyedNoise(seed)
        self.clock = Clock()
        owned: dict[str, nn.Module] = {}
        for task, compose in self.methods.items():
            for name, method in compose.methods.items():
                module = method.module(model.encoder, dict(model.heads.items()))
                if module is not None and module not in owned.values():
                    owned[f"{task}_{name}"] = module
        self.owned = nn.ModuleDict(owned)
        self.weighting: Any = WEIGHTINGS[weighting](dict(model.heads.items()))

    def counts(self, batch: Batch) -> dict[str, float]:
        """What the terms' means run over in this batch, by kind; the trainer sums these over a step."""
        head: Any = self.model.heads[batch.task]
        return counts(head, batch)

    def trained(self) -> list[nn.Parameter]:
        """The parameters that learn. Walking through all modules takes a millisecond with a hundred heads."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def forward(self, batch: Batch) -> StepOutput:
        """The batch's share of the step's loss; `batch.norms` None means that this batch is the whole step."""
        compose = self.methods[batch.task]
        head: Any = self.model.heads[batch.task]
        weight = self.model.tasks[batch.task].weight
        adds = any(method.active and not method.alone for method in compose.methods.values())
        with self.clock.part("perturbation" if adds else "clean"):
            passes = Passes(
                self.model.encoder, head, batch, self.noise, compose.needs,
                weight=weight, trained=self.trained, clock=self.clock,
            )  # fmt: skip
            terms, stats = compose.forward(passes)
            loss = sum(passes.handed, passes.share(terms))
            if self.weighting is not None:
                share = self.counts(batch)["labels"] / (passes.norms["labels"] or 1.0)
                loss = self.weighting(loss, batch.task, weight, share)
                stats |= self.weighting.figures(batch.task)
        return StepOutput(loss, {name: mean.detach() for name, mean in passes.means(terms).items()}, stats)
