"""SMix: mixup of hidden states with soft labels (Si et al., Findings of ACL 2021), as VDA runs it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from mtrobust.perturb.base import METHODS, LayerOptions, Passes, Perturbation, Term, mean_term
from mtrobust.perturb.layers import LayerSpec, Site
from mtrobust.tasks.base import Batch, EncoderInfo

if TYPE_CHECKING:
    from torch import Tensor

    from mtrobust.tasks.taskdef import TaskDef

_OF_TWELVE = (7, 9, 12)


class Options(LayerOptions):
    """Options of `smix`."""

    layers: LayerSpec | None = Field(  # type: ignore[assignment]
        None, description="words, embeddings, 3, 1-3, all, or a list; default: 7, 9, 12 of 12 layers, scaled"
    )
    alpha: float = Field(1.0, ge=0, description="weight of the mixed task loss")
    beta: float = Field(0.2, gt=0, description="lambda ~ Beta(beta, beta), one draw per step")


@METHODS.register("smix")
class Smix(Perturbation):
    """Trains on states mixed with those of another example of the batch, with the labels mixed alike.

    With a drawn layer r, lambda ~ Beta(beta, beta) and a random permutation i -> j of the batch:

        m_i = lambda * h_r[i] + (1 - lambda) * h_r[j]
        loss = task(clean) + alpha * mean of (lambda * task(m_i, y_i) + (1 - lambda) * task(m_i, y_j)).

    At layers 1 and above only the first token's state is mixed; at `words` and `embeddings` all tokens are (beyond
    the other's end a token is scaled by lambda). Cross-entropy is linear in the label, so this is
    the cross-entropy with soft labels: KL(mixed labels || posterior) up to the entropy of the labels, a constant.
    The resumed pass has example i's own attention mask and token types. Rows without a label, or whose partner has
    none, add nothing.

    Source: Si et al. 2021, Better Robustness by More Coverage (SMix), with VDA's settings: Beta(0.2, 0.2), layers 7, 9
    and 12 of 12. Deviation from VDA's code: there the second text is encoded with the first one's mask and types.
    """

    name = "smix"
    summary = "first-token states of two examples mixed, labels too"
    paper = "Si et al. 2021, Better Robustness by More Coverage (as in VDA)"
    Options = Options

    def __init__(self, options: Any, info: EncoderInfo) -> None:
        if options.layers is None:
            scaled = sorted({max(1, round(layer * info.num_layers / 12)) for layer in _OF_TWELVE})
            options = options.model_copy(update={"layers": LayerSpec.parse(scaled)})
        super().__init__(options, info)

    @property
    def active(self) -> bool:
        """False at alpha = 0."""
        return self.options.alpha > 0

    def refusal(self, task: TaskDef) -> str | None:
        """Positions of a text and masked words have no mixture between two texts."""
        column = task.type.columns.get("labels")
        if column is not None and column.shape == "scalar":
            return None
        return (
            f"mixes the labels of two examples, which {task.task_type} does not have (supported: one label or number "
            "per example, such as Classification and Regression)"
        )

    def forward(self, passes: Passes) -> dict[str, Term]:
        """`mix`: the task loss of the mixed states."""
        random = passes.random("smix")
        share = random.betavariate(self.options.beta, self.options.beta)
        rows = list(range(len(passes.batch.row_ids)))
        partner = random.sample(rows, len(rows))
        passes.log("lambda", share)
        return {
            "mix": mean_term(
                [self.at_site(passes, site, share, partner) for site in self.chosen(passes)], self.options.alpha
            )
        }

    def at_site(self, passes: Passes, site: Site, share: float, partner: list[int]) -> Term:
        """The mixed loss at one site, summed over the rows. share: lambda; partner: j for each i."""
        import torch

        mixed = passes.at(site, self.mix(passes, site, share, partner))
        batch, out = passes.batch, mixed.out
        index = torch.tensor(partner, device=batch.row_ids.device)
        both = batch.targets["labelled"] & batch.targets["labelled"][index]
        own = {**batch.targets, "labelled": both}
        other = {name: value[index] for name, value in batch.targets.items()} | {"labelled": both}
        losses = [
            passes.head.loss(out, Batch(batch.task, batch.inputs, targets, batch.row_ids)) for targets in (own, other)
        ]
        return Term((share * losses[0] + (1 - share) * losses[1]).sum(), "labels")

    def mix(self, passes: Passes, site: Site, share: float, partner: list[int]) -> Tensor:
        """The mixed states, [B, T, width]."""
        import torch

        hidden, mask = passes.h(site), passes.noise_mask
        other, other_mask = hidden[partner], mask[partner]
        if site in ("words", 0):
            weight = mask * (1 - share)
            return torch.lerp(hidden, other * other_mask.unsqueeze(-1), weight.unsqueeze(-1).to(hidden.dtype))
        first = share * hidden[:, :1] + (1 - share) * other[:, :1]
        return torch.cat((first, hidden[:, 1:]), dim=1)
