"""SWEP: stochastic word-embedding perturbation, learned and input-dependent (Lee et al., ACL 2021)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from mtrobust.errors import UserError
from mtrobust.perturb.base import METHODS, LayerOptions, Needs, Passes, Perturbation, Term
from mtrobust.perturb.layers import LayerSpec, Site
from mtrobust.perturb.names import PriorVariance, prior_variance
from mtrobust.tasks.base import EncoderInfo

if TYPE_CHECKING:
    from torch import Tensor, nn

Ablation = Literal["none", "additive", "fixed_mu", "fixed_sigma", "no_epsilon", "no_kl", "no_clean"]


class Options(LayerOptions):
    """Options of `swep`."""

    layers: LayerSpec = Field(LayerSpec.parse("words"), description="words, embeddings (= 0) or one layer")
    pick: Literal["random"] = Field("random", description="the noise network belongs to one site")
    clean: float = Field(0.5, gt=0, lt=1, description="share lambda of the clean pass in the task loss")
    beta: float = Field(1.0, ge=0, description="weight of KL(q || prior)")
    beta_steps: int = Field(0, ge=0, description="beta falls to 0 over so many optimiser steps; 0: it stays")
    p: float = Field(0.1, gt=0, lt=1, description="dropout probability behind the prior")
    variance: PriorVariance = Field(
        "code", description="of the prior; code: sqrt(p / (1 - p)); appendix: p; or a number"
    )
    kl_weight: Literal["outside", "inside"] = Field(
        "outside", description="inside: the KL is part of the noisy objective and weighted by 1 - lambda too (Eq. 4)"
    )
    kl_reduction: Literal["mean", "sum"] = Field("mean", description="of the KL over an example's tokens")
    init: Literal["prior", "plain"] = Field(
        "prior", description="the noise network's start: at the prior, or torch's own (mu near 0, sigma near 1)"
    )
    ablation: Ablation = Field("none", description="what is taken out of the method (Table 3)")

    @model_validator(mode="after")
    def _in_use(self) -> Options:
        given = self.model_fields_set
        if self.ablation == "no_kl" and (used := given & {"beta", "beta_steps", "kl_weight", "kl_reduction"}):
            raise ValueError(f"{', '.join(sorted(used))}: without effect with ablation: no_kl")
        if self.ablation == "no_kl" and self.init == "plain" and (used := given & {"p", "variance"}):
            raise ValueError(f"{', '.join(sorted(used))}: without effect with ablation: no_kl and init: plain")
        if self.ablation == "no_clean" and "clean" in given:
            raise ValueError("clean: without effect with ablation: no_clean")
        if not isinstance(self.variance, str) and "p" in given:
            raise ValueError("p: without effect when variance is a number")
        return self


@METHODS.register("swep")
class Swep(Perturbation):
    """Noise from a learned, input-dependent Gaussian, multiplied into the word embeddings.

    With e_t the states at the site and h_t the last hidden states of the clean pass, a constant for the network:

        mu_t, log sigma_t^2 = W2 relu(W1 h_t + b1) + b2,   z_t = mu_t + sigma_t * eps,   eps ~ N(0, I)
        loss = lambda * task(e) + (1 - lambda) * task(e * z) + beta * KL(N(mu_t, sigma_t^2) || N(1, v)),

    the KL summed over dimensions, its mean over real tokens. The network has 3 d^2 + 3 d weights where the site is as
    wide as the encoder. Defaults: lambda = 0.5, beta = 1, v = sqrt(p / (1 - p)) with p = 0.1, site `words`.

    Ablations (Table 3): additive (e + z, prior N(0, v)), fixed_mu (mu = 1), fixed_sigma (sigma = 1), no_epsilon
    (z = mu), no_kl, no_clean (no task loss of the clean pass).

    Deviations. The released code reads h_t from a pass of its own without gradients; here the clean pass is read (where
    the head needs the first token alone, the last layer of the others is computed apart). The network starts at the
    prior (W2 = 0, biases 1 and log v). From torch's own start (`init: plain`) mu is near 0, which wipes the embeddings
    out, and the KL, several hundred, fills the clipped gradient for the first epochs. The released
    code adds the KL unweighted by 1 - lambda (`kl_weight: outside`); Eq. 4 weighs it (`inside`).
    Source: Lee et al., Eq. 2 to 4, Sections 3.2 to 3.4, 5.1, Appendix C (annealing of beta).
    """

    name = "swep"
    summary = "word embeddings times learned, input-dependent Gaussian noise"
    paper = "Lee et al. 2021, Learning to Perturb Word Embeddings for Out-of-distribution QA"
    Options = Options

    def __init__(self, options: Any, info: EncoderInfo) -> None:
        super().__init__(options, info)
        if len(self.sites) != 1:
            raise UserError(f"layers: {options.layers}: the noise network belongs to one site; name one")
        self.variance = prior_variance(options.variance, options.p)
        self.net: nn.Module | None = None

    @property
    def needs(self) -> Needs:
        """The site, and the last hidden states, which the noise network reads."""
        return Needs(frozenset(self.sites), last_constant=True)

    @property
    def clean_weight(self) -> float:  # type: ignore[override]
        """lambda, or 0 in the ablation without the clean task loss."""
        return 0.0 if self.options.ablation == "no_clean" else self.options.clean

    def module(self, encoder: Any, heads: Mapping[str, nn.Module]) -> nn.Module:
        """The noise network, hidden size -> width -> 2 * width of the site; made once."""
        if self.net is None:
            import torch

            width = encoder.width(self.sites[0])
            net = torch.nn.Sequential(
                torch.nn.Linear(encoder.hidden_size, width), torch.nn.ReLU(), torch.nn.Linear(width, 2 * width)
            )
            if self.options.init == "prior":
                mean = 0.0 if self.options.ablation == "additive" else 1.0
                start = torch.tensor([mean, math.log(self.variance)]).repeat_interleave(width)
                net[2].load_state_dict({"weight": torch.zeros(2 * width, width), "bias": start})
            self.net = net
        return self.net

    def forward(self, passes: Passes) -> dict[str, Term]:
        """`noisy`: the task loss of the noisy pass; `kl`: KL(q || prior)."""
        site = self.sites[0]
        hidden = passes.h(site)
        mu, log_var = self.posterior(passes)
        delta = self.delta(passes, site, hidden, mu, log_var)
        passes.log_size("delta_norm", delta)
        self.log_mean(passes, "mu", mu)
        if self.options.ablation != "no_epsilon":
            self.log_mean(passes, "sigma", (0.5 * log_var).exp())
        terms = {"noisy": passes.loss(passes.at(site, hidden + delta, final=True))}
        terms["noisy"].weight = 1 - self.options.clean
        if self.options.ablation != "no_kl":
            total = (self.kl(mu, log_var) * passes.batch.inputs["attention_mask"]).sum()
            terms["kl"] = Term(total, "tokens" if self.options.kl_reduction == "mean" else "rows", self.beta(passes))
        return terms

    @staticmethod
    def log_mean(passes: Passes, name: str, values: Tensor) -> None:
        """Logs the mean of [B, T, width] over dimensions and the tokens that may have noise."""
        passes.log(name, (values.detach().float().mean(-1) * passes.noise_mask).sum() / passes.noise_mask.sum())

    def posterior(self, passes: Passes) -> tuple[Tensor, Tensor]:
        """mu and log sigma^2 for each token, [B, T, width] each, with what an ablation fixes."""
        import torch

        assert self.net is not None
        mu, log_var = self.net(passes.last_constant).chunk(2, dim=-1)
        if self.options.ablation == "fixed_mu":
            mu = torch.ones_like(mu)
        if self.options.ablation == "fixed_sigma":
            log_var = torch.zeros_like(log_var)
        return mu, log_var

    def delta(self, passes: Passes, site: Site, hidden: Tensor, mu: Tensor, log_var: Tensor) -> Tensor:
        """What is added to the states: z itself or e * (z - 1); zero on padding."""
        z = mu
        if self.options.ablation != "no_epsilon":
            z = mu + (0.5 * log_var).exp() * passes.draw(f"swep/{site}", hidden)
        delta = z if self.options.ablation == "additive" else hidden * (z - 1)
        return delta * passes.noise_mask.unsqueeze(-1)

    def kl(self, mu: Tensor, log_var: Tensor) -> Tensor:
        """KL(N(mu, sigma^2) || N(1, v)) of each token, [B, T] (prior mean 0 for additive noise), in float32 or wider.

        Without epsilon the network has no variance to compare: the KL then keeps mu alone near the prior's mean."""
        from mtrobust.perturb.divergence import widen

        mu, log_var = widen(mu), widen(log_var)
        mean = 0.0 if self.options.ablation == "additive" else 1.0
        spread = (mu - mean).square() / self.variance
        if self.options.ablation != "no_epsilon":
            spread = spread + log_var.exp() / self.variance - 1 - log_var + math.log(self.variance)
        return 0.5 * spread.sum(-1)

    def beta(self, passes: Passes) -> float:
        """The weight of the KL at this step."""
        options = self.options
        left = max(0.0, 1 - passes.batch.step / options.beta_steps) if options.beta_steps else 1.0
        return options.beta * left * ((1 - options.clean) if options.kl_weight == "inside" else 1.0)
