"""Any supported Hugging Face encoder with its hidden states captured, edited and resumed from.

Sites: `words` is the output of the word-embedding table; `0` the input of the first layer call (the embedding output);
`r` the output of layer call r as the next call reads it (for DeBERTa-v2 with a convolution: after it); `N` the output
of the last call, before a final norm where the family has one. Calls are counted, not modules, so ALBERT's shared
layers have one site per call.

Mechanism: for the length of one pass the model's layer list holds thin callers. A caller counts its calls, records or
replaces what the layer reads, and returns recorded outputs for the calls below the site. The model's own forward runs
around them and builds masks, rotary and position biases, so nothing here knows how a family shapes its masks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from mtrobust.models.decoder import DecoderNet
from mtrobust.models.dropout import Masks, first_query_only
from mtrobust.models.families import Family, family_of
from mtrobust.models.family_head import FamilyHead, Kind
from mtrobust.models.rng import RngState, rng_kept

Site = int | str
Dropout = Literal["independent", "shared", "off"]
Rows = Literal["all", "first"]


@dataclass
class Tape:
    """What one pass left behind.

    inputs: the model's keyword arguments; h: hidden states `[B, T, width(site)]` by site, for the tracked sites;
    last: `[B, T, H]` states that heads read (`[B, 1, H]` of a pass with rows="first");
    pooled: `[B, H]` where the family's classification head reads a pooler, else None; tails: what each call returned
    beside its hidden state (T5's position bias); rng: the generators' state at each tracked site, and at `head` (after
    the pass).
    """

    inputs: dict[str, Tensor]
    h: dict[Site, Tensor] = field(default_factory=dict)
    tails: dict[int, tuple[Any, ...]] = field(default_factory=dict)
    rng: dict[Site, RngState] = field(default_factory=dict)
    last: Tensor = None  # type: ignore[assignment]  # None while a pass has not reached its end (a prefix)
    pooled: Tensor | None = None

    @property
    def rows(self) -> int:
        """The number of examples B."""
        return self.inputs["input_ids"].shape[0]

    def part(self, index: int, parts: int) -> Tape:
        """Rows `[index * B / parts, (index + 1) * B / parts)` of a doubled pass, without its generator states."""
        rows = self.rows // parts
        cut = slice(index * rows, (index + 1) * rows)
        take = lambda x: x[cut] if isinstance(x, Tensor) and x.shape[0] == self.rows else x  # noqa: E731
        return Tape(
            inputs={k: take(v) for k, v in self.inputs.items()},
            h={k: take(v) for k, v in self.h.items()},
            tails={k: tuple(take(x) for x in v) for k, v in self.tails.items()},
            last=take(self.last),
            pooled=take(self.pooled),
        )


class _Stop(Exception):
    """Ends a pass at the site where a prefix ends."""


@dataclass
class _Plan:
    """What the callers do during one pass."""

    tape: Tape
    track: frozenset[Site]
    calls: int  # layer calls of a whole pass
    start: Site | None = None  # resume here with `hidden`
    hidden: Any = None
    recorded: dict[int, tuple[Any, ...]] = field(default_factory=dict)
    rng: RngState | None = None  # generators' state to set at `start`
    stop: Site | None = None
    narrow: Family | None = None  # where the last call goes on with the first token alone: as its entry says
    block: bool = False  # site 0 is met at the embedding block, not at the first call
    call: int = 0

    def enter(self, site: Site, hidden: Tensor) -> Tensor:
        """Called when the pass reaches `site`: replaces, records, ends it."""
        if self.start == site:
            hidden = self.hidden
            if self.rng is not None:
                self.rng.put()
        if site in self.track:
            self.tape.h[site] = hidden
            self.tape.rng[site] = RngState.take(hidden.device)
        if self.stop == site:
            raise _Stop
        return hidden

    def below(self, call: int) -> bool:
        """Whether a call is skipped because the pass resumes above it."""
        return isinstance(self.start, int) and call <= self.start


@contextmanager
def _narrowed(layer: nn.Module, family: Family | None) -> Iterator[None]:
    """Inside, the layer goes on with the first token alone from the family's module on; None: nothing is cut."""
    if family is None:
        yield
        return
    module = [found for path, found in layer.named_modules() if f".{path}".endswith(f".{family.narrow}")][-1]
    if family.narrow_inputs:
        handle = module.register_forward_pre_hook(lambda module, args: tuple(_first(x) for x in args))
    else:
        handle = module.register_forward_hook(
            lambda module, args, out: (_first(out[0]), *out[1:]) if isinstance(out, tuple) else _first(out)
        )
    try:
        with first_query_only() if family.narrow_inputs else nullcontext():
            yield
    finally:
        handle.remove()


def _first(states: Tensor) -> Tensor:
    return states[:, :1]


class _Caller(nn.Module):
    """Stands in for one layer during a pass; holds it outside the module tree."""

    def __init__(self, layer: nn.Module, plan: _Plan) -> None:
        super().__init__()
        object.__setattr__(self, "_layer", layer)
        object.__setattr__(self, "_plan", plan)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_layer"], name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        plan = self._plan
        plan.call += 1
        call = plan.call
        hidden = args[0] if args else kwargs["hidden_states"]
        if plan.below(call):
            tail = plan.recorded.get(call)
        else:
            if call > 1 or not plan.block:
                hidden = plan.enter(call - 1, hidden)
            with _narrowed(self._layer, plan.narrow if call == plan.calls else None):
                out = self._layer(hidden, *args[1:], **{k: v for k, v in kwargs.items() if k != "hidden_states"})
            hidden, tail = (out[0], tuple(out[1:])) if isinstance(out, tuple) else (out, None)
        if tail is not None:
            plan.tape.tails[call] = tail
        if call == plan.calls:
            hidden = plan.enter(call, hidden)
        return hidden if tail is None else (hidden, *tail)  # a tuple, even of one, stays a tuple


class Encoder(nn.Module):
    """Wraps a bare Hugging Face encoder (`base`). Implements `tasks.base.EncoderInfo`."""

    def __init__(self, base: PreTrainedModel) -> None:
        super().__init__()
        self.family = family_of(base.config.model_type)
        self.base = base
        self.config = base.config
        self.model_type: str = base.config.model_type
        self.hidden_size: int = base.config.hidden_size
        self.num_layers: int = base.config.num_hidden_layers
        self.head_dropout: float = _head_dropout(base.config)
        self.masks_again = False  # whether layers that are computed again in the backward pass repeat `Masks`
        self.lora: Any = None  # peft's configuration where the base has adapters (see models.adapters)
        if getattr(base, "pooler", None) is not None and not FamilyHead.reads_pooler(base.config):
            base._modules["pooler"] = None  # its weights would be random and unread

    @property
    def layer_list(self) -> nn.ModuleList:
        """The module list whose items are called, one after the other."""
        return cast(nn.ModuleList, self.base.get_submodule(self.family.layers))

    @property
    def word_embeddings(self) -> nn.Embedding:
        """The word-embedding table, [vocabulary, width of site `words`]."""
        path = self.family.words
        table = self.base.get_submodule(path) if path else self.base.get_input_embeddings()
        return cast(nn.Embedding, table)

    def adapter_weights(self) -> dict[str, nn.Parameter]:
        """What learns of an encoder with adapters, by its name in the base: they, and a pooler that heads read."""
        names = self.base.named_parameters()
        return {name: value for name, value in names if ".lora_" in name or name.startswith("pooler.")}

    def reloaded(self) -> list[nn.Parameter]:
        """The weights that are not saved with a run, since they are those of its base: none without adapters."""
        own = {id(value) for value in self.adapter_weights().values()}
        return [value for value in self.base.parameters() if id(value) not in own] if self.lora is not None else []

    def width(self, site: Site) -> int:
        """The last dimension of the hidden states at a site (ELECTRA and ALBERT have narrower word embeddings)."""
        return self.word_embeddings.embedding_dim if site == "words" else self.hidden_size

    def family_head(
        self, kind: Kind | Literal["decoder"], num_labels: int | None, dropout: float | None
    ) -> FamilyHead | DecoderNet:
        """A new head of the family's own kind; see `tasks.base.EncoderInfo`."""
        if kind == "decoder":
            return DecoderNet(self.config, self.word_embeddings, dropout)
        return FamilyHead(self.config, kind, num_labels, dropout, self.word_embeddings)

    def record(self, inputs: dict[str, Tensor], track: Iterable[Site] = (), rows: Rows = "all") -> Tape:
        """One whole pass that keeps the hidden states of the tracked sites.

        rows: `first` where nothing but the first token's last state is read. What the last layer does after its
        attention is then done for that token alone, and `last` is `[B, 1, H]`: the same numbers to rounding, other
        dropout masks. All tokens are computed where the family's heads read more (ModernBERT, T5), where the last site
        is tracked, and while activations are recomputed.
        """
        return self._run(self._plan(Tape(inputs), frozenset(track), rows))

    def _plan(self, tape: Tape, track: frozenset[Site], rows: Rows, **more: Any) -> _Plan:
        # A layer that is computed again in the backward pass would not be cut there. A single layer of DeBERTa-v2 is
        # followed by a convolution over all tokens.
        whole = self.num_layers in track or self.num_layers == 1 or self.base.is_activation_checkpointing
        narrow = None if rows == "all" or whole or not self.family.narrow else self.family
        return _Plan(tape, track, self.num_layers, narrow=narrow, **more)

    def prefix(self, inputs: dict[str, Tensor], site: Site, track: Iterable[Site] = ()) -> Tape:
        """The pass up to `site`; nothing above runs. `tape.h[site]` is always there, `last` is None."""
        return self._run(self._plan(Tape(inputs), frozenset(track) | {site}, "all", stop=site))

    def replay(
        self,
        tape: Tape,
        site: Site,
        hidden: Tensor,
        copies: int = 1,
        dropout: Dropout = "independent",
        track: Iterable[Site] = (),
        rows: Rows = "all",
    ) -> Tape:
        """The pass from `site` upwards with `hidden` there, `[copies * B, T, width(site)]`.

        dropout: `independent` draws new masks above the site, `shared` repeats those of the pass that made `tape`
        (which must have tracked the site; not for copies > 1, and only with the `rows` of that pass), `off` draws none;
        rows: as for `record`.
        """
        if dropout == "shared" and (copies > 1 or site not in tape.rng):
            raise ValueError(f"shared dropout masks need a single copy and a tape that tracked site {site!r}")
        doubled = Tape(
            inputs={k: _repeat(v, copies, tape.rows) for k, v in tape.inputs.items()},
            tails={k: tuple(_repeat(x, copies, tape.rows) for x in v) for k, v in tape.tails.items()},
        )
        plan = self._plan(
            Tape(doubled.inputs),
            frozenset(track),
            rows,
            start=site,
            hidden=hidden,
            recorded=doubled.tails,
            rng=tape.rng[site] if dropout == "shared" else None,
        )
        with dropout_mode(dropout, self.base, device=hidden.device):
            return self._run(plan)

    def _run(self, plan: _Plan) -> Tape:
        """One pass of the model's own forward with the callers in place."""
        tape = plan.tape
        with self._callers(plan), self._masks():
            try:
                out = self.base(**tape.inputs)
            except _Stop:
                return tape
        tape.last = out.last_hidden_state
        tape.pooled = getattr(out, "pooler_output", None)
        tape.rng["head"] = RngState.take(tape.last.device)
        return tape

    def _masks(self) -> AbstractContextManager[Any]:
        """The cheap ways of the CPU, unless a second computation of the layers would draw other dropout masks."""
        again = self.training and self.base.is_activation_checkpointing and not self.masks_again
        return Masks() if self.base.device.type == "cpu" and not again else nullcontext()

    @contextmanager
    def _callers(self, plan: _Plan) -> Iterator[None]:
        """Swaps the callers in and, whatever happens, the layers back."""
        modules = self.layer_list._modules
        layers = dict(modules)
        hooks = [self.word_embeddings.register_forward_hook(lambda module, args, out: plan.enter("words", out))]
        if self.family.block:
            plan.block = True
            block = self.base.get_submodule(self.family.block)
            hooks.append(block.register_forward_hook(lambda module, args, out: plan.enter(0, out)))
        modules.update({key: _Caller(layer, plan) for key, layer in layers.items()})
        try:
            yield
        finally:
            modules.update(layers)
            for hook in hooks:
                hook.remove()


def _head_dropout(config: Any) -> float:
    """The dropout before a family's output layer, or that of its hidden states."""
    names = ("dropout_rate", "classifier_dropout", "classifier_dropout_prob", "seq_classif_dropout",
             "hidden_dropout_prob", "dropout")  # fmt: skip
    return next((float(value) for name in names if (value := getattr(config, name, None)) is not None), 0.1)


def _repeat(value: Any, copies: int, rows: int) -> Any:
    """`copies` times the rows of a per-row tensor; anything else (None, a broadcast row) as it is."""
    if copies == 1 or not isinstance(value, Tensor) or value.dim() == 0 or value.shape[0] != rows:
        return value
    return value.repeat(copies, *[1] * (value.dim() - 1))


@contextmanager
def dropout_mode(mode: Dropout, *modules: nn.Module, device: torch.device) -> Iterator[None]:
    """`off`: the modules are in evaluation mode inside; `shared`: the generators are left as they were found."""
    if mode == "off":
        training = [module for module in modules if module.training]
        for module in training:
            module.eval()
        try:
            yield
        finally:
            for module in training:
                module.train()
    elif mode == "shared":
        with rng_kept(device):
            yield
    else:
        yield
