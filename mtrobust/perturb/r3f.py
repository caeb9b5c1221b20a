"""R3F: robust representations through regularised fine-tuning (Aghajanyan et al., ICLR 2021)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from mtrobust.perturb.base import METHODS, Consistency, ConsistencyOptions, Passes, Term
from mtrobust.perturb.layers import LayerSpec, Site
from mtrobust.perturb.names import DivergenceName

if TYPE_CHECKING:
    from torch import Tensor


class Options(ConsistencyOptions):
    """Options of `r3f`."""

    layers: LayerSpec = Field(LayerSpec.parse("words"), description="words, embeddings (= 0), 3, 1-3, all, or a list")
    divergence: DivergenceName = Field("sym_kl", description="how posteriors are compared")
    eps: float = Field(1e-5, ge=0, description="size of the noise: its bound (uniform) or standard deviation (normal)")
    noise: Literal["uniform", "normal"] = Field("uniform", description="what each entry is drawn from")


@METHODS.register("r3f")
class R3f(Consistency):
    """Symmetric divergence between the clean input and one with small unnormalised noise on the word embeddings.

        d ~ U(-eps, eps) or N(0, eps^2) per entry,   loss = task(clean) + alpha * sym_kl(f(E), f(E + d)).

    Defaults are the paper's: eps = 1e-5, weight 1, the sum of both KL terms (regression: squared error). Source:
    Aghajanyan et al. 2021, Better Fine-Tuning by Reducing Representational Collapse, Section 3. Deviation: none known;
    noise is zero on padding.
    """

    name = "r3f"
    summary = "symmetric divergence under tiny uniform or normal noise on the word embeddings"
    paper = "Aghajanyan et al. 2021, Better Fine-Tuning by Reducing Representational Collapse"
    Options = Options

    def at_site(self, passes: Passes, site: Site) -> Term:
        """See the class."""
        clean, noisy = passes.fork(site, lambda hidden: hidden + self.delta(passes, site, hidden))
        return passes.diff(self.options.divergence, clean, noisy, self.options.detach_clean)

    def delta(self, passes: Passes, site: Site, hidden: Tensor) -> Tensor:
        """The noise for the states of a site, [B, T, width]."""
        name = f"r3f/{site}"
        if self.options.noise == "normal":
            delta = self.options.eps * passes.draw(name, hidden)
        else:
            drawn = passes.draw(name, hidden, "uniform")
            delta = self.options.eps * (2 * drawn - 1) * passes.noise_mask.unsqueeze(-1)
        passes.log_size("delta_norm", delta)
        return delta
