"""The head of tasks that choose among the candidates of a list: one score per candidate."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from mtrobust.errors import RunError
from mtrobust.registry import Registry
from mtrobust.tasks.base import Batch, View
from mtrobust.tasks.heads import VectorHead, widen

ListLoss = Callable[[Tensor, Tensor, Tensor], Tensor]
LIST_LOSSES: Registry[ListLoss] = Registry("ranking loss")
"""By `ranking_loss`: `(scores [L, C], gains [L, C], where candidates are, bool [L, C]) -> [L]`, in nats per list."""


@LIST_LOSSES.register("listwise")
def listwise(scores: Tensor, gains: Tensor, support: Tensor) -> Tensor:
    """Cross-entropy between the gains, divided by their sum, and the softmax of the scores.

    The top-one loss of ListNet (Cao et al. 2007), with gains in place of their exponentials; with one right candidate
    it is MT-DNN's ranking loss.
    """
    log_p = scores.masked_fill(~support, torch.finfo(scores.dtype).min / 4).log_softmax(-1)
    wanted = gains / gains.sum(-1, keepdim=True).clamp_min(torch.finfo(gains.dtype).tiny)
    return -(wanted * log_p).sum(-1)


@LIST_LOSSES.register("pairwise")
def pairwise(scores: Tensor, gains: Tensor, support: Tensor) -> Tensor:
    """The mean of log(1 + exp(s_j - s_i)) over all pairs in which i has the larger gain (RankNet, Burges et al. 2005).

    A list whose candidates all have the same gain has no such pair, and loss 0.
    """
    ahead = (gains.unsqueeze(2) > gains.unsqueeze(1)) & (support.unsqueeze(2) & support.unsqueeze(1))
    lead = (scores.unsqueeze(2) - scores.unsqueeze(1)).where(ahead, 0)
    total = functional.softplus(-lead).where(ahead, 0).sum((1, 2))
    return total / ahead.sum((1, 2)).clamp_min(1)


class RankingHead(VectorHead):
    """`logits` [B, 1], the score of each candidate; a list's candidates stand one after the other in the batch.

    Targets: `place` int64 [B], a candidate's number in its list (0 begins a new list); `gains` float [B], how right it
    is. A list is an item of the one view, with its candidates as classes; its loss stands at its first candidate.
    """

    def __init__(self, net: torch.nn.Module, loss: str = "listwise") -> None:
        super().__init__(net)
        self.list_loss = LIST_LOSSES[loss]

    @staticmethod
    def first(batch: Batch) -> Tensor:
        """Which texts begin a list, bool [B]."""
        return batch.targets["place"] == 0

    def tables(self, batch: Batch, *columns: Tensor) -> tuple[Tensor, ...]:
        """Columns [B] as tables [lists, candidates of the longest list], 0 beyond a list's end. Raises `RunError` where
        the candidates of a list do not follow one another."""
        place = batch.targets["place"]
        number = self.first(batch).cumsum(0) - 1
        torn = ((place != 0) & (place != functional.pad(place, (1, -1), value=-1) + 1)).any()
        # Read together, so that an accelerator is waited for once.
        *shape, torn_lists = torch.stack((number[-1] + 1, place.max() + 1, torn.to(place.dtype))).tolist()
        if torn_lists:
            raise RunError(
                f"{batch.task}: a batch has lists without their first candidates, or in another order; the candidates "
                "of a list have to stand in it one after the other, as `batches` puts them"
            )
        return tuple(column.new_zeros(shape).index_put((number, place), column) for column in columns)

    def loss(self, out: dict[str, Tensor], batch: Batch) -> Tensor:
        """The definition's loss of each list, [B]: at its first candidate, 0 at the others."""
        scores, targets, first = widen(out["logits"])[:, 0], batch.targets, self.first(batch)
        gains, real = targets["gains"].to(scores.dtype), torch.ones_like(first)
        loss = self.list_loss(*self.tables(batch, scores, gains, real))
        return torch.zeros_like(scores).masked_scatter(first, loss).where(targets["labelled"], 0)

    def count(self, batch: Batch) -> Tensor:
        """The number of labelled lists, 0-d int64."""
        return (self.first(batch) & batch.targets["labelled"]).sum()

    def items(self, batch: Batch) -> Tensor:
        """The number of lists, 0-d int64."""
        return self.first(batch).sum()

    def views(self, out: dict[str, Tensor], batch: Batch) -> list[View]:
        """The distribution over the candidates of each list."""
        first = self.first(batch)
        logits, support = self.tables(batch, out["logits"][:, 0], torch.ones_like(first))
        return [View(logits, first.nonzero()[:, 0], support)]
