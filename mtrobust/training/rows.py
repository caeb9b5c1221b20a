"""Which rows of a task are trained on, and which of them with their label.

The cached features are those of the whole splits; what is taken of them is decided here, on reading.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from mtrobust.data.collator import Collator
from mtrobust.data.features import Features
from mtrobust.tasks.base import Batch


@dataclass(frozen=True)
class Taken:
    """What is taken of a task's training rows; of a row that makes several features, all or none.

    seed: of the draws; data_fraction: share of the rows that stay; most: at most so many of these; label_fraction:
    share of the labelled ones among them that keep their label; unlabelled: whether rows without a label stay.
    """

    seed: int = 0
    data_fraction: float = 1.0
    most: int | None = None
    label_fraction: float = 1.0
    unlabelled: bool = True


@dataclass(frozen=True)
class RowCounts:
    """Rows of a task: trained on with their label, trained on without one, left out because they have none."""

    labelled: int
    unlabelled: int
    left_out: int


class Units:
    """What batches are made of: single features, or with `together` (see `TaskType`) all features of a row.

    of_row: ints [n], the row that each feature came from, those of a row one after the other. bounds: ints [units + 1],
    where each unit begins, and the end; sizes: ints [units], the features of each.
    """

    def __init__(self, of_row: np.ndarray, together: bool) -> None:
        begins = np.flatnonzero(np.diff(of_row, prepend=-1)) if together else np.arange(len(of_row))
        self.bounds = np.append(begins, len(of_row))
        self.sizes = np.diff(self.bounds)

    def places(self, positions: np.ndarray) -> np.ndarray:
        """The places of the features of some units (at least one), unit by unit."""
        return np.concatenate([np.arange(self.bounds[i], self.bounds[i + 1]) for i in positions])


class TrainRows:
    """The training features of one task: what is taken of its training splits, one after the other.

    parts: the features of whole splits. What is sampled are units: single features, or with `together` all features of
    a row. lengths: int32 [n], of a unit's longest feature; sizes: int64 [n], its features; called with positions of
    units, it makes the batch of their features. row_ids: int64, one per feature; labelled: bool, alike, the features
    that are trained on with their label. A feature's row id is its number in the whole split (plus the sizes of the
    splits before), so a subset of the rows sees the noise that it would see among all.
    """

    def __init__(
        self,
        parts: list[Features],
        collate: Collator,
        taken: Taken = Taken(),
        draw: Callable[[Batch, int], Batch] = lambda batch, number: batch,
        together: bool = False,
    ) -> None:
        """draw: what the task type does to the batch of a step, `TaskType.drawn`; together: as `TaskType` has it."""
        self.parts, self.collate, self.draw = parts, collate, draw
        self.starts = np.cumsum([0, *(len(part) for part in parts)])
        first = np.cumsum([0, *(part.n_rows for part in parts)])  # number of each split's first row
        rows = np.concatenate([part.rows + start for part, start in zip(parts, first, strict=False)])
        has_label = np.zeros(int(first[-1]), dtype=bool)
        has_label[rows[np.concatenate([part.scalar("labelled") for part in parts])]] = True
        stays, learns = choose(parts[0].task, has_label, taken)
        labelled, rest = int(learns.sum()), int((stays & ~learns).sum())
        if taken.unlabelled:
            self.counts = RowCounts(labelled, unlabelled=rest, left_out=0)
        else:
            stays, self.counts = learns, RowCounts(labelled, unlabelled=0, left_out=rest)
        self.row_ids = np.flatnonzero(stays[rows])
        lengths, of_row = np.concatenate([part.lengths for part in parts])[self.row_ids], rows[self.row_ids]
        self.labelled = learns[of_row]
        self._units = Units(of_row, together)
        self.sizes = self._units.sizes
        self.lengths = np.maximum.reduceat(lengths, self._units.bounds[:-1])

    def digest(self) -> str:
        """Tells the features of the whole splits from any others."""
        return "-".join(part.digest() for part in self.parts)

    def __call__(self, positions: np.ndarray, number: int = 0) -> Batch:
        """The batch of some units, as the step of that number sees it."""
        places = self._units.places(positions)
        ids, features = self.row_ids[places], []
        for i in ids:
            part = int(np.searchsorted(self.starts, i, side="right")) - 1
            features.append(self.parts[part].row(int(i - self.starts[part])))
        batch = self.collate(features, ids)
        batch.targets["labelled"] = torch.from_numpy(self.labelled[places])
        return self.draw(batch, number)


def choose(task: str, has_label: np.ndarray, taken: Taken) -> tuple[np.ndarray, np.ndarray]:
    """(rows that stay, those of them that learn from their label), bool [n] each.

    has_label: bool [n], which rows of the data have one. Both draws take the beginning of an order that the seed and
    the task's name fix, so a smaller share is part of a larger one.
    """
    rows = len(has_label)
    stays, learns = np.zeros(rows, dtype=bool), np.zeros(rows, dtype=bool)
    size = share(rows, taken.data_fraction)
    stays[_order(taken.seed, 3, task, rows)[: size if taken.most is None else min(size, taken.most)]] = True
    order = _order(taken.seed, 4, task, rows)
    order = order[(stays & has_label)[order]]
    learns[order[: share(len(order), taken.label_fraction)]] = True
    return stays, learns


def share(rows: int, fraction: float) -> int:
    """That share of a number of rows: rounded, halves up, and at least one."""
    return max(1, int(rows * fraction + 0.5))


def _order(seed: int, what: int, task: str, rows: int) -> np.ndarray:
    return np.random.default_rng((seed, what, zlib.crc32(task.encode()))).permutation(rows)
