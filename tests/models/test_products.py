"""Linear layers by oneDNN: the numbers of PyTorch's own, only without gradients, never with an old weight."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from mtrobust.models import products
from mtrobust.models.dropout import Masks
from mtrobust.models.products import fixed_weights, linear


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes that oneDNN was given; it is in use whatever the processor."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        pytest.skip("this PyTorch has no oneDNN")
    made: list[tuple[int, ...]] = []
    product = products._product
    monkeypatch.setattr(products, "in_use", lambda: True)
    monkeypatch.setattr(products, "_product", lambda x, *rest: (made.append(tuple(x.shape)), product(x, *rest))[1])
    return made


def layer(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return (
        torch.randn(8, 20, 96, dtype=dtype),
        torch.nn.Parameter(torch.randn(128, 96, dtype=dtype) / 10),
        torch.nn.Parameter(torch.randn(128, dtype=dtype)),
    )


def test_float32_is_the_same_to_rounding(calls: list[tuple[int, ...]]) -> None:
    x, weight, bias = layer()
    with torch.no_grad(), Masks():
        for given in (bias, None):
            torch.testing.assert_close(F.linear(x, weight, given), torch.addmm(
                torch.zeros(1) if given is None else given, x.view(-1, 96), weight.t()).view(8, 20, 128),
                rtol=1e-5, atol=1e-5)  # fmt: skip
    assert calls == [(8, 20, 96)] * 2


def test_bfloat16_is_what_autocast_gives(calls: list[tuple[int, ...]]) -> None:
    x, weight, bias = layer()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = F.linear(x, weight, bias)
        assert torch.equal(linear(x, weight, bias), expected) and not calls, "no weights are laid out outside"
        with fixed_weights():
            found = linear(x, weight, bias)
    assert calls == [(8, 20, 96)] and found.dtype == torch.bfloat16
    # One rounding to eight bits may fall the other way.
    torch.testing.assert_close(found, expected, rtol=2**-7, atol=1e-2)


def test_a_weight_is_laid_out_once_and_forgotten_at_the_end(calls: list[tuple[int, ...]]) -> None:
    x, weight, bias = layer()
    kept: products.Laid = {}
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        with fixed_weights():
            before = linear(x, weight, bias)
            with fixed_weights(kept):
                linear(x, weight, bias)
            laid = kept[id(weight)][1]
            with fixed_weights(kept):
                assert torch.equal(linear(x, weight, bias), before)
            assert kept[id(weight)][1] is laid
        weight.mul_(-1)
        bias.mul_(-1)
        with fixed_weights():
            assert torch.equal(linear(x, weight, bias), -before)


@pytest.mark.parametrize("case", ["gradients", "float64", "small", "another processor", "no parameter"])
def test_all_else_is_pytorchs_own(case: str, calls: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, bias = layer(torch.float64 if case == "float64" else torch.float32)
    x = x[:1, :2] if case == "small" else x
    weight = weight.detach() if case == "no parameter" else weight
    if case == "another processor":
        monkeypatch.setattr(products, "in_use", lambda: False)
    with torch.set_grad_enabled(case == "gradients"), Masks():
        assert torch.equal(F.linear(x, weight, bias), torch._C._nn.linear(x, weight, bias))
    assert not calls


@pytest.mark.parametrize("name", ["GenuineIntel", "AuthenticAMD", "i386"])
def test_other_processors_than_amds_keep_mkl(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda *args, **kwargs: f"vendor_id : {name}\n")
    monkeypatch.setattr(products.platform, "machine", lambda: "x86_64")
    found = products.in_use.__wrapped__()
    assert found == (name == "AuthenticAMD" and torch.backends.mkldnn.is_available())
