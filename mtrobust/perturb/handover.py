"""Gradients that were formed inside a step, given to their tensors in the step's one backward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class HandOver(torch.autograd.Function):
    """A zero whose gradient with respect to each tensor is the one given, times what arrives from above."""

    @staticmethod
    def forward(ctx: Any, gradients: tuple[Tensor, ...], *tensors: Tensor) -> Tensor:
        """gradients: one per tensor, of its shape. Returns a 0-d zero."""
        ctx.gradients = gradients
        return tensors[0].new_zeros(())

    @staticmethod
    def backward(ctx: Any, *arriving: Tensor) -> tuple[Any, ...]:
        """The gradients, scaled (a loss scaler, accumulation)."""
        return (None, *(gradient * arriving[0] for gradient in ctx.gradients))
