"""Dropout masks of a pass on the CPU, drawn four to a random number, and attention around them.

PyTorch draws one number per element of a mask, one after the other on a single thread: 11 % of a float32 step of a
small encoder and 16 % of a bfloat16 one. Here 64 random bits give four elements of 16 bits each. The probability p is
rounded to a multiple of 2^-16, what is kept is scaled by the rounded probability, and the draws come from PyTorch's
default generator, so that setting its state repeats a mask. Other devices draw in parallel and are left alone.

PyTorch's fused attention takes long over short texts on the CPU, the more so in bfloat16: a quarter of a pass. Where no
gradient is asked for, so that scores need not be kept, they are written out here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from mtrobust.models.products import linear

LEVELS = 1 << 16  # of the 16 bits that decide on one element
LANES = 4  # elements to 64 bits
SHORT = 48  # tokens up to which written-out attention is faster than the fused kernel in float32


def mask(like: Tensor, p: float) -> Tensor:
    """A dropout mask of the shape and dtype of `like` (on the CPU): 0 with probability p, else 1 / (1 - p)."""
    dropped = round(p * LEVELS)
    if dropped == LEVELS:
        return torch.zeros_like(like)
    count = like.numel()
    bits = torch.empty(-(-count // LANES), dtype=torch.int64).random_(-(1 << 63), None)
    kept = bits.view(torch.int16)[:count].view(like.shape) >= dropped - LEVELS // 2
    return kept.to(like.dtype).mul_(LEVELS / (LEVELS - dropped))


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """`torch.nn.functional.dropout` with a mask of this module; that function itself where there is nothing to gain."""
    if not training or not 0 < p <= 1 or inplace or input.device.type != "cpu":
        return F.dropout(input, p, training, inplace)
    return input * mask(input, p)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """`torch.nn.functional.scaled_dot_product_attention` with a mask of this module on its posteriors; that function
    itself where there is nothing to gain.

    query, key, value: `[B, heads, T, D]`. Softmax is in float32 at least. A query that may attend to nothing gets the
    mean of all values, not zeros; only padding is such a query.
    """
    quick = not torch.is_grad_enabled() and (query.dtype == torch.bfloat16 or query.shape[-2] <= SHORT)
    if not (dropout_p or quick) or is_causal or enable_gqa or query.device.type != "cpu":
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = (query * factor) @ key.transpose(-2, -1)
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores.masked_fill_(~attn_mask, torch.finfo(scores.dtype).min)
    elif attn_mask is not None:
        scores = scores + attn_mask
    if not dropout_p:
        return scores.softmax(-1) @ value  # inside, PyTorch's softmax of bfloat16 is in float32
    weights = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(scores.dtype)
    return dropout(weights, dropout_p) @ value


def attention_of_first(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *args: Any, **kwargs: Any
) -> Tensor:
    """`attention` for the first token's query alone, `[B, heads, T, D]`: what it gives stands at all places."""
    mask = attn_mask[..., :1, :] if attn_mask is not None else None
    return attention(query[:, :, :1], key, value, mask, *args, **kwargs).expand(query.shape)


_OURS: dict[Callable[..., Any], Callable[..., Tensor]] = {
    F.dropout: dropout,
    F.linear: linear,
    F.scaled_dot_product_attention: attention,
}


class Masks(TorchFunctionMode):
    """Inside, dropout and attention are those of this module and linear layers those of `products`, whatever model
    calls them."""

    _entered = 0
    _first_only = False

    @classmethod
    def in_use(cls) -> bool:
        """Whether the caller is inside of one."""
        return cls._entered > 0

    def __enter__(self) -> Any:
        Masks._entered += 1
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        Masks._entered -= 1
        super().__exit__(*error)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        ours = _OURS.get(func, func)
        if ours is attention and Masks._first_only:
            ours = attention_of_first
        return ours(*args, **(kwargs or {}))


@contextmanager
def first_query_only() -> Iterator[None]:
    """Inside of `Masks`, attention is computed for the first token's query alone: for a layer whose other tokens are
    not read after it."""
    before, Masks._first_only = Masks._first_only, True
    try:
        yield
    finally:
        Masks._first_only = before
