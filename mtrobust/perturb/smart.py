"""SMART: smoothness-inducing adversarial regularisation (Jiang et al., ACL 2020)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from mtrobust.perturb.base import FORWARD, METHODS, Adversarial, AdversarialOptions, Cost, Passes, Term
from mtrobust.perturb.layers import Site
from mtrobust.perturb.names import DivergenceName

if TYPE_CHECKING:
    from torch import Tensor, nn

FINE, ROUGH = 1e-3, 0.1  # start and step: below these, rounding drowns the direction in float32 and in bfloat16
PRESETS: dict[str, dict[str, Any]] = {
    "mtdnn": {
        "noise_std": 1e-5,
        "step_size": 1e-3,
        "gradient": "raw",
        "radius": "renorm",
        "divergence": "sym_kl_fixed",
    },
    "published": {"noise_std": 1e-5**0.5, "step_size": 1e-3, "radius": "project", "epsilon": 1e-5},
}


class Options(AdversarialOptions):
    """Options of `smart`."""

    divergence: DivergenceName = Field("sym_kl", description="how posteriors are compared")
    noise_std: float | None = Field(
        None, gt=0, description="standard deviation of the start; default: 1e-3, in bfloat16 0.1 (see docs/methods.md)"
    )
    step_size: float | None = Field(
        None, gt=0, description="size eta of an ascent step; default: 1e-3, in bfloat16 0.1"
    )
    gradient: Literal["normalized", "raw"] = Field(
        "normalized", description="normalized: g / ||g|| as published; raw: g itself as in MT-DNN"
    )
    radius: Literal["renorm", "project"] = Field(
        "renorm", description="renorm: scale to norm 1 (MT-DNN); project: clip to epsilon (published)"
    )
    epsilon: float = Field(1e-5, gt=0, description="radius of radius: project")
    norm: Literal["linf", "l2"] = Field("linf", description="the norm of steps and radius")
    norm_over: Literal["token", "example"] = Field("token", description="what a norm is taken over")
    bregman: float | None = Field(
        None, ge=0, lt=1, description="momentum beta of the averaged weights that the model is kept near; default: not"
    )
    mu: float = Field(1.0, gt=0, description="weight of the divergence to the averaged model, with bregman")
    preset: Literal["mtdnn", "published"] | None = Field(
        None, description="start, step and radius as in MT-DNN's code, or as published; further options win"
    )

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, values: Any) -> Any:
        chosen = dict(PRESETS.get(str(values.get("preset")), {})) if isinstance(values, dict) else {}
        if chosen and values.get("radius", "project") != "project":
            chosen.pop("epsilon", None)  # belongs to the radius that the user replaced
        return {**chosen, **values} if chosen else values

    @model_validator(mode="after")
    def _in_use(self) -> Options:
        if self.radius != "project" and "epsilon" in self.model_fields_set:
            raise ValueError("epsilon: without effect with radius: renorm; give radius: project")
        if self.bregman is None and "mu" in self.model_fields_set:
            raise ValueError("mu: without effect without bregman")
        return self


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

    `bregman: beta` adds mu * D(posterior(h), posterior under the averaged weights), the momentum Bregman proximal term
    (Eq. 5): after every step averaged <- beta * averaged + (1 - beta) * weights. The averaged model is a second set of
    weights, saved with the checkpoints; its pass has no dropout and no gradient.

    Deviations from MT-DNN's code: the site is perturbed as it is (there embeddings pass position, type and norm
    twice); the inner loss is the divergence itself (there a difference of log-odds that can be negative); regression
    compares row by row (there B x B); the norm works per token and per example; padding has no noise.
    """

    name = "smart"
    summary = "adversarial noise by ascent on the posterior difference"
    paper = "Jiang et al. 2020, SMART (with MT-DNN's renormalisation)"
    Options = Options

    def __init__(self, options: Any, info: Any) -> None:
        super().__init__(options, info)
        self.averaged: Any = None

    @property
    def active(self) -> bool:
        """False at alpha = 0 without the proximal term."""
        return self.options.alpha > 0 or self.options.bregman is not None

    def module(self, encoder: nn.Module, heads: Mapping[str, nn.Module]) -> nn.Module | None:
        """The averaged weights, with `bregman`; made once."""
        if self.options.bregman is not None and self.averaged is None:
            from mtrobust.perturb.averaged import Averaged

            self.averaged = Averaged(encoder, heads, self.options.bregman)
        return self.averaged

    def forward(self, passes: Passes) -> dict[str, Term]:
        """`reg` at the chosen sites, and with `bregman` the term `proximal`."""
        terms = super().forward(passes) if self.options.alpha else {}
        if self.averaged is not None:
            term = passes.diff(self.options.divergence, self.averaged.passes(passes), passes, detach_clean=True)
            terms["proximal"] = Term(term.total, term.over, self.options.mu)
        return terms

    def cost(self, layers: int) -> Cost:
        """The ascent and its pass; with `bregman` also a forward pass of the averaged model."""
        found = super().cost(layers) if self.options.alpha else Cost()
        return found if self.options.bregman is None else found + Cost(FORWARD)

    @staticmethod
    def start_size(options: Any, bf16: bool) -> float:
        """The standard deviation of the start."""
        return options.noise_std or (ROUGH if bf16 else FINE)

    def start(self, passes: Passes, site: Site, hidden: Tensor) -> Tensor:
        """d_0, [B, T, width]."""
        size = self.start_size(self.options, self.rough(hidden))
        self.warn_small(size, ROUGH if self.rough(hidden) else FINE, "noise_std")
        return size * passes.draw(f"smart/{site}", hidden)

    def found(self, passes: Passes, site: Site, hidden: Tensor) -> Tensor:
        """d_K, [B, T, width]."""
        delta = self.start(passes, site, hidden)
        for _ in range(self.options.steps):
            delta = self.ascend(passes, site, delta)
        return delta

    def ascend(self, passes: Passes, site: Site, delta: Tensor) -> Tensor:
        """One step from `delta`, both [B, T, width]."""
        from mtrobust.perturb.noise import normalize

        grad = self.gradient(passes, site, delta)
        if self.options.gradient == "normalized":
            grad = normalize(grad, passes.noise_mask, norm=self.options.norm, per=self.options.norm_over)
        size = self.options.step_size or (ROUGH if self.rough(delta) else FINE)
        return self.bound(delta + size * grad, passes.noise_mask)

    def bound(self, moved: Tensor, mask: Tensor) -> Tensor:
        """Brings a moved perturbation [B, T, width] back to its radius."""
        from mtrobust.perturb.noise import normalize, project

        options = self.options
        if options.radius == "project":
            return project(moved, mask, options.epsilon, norm=options.norm, per=options.norm_over)
        return normalize(moved, mask, norm=options.norm, per=options.norm_over, eps=1e-6)
