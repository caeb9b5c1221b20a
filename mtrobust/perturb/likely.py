"""The likeliest words of every position by a masked language model, kept in memory where asked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from mtrobust.models.masked_lm import MaskedLm

Found = tuple["Tensor", "Tensor"]  # words [B, T, k] int64, log p [B, T, k] float32


class LikelyWords:
    """k: how many words; bf16: the precision of the model; room: bytes that may be kept, on the CPU (0: nothing is).

    What is kept is found by a row's whole input (its tokens, not its number), so a text that is masked anew in each
    epoch is computed anew. Log p of a kept row is that of the batch in which it was first met: in another batch the
    padding, and so the rounding, is another.
    """

    def __init__(self, lm: MaskedLm, k: int, bf16: bool, room: int = 0) -> None:
        self.lm, self.k, self.bf16, self.room = lm, k, bf16, room
        self._kept: dict[bytes, Found] = {}

    def __call__(self, inputs: dict[str, Tensor]) -> Found:
        """(numbers of the words, their log p over the whole vocabulary); padding has any."""
        if not self.room and not self._kept:
            return self._computed(inputs)
        import torch

        keys = list(self._keys(inputs))
        missing = [row for row, key in enumerate(keys) if key not in self._kept]
        shape, device = (*inputs["input_ids"].shape, self.k), inputs["input_ids"].device
        words = torch.zeros(shape, dtype=torch.long, device=device)
        log_p = torch.zeros(shape, device=device)
        if missing:
            words[missing], log_p[missing] = self._computed({key: value[missing] for key, value in inputs.items()})
        for row in set(range(len(keys))).difference(missing):
            kept, scores = self._kept[keys[row]]
            words[row, : len(kept)], log_p[row, : len(kept)] = kept, scores
        for row in missing:
            length = int(inputs["attention_mask"][row].sum())
            self._keep(keys[row], words[row, :length], log_p[row, :length])
        return words, log_p

    def _computed(self, inputs: dict[str, Tensor]) -> Found:
        logits = self.lm.logits(inputs, self.bf16)
        top, words = logits.topk(self.k, dim=-1)
        # In place: at B x T x 30,000 words a copy costs as much as the sum itself.
        return words, top - top[..., :1] - logits.sub_(top[..., :1]).exp_().sum(-1, keepdim=True).log()

    def _keys(self, inputs: dict[str, Tensor]) -> Iterator[bytes]:
        """The whole input of each row, without padding."""
        mask = inputs["attention_mask"].bool().cpu()
        columns = [inputs[name].cpu() for name in sorted(inputs)]
        for row, real in enumerate(mask):
            yield b"".join(column[row][real].numpy().tobytes() for column in columns)

    def _keep(self, key: bytes, words: Tensor, log_p: Tensor) -> None:
        """Keeps a copy of a row, of [length, k] each, while there is room."""
        import torch

        row = words.to("cpu", torch.int32, copy=True), log_p.to("cpu", copy=True)
        size = len(key) + sum(part.nbytes for part in row)
        if size <= self.room:
            self.room -= size
            self._kept[key] = row
