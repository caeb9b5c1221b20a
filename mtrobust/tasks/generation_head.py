"""The head that writes text: the encoder family's decoder, taught token by token and read by beam search."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mtrobust.tasks.base import Batch, EncoderInfo, HeadInput
from mtrobust.tasks.heads import IGNORED, TokensHead


class GenerationHead(TokensHead):
    """The distribution at each token of the target, the decoder having read the target's tokens before it.

    Targets: `labels` int64 [B, L], the target's tokens, its end included, and `IGNORED` behind it. As the decoder reads
    them, the views of a pass need the target too.
    beams, longest, penalty: of the search for a text, see `TaskDef.num_beams`, `max_target_len`, `length_penalty`.
    """

    def __init__(self, info: EncoderInfo, dropout: float | None, beams: int, longest: int, penalty: float) -> None:
        super().__init__()
        net: Any = info.family_head("decoder", None, dropout)
        net.search(beams, longest, penalty)
        self.net = net

    def forward(self, read: HeadInput, batch: Batch) -> dict[str, Tensor]:
        """`logits` [n, V] for the n tokens of the batch's targets, row by row."""
        return self._taught(read, batch.inputs, batch.targets["labels"])

    def _taught(self, read: HeadInput, inputs: dict[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
        net: Any = self.net
        inputs = inputs | {"decoder_input_ids": net.before(labels)}
        return {"logits": net(read.last, None, inputs, labels != IGNORED)}

    def predict(self, read: HeadInput, batch: Batch) -> dict[str, Tensor]:
        """`ids` int64 [B, L]: the tokens of the text that the search found, its end included, and padding behind it;
        `log_probability` [B]: of these tokens, in nats."""
        net: Any = self.net
        ids, labels = net.write(read.last, batch.inputs["attention_mask"])
        found = Batch(batch.task, batch.inputs, {"labels": labels}, batch.row_ids)
        nats = self.losses(self._taught(read, batch.inputs, labels), found).sum(1)
        return {"ids": ids, "log_probability": -nats}

    def take_pretrained(self, source: str) -> list[str]:
        """The decoder of the checkpoint, and its output layer where that is not the word-embedding table."""
        net: Any = self.net
        return net.take_pretrained(source)
