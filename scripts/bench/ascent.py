"""How far the direction of an adversarial step can be trusted, on a trained model and real rows.

    python scripts/bench/ascent.py --run RUN --data_dir DATA --tasks mr,squad

For `smart` and `vat`, in training mode with shared dropout masks, prints for each task, the median over batches of
- the cosine between the inner gradient in float32 (and in bfloat16 autocast) and the one in float64, at several starts;
- the divergence at the noise that the method ends with, over that of random noise of the same norm per token (float64).
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import AutoTokenizer

from mtrobust.data.collator import Collator
from mtrobust.data.features import load_features
from mtrobust.evaluation.run_folder import load_config
from mtrobust.models.multitask import MultiTaskModel
from mtrobust.perturb import METHODS, Passes
from mtrobust.perturb.noise import KeyedNoise, unit_l2
from mtrobust.tasks.base import Batch


def batches(run: Path, data_dir: Path, model: MultiTaskModel, task: str, count: int, size: int) -> Iterator[Batch]:
    """The first batches of training rows, shuffled by a fixed seed."""
    config, tokenizer = load_config(run), AutoTokenizer.from_pretrained(run / "model")
    definition = model.tasks[task]
    features = load_features(
        definition, "train", data_dir, tokenizer, config.max_seq_length, data_dir / ".features", True
    )
    collate = Collator(definition, tokenizer.pad_token_id)
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(0)).tolist()
    for number in range(count):
        rows = order[size * number : size * number + size]
        batch = collate([features.row(i) for i in rows], rows)
        batch.step = number
        yield batch


def in_double(batch: Batch) -> Batch:
    """The batch with its real-valued targets in float64."""
    targets = {k: v.double() if v.is_floating_point() else v for k, v in batch.targets.items()}
    return Batch(batch.task, batch.inputs, targets, batch.row_ids, batch.step)


def gradient(model: MultiTaskModel, batch: Batch, name: str, options: dict[str, Any], bf16: bool) -> torch.Tensor:
    """The inner gradient at the method's own start, [B, T, width], with the masks of seed 0."""
    method = METHODS[name](METHODS[name].Options(**options), model.encoder)
    passes = Passes(model.encoder, model.heads[batch.task], batch, KeyedNoise(1), method.needs)
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        hidden = passes.h(0)
        return method.gradient(passes, 0, method.start(passes, 0, hidden)).double()


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    """Over all entries of a batch."""
    return float((a * b).sum() / (a.norm() * b.norm()))


def advantage(model: MultiTaskModel, batch: Batch, name: str) -> float:
    """Divergence at the found noise over that at random noise of the same norm per token."""
    method = METHODS[name](METHODS[name].Options(), model.encoder)
    passes = Passes(model.encoder, model.heads[batch.task], batch, KeyedNoise(1), method.needs)
    torch.manual_seed(0)
    hidden = passes.h(0).detach()
    found = method.found(passes, 0, hidden).detach()
    drawn = unit_l2(passes.draw("other", hidden), passes.noise_mask) * found.norm(dim=-1, keepdim=True)
    values = [float(method.inner(passes, passes.at(0, hidden + d, dropout="shared")).detach()) for d in (found, drawn)]
    return values[0] / values[1]


STARTS: dict[str, list[dict[str, Any]]] = {
    "smart": [{}, *({"noise_std": size} for size in (1e-5, 1e-4, 1e-3, 1e-2, 1e-1))],
    "vat": [{}, *({"start": size} for size in (1e-3, 1e-2, 1e-1, 1.0))],
}


def main() -> None:
    """Prints one Markdown table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--data_dir", type=Path, required=True)
    parser.add_argument("--tasks", required=True)
    parser.add_argument("--batches", type=int, default=6)
    parser.add_argument("--rows", type=int, default=8, help="rows of a batch")
    parser.add_argument("--starts", choices=["default", "all"], default="all", help="default: the methods' own only")
    args = parser.parse_args()
    model = MultiTaskModel.load(args.run / "model").train()
    double = copy.deepcopy(model).double().train()
    print("| task | method | start | cosine float32 | cosine bfloat16 | adversarial over random |")
    print("|---|---|---|---|---|---|")
    for task in args.tasks.split(","):
        found = list(batches(args.run, args.data_dir, model, task, args.batches, args.rows))
        for name, starts in STARTS.items():
            for options in starts if args.starts == "all" else [{}]:
                pairs = [[], []]
                for batch in found:
                    exact = {bf16: gradient(double, in_double(batch), name, as_run(name, options, bf16), False)
                             for bf16 in (False, True)}  # fmt: skip
                    for bf16 in (False, True):
                        pairs[bf16].append(cosine(gradient(model, batch, name, options, bf16), exact[bf16]))
                ratio = "" if options else f"{median(advantage(double, in_double(b), name) for b in found):.1f}"
                start = json.dumps(next(iter(options.values()), "default"))
                print(f"| {task} | {name} | {start} | {median(pairs[0]):.3f} | {median(pairs[1]):.3f} | {ratio} |")


def as_run(name: str, options: dict[str, Any], bf16: bool) -> dict[str, Any]:
    """The options that the start has in a run of a precision, written out."""
    method = METHODS[name]
    key = {"smart": "noise_std", "vat": "start"}[name]
    return {key: options[key]} if key in options else {key: method.start_size(method.Options(), bf16)}


if __name__ == "__main__":
    main()
