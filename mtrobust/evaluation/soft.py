"""Training rows with soft labels: what one trained model, or the mean of several, predicts of given rows."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mtrobust.data.rows import read_rows
from mtrobust.errors import UserError
from mtrobust.evaluation.predict import CHUNK, predictions
from mtrobust.evaluation.run_folder import Run, atomic_file, json_line, load_tasks
from mtrobust.files import output_faults
from mtrobust.tasks.base import TASK_TYPES

if TYPE_CHECKING:
    from mtrobust.tasks.base import Prediction
    from mtrobust.tasks.taskdef import TaskDef

log = logging.getLogger(__name__)


def check_teachers(runs: Sequence[Path], task: str) -> TaskDef:
    """The task's definition in the first run. Raises `UserError` where soft labels of the runs have no common meaning;
    loads no model."""
    found = {run: load_tasks(run)[task] for run in runs}
    first = found[runs[0]]
    if not first.type.soft_labels:
        kinds = ", ".join(name for name, kind in TASK_TYPES.items() if kind.soft_labels)
        raise UserError(f"--soft: {task} is {first.task_type}, which has no soft labels (supported: {kinds})")
    keys = ("task_type", "data_format", "labels")
    faults = [
        f"--soft: {run}: {task}.{key}: {getattr(other, key)}: but {runs[0]} has {getattr(first, key)}"
        for run, other in found.items()
        for key in keys
        if getattr(other, key) != getattr(first, key)
    ]
    if faults:
        raise UserError(faults)
    return first


def write_soft(
    runs: Sequence[Path],
    task: str,
    source: Path,
    target: Path,
    opened: Callable[[Path], Run],
    *,
    batch_size: int | None = None,
    bf16: bool | None = None,
) -> int:
    """Writes each row of `source` with `soft_label`, the mean over the runs' posteriors (regression: their numbers),
    to `target` (JSON Lines), in the order of the input; returns the number of rows.

    opened: loads a run; one model at a time is in memory, and the rows with what was predicted of them. `target`
    appears, or replaces an older file, only when it is whole. Raises `UserError` for bad rows before a model is loaded.
    """
    definition = check_teachers(runs, task)
    if faults := output_faults("--output", target, source):
        raise UserError(faults)
    rows = read_rows(definition, source)
    made: list[list[Prediction]] = [[] for _ in rows]
    started = time.monotonic()
    for number, path in enumerate(runs):
        run = opened(path)
        given = predictions(run, run.task(task), iter(rows), batch_size=batch_size, bf16=bf16)
        for at, prediction in enumerate(given):
            made[at].append(prediction)
            if (at + 1) % CHUNK == 0 or at + 1 == len(rows):
                done, total = number * len(rows) + at + 1, len(runs) * len(rows)
                rate = done / max(time.monotonic() - started, 1e-9)
                log.info(
                    "%s: %d of %d rows, run %d of %d; %.0f rows/s, %.0f s left",
                    path, at + 1, len(rows), number + 1, len(runs), rate, (total - done) / rate,
                )  # fmt: skip
        del run
    with atomic_file(target) as file:
        for row, several in zip(rows, made, strict=True):
            file.write(json_line(definition.type.soft_row(row, several)))
    return len(rows)
