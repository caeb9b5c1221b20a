"""RAPT: multi-layer random perturbation training (Pereira et al., Algorithm 1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from mtrobust.perturb.base import METHODS, Consistency, ConsistencyOptions, Passes, Term
from mtrobust.perturb.layers import LayerSpec, Site

if TYPE_CHECKING:
    from torch import Tensor


class Options(ConsistencyOptions):
    """Options of `rapt`."""

    layers: LayerSpec = Field(LayerSpec.parse("1-3"), description="words, embeddings (= 0), 3, 1-3, all, or a list")
    eta: float = Field(2.0, ge=0, description="size of the noise: its largest absolute value (norm: none: a factor)")
    sigma: float = Field(3.1622776601683795e-3, gt=0, description="standard deviation of the draw, for norm: none")
    norm: Literal["example", "token", "none"] = Field(
        "example", description="what the largest absolute value is taken over before scaling; none: no normalisation"
    )

    @model_validator(mode="after")
    def _in_use(self) -> Options:
        if self.norm != "none" and "sigma" in self.model_fields_set:
            raise ValueError(f"sigma: without effect with norm: {self.norm}, which divides by the draw's size")
        return self


@METHODS.register("rapt")
class Rapt(Consistency):
    """Random noise at a randomly drawn intermediate layer.

    Per batch r ~ U{layers}; d ~ N(0, sigma^2 I); d <- eta * d / ||d||_inf; with h_r the output of layer r

        loss = task(clean) + alpha * KL(posterior(h_r) || posterior(h_r + d)).

    Defaults layers 1-3, eta = 2, alpha = 1, sigma^2 = 1e-5 are the paper's; its variant "embedding" is layers 0.
    The paper takes the norm over the input without saying over what: here over the real tokens of an example
    (`norm: example`); `token` takes each token's own; `none` is the form of its running text, h_r + eta * d.
    No code was released. Noise is zero on padding. Regression compares by squared error.
    Source: Pereira et al., Algorithm 1, Eq. 2, Sections 2 and 3.2.
    """

    name = "rapt"
    summary = "random noise at a randomly drawn intermediate layer"
    paper = "Pereira et al., Multi-Layer Random Perturbation Training for Improving Model Generalization"
    Options = Options

    def at_site(self, passes: Passes, site: Site) -> Term:
        """See the class."""
        clean, noisy = passes.fork(site, lambda hidden: hidden + self.delta(passes, site, hidden))
        return passes.diff(self.options.divergence, clean, noisy, self.options.detach_clean)

    def delta(self, passes: Passes, site: Site, hidden: Tensor) -> Tensor:
        """The noise for the states of a site, [B, T, width]."""
        from mtrobust.perturb.noise import linf_normalize

        delta = self.options.sigma * passes.draw(f"rapt/{site}", hidden)
        if self.options.norm != "none":
            delta = linf_normalize(delta, passes.noise_mask, per=self.options.norm)
        delta = self.options.eta * delta
        passes.log_size("delta_norm", delta)
        return delta
