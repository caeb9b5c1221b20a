"""The interface of the perturbation methods: `Perturbation`, the `Passes` it works with, and their composition.

No torch is imported here at run time, nor by the method files: options are checked before anything heavy is loaded.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from mtrobust.config import StrictModel
from mtrobust.perturb.layers import LayerSpec, Site
from mtrobust.perturb.names import DivergenceName
from mtrobust.registry import Registry
from mtrobust.tasks.base import Batch, EncoderInfo, HeadContract, HeadInput

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mtrobust.models.encoder import Dropout, Encoder, Tape
    from mtrobust.perturb.noise import KeyedNoise

Kind = Literal["labels", "items", "tokens"]


@dataclass
class Term:
    """One named part of the loss: `weight * total / (the step's count of its kind)`.

    total: 0-d tensor, a sum over this batch; over: what the mean runs over: `labels` (labelled rows), `items` (items
    of the head's views), `tokens` (real tokens). Counts are summed over micro-batches and ranks before dividing, so
    accumulation and DDP give what one large batch gives.
    """

    total: Tensor
    over: Kind
    weight: float = 1.0


@dataclass(frozen=True)
class Needs:
    """What a method asks of the clean pass, known before it runs.

    sites: whose hidden states it reads; shared_dropout: its inner passes repeat the clean pass's dropout masks.
    """

    sites: frozenset[Site] = frozenset()
    shared_dropout: bool = False

    def __or__(self, other: Needs) -> Needs:
        return Needs(self.sites | other.sites, self.shared_dropout or other.shared_dropout)


class Passes:
    """Passes over one batch: the clean one, and branches from it. All that a method sees.

    The clean pass runs when something of it is first asked for, and once.
    """

    def __init__(
        self,
        encoder: Encoder,
        head: HeadContract,
        batch: Batch,
        noise: KeyedNoise,
        needs: Needs = Needs(),
        noise_mask: Tensor | None = None,
    ) -> None:
        """noise_mask: [B, T], where noise may be non-zero; default: the attention mask (never on padding)."""
        self.encoder, self.head, self.batch, self.noise, self.needs = encoder, head, batch, noise, needs
        self.noise_mask = batch.inputs["attention_mask"] if noise_mask is None else noise_mask
        self.stats: dict[str, Any] = {}
        self._tape: Tape | None = None
        self._out: dict[str, Tensor] | None = None

    @property
    def tape(self) -> Tape:
        """The recorded pass; runs it first if need be."""
        if self._tape is None:
            self._tape = self.encoder.record(self.batch.inputs, self.needs.sites)
            self._out = self._read(self._tape)  # at once, so that `shared` can repeat the head's masks too
        return self._tape

    @property
    def out(self) -> dict[str, Tensor]:
        """The head's outputs (logits)."""
        if self._out is None:
            tape = self.tape
            self._out = self._out or self._read(tape)
        return self._out

    def h(self, site: Site) -> Tensor:
        """Hidden states at a site, [B, T, width]. The method must have named the site in `needs`."""
        return self.tape.h[site]

    def at(
        self, site: Site, hidden: Tensor, dropout: Dropout = "independent", track: frozenset[Site] = frozenset()
    ) -> Passes:
        """A branch: the same questions asked of the pass that has `hidden` at `site`.

        dropout: `independent` | `shared` (the clean pass's masks) | `off`, from the site upwards and in the head.
        """
        branch = self._branch()
        branch._tape = self.encoder.replay(self.tape, site, hidden, dropout=dropout, track=track)
        branch._out = self._read(branch._tape, dropout)
        return branch

    def fork(self, site: Site, edit: Callable[[Tensor], Tensor]) -> tuple[Passes, Passes]:
        """The clean pass and the one with `edit(h)` at `site`: the prefix is computed once, what lies above as one
        doubled batch (so each has its own dropout masks). Where a clean pass exists or must be one of its own
        (its masks are repeated by a method of the composition), only the edited rows are computed on top."""
        if self._tape is not None or self.needs.shared_dropout:
            return self, self.at(site, edit(self.h(site)))
        import torch

        below = self.encoder.prefix(self.batch.inputs, site, self.needs.sites)
        hidden = below.h[site]
        both = self.encoder.replay(below, site, torch.cat((hidden, edit(hidden))), copies=2, track=self.needs.sites)
        self._tape, edited = both.part(0, 2), both.part(1, 2)
        self._tape.h = {**self._tape.h, **below.h}
        self._tape.tails = {**self._tape.tails, **below.tails}
        branch = self._branch()
        branch._tape = edited
        return self, branch

    def loss(self, passes: Passes | None = None) -> Term:
        """The task loss of a pass (default: the clean one) over the labelled rows."""
        out = (passes or self).out
        return Term(self.head.loss(out, self.batch).sum(), "labels")

    def diff(self, divergence: Any, clean: Passes, noisy: Passes, detach_clean: bool | None = None) -> Term:
        """The divergence between two passes, summed over items; the mean over views where a task has several.

        divergence: a name or a `Divergence`, called as `(clean logits, noisy logits)`; real-valued views compare by
        squared error whatever its name. detach_clean: default is the divergence's own (squared error: False).
        """
        from mtrobust.perturb.divergence import get_divergence, widen

        measure = get_divergence(divergence)
        totals = []
        for a, b in zip(self.head.views(clean.out, self.batch), self.head.views(noisy.out, self.batch), strict=True):
            if a.kind == "real":
                target = a.logits.detach() if detach_clean else a.logits
                totals.append((widen(b.logits) - widen(target)).square().sum())
            else:
                totals.append(measure(a.logits, b.logits, support=a.support, detach_clean=detach_clean).sum())
        return Term(sum(totals[1:], totals[0]) / len(totals), "items")

    def value_and_grad(self, fn: Callable[[Tensor], Tensor], wrt: Tensor) -> tuple[Tensor, Tensor]:
        """`fn(wrt)`, a 0-d tensor, and its gradient with respect to `wrt`; parameters get none."""
        import torch

        with torch.enable_grad():
            variable = wrt.detach().requires_grad_(True)
            value = fn(variable)
            (grad,) = torch.autograd.grad(value, variable)
        return value.detach(), grad

    def draw(self, name: str, like: Tensor, dist: Literal["normal", "uniform"] = "normal") -> Tensor:
        """Noise of the shape of `like` [B, T, d], zero off the noise mask; keyed by (seed, step, row id, name)."""
        return self.noise.draw(name, like, self.noise_mask, self.batch.row_ids, self.batch.step, dist)

    def pick(self, name: str, sites: list[Site]) -> Site:
        """One of the sites, the same for all micro-batches and ranks of this step."""
        return random.Random(f"{self.noise.seed}/{self.batch.step}/{name}").choice(sites)

    def log(self, name: str, value: Any) -> None:
        """A figure for TensorBoard: a number or a 0-d tensor (kept without its graph)."""
        self.stats[name] = value.detach() if hasattr(value, "detach") else value

    def log_size(self, name: str, delta: Tensor) -> None:
        """Logs the mean L2 norm of a perturbation over the tokens that may have noise."""
        norms = delta.detach().float().norm(dim=-1)
        mask = self.noise_mask.to(norms.dtype)
        self.log(name, (norms * mask).sum() / mask.sum())

    def _branch(self) -> Passes:
        branch = Passes(self.encoder, self.head, self.batch, self.noise, self.needs, self.noise_mask)
        branch.stats = self.stats
        return branch

    def _read(self, tape: Tape, dropout: Dropout = "independent") -> dict[str, Tensor]:
        from mtrobust.models.encoder import dropout_mode

        with dropout_mode(dropout, self.head, device=tape.last.device):
            if dropout == "shared":
                self.tape.rng["head"].put()
            return self.head(HeadInput(tape.last, tape.pooled), self.batch)


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
    clean_weight: float = 1.0  # multiplies the task loss of the clean pass

    def __init__(self, options: Any, info: EncoderInfo) -> None:
        self.options = options
        self.sites: list[Site] = options.layers.resolve(info.num_layers) if hasattr(options, "layers") else []

    @property
    def needs(self) -> Needs:
        """Asked before the clean pass."""
        return Needs(frozenset(self.sites))

    def module(self) -> nn.Module | None:
        """What the method trains and saves of its own; None for most."""
        return None

    @abstractmethod
    def forward(self, passes: Passes) -> dict[str, Term]:
        """Named terms beside the task loss of the clean pass."""

    @property
    def active(self) -> bool:
        """Whether there is anything to compute; a method of weight 0 is left out whole, so that nothing changes."""
        return True


class Consistency(Perturbation):
    """A method with one term: alpha times the difference between a clean pass and one edited at a site."""

    @property
    def active(self) -> bool:
        """False at alpha = 0."""
        return self.options.alpha > 0

    @abstractmethod
    def at_site(self, passes: Passes, site: Site) -> Term:
        """The difference with the edit at one site."""

    def forward(self, passes: Passes) -> dict[str, Term]:
        """`reg`: the term at the drawn site, or (`pick: each`) the mean over all sites."""
        if self.options.pick == "random":
            site = passes.pick(self.name, self.sites)
            passes.log("site", -1 if site == "words" else site)
            total = self.at_site(passes, site).total
        else:
            totals = [self.at_site(passes, site).total for site in self.sites]
            total = sum(totals[1:], totals[0]) / len(totals)
        return {"reg": Term(total, "items", self.options.alpha)}


class Adversarial(Consistency):
    """A method whose perturbation is found by gradients of the difference itself.

    Inner passes repeat the clean pass's dropout masks: with masks of their own the direction would be lost in the
    difference between the masks.
    """

    @property
    def needs(self) -> Needs:
        """The sites and the clean pass's generator states."""
        return Needs(frozenset(self.sites), shared_dropout=True)

    def inner(self, passes: Passes, noisy: Passes) -> Tensor:
        """What an inner step ascends, 0-d: the divergence summed over items, the clean side a constant."""
        return passes.diff(self.options.divergence, passes, noisy, detach_clean=True).total

    def gradient(self, passes: Passes, site: Site, delta: Tensor) -> Tensor:
        """The gradient of `inner` at `delta`, both [B, T, width]; logs the value per example as `inner`."""
        hidden = passes.h(site).detach()
        value, grad = passes.value_and_grad(
            lambda noise: self.inner(passes, passes.at(site, hidden + noise, dropout="shared")), delta
        )
        passes.log("inner", value / hidden.shape[0])
        return grad


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

    def forward(self, passes: Passes) -> tuple[dict[str, Term], dict[str, Any]]:
        """All terms (`task`, `<method>/<term>`) and all logged figures (`<method>/<name>`)."""
        terms: dict[str, Term] = {}
        stats: dict[str, Any] = {}
        weight = 1.0
        for name, method in self.methods.items():
            if not method.active:
                continue
            terms.update({f"{name}/{key}": term for key, term in method.forward(passes).items()})
            stats.update({f"{name}/{key}": value for key, value in passes.stats.items()})
            passes.stats.clear()
            weight *= method.clean_weight
        task = passes.loss()
        return {"task": Term(task.total, task.over, weight), **terms}, stats
