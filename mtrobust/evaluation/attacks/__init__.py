"""Attacks on trained classifiers. One import line per attack file registers it; no torch is imported here."""

from mtrobust.evaluation.attacks import bert_attack  # noqa: F401
from mtrobust.evaluation.attacks.base import ATTACKS, Attack, AttackOptions, Change, Outcome

__all__ = ["ATTACKS", "Attack", "AttackOptions", "Change", "Outcome"]
