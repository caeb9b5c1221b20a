"""Word dropout, a baseline of SWEP (Lee et al., ACL 2021, after Sennrich et al., 2016)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from mtrobust.perturb.base import METHODS, Augmentation, AugmentationOptions, Passes
from mtrobust.perturb.layers import Site

if TYPE_CHECKING:
    from torch import Tensor


class Options(AugmentationOptions):
    """Options of `word_dropout`."""

    p: float = Field(0.1, ge=0, lt=1, description="probability that a token is zeroed")


@METHODS.register("word_dropout")
class WordDropout(Augmentation):
    """Trains on states with whole tokens zeroed.

        m_t ~ Ber(1 - p) per token,   loss = clean * task(h) + (1 - clean) * task(m_t h_t)

    Defaults p = 0.1, site `words`, clean = 0 (only the noisy pass, as the baseline is described): the word embedding
    of a dropped token is the zero vector, its position and segment stay, nothing is rescaled. Any real token can be
    dropped, special ones too. Source: Lee et al., Section 4.2 and A.2.
    """

    name = "word_dropout"
    summary = "whole tokens zeroed"
    paper = "Lee et al. 2021, Learning to Perturb Word Embeddings for Out-of-distribution QA (baseline)"
    Options = Options

    def edit(self, passes: Passes, site: Site, hidden: Tensor) -> Tensor:
        """See the class."""
        drawn = passes.draw(f"word/{site}", hidden[..., 0], "uniform")
        drop = (drawn < self.options.p) & passes.noise_mask.bool()
        passes.log("dropped", drop.sum() / passes.noise_mask.sum())
        return hidden.masked_fill(drop.unsqueeze(-1), 0)
