"""What a run writes down while it goes on: `metrics.jsonl`, TensorBoard, progress.

`metrics.jsonl` holds no clock times: two runs with the same seed write the same bytes, however often one of them was
interrupted. Speed is in TensorBoard, in `all_results.json` and, with `profile`, in `profile.json`.
"""

from __future__ import annotations

import copy
import json
import logging
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

from mtrobust.config import TrainConfig
from mtrobust.errors import RunError
from mtrobust.perturb.passes import Choice
from mtrobust.training.progress import Display, Rate

log = logging.getLogger(__name__)

METRICS_FILE, PROFILE = "metrics.jsonl", "profile.json"


class Monitor:
    """Collects the figures of steps and writes their means at every logging step.

    main: whether this process writes (rank 0). `state` and `start` carry the open window across an interruption.
    """

    def __init__(self, run_dir: Path, config: TrainConfig, total: int, main: bool) -> None:
        self.run_dir, self.config, self.total, self.main = run_dir, config, total, main
        self.window: dict[str, dict[str, float]] = {}  # task -> sums, with the number of steps under "steps"
        self.drawn: dict[str, dict[str, dict[str, int]]] = {}  # task -> figure -> choice -> steps
        self.rate = Rate(0, total)

    def start(self, step: int, state: Mapping[str, Any] | None) -> None:
        """Opens the files. state: what `state` returned at the checkpoint to go on from; None for a new run."""
        self.window = {task: dict(sums) for task, sums in (state or {}).get("window", {}).items()}
        self.drawn = copy.deepcopy((state or {}).get("drawn", {}))
        self.rate = Rate(step, self.total)
        if not self.main:
            return
        self.run_dir.mkdir(parents=True, exist_ok=True)
        from torch.utils.tensorboard import SummaryWriter

        self._file = open(self.run_dir / METRICS_FILE, "ab")  # noqa: SIM115  (closed in `close`)
        self._cut((state or {}).get("bytes", 0))
        if state is None:
            shutil.rmtree(self.run_dir / "tensorboard", ignore_errors=True)  # of a run killed before any checkpoint
            (self.run_dir / PROFILE).unlink(missing_ok=True)
        # What an interrupted run wrote after its checkpoint is purged; the step after it is the first that comes anew.
        self._board = SummaryWriter(str(self.run_dir / "tensorboard"), purge_step=step + 1 if step else None)
        self._display = Display(self.config.progress, self.total, step)

    def _cut(self, size: int) -> None:
        """Takes away the lines that were written after the checkpoint."""
        have = self._file.seek(0, os.SEEK_END)
        if have < size:
            log.warning("%s: shorter than at the checkpoint (%d of %d bytes)", METRICS_FILE, have, size)
        self._file.truncate(min(have, size))
        self._file.seek(0, os.SEEK_END)

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold. Forces `metrics.jsonl` to the disk first."""
        if not self.main:
            return {}
        with _writing(self.run_dir):
            self._file.flush()
            os.fsync(self._file.fileno())
        return {"bytes": self._file.tell(), "window": self.window, "drawn": self.drawn}

    def add(self, step: int, task: str, figures: Mapping[str, float], examples: int) -> None:
        """The figures of one step: `loss`, terms, `<method>/<figure>`; empty when the step was skipped.

        Means are taken of numbers; a `Choice` is counted.
        """
        if figures:
            sums = self.window.setdefault(task, {"steps": 0.0})
            sums["steps"] += 1
            for name, value in figures.items():
                if isinstance(value, Choice):
                    counts = self.drawn.setdefault(task, {}).setdefault(name, {})
                    counts[str(value)] = counts.get(str(value), 0) + 1
                else:
                    sums[name] = sums.get(name, 0.0) + value
        self.rate.add(examples)
        if self.main:
            self._display.step(step)

    def log(self, step: int, epoch: float, rate: float, grad_norm: float) -> None:
        """Writes the means and counts of the window, the learning rate and the last gradient norm; begins a new one."""
        tasks = {
            task: {name: total / sums["steps"] for name, total in sums.items() if name != "steps"}
            for task, sums in self.window.items()
        }
        drawn = {task: {name: _sorted(counts) for name, counts in found.items()} for task, found in self.drawn.items()}
        self.window, self.drawn = {}, {}
        if not self.main:
            return
        speed = self.rate.lap()
        scalars = {f"train/{task}/{name}": value for task, figures in tasks.items() for name, value in figures.items()}
        scalars |= {"train/lr": rate, "train/grad_norm": grad_norm, "train/examples_per_second": speed}
        self._scalars(scalars, step)
        for task, found in drawn.items():
            for name, counts in found.items():
                self._histogram(f"train/{task}/{name}", counts, step)
        written = {task: {**figures, **drawn.get(task, {})} for task, figures in tasks.items()}
        self._line({"step": step, "epoch": round(epoch, 6), "lr": rate, "grad_norm": grad_norm, "train": written})
        losses = {task: figures["loss"] for task, figures in tasks.items() if "loss" in figures}
        self._display.report(step, epoch, losses, speed, self.rate.left(step))

    def evaluated(self, step: int, epoch: float, metrics: Mapping[str, Mapping[str, float]]) -> None:
        """Writes the metrics of an evaluation."""
        if not self.main:
            return
        self._scalars({f"eval/{task}/{name}": x for task, found in metrics.items() for name, x in found.items()}, step)
        self._line({"step": step, "epoch": round(epoch, 6), "eval": metrics})
        words = [
            "  ".join([task, *(f"{name} {x:.2f}" for name, x in found.items())]) for task, found in metrics.items()
        ]
        self.say(f"evaluation after step {step}: " + " · ".join(words))

    def timed(self, step: int, seconds: Mapping[str, float]) -> None:
        """Writes the seconds that each part of a step took, `profile/<part>`, to TensorBoard."""
        if self.main:
            self._scalars({f"profile/{part}": taken for part, taken in seconds.items()}, step)

    def say(self, text: str) -> None:
        """A line for the person who watches."""
        if self.main:
            self._display.say(text)

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Time spent inside does not count as training time."""
        start = monotonic()
        try:
            yield
        finally:
            self.rate.paused += monotonic() - start

    def close(self, settings: Mapping[str, Any], results: Mapping[str, float]) -> None:
        """Closes the files. results: for TensorBoard's HParams, beside the settings; empty when the run did not end."""
        if not self.main:
            return
        with _writing(self.run_dir):
            self._close(settings, results)

    def _close(self, settings: Mapping[str, Any], results: Mapping[str, float]) -> None:
        if results:
            from torch.utils.tensorboard.summary import hparams

            plain = {
                key: value if isinstance(value, bool | int | float | str) else str(value)
                for key, value in settings.items()
            }
            for summary in hparams(plain, {name: float(x) for name, x in results.items()}):
                self._board._get_file_writer().add_summary(summary)
            self._scalars(results, self.total)
        self._board.close()
        self._display.close()
        self._file.close()

    def _scalars(self, scalars: Mapping[str, float], step: int) -> None:
        with _writing(self.run_dir):
            for name, value in scalars.items():
                self._board.add_scalar(name, value, step)

    def _histogram(self, name: str, counts: Mapping[str, int], step: int) -> None:
        """Counts of whole numbers; each number has a bar of width 1 around it."""
        found = {int(value): count for value, count in counts.items()}
        low, high = min(found), max(found)
        with _writing(self.run_dir):
            self._board.add_histogram_raw(
                name,
                min=low - 0.5,
                max=high + 0.5,
                num=sum(found.values()),
                sum=sum(value * count for value, count in found.items()),
                sum_squares=sum(value**2 * count for value, count in found.items()),
                bucket_limits=[value + 0.5 for value in range(low, high + 1)],
                bucket_counts=[found.get(value, 0) for value in range(low, high + 1)],
                global_step=step,
            )

    def _line(self, record: Mapping[str, Any]) -> None:
        with _writing(self.run_dir):
            self._file.write((json.dumps(finite(record), ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8"))
            self._file.flush()


def _sorted(counts: Mapping[str, int]) -> dict[str, int]:
    """In the order of the choices, so that lines do not depend on what was drawn first."""
    return {choice: counts[choice] for choice in sorted(counts, key=int)}


def finite(value: Any) -> Any:
    """`value` with non-finite numbers as None, for strict JSON."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def _writing(run_dir: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(
            f"{run_dir}: cannot be written any more: {error}; free space, then go on with --resume"
        ) from error
