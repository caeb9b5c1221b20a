"""Standard fine-tuning: the task loss alone."""

from __future__ import annotations

from mtrobust.config import StrictModel
from mtrobust.perturb.base import METHODS, Passes, Perturbation, Term


class Options(StrictModel):
    """`standard` has no options."""


@METHODS.register("standard")
class Standard(Perturbation):
    """Adds nothing to the task loss of the clean pass: the baseline of every comparison."""

    name = "standard"
    summary = "the task loss alone"
    paper = "-"
    Options = Options
    alone = True

    def forward(self, passes: Passes) -> dict[str, Term]:
        """Returns no term."""
        return {}
