"""Perturbation methods. One import line per method file registers it; no torch is imported here."""

from mtrobust.perturb import rapt, rpt, smart, standard, vat  # noqa: F401
from mtrobust.perturb.base import METHODS, Compose, Needs, Passes, Perturbation, Term
from mtrobust.perturb.build import build_methods

__all__ = ["METHODS", "Compose", "Needs", "Passes", "Perturbation", "Term", "build_methods"]
