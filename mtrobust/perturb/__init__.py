"""Perturbation methods. One import line per method file registers it; no torch is imported here."""

from mtrobust.perturb import (  # noqa: F401
    adv_aug,
    bernoulli_dropout,
    freelb,
    gaussian_dropout,
    jacobian,
    prior_aug,
    r3f,
    rapt,
    rdrop,
    rpt,
    smart,
    smix,
    standard,
    swep,
    vat,
    vda,
    word_dropout,
)
from mtrobust.perturb.base import METHODS, Compose, Perturbation
from mtrobust.perturb.build import build_methods
from mtrobust.perturb.passes import Needs, Passes, Term, counts

__all__ = ["METHODS", "Compose", "Needs", "Passes", "Perturbation", "Term", "build_methods", "counts"]
