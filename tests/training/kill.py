"""Trains in child processes that are killed at random moments and started again; compares with an undisturbed run.

`python -m tests.training.kill FOLDER` prints a JSON report. Children are forked, so that each is there at once.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
from torch.utils.tensorboard import SummaryWriter  # noqa: F401  (imported before forking)

from mtrobust.training import checkpoint as disk
from tests.training.board import read
from tests.training.fake import trainer, weights

SETTINGS = {"logging_steps": 4, "eval_steps": 7, "save_steps": 3, "num_train_epochs": 3, "save_total_limit": 1}
KILLS = 24


def child(run: Path, resume: bool, events: int) -> None:
    """Trains to the end; tells the parent when it writes a checkpoint."""
    sync = disk._sync

    def slow(path: Path) -> None:
        sync(path)
        time.sleep(0.004)

    disk._sync = slow

    def on_event(kind: str, step: int) -> None:
        os.write(events, {"saving": b"(", "saved": b")"}.get(kind, b"."))
        time.sleep(0.002)

    made = trainer(run, on_event, resume=resume, **SETTINGS)
    made.train()
    torch.save(weights(made), run / "weights.pt")


def attempt(run: Path, resume: bool, patience: float | None) -> tuple[bool, str]:
    """(whether it ended by itself, its events). patience: seconds from its first event until it is killed."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(read)
            child(run, resume, write)
            status = 0
        finally:
            os._exit(status)
    os.close(write)
    events = os.read(read, 1)
    if patience is not None:
        time.sleep(patience)
        os.kill(pid, signal.SIGKILL)
    while more := os.read(read, 4096):
        events += more
    os.close(read)
    _, status = os.waitpid(pid, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise SystemExit(f"the child failed after {events!r}")
    return os.WIFEXITED(status), events.decode()


def logged(run: Path) -> dict[str, list[int]]:
    """The steps of every tag that TensorBoard reads."""
    board = read(run)
    return {tag: [event.step for event in board.Tensors(tag)] for tag in board.Tags()["tensors"]}


def main() -> None:
    """Interrupts runs until there were enough kills."""
    folder, rng, report = Path(sys.argv[1]), random.Random(4), {"kills": 0, "inside_a_write": 0, "runs": 0}
    torch.set_num_threads(1)
    trainer(folder / "first", **SETTINGS)  # what torch imports late, it imports before the forks
    reference = folder / "reference"
    attempt(reference, False, None)
    expected = torch.load(reference / "weights.pt")
    different = []
    while report["kills"] < KILLS:
        report["runs"] += 1
        run = folder / f"run-{report['runs']}"
        ended, resume = False, False
        while not ended:
            patience = rng.uniform(0.0, 0.35) if rng.random() < 0.9 else None
            ended, events = attempt(run, resume, patience)
            report["kills"] += not ended
            report["inside_a_write"] += not ended and events.count("(") > events.count(")")
            resume = True
        got = torch.load(run / "weights.pt")
        different += [f"{run.name}: {name}" for name in expected if not torch.equal(got[name], expected[name])]
        if (run / "metrics.jsonl").read_bytes() != (reference / "metrics.jsonl").read_bytes():
            different.append(f"{run.name}: metrics.jsonl")
        if logged(run) != logged(reference):
            different.append(f"{run.name}: tensorboard")
    print(json.dumps(report | {"different": different}))


if __name__ == "__main__":
    main()
