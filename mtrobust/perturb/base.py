"""The interface of the perturbation methods, the kinds that most are of, and their composition.

A method is a `Perturbation` that works with the `Passes` over a batch and returns named `Term`s:
- `Consistency`: a weight times the difference between a clean pass and one edited at a site;
- `Adversarial`: one whose edit is found by gradients of that difference;
- `Augmentation`: the task loss of an edited pass, beside that of the clean one or in its place;
- `Driver`: passes of its own in place of the clean one, from each of which the other methods start.

No torch is imported here at run time, nor by the method files: options are checked before anything heavy is loaded.
"""

from __future__ import annotations

import contextlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from pydantic import Field

from mtrobust.config import StrictModel
from mtrobust.perturb.layers import LayerSpec, Site
from mtrobust.perturb.names import DivergenceName
from mtrobust.perturb.passes import Kind, Needs, Passes, Term
from mtrobust.registry import Registry
from mtrobust.tasks.base import EncoderInfo

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mtrobust.tasks.taskdef import TaskDef

__all__ = [
    "METHODS", "Adversarial", "AdversarialOptions", "Augmentation", "AugmentationOptions", "Compose", "Consistency",
    "ConsistencyOptions", "Cost", "Driver", "FORWARD", "INNER", "Kind",
    "LayerOptions", "Needs", "Passes", "Perturbation", "Term", "mean_term",
]  # fmt: skip

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cost:
    """What a step of one site drawn costs, in clean passes. compute: forward and backward, 1 = both over the whole
    encoder (of which the forward pass is a third); memory: activations that wait for the step's backward pass.

    Arithmetic of the layers alone: heads, embeddings and the optimiser are not in it.
    """

    compute: float = 0.0
    memory: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.compute + other.compute, self.memory + other.memory)

    def __mul__(self, times: float) -> Cost:
        return Cost(self.compute * times, self.memory * times)


FORWARD, INNER = 1 / 3, 2 / 3  # of a pass's compute: forward alone; forward and the gradient by its input alone

Loss = Callable[[Passes], dict[str, Term]]


class LayerOptions(StrictModel):
    """Options that every method has which edits hidden states."""

    layers: LayerSpec = Field(
        LayerSpec.parse("embeddings"), description="words, embeddings (= 0), 3, 1-3, all, or a list"
    )
    pick: Literal["random", "each"] = Field("random", description="one site drawn per step, or the mean over the sites")


class ConsistencyOptions(LayerOptions):
    """Options of the methods that compare a clean and an edited pass."""

    alpha: float = Field(1.0, ge=0, description="weight of the regulariser")
    divergence: DivergenceName = Field("kl", description="how posteriors are compared")
    detach_clean: bool | None = Field(
        None, description="no gradient through the clean side; default: the divergence's (one-sided yes, symmetric no)"
    )


class AdversarialOptions(ConsistencyOptions):
    """Options of the methods that ascend the difference."""

    steps: int = Field(1, ge=1, description="ascent steps K")
    inner_bf16: bool = Field(
        False,
        description="ascent steps in bfloat16 autocast (a bfloat16 run has them anyway); the last pass as the run",
    )


class AugmentationOptions(LayerOptions):
    """Options of the methods that train on an edited pass."""

    layers: LayerSpec = Field(LayerSpec.parse("words"), description="words, embeddings (= 0), 3, 1-3, all, or a list")
    clean: float = Field(0.0, ge=0, le=1, description="share of the clean pass in the task loss; 0: it does not run")


class Perturbation(ABC):
    """One method. A subclass in one file, registered by one decorator, is all that a new one needs.

    options: an instance of its `Options`; info: the encoder it will run on. `UserError` is raised here for layers that
    the encoder does not have.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    paper: ClassVar[str]
    Options: ClassVar[type[StrictModel]]
    alone: ClassVar[bool] = False  # cannot be composed with others
    uses_unlabelled: ClassVar[bool] = False  # whether a row without a label adds to its terms
    clean_weight: float = 1.0  # multiplies the task loss of the clean pass; 0: that pass need not run

    def __init__(self, options: Any, info: EncoderInfo) -> None:
        self.options = options
        self.sites: list[Site] = options.layers.resolve(info.num_layers) if hasattr(options, "layers") else []

    @property
    def needs(self) -> Needs:
        """Asked before the clean pass."""
        return Needs(frozenset(self.sites))

    def module(self, encoder: nn.Module, heads: Mapping[str, nn.Module]) -> nn.Module | None:
        """What the method trains or saves of its own; None for most. encoder, heads (by task): as they train."""
        return None

    def refusal(self, task: TaskDef) -> str | None:
        """Why the method has no meaning for a task, and what is supported; None where it has one."""
        return None

    @abstractmethod
    def forward(self, passes: Passes) -> dict[str, Term]:
        """Named terms beside the task loss of the clean pass."""

    def cost(self, layers: int) -> Cost:
        """What a step costs beyond the clean pass, on an encoder of so many layers. Default: one more pass from the
        site upwards (the mean over the sites, or with `pick: each` all of them)."""
        shares = [1.0 if site == "words" else 1 - int(site) / layers for site in self.sites]
        share = sum(shares) if not shares or self.options.pick == "each" else sum(shares) / len(shares)
        return Cost(share, share)

    def chosen(self, passes: Passes) -> list[Site]:
        """The sites of this step: one drawn, or (`pick: each`) all."""
        if self.options.pick == "each":
            return self.sites
        site = passes.pick(self.name, self.sites)
        passes.log_choice("site", -1 if site == "words" else site)
        return [site]

    @property
    def active(self) -> bool:
        """Whether there is anything to compute; a method of weight 0 is left out whole, so that nothing changes."""
        return True


def mean_term(terms: list[Term], weight: float) -> Term:
    """The mean of terms over the same count, with a weight."""
    return Term(sum((term.total for term in terms[1:]), terms[0].total) / len(terms), terms[0].over, weight)


class Consistency(Perturbation):
    """A method with one term: alpha times the difference between a clean pass and one edited at a site."""

    uses_unlabelled = True

    @property
    def active(self) -> bool:
        """False at alpha = 0."""
        return self.options.alpha > 0

    @abstractmethod
    def at_site(self, passes: Passes, site: Site) -> Term:
        """The difference with the edit at one site."""

    def forward(self, passes: Passes) -> dict[str, Term]:
        """`reg`: the term at the drawn site, or (`pick: each`) the mean over all sites."""
        return {"reg": mean_term([self.at_site(passes, site) for site in self.chosen(passes)], self.options.alpha)}


class Adversarial(Consistency):
    """A method whose perturbation is found by gradients of the difference itself.

    Inner passes repeat the clean pass's dropout masks: with masks of their own the direction would be lost in the
    difference between the masks.
    """

    _warned = False

    @property
    def needs(self) -> Needs:
        """The sites and the clean pass's generator states."""
        return Needs(frozenset(self.sites), shared_dropout=True)

    @abstractmethod
    def found(self, passes: Passes, site: Site, hidden: Tensor) -> Tensor:
        """The perturbation of a site's states, both [B, T, width]."""

    def at_site(self, passes: Passes, site: Site) -> Term:
        """The divergence at the perturbation found, in a pass with masks of its own."""
        hidden = passes.h(site)
        delta = self.found(passes, site, hidden)
        passes.log_size("delta_norm", delta)
        noisy = passes.at(site, hidden + delta)
        return passes.diff(self.options.divergence, passes, noisy, self.options.detach_clean)

    def cost(self, layers: int) -> Cost:
        """Beside the last pass, K times forward and the gradient by the noise; none of these stays in memory."""
        last = super().cost(layers)
        return last + Cost(last.compute * INNER * self.options.steps)

    def rough(self, tensor: Tensor) -> bool:
        """Whether inner passes round to half precision, as autocast has them."""
        import torch

        half = torch.is_autocast_enabled(tensor.device.type) or tensor.dtype.itemsize < 4
        return half or self.options.inner_bf16

    def warn_small(self, size: float, least: float, option: str) -> None:
        """Says once that a start is so small that rounding decides the direction of the step."""
        if size < least and not self._warned:
            self._warned = True
            log.warning(
                "%s.%s: %g: the direction of the ascent is partly rounding error at starts below %g in this precision",
                self.name, option, size, least,
            )  # fmt: skip

    def inner(self, passes: Passes, noisy: Passes) -> Tensor:
        """What an inner step ascends, 0-d: the divergence summed over items, the clean side a constant."""
        return passes.diff(self.options.divergence, passes, noisy, detach_clean=True).total

    def gradient(self, passes: Passes, site: Site, delta: Tensor) -> Tensor:
        """The gradient of `inner` at `delta`, both [B, T, width]; logs the value per example as `inner`."""
        import torch

        hidden = passes.h(site).detach()
        half = (
            torch.autocast(hidden.device.type, torch.bfloat16) if self.options.inner_bf16 else contextlib.nullcontext()
        )
        with half:
            value, grad = passes.value_and_grad(
                lambda noise: self.inner(passes, passes.at(site, hidden + noise, dropout="shared")), delta
            )
        passes.log("inner", value / hidden.shape[0])
        return grad


class Augmentation(Perturbation):
    """A method that trains on an edited pass: (1 - clean) times its task loss beside `clean` times the clean pass's.

    At clean = 0 the edited pass stands in place of the clean one, which does not run.
    """

    @property
    def clean_weight(self) -> float:  # type: ignore[override]
        """The share of the clean pass."""
        return self.options.clean

    @property
    def active(self) -> bool:
        """False at clean = 1."""
        return self.options.clean < 1

    def cost(self, layers: int) -> Cost:
        """None where the edited pass stands in place of the clean one."""
        return super().cost(layers) if self.clean_weight or self.options.pick == "each" else Cost()

    @abstractmethod
    def edit(self, passes: Passes, site: Site, hidden: Tensor) -> Tensor:
        """The edited states of a site, [B, T, width]."""

    def at_site(self, passes: Passes, site: Site) -> Term:
        """The task loss of the pass edited at one site."""
        if self.clean_weight:
            _, noisy = passes.fork(site, lambda hidden: self.edit(passes, site, hidden))
        else:
            noisy = passes.at(site, self.edit(passes, site, passes.below(site)))
        return passes.loss(noisy)

    def forward(self, passes: Passes) -> dict[str, Term]:
        """`noisy`: the task loss at the drawn site, or (`pick: each`) the mean over all sites."""
        terms = [self.at_site(passes, site) for site in self.chosen(passes)]
        return {"noisy": mean_term(terms, 1 - self.clean_weight)}


class Driver(Perturbation):
    """A method whose own passes stand in place of the clean one; the other methods of a composition start from each.

    Only one can be in a composition.
    """

    @abstractmethod
    def drive(self, passes: Passes, loss: Loss) -> dict[str, Term]:
        """All terms of the step. loss: the task loss and the other methods' terms for one branch."""

    def forward(self, passes: Passes) -> dict[str, Term]:
        """The terms without other methods."""
        return self.drive(passes, lambda branch: {"task": branch.loss()})


METHODS: Registry[type[Perturbation]] = Registry("perturbation method")


class Compose:
    """The methods of one task, by name, in the order given; the clean pass and its task loss are shared."""

    def __init__(self, methods: Mapping[str, Perturbation] | None = None) -> None:
        self.methods = dict(methods or {})

    @property
    def needs(self) -> Needs:
        """The union over the methods, merged before the first pass."""
        needs = Needs()
        for method in self.methods.values():
            needs |= method.needs if method.active else Needs()
        return needs

    def cost(self, layers: int) -> Cost:
        """Of a whole step, the clean pass included."""
        total, times = Cost(1.0, 1.0), Cost(1.0, 1.0)
        for method in self.methods.values():
            if method.active and isinstance(method, Driver):
                times += method.cost(layers)
            elif method.active:
                total += method.cost(layers)
        return Cost(total.compute * times.compute, total.memory * times.memory)

    def forward(self, passes: Passes) -> tuple[dict[str, Term], dict[str, Any]]:
        """All terms (`task`, `<method>/<term>`) and all logged figures (`<method>/<name>`)."""
        stats: dict[str, Any] = {}

        def collect(name: str) -> None:
            stats.update({f"{name}/{key}": value for key, value in passes.stats.items()})
            passes.stats.clear()

        def loss(branch: Passes) -> dict[str, Term]:
            if driver is not None:  # what it logged so far is its own
                collect(driver)
            return self._terms(branch, collect)

        driver = next((name for name, method in self.methods.items() if isinstance(method, Driver)), None)
        if driver is None:
            return loss(passes), stats
        terms = cast(Driver, self.methods[driver]).drive(passes, loss)
        collect(driver)
        return terms, stats

    def _terms(self, passes: Passes, collect: Callable[[str], None]) -> dict[str, Term]:
        """The task loss and the terms of all methods but a driver."""
        terms: dict[str, Term] = {}
        weight = 1.0
        for name, method in self.methods.items():
            if not method.active or isinstance(method, Driver):
                continue
            terms.update({f"{name}/{key}": term for key, term in method.forward(passes).items()})
            collect(name)
            weight *= method.clean_weight
        if not weight:
            return terms
        task = passes.loss()
        return {"task": Term(task.total, task.over, weight), **terms}
