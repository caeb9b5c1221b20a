"""Noise on hidden states: draws that belong to a row, and norms over the real tokens of a token or an example.

Shapes: x is [B, T, ...], mask [B, T] (bool or 0/1) marks the tokens that may move; everything else comes out as exact
zeros and never enters a norm. Half precision is widened to float32 on the way in and stays so: the caller casts when it
adds the noise. A norm of zero gives zeros, never NaN.
"""

from __future__ import annotations

import hashlib
from typing import Literal

import torch
from torch import Tensor

from mtrobust.perturb.divergence import widen

Norm = Literal["linf", "l2"]
Per = Literal["token", "example"]
Dist = Literal["normal", "uniform"]


def zero_padding(x: Tensor, mask: Tensor) -> Tensor:
    """x, at least float32, with exact zeros off the mask, whatever stood there (NaN too)."""
    mask = mask.bool().reshape(mask.shape + (1,) * (x.dim() - mask.dim()))
    return torch.where(mask, widen(x), 0)


def _sizes(x: Tensor, norm: Norm, per: Per) -> Tensor:
    """The norm of each token [B, T, 1...] or example [B, 1, 1...]."""
    axes = tuple(range({"token": 2, "example": 1}[per], x.dim()))
    if norm == "linf":
        return torch.maximum(x.amax(axes, keepdim=True), -x.amin(axes, keepdim=True))
    # In float64, since inner gradients can be so small that their squares vanish in float32.
    return torch.linalg.vector_norm(x, 2, axes, keepdim=True, dtype=torch.float64).to(x.dtype)


def normalize(x: Tensor, mask: Tensor, norm: Norm = "linf", per: Per = "token", eps: float = 0.0) -> Tensor:
    """x / (||x|| + eps) for each token or example.

    norm: `linf` | `l2`; per: what a norm runs over; eps: added to the norm, as MT-DNN does with 1e-6.
    """
    x = zero_padding(x, mask)
    size = _sizes(x, norm, per)
    return x / torch.where(size == 0, 1, size + eps)


def linf_normalize(x: Tensor, mask: Tensor, per: Per = "token") -> Tensor:
    """x scaled so that the largest absolute entry of each token or example is 1."""
    return normalize(x, mask, "linf", per)


def unit_l2(x: Tensor, mask: Tensor, per: Per = "token") -> Tensor:
    """x scaled so that each token or example has length 1."""
    return normalize(x, mask, "l2", per)


def project(x: Tensor, mask: Tensor, radius: float, norm: Norm = "linf", per: Per = "token") -> Tensor:
    """The closest point with ||.|| <= radius: clipped entries for `linf`; for `l2` what is longer scaled down."""
    if norm == "linf":
        return project_linf(x, mask, radius)
    x = zero_padding(x, mask)
    size = _sizes(x, norm, per)
    return torch.where(size > radius, x * (radius / size), x)


def project_linf(x: Tensor, mask: Tensor, radius: float) -> Tensor:
    """Each entry clipped to [-radius, radius]: the projection per token and per example alike."""
    return zero_padding(x, mask).clamp(-radius, radius)


def _row_seed(*key: object) -> int:
    """A 63-bit number that depends on nothing but the key: the same in every process, on every rank and machine."""
    digest = hashlib.blake2b("\x1f".join(map(str, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class KeyedNoise:
    """Noise that belongs to a row: the same wherever the row stands in a batch, on a rank or among padding.

    A row's numbers depend on (seed, step, row id, name, number of marked tokens) and on the kind of device (CPU and GPU
    generators give different numbers). Nothing is read from torch's global generators.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._generators: dict[torch.device, torch.Generator] = {}

    def draw(
        self, name: str, like: Tensor, mask: Tensor | None, row_ids: Tensor, step: int, dist: Dist = "normal"
    ) -> Tensor:
        """Noise of `like`'s shape and device: N(0, 1) for `normal`, U[0, 1) for `uniform`.

        like: [B, T, ...] with mask [B, T], or [B, ...] with mask None (every entry drawn); row_ids: int64 [B].
        The result is float32, or float64 where `like` is (the same draws, widened), with zeros off the mask.
        """
        if dist not in ("normal", "uniform"):
            raise ValueError(f"unknown distribution '{dist}' (known: normal, uniform)")
        rows = row_ids.tolist()
        if len(rows) != len(like):
            raise ValueError(f"{len(rows)} row ids for a batch of {len(like)}")
        out = torch.zeros(like.shape, device=like.device)
        if mask is None:
            self._fill([out[i] for i in range(len(rows))], rows, name, step, dist)
        else:
            marked = mask.bool()
            sizes = marked.sum(1, keepdim=True)
            front = torch.arange(mask.shape[1], device=mask.device) < sizes
            self._fill([out[i, :size] for i, (size,) in enumerate(sizes.tolist())], rows, name, step, dist)
            if not torch.equal(front, marked):  # drawn at the front of each row, then moved to the marked tokens
                moved = torch.zeros_like(out)
                moved[marked] = out[front]
                out = moved
        return out.double() if like.dtype == torch.float64 else out

    def _fill(self, parts: list[Tensor], rows: list[int], name: str, step: int, dist: Dist) -> None:
        """Fills each row's part, in place, from the row's own seed."""
        if not parts:
            return
        generator = self._generator(parts[0].device)
        for row, part in zip(rows, parts, strict=True):
            generator.manual_seed(_row_seed(self.seed, step, row, name))
            if dist == "normal":
                part.normal_(generator=generator)
            else:
                part.uniform_(generator=generator)

    def _generator(self, device: torch.device) -> torch.Generator:
        """The one generator of a device; reseeded for every row."""
        if device not in self._generators:
            self._generators[device] = torch.Generator(device)
        return self._generators[device]
