"""Where the time of a training step goes, over the first steps of a process: `profile.json`, TensorBoard, a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch

from mtrobust.clock import Clock
from mtrobust.errors import RunError
from mtrobust.evaluation.run_folder import write_json
from mtrobust.tasks.base import Batch
from mtrobust.training.monitor import PROFILE, Monitor

# In the order of a step. `clean`: the passes over the batch as it is, with the head; `perturbation`: all that methods
# do in the forward pass, their own backward passes included; `optimiser`: clipping and update; `other`: the rest.
PARTS = ("data", "clean", "perturbation", "backward", "optimiser", "other")


@dataclass
class _Step:
    """seconds: by part; shapes: rows and padded length of each micro-batch of this process."""

    number: int
    task: str
    seconds: dict[str, float]
    shapes: list[tuple[int, int]]


class Profile:
    """Times `steps` steps of a process after its first one, which is left out: it warms up caches and allocators.

    steps: 0 times nothing and writes nothing. The clock waits for an accelerator at the bounds of a part, so that a
    part is charged with what it asked for; these steps are slower than others by that waiting.
    """

    def __init__(self, steps: int, run_dir: Path, device: torch.device, monitor: Monitor, processes: int = 1) -> None:
        self.left, self.run_dir, self.device = steps, run_dir, device
        self.monitor, self.processes = monitor, processes
        self.clock = Clock() if device.type == "cpu" else Clock(lambda: torch.accelerator.synchronize(device))
        self._warm = False
        self._shapes: list[tuple[int, int]] = []
        self._steps: list[_Step] = []

    def begin(self) -> None:
        """Before a step."""
        if self.left:
            self._shapes = []
            self.clock.start("other")

    def batch(self, batch: Batch) -> None:
        """A micro-batch of the step."""
        if self.clock.running:
            rows, length = batch.inputs["input_ids"].shape
            self._shapes.append((rows, length))

    def end(self, number: int, task: str) -> None:
        """After step `number` (from 1); the last one that is timed writes everything."""
        if not self.left:
            return
        seconds = self.clock.stop()
        if not self._warm:
            self._warm = True
            return
        self._steps.append(_Step(number, task, seconds, self._shapes))
        self.left -= 1
        if not self.left:
            self._write()

    def close(self) -> None:
        """At the end of the run, however it ended: writes what there is if that was not done yet."""
        if self.left and self._steps:
            self.left = 0
            self._write()
        elif self.left and self._warm:
            self.monitor.say("profile: no step was timed: the first one of a process is left out as warm-up")

    def _write(self) -> None:
        steps, tasks = self._steps, list(dict.fromkeys(step.task for step in self._steps))
        record: dict[str, Any] = {
            "first_step": steps[0].number,
            "last_step": steps[-1].number,
            "warmup_steps": 1,
            "device": str(self.device),
            "threads": torch.get_num_threads(),
            "processes": self.processes,
            **summary(steps),
        }
        if len(tasks) > 1:
            record["tasks"] = {task: summary([step for step in steps if step.task == task]) for task in tasks}
        try:
            write_json(self.run_dir / PROFILE, record)
        except OSError as error:
            raise RunError(f"{self.run_dir / PROFILE}: cannot be written: {error}") from error
        self.monitor.timed(steps[-1].number, {name: part["mean"] for name, part in record["parts"].items()})
        self.monitor.say(table(record))


def summary(steps: Sequence[_Step]) -> dict[str, Any]:
    """Number of steps; means of the batch's shape; mean and median seconds of a step and of its parts, and the parts'
    shares of the mean."""
    whole = [sum(step.seconds.values()) for step in steps]
    shapes = [shape for step in steps for shape in step.shapes]
    parts = {}
    for name in PARTS:
        taken = [step.seconds.get(name, 0.0) for step in steps]
        parts[name] = {"mean": fmean(taken), "median": median(taken), "share": sum(taken) / sum(whole)}
    return {
        "steps": len(steps),
        "batch": {
            "micro_batches": len(shapes) / len(steps),
            "rows": fmean(rows for rows, _ in shapes),
            "length": fmean(length for _, length in shapes),
        },
        "step": {"mean": fmean(whole), "median": median(whole)},
        "parts": parts,
    }


def table(record: dict[str, Any]) -> str:
    """A record of `profile.json` as lines: milliseconds a step and share of each part, for each task if several."""
    first, last = record["first_step"], record["last_step"]
    lines = [
        f"profile of steps {first} to {last} on {record['device']}, after one for warm-up; ms a step (mean) and share:",
        _row(["", "steps", "rows x length", "step", *PARTS]),
    ]
    for name, found in {"all": record, **record.get("tasks", {})}.items():
        shape = f"{found['batch']['rows']:.1f} x {found['batch']['length']:.1f}"
        cells = [f"{1000 * part['mean']:.1f} {part['share']:4.0%}" for part in found["parts"].values()]
        lines.append(_row([name, str(found["steps"]), shape, f"{1000 * found['step']['mean']:.1f}", *cells]))
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    name, *others = cells
    return f"  {name:<10}" + "".join(f"{cell:>14}" for cell in others)
