"""From features to one padded batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mtrobust.tasks.base import Batch

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from mtrobust.tasks.taskdef import TaskDef


class Collator:
    """Makes batches of one task: pads to the longest feature of the batch.

    task: its type names the target columns; pad_token_id: what `input_ids` are padded with. Columns that are not
    `in_batch` (offsets, used only for decoding) are left out.
    """

    def __init__(self, task: TaskDef, pad_token_id: int) -> None:
        self.task, self.pad_token_id = task.name, pad_token_id
        self.columns = {name: column for name, column in task.type.columns.items() if column.in_batch}

    def __call__(
        self, features: Sequence[Mapping[str, Any]], row_ids: Sequence[int] | np.ndarray | None = None
    ) -> Batch:
        """`features`: dicts of arrays and numbers as `Features.row` gives them; row_ids: one number per feature, what
        noise is keyed by (default: the position in `features`)."""
        lengths = [len(feature["input_ids"]) for feature in features]
        rows, longest = len(features), max(lengths)
        attention = np.zeros((rows, longest), dtype=np.int64)
        for i, length in enumerate(lengths):
            attention[i, :length] = 1
        inputs = {
            "input_ids": _padded(features, "input_ids", lengths, longest, np.int64, self.pad_token_id),
            "attention_mask": torch.from_numpy(attention),
        }
        if "token_type_ids" in features[0]:
            inputs["token_type_ids"] = _padded(features, "token_type_ids", lengths, longest, np.int64, 0)
        targets = {}
        for name, column in self.columns.items():
            dtype = np.dtype(column.dtype)
            if column.shape == "token":
                targets[name] = _padded(features, name, lengths, longest, dtype, column.pad)
            elif column.shape == "list":
                sizes = [len(feature[name]) for feature in features]
                targets[name] = _padded(features, name, sizes, max(sizes), dtype, column.pad)
            else:
                targets[name] = torch.from_numpy(np.array([feature[name] for feature in features], dtype=dtype))
        ids = np.arange(rows) if row_ids is None else row_ids
        return Batch(self.task, inputs, targets, torch.from_numpy(np.array(ids, dtype=np.int64)))


def evaluation_batches(
    task: TaskDef, tokenizer: PreTrainedTokenizerBase
) -> Callable[[Sequence[Mapping[str, Any]]], Batch]:
    """A function from features to the batch that evaluation sees: the same for a row whenever and beside whatever."""
    collate = Collator(task, tokenizer.pad_token_id)
    return lambda features: task.type.drawn(collate(features), tokenizer)


def _padded(
    features: Sequence[Mapping[str, Any]], name: str, lengths: list[int], longest: int, dtype: Any, pad: float
) -> torch.Tensor:
    """[B, longest] with the features' values first and `pad` behind."""
    block = np.full((len(features), longest), pad, dtype=dtype)
    for i, (feature, length) in enumerate(zip(features, lengths, strict=True)):
        block[i, :length] = feature[name]
    return torch.from_numpy(block)
