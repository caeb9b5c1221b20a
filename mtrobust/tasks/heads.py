"""The heads of the task types: outputs, loss per example and views, over the encoder family's own head module."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor
from torch.nn import functional

from mtrobust.tasks.base import Batch, EncoderInfo, HeadContract, HeadInput, View
from mtrobust.tasks.distillation import SOFT_LOSSES, Soft

_DEFAULT = Soft()
IGNORED = -100  # the label of a token that is not to be predicted


def widen(tensor: Tensor) -> Tensor:
    """At least float32: half precision is widened, float32 and float64 stay."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


class Head(HeadContract, torch.nn.Module):
    """Base of all heads. `self.net` is what the family calls its head and is exported under the family's names.

    Reads `batch.targets["labelled"]`, bool [B]; rows without a label have loss 0 and are not counted.
    """

    net: torch.nn.Module

    def count(self, batch: Batch) -> Tensor:
        """The number of labelled rows, 0-d int64."""
        return batch.targets["labelled"].sum()

    def items(self, batch: Batch) -> Tensor:
        """The number of items of each view, 0-d int64: one per feature, labelled or not."""
        labelled = batch.targets["labelled"]
        return torch.tensor(len(labelled), device=labelled.device)

    @staticmethod
    def rows(tensor: Tensor) -> Tensor:
        """The numbers 0..B-1 on the tensor's device: one item per example."""
        return torch.arange(len(tensor), device=tensor.device)


class VectorHead(Head):
    """One vector of outputs per example: `logits` [B, n]. net: what makes them of the states (see `head_nets`)."""

    def __init__(self, net: torch.nn.Module) -> None:
        super().__init__()
        self.net = net
        self.reads = "first" if net.first_only else "all"

    def forward(self, read: HeadInput, batch: Batch) -> dict[str, Tensor]:
        """`logits` [B, n]."""
        more = {name: batch.targets[name] for name in getattr(self.net, "targets", ())}
        return {"logits": self.net(read.last, read.pooled, batch.inputs | more if more else batch.inputs)}


class SequenceHead(VectorHead):
    """One vector of outputs per example, learned from labels and soft labels.

    net: default: the family's own head. soft: how soft labels are learned from. Targets where a row of the batch has a
    soft label: `soft` [B, n], `has_soft`, `has_label` bool [B].
    """

    def __init__(
        self,
        info: EncoderInfo,
        n: int,
        dropout: float | None,
        net: torch.nn.Module | None = None,
        soft: Soft = _DEFAULT,
    ) -> None:
        super().__init__(net if net is not None else info.family_head("sequence", n, dropout))
        self.soft = soft

    @abstractmethod
    def hard_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss against the labels, [B]."""

    @abstractmethod
    def soft_loss(self, logits: Tensor, soft: Tensor) -> Tensor:
        """The loss against soft labels [B, n], [B]."""

    def loss(self, out: dict[str, Tensor], batch: Batch) -> Tensor:
        """The loss against the label, the soft label, or both, [B]; see `Soft.mix`."""
        logits, targets = widen(out["logits"]), batch.targets
        loss = self.hard_loss(logits, targets["labels"])
        if "soft" in targets:
            soft = self.soft_loss(logits, targets["soft"].to(logits.dtype))
            loss = self.soft.mix(loss, soft, targets["has_label"], targets["has_soft"])
        return loss.where(targets["labelled"], 0)


class ClassificationHead(SequenceHead):
    """Cross-entropy over labels; one categorical view. Targets: `labels` int64 [B]."""

    def hard_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy in nats, [B]."""
        return functional.cross_entropy(logits, labels.clamp(min=0), reduction="none")

    def soft_loss(self, logits: Tensor, soft: Tensor) -> Tensor:
        """The definition's loss on soft labels, by default cross-entropy, [B]."""
        return SOFT_LOSSES[self.soft.criterion or "CeCriterion"](logits, soft, self.soft.temperature)

    def views(self, out: dict[str, Tensor], batch: Batch) -> list[View]:
        """The label distribution of each example."""
        return [View(out["logits"], self.rows(out["logits"]))]


class RegressionHead(SequenceHead):
    """Squared error; one real view. Targets: `labels` float [B]."""

    nll_factor = 0.5

    def hard_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Squared error, [B]. Raises `ValueError` for labels of another shape."""
        return self._squared(logits[:, 0], labels)

    def soft_loss(self, logits: Tensor, soft: Tensor) -> Tensor:
        """Squared error against the teacher's number, [B]. Raises `ValueError` for numbers of another shape."""
        return self._squared(logits, soft)[:, 0]

    @staticmethod
    def _squared(numbers: Tensor, wanted: Tensor) -> Tensor:
        if numbers.shape != wanted.shape:  # broadcasting would compare each row with all others
            raise ValueError(f"labels of shape {list(wanted.shape)} for numbers of shape {list(numbers.shape)}")
        return (numbers - wanted.to(numbers.dtype)).square()

    def views(self, out: dict[str, Tensor], batch: Batch) -> list[View]:
        """The number of each example."""
        return [View(out["logits"], self.rows(out["logits"]), kind="real")]


class SpanHead(Head):
    """Start and end of a span, each a distribution over positions (`start_logits`, `end_logits` [B, T]).

    Positions that count are the passage's and CLS, which stands for "not in this window" (posterior differential
    regularization, Eq. 9). With `all_positions` every position of the padded batch counts, as in the common heads of
    published code; the loss then depends on how far a batch is padded.
    Targets: `passage_mask` bool [B, T]; `start_positions`, `end_positions` int64 [B].
    """

    token_outputs = frozenset({"start_logits", "end_logits"})

    def __init__(self, info: EncoderInfo, dropout: float | None, all_positions: bool = False) -> None:
        super().__init__()
        self.net = info.family_head("span", 2, dropout)
        self.all_positions = all_positions

    def forward(self, read: HeadInput, batch: Batch) -> dict[str, Tensor]:
        """`start_logits` and `end_logits`, [B, T]."""
        start, end = self.net(read.last, read.pooled, batch.inputs).unbind(-1)
        return {"start_logits": start, "end_logits": end}

    def support(self, batch: Batch) -> Tensor | None:
        """bool [B, T], or None where all positions count."""
        return None if self.all_positions else batch.targets["passage_mask"]

    def loss(self, out: dict[str, Tensor], batch: Batch) -> Tensor:
        """Mean of the cross-entropies of start and end, in nats, [B]."""
        support, labelled = self.support(batch), batch.targets["labelled"]
        total = torch.zeros((), device=labelled.device)
        for name in ("start", "end"):
            logits = widen(out[f"{name}_logits"])
            if support is not None:
                logits = logits.masked_fill(~support, torch.finfo(logits.dtype).min)
            positions = batch.targets[f"{name}_positions"].clamp(min=0)
            total = total + functional.cross_entropy(logits, positions, reduction="none") / 2
        return total.where(labelled, 0)

    def views(self, out: dict[str, Tensor], batch: Batch) -> list[View]:
        """The start and the end distribution of each feature, over the positions that count."""
        support = self.support(batch)
        return [View(out[name], self.rows(out[name]), support) for name in ("start_logits", "end_logits")]


class TokensHead(Head):
    """The vocabulary's distribution at some tokens of each row: `logits` [n, V] for the n tokens of the batch that are
    to be predicted, row by row.

    Targets: `labels` int64 [B, T], these tokens' own ids and `IGNORED` at all others.
    """

    @staticmethod
    def masked(batch: Batch) -> Tensor:
        """Where tokens are to be predicted, bool [B, T]."""
        return batch.targets["labels"] != IGNORED

    def losses(self, out: dict[str, Tensor], batch: Batch) -> Tensor:
        """Cross-entropy in nats at its token, [B, T]; 0 where nothing is to be predicted."""
        masked = self.masked(batch)
        loss = functional.cross_entropy(widen(out["logits"]), batch.targets["labels"][masked], reduction="none")
        return torch.zeros(masked.shape, dtype=loss.dtype, device=loss.device).masked_scatter(masked, loss)

    def loss(self, out: dict[str, Tensor], batch: Batch) -> Tensor:
        """The sum over the tokens of each row, in nats, [B]; `count` makes the mean per token."""
        return self.losses(out, batch).sum(1).where(batch.targets["labelled"], 0)

    def count(self, batch: Batch) -> Tensor:
        """The number of these tokens in labelled rows, 0-d int64."""
        return self.masked(batch)[batch.targets["labelled"]].sum()

    def views(self, out: dict[str, Tensor], batch: Batch) -> list[View]:
        """The distribution at each token."""
        return [View(out["logits"], self.masked(batch).nonzero()[:, 0])]

    def items(self, batch: Batch) -> Tensor:
        """The number of these tokens, 0-d int64."""
        return self.masked(batch).sum()


class MaskedLMHead(TokensHead):
    """The distribution at each masked token; nothing is computed for the others. The output matrix is the encoder's
    word-embedding table."""

    token_outputs = frozenset({"masked", "nll", "hit"})

    def __init__(self, info: EncoderInfo, dropout: float | None) -> None:
        super().__init__()
        self.net = info.family_head("mlm", None, dropout)

    def forward(self, read: HeadInput, batch: Batch) -> dict[str, Tensor]:
        """`logits` [n, V]."""
        return {"logits": self.net(read.last[self.masked(batch)].unsqueeze(0), None, batch.inputs).squeeze(0)}

    def report(self, out: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """[B, T] each: `masked`, 1 where a token was to be predicted; `nll`, the right token's negative log-likelihood
        in nats; `hit`, 1 where it is the most probable one; all 0 elsewhere."""
        masked = self.masked(batch)
        right = (out["logits"].argmax(-1) == batch.targets["labels"][masked]).to(torch.float32)
        hit = torch.zeros(masked.shape, device=right.device).masked_scatter(masked, right)
        return {"masked": masked.to(hit.dtype), "nll": self.losses(out, batch), "hit": hit}
