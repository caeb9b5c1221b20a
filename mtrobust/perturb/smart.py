"""SMART: smoothness-inducing adversarial regularisation (Jiang et al., ACL 2020)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from mtrobust.perturb.base import METHODS, Adversarial, ConsistencyOptions, Passes, Term
from mtrobust.perturb.layers import Site
from mtrobust.perturb.names import DivergenceName

if TYPE_CHECKING:
    from torch import Tensor


class Options(ConsistencyOptions):
    """Options of `smart`."""

    divergence: DivergenceName = Field("sym_kl", description="how posteriors are compared")
    steps: int = Field(1, ge=1, description="ascent steps K")
    noise_std: float = Field(1e-3, gt=0, description="standard deviation of the start (below 1e-3 rounding drowns it)")
    step_size: float = Field(1e-3, gt=0, description="size eta of an ascent step")
    gradient: Literal["normalized", "raw"] = Field(
        "normalized", description="normalized: g / ||g|| as published; raw: g itself as in MT-DNN"
    )
    radius: Literal["renorm", "project"] = Field(
        "renorm", description="renorm: scale to norm 1 (MT-DNN); project: clip to epsilon (published)"
    )
    epsilon: float = Field(1e-5, gt=0, description="radius of radius: project")
    norm: Literal["linf", "l2"] = Field("linf", description="the norm of steps and radius")
    norm_over: Literal["token", "example"] = Field("token", description="what a norm is taken over")


@METHODS.register("smart")
class Smart(Adversarial):
    """Adversarial noise found by K ascent steps on the posterior difference.

    With h the states at a site, d_0 ~ N(0, noise_std^2) and L(d) = sum over items of D(posterior(h), posterior(h + d)),
    the clean side a constant:

        u = d + step_size * g,  g = grad L(d) (normalized: divided by its norm)
        d <- u / (||u|| + 1e-6)             radius: renorm  (MT-DNN)
        d <- u projected to ||u|| <= eps    radius: project (published, Eq. 3)
        loss = task(clean) + alpha * D(posterior(h), posterior(h + d_K)).

    Inner steps repeat the clean pass's dropout masks, else the direction is lost; the last pass draws its own.
    Defaults: K = 1, alpha = 1, symmetric KL without a factor 1/2 (regression: squared error).

    Deviations from MT-DNN's code: the site is perturbed as it is (there embeddings pass position, type and norm
    twice); the inner loss is the divergence itself (there a difference of log-odds that can be negative); regression
    compares row by row (there B x B); the norm works per token and per example; padding has no noise.
    """

    name = "smart"
    summary = "adversarial noise by ascent on the posterior difference"
    paper = "Jiang et al. 2020, SMART (with MT-DNN's renormalisation)"
    Options = Options

    def at_site(self, passes: Passes, site: Site) -> Term:
        """See the class."""
        hidden = passes.h(site)
        delta = self.options.noise_std * passes.draw(f"smart/{site}", hidden)
        for _ in range(self.options.steps):
            delta = self.ascend(passes, site, delta)
        passes.log_size("delta_norm", delta)
        noisy = passes.at(site, hidden + delta)
        return passes.diff(self.options.divergence, passes, noisy, self.options.detach_clean)

    def ascend(self, passes: Passes, site: Site, delta: Tensor) -> Tensor:
        """One step from `delta`, both [B, T, width]."""
        from mtrobust.perturb.noise import normalize

        grad = self.gradient(passes, site, delta)
        if self.options.gradient == "normalized":
            grad = normalize(grad, passes.noise_mask, norm=self.options.norm, per=self.options.norm_over)
        return self.bound(delta + self.options.step_size * grad, passes.noise_mask)

    def bound(self, moved: Tensor, mask: Tensor) -> Tensor:
        """Brings a moved perturbation [B, T, width] back to its radius."""
        from mtrobust.perturb.noise import normalize, project

        options = self.options
        if options.radius == "project":
            return project(moved, mask, options.epsilon, norm=options.norm, per=options.norm_over)
        return normalize(moved, mask, norm=options.norm, per=options.norm_over, eps=1e-6)
