"""Norms over real tokens, and noise that belongs to a row."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mtrobust.perturb.noise import (
    KeyedNoise,
    linf_normalize,
    normalize,
    project,
    project_linf,
    unit_l2,
    zero_padding,
)

MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 1, 1, 1, 0], [0, 0, 0, 0, 0]])  # right, inner, empty


def states(seed: int = 0) -> Tensor:
    """[4, 5, 6] with large values on padding, which no norm may see."""
    x = torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(seed))
    return torch.where(MASK.bool()[..., None], x, 1e6)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("per", ["token", "example"])
def test_norms_are_one_where_tokens_are_and_zero_elsewhere(norm: str, per: str) -> None:
    out = normalize(states(), MASK, norm, per)
    assert (out[MASK == 0] == 0).all()
    order = float("inf") if norm == "linf" else 2
    axes = (2,) if per == "token" else (1, 2)
    sizes = torch.linalg.vector_norm(out, order, axes)
    wanted = MASK.float() if per == "token" else MASK.any(1).float()
    torch.testing.assert_close(sizes, wanted)
    # the direction stays
    cosine = torch.nn.functional.cosine_similarity(out.flatten(1), zero_padding(states(), MASK).flatten(1))
    assert (cosine[:3] > (0.999999 if per == "example" else 0.8)).all()


def test_shorthands() -> None:
    x = states()
    assert torch.equal(unit_l2(x, MASK), normalize(x, MASK, "l2", "token"))
    assert torch.equal(linf_normalize(x, MASK, "example"), normalize(x, MASK, "linf", "example"))
    assert torch.equal(project(x, MASK, 0.3), project_linf(x, MASK, 0.3))


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("per", ["token", "example"])
def test_zero_stays_zero(norm: str, per: str) -> None:
    x = torch.zeros(4, 5, 6)
    x[0, 0, 0] = 1.0
    out = normalize(x, MASK, norm, per)
    assert out[0, 0, 0] == 1 and out.sum() == 1
    assert torch.equal(project(x, MASK, 2.0, norm, per), x)


@pytest.mark.parametrize("scale", [1e-36, 1e-30, 1e-20, 1e15])
def test_tiny_and_huge_entries_keep_their_direction(scale: float) -> None:
    x = zero_padding(states(), MASK)
    torch.testing.assert_close(unit_l2(x * scale, MASK), unit_l2(x, MASK), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(linf_normalize(x * scale, MASK), linf_normalize(x, MASK), rtol=1e-5, atol=1e-6)


def test_eps_is_added_to_the_norm() -> None:
    x = zero_padding(states(), MASK) * 1e-6
    token = x[0, 2]
    torch.testing.assert_close(normalize(x, MASK, "linf", eps=1e-6)[0, 2], token / (token.abs().max() + 1e-6))
    torch.testing.assert_close(normalize(x, MASK, "l2", eps=1e-6)[0, 2], token / (token.norm() + 1e-6))
    assert (normalize(torch.zeros(4, 5, 6), MASK, "l2", eps=1e-6) == 0).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("per", ["token", "example"])
def test_projection(norm: str, per: str) -> None:
    x = zero_padding(states(), MASK)
    out = project(states(), MASK, 0.5, norm, per)
    order = float("inf") if norm == "linf" else 2
    axes = (2,) if per == "token" else (1, 2)
    assert (torch.linalg.vector_norm(out, order, axes) <= 0.5 * (1 + 1e-6)).all()
    torch.testing.assert_close(project(out, MASK, 0.5, norm, per), out)
    assert torch.equal(project(x, MASK, 1e3, norm, per), x), "what lies inside stays as it is"
    assert (out[MASK == 0] == 0).all()


def test_padding_is_exactly_zero_even_after_nan() -> None:
    x = states()
    x[1, 3] = float("nan")
    x[2, 0] = float("inf")
    for out in (
        zero_padding(x, MASK),
        unit_l2(x, MASK, "example"),
        linf_normalize(x, MASK),
        project_linf(x, MASK, 0.1),
    ):
        assert out.isfinite().all() and (out[MASK == 0] == 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_half_precision_is_widened(dtype: torch.dtype) -> None:
    x = zero_padding(states(), MASK).to(dtype)
    out = unit_l2(x, MASK, "example")
    assert out.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(out.double()[:3].flatten(1).norm(dim=1), torch.ones(3).double(), rtol=1e-6, atol=0)


def test_norms_can_be_differentiated() -> None:
    x = zero_padding(states(), MASK)[:3].double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: unit_l2(x, MASK[:3], "example"), x)


# --- draws


def draw(
    noise: KeyedNoise, ids: list[int], mask: Tensor, step: int = 3, name: str = "rpt", dist: str = "normal"
) -> Tensor:
    return noise.draw(name, torch.empty(*mask.shape, 8), mask, torch.tensor(ids), step, dist)


def lengths(sizes: list[int], width: int) -> Tensor:
    return (torch.arange(width) < torch.tensor(sizes)[:, None]).long()


@given(
    ids=st.lists(st.integers(0, 2**40), min_size=1, max_size=6, unique=True),
    sizes=st.lists(st.integers(0, 9), min_size=6, max_size=6),
    extra=st.integers(0, 7),
    order=st.randoms(use_true_random=False),
    dist=st.sampled_from(["normal", "uniform"]),
)
@settings(max_examples=40, deadline=None)
def test_a_row_has_its_noise_wherever_it_stands(ids: list[int], sizes: list[int], extra: int, order, dist: str) -> None:
    sizes = sizes[: len(ids)]
    noise = KeyedNoise(7)
    here = draw(noise, ids, lengths(sizes, 9), dist=dist)
    places = list(range(len(ids)))
    order.shuffle(places)
    there = draw(KeyedNoise(7), [ids[i] for i in places], lengths([sizes[i] for i in places], 9 + extra), dist=dist)
    for new, old in enumerate(places):
        assert torch.equal(there[new, :9], here[old]) and (there[new, 9:] == 0).all()


def test_left_padding_and_holes_move_the_noise_along() -> None:
    noise = KeyedNoise(7)
    right = draw(noise, [4, 5], lengths([3, 4], 6))
    mask = torch.tensor([[0, 0, 0, 1, 1, 1], [1, 0, 1, 1, 0, 1]])
    left = draw(noise, [4, 5], mask)
    assert torch.equal(left[0, 3:], right[0, :3])
    assert torch.equal(left[1, [0, 2, 3, 5]], right[1, :4])
    assert (left[mask == 0] == 0).all()


def test_every_part_of_the_key_counts() -> None:
    mask = lengths([6], 6)
    base = draw(KeyedNoise(1), [2], mask, 3, "a")
    others = [
        draw(KeyedNoise(2), [2], mask, 3, "a"),
        draw(KeyedNoise(1), [3], mask, 3, "a"),
        draw(KeyedNoise(1), [2], mask, 4, "a"),
        draw(KeyedNoise(1), [2], mask, 3, "b"),
        draw(KeyedNoise(1), [3], mask, 2, "a"),
    ]
    tensors = [base, *others]
    for i, one in enumerate(tensors):
        for other in tensors[i + 1 :]:
            assert not torch.equal(one, other)
            assert abs(torch.corrcoef(torch.stack((one.flatten(), other.flatten())))[0, 1]) < 0.6
    assert torch.equal(base, draw(KeyedNoise(1), [2], mask, 3, "a"))


def test_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    draw(KeyedNoise(1), [1, 2], lengths([3, 4], 4))
    assert torch.equal(torch.rand(3), expected)


def test_distributions() -> None:
    noise, like = KeyedNoise(5), torch.empty(64, 32, 16)
    ids = torch.arange(64)
    z = noise.draw("z", like, None, ids, 0)
    assert abs(z.mean()) < 0.02 and abs(z.std() - 1) < 0.02 and abs(z.pow(4).mean() - 3) < 0.2
    u = noise.draw("u", like, None, ids, 0, "uniform")
    assert u.min() >= 0 and u.max() < 1 and abs(u.mean() - 0.5) < 0.01 and abs(u.var() - 1 / 12) < 0.005
    rows = z.flatten(1)
    assert torch.corrcoef(rows).fill_diagonal_(0).abs().max() < 0.25, "rows are independent"


@pytest.mark.parametrize("shape", [(3,), (3, 5), (3, 5, 4), (3, 5, 4, 2)])
def test_shapes(shape: tuple[int, ...]) -> None:
    noise, ids = KeyedNoise(5), torch.tensor([1, 2, 3])
    out = noise.draw("x", torch.empty(shape), None, ids, 0)
    assert out.shape == shape and (out != 0).all()
    if len(shape) > 1:
        mask = lengths([5, 2, 0], 5)
        out = noise.draw("x", torch.empty(shape), mask, ids, 0)
        assert out.shape == shape and ((out != 0).reshape(3, 5, -1).all(-1) == mask.bool()).all()


def test_dtypes() -> None:
    noise, ids, mask = KeyedNoise(5), torch.tensor([1, 2]), lengths([3, 2], 3)
    narrow = noise.draw("x", torch.empty(2, 3, 4, dtype=torch.bfloat16), mask, ids, 0)
    wide = noise.draw("x", torch.empty(2, 3, 4, dtype=torch.float64), mask, ids, 0)
    assert narrow.dtype == torch.float32 and wide.dtype == torch.float64
    assert torch.equal(narrow.double(), wide)


def test_an_empty_batch() -> None:
    out = KeyedNoise(5).draw("x", torch.empty(0, 3, 4), torch.ones(0, 3), torch.tensor([], dtype=torch.long), 0)
    assert out.shape == (0, 3, 4)


def test_misuse_is_named() -> None:
    with pytest.raises(ValueError, match="unknown distribution 'gauss'"):
        KeyedNoise(1).draw("x", torch.empty(1, 2, 3), None, torch.tensor([1]), 0, "gauss")
    with pytest.raises(ValueError, match="2 row ids for a batch of 1"):
        KeyedNoise(1).draw("x", torch.empty(1, 2, 3), None, torch.tensor([1, 2]), 0)
