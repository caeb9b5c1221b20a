"""Bernoulli dropout on word embeddings, a baseline of SWEP (Lee et al., ACL 2021)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from mtrobust.perturb.base import METHODS, Augmentation, AugmentationOptions, Passes
from mtrobust.perturb.layers import Site

if TYPE_CHECKING:
    from torch import Tensor


class Options(AugmentationOptions):
    """Options of `bernoulli_dropout`."""

    p: float = Field(0.1, ge=0, lt=1, description="probability that an entry is zeroed")
    scaled: bool = Field(True, description="kept entries divided by 1 - p; false: the literal Ber(1 - p) mask")


@METHODS.register("bernoulli_dropout")
class BernoulliDropout(Augmentation):
    """Trains on states with single entries zeroed.

        m ~ Ber(1 - p) per entry,   loss = clean * task(h) + (1 - clean) * task(h * m / (1 - p))

    Defaults p = 0.1, site `words`, clean = 0 (only the noisy pass, as the baseline is described). Lee et al., Section
    4.2, print the mask without a scale; `scaled: false` takes it so.
    """

    name = "bernoulli_dropout"
    summary = "entries of the word embeddings zeroed"
    paper = "Lee et al. 2021, Learning to Perturb Word Embeddings for Out-of-distribution QA (baseline)"
    Options = Options

    def edit(self, passes: Passes, site: Site, hidden: Tensor) -> Tensor:
        """See the class."""
        p = self.options.p
        drawn = passes.draw(f"bernoulli/{site}", hidden, "uniform")
        keep = (drawn >= p).to(drawn.dtype)
        factor = keep / (1 - p) if self.options.scaled else keep
        delta = hidden * (factor - 1) * passes.noise_mask.unsqueeze(-1)
        passes.log_size("delta_norm", delta)
        return hidden + delta.to(hidden.dtype)
