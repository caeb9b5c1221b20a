"""Padded batches from features."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch

from mtrobust.data.collator import Collator
from mtrobust.tasks.base import Column

COLUMNS = {
    "labels": Column("int64"),
    "score": Column("float32"),
    "labelled": Column("bool"),
    "passage_mask": Column("bool", "token"),
    "kind": Column("int64", "token", pad=-100),
    "offset_start": Column("int32", "token", pad=-1, in_batch=False),
}
LISTS = SimpleNamespace(name="t", type=SimpleNamespace(columns={"target": Column("int64", "list", pad=-100)}))
TASK = SimpleNamespace(name="t", type=SimpleNamespace(columns=COLUMNS))


def feature(n: int, **extra):
    return {
        "input_ids": np.arange(5, 5 + n, dtype=np.int32),
        "labels": n, "score": n / 2, "labelled": n > 2, "row": 0,
        "passage_mask": np.ones(n, dtype=bool), "kind": np.full(n, 3), "offset_start": np.zeros(n), **extra,
    }  # fmt: skip


def test_a_batch_is_padded_to_its_longest_feature():
    batch = Collator(TASK, pad_token_id=9)([feature(2), feature(4)], [70, 3])
    assert batch.task == "t" and batch.row_ids.tolist() == [70, 3]
    assert batch.inputs["input_ids"].tolist() == [[5, 6, 9, 9], [5, 6, 7, 8]]
    assert batch.inputs["attention_mask"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    assert {value.dtype for value in batch.inputs.values()} == {torch.int64}
    assert "token_type_ids" not in batch.inputs
    assert batch.targets["passage_mask"].tolist() == [[True, True, False, False], [True] * 4]
    assert batch.targets["kind"].tolist() == [[3, 3, -100, -100], [3] * 4]
    assert batch.targets["labels"].tolist() == [2, 4] and batch.targets["score"].tolist() == [1.0, 2.0]
    assert batch.targets["labelled"].tolist() == [False, True]
    dtypes = {name: value.dtype for name, value in batch.targets.items()}
    assert dtypes == {
        "labels": torch.int64, "score": torch.float32, "labelled": torch.bool, "passage_mask": torch.bool,
        "kind": torch.int64,
    }  # fmt: skip


def test_token_types_and_default_row_ids():
    types = {"token_type_ids": np.array([0, 1], dtype=np.int8)}
    batch = Collator(TASK, 0)([feature(2, **types), feature(2, **types)])
    assert batch.inputs["token_type_ids"].tolist() == [[0, 1], [0, 1]] and batch.row_ids.tolist() == [0, 1]


def test_lists_are_padded_to_the_longest_of_their_own():
    batch = Collator(LISTS, 0)([feature(6, target=np.array([7])), feature(2, target=np.array([8, 9, 1]))])
    assert batch.targets["target"].tolist() == [[7, -100, -100], [8, 9, 1]]
    assert batch.inputs["input_ids"].shape == (2, 6)
    empty = Collator(LISTS, 0)([feature(3, target=np.zeros(0))])
    assert empty.targets["target"].shape == (1, 0)
