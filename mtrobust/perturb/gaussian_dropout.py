"""Gaussian dropout on word embeddings, a baseline of SWEP (Lee et al., ACL 2021, after Srivastava et al., 2014)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from mtrobust.perturb.base import METHODS, Augmentation, AugmentationOptions, Passes
from mtrobust.perturb.layers import Site

if TYPE_CHECKING:
    from torch import Tensor


class Options(AugmentationOptions):
    """Options of `gaussian_dropout`."""

    p: float = Field(0.1, ge=0, lt=1, description="dropout probability; the noise has variance p / (1 - p)")


@METHODS.register("gaussian_dropout")
class GaussianDropout(Augmentation):
    """Trains on states multiplied by noise with mean 1.

        z ~ N(1, p / (1 - p)) per entry,   loss = clean * task(h) + (1 - clean) * task(h * z)

    Defaults p = 0.1, site `words`, clean = 0 (only the noisy pass, as the baseline is described). Lee et al., Section
    4.2, print the variance (1 - p) / p of a retention probability and call 0.1 the dropout probability; taken together
    that is a variance of 9. Here p is the dropout probability, as in Srivastava et al., Section 10; `p: 0.9` gives 9.
    """

    name = "gaussian_dropout"
    summary = "word embeddings times Gaussian noise of mean 1"
    paper = "Lee et al. 2021, Learning to Perturb Word Embeddings for Out-of-distribution QA (baseline)"
    Options = Options

    def edit(self, passes: Passes, site: Site, hidden: Tensor) -> Tensor:
        """See the class."""
        delta = hidden * ((self.options.p / (1 - self.options.p)) ** 0.5 * passes.draw(f"gaussian/{site}", hidden))
        passes.log_size("delta_norm", delta)
        return hidden + delta
