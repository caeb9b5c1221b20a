"""What a training step of each method costs, as a multiple of a step of `standard`.

    python scripts/bench/methods.py --model ENCODER --data_dir DATA --task mr [--mlm FOLDER] [--methods rapt,smart]

A step is forward, backward, clipping and the optimiser, on the same real batch for all methods of a round; the methods
take turns within a round, so that what else happens on the machine hits them alike. Printed: the median over rounds of
the ratio to `standard` in the same round, with its quartiles, and the seconds of a step of `standard`.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median, quantiles

import torch
import transformers
from transformers import AutoTokenizer

from mtrobust.config import PerturbSpec, TrainConfig
from mtrobust.data.collator import Collator
from mtrobust.data.features import load_features
from mtrobust.models.multitask import MultiTaskModel
from mtrobust.perturb import METHODS, build_methods
from mtrobust.tasks.base import Batch
from mtrobust.tasks.taskdef import TaskDef, load_task_defs
from mtrobust.training.step import TrainStep


def batches(task: TaskDef, args: argparse.Namespace) -> Iterator[Batch]:
    """Batches of shuffled rows, grouped by length as in training."""
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    features = load_features(task, "train", args.data_dir, tokenizer, 128, args.data_dir / ".features", True)
    collate = Collator(task, tokenizer.pad_token_id)
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(0))
    pool = order[: args.batch * args.rounds * 4].tolist()
    pool.sort(key=lambda i: int(features.lengths[i]))
    groups = [pool[start : start + args.batch] for start in range(0, len(pool), args.batch)]
    for number, at in enumerate(torch.randperm(len(groups), generator=torch.Generator().manual_seed(1)).tolist()):
        batch = collate([features.row(i) for i in groups[at]], groups[at])
        batch.step = number
        yield batch


def seconds(step: TrainStep, optimizers: list[torch.optim.Optimizer], batch: Batch, bf16: bool) -> float:
    """One optimisation step."""
    start = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        loss = step(batch).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(step.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return time.perf_counter() - start


def steps_of(names: list[str], task: TaskDef, args: argparse.Namespace) -> dict[str, TrainStep]:
    """A step per method over one model, so that the weights of all stay in memory together."""
    config = TrainConfig(
        task_def=["-"], data_dir=args.data_dir, model_name_or_path=args.model, output_dir=Path("-"), seed=1
    )
    model = MultiTaskModel.from_encoder(config, {task.name: task}).train()
    made = {}
    for name in names:
        spec = PerturbSpec(name=name, options={"mlm": args.mlm} if name == "vda" else {})
        made[name] = TrainStep(model, build_methods([spec], {task.name: task}, model.encoder), seed=1).train()
    return made


def main() -> None:
    """Prints one Markdown table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--data_dir", type=Path, required=True)
    parser.add_argument("--task", default="mr")
    parser.add_argument("--mlm", help="masked language model for vda; without it vda is left out")
    parser.add_argument("--methods", help="comma-separated; default: all")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--bf16", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    wanted = args.methods.split(",") if args.methods else list(METHODS)
    names = ["standard", *(name for name in wanted if name != "standard" and (name != "vda" or args.mlm))]
    task = load_task_defs(["glue", "textcls", "squad"])[args.task]
    steps = steps_of(names, task, args)
    shared = torch.optim.AdamW(steps["standard"].model.parameters(), lr=1e-6, fused=True)
    own = {name: list(step.owned.parameters()) for name, step in steps.items()}
    optimizers = {name: [shared, *([torch.optim.AdamW(own[name], lr=1e-6)] if own[name] else [])] for name in names}
    times: dict[str, list[float]] = {name: [] for name in names}
    for number, batch in zip(range(args.rounds + 2), batches(task, args), strict=False):
        for turn in range(len(names)):
            name = names[(turn + number) % len(names)]
            taken = seconds(steps[name], optimizers[name], batch, args.bf16)
            if number >= 2:  # the first rounds warm up
                times[name].append(taken)
    load = os.getloadavg()[0]
    print(
        f"{platform.machine()}, {args.threads} threads, load {load:.1f}; torch {torch.__version__}, transformers "
        f"{transformers.__version__}; {Path(args.model).name}, {args.task}, batch {args.batch}, {args.rounds} rounds, "
        f"{'bfloat16' if args.bf16 else 'float32'}; a step of standard: {median(times['standard']):.3f} s (median)\n"
    )
    print("| method | step, multiple of standard | quartiles |")
    print("|---|---|---|")
    for name in names:
        ratios = [taken / base for taken, base in zip(times[name], times["standard"], strict=True)]
        low, _, high = quantiles(ratios, n=4)
        print(f"| `{name}` | {median(ratios):.2f} | {low:.2f} to {high:.2f} |")


if __name__ == "__main__":
    main()
