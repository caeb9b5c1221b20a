"""Whether the fast way trains as well as the plain one: dev metrics of both over several seeds.

    python scripts/bench/accuracy.py --model ENCODER --data_dir DATA --out DIR [--tasks mrpc,cola]

The plain way is a Hugging Face classifier with the losses of `naive.py`: whole passes, every token, PyTorch's own
dropout masks, batches of random rows padded to the longest, nothing shared. The fast way is `mtrobust train`. Both take
as many rows and steps, one learning rate and schedule, float32, the CPU. From one seed they draw other rows (of
`--rows`), masks, heads and batches, so only the distributions over seeds can agree. A finished cell is not run again:
`--out` keeps one file each.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import common
import naive
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, get_linear_schedule_with_warmup

from mtrobust.config import PerturbSpec, TrainConfig
from mtrobust.data.collator import Collator, evaluation_batches
from mtrobust.data.features import load_features
from mtrobust.errors import UserError
from mtrobust.tasks.metrics import METRICS
from mtrobust.tasks.taskdef import TaskDef, load_task_defs

LENGTH = 128
SAME = ("standard", "rpt", "rapt", "vat", "jacobian")  # whose plain way is the same method at its defaults


def config_of(args: argparse.Namespace, task: TaskDef, method: str, seed: int, folder: Path) -> TrainConfig:
    """What the fast way runs, and where the plain way takes its numbers from."""
    return TrainConfig(
        task_def=args.task_def, data_dir=args.data_dir, train_tasks=[task.name], max_train_samples=args.rows,
        max_seq_length=LENGTH, model_name_or_path=args.model, output_dir=folder / "run", learning_rate=args.lr,
        num_train_epochs=args.epochs, per_device_train_batch_size=args.batch, seed=seed, progress="off", use_cpu=True,
        save_steps=10**6, perturb=[PerturbSpec(name=method)],
    )  # fmt: skip


def fast(config: TrainConfig, task: TaskDef) -> dict[str, float]:
    """Dev metrics of `mtrobust train`."""
    from mtrobust.training.run import train

    return {key: value for key, value in train(config)[task.name].items() if key in keys(task)}


def plain(config: TrainConfig, task: TaskDef, method: str) -> dict[str, float]:
    """Dev metrics of the plain way."""
    torch.manual_seed(config.seed)
    random.seed(config.seed)
    tokenizer = AutoTokenizer.from_pretrained(config.model_name_or_path)
    model = AutoModelForSequenceClassification.from_pretrained(
        config.model_name_or_path, num_labels=len(task.labels), dtype=torch.float32
    )
    features = {
        split: load_features(task, split, config.data_dir, tokenizer, LENGTH, config.data_dir / ".features", training)
        for split, training in (("train", True), ("dev", False))
    }
    collate, size = Collator(task, tokenizer.pad_token_id), config.per_device_train_batch_size
    chosen = random.sample(
        range(len(features["train"])), min(config.max_train_samples or 10**9, len(features["train"]))
    )
    steps = -(-len(chosen) // size) * int(config.num_train_epochs)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=0.0)
    schedule = get_linear_schedule_with_warmup(optimizer, round(steps * config.warmup_ratio), steps)
    model.train()
    for _ in range(int(config.num_train_epochs)):
        random.shuffle(chosen)
        for start in range(0, len(chosen), size):
            rows = chosen[start : start + size]
            batch = collate([features["train"].row(i) for i in rows], rows)
            naive.losses[method](model, batch.inputs, batch.targets["labels"]).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    return scores(model.eval(), task, tokenizer, features["dev"])


@torch.no_grad()
def scores(model: Any, task: TaskDef, tokenizer: Any, features: Any) -> dict[str, float]:
    """The task's metrics over all rows, in percent."""
    collate, predicted, gold = evaluation_batches(task, tokenizer), [], []
    for start in range(0, len(features), 64):
        rows = list(range(start, min(start + 64, len(features))))
        batch = collate([features.row(i) for i in rows])
        predicted += model(**batch.inputs).logits.argmax(-1).tolist()
        gold += batch.targets["labels"].tolist()
    found: dict[str, float] = {}
    for name in task.metric_meta:
        found |= METRICS[name](gold, predicted)
    return {key: value for key, value in found.items() if key in keys(task)}


def keys(task: TaskDef) -> list[str]:
    """The entries of the results that stand for the task's metrics."""
    return [METRICS[name].key for name in task.metric_meta if METRICS[name].key]


def cell(side: str, method: str, task: TaskDef, seed: int, args: argparse.Namespace) -> dict[str, float]:
    """The metrics of one run; kept in a file, and read from there the next time."""
    facts = (side, Path(args.model).name, task.name, method, seed, args.rows, args.epochs, args.batch, f"{args.lr:g}")
    path = args.out / f"{'-'.join(map(str, facts))}.json"
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        config = config_of(args, task, method, seed, Path(folder))
        found = fast(config, task) if side == "fast" else plain(config, task, method)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(found), encoding="utf-8")
    part.rename(path)
    print(f"{side} {task.name} {method} seed {seed}: {found}", file=sys.stderr)
    return found


def planned(args: argparse.Namespace) -> list[TaskDef]:
    """The tasks. Raises `UserError` for tasks and methods that cannot be compared."""
    defined = load_task_defs(args.task_def)
    faults = [f"--tasks: {name}: must be one of {', '.join(defined)}" for name in args.tasks if name not in defined]
    faults += [f"--tasks: {name}: is of type {defined[name].task_type}; must be of type Classification"
               for name in args.tasks if name in defined and defined[name].task_type != "Classification"]  # fmt: skip
    faults += [f"--tasks: {name}: {metric} is not compared; must have metrics of predicted classes (--task_def)"
               for name in args.tasks if name in defined and defined[name].task_type == "Classification"
               for metric in defined[name].metric_meta if METRICS[metric].reads != "class"]  # fmt: skip
    faults += [f"--methods: {name}: must be one of {', '.join(SAME)}, at their defaults"
               for name in args.methods if name not in SAME]  # fmt: skip
    if faults:
        raise UserError(faults)
    return [defined[name] for name in args.tasks]


def summary(values: list[float]) -> str:
    """Mean and sample standard deviation."""
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


def main() -> None:
    """Prints one table."""
    flags = common.parser(__doc__, rounds=None)
    flags.add_argument("--data_dir", type=Path, required=True, help="folder with <task>/train.jsonl and dev.jsonl")
    flags.add_argument("--out", type=Path, required=True, help="where each finished run leaves its metrics")
    flags.add_argument("--task_def", type=common.names, default=["glue", "textcls"], help="as of mtrobust train")
    flags.add_argument("--tasks", type=common.names, default=["mrpc", "cola"])
    flags.add_argument("--methods", type=common.names, default=["standard", "rapt"], help=f"of {', '.join(SAME)}")
    flags.add_argument("--seeds", type=common.positive, default=3, help="1 to this number (3)")
    flags.add_argument("--rows", type=common.positive, default=10**6, help="training rows, drawn by the seed (all)")
    flags.add_argument("--epochs", type=common.positive, default=3)
    flags.add_argument("--batch", type=common.positive, default=16)
    flags.add_argument("--lr", type=float, default=5e-5)
    args = flags.parse_args()
    torch.set_num_threads(args.threads)
    try:
        tasks = planned(args)
        args.out.mkdir(parents=True, exist_ok=True)
        rows: list[dict[str, Any]] = []
        for task in tasks:
            for method in args.methods:
                runs = {side: [cell(side, method, task, seed + 1, args) for seed in range(args.seeds)]
                        for side in ("plain", "fast")}  # fmt: skip
                for name in keys(task):
                    values = {side: [run[name] for run in found] for side, found in runs.items()}
                    row = {"task": task.name, "method": method, "metric": name}
                    rows.append(row | {side: summary(found) for side, found in values.items()} | {"runs": [values]})
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    common.report(common.machine(args, training_rows=args.rows, epochs=args.epochs, lr=args.lr), rows, args.json)


if __name__ == "__main__":
    main()
