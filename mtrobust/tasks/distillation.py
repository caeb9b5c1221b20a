"""Learning from soft labels: what a teacher says of a row, beside or in place of its label.

Source: Liu et al. 2019, Improving Multi-Task Deep Neural Networks via Knowledge Distillation; temperature and its
square: Hinton et al. 2015, Distilling the Knowledge in a Neural Network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mtrobust.registry import Registry

if TYPE_CHECKING:
    from mtrobust.tasks.taskdef import TaskDef

SoftLoss = Callable[[Tensor, Tensor, float], Tensor]
SOFT_LOSSES: Registry[SoftLoss] = Registry("loss on soft labels")
"""By MT-DNN's name: `(logits [B, C], teacher's probabilities [B, C], temperature) -> [B]`."""


def tempered(soft: Tensor, temperature: float) -> Tensor:
    """The teacher's distribution at a temperature, p^(1/T) normalised, [B, C]; rows of zeros stay."""
    powered = soft if temperature == 1 else soft.pow(1 / temperature)
    return powered / powered.sum(-1, keepdim=True).clamp_min(torch.finfo(soft.dtype).tiny)


@SOFT_LOSSES.register("CeCriterion")
def cross_entropy(logits: Tensor, soft: Tensor, temperature: float) -> Tensor:
    """T^2 times -sum_c p_c log q_c, both at temperature T."""
    return -(tempered(soft, temperature) * (logits / temperature).log_softmax(-1)).sum(-1) * temperature**2


@SOFT_LOSSES.register("KlCriterion")
def divergence(logits: Tensor, soft: Tensor, temperature: float) -> Tensor:
    """T^2 KL(teacher || student): the cross-entropy less the teacher's entropy, so with the same gradient."""
    target = tempered(soft, temperature)
    return cross_entropy(logits, soft, temperature) + torch.special.xlogy(target, target).sum(-1) * temperature**2


@SOFT_LOSSES.register("MseCriterion")
def squared_error(logits: Tensor, soft: Tensor, temperature: float) -> Tensor:
    """The mean over the classes of the squared difference of the probabilities (T = 1).

    MT-DNN's code takes the difference of logits and whatever stands in the rows; here rows hold probabilities.
    """
    return (logits.softmax(-1) - tempered(soft, 1.0)).square().mean(-1)


@dataclass(frozen=True)
class Soft:
    """How a task learns from soft labels. weight: share of the soft loss in a row that has both kinds of label;
    temperature: see `tempered`; criterion: MT-DNN's name of the loss, None: the task type's own."""

    weight: float = 0.5
    temperature: float = 1.0
    criterion: str | None = None

    @classmethod
    def of(cls, task: TaskDef) -> Soft:
        """As a definition says."""
        return cls(task.kd_weight, task.kd_temperature, task.kd_loss)

    def mix(self, hard: Tensor, soft: Tensor, has_label: Tensor, has_soft: Tensor) -> Tensor:
        """(1 - weight) hard + weight soft where a row has both labels, else the loss of the one it has. All [B].

        A weight of a half is the average of the two objectives, as in MT-DNN-KD.
        """
        share = has_soft.to(hard.dtype) * (1 - (1 - self.weight) * has_label.to(hard.dtype))
        return (1 - share) * hard.where(has_label, 0) + share * soft.where(has_soft, 0)
