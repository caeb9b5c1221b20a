"""Jacobian regularisation of posteriors (Cheng et al., NAACL 2021, Section 2, after Sokolic et al., 2017)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from mtrobust.perturb.base import METHODS, Consistency, Cost, LayerOptions, Needs, Passes, Term
from mtrobust.perturb.layers import Site
from mtrobust.perturb.passes import item_places

if TYPE_CHECKING:
    from torch import Tensor

    from mtrobust.tasks.base import View


class Options(LayerOptions):
    """Options of `jacobian`."""

    alpha: float = Field(0.01, ge=0, description="weight lambda of the squared Frobenius norm")
    of: Literal["posteriors", "logits"] = Field("posteriors", description="what is differentiated")
    weighted: bool = Field(False, description="rows of the Jacobian divided by sqrt(posterior), as in Eq. 7")
    estimate: Literal["projection", "exact"] = Field(
        "projection", description="projection: random directions, unbiased; exact: one pass per class"
    )
    draws: int = Field(1, ge=1, description="directions of estimate: projection")

    @model_validator(mode="after")
    def _in_use(self) -> Options:
        if self.estimate == "exact" and "draws" in self.model_fields_set:
            raise ValueError("draws: without effect with estimate: exact")
        if self.weighted and self.of == "logits":
            raise ValueError("weighted: weighs posteriors by their own size; not with of: logits")
        return self


@METHODS.register("jacobian")
class Jacobian(Consistency):
    """The squared Frobenius norm of the input-output Jacobian of the clean pass.

    With h the states at a site (real tokens only) and f the posterior over the C classes that count,

        loss = task(clean) + alpha * mean over examples of ||J||_F^2,   J = df / dh,

    estimated by `draws` directions v uniform on the unit sphere of the classes: E[C * ||v^T J||^2] = ||J||_F^2.
    `weighted`: each row of J over sqrt(f_c), a constant (Eq. 7: what every f-divergence is to second order, times
    g''(1) / 2 and the size of the noise). Spans: the mean over start and end; regression: the derivative of the number.
    No second pass runs: the price is differentiating the gradient (with the unfused attention kernel).

    Deviations from the released code: it takes logits (`of: logits`) and leaves out the factor C; its weight
    exp(-log(p) / 2) then multiplies logits. Here weighted logits are refused, since Eq. 7 weighs posteriors.
    """

    name = "jacobian"
    summary = "squared norm of the derivative of posteriors by hidden states"
    paper = "Cheng et al. 2021, Posterior Differential Regularization with f-divergence"
    Options = Options

    @property
    def needs(self) -> Needs:
        """The sites, and kernels with a second derivative."""
        return Needs(frozenset(self.sites), double_backward=True)

    def cost(self, layers: int) -> Cost:
        """A draw is one gradient by the states (a third of a pass) and its derivative by states and weights (two);
        `exact` is at least that, once per class, whose number is the task's."""
        share = super().cost(layers)
        return share * (self.options.draws if self.options.estimate == "projection" else 1)

    def at_site(self, passes: Passes, site: Site) -> Term:
        """The norm at one site, summed over items; the mean over views."""
        hidden = passes.h(site)
        if not hidden.requires_grad:  # everything below is frozen: a branch from a variable
            hidden = hidden.detach().requires_grad_(True)
            passes = passes.at(site, hidden, dropout="shared" if passes.needs.shared_dropout else "independent")
        totals = [self.norm(passes, view, hidden, f"jacobian/{site}/{i}") for i, view in enumerate(passes.views())]
        return Term(sum(totals[1:], totals[0]) / len(totals), "items")

    def norm(self, passes: Passes, view: View, hidden: Tensor, name: str) -> Tensor:
        """||J||_F^2 of one view, summed over items, 0-d."""
        import torch

        values = self.outputs(view)
        support = torch.ones_like(values, dtype=torch.bool) if view.support is None else view.support
        count = support.sum(-1, keepdim=True)
        if self.options.estimate == "exact" or values.shape[-1] == 1:
            return self.exact(passes, view, values, hidden)
        total = values.new_zeros(())
        for draw in range(self.options.draws):
            direction = passes.draw_items(f"{name}/{draw}", view).to(values.dtype) * support
            direction = direction * (count.sqrt() / direction.norm(dim=-1, keepdim=True).clamp_min(1e-30))
            total = total + _squares(passes, (direction * values).sum(), hidden)
        return total / self.options.draws

    def exact(self, passes: Passes, view: View, values: Tensor, hidden: Tensor) -> Tensor:
        """One gradient per class, and per place of an item in its example: the items of one pass must not mix."""
        place, total = item_places(view), values.new_zeros(())
        for at in range(int(place.max()) + 1 if len(place) else 0):
            here = (place == at).to(values.dtype)
            for column in range(values.shape[-1]):
                total = total + _squares(passes, (values[:, column] * here).sum(), hidden)
        return total

    def outputs(self, view: View) -> Tensor:
        """What is differentiated, [n, C], zero off the support."""
        from mtrobust.perturb.divergence import widen

        logits = widen(view.logits)
        support = view.support
        if view.kind == "real" or self.options.of == "logits":
            return logits if support is None else logits * support
        import torch

        if support is not None:
            logits = logits.masked_fill(~support, torch.finfo(logits.dtype).min / 4)
        posterior = logits.softmax(-1)
        if self.options.weighted:  # p / sqrt(p) without dividing by what may underflow
            posterior = posterior * (-0.5 * logits.log_softmax(-1).detach()).clamp(max=40).exp()
        return posterior if support is None else posterior * support


def _squares(passes: Passes, scalar: Tensor, hidden: Tensor) -> Tensor:
    """Sum of the squared gradient over the tokens that may have noise, differentiable."""
    import torch

    (grad,) = torch.autograd.grad(scalar, hidden, create_graph=True)
    return (grad.float() if grad.dtype.itemsize < 4 else grad).square().sum(-1).mul(passes.noise_mask).sum()
