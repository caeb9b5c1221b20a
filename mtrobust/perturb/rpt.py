"""RPT: random perturbation training (Cheng et al., NAACL 2021, Section 3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from mtrobust.perturb.base import METHODS, Consistency, ConsistencyOptions, Needs, Passes, Term
from mtrobust.perturb.layers import Site

if TYPE_CHECKING:
    from torch import Tensor


class Options(ConsistencyOptions):
    """Options of `rpt`."""

    c: float = Field(1e-3, ge=0, description="L2 norm of the noise")
    norm_over: Literal["token", "example"] = Field("token", description="what the norm is taken over")
    dropout: Literal["independent", "shared"] = Field("independent", description="dropout masks of the noisy pass")


@METHODS.register("rpt")
class Rpt(Consistency):
    """Posterior difference between the clean input and one with random noise.

    With h the states at a site and e_t ~ N(0, I) per token: d_t = c * e_t / ||e_t||_2 (or one norm per example) and

        loss = task(clean) + alpha * D_g(posterior(h), posterior(h + d)),

    the mean over examples of the f-divergence D_g (default KL(clean || noisy); regression: squared error).
    Defaults c = 1e-3, alpha = 1, site 0 are the paper's.

    Deviations from the released code: unit norm is exact (it adds 1e-6 and 1e-12 to denominators); noise is zero on
    padding; the embedding table gets a gradient through the noisy pass as well (the classification code cuts it).
    With c this small most of the effect is two dropout masks: `dropout: shared` takes that part out.
    """

    name = "rpt"
    summary = "random noise of fixed L2 norm per token, any f-divergence"
    paper = "Cheng et al. 2021, Posterior Differential Regularization with f-divergence"
    Options = Options

    @property
    def needs(self) -> Needs:
        """The sites; with shared masks also the clean pass's generator states."""
        return Needs(frozenset(self.sites), shared_dropout=self.options.dropout == "shared")

    def at_site(self, passes: Passes, site: Site) -> Term:
        """See the class."""
        if self.options.dropout == "shared":
            hidden = passes.h(site)
            clean, noisy = passes, passes.at(site, hidden + self.delta(passes, site, hidden), dropout="shared")
        else:
            clean, noisy = passes.fork(site, lambda hidden: hidden + self.delta(passes, site, hidden))
        return passes.diff(self.options.divergence, clean, noisy, self.options.detach_clean)

    def delta(self, passes: Passes, site: Site, hidden: Tensor) -> Tensor:
        """The noise for the states of a site, [B, T, width]."""
        from mtrobust.perturb.noise import unit_l2

        unit = unit_l2(passes.draw(f"rpt/{site}", hidden), passes.noise_mask, self.options.norm_over)
        passes.log_size("delta_norm", self.options.c * unit)
        return self.options.c * unit
