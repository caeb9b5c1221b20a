"""What a method sees of one batch: `Passes`, the clean pass and its branches, and `Term`, a named part of the loss.

No torch is imported here at run time, so that the method files can be read before anything heavy is loaded.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from mtrobust.clock import Clock
from mtrobust.perturb.layers import Site
from mtrobust.tasks.base import Batch, HeadContract, HeadInput, View

if TYPE_CHECKING:
    from torch import Tensor

    from mtrobust.models.encoder import Dropout, Encoder, Rows, Tape
    from mtrobust.perturb.noise import Dist, KeyedNoise

Kind = Literal["labels", "items", "tokens", "rows"]


@dataclass
class Term:
    """One named part of the loss: `weight * total / (the step's count of its kind)`.

    total: 0-d tensor, a sum over this batch; over: what the mean runs over: `labels` (labelled rows), `items` (items
    of the head's views), `tokens` (real tokens), `rows` (examples). Counts are summed over micro-batches and ranks
    before dividing, so accumulation and DDP give what one large batch gives.
    """

    total: Tensor
    over: Kind
    weight: float = 1.0


class Choice(int):
    """A figure that says which of several things was drawn: counted over steps, where others are averaged."""


def counts(head: HeadContract, batch: Batch) -> dict[str, float]:
    """What the terms' means run over in a batch, by kind; known before the pass."""
    return {
        "labels": float(head.count(batch)),
        "items": float(head.items(batch)),
        "tokens": float(batch.inputs["attention_mask"].sum()),
        "rows": float(len(batch.row_ids)),
    }


def item_places(view: View) -> Tensor:
    """The place of each item among those of its example, int64 [n]: 0 for all where an example has one."""
    import torch

    order = torch.arange(len(view.row), device=view.row.device)
    if not len(order):
        return order
    first = torch.full((int(view.row.max()) + 1,), len(order), device=order.device)
    return order - first.scatter_reduce(0, view.row, order, "amin")[view.row]


@dataclass(frozen=True)
class Needs:
    """What a method asks of the clean pass, known before it runs.

    sites: whose hidden states it reads; last_states: it reads those of all tokens (`tape.last`); last_constant: it
    reads them as a constant (`Passes.last_constant`), which costs less; shared_dropout: its inner passes repeat the
    clean pass's dropout masks; double_backward: it differentiates a gradient of the clean pass.
    """

    sites: frozenset[Site] = frozenset()
    last_states: bool = False
    last_constant: bool = False
    shared_dropout: bool = False
    double_backward: bool = False

    def __or__(self, other: Needs) -> Needs:
        return Needs(
            self.sites | other.sites,
            self.last_states or other.last_states,
            self.last_constant or other.last_constant,
            self.shared_dropout or other.shared_dropout,
            self.double_backward or other.double_backward,
        )


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
        weight: float = 1.0,
        trained: Callable[[], Iterable[Tensor]] = tuple,
        clock: Clock | None = None,
    ) -> None:
        """noise_mask: [B, T], where noise may be non-zero; default: the attention mask (never on padding).
        weight: of the task, on every term; trained: gives the parameters that learn (for `hand_over`); clock: charges
        the clean pass to the part `clean`, branches to `perturbation`."""
        self.encoder, self.head, self.batch, self.noise, self.needs = encoder, head, batch, noise, needs
        self.noise_mask = batch.inputs["attention_mask"] if noise_mask is None else noise_mask
        self.weight, self.trained, self.clock, self._part = weight, trained, clock or Clock(), "clean"
        self.norms = batch.norms or counts(head, batch)
        self.stats: dict[str, Any] = {}
        self.handed: list[Tensor] = []
        self.memo: dict[str, Any] = {}  # what a method computes once for all branches of the batch
        self._tape: Tape | None = None
        self._below: Tape | None = None
        self._out: dict[str, Tensor] | None = None

    # --- passes -------------------------------------------------------------------------------------------------------

    @property
    def tape(self) -> Tape:
        """The recorded pass; runs it first if need be."""
        if self._tape is None:
            with self._kernels(), self.clock.part(self._part):
                self._tape = self.encoder.record(self.batch.inputs, self.tracked, self._rows)
                self._out = self._read(self._tape)  # at once, so that `shared` can repeat the head's masks too
        return self._tape

    @property
    def out(self) -> dict[str, Tensor]:
        """The head's outputs (logits)."""
        if self._out is None:
            tape = self.tape
            with self.clock.part(self._part):
                self._out = self._out or self._read(tape)
        return self._out

    @property
    def tracked(self) -> frozenset[Site]:
        """The sites whose states a pass keeps."""
        again = self.needs.last_constant and self._rows == "first" and self.encoder.num_layers > 1
        return self.needs.sites | ({self.encoder.num_layers - 1} if again else frozenset())

    @property
    def last_constant(self) -> Tensor:
        """The last states of all tokens of this pass, [B, T, H], without a graph. Where the pass went on with the first
        token alone, its last layer runs once more without gradients (there with dropout masks of its own): a third of
        what the other tokens would cost with them."""
        import torch

        tape = self.tape
        if tape.last.shape[1] == tape.inputs["input_ids"].shape[1]:
            return tape.last.detach()
        site = self.encoder.num_layers - 1
        with torch.no_grad():
            return self.encoder.replay(tape, site, tape.h[site].detach()).last

    def h(self, site: Site) -> Tensor:
        """Hidden states at a site, [B, T, width]. The method must have named the site in `needs`."""
        return self.tape.h[site]

    def below(self, site: Site) -> Tensor:
        """As `h`, for a method that needs no clean pass: nothing above the site runs, if nothing has yet."""
        if self._tape is not None:
            return self.h(site)
        if self._below is None or site not in self._below.h:
            self._below = self.encoder.prefix(self.batch.inputs, site, self.tracked)
        return self._below.h[site]

    def at(
        self,
        site: Site,
        hidden: Tensor,
        dropout: Dropout = "independent",
        track: frozenset[Site] = frozenset(),
        final: bool = False,
    ) -> Passes:
        """A branch: the same questions asked of the pass that has `hidden` at `site`.

        dropout: `independent` | `shared` (the masks of the clean pass, or of what `below` gave) | `off`, from the site
        upwards and in the head. track: sites whose states the branch keeps for further branches. final: nothing but
        the head's outputs is asked of the branch, so its last layer computes no more than the head reads, even where
        the clean pass keeps the last states of all tokens (not with shared masks, whose shapes would differ).
        """
        if final and dropout == "shared":
            raise ValueError("a final branch cannot share the clean pass's masks")
        tape = self._tape or (self._below if self._below is not None and site in self._below.h else self.tape)
        branch = self._branch()
        rows = self.head.reads if final else self._rows
        with self._kernels():
            branch._tape = self.encoder.replay(tape, site, hidden, dropout=dropout, track=track, rows=rows)
            branch._out = self._read(branch._tape, dropout)
        return branch

    def fork(self, site: Site, edit: Callable[[Tensor], Tensor]) -> tuple[Passes, Passes]:
        """The clean pass and the one with `edit(h)` at `site`: the prefix is computed once, what lies above as one
        doubled batch (so each has its own dropout masks). Where a clean pass exists or must be one of its own
        (its masks are repeated by a method of the composition), only the edited rows are computed on top."""
        if self._tape is not None or self.needs.shared_dropout or self.needs.double_backward:
            return self, self.at(site, edit(self.h(site)))
        import torch

        with self.clock.part("clean"):
            below = self.encoder.prefix(self.batch.inputs, site, self.tracked)
        hidden = below.h[site]
        doubled = torch.cat((hidden, edit(hidden)))
        with self.clock.part("clean", "perturbation"):
            both = self.encoder.replay(below, site, doubled, copies=2, track=self.tracked, rows=self._rows)
        self._tape, edited = both.part(0, 2), both.part(1, 2)
        self._tape.h = {**self._tape.h, **below.h}
        self._tape.tails = {**self._tape.tails, **below.tails}
        branch = self._branch()
        branch._tape = edited
        return self, branch

    # --- terms --------------------------------------------------------------------------------------------------------

    def loss(self, passes: Passes | None = None) -> Term:
        """The task loss of a pass (default: the clean one) over the labelled rows."""
        out = (passes or self).out
        return Term(self.head.loss(out, self.batch).sum(), "labels")

    def views(self) -> list[View]:
        """What this pass is compared by."""
        return self.head.views(self.out, self.batch)

    def diff(self, divergence: Any, clean: Passes, noisy: Passes, detach_clean: bool | None = None) -> Term:
        """The divergence between two passes, summed over items; the mean over views where a task has several.

        divergence: a name or a `Divergence`, called as `(clean logits, noisy logits)`; real-valued views compare by
        squared error whatever its name. detach_clean: default is the divergence's own (squared error: False).
        """
        from mtrobust.perturb.divergence import get_divergence, widen

        measure = get_divergence(divergence)
        totals = []
        for a, b in zip(clean.views(), noisy.views(), strict=True):
            if a.kind == "real":
                target = a.logits.detach() if detach_clean else a.logits
                totals.append((widen(b.logits) - widen(target)).square().sum())
            else:
                totals.append(measure(a.logits, b.logits, support=a.support, detach_clean=detach_clean).sum())
        return Term(sum(totals[1:], totals[0]) / len(totals), "items")

    def means(self, terms: Mapping[str, Term]) -> dict[str, Tensor]:
        """Each term's total over the step's count of its kind: this batch's part of the term's mean."""
        # `or`, not `max`: one labelled row shared by two ranks has a norm of a half. Without any, the total is 0 too.
        return {name: term.total / (self.norms[term.over] or 1.0) for name, term in terms.items()}

    def share(self, terms: Mapping[str, Term]) -> Tensor:
        """This batch's part of the step's loss, 0-d. A weight of 0 leaves a term out altogether, so that it is
        `standard` bit for bit and 0 * inf is not NaN."""
        import torch

        means = self.means(terms)
        return torch.stack([self.weight * t.weight * means[name] for name, t in terms.items() if t.weight]).sum()

    # --- gradients ----------------------------------------------------------------------------------------------------

    def value_and_grad(self, fn: Callable[[Tensor], Tensor], wrt: Tensor) -> tuple[Tensor, Tensor]:
        """`fn(wrt)`, a 0-d tensor, and its gradient with respect to `wrt`; parameters get none."""
        import torch

        with torch.enable_grad():
            variable = wrt.detach().requires_grad_(True)
            value = fn(variable)
            (grad,) = torch.autograd.grad(value, variable)
        return value.detach(), grad

    def hand_over(self, gradients: Iterable[tuple[Tensor, Tensor]]) -> None:
        """(tensor, gradient) pairs formed inside the step reach their tensors when the step's loss is differentiated.

        For methods with several backward passes: no graph but the last is kept, and DDP sees one backward.
        """
        from mtrobust.perturb.handover import HandOver

        pairs = [(tensor, grad) for tensor, grad in gradients if tensor.requires_grad]
        if pairs:
            tensors, grads = zip(*pairs, strict=True)
            self.handed.append(HandOver.apply(grads, *tensors))

    # --- noise and figures --------------------------------------------------------------------------------------------

    def draw(self, name: str, like: Tensor, dist: Dist = "normal") -> Tensor:
        """Noise of the shape of `like` [B, T, ...], zero off the noise mask; keyed by (seed, step, row id, name)."""
        return self.noise.draw(name, like, self.noise_mask, self.batch.row_ids, self.batch.step, dist)

    def draw_items(self, name: str, view: View) -> Tensor:
        """Normal noise of the shape of a view's logits [n, C], zero off its support; keyed as `draw`, and by the
        item's place in its example."""
        keys = self.batch.row_ids[view.row] * 2**16 + item_places(view)
        return self.noise.draw(name, view.logits, view.support, keys, self.batch.step)

    def random(self, name: str) -> random.Random:
        """A generator of numbers that all micro-batches and ranks of this step share."""
        return random.Random(f"{self.noise.seed}/{self.batch.step}/{name}")

    def pick(self, name: str, sites: list[Site]) -> Site:
        """One of the sites, the same for all micro-batches and ranks of this step."""
        return self.random(name).choice(sites)

    def log(self, name: str, value: Any) -> None:
        """A figure for TensorBoard: a number or a 0-d tensor (kept without its graph)."""
        self.stats[name] = value.detach() if hasattr(value, "detach") else value

    def log_choice(self, name: str, value: int) -> None:
        """What was drawn for this step, the same on all micro-batches and ranks: a histogram in TensorBoard."""
        self.stats[name] = Choice(value)

    def log_size(self, name: str, delta: Tensor) -> None:
        """Logs the L2 norms of a perturbation over the tokens that may have noise: their mean, and as
        `<name>_by_token` how they are spread (a histogram in TensorBoard)."""
        from mtrobust.perturb.spread import spread

        norms = delta.detach().float().norm(dim=-1)
        mask = self.noise_mask.to(norms.dtype)
        self.log(name, (norms * mask).sum() / mask.sum())
        self.stats[f"{name}_by_token"] = spread(norms, mask)

    # --- inside -------------------------------------------------------------------------------------------------------

    @property
    def _rows(self) -> Rows:
        """Of which tokens a pass ends with the last states: the same in all passes, so that masks can be shared."""
        whole = self.needs.last_states or self.encoder.num_layers in self.needs.sites
        return "all" if whole else self.head.reads

    def _branch(self) -> Passes:
        branch = type(self).__new__(type(self))
        branch.__dict__.update(self.__dict__)
        branch._tape = branch._below = branch._out = None
        branch._part = "perturbation"
        return branch

    def _kernels(self) -> Any:
        """Fused attention kernels have no second derivative."""
        if not self.needs.double_backward:
            return nullcontext()
        from torch.nn.attention import SDPBackend, sdpa_kernel

        return sdpa_kernel(SDPBackend.MATH)

    def _read(self, tape: Tape, dropout: Dropout = "independent") -> dict[str, Tensor]:
        from mtrobust.models.encoder import dropout_mode

        with dropout_mode(dropout, self.head, device=tape.last.device):
            if (
                dropout == "shared"
            ):  # the pass repeated the masks, so its generators now stand where the clean one's did
                tape.rng["head"].put()
            return self.head(HeadInput(tape.last, tape.pooled), self.batch)
