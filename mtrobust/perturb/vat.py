"""VAT: virtual adversarial training with any f-divergence (Cheng et al., NAACL 2021, after Miyato et al., 2018)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from mtrobust.perturb.base import METHODS, Adversarial, AdversarialOptions, Passes
from mtrobust.perturb.layers import Site

if TYPE_CHECKING:
    from torch import Tensor


FINE, ROUGH = 1e-4, 1.0  # starts below these are drowned by rounding in float32 and in bfloat16


class Options(AdversarialOptions):
    """Options of `vat`."""

    c: float = Field(1e-3, gt=0, description="L2 norm of the noise, of the start and of the result")
    norm_over: Literal["token", "example"] = Field(
        "token", description="what the norm of the result is taken over (the start's: a token)"
    )
    start: float | None = Field(
        None, gt=0, description="L2 norm of a token's start, where the gradient is taken; default: c, in bfloat16 1"
    )


@METHODS.register("vat")
class Vat(Adversarial):
    """Posterior difference between the clean input and one with adversarial noise of fixed norm.

    With h the states at a site and d_0 = c * e / ||e||_2, e ~ N(0, I) per token, K times

        d <- c * g / ||g||_2,   g = grad of sum D_g(posterior(h), posterior(h + d)), the clean side a constant,

    then loss = task(clean) + alpha * D_g(posterior(h), posterior(h + d)), the mean over examples (default KL(clean ||
    noisy); regression: squared error). The start is replaced, not added to. Tokens without any gradient (those no
    output reads) get no noise. Inner steps repeat the clean pass's dropout masks; the last pass draws its own.
    In bfloat16 the start has norm 1, since at 1e-3 the direction is rounding error; the result has norm c all the same.
    Defaults K = 1, c = 1e-3, alpha = 1, site 0 are the paper's.

    Deviations from the released code: norms are exact (it adds 1e-6 and 1e-12); the classification module's
    Jensen-Shannon form cannot be differentiated there; the embedding table gets a gradient through the noisy pass.
    """

    name = "vat"
    summary = "adversarial noise of fixed L2 norm by power iteration, any f-divergence"
    paper = "Cheng et al. 2021, Posterior Differential Regularization with f-divergence"
    Options = Options

    @staticmethod
    def start_size(options: Any, bf16: bool) -> float:
        """The L2 norm of a token's start."""
        return options.start or (ROUGH if bf16 else options.c)

    def start(self, passes: Passes, site: Site, hidden: Tensor) -> Tensor:
        """d_0, [B, T, width]."""
        from mtrobust.perturb.noise import unit_l2

        size = self.start_size(self.options, self.rough(hidden))
        self.warn_small(size, ROUGH if self.rough(hidden) else FINE, "start" if self.options.start else "c")
        return size * unit_l2(passes.draw(f"vat/{site}", hidden), passes.noise_mask)

    def found(self, passes: Passes, site: Site, hidden: Tensor) -> Tensor:
        """d_K, [B, T, width]."""
        from mtrobust.perturb.noise import unit_l2

        delta = self.start(passes, site, hidden)
        for step in range(self.options.steps):
            last = step + 1 == self.options.steps
            size = self.options.c if last else self.start_size(self.options, self.rough(hidden))
            grad = self.gradient(passes, site, delta)
            delta = size * unit_l2(grad, passes.noise_mask, self.options.norm_over)
        return delta
