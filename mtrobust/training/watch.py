"""What looks on while a run goes on: memory, sample predictions."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

from mtrobust.data.sampler import TaskRows
from mtrobust.training import memory
from mtrobust.training.board import table

if TYPE_CHECKING:
    from mtrobust.evaluation.evaluator import Evaluator, SplitResult
    from mtrobust.training.trainer import Trainer

log = logging.getLogger(__name__)
MEASURED_AFTER = 10  # steps of a process: by then long batches and the optimiser's state have been seen
SAMPLES, LONGEST = 6, 200  # rows of a split; characters of a text


def watch_memory(trainer: Trainer, rows: Mapping[str, TaskRows]) -> None:
    """Says what the run will take at its peak, and after a few steps what it took."""
    config, device, then = trainer.config, trainer.device, trainer.on_event
    memory.reset(device)
    before = memory.peak(device)
    if not trainer.main:
        return
    log.info("%s", memory.estimate(trainer.step, rows, device, config.bf16, config.max_tokens_per_batch, config.optim))

    def on_event(kind: str, step: int) -> None:
        if kind == "step" and step == min(trainer.first_step + MEASURED_AFTER, trainer.total):
            now = memory.peak(device)
            if now is not None and before is not None:
                trainer.monitor.say(f"peak memory after step {step}: {now} ({before.mib:.0f} before the first step)")
        then(kind, step)

    trainer.on_event = on_event


def watch_samples(trainer: Trainer, evaluator: Evaluator) -> None:
    """After each evaluation the same few dev rows of each task go to TensorBoard, with what is predicted of them."""
    then = trainer.on_event
    if not trainer.main:
        return

    def on_event(kind: str, step: int) -> None:
        if kind == "evaluated":
            first: dict[str, SplitResult] = {}
            for (task, _), result in evaluator.results.items():
                first.setdefault(task, result)
            trainer.monitor.samples(step, {task: sample_table(evaluator, result) for task, result in first.items()})
        then(kind, step)

    trainer.on_event = on_event


def sample_table(evaluator: Evaluator, result: SplitResult) -> str:
    """A Markdown table of rows taken evenly from a split: texts, `gold`, `prediction`, and what else the type shows."""
    count = min(SAMPLES, len(result.rows))
    places = [i * len(result.rows) // count for i in range(count)]
    shown = evaluator.tasks[result.task].type.shown
    rows = [shown(result.rows[place], result.predictions[place]) for place in places]
    # In the order of the row that has most: one without a label has no gold.
    columns = list(dict.fromkeys(name for row in sorted(rows, key=len, reverse=True) for name in row))
    return table(columns, [[_cut(str(row.get(name, ""))) for name in columns] for row in rows])


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
