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
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import common
import naive
import torch
from inputs import batches, spec_of
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

from mtrobust.errors import UserError
from mtrobust.models.encoder import Encoder
from mtrobust.models.multitask import MultiTaskModel, load_encoder
from mtrobust.perturb import METHODS, build_methods
from mtrobust.tasks.base import Batch
from mtrobust.tasks.taskdef import TaskDef, load_task_defs
from mtrobust.training.step import TrainStep

WARM_UP = 2  # rounds that do not count


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


def config_of(args: argparse.Namespace) -> Any:
    """The encoder's configuration; with `--shape` of that many layers and that width."""
    config = AutoConfig.from_pretrained(args.model)
    if args.shape:
        layers, width = args.shape
        config.update({
            "num_hidden_layers": layers, "hidden_size": width, "intermediate_size": 4 * width,
            "num_attention_heads": width // 64,
        })  # fmt: skip
    return config


def plain_of(args: argparse.Namespace, task: TaskDef) -> Any:
    """The Hugging Face classifier of the same shape, for the plain way. Raises `UserError` where that does not fit."""
    config = config_of(args)
    if task.task_type != "Classification" or config.model_type != "bert":
        raise UserError(f"--naive: {task.name}, {config.model_type}: is written for Classification with BERT only")
    config.num_labels = len(task.labels)
    return AutoModelForSequenceClassification.from_config(config).train()


def sides_of(sides: list[str], task: TaskDef, args: argparse.Namespace) -> dict[str, TrainStep]:
    """A step per side over one model, so that the weights of all stay in memory together."""
    encoder = Encoder(AutoModel.from_config(config_of(args))) if args.shape else load_encoder(args.model)
    model = MultiTaskModel(encoder, {task.name: task}).train()
    made = {}
    for side in sides:
        methods = build_methods([spec_of(side, args.mlm, "--methods")], {task.name: task}, model.encoder)
        made[side] = TrainStep(model, methods, seed=1).train()
    return made


def shape(text: str) -> tuple[int, int]:
    """`12x768` as (12, 768); the width must be a multiple of 64, the width of a head."""
    layers, _, width = text.partition("x")
    if not (layers.isdecimal() and width.isdecimal() and int(layers) and int(width) and int(width) % 64 == 0):
        raise argparse.ArgumentTypeError(f"{text}: must be LAYERSxWIDTH, the width a multiple of 64")
    return int(layers), int(width)


def arguments() -> argparse.Namespace:
    """The flags."""
    parser = common.parser(__doc__, rounds=15)
    parser.add_argument("--data_dir", type=Path, required=True)
    parser.add_argument("--task", default="mr")
    parser.add_argument("--mlm", help="masked language model for vda; without it vda is left out")
    parser.add_argument("--methods", type=common.names, default=list(METHODS), help="comma-separated; default: all")
    parser.add_argument(
        "--shape", type=shape, help="LAYERSxWIDTH: an encoder of that shape with random weights, such as 12x768"
    )
    parser.add_argument("--batch", type=common.positive, default=16)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--naive", action="store_true", help="time the plain way of writing a method too")
    return parser.parse_args()


Turn = tuple[str, Callable[[Batch], torch.Tensor], list[Any], list[Any]]  # name, loss, parameters, optimizers


def turns_of(steps: dict[str, TrainStep], plain: Any, mlm: str | None) -> list[Turn]:
    """What takes turns: our steps, and with `plain` the plain ways of those methods that have one."""
    model = steps["standard"].model
    shared, made = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True), []
    for side, step in steps.items():
        own = list(step.owned.parameters())
        optimizers = [shared, *([torch.optim.AdamW(own, lr=1e-6)] if own else [])]
        made.append((side, lambda batch, step=step: step(batch).loss, list(step.parameters()), optimizers))
    if plain is None:
        return made
    naive.prepare(plain, {side.partition("+")[0] for side in steps}, mlm)
    optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-6, fused=True)
    for side in steps:
        loss = naive.losses.get(side.partition("+")[0])
        if loss is not None:
            run = lambda batch, loss=loss: loss(plain, batch.inputs, batch.targets["labels"])  # noqa: E731
            made.append((f"naive {side}", run, list(plain.parameters()), [optimizer]))
    return made


def timed(turns: list[Turn], found: Iterator[Batch], bf16: bool) -> dict[str, list[float]]:
    """Seconds of each step by side; every batch is a round, in which all have their turn."""
    times: dict[str, list[float]] = {name: [] for name, *_ in turns}
    for number, batch in enumerate(found):
        for place in range(len(turns)):
            name, run, parameters, optimizers = turns[(place + number) % len(turns)]
            taken = seconds(lambda run=run, batch=batch: run(batch), parameters, optimizers, bf16)
            if number >= WARM_UP:
                times[name].append(taken)
    return times


def main() -> None:
    """Prints one table."""
    args = arguments()
    torch.set_num_threads(args.threads)
    sides = [name for name in dict.fromkeys(["standard", *args.methods]) if name != "vda" or args.mlm]
    shipped = load_task_defs(["glue", "textcls", "squad"])
    try:
        if args.task not in shipped:
            raise UserError(f"--task: {args.task}: not shipped (allowed: {', '.join(shipped)})")
        task = shipped[args.task]
        steps = sides_of(sides, task, args)
        turns = turns_of(steps, plain_of(args, task) if args.naive else None, args.mlm)
        found = batches(task, args.model, args.data_dir, args.batch, args.rounds + WARM_UP)
        times = timed(turns, found, args.bf16)
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    rows = []
    for side, step in steps.items():
        row: dict[str, Any] = {"method": side, "of standard": common.spread(times[side], times["standard"])}
        row["bound"] = step.methods[task.name].cost(step.model.encoder.num_layers).compute
        if f"naive {side}" in times:
            row["naive of ours"] = common.spread(times[f"naive {side}"], times[side])
        rows.append(row)
    facts = common.machine(args, task=args.task, batch=args.batch, precision="bfloat16" if args.bf16 else "float32")
    facts |= {"layers": step.model.encoder.num_layers, "width": step.model.encoder.hidden_size}
    common.report(facts | {"standard_seconds": round(median(times["standard"]), 4)}, rows, args.json)


if __name__ == "__main__":
    main()
