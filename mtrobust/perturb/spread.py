"""How the sizes of a perturbation are spread over tokens: counts in fixed buckets.

Buckets are the same everywhere, so counts of micro-batches, processes and steps simply add up. They are evenly spaced
in the logarithm; the first holds what is smaller than all others (zero too), the last what is larger.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

LOWEST, HIGHEST, PER_DECADE = -6, 6, 40  # powers of ten; a bucket is 6 % wide
BUCKETS = (HIGHEST - LOWEST) * PER_DECADE + 2


@dataclass(frozen=True)
class Spread:
    """counts: float64 [BUCKETS]."""

    counts: Tensor


def spread(sizes: Tensor, mask: Tensor) -> Spread:
    """The sizes (>= 0) where the mask [of the same shape, 0 or 1] is set; one that is not a number counts as zero."""
    import torch

    place = (sizes.double().log10() - LOWEST).mul(PER_DECADE).floor().add(1)
    place = place.nan_to_num(0.0, BUCKETS - 1, 0.0).clamp(0, BUCKETS - 1).long()
    counts = torch.zeros(BUCKETS, dtype=torch.float64, device=sizes.device)
    return Spread(counts.scatter_add_(0, place.flatten(), mask.double().flatten()))


def upper(bucket: int) -> float:
    """The upper bound of a bucket; that of the last one is where it would end if it were as wide as the others."""
    return float(10 ** (LOWEST + bucket / PER_DECADE))
