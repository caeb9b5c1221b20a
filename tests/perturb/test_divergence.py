"""Divergences against their textbook forms in float64, their gradients, their limits, and what a user may add."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError
from torch import Tensor

from mtrobust.errors import UserError
from mtrobust.perturb import divergence as module
from mtrobust.perturb.divergence import (
    DIVERGENCES,
    Divergence,
    FDivergence,
    add_divergence,
    alpha,
    get_divergence,
)
from mtrobust.perturb.names import DIVERGENCE_NAMES, DivergenceName

ALPHAS = ["alpha(0)", "alpha(1)", "alpha(0.5)", "alpha(2)", "alpha(-1)", "alpha(3.5)", "alpha(0.3)", "alpha(-4)"]
NAMES = [*DIVERGENCE_NAMES, *ALPHAS]
SYMMETRIC = {"sym_kl", "sym_kl_fixed", "jsd", "shl", "tv", "alpha(0.5)"}
UPPER = {"jsd": math.log(2), "shl": 1.0, "tv": 1.0, "alpha(0.5)": 4.0}


def kl(p: Tensor, q: Tensor) -> Tensor:
    return (p * (p / q).log()).sum(-1)


def textbook(name: str, p: Tensor, q: Tensor) -> Tensor:
    """The defining formula on probabilities."""
    m = (p + q) / 2
    simple = {
        "kl": lambda: kl(p, q),
        "reverse_kl": lambda: kl(q, p),
        "sym_kl": lambda: kl(p, q) + kl(q, p),
        "sym_kl_fixed": lambda: kl(p.detach(), q) + kl(q.detach(), p),
        "jsd": lambda: (kl(p, m) + kl(q, m)) / 2,
        "shl": lambda: (p.sqrt() - q.sqrt()).square().sum(-1) / 2,
        "tv": lambda: (p - q).abs().sum(-1) / 2,
        "chi2": lambda: ((q - p).square() / p).sum(-1),
        "alpha(0)": lambda: kl(p, q),
        "alpha(1)": lambda: kl(q, p),
    }
    if name in simple:
        return simple[name]()
    order = float(name[6:-1])
    return ((p ** (1 - order) * q**order).sum(-1) - 1) / (order * (order - 1))


def pair(n: int = 6, c: int = 4, gap: float = 1.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    a = torch.randn(n, c, generator=g, dtype=torch.float64)
    return a.requires_grad_(), (a.detach() + gap * torch.randn(n, c, generator=g, dtype=torch.float64)).requires_grad_()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("gap", [3.0, 0.6, 0.1])  # the far and the near way of computing log(q/p)
def test_value_and_gradient_are_the_textbook_ones(name: str, gap: float) -> None:
    a, b = pair(gap=gap)
    ours = DIVERGENCES[name](a, b, detach_clean=False)
    theirs = textbook(name, a.softmax(-1), b.softmax(-1))
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-13)
    for mine, other in zip(
        torch.autograd.grad(ours.sum(), (a, b)), torch.autograd.grad(theirs.sum(), (a, b)), strict=True
    ):
        torch.testing.assert_close(mine, other, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "sym_kl_fixed"])  # it has no true gradient
@pytest.mark.parametrize("gap", [2.0, 0.05])
def test_gradcheck(name: str, gap: float) -> None:
    a, b = pair(n=2, c=3, gap=gap)
    support = torch.tensor([[1, 1, 1], [0, 1, 1]]).bool()
    assert torch.autograd.gradcheck(lambda a, b: DIVERGENCES[name](a, b, support, detach_clean=False), (a, b))


@pytest.mark.parametrize("name", ["kl", "sym_kl", "jsd", "shl", "chi2"])
def test_second_derivatives(name: str) -> None:
    """A Jacobian penalty on top of an ascent step differentiates twice."""
    a, b = pair(n=1, c=3, gap=2.0)
    assert torch.autograd.gradgradcheck(lambda a, b: DIVERGENCES[name](a, b, detach_clean=False), (a, b))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("gap", [1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6])
def test_float32_is_accurate_and_never_negative_close_by(name: str, gap: float) -> None:
    a, b = (x.detach().float() for x in pair(n=400, c=5, gap=gap))
    narrow = (a.clone().requires_grad_(), b.clone().requires_grad_())
    wide = (a.double().requires_grad_(), b.double().requires_grad_())
    ours, truth = (DIVERGENCES[name](*x, detach_clean=False) for x in (narrow, wide))
    assert ours.dtype == torch.float32 and truth.dtype == torch.float64
    assert (ours >= 0).all()
    torch.testing.assert_close(ours.double(), truth, rtol=3e-5, atol=0)
    mine, exact = (torch.autograd.grad(v.sum(), x) for v, x in ((ours, narrow), (truth, wide)))
    for one, other in zip(mine, exact, strict=True):
        assert (one.double() - other).norm() <= 1e-5 * other.norm()


def test_the_plain_form_would_fail_that() -> None:
    """Why the forms are as they are: at RPT's noise the plain sum is negative for a good part of the items."""
    a, b = (x.detach().float() for x in pair(n=400, c=5, gap=1e-4))
    log_p, log_q = a.log_softmax(-1), b.log_softmax(-1)
    plain = (log_p.exp() * (log_p - log_q)).sum(-1)
    assert (plain < 0).float().mean() > 0.2
    assert (DIVERGENCES["kl"](a, b) > 0).all()


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_finite_and_not_negative_up_to_50(name: str, data: st.DataObject) -> None:
    c = data.draw(st.integers(1, 5))
    numbers = st.one_of(st.sampled_from([-50.0, 50.0, 0.0]), st.floats(-50, 50, width=32))
    rows = st.lists(st.lists(numbers, min_size=c, max_size=c), min_size=3, max_size=3)
    a, b = (torch.tensor(data.draw(rows), dtype=torch.float32, requires_grad=True) for _ in range(2))
    support = torch.tensor(data.draw(st.lists(st.lists(st.booleans(), min_size=c, max_size=c), min_size=3, max_size=3)))
    for mask in (None, support):
        value = DIVERGENCES[name](a, b, mask, detach_clean=False)
        grads = torch.autograd.grad(value.sum(), (a, b))
        assert value.shape == (3,) and value.isfinite().all() and all(g.isfinite().all() for g in grads)
        assert (value >= 0).all() and (value <= UPPER.get(name, math.inf) + 2e-6).all()
    assert all((g[~support] == 0).all() for g in grads)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scale", [0.0, 1.0, 50.0, 1e4])
def test_equal_logits_give_zero(name: str, scale: float) -> None:
    a = (scale * torch.randn(5, 3)).requires_grad_()
    b = a.detach().clone().requires_grad_()
    value = DIVERGENCES[name](a, b, detach_clean=False)
    assert (value == 0).all()
    assert all((g == 0).all() for g in torch.autograd.grad(value.sum(), (a, b)))


@pytest.mark.parametrize("name", NAMES)
def test_a_shift_of_all_logits_changes_nothing(name: str) -> None:
    a, b = (x.detach() for x in pair(gap=0.3))
    shifted = DIVERGENCES[name](a, b + 7)
    torch.testing.assert_close(shifted, DIVERGENCES[name](a, b), rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("name", sorted(SYMMETRIC))
def test_symmetric_ones(name: str) -> None:
    a, b = (x.detach() for x in pair())
    torch.testing.assert_close(DIVERGENCES[name](a, b), DIVERGENCES[name](b, a))


@pytest.mark.parametrize("name", NAMES)
def test_support_is_the_divergence_over_fewer_classes(name: str) -> None:
    a, b = pair(n=2, c=5)
    support = torch.tensor([[1, 1, 0, 1, 0], [0, 0, 0, 0, 0]]).bool()
    with torch.no_grad():
        a[:, 2], b[:, 2] = 1e4, -1e4  # what does not count may be anything finite
    value = DIVERGENCES[name](a, b, support, detach_clean=False)
    part = [0, 1, 3]
    torch.testing.assert_close(value[:1], DIVERGENCES[name](a[:1, part], b[:1, part], detach_clean=False))
    assert value[1] == 0, "an item without support counts nothing"
    grads = torch.autograd.grad(value.sum(), (a, b))
    assert all((g[:, [2, 4]] == 0).all() and (g[1] == 0).all() for g in grads)


@pytest.mark.parametrize("name", NAMES)
def test_detach_clean(name: str) -> None:
    a, b = pair()
    assert DIVERGENCES[name].detach_default is (name not in SYMMETRIC)
    for choice in (None, True, False):
        value = DIVERGENCES[name](a, b, detach_clean=choice)
        torch.testing.assert_close(value, DIVERGENCES[name](a, b))
        (grad,) = torch.autograd.grad(value.sum(), a, allow_unused=True)
        assert (grad is None) is (DIVERGENCES[name].detach_default if choice is None else choice)


def test_fixed_targets_are_the_difference_of_posteriors() -> None:
    a, b = pair()
    grads = torch.autograd.grad(DIVERGENCES["sym_kl_fixed"](a, b).sum(), (a, b))
    p, q = a.softmax(-1), b.softmax(-1)
    torch.testing.assert_close(grads, (p - q, q - p))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", NAMES)
def test_half_precision_is_widened(name: str, dtype: torch.dtype) -> None:
    a, b = (x.detach().to(dtype) for x in pair())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = DIVERGENCES[name](a, b)
    assert value.dtype == torch.float32
    assert torch.equal(value, DIVERGENCES[name](a.float(), b.float()))


def test_known_numbers() -> None:
    """Two classes, (1/2, 1/2) against (3/4, 1/4), worked out by hand."""
    a, b = torch.zeros(1, 2, dtype=torch.float64), torch.tensor([[math.log(3), 0.0]], dtype=torch.float64)
    worked = {
        "kl": math.log(2 / math.sqrt(3)),
        "reverse_kl": 0.75 * math.log(3) - math.log(2),
        "sym_kl": math.log(3) / 4,
        "tv": 1 / 4,
        "chi2": 1 / 4,
        "shl": 1 - (math.sqrt(3 / 8) + math.sqrt(1 / 8)),
    }
    for name, number in worked.items():
        assert DIVERGENCES[name](a, b).item() == pytest.approx(number, rel=1e-12), name


def test_relations() -> None:
    a, b = (x.detach() for x in pair())
    torch.testing.assert_close(alpha(0.5)(a, b), 4 * DIVERGENCES["shl"](a, b))
    torch.testing.assert_close(alpha(2)(a, b), DIVERGENCES["chi2"](a, b) / 2)
    torch.testing.assert_close(alpha(1e-6)(a, b), alpha(0)(a, b), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(alpha(1 + 1e-6)(a, b), alpha(1)(a, b), rtol=1e-4, atol=1e-6)


# --- generators of the user

GENERATORS = {
    "kl": lambda t: -t.log(),
    "reverse_kl": lambda t: t * t.log(),
    "sym_kl": lambda t: (t - 1) * t.log(),
    "jsd": lambda t: (t * t.log() - (1 + t) * ((1 + t) / 2).log()) / 2,
    "shl": lambda t: (1 - t.sqrt()).square() / 2,
    "tv": lambda t: (t - 1).abs() / 2,
}


@pytest.mark.parametrize("name", GENERATORS)
@pytest.mark.parametrize("gap", [1.0, 1e-3, 30.0])
def test_a_generator_gives_the_built_in_divergence(name: str, gap: float) -> None:
    mine = FDivergence("mine", GENERATORS[name])
    a, b = (x.detach().requires_grad_() for x in pair(n=30, gap=gap))
    ours, theirs = (d(a, b, detach_clean=False) for d in (mine, DIVERGENCES[name]))
    torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-12)
    for one, other in zip(
        torch.autograd.grad(ours.sum(), (a, b)), torch.autograd.grad(theirs.sum(), (a, b)), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-10)
    extreme = torch.tensor([[50.0, -50.0, -50.0], [-50.0, 50.0, 50.0]])
    torch.testing.assert_close(mine(extreme, -extreme), DIVERGENCES[name](extreme, -extreme))


@pytest.mark.parametrize("name", ["chi2", "alpha(3.5)", "alpha(-4)"])
def test_tangents_continue_a_steep_generator_without_a_jump(name: str) -> None:
    steep = DIVERGENCES[name]
    assert isinstance(steep, FDivergence)
    (low, *_), (high, *_) = steep._edges
    assert low > -200 or high < 200
    steps = torch.linspace(-60, 60, 2001, dtype=torch.float64)[:, None] * torch.tensor([1.0, -1.0]).double() / 2
    values = steep(torch.zeros_like(steps), steps)
    middle = len(values) // 2
    assert (values[middle:].diff() >= 0).all() and (values[: middle + 1].diff() <= 0).all()


def test_bad_generators_are_refused() -> None:
    with pytest.raises(ValueError, match="must be 0 at t = 1"):
        FDivergence("bad", lambda t: t.square())
    with pytest.raises(ValueError, match="not convex"):
        FDivergence("bad", lambda t: t.log())
    with pytest.raises(ValueError, match="grows too fast"):
        FDivergence("bad", lambda t: (t.square().square() ** 4 - 1).square())


def test_a_divergence_can_be_added_under_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DIVERGENCES", module._Divergences("divergence"))
    monkeypatch.setattr(module, "DIVERGENCE_NAMES", DIVERGENCE_NAMES.copy())
    monkeypatch.setattr(module, "DIVERGENCES_HELP", {})
    added = add_divergence(FDivergence("le_cam", lambda t: (t - 1).square() / (t + 1), symmetric=True), "Le Cam")
    assert get_divergence("le_cam") is added and not added.detach_default
    assert "le_cam" in module.DIVERGENCE_NAMES and module.DIVERGENCES_HELP == {"le_cam": "Le Cam"}
    with pytest.raises(ValueError, match="registered twice"):
        add_divergence(added)


# --- names and misuse


def test_names_agree_with_the_registry() -> None:
    assert list(DIVERGENCES) == DIVERGENCE_NAMES
    assert all(DIVERGENCES[name].name == name for name in NAMES)
    assert repr(DIVERGENCES["kl"]) == "Divergence(kl)"
    mine = Divergence("mine", lambda pair: pair.x, detach_default=True)
    assert get_divergence(mine) is mine


@pytest.mark.parametrize("name", ["jds", "alpha", "alpha()", "KL", "alpha(x)", "alpha(inf)", "alpha(nan)", ""])
def test_unknown_names(name: str) -> None:
    class Options(BaseModel):
        divergence: DivergenceName

    with pytest.raises(UserError):
        DIVERGENCES[name]
    with pytest.raises(ValidationError, match="known: kl|finite number"):
        Options(divergence=name)
    assert Options(divergence="alpha(-0.5)").divergence == "alpha(-0.5)"


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match=r"\[n, C\], got \(2, 3\) and \(2, 4\)"):
        DIVERGENCES["kl"](torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"\[n, C\]"):
        DIVERGENCES["kl"](torch.zeros(3), torch.zeros(3))
    assert DIVERGENCES["kl"](torch.zeros(0, 3), torch.zeros(0, 3)).shape == (0,)


def test_names_and_layers_import_no_torch() -> None:
    code = "import sys, mtrobust.perturb.names, mtrobust.perturb.layers; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
