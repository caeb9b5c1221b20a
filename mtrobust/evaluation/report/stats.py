"""Means, spreads and intervals over seeds and examples. NumPy arrays of float64 throughout.

What varies between two reported figures: the seed (initial head, order of batches, dropout) and the examples that
happen to be in the set. The interval of a difference covers both:

    difference + t · s/√n + e        t ~ Student's t with n−1 degrees of freedom, e from the bootstrap over examples

n seeds that both methods ran, s the sample standard deviation of the n differences. The bootstrap draws as many
examples as there are, with replacement, the same for both methods and all seeds, and computes the metric anew; e is the
mean difference on the draw minus the one on the set. The interval is between the 2.5 % and 97.5 % quantiles of the sum.

Seeds are not resampled: of three differences a bootstrap can make no interval wider than from the smallest to the
largest, which holds the true mean at most three times out of four. Student's t is exact for normal differences at any
n >= 2. The part of the noise that belongs to a seed and an example together is counted in both terms, so the interval
is a little too wide rather than too narrow. No correction is made for looking at many methods and columns.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Score = Callable[[Array], Array]  # weights of the examples, [draws, n] -> figure of each draw, [draws]
Sources = Literal["seeds and examples", "seeds", "examples", "none"]

RESAMPLES = 5000
LEVEL = 0.95
_CHUNK = 2_000_000  # weights held at a time


class Interval(NamedTuple):
    """Bounds, and what varied. With `none` there is nothing to compute them from, and both are NaN."""

    low: float
    high: float
    of: Sources


def mean_std(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation (n − 1), which one value does not have."""
    array = np.asarray(values, dtype=np.float64)
    return float(array.mean()), float(array.std(ddof=1)) if len(array) > 1 else None


def draws(key: str, n: int, count: int = RESAMPLES) -> Iterator[Array]:
    """How often each of n examples is drawn, [rows, n], `count` rows in all; the same for the same key and n."""
    generator = np.random.default_rng([zlib.crc32(key.encode("utf-8")), n])
    size = max(1, _CHUNK // n)
    for start in range(0, count, size):
        rows = min(size, count - start)
        picked = generator.integers(n, size=(rows, n)) + np.arange(rows)[:, None] * n
        yield np.bincount(picked.ravel(), minlength=rows * n).reshape(rows, n).astype(np.float64)


def bootstrap(scores: Sequence[Score], key: str, n: int, count: int = RESAMPLES) -> Array:
    """Figures of all scores on the same draws, [scores, count]; undefined ones are NaN."""
    found = [[] for _ in scores]  # type: list[list[Array]]
    for weights in draws(key, n, count):
        for kept, score in zip(found, scores, strict=True):
            kept.append(score(weights))
    return np.stack([np.concatenate(kept) for kept in found])


def interval(differences: Sequence[float], deviations: Array | None, level: float = LEVEL) -> Interval:
    """Interval of the mean of paired differences, one for each seed.

    deviations: [draws], mean difference on each draw of examples minus the one on all; None where the examples are not
    at hand.
    """
    values = np.asarray(differences, dtype=np.float64)
    tail = (1 - level) / 2
    centre = float(values.mean())
    if deviations is not None:
        deviations = deviations[np.isfinite(deviations)]
    if deviations is None or not len(deviations):
        if len(values) < 2:
            return Interval(float("nan"), float("nan"), "none")
        reach = float(_t_quantile(1 - tail, len(values) - 1)) * _error(values)
        return Interval(centre - reach, centre + reach, "seeds")
    if len(values) < 2:
        low, high = np.quantile(deviations, [tail, 1 - tail])
        return Interval(centre + float(low), centre + float(high), "examples")
    # evenly spaced quantiles of t in a fixed random order: no noise from drawing the heavy tails
    even = (np.arange(len(deviations)) + 0.5) / len(deviations)
    of_seeds = np.random.default_rng(0).permutation(_t_quantile(even, len(values) - 1)) * _error(values)
    low, high = np.quantile(of_seeds + deviations, [tail, 1 - tail])
    return Interval(centre + float(low), centre + float(high), "seeds and examples")


def _error(values: Array) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values)))


def _t_quantile(share: float | Array, freedom: int) -> Array:
    from scipy.special import stdtrit

    return stdtrit(freedom, share)


def share_bounds(share: float, n: int, level: float = LEVEL) -> tuple[float, float]:
    """The limits of the percentile bootstrap of a share of n examples: binomial quantiles, exact."""
    from scipy.stats import binom

    tail = (1 - level) / 2
    low, high = binom.ppf([tail, 1 - tail], n, share) / n
    return float(low), float(high)
