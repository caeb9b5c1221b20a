"""Divergences between the class distributions of a clean and a noisy pass, one number per compared item.

f-divergences as in "Posterior Differential Regularization with f-divergence" (Cheng et al., 2021), Eq. 6:
D_g = sum_i p_i g(q_i / p_i), with p the clean and q the noisy posterior; natural logarithms; sum over classes.

How they are computed. Close to each other p and q make the textbook forms cancel: at the noise of 1e-3 that RPT uses,
sum p (log p - log q) in float32 is negative half of the time. So
- x = log(q/p) comes from the difference of the logits where that is small, not from two rounded log-softmaxes;
- each generator has its tangent at t = 1 taken off (sum p (t - 1) = 0 allows it), which makes every class's term
  non-negative, e.g. p (expm1(x) - x) for KL(p || q);
- where x is large the same terms are written without e^x, which would overflow.
Half-precision logits are widened to float32; float64 stays.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mtrobust.perturb.names import DIVERGENCE_NAMES, DIVERGENCES_HELP, alpha_order
from mtrobust.registry import Registry

Generator = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Pair:
    """Two distributions over the same classes: log p, log q, x = log q - log p, each [n, C]; off the support x = 0."""

    log_p: Tensor
    log_q: Tensor
    x: Tensor

    def swapped(self) -> Pair:
        """The same pair with p and q exchanged."""
        return Pair(self.log_q, self.log_p, -self.x)


def widen(values: Tensor) -> Tensor:
    """float32 for half precision, anything wider as it is."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def compare(clean_logits: Tensor, noisy_logits: Tensor, support: Tensor | None = None) -> Pair:
    """log p, log q and an accurate x = log(q/p) of two [n, C] logits; classes off `support` get probability 0.

    An item without any class in its support comes out as two equal distributions: divergence 0, gradient 0.
    Logits must be finite: classes that do not count belong in `support`, not at minus infinity.
    """
    if clean_logits.shape != noisy_logits.shape or clean_logits.dim() != 2:
        raise ValueError(f"logits must both be [n, C], got {tuple(clean_logits.shape)} and {tuple(noisy_logits.shape)}")
    a, b = widen(clean_logits), widen(noisy_logits)
    difference = b - a
    if support is not None:
        lowest = torch.finfo(a.dtype).min / 4  # finite, so that an empty support gives no NaN
        a, b = a.masked_fill(~support, lowest), b.masked_fill(~support, lowest)
        difference = difference.masked_fill(~support, 0)
    log_p, log_q = a.log_softmax(-1), b.log_softmax(-1)
    near = difference.detach().abs().amax(-1, keepdim=True) < 0.5
    small = torch.where(near, difference, 0)
    x_near = small - torch.log1p((log_p.exp() * torch.expm1(small)).sum(-1, keepdim=True))
    x = torch.where(near, x_near, log_q - log_p)
    return Pair(log_p, log_q, x if support is None else x.masked_fill(~support, 0))


def _gain(pair: Pair) -> Tensor:
    """q - p per class, exact to rounding where the two are close."""
    p = pair.log_p.exp()
    return torch.where(pair.x < 1, p * torch.expm1(pair.x.clamp(max=1)), pair.log_q.exp() - p)


def _kl(pair: Pair) -> Tensor:
    """Per class p (e^x - 1 - x) >= 0; its sum is KL(p || q), its gradient that of KL as well."""
    x, p = pair.x, pair.log_p.exp()
    s = x.clamp(-0.01, 0.01)  # below .01 the series: there e^x - 1 and x agree in most of their digits
    series = s * s * (1 / 2 + s * (1 / 6 + s * (1 / 24 + s * (1 / 120 + s * (1 / 720 + s / 5040)))))
    return torch.where(x.abs() < 0.01, p * series, _gain(pair) - p * x)


def _sym_kl(pair: Pair) -> Tensor:
    """Per class (q - p) x >= 0."""
    return _gain(pair) * pair.x


def _jsd(pair: Pair) -> Tensor:
    """Per class half of KL(p || m) and half of KL(q || m), m the mean of p and q."""
    x = pair.x
    both = torch.log1p(torch.expm1(-x.abs()) / 2)  # log of the mean over the larger of the two
    to_p, to_q = x.clamp(min=0) + both, (-x).clamp(min=0) + both  # log(m/p), log(m/q)
    log_m = pair.log_p + to_p
    return (_kl(Pair(pair.log_p, log_m, to_p)) + _kl(Pair(pair.log_q, log_m, to_q))) / 2


def _larger(pair: Pair) -> Tensor:
    """The larger of p and q per class."""
    return torch.maximum(pair.log_p, pair.log_q).exp()


class Divergence:
    """A divergence by the sum over classes of non-negative terms.

    terms: function of a `Pair` to [n, C]; detach_default: whether the clean side is a constant unless the call says
    otherwise (true for one-sided divergences, false for symmetric ones).
    """

    def __init__(self, name: str, terms: Callable[[Pair], Tensor], detach_default: bool) -> None:
        self.name, self.terms, self.detach_default = name, terms, detach_default

    def __call__(
        self,
        clean_logits: Tensor,
        noisy_logits: Tensor,
        support: Tensor | None = None,
        detach_clean: bool | None = None,
    ) -> Tensor:
        """The divergence of each item: [n, C] logits twice (and support bool [n, C]) to [n], float32 or wider.

        detach_clean: no gradient goes to the clean logits; None = `detach_default`.
        """
        if self.detach_default if detach_clean is None else detach_clean:
            clean_logits = clean_logits.detach()
        return self.values(clean_logits, noisy_logits, support)

    def values(self, clean_logits: Tensor, noisy_logits: Tensor, support: Tensor | None) -> Tensor:
        """The [n] values; what a subclass with a form of its own defines."""
        return self.terms(compare(clean_logits, noisy_logits, support)).sum(-1)

    def __repr__(self) -> str:
        return f"Divergence({self.name})"


class FixedTargets(Divergence):
    """KL(p' || q) + KL(q' || p) with p', q' constants for the gradient.

    The value is `sym_kl`; the gradients are (p - q) and (q - p) alone, those of MT-DNN's SymKlCriterion.
    """

    def __init__(self) -> None:
        super().__init__("sym_kl_fixed", _kl, detach_default=False)

    def values(self, clean_logits: Tensor, noisy_logits: Tensor, support: Tensor | None) -> Tensor:
        """See the class."""
        one = self.terms(compare(clean_logits.detach(), noisy_logits, support))
        other = self.terms(compare(noisy_logits.detach(), clean_logits, support))
        return (one + other).sum(-1)


class FDivergence(Divergence):
    """An f-divergence from any convex generator g with g(1) = 0, which sees t = noisy/clean (Eq. 6).

    g takes a float64 tensor and must be differentiable by torch. All is computed in float64; the result is float32 for
    logits of float32 and below. Where g outgrows float32 (t^2, 1/t: at logits of +-50 t reaches e^100) it goes on along
    its tangent, for t^2 from t = e^40 on: still convex, so still an f-divergence, with finite gradients.

    Raises `ValueError` for a g that is not 0 at 1 or falls below its tangent there (and so is not convex).
    """

    def __init__(self, name: str, generator: Generator, symmetric: bool = False) -> None:
        super().__init__(name, self._terms, detach_default=not symmetric)
        self.generator = generator
        one, self._slope = self._at(0.0)
        if not abs(one) < 1e-9:
            raise ValueError(f"divergence {name}: a generator must be 0 at t = 1, this one is {one}")
        for log_t in range(-8, 9):
            above = self._at(log_t)[0] - self._slope * math.expm1(log_t)
            if not above > -1e-9 * math.exp(abs(log_t)):
                raise ValueError(f"divergence {name}: the generator is not convex: below its tangent at t = e^{log_t}")
        self._edges = (self._edge(-1), self._edge(1))

    def _at(self, log_t: float) -> tuple[float, float]:
        """g and its derivative at one point."""
        with torch.enable_grad():
            point = torch.tensor([math.exp(log_t)], dtype=torch.float64, requires_grad=True)
            value = self.generator(point).sum()
            (slope,) = torch.autograd.grad(value, point)
        return value.item(), slope.item()

    def _edge(self, sign: int) -> tuple[float, float, float]:
        """log t from which the tangent replaces g on one side, with g's value and slope there."""
        for log_t in range(200, 0, -5):
            value, slope = self._at(sign * log_t)
            if abs(value) / max(1.0, math.exp(sign * log_t)) < 1e18:
                return sign * log_t, value, slope
        raise ValueError(f"divergence {self.name}: the generator grows too fast to be computed")

    def _terms(self, pair: Pair) -> Tensor:
        """p (g(t) - g'(1) (t - 1)) per class, along g's tangents beyond the edges."""
        p, q = pair.log_p.exp(), pair.log_q.exp()
        (low, *_), (high, *_) = self._edges
        terms = p * self.generator(pair.x.clamp(low, high).exp())
        for (log_t, value, slope), beyond in zip(self._edges, (pair.x < low, pair.x > high), strict=True):
            # p (value + slope (q/p - t)) without the quotient
            terms = torch.where(beyond, p * (value - slope * math.exp(log_t)) + slope * q, terms)
        return terms - self._slope * (q - p)

    def values(self, clean_logits: Tensor, noisy_logits: Tensor, support: Tensor | None) -> Tensor:
        """The [n] values, with the last digit's rounding kept from going below zero."""
        result = widen(clean_logits).dtype
        sums = self.terms(compare(clean_logits.double(), noisy_logits.double(), support)).sum(-1)
        return (sums + (sums.clamp(min=0) - sums).detach()).to(result)


def alpha(order: float) -> Divergence:
    """The alpha-divergence of an order; 0 and 1 are the limits `kl` and `reverse_kl`; 1/2 is four times `shl`."""
    name = f"alpha({order:g})"
    if order in (0, 1):
        return Divergence(name, _kl if order == 0 else _reverse_kl, detach_default=True)
    scale = order * (order - 1)
    return FDivergence(name, lambda t: (t**order - order * t + order - 1) / scale, symmetric=order == 0.5)


def _reverse_kl(pair: Pair) -> Tensor:
    """Per class q (e^-x - 1 + x) >= 0."""
    return _kl(pair.swapped())


class _Divergences(Registry[Divergence]):
    """Named divergences; `alpha(A)` is made for any order A."""

    def __getitem__(self, name: str) -> Divergence:
        order = alpha_order(name)
        return super().__getitem__(name) if order is None else alpha(order)


DIVERGENCES: Registry[Divergence] = _Divergences("divergence")


def add_divergence(divergence: Divergence, summary: str = "") -> Divergence:
    """Registers a divergence under its name, so that options may name it. Raises `ValueError` for a taken name."""
    DIVERGENCES.register(divergence.name)(divergence)
    if divergence.name not in DIVERGENCE_NAMES:
        DIVERGENCE_NAMES.append(divergence.name)
        DIVERGENCES_HELP[divergence.name] = summary
    return divergence


def get_divergence(divergence: str | Divergence) -> Divergence:
    """The divergence of a name, or the one given. Raises `UserError` for an unknown name."""
    return DIVERGENCES[divergence] if isinstance(divergence, str) else divergence


for _divergence in (
    Divergence("kl", _kl, detach_default=True),
    Divergence("reverse_kl", _reverse_kl, detach_default=True),
    Divergence("sym_kl", _sym_kl, detach_default=False),
    FixedTargets(),
    Divergence("jsd", _jsd, detach_default=False),
    Divergence("shl", lambda o: _larger(o) * torch.expm1(-o.x.abs() / 2).square() / 2, detach_default=False),
    Divergence("tv", lambda o: _larger(o) * -torch.expm1(-o.x.abs()) / 2, detach_default=False),
    FDivergence("chi2", lambda t: (t - 1).square()),
):
    add_divergence(_divergence)
