"""What a training step of each method costs, as a multiple of a step of `standard`.

    python scripts/bench/methods.py --model ENCODER --data_dir DATA --task mr [--mlm FOLDER] [--methods rapt,smart]

A step is forward, backward, clipping and the optimiser, on the same real batch for all methods of a round; the methods
take turns within a round, so that what else happens on the machine hits them alike. Printed: the median over rounds of
the ratio to `standard` in the same round, with its quartiles; the bound, which is the arithmetic of the layers; and
for some methods what the plain way of writing them takes (`naive.py`), as a multiple of our step of the same method.
A name may carry options: `smart+inner_bf16=true`, `rapt+layers=1-3`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import common
import naive
import torch
import yaml
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from mtrobust.config import PerturbSpec
from mtrobust.data.collator import Collator
from mtrobust.data.features import load_features
from mtrobust.models.encoder import Encoder
from mtrobust.models.multitask import MultiTaskModel, load_encoder
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


def seconds(loss: Callable[[], torch.Tensor], parameters: list[Any], optimizers: list[Any], bf16: bool) -> float:
    """One optimisation step."""
    start = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        value = loss()
    value.backward()
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return time.perf_counter() - start


def spec_of(side: str, mlm: str | None) -> PerturbSpec:
    """`name+option=value+…` as the command line would have it; values are YAML."""
    name, *options = side.split("+")
    given = {key: yaml.safe_load(value) for key, _, value in (option.partition("=") for option in options)}
    return PerturbSpec(name=name, options={**({"mlm": mlm} if name == "vda" else {}), **given})


def encoder_of(args: argparse.Namespace) -> Encoder:
    """The encoder; with `--shape` one of that many layers and that width with random weights."""
    if not args.shape:
        return load_encoder(args.model)
    layers, width = map(int, args.shape.split("x"))
    config = AutoConfig.from_pretrained(args.model)
    config.update({
        "num_hidden_layers": layers, "hidden_size": width, "intermediate_size": 4 * width,
        "num_attention_heads": width // 64,
    })  # fmt: skip
    return Encoder(AutoModel.from_config(config))


def sides_of(sides: list[str], task: TaskDef, args: argparse.Namespace) -> dict[str, TrainStep]:
    """A step per side over one model, so that the weights of all stay in memory together."""
    model = MultiTaskModel(encoder_of(args), {task.name: task}).train()
    made = {}
    for side in sides:
        methods = build_methods([spec_of(side, args.mlm)], {task.name: task}, model.encoder)
        made[side] = TrainStep(model, methods, seed=1).train()
    return made


def arguments() -> argparse.Namespace:
    """The flags."""
    parser = common.parser(__doc__, rounds=15)
    parser.add_argument("--data_dir", type=Path, required=True)
    parser.add_argument("--task", default="mr")
    parser.add_argument("--mlm", help="masked language model for vda; without it vda is left out")
    parser.add_argument("--methods", help="comma-separated; default: all")
    parser.add_argument("--shape", help="LAYERSxWIDTH: an encoder of that shape with random weights, such as 12x768")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--naive", action="store_true", help="time the plain way of writing a method too")
    return parser.parse_args()


def main() -> None:
    """Prints one table."""
    args = arguments()
    torch.set_num_threads(args.threads)
    wanted = args.methods.split(",") if args.methods else list(METHODS)
    sides = ["standard", *(name for name in wanted if name != "standard" and (name != "vda" or args.mlm))]
    task = load_task_defs(["glue", "textcls", "squad"])[args.task]
    steps = sides_of(sides, task, args)
    model = steps["standard"].model
    shared = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)
    plain = AutoModelForSequenceClassification.from_pretrained(args.model).train() if args.naive else None
    times: dict[str, list[float]] = {}
    turns: list[tuple[str, Callable[[Batch], torch.Tensor], list[Any], list[Any]]] = []
    for side, step in steps.items():
        own = list(step.owned.parameters())
        optimizers = [shared, *([torch.optim.AdamW(own, lr=1e-6)] if own else [])]
        turns.append((side, lambda batch, step=step: step(batch).loss, list(step.parameters()), optimizers))
    if plain is not None:
        optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-6, fused=True)
        for side in sides:
            loss = naive.losses.get(side.partition("+")[0])
            if loss is not None:
                run = lambda batch, loss=loss: loss(plain, batch.inputs, batch.targets["labels"])  # noqa: E731
                turns.append((f"naive {side}", run, list(plain.parameters()), [optimizer]))
    for number, batch in zip(range(args.rounds + 2), batches(task, args), strict=False):
        for turn in range(len(turns)):
            name, run, parameters, optimizers = turns[(turn + number) % len(turns)]
            taken = seconds(lambda run=run, batch=batch: run(batch), parameters, optimizers, args.bf16)
            if number >= 2:  # the first rounds warm up
                times.setdefault(name, []).append(taken)
    rows = []
    for side, step in steps.items():
        row: dict[str, Any] = {"method": side, **common.spread(times[side], times["standard"])}
        row["bound"] = step.methods[task.name].cost(model.encoder.num_layers).compute
        if f"naive {side}" in times:
            row["naive"] = common.spread(times[f"naive {side}"], times[side])["ratio"]
        rows.append(row)
    facts = common.machine(args, task=args.task, batch=args.batch, shape=args.shape or "its own")
    facts |= {"precision": "bfloat16" if args.bf16 else "float32"}
    common.report(facts | {"standard_seconds": round(median(times["standard"]), 4)}, rows, args.json)


if __name__ == "__main__":
    main()
