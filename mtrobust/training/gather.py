"""The figures of one step, from all its micro-batches and processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mtrobust.perturb.passes import Choice
from mtrobust.perturb.spread import Spread

Figures = dict[str, Any]  # numbers; a `Choice`; counts by bucket (a `Spread`)


@dataclass(frozen=True)
class Collected:
    """What one micro-batch gave. ghost: it stands in for one that this process does not have; shares: its parts of the
    loss and the terms; stats: what methods logged."""

    ghost: bool
    shares: dict[str, Tensor]
    stats: dict[str, Any]


def gather(
    collected: Sequence[Collected], world: int, device: torch.device, stop: bool = False
) -> tuple[Figures, bool]:
    """Loss and terms of the whole step (shares add up), methods' figures (means), what they drew (the same in all
    micro-batches, ghosts included), spreads as `{bucket: count}` (they add up); and whether any process is to stop."""
    shares, stats = list(collected[0].shares), collected[0].stats
    drawn = {name: value for name, value in stats.items() if isinstance(value, Choice)}
    spreads = [name for name, value in stats.items() if isinstance(value, Spread)]
    means = [name for name in stats if name not in drawn and name not in spreads]
    real = [one for one in collected if not one.ghost]
    zero = torch.zeros((), dtype=torch.float64, device=device)
    rows = [[*(one.shares[k] for k in shares), *(one.stats[k] for k in means)] for one in real]
    columns = [sum(column, zero) for column in zip(*rows, strict=True)] or [zero] * (len(shares) + len(means))
    tail = torch.tensor([len(real), stop], dtype=torch.float64, device=device)
    parts = [torch.stack(columns), tail]
    parts += [
        sum((one.stats[name].counts for one in real), torch.zeros_like(stats[name].counts)).to(device)
        for name in spreads
    ]
    vector = torch.cat(parts)
    if world > 1:
        torch.distributed.all_reduce(vector)
    values = vector.tolist()
    micro, stops = values[len(columns) : len(columns) + 2]
    figures: Figures = {name: value / world for name, value in zip(shares, values, strict=False)}
    figures |= {name: value / max(micro, 1) for name, value in zip(means, values[len(shares) :], strict=False)}
    at = len(columns) + 2
    for name in spreads:
        size = len(stats[name].counts)
        figures[name] = {bucket: int(count) for bucket, count in enumerate(values[at : at + size]) if count}
        at += size
    return figures | drawn, stops > 0
