"""Networks between the encoder's states and one vector of outputs per example, beside the family's own head.

Which one a task has is said by its definition: `head_input`, or `enable_san`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import torch
from torch import Tensor, nn
from torch.nn import functional

from mtrobust.errors import UserError
from mtrobust.registry import Registry
from mtrobust.tasks.base import EncoderInfo

if TYPE_CHECKING:
    from mtrobust.tasks.taskdef import TaskDef

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": functional.relu,
    "gelu": functional.gelu,
}


def refuse_export(what: str) -> NoReturn:
    """Raises the `UserError` of a head that no Hugging Face class has."""
    raise UserError(
        f"this task cannot be exported: its head ({what}) has no Hugging Face class; "
        "exported are heads of the encoder family's own form (head_input: family)"
    )


class LinearNet(nn.Module, ABC):
    """Dropout and a linear layer over one vector per example, which a subclass takes from the states.

    dropout: default the encoder's; first_only: whether nothing but the first token's last state is read.
    """

    first_only: ClassVar[bool] = True
    called: ClassVar[str]

    def __init__(self, info: EncoderInfo, n: int, dropout: float | None) -> None:
        super().__init__()
        self.dropout = nn.Dropout(info.head_dropout if dropout is None else dropout)
        self.classifier = small(nn.Linear(info.hidden_size, n))

    @abstractmethod
    def vector(self, last: Tensor, mask: Tensor) -> Tensor:
        """[B, H] of the last states [B, T, H] (or [B, 1, H], see `first_only`) and the attention mask [B, T]."""

    def forward(self, last: Tensor, pooled: Tensor | None, inputs: Mapping[str, Tensor]) -> Tensor:
        """Logits [B, n]."""
        return self.classifier(self.dropout(self.vector(last, inputs["attention_mask"])))

    def full_model(self, base: Any) -> Any:
        """Refuses: see `refuse_export`."""
        refuse_export(f"head_input: {self.called}")


class FirstNet(LinearNet):
    """Reads the last state of the first token."""

    called = "first"

    def vector(self, last: Tensor, mask: Tensor) -> Tensor:
        """See the class."""
        return last[:, 0]


class MeanNet(LinearNet):
    """Reads the mean of the last states of the real tokens, special ones included."""

    called, first_only = "mean", False

    def vector(self, last: Tensor, mask: Tensor) -> Tensor:
        """See the class."""
        weight = mask.to(last.dtype).unsqueeze(-1)
        return (last * weight).sum(1) / weight.sum(1)


class PoolerNet(LinearNet):
    """Reads a pooler of the task's own: a linear layer of fresh weights and `actf` over the first token's last state.

    This is MT-DNN's pooler (there behind a dropout of its own as well). Exported where the family's own head is of
    that form too, see `FamilyHead.with_pooler`.
    """

    called = "pooler"

    def __init__(self, info: EncoderInfo, n: int, dropout: float | None, actf: str = "tanh") -> None:
        super().__init__(info, n, dropout)
        self.dense = small(nn.Linear(info.hidden_size, info.hidden_size))
        self.activation = ACTIVATIONS[actf]
        self._family: Callable[[], Any] = lambda: info.family_head("sequence", n, dropout)

    def vector(self, last: Tensor, mask: Tensor) -> Tensor:
        """See the class."""
        return self.activation(self.dense(last[:, 0]))

    def full_model(self, base: Any) -> Any:
        """The family's class with these weights in it; refuses where that class computes something else."""
        full = self._family().with_pooler(base, self.dense, self.classifier, self)
        return full if full is not None else refuse_export("head_input: pooler, with this actf in this family")


def small(layer: nn.Linear) -> nn.Linear:
    """The layer as BERT-like encoders begin: weights N(0, 0.02^2), no bias."""
    nn.init.normal_(layer.weight, std=0.02)
    nn.init.zeros_(layer.bias)
    return layer


NETS: Registry[Callable[[Any, EncoderInfo, int], nn.Module]] = Registry("head input")
"""By `head_input` (and `san`): `(TaskDef, EncoderInfo, number of outputs) -> module`, called as a family head is."""

NETS.register("family")(lambda task, info, n: info.family_head("sequence", n, task.dropout_p))
NETS.register("first")(lambda task, info, n: FirstNet(info, n, task.dropout_p))
NETS.register("mean")(lambda task, info, n: MeanNet(info, n, task.dropout_p))
NETS.register("pooler")(lambda task, info, n: PoolerNet(info, n, task.dropout_p, task.actf or "tanh"))


def build_net(task: TaskDef, info: EncoderInfo, n: int) -> nn.Module:
    """The network that a definition asks for, freshly initialised."""
    import mtrobust.tasks.san  # noqa: F401  (registers)

    return NETS["san" if task.enable_san else task.head_input](task, info, n)
