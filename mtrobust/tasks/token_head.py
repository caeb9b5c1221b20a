"""The head of sequence labelling: a distribution over the tags at the first token of each word."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from mtrobust.tasks.base import Batch, EncoderInfo, HeadInput, View
from mtrobust.tasks.heads import Head, widen


class TokenHead(Head):
    """`logits` [B, T, n] of the family's token-classification head; what counts are the first tokens of words.

    Targets: `word` int [B, T], the number of the word that begins at a token, -1 elsewhere; `labels` int64 [B, T], its
    tag.
    """

    token_outputs = frozenset({"tag"})

    def __init__(self, info: EncoderInfo, n: int, dropout: float | None) -> None:
        super().__init__()
        self.net = info.family_head("token", n, dropout)

    @staticmethod
    def begins(batch: Batch) -> Tensor:
        """Where words begin, bool [B, T]."""
        return batch.targets["word"] >= 0

    def forward(self, read: HeadInput, batch: Batch) -> dict[str, Tensor]:
        """`logits` [B, T, n]."""
        return {"logits": self.net(read.last, read.pooled, batch.inputs)}

    def loss(self, out: dict[str, Tensor], batch: Batch) -> Tensor:
        """The cross-entropies in nats of a row's words, summed, [B]; `count` makes the mean per word."""
        begins, labelled = self.begins(batch), batch.targets["labelled"]
        loss = functional.cross_entropy(widen(out["logits"])[begins], batch.targets["labels"][begins], reduction="none")
        table = torch.zeros(begins.shape, dtype=loss.dtype, device=loss.device).masked_scatter(begins, loss)
        return table.sum(1).where(labelled, 0)

    def count(self, batch: Batch) -> Tensor:
        """The number of words that begin in labelled rows, 0-d int64."""
        return self.begins(batch)[batch.targets["labelled"]].sum()

    def views(self, out: dict[str, Tensor], batch: Batch) -> list[View]:
        """The distribution at each word's first token."""
        begins = self.begins(batch)
        return [View(out["logits"][begins], begins.nonzero()[:, 0])]

    def items(self, batch: Batch) -> Tensor:
        """The number of words that begin, 0-d int64."""
        return self.begins(batch).sum()

    def report(self, out: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """`tag` [B, T]: the number of the likeliest tag at each token."""
        return {"tag": out["logits"].argmax(-1)}
