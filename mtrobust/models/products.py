"""Linear layers by oneDNN where no gradient is asked for, on processors for which PyTorch's own choice is slow.

On the CPU PyTorch multiplies float32 matrices by MKL, which leaves half of the arithmetic of AMD's processors unused.
oneDNN, which is in PyTorch as well, does not: it takes 0.4 to 0.5 of the time for the shapes of an encoder
(docs/performance.md). In bfloat16 it is PyTorch's choice too, but each call lays the weight out anew; here that is done
once for many passes. The numbers are the same to rounding.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WORTH = 1 << 20  # multiplications from which a product is worth the call

# Weights in bfloat16 as oneDNN wants them, by the identity of the weight, which is kept with them so that it stays one.
Laid = dict[int, tuple[Tensor, Tensor]]
_laid: Laid | None = None


@cache
def in_use() -> bool:
    """Whether this process multiplies by oneDNN: on AMD's x86-64 processors, where PyTorch has it."""
    if platform.machine() not in ("x86_64", "AMD64") or not torch.backends.mkldnn.is_available():
        return False
    try:
        processor = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        processor = platform.processor()
    ops = ("_linear_pointwise", "_reorder_linear_weight")
    return "AuthenticAMD" in processor and all(hasattr(torch.ops.mkldnn, op) for op in ops)


@contextmanager
def fixed_weights(laid: Laid | None = None) -> Iterator[None]:
    """Inside, no weight changes, so that each is converted to bfloat16 and laid out once. laid: what was laid out
    before and is wanted again (default: nothing; all is forgotten at the end)."""
    global _laid
    before, _laid = _laid, {} if laid is None else laid
    try:
        yield
    finally:
        _laid = before


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.linear`; that function itself where there is nothing to gain.

    input: `[..., K]`; weight: `[N, K]`; bias: `[N]`; float32, under autocast bfloat16 as there.
    """
    if torch.is_grad_enabled() or not _gains(input, weight):
        return F.linear(input, weight, bias)
    if not torch.is_autocast_enabled("cpu"):
        return _product(input, weight, bias) if input.dtype == torch.float32 else F.linear(input, weight, bias)
    if _laid is None or torch.get_autocast_dtype("cpu") != torch.bfloat16:
        return F.linear(input, weight, bias)
    if id(weight) not in _laid:
        _laid[id(weight)] = weight, torch.ops.mkldnn._reorder_linear_weight(weight.bfloat16(), None)
    return _product(input.bfloat16(), _laid[id(weight)][1], bias.bfloat16() if bias is not None else None)


def _gains(input: Tensor, weight: Tensor) -> bool:
    return (
        # Neither a share of a weight, as FSDP has them, nor one made for this call, which would be kept.
        type(weight) is nn.Parameter
        and weight.dtype == torch.float32
        and input.device.type == weight.device.type == "cpu"
        and input.numel() * weight.shape[0] >= WORTH
        and in_use()
        and not torch.compiler.is_compiling()
    )


def _product(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    out: Tensor = torch.ops.mkldnn._linear_pointwise(input, weight, bias, "none", [], "")
    return out
