"""Inference throughput on real text: the evaluation pass of mtrobust against `Trainer.predict`, on the same weights.

    python scripts/bench/inference.py --model ENCODER --data_dir DATA [--tasks mrpc,mr] [--json FILE]
    python scripts/bench/inference.py --run RUN --data_dir DATA ...     # trained weights in place of fresh heads

Sides are processes that take turns, so that what else happens on the machine hits them alike. A turn is a pass over the
whole split: batches, forward, and the logits of all rows in their order; texts were tokenised before. A side is one of
- `trainer`: `Trainer.predict` with its defaults: batches of 8 in the order of the rows, each padded to its longest;
- `trainer:pad128`: the same with each text padded to the run's greatest length, run_glue's default (128);
- `ours`: what `mtrobust evaluate` and `predict` run: batches of similar lengths, of the size that the run has (64);
either with `:64` behind it for batches of that size, then with `:bf16` for bfloat16 autocast. `logit difference` is the
largest to the first side's logits; in float32 both sides must agree, or there is nothing to compare.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import Side, Turns, compared, machine, names, parser, report, take_turns

from mtrobust.config import TrainConfig
from mtrobust.errors import UserError
from mtrobust.evaluation.run_folder import Run, load_run
from mtrobust.tasks.taskdef import load_task_defs

SIDES = "trainer,trainer:pad128,trainer:64,trainer:bf16,ours,ours:bf16"
FORM = re.compile(r"(?P<who>trainer(?P<pad>:pad128)?|ours)(:(?P<batch>[1-9]\d*))?(?P<bf16>:bf16)?")
TOLERANCE = 1e-4  # between the logits of two sides in float32


def model_of(args: argparse.Namespace) -> Run:
    """The run, or the encoder with fresh heads for the tasks, in the form of one."""
    if args.run:
        return load_run(args.run, device="cpu")
    import torch
    from transformers import AutoTokenizer

    from mtrobust.models.multitask import MultiTaskModel

    defined = load_task_defs(args.task_def, args.tasks)
    tasks = {name: defined[name] for name in args.tasks if name in defined}
    config = TrainConfig(
        task_def=args.task_def, data_dir=args.data_dir, model_name_or_path=args.model, output_dir=Path("-")
    )
    torch.manual_seed(1)
    return Run(config, tasks, MultiTaskModel.from_encoder(config, tasks), AutoTokenizer.from_pretrained(args.model))


def planned(args: argparse.Namespace, folder: Path) -> dict[str, list[Side]]:
    """The sides of each task. Writes the weights twice: `ours`, and a folder per task as transformers loads it.

    Raises `UserError` for tasks, files or sides that do not exist.
    """
    faults = [f"--sides: {text}: must be trainer, trainer:pad128 or ours, then :BATCH, then :bf16"
              for text in args.sides if not FORM.fullmatch(text)]  # fmt: skip
    files = {name: args.data_dir / name / f"{args.split}.jsonl" for name in args.tasks}
    faults += [f"--data_dir: {file}: no such file; `mtrobust prep` writes it" for file in files.values()
               if not file.is_file()]  # fmt: skip
    if faults:
        raise UserError(faults)
    from mtrobust.models.export import export

    run = model_of(args)
    run.model.save_pretrained(folder / "ours", run.tokenizer)
    plan = {}
    for name, file in files.items():
        task = run.task(name)
        if task.task_type != "Classification":
            raise UserError(f"--tasks: {name}: is of type {task.task_type}; must be of type Classification")
        export(run, name, folder / name)
        settings = {
            "work": "predict", "task": name, "data_dir": str(args.data_dir), "split": args.split, "file": str(file),
            "length": task.max_len or run.config.max_seq_length,
        }  # fmt: skip
        plan[name] = [side_of(text, settings, folder, run.config.per_device_eval_batch_size) for text in args.sides]
    return plan


def side_of(text: str, settings: dict[str, Any], folder: Path, batch: int) -> Side:
    """The process of a side. batch: of ours where the name says none."""
    found = FORM.fullmatch(text)
    assert found
    ours = found["who"] == "ours"
    command = [__file__, "--as_side"] if ours else [str(Path(__file__).with_name("trainer_peer.py"))]
    size = int(found["batch"]) if found["batch"] else batch if ours else None
    own = {
        "model": str(folder / ("ours" if ours else settings["task"])), "batch": size, "bf16": bool(found["bf16"]),
        "pad": bool(found["pad"]),
        "logits": str(folder / f"{settings['task']}.{text.replace(':', '-')}.npy"),
    }  # fmt: skip
    return Side(text, [sys.executable, *command], {**settings, **own})


def work(settings: dict[str, Any]) -> None:
    """A side of ours, in its own process."""
    turns = Turns()
    from transformers import AutoTokenizer

    from mtrobust.data.collator import evaluation_batches
    from mtrobust.data.features import load_features
    from mtrobust.evaluation.evaluator import run_features
    from mtrobust.models.multitask import MultiTaskModel

    model, tokenizer = MultiTaskModel.load(Path(settings["model"])), AutoTokenizer.from_pretrained(settings["model"])
    task, data_dir = model.tasks[settings["task"]], Path(settings["data_dir"])
    cache = data_dir / ".features"
    features = load_features(task, settings["split"], data_dir, tokenizer, settings["length"], cache, training=False)
    collate = evaluation_batches(task, tokenizer)

    def run() -> np.ndarray:
        records = list(features)
        outputs = run_features(
            model, task, records, collate, batch_size=settings["batch"], device="cpu", bf16=settings["bf16"]
        )
        return np.stack([output["logits"] for output in outputs])

    np.save(settings["logits"], run())
    turns.next()
    while True:
        begun = time.perf_counter()
        run()
        turns.next(examples=len(features), seconds=time.perf_counter() - begun)


def measured(task: str, sides: list[Side], args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """The rows of the table for a task. Ends the script where two sides in float32 do not give the same logits."""
    records = take_turns(sides, args.rounds, args.threads, folder / f"{task}.sides")
    logits = {side.name: np.load(side.settings["logits"]) for side in sides}
    base, rows = logits[sides[0].name], []
    for side, row in zip(sides, compared(records, [sides[0].name]), strict=True):
        difference = float(np.abs(logits[side.name] - base).max())
        exact = not side.settings["bf16"] and not sides[0].settings["bf16"]
        if exact and not difference <= TOLERANCE:
            raise SystemExit(f"{task}: the logits of {side.name} and {sides[0].name} differ by {difference:.2g}")
        rows.append({"task": task, **row, "logit difference": difference})
    return rows


def main() -> None:
    """Prints one Markdown table."""
    if sys.argv[1:2] == ["--as_side"]:
        return work(json.loads(sys.argv[2]))
    flags = parser(__doc__, rounds=10, model=False)
    weights = flags.add_mutually_exclusive_group(required=True)
    weights.add_argument("--model", help="encoder, with fresh heads: a local folder, or a hub name")
    weights.add_argument("--run", type=Path, help="folder of a finished run")
    flags.add_argument("--data_dir", type=Path, required=True, help="folder with <task>/<split>.jsonl")
    flags.add_argument("--task_def", type=names, default=["glue", "textcls"], help="with --model: as of mtrobust train")
    flags.add_argument("--tasks", type=names, default=["mrpc"], help="tasks of type Classification (mrpc)")
    flags.add_argument("--split", default="dev", help="split of each task (dev)")
    flags.add_argument("--sides", type=names, default=names(SIDES), help=f"the first is the base ({SIDES})")
    args = flags.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        try:
            plan = planned(args, Path(folder))
        except UserError as error:
            print(error, file=sys.stderr)
            sys.exit(2)
        table = [row for task, sides in plan.items() for row in measured(task, sides, args, Path(folder))]
    args.model = args.model or args.run
    report(machine(args, split=args.split), table, args.json)


if __name__ == "__main__":
    main()
