"""How the losses of several tasks are weighed against each other, beside the fixed `weight` of a definition."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mtrobust.registry import Registry

WEIGHTINGS: Registry[Callable[[Mapping[str, Any]], nn.Module | None]] = Registry("task weighting")
"""By `task_weighting`: heads by task name -> a module that learns with the model, or None for none."""

WEIGHTINGS.register("fixed")(lambda heads: None)


@WEIGHTINGS.register("uncertainty")
class Uncertainty(nn.Module):
    """Homoscedastic uncertainty: one learned log variance s per task, 0 at the start.

        loss = w (f exp(-s) L + s / 2)

    L is the task's whole loss, regularisers included, w the definition's `weight`. f is 1 for cross-entropies (their
    logits are divided by the variance, up to an approximation) and 1/2 for squared errors (a Gaussian likelihood). The
    gradient by s is w (1/2 - f exp(-s) L): s settles where f exp(-s) L = 1/2 on average, so a task with a large loss
    weighs less. s / 2 keeps the variance from growing; it counts once a step, in proportion to a batch's labelled rows.

    Source: Kendall, Gal and Cipolla 2018, Multi-Task Learning Using Uncertainty to Weigh Losses, Eqs. 5 to 10, with log
    variances as in their Section 3.2. There L is a task loss alone; `weight` is not theirs.
    """

    def __init__(self, heads: Mapping[str, Any]) -> None:
        super().__init__()
        self.factors = {task: head.nll_factor for task, head in heads.items()}
        for task in heads:  # one parameter each: an optimiser's momentum must not move the tasks that a step is not of
            self.register_parameter(self._name(task), nn.Parameter(torch.zeros(())))

    @staticmethod
    def _name(task: str) -> str:
        return f"log_variance_{task}"

    def log_variance(self, task: str) -> nn.Parameter:
        """The task's s, 0-d."""
        return self.get_parameter(self._name(task))

    def forward(self, loss: Tensor, task: str, weight: float, share: float) -> Tensor:
        """The weighed share of a step's loss, 0-d. loss: w L of this batch; share: of the step's labelled rows."""
        s = self.log_variance(task)
        return self.factors[task] * torch.exp(-s) * loss + weight * share * s / 2

    def figures(self, task: str) -> dict[str, Tensor]:
        """What is logged: s, and the factor on the task's loss."""
        s = self.log_variance(task).detach()
        return {"uncertainty/log_variance": s.clone(), "uncertainty/factor": self.factors[task] * torch.exp(-s)}
