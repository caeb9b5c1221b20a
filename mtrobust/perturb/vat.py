"""VAT: virtual adversarial training with any f-divergence (Cheng et al., NAACL 2021, after Miyato et al., 2018)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mtrobust.perturb.base import METHODS, Adversarial, ConsistencyOptions, Passes, Term
from mtrobust.perturb.layers import Site


class Options(ConsistencyOptions):
    """Options of `vat`."""

    c: float = Field(1e-3, gt=0, description="L2 norm of the noise, of the start and of the result")
    norm_over: Literal["token", "example"] = Field(
        "token", description="what the norm of the result is taken over (the start's: a token)"
    )
    steps: int = Field(1, ge=1, description="power-iteration steps K")


@METHODS.register("vat")
class Vat(Adversarial):
    """Posterior difference between the clean input and one with adversarial noise of fixed norm.

    With h the states at a site and d_0 = c * e / ||e||_2, e ~ N(0, I) per token, K times

        d <- c * g / ||g||_2,   g = grad of sum D_g(posterior(h), posterior(h + d)), the clean side a constant,

    then loss = task(clean) + alpha * D_g(posterior(h), posterior(h + d)), the mean over examples (default KL(clean ||
    noisy); regression: squared error). The start is replaced, not added to. Tokens without any gradient (those no
    output reads) get no noise. Inner steps repeat the clean pass's dropout masks; the last pass draws its own.
    Defaults K = 1, c = 1e-3, alpha = 1, site 0 are the paper's.

    Deviations from the released code: norms are exact (it adds 1e-6 and 1e-12); the classification module's
    Jensen-Shannon form cannot be differentiated there; the embedding table gets a gradient through the noisy pass.
    """

    name = "vat"
    summary = "adversarial noise of fixed L2 norm by power iteration, any f-divergence"
    paper = "Cheng et al. 2021, Posterior Differential Regularization with f-divergence"
    Options = Options

    def at_site(self, passes: Passes, site: Site) -> Term:
        """See the class."""
        from mtrobust.perturb.noise import unit_l2

        hidden = passes.h(site)
        delta = self.options.c * unit_l2(passes.draw(f"vat/{site}", hidden), passes.noise_mask)
        for _ in range(self.options.steps):
            grad = self.gradient(passes, site, delta)
            delta = self.options.c * unit_l2(grad, passes.noise_mask, self.options.norm_over)
        passes.log_size("delta_norm", delta)
        noisy = passes.at(site, hidden + delta)
        return passes.diff(self.options.divergence, passes, noisy, self.options.detach_clean)
