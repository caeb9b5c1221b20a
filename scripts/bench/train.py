"""Training throughput on real text: the training loop of mtrobust against that of `transformers.Trainer`.

    python scripts/bench/train.py --model ENCODER --data_dir DATA [--tasks mrpc,mr] [--methods rapt,smart] [--json FILE]

Sides are processes that take turns, so that what else happens on the machine hits them alike. Each runs its own whole
loop (`mtrobust train` or `Trainer.train()`) on the same rows and stops after every `--chunk` steps until its next turn;
the time of a turn is that of its steps: no start, evaluation, checkpoint or logging. A side is one of
- `trainer:pad128` and `trainer:dynamic`: Trainer with each text padded to 128 tokens (run_glue's default), or to the
  longest of its batch;
- a method's name, with options as in `smart+inner_bf16=true` or `rapt+layers=2+eta=1`;
either with `:bf16` behind it for bfloat16 autocast. All sides cut texts at 128 tokens and run on the CPU.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from common import Chunks, Side, Turns, compared, machine, names, parser, positive, report, take_turns
from inputs import spec_of

from mtrobust.config import TrainConfig
from mtrobust.data.rows import iter_rows
from mtrobust.errors import UserError
from mtrobust.tasks.taskdef import TaskDef, load_task_defs

SIDES = "trainer:pad128,trainer:dynamic,trainer:pad128:bf16,standard,standard:bf16"
BASES = ("trainer:pad128", "trainer:dynamic")  # that the others are compared with
LENGTH = 128  # tokens at which every side cuts
WARM_UP = 1  # rounds that do not count


def side_of(text: str, args: argparse.Namespace) -> tuple[list[str], dict[str, Any]]:
    """The command of a side and its own settings. Raises `UserError` for a name or options that do not exist."""
    name, flag = text.removesuffix(":bf16"), "--sides" if text in args.sides else "--methods"
    if name.partition(":")[0] == "trainer":
        if name not in BASES:
            raise UserError(f"{flag}: {text}: must be {' or '.join(BASES)}, each with or without :bf16")
        command = [sys.executable, str(Path(__file__).with_name("trainer_peer.py"))]
        return command, {"work": "train", "pad": name == "trainer:pad128", "bf16": name != text}
    perturb = [spec_of(name, args.mlm, flag).model_dump(mode="json")]
    return [sys.executable, __file__, "--as_side"], {"perturb": perturb, "bf16": name != text}


def work(settings: dict[str, Any]) -> None:
    """A side of ours, in its own process: the whole of `train`, in turns."""
    turns = Turns()
    from mtrobust.training.run import train

    chunks = Chunks(turns, settings["chunk"], settings["batch"])
    config = TrainConfig(
        task_def=settings["task_def"],
        data_dir=settings["data_dir"],
        train_tasks=[settings["task"]],
        max_train_samples=settings["rows"],
        max_seq_length=settings["length"],
        model_name_or_path=settings["model"],
        perturb=settings["perturb"],
        output_dir=Path(settings["folder"]) / "run",
        bf16=settings["bf16"],
        per_device_train_batch_size=settings["batch"],
        max_steps=settings["steps"],
        eval_steps=settings["steps"],
        save_steps=settings["steps"],
        logging_steps=settings["steps"],
        progress="off",
        use_cpu=True,
    )
    train(config, lambda kind, step: chunks.step() if kind == "step" else None)


def task_of(name: str, defined: dict[str, TaskDef], args: argparse.Namespace) -> dict[str, Any]:
    """The settings of a task that all sides have. Raises `UserError` for one that the peer cannot do as we do.

    rows: how many training rows both take, a multiple of the batch, so that each step has as many.
    """
    if name not in defined:
        raise UserError(f"--tasks: {name}: must be one of {', '.join(defined)}")
    task, file = defined[name], args.data_dir / name / "train.jsonl"
    if task.task_type != "Classification":
        raise UserError(f"--tasks: {name}: is of type {task.task_type}; must be of type Classification")
    if task.max_len not in (None, LENGTH):
        raise UserError(f"--tasks: {name}: cuts texts at max_len {task.max_len}; must cut at {LENGTH}")
    if not file.is_file():
        raise UserError(f"--data_dir: {file}: no such file; `mtrobust prep` writes it")
    labels = [row.get("label") for row in iter_rows(task, file)]
    if None in labels:
        raise UserError(f"--tasks: {name}: {file} has rows without a label; each must have one")
    if len(labels) < args.batch:
        raise UserError(f"--batch: {args.batch}: {file} has {len(labels)} rows; must be at most that")
    return {"task": name, "file": str(file), "rows": len(labels) // args.batch * args.batch}


def planned(args: argparse.Namespace) -> dict[str, list[Side]]:
    """The sides of each task. Raises `UserError` with all that is wrong, before anything starts."""
    faults: list[str] = []
    defined = load_task_defs(args.task_def, args.tasks)
    tasks = each(args.tasks, lambda name: task_of(name, defined, args), faults)
    sides = each([*args.sides, *args.methods], lambda text: side_of(text, args), faults)
    if faults:
        raise UserError(faults)
    shared = {
        "model": args.model, "data_dir": str(args.data_dir), "task_def": args.task_def, "length": LENGTH,
        "batch": args.batch, "chunk": args.chunk,
        "steps": args.chunk * (WARM_UP + args.rounds) + 2,  # one more than ever runs
    }  # fmt: skip
    return {
        task: [Side(text, command, {**shared, **settings, **own}) for text, (command, own) in sides.items()]
        for task, settings in tasks.items()
    }


def each(given: Iterable[str], make: Callable[[str], Any], faults: list[str]) -> dict[str, Any]:
    """`make` of every name; what is wrong with one is added to `faults`."""
    made = {}
    for name in given:
        try:
            made[name] = make(name)
        except UserError as error:
            faults += error.faults
    return made


def measured(task: str, sides: list[Side], args: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of the table for a task."""
    with tempfile.TemporaryDirectory() as folder:
        records = take_turns(sides, args.rounds, args.threads, Path(folder), WARM_UP)
    bases = [base for base in BASES if base in records] or [sides[0].name]
    return [{"task": task, **row} for row in compared(records, bases)]


def main() -> None:
    """Prints one Markdown table."""
    if sys.argv[1:2] == ["--as_side"]:
        return work(json.loads(sys.argv[2]))
    flags = parser(__doc__, rounds=10)
    flags.add_argument("--data_dir", type=Path, required=True, help="folder with <task>/train.jsonl and dev.jsonl")
    flags.add_argument("--task_def", type=names, default=["glue", "textcls"], help="as of mtrobust train")
    flags.add_argument("--tasks", type=names, default=["mrpc"], help="tasks of type Classification (mrpc)")
    flags.add_argument("--sides", type=names, default=names(SIDES), help=f"comma-separated ({SIDES})")
    flags.add_argument("--methods", type=names, default=[], help="further sides: methods, with or without options")
    flags.add_argument("--mlm", help="folder of the masked language model, for vda")
    flags.add_argument("--chunk", type=positive, default=20, help="steps of a turn (20)")
    flags.add_argument("--batch", type=positive, default=16, help="examples of a step (16)")
    args = flags.parse_args()
    try:
        plan = planned(args)
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    table = [row for name, sides in plan.items() for row in measured(name, sides, args)]
    report(machine(args, chunk=args.chunk, batch=args.batch, warm_up=WARM_UP), table, args.json)


if __name__ == "__main__":
    main()
