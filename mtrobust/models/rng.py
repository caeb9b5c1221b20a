"""Snapshots of the generators that dropout draws from, so that two passes can share their masks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class RngState:
    """The CPU generator and, for a pass on an accelerator, that device's generator."""

    cpu: Tensor
    device: Tensor | None
    where: torch.device

    @classmethod
    def take(cls, device: torch.device) -> RngState:
        """The present state of the generators that a pass on `device` draws from."""
        cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        return cls(torch.get_rng_state(), cuda, device)

    def put(self) -> None:
        """Set the generators back to this state."""
        torch.set_rng_state(self.cpu)
        if self.device is not None:
            torch.cuda.set_rng_state(self.device, self.where)


@contextmanager
def rng_kept(device: torch.device) -> Iterator[None]:
    """Whatever is drawn inside leaves no trace in the generators."""
    state = RngState.take(device)
    try:
        yield
    finally:
        state.put()
