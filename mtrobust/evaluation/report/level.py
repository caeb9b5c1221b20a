"""What a model that learned nothing reaches, and whether the baseline is clearly above it.

acc, f1_micro: the most frequent label's share q. f1: always answering class 1, 2p/(1+p) with p its share. f1_macro:
always answering the most frequent label, (1/C)·2q/(1+q). mcc, pearson, spearman: 0. Clear means above the upper end of
the level's 95 % interval: the percentile bootstrap over the examples, which for a share is the binomial's quantile and
for a correlation near 0 is 1.96/√n. A run that was stopped before it learned may be given as the level beside these
(questions have no majority class): its figure and the bootstrap over its own examples, or `MARGIN` points where it has
none. Where several levels are known the highest counts.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mtrobust.evaluation.report.examples import labels_of, read_examples, usable
from mtrobust.evaluation.report.runs import RunData, higher_is_better
from mtrobust.evaluation.report.stats import LEVEL, bootstrap, share_bounds
from mtrobust.registry import Registry

MARGIN = 3.0  # points above the figure of an untrained run without example-wise predictions


class Level(NamedTuple):
    """The figure to beat, the upper end of its interval, and what it is."""

    figure: float
    upper: float
    kind: str


Counts = Counter[Any]
LEVELS: Registry[Callable[[Counts, tuple[str, ...]], Level | None]] = Registry("level of a metric")


def _most_frequent(labels: Counts) -> tuple[float, float]:
    """(share of the most frequent label, the upper end of its interval)."""
    n = labels.total()
    share = max(labels.values()) / n
    return share, share_bounds(share, n)[1]


@LEVELS.register("acc")
@LEVELS.register("f1_micro")
def _accuracy(labels: Counts, classes: tuple[str, ...]) -> Level | None:
    if len(labels) < 2:  # a group of one class: its most frequent label says nothing
        return None
    share, upper = _most_frequent(labels)
    return Level(100 * share, 100 * upper, "majority class")


@LEVELS.register("f1")
def _f1(labels: Counts, classes: tuple[str, ...]) -> Level | None:
    if len(classes) != 2 or len(labels) < 2:
        return None
    share = labels[classes[1]] / labels.total()
    upper = share_bounds(share, labels.total())[1]
    return Level(200 * share / (1 + share), 200 * upper / (1 + upper), f"always {classes[1]}")


@LEVELS.register("f1_macro")
def _f1_macro(labels: Counts, classes: tuple[str, ...]) -> Level | None:
    if len(labels) < 2:
        return None
    share, upper = _most_frequent(labels)
    figure, high = (200 * q / (1 + q) / len(labels) for q in (share, upper))
    return Level(figure, high, "majority class")


@LEVELS.register("mcc")
@LEVELS.register("pearson")
@LEVELS.register("spearman")
def _correlation(labels: Counts, classes: tuple[str, ...]) -> Level | None:
    return Level(0.0, 196.0 / math.sqrt(labels.total()), "no correlation") if len(labels) > 1 else None


def level_of(column: str, run: RunData, untrained: RunData | None = None, data_dir: Path | None = None) -> Level | None:
    """The highest level known for a column; None where nothing is (then nothing can be checked).

    run: one that has the column, for its labels.
    """
    known = []
    metric = column.rsplit("/", 1)[-1]
    if metric in LEVELS:
        labels, classes = labels_of(run, column, data_dir)
        # answers of questions are lists: they have no most frequent one
        counts = Counter(label for label in labels if not isinstance(label, list))
        known.append(LEVELS[metric](counts, classes) if counts else None)
    if untrained is not None and higher_is_better(column):
        known.append(_untrained(column, untrained, data_dir))
    return max((level for level in known if level), key=lambda level: level.upper, default=None)


def _untrained(column: str, run: RunData, data_dir: Path | None) -> Level | None:
    figure = run.figures.get(column)
    if figure is None:
        return None
    examples = read_examples(run, column, data_dir)
    score = usable(examples, column, figure)
    if score is None or examples is None:
        return Level(figure, figure + MARGIN, "untrained run")
    drawn = bootstrap([score], examples.key, len(examples.ids))
    return Level(figure, float(np.nanquantile(drawn, (1 + LEVEL) / 2)), "untrained run")
