"""What a million training rows and a hundred tasks cost.

    python scripts/bench/scale.py --model ENCODER --data_dir DATA --task mr --work DIR [--only rows|heads] [--json FILE]

Rows: the task's training rows over and over, with a number behind each text, until there are `--count`. They are
written and tokenised once, into `--work`; a later call goes on with them. Then, each time in a fresh process that has
its libraries and its tokenizer, but neither model nor data: `start`, the seconds until the features are read from the
cache, the rows chosen, the steps counted and the first batch made, as `mtrobust train` does it (median, and the slowest
of `--starts`). Then a whole epoch of batches in one of these processes: whether each row was in it once, and how much
memory had grown at the most. `resident` holds the pages of the cache file that were read, which the system drops when
it needs room; `anonymous` is the process's own, at the end.

Heads: a step of `mtrobust train` (batch, forward, backward, clipping, optimiser) with `--heads` tasks on one encoder,
as a multiple of a step with one. Both take the same batches in turns; every head has had a step before. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from common import machine, parser, positive, report, spread

from mtrobust.data.collator import Collator
from mtrobust.data.features import Features, load_features
from mtrobust.data.rows import find_split, read_rows
from mtrobust.data.sampler import MultiTaskSampler, SampledStep, TaskRows
from mtrobust.errors import UserError
from mtrobust.tasks.taskdef import TaskDef, load_task_defs
from mtrobust.training.rows import Taken, TrainRows

SEED, EPOCHS = 42, 3.0  # as in `mtrobust train`
MIB = 2**20


def definition(name: str) -> TaskDef:
    """The shipped definition of a task. Raises `UserError` where there is none."""
    shipped = load_task_defs(["glue", "textcls"])
    if name not in shipped:
        raise UserError(f"--task: {name}: not shipped (allowed: {', '.join(shipped)})")
    return shipped[name]


def features_of(task: TaskDef, data_dir: Path, model: str) -> tuple[Features, Any]:
    """(features, tokenizer) of the training rows, from the cache."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    return load_features(task, "train", data_dir, tokenizer, 128, data_dir / ".features", True), tokenizer


def train_rows(task: TaskDef, features: Features, tokenizer: Any) -> TrainRows:
    """All rows, as a run takes them."""
    draw = lambda batch, number: task.type.drawn(batch, tokenizer, (SEED, number))  # noqa: E731
    return TrainRows([features], Collator(task, tokenizer.pad_token_id), Taken(SEED), draw)


# --- rows --------------------------------------------------------------------------------------------------------


def grown(task: TaskDef, data_dir: Path, work: Path, count: int) -> Path:
    """Folder with `<task>/train.jsonl` of `count` rows. Raises `UserError` for rows that cannot be read."""
    folder = work / f"rows-{count}"
    target = folder / task.name / "train.jsonl"
    if target.is_file():
        return folder
    rows = read_rows(task, find_split(task, data_dir, "train"))
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.tmp")
    with temporary.open("w", encoding="utf-8", newline="\n") as file:
        for number in range(count):
            row = rows[number % len(rows)]
            text = f"{row['text']} {number}"
            file.write(json.dumps({**row, "id": str(number), "text": text}, ensure_ascii=False) + "\n")
    temporary.rename(target)
    return folder


def resident() -> dict[str, int]:
    """Bytes of this process: `VmRSS`, its part `RssAnon`, and `VmHWM`, the most of `VmRSS` since `reset_peak`."""
    lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").split("\n")
    pairs = [line.split()[:2] for line in lines if line.startswith(("VmRSS:", "RssAnon:", "VmHWM:"))]
    return {name.rstrip(":"): int(kib) * 1024 for name, kib in pairs}


def reset_peak() -> None:
    """Begins a new `VmHWM`."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def work(settings: dict[str, Any]) -> dict[str, Any]:
    """One process: `seconds` of the start; with `whole`, after an epoch, `once`, `batches`, `resident`, `anonymous`."""
    import pyarrow.ipc  # noqa: F401  (a library, not part of the start)
    import torch
    from transformers import AutoTokenizer

    torch.set_num_threads(settings["threads"])
    task, data_dir = definition(settings["task"]), Path(settings["data_dir"])
    tokenizer = AutoTokenizer.from_pretrained(settings["model"])
    reset_peak()
    before, begun = resident(), time.perf_counter()
    features = load_features(task, "train", data_dir, tokenizer, 128, data_dir / ".features", True)
    rows = train_rows(task, features, tokenizer)
    sampler = MultiTaskSampler(
        {task.name: TaskRows(rows.lengths, settings["batch"])},
        seed=SEED, max_tokens=settings["max_tokens"], num_epochs=EPOCHS,
    )  # fmt: skip
    rows(sampler.at(0).micro[0].rows, 0)
    record: dict[str, Any] = {"seconds": time.perf_counter() - begun}
    if settings["whole"]:
        seen = np.zeros(len(rows.lengths), dtype=np.uint8)
        for number in range(sampler.steps_in_epoch(0)):
            step = sampler.at(number)
            for micro in step.micro:
                rows(micro.rows, number)
            np.add.at(seen, step.rows, 1)
        after = resident()
        record |= {
            "once": bool((seen == 1).all()) and len(seen) == settings["count"],
            "batches": sampler.steps_in_epoch(0),
            "resident": after["VmHWM"] - before["VmRSS"],
            "anonymous": after["RssAnon"] - before["RssAnon"],
        }
    return record


def in_fresh_process(settings: dict[str, Any]) -> dict[str, Any]:
    """What `work` returns there. Raises `SystemExit` with the process's error output when it fails."""
    limits = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(settings["threads"]))
    done = subprocess.run(
        [sys.executable, __file__, "--as_process", json.dumps(settings)],
        capture_output=True, text=True, env={**os.environ, **limits},
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"a process ended with code {done.returncode}:\n{done.stderr}")
    return json.loads(done.stdout.split("\n")[-2])


def rows_table(task: TaskDef, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row for batches of a fixed size, and one for batches of a token budget."""
    data_dir = grown(task, args.data_dir, args.work, args.count)
    features_of(task, data_dir, args.model)  # tokenises at the first call; leaves the files in the page cache
    for max_tokens in (None, args.max_tokens):
        settings = {
            "model": args.model, "task": task.name, "data_dir": str(data_dir), "count": args.count,
            "batch": args.batch, "max_tokens": max_tokens, "threads": args.threads,
        }  # fmt: skip
        found = [in_fresh_process({**settings, "whole": number == 0}) for number in range(args.starts)]
        kind = f"batches of {args.batch} rows" if max_tokens is None else f"batches of {max_tokens} tokens"
        starts = [record["seconds"] for record in found]
        yield {
            "what": f"{args.count:,} rows, {kind}",
            "start, s": median(starts),
            "slowest, s": max(starts),
            "resident, MiB": found[0]["resident"] / MIB,
            "anonymous, MiB": found[0]["anonymous"] / MIB,
            "batches of an epoch": found[0]["batches"],
            "each row once": "yes" if found[0]["once"] else "no",
        }


# --- heads -------------------------------------------------------------------------------------------------------


def trainer_of(tasks: dict[str, TaskDef], rows: TrainRows, sampler: MultiTaskSampler, folder: Path, model: str) -> Any:
    """The trainer of a run on these tasks, all with the same rows."""
    import torch

    from mtrobust.config import TrainConfig
    from mtrobust.models.multitask import MultiTaskModel
    from mtrobust.perturb import build_methods
    from mtrobust.training.engine import make_accelerator
    from mtrobust.training.step import TrainStep
    from mtrobust.training.trainer import Trainer

    config = TrainConfig(
        task_def=["-"], data_dir=folder, model_name_or_path=model, output_dir=folder, progress="off", use_cpu=True
    )
    torch.manual_seed(SEED)
    network = MultiTaskModel.from_encoder(config, tasks)
    step = TrainStep(network, build_methods([], tasks, network.encoder), SEED).train()
    fetch = lambda task, positions, number: replace(rows(positions, number), task=task)  # noqa: E731
    return Trainer(config, step, sampler, fetch, make_accelerator(config))


def step_seconds(trainer: Any, sampled: SampledStep) -> float:
    """One step of a run."""
    begun = time.perf_counter()
    trainer._set_rate(sampled.number)
    trainer._optimise(sampled)
    return time.perf_counter() - begun


def heads_row(task: TaskDef, args: argparse.Namespace) -> dict[str, Any]:
    """The step with many heads against the step with one."""
    features, tokenizer = features_of(task, args.data_dir, args.model)
    rows = train_rows(task, features, tokenizer)
    many = [f"{task.name}{number}" for number in range(args.heads)]
    tasks = {name: task.model_copy(update={"name": name}) for name in many}
    steps = args.heads + args.rounds
    sampler = MultiTaskSampler({task.name: TaskRows(rows.lengths, args.batch)}, seed=SEED, max_steps=steps)
    folder = Path(tempfile.mkdtemp(prefix="scale-"))
    times: dict[str, list[float]] = {"one": [], "many": []}
    try:
        sides = {
            "one": trainer_of({task.name: task}, rows, sampler, folder, args.model),
            "many": trainer_of(tasks, rows, sampler, folder, args.model),
        }
        for number in range(steps):
            sampled = sampler.at(number)
            steps_of = {"one": sampled, "many": sampled._replace(task=many[number % len(many)])}
            for side in ["one", "many"] if number % 2 else ["many", "one"]:
                taken = step_seconds(sides[side], steps_of[side])
                if number >= args.heads:  # before, every head gets its optimiser state
                    times[side].append(taken)
    finally:
        shutil.rmtree(folder)
    return {
        "what": f"a step with {args.heads} heads, batches of {args.batch} rows",
        "of a step with one": spread(times["many"], times["one"]),
        "seconds with one": median(times["one"]),
    }


def main() -> None:
    """Prints one table."""
    if sys.argv[1:2] == ["--as_process"]:
        print(json.dumps(work(json.loads(sys.argv[2]))))
        return
    flags = parser(__doc__, rounds=30)
    flags.add_argument("--data_dir", type=Path, required=True, help="folder with <task>/train.jsonl")
    flags.add_argument("--task", default="mr", help="shipped task whose rows have a `text` (mr)")
    flags.add_argument("--only", choices=["rows", "heads"], help="one part; default: both")
    flags.add_argument("--work", type=Path, help="rows: folder for the rows and their features")
    flags.add_argument("--count", type=positive, default=1_000_000, help="rows: how many (1000000)")
    flags.add_argument("--starts", type=positive, default=5, help="rows: fresh processes that are timed (5)")
    flags.add_argument("--max_tokens", type=positive, default=2048, help="rows: token budget of the second kind (2048)")
    flags.add_argument("--heads", type=positive, default=100, help="heads: how many (100)")
    flags.add_argument("--batch", type=positive, default=16, help="rows of a batch (16)")
    args = flags.parse_args()
    if args.work is None and args.only != "heads":
        flags.error("--work: needed for the rows")
    import torch

    torch.set_num_threads(args.threads)
    try:
        task = definition(args.task)
        table = [] if args.only == "heads" else list(rows_table(task, args))
        table += [] if args.only == "rows" else [heads_row(task, args)]
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    report(machine(args, task=args.task), table, args.json)


if __name__ == "__main__":
    main()
