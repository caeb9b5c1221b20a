"""An exponential moving average of the weights that train, and passes under it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from mtrobust.perturb.passes import Needs, Passes


class Averaged(nn.Module):
    """A copy of encoder and heads that follows them: averaged <- beta * averaged + (1 - beta) * weights, once a step.

    Its weights are buffers: they are saved and moved with the rest and never train.
    """

    step: torch.Tensor

    def __init__(self, encoder: nn.Module, heads: Mapping[str, nn.Module], beta: float) -> None:
        super().__init__()
        self.beta = beta
        # Copied together, so that what a head shares with the encoder (tied embeddings) stays shared. What never learns
        # is not copied at all.
        source = nn.ModuleDict({"encoder": encoder, "heads": nn.ModuleDict(heads)})
        still = {id(parameter): parameter for parameter in source.parameters() if not parameter.requires_grad}
        self.copy = copy.deepcopy(source, still)
        self.copy.requires_grad_(False)
        object.__setattr__(self, "_source", source)
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def passes(self, passes: Passes) -> Passes:
        """The clean pass of the same batch under the averaged weights, without dropout and gradient."""
        self._follow(passes.batch.step)
        self.copy.eval()
        modules: Any = self.copy
        clean = Passes(modules["encoder"], modules["heads"][passes.batch.task], passes.batch, passes.noise, Needs())
        assert clean.out  # runs now, without gradient
        return clean

    def _follow(self, step: int) -> None:
        """Takes up the update of the last optimiser step, once however many micro-batches a step has."""
        if int(self.step) == step:  # not >=: a loop that counts from 0 again goes on to be followed
            return
        self.step.fill_(step)
        sources: Any = self.__dict__["_source"]
        for mine, theirs in zip(self.copy.parameters(), sources.parameters(), strict=True):
            if mine is not theirs:
                mine.lerp_(theirs.to(mine.dtype), 1 - self.beta)
