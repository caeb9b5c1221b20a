"""What a training step keeps in memory for its backward pass: `rapt` at every layer against two whole passes, and all
methods as multiples of `standard`.

    python scripts/bench/memory.py --model ENCODER --data_dir DATA --task mr [--mlm FOLDER] [--methods rapt,smart]

Counted are the storages that autograd saves, each once and for as long as it is held; parameters, buffers and the batch
are not. The most that is held at any time of a step is its figure. The two passes are a clean and a noisy one from the
tokens to the loss, written without the toolkit's passes. Batches are those of a run, one per round, of different
lengths; MiB are medians over them, `of two passes` is the largest ratio, `of standard` the median (always to `standard`
without checkpointing). Not counted: what operations need while they run; gradients (`freelb` holds one more of each
weight); under gradient checkpointing, what one layer at a time computes again on the way back.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from common import machine, names, parser, positive, report
from inputs import batches
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from mtrobust.config import PerturbSpec, TrainConfig
from mtrobust.errors import UserError
from mtrobust.models.multitask import MultiTaskModel, enable_checkpointing
from mtrobust.perturb import METHODS, build_methods
from mtrobust.perturb.divergence import get_divergence
from mtrobust.tasks.base import Batch, HeadInput
from mtrobust.tasks.taskdef import TaskDef, load_task_defs
from mtrobust.training.step import TrainStep

MIB = 2**20


class Saved:
    """Counts inside its context the bytes that are kept for a backward pass. known: tensors that do not count.

    live: kept now; peak: the most so far.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        self.known = {tensor.untyped_storage().data_ptr() for tensor in known}
        self.live = self.peak = 0
        self._users: Counter[int] = Counter()
        self._hooks = saved_tensors_hooks(lambda tensor: _Held(self, tensor), lambda held: held.tensor)

    def __enter__(self) -> Saved:
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._hooks.__exit__(*error)

    def use(self, tensor: Tensor, change: int) -> None:
        """One more (1) or one less (-1) saved view of a tensor's storage."""
        storage = tensor.untyped_storage()
        key = storage.data_ptr()
        if key in self.known:
            return
        before, self._users[key] = self._users[key], self._users[key] + change
        if not before or not self._users[key]:
            self.live += change * storage.nbytes()
            self.peak = max(self.peak, self.live)


class _Held:
    """A saved tensor; the graph drops it when it needs it no more."""

    def __init__(self, saved: Saved, tensor: Tensor) -> None:
        self.saved, self.tensor = saved, tensor
        saved.use(tensor, 1)

    def __del__(self) -> None:
        self.saved.use(self.tensor, -1)


def kept(model: nn.Module, batch: Batch, loss: Callable[[], Tensor]) -> int:
    """Bytes at the peak of one forward and backward pass."""
    tensors = [*model.parameters(), *model.buffers(), *batch.inputs.values(), *batch.targets.values(), batch.row_ids]
    with Saved(tensors) as saved:
        loss().backward()
    model.zero_grad(set_to_none=True)
    return saved.peak


def two_passes(model: MultiTaskModel, batch: Batch) -> Tensor:
    """The loss of a clean and a noisy pass, both whole. Where the noise enters makes no difference to what is kept."""
    head: Any = model.heads[batch.task]

    def whole(size: float) -> dict[str, Tensor]:
        noise = model.encoder.word_embeddings.register_forward_hook(
            lambda module, args, out: out + size * torch.randn_like(out)
        )
        with noise:
            out = model.encoder.base(**batch.inputs)
        return head(HeadInput(out.last_hidden_state, getattr(out, "pooler_output", None)), batch)

    clean, noisy = whole(0.0), whole(1e-2)
    pairs = zip(head.views(clean, batch), head.views(noisy, batch), strict=True)
    differences = [get_divergence("kl")(a.logits, b.logits, support=a.support).mean() for a, b in pairs]
    return head.loss(clean, batch).mean() + sum(differences)


def bound(site: int, layers: int) -> float:
    """What `rapt` at a site may keep at most, of what two passes keep: the layers above it twice, those below once, and
    a twentieth more."""
    return (2 - site / layers) / 2 * 1.05


@dataclass
class Bench:
    """One model and task, over which the steps of all methods are made."""

    model: MultiTaskModel
    task: TaskDef

    def step(self, name: str, **options: Any) -> TrainStep:
        """The step of a method."""
        tasks = {self.task.name: self.task}
        methods = build_methods([PerturbSpec(name=name, options=options)], tasks, self.model.encoder)
        return TrainStep(self.model, methods, seed=1).train()

    def of(self, batch: Batch, name: str, **options: Any) -> int:
        """Bytes that a method's step keeps."""
        step = self.step(name, **options)
        return kept(step, batch, lambda: step(batch).loss)

    def rapt(self, batches: list[Batch]) -> list[dict[str, Any]]:
        """A row for each layer that `rapt` can be at."""
        layers = self.model.encoder.num_layers
        pairs = [kept(self.model, batch, lambda batch=batch: two_passes(self.model, batch)) for batch in batches]
        rows = []
        for site in range(layers):
            found = [self.of(batch, "rapt", layers=site) for batch in batches]
            ratio = max(one / pair for one, pair in zip(found, pairs, strict=True))
            rows.append(
                {
                    "step": f"rapt, layer {site} of {layers}",
                    "MiB": median(found) / MIB,
                    "of two passes": ratio,
                    "bound": bound(site, layers),
                    "within": "yes" if ratio <= bound(site, layers) else "no",
                }
            )
        return [{"step": "two passes", "MiB": median(pairs) / MIB, "of two passes": 1.0}, *rows]

    def methods(self, batches: list[Batch], chosen: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
        """A row for each method at its defaults, as a multiple of `standard`, without and with checkpointing."""
        rows, base = [], [self.of(batch, "standard") for batch in batches]
        again = self.model.encoder.family.checkpointing
        for checkpointing in [False, True] if again else [False]:
            if checkpointing:
                enable_checkpointing(self.model.encoder)
            for name, options in chosen.items():
                found = [self.of(batch, name, **options) for batch in batches]
                ratio = median(one / other for one, other in zip(found, base, strict=True))
                label = f"{name}, gradient checkpointing" if checkpointing else name
                rows.append({"step": label, "MiB": median(found) / MIB, "of standard": ratio})
        return rows


def load(args: argparse.Namespace) -> tuple[Bench, list[Batch]]:
    """The model, and one batch per round. Raises `UserError` for a task that is not shipped."""
    shipped = load_task_defs(["glue", "textcls", "squad"])
    if args.task not in shipped:
        raise UserError(f"--task: {args.task}: not shipped (allowed: {', '.join(shipped)})")
    task = shipped[args.task]
    config = TrainConfig(task_def=["-"], data_dir=args.data_dir, model_name_or_path=args.model, output_dir=Path("-"))
    torch.manual_seed(1)
    model = MultiTaskModel.from_encoder(config, {task.name: task}).train()
    return Bench(model, task), list(batches(task, args.model, args.data_dir, args.batch, args.rounds))


def main() -> None:
    """Prints one table."""
    flags = parser(__doc__, rounds=3)
    flags.add_argument("--data_dir", type=Path, required=True)
    flags.add_argument("--task", default="mr", help="a shipped task (mr)")
    flags.add_argument("--mlm", help="masked language model for vda; without it vda is left out")
    flags.add_argument("--methods", type=names, default=list(METHODS), help="comma-separated; default: all")
    flags.add_argument("--batch", type=positive, default=16, help="rows of a batch (16)")
    args = flags.parse_args()
    torch.set_num_threads(args.threads)
    wanted = [name for name in dict.fromkeys(["standard", *args.methods]) if name != "vda" or args.mlm]
    chosen: dict[str, dict[str, Any]] = {name: {"mlm": args.mlm} if name == "vda" else {} for name in wanted}
    try:
        bench, made = load(args)
        table = bench.rapt(made) + bench.methods(made, chosen)
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    facts = machine(args, task=args.task, batch=args.batch, tokens=[list(b.inputs["input_ids"].shape) for b in made])
    report(facts, table, args.json)


if __name__ == "__main__":
    main()
