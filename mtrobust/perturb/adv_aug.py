"""Adversarial augmentation (Volpi et al., NeurIPS 2018), as SWEP's baseline on word embeddings (Lee et al., 2021)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from mtrobust.perturb.base import (
    INNER,
    METHODS,
    Augmentation,
    AugmentationOptions,
    Cost,
    Needs,
    Passes,
    Perturbation,
    Term,
)
from mtrobust.perturb.layers import Site
from mtrobust.tasks.base import EncoderInfo

if TYPE_CHECKING:
    from torch import Tensor


class Options(AugmentationOptions):
    """Options of `adv_aug`."""

    clean: float = Field(0.5, ge=0, le=1, description="share of the clean pass in the task loss")
    steps: int = Field(5, ge=1, description="ascent steps")
    step_size: float = Field(1.0, gt=0, description="factor on the gradient of an ascent step")
    gamma: float = Field(1.0, ge=0, description="weight of the distance of the last hidden states")


@METHODS.register("adv_aug")
class AdvAug(Augmentation):
    """Trains on the clean input and on one that was made hard while its last hidden states stay near.

    From d = 0, `steps` times

        d <- d + step_size * grad_d [ sum of task(h + d) - gamma * |h_N - h_N(d)|^2 ],

    then loss = clean * task(h) + (1 - clean) * task(h + d). The distance of an example is the mean over its real tokens
    and the width of the squared difference of the last hidden states (before a final norm), its clean side a constant:
    with the sum over the width a step of size 1 overshoots and ends below the clean task loss. Inner
    steps repeat the clean pass's dropout masks, the last pass draws its own. Defaults: 5 steps (Lee et al., Appendix
    A.2), step 1, gamma 1, site `words`. Rows without a label are not attacked.

    Source: Volpi et al. 2018, Generalizing to Unseen Domains via Adversarial Data Augmentation, Eq. 6 and Algorithm 1.
    Deviations: that work measures the distance on one vector per image and appends the new images to the training set
    in rounds; Lee et al. perturb the batch at hand, as here, and do not say how tokens enter the distance.
    """

    name = "adv_aug"
    summary = "word embeddings moved to raise the task loss, last states kept near"
    paper = "Volpi et al. 2018, as in Lee et al. 2021 (baseline)"
    Options = Options

    def __init__(self, options: Any, info: EncoderInfo) -> None:
        super().__init__(options, info)
        self.top: Site = info.num_layers

    @property
    def needs(self) -> Needs:
        """The sites, the last states, and the clean pass's generator states."""
        return Needs(frozenset([*self.sites, self.top]), shared_dropout=True)

    def cost(self, layers: int) -> Cost:
        """Beside the last pass, each step is forward and the gradient by the noise; the clean pass runs at any rate, if
        only forward."""
        last = Perturbation.cost(self, layers)
        return last + Cost(last.compute * INNER * self.options.steps)

    def at_site(self, passes: Passes, site: Site) -> Term:
        """The task loss with the noise found; the clean pass always runs, for its last states."""
        return passes.loss(passes.at(site, self.edit(passes, site, passes.h(site)), final=True))

    def edit(self, passes: Passes, site: Site, hidden: Tensor) -> Tensor:
        """h + d after all steps."""
        import torch

        start, top = hidden.detach(), passes.h(self.top).detach()
        delta = torch.zeros_like(start)
        for _ in range(self.options.steps):
            _, grad = passes.value_and_grad(lambda d: self.objective(passes, site, start + d, top), delta)
            delta = delta + self.options.step_size * grad * passes.noise_mask.unsqueeze(-1)
        passes.log_size("delta_norm", delta)
        return hidden + delta

    def objective(self, passes: Passes, site: Site, hidden: Tensor, top: Tensor) -> Tensor:
        """What a step ascends, 0-d. top: the clean last states [B, T, H]."""
        from mtrobust.perturb.divergence import widen

        branch = passes.at(site, hidden, dropout="shared", track=frozenset([self.top]))
        mask = passes.batch.inputs["attention_mask"]
        distance = widen(branch.h(self.top) - top).square().mean(-1) * mask
        far = (distance.sum(-1) / mask.sum(-1)).sum()
        return passes.loss(branch).total - self.options.gamma * far
