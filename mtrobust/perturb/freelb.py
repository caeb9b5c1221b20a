"""FreeLB: adversarial training whose ascent steps all train the model (Zhu et al., ICLR 2020)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from mtrobust.perturb.base import METHODS, Cost, Driver, LayerOptions, Loss, Passes, Term, mean_term
from mtrobust.perturb.layers import LayerSpec, Site

if TYPE_CHECKING:
    from torch import Tensor


class Options(LayerOptions):
    """Options of `freelb`."""

    layers: LayerSpec = Field(LayerSpec.parse("words"), description="words, embeddings (= 0), 3, 1-3, all, or a list")
    pick: Literal["random"] = Field("random", description="one site is drawn per step")
    steps: int = Field(3, ge=1, description="passes K, with K - 1 ascent steps between them")
    init: float = Field(0.02, ge=0, description="size of the uniform start: an example's L2 norm is below it")
    step_size: float = Field(0.1, ge=0, description="L2 norm of an example's ascent step")
    max_norm: float | None = Field(None, gt=0, description="largest L2 norm of an example's noise; default: no limit")
    dropout: Literal["independent", "shared"] = Field("independent", description="dropout masks of the K passes")

    @model_validator(mode="after")
    def _in_use(self) -> Options:
        if self.steps == 1 and (used := self.model_fields_set & {"step_size", "max_norm", "dropout"}):
            raise ValueError(f"{', '.join(sorted(used))}: without effect with steps: 1, which has no ascent")
        return self


@METHODS.register("freelb")
class Freelb(Driver):
    """The mean task loss over K passes along an ascent in the embeddings; every pass trains the model.

    For an example with n real tokens of width d: d_0 = init * u / sqrt(n d), u ~ U(-1, 1) per entry; for t = 1..K

        loss_t = task(h + d_{t-1}),   g = grad of loss_t,   d_t = d_{t-1} + step_size * g / ||g||_2,

    norms over the example, then ||d_t||_2 <= max_norm if given. The step's loss is the mean of loss_1 .. loss_K; no
    clean pass runs. Defaults: K = 3, step 0.1, start 0.02, site `words`.

    In a composition every other method takes the pass with noise as its clean pass; the ascent follows the task loss
    alone. Gradients of each pass are formed at once and added up, so memory is that of one pass.

    Source: Zhu et al. 2020, FreeLB: Enhanced Adversarial Training for Natural Language Understanding, Algorithm 1. It
    shares the dropout mask over the K passes (`dropout: shared`; its Section 3.3). Deviations in VDA's code, not
    followed: noise is added to the already moved embedding, one norm over the whole batch, losses summed instead of
    averaged.
    """

    name = "freelb"
    summary = "the mean task loss along K ascent steps on the word embeddings"
    paper = "Zhu et al. 2020, FreeLB"
    Options = Options

    def cost(self, layers: int) -> Cost:
        """K passes from the site upwards stand in place of one; one at a time is in memory."""
        return Cost((self.options.steps - 1) * super().cost(layers).compute)

    def drive(self, passes: Passes, loss: Loss) -> dict[str, Term]:
        """Each term's mean over the K passes; gradients are handed over."""
        import torch

        (site,) = self.chosen(passes)
        hidden = passes.below(site)
        parameters = list(passes.trained())
        trained = [hidden, *parameters]
        delta = self.start(passes, site, hidden)
        shared = site not in ("words", 0)
        totals: list[dict[str, Term]] = []
        sums: list[Tensor | None] = [None] * len(trained)
        for step in range(self.options.steps):
            leaf = (hidden.detach() + delta).requires_grad_(True)
            branch = passes.at(site, leaf, dropout=self.options.dropout, track=passes.tracked)
            terms = loss(branch)
            last = step + 1 == self.options.steps
            ascent = None
            if not last and terms.keys() != {"task"}:
                # The direction is that of the task loss; what other methods add is not ascended.
                (ascent,) = torch.autograd.grad(branch.loss().total, leaf, retain_graph=True)
            share = branch.share(terms) / self.options.steps
            # Passes from a layer share what lies below it: T5's position biases, whose graph must stay for all of them.
            grads = torch.autograd.grad(share, [leaf, *parameters], allow_unused=True, retain_graph=shared)
            sums = [g if s is None else s if g is None else s + g for s, g in zip(sums, grads, strict=True)]
            totals.append({name: Term(term.total.detach(), term.over, term.weight) for name, term in terms.items()})
            if not last:
                delta = self.ascend(passes, delta, grads[0] if ascent is None else ascent)
            del branch, terms, share  # and with them the pass's graph, before the next is made
        passes.hand_over([(tensor, g) for tensor, g in zip(trained, sums, strict=True) if g is not None])
        passes.log_size("delta_norm", delta)
        return {name: mean_term([terms[name] for terms in totals], term.weight) for name, term in totals[0].items()}

    def start(self, passes: Passes, site: Site, hidden: Tensor) -> Tensor:
        """d_0, [B, T, width]."""
        mask = passes.noise_mask.unsqueeze(-1)
        drawn = (2 * passes.draw(f"freelb/{site}", hidden, "uniform") - 1) * mask
        size = (mask.sum(1, keepdim=True) * hidden.shape[-1]).to(drawn.dtype).sqrt()
        return self.options.init * drawn / size

    def ascend(self, passes: Passes, delta: Tensor, grad: Tensor) -> Tensor:
        """d_t from d_{t-1} and a gradient, [B, T, width] each."""
        from mtrobust.perturb.noise import project, unit_l2

        moved = delta + self.options.step_size * unit_l2(grad, passes.noise_mask, per="example")
        if self.options.max_norm is None:
            return moved
        return project(moved, passes.noise_mask, self.options.max_norm, norm="l2", per="example")
