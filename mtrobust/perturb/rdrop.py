"""R-Drop: consistency of two passes that differ in their dropout masks alone (Liang et al., NeurIPS 2021)."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from mtrobust.errors import UserError
from mtrobust.perturb.base import METHODS, Consistency, ConsistencyOptions, Passes, Term, mean_term
from mtrobust.perturb.layers import LayerSpec, Site
from mtrobust.perturb.names import DivergenceName
from mtrobust.tasks.base import EncoderInfo


class Options(ConsistencyOptions):
    """Options of `rdrop`."""

    layers: LayerSpec = Field(
        LayerSpec.parse("words"), description="above which site the masks differ; words: everywhere"
    )
    divergence: DivergenceName = Field("sym_kl", description="how posteriors are compared")


@METHODS.register("rdrop")
class Rdrop(Consistency):
    """Two passes over the same input, each with its own dropout masks.

        loss = (task(pass 1) + task(pass 2)) / 2 + alpha / 4 * sym_kl(f_1, f_2)

    Source: Liang et al. 2021, R-Drop: Regularized Dropout for Neural Networks, Eq. 4, halved as a whole, so that the
    task loss keeps its usual size; alpha is the paper's. A layer as `layers` runs what lies below once and draws
    separate masks above it only. With all dropout at 0 the second pass would be the first again.
    """

    name = "rdrop"
    summary = "two passes with their own dropout masks, both trained and kept close"
    paper = "Liang et al. 2021, R-Drop: Regularized Dropout for Neural Networks"
    Options = Options
    clean_weight = 0.5

    def __init__(self, options: Any, info: EncoderInfo) -> None:
        super().__init__(options, info)
        if info.num_layers in self.sites:
            raise UserError(
                f"layers: {options.layers}: above layer {info.num_layers} no layer is left to draw masks "
                f"(allowed: words, embeddings (= 0), 1-{info.num_layers - 1})"
            )

    def at_site(self, passes: Passes, site: Site) -> Term:
        """The divergence between the two passes, with the constant of the formula."""
        return self.terms(passes, site)["reg"]

    def terms(self, passes: Passes, site: Site) -> dict[str, Term]:
        """Both terms with masks that differ above one site."""
        clean, other = passes.fork(site, lambda hidden: hidden)
        reg = passes.diff(self.options.divergence, clean, other, self.options.detach_clean)
        return {"noisy": passes.loss(other), "reg": Term(reg.total / 4, reg.over)}

    def forward(self, passes: Passes) -> dict[str, Term]:
        """`noisy`: half of the other pass's task loss; `reg`: the divergence."""
        found = [self.terms(passes, site) for site in self.chosen(passes)]
        return {
            "noisy": mean_term([terms["noisy"] for terms in found], 0.5),
            "reg": mean_term([terms["reg"] for terms in found], self.options.alpha),
        }
