"""Prior augmentation: SWEP's noise drawn from its prior (Lee et al., ACL 2021, baseline 7)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field, model_validator

from mtrobust.perturb.base import METHODS, Augmentation, AugmentationOptions, Passes
from mtrobust.perturb.layers import Site
from mtrobust.perturb.names import PriorVariance, prior_variance

if TYPE_CHECKING:
    from torch import Tensor


class Options(AugmentationOptions):
    """Options of `prior_aug`."""

    clean: float = Field(0.5, ge=0, le=1, description="share of the clean pass in the task loss (lambda of Eq. 4)")
    p: float = Field(0.1, gt=0, lt=1, description="dropout probability behind the prior")
    variance: PriorVariance = Field("code", description="code: sqrt(p / (1 - p)); appendix: p; or a number")

    @model_validator(mode="after")
    def _in_use(self) -> Options:
        if not isinstance(self.variance, str) and "p" in self.model_fields_set:
            raise ValueError("p: without effect when variance is a number")
        return self


@METHODS.register("prior_aug")
class PriorAug(Augmentation):
    """Trains on the clean input and on one multiplied by noise from SWEP's prior.

        z ~ N(1, variance) per entry,   loss = clean * task(h) + (1 - clean) * task(h * z)

    Defaults clean = 0.5, site `words`, variance sqrt(p / (1 - p)) = 1/3 at p = 0.1: what SWEP's released code has as
    its prior. The paper's appendix A.2 says 0.1 (`variance: appendix`); Section 3.4 reads as (p / (1 - p))^2
    (`variance: 0.0123`). Source: Lee et al., Section 4.2, baseline 7.
    """

    name = "prior_aug"
    summary = "word embeddings times noise from SWEP's prior, beside the clean pass"
    paper = "Lee et al. 2021, Learning to Perturb Word Embeddings for Out-of-distribution QA (baseline)"
    Options = Options

    def edit(self, passes: Passes, site: Site, hidden: Tensor) -> Tensor:
        """See the class."""
        variance = prior_variance(self.options.variance, self.options.p)
        delta = hidden * (variance**0.5 * passes.draw(f"prior/{site}", hidden))
        passes.log_size("delta_norm", delta)
        return hidden + delta
