"""Names of the divergences and what each computes; imports no torch, so that options are checked quickly.

f-divergences in the orientation of "Posterior Differential Regularization with f-divergence" (Cheng et al., 2021),
Eq. 6: D_g = sum_i p_i g(q_i / p_i) with p the clean and q the noisy posterior, so the generator g(t) sees t = q/p.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from mtrobust.errors import UserError
from mtrobust.registry import suggestion

DIVERGENCES_HELP: dict[str, str] = {
    "kl": "KL(clean || noisy), g(t) = -log t",
    "reverse_kl": "KL(noisy || clean), g(t) = t log t",
    "sym_kl": "KL(clean || noisy) + KL(noisy || clean), without a half",
    "sym_kl_fixed": "sym_kl whose targets (first arguments) are constants for the gradient, as in MT-DNN",
    "jsd": "Jensen-Shannon divergence in nats, at most log 2",
    "shl": "squared Hellinger distance 1 - sum sqrt(p q), at most 1",
    "tv": "total variation, half the sum of absolute differences, at most 1",
    "chi2": "Pearson's chi-square sum (q - p)^2 / p, g(t) = (t - 1)^2",
    "alpha(A)": "alpha-divergence of order A, g(t) = (t^A - A t + A - 1) / (A (A - 1)); A -> 0: kl, A -> 1: reverse_kl",
}
DIVERGENCE_NAMES: list[str] = [name for name in DIVERGENCES_HELP if "(" not in name]  # registering adds to it

_ALPHA = re.compile(r"alpha\(\s*([^()\s]+)\s*\)")


def alpha_order(name: str) -> float | None:
    """The order A of `alpha(A)`; None for any other name. Raises `UserError` when A is not a finite number."""
    match = _ALPHA.fullmatch(name.strip())
    if match is None:
        return None
    try:
        order = float(match[1])
    except ValueError:
        order = math.nan
    if not math.isfinite(order):
        raise UserError(f"divergence: {name}: the order must be a finite number, as in alpha(0.5)")
    return order


def check_divergence(name: str) -> str:
    """The name itself when a divergence goes by it. Raises `ValueError` naming the known ones."""
    try:
        known = name in DIVERGENCE_NAMES or alpha_order(name) is not None
    except UserError as error:
        raise ValueError(str(error)) from error
    if not known:
        hint = suggestion(name, DIVERGENCE_NAMES)
        raise ValueError(f"unknown divergence '{name}'{hint} (known: {', '.join([*DIVERGENCE_NAMES, 'alpha(A)'])})")
    return name


DivergenceName = Annotated[str, AfterValidator(check_divergence)]
"""Type of an option that names a divergence."""

PriorVariance = Literal["code", "appendix"] | Annotated[float, Field(gt=0)]
"""Type of an option that says which variance SWEP's prior has."""


def prior_variance(choice: str | float, p: float) -> float:
    """The variance of the prior N(1, v): `code` sqrt(p / (1 - p)), `appendix` p, or the number itself."""
    if isinstance(choice, str):
        return {"code": math.sqrt(p / (1 - p)), "appendix": p}[choice]
    return choice
