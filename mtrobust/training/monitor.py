"""What a run writes down while it goes on: `metrics.jsonl`, TensorBoard, `status.json`, progress.

`metrics.jsonl` holds no clock times: two runs with the same seed write the same bytes, however often one of them was
interrupted. Speed is in TensorBoard, in `status.json`, `all_results.json` and, with `profile`, in `profile.json`.
"""

from __future__ import annotations

import copy
import json
import logging
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

from mtrobust.config import TrainConfig
from mtrobust.errors import RunError
from mtrobust.perturb.passes import Choice
from mtrobust.training.board import FOLDER, Board
from mtrobust.training.progress import Display, Rate, Report
from mtrobust.training.status import Status

log = logging.getLogger(__name__)

METRICS_FILE, PROFILE = "metrics.jsonl", "profile.json"


class Monitor:
    """Collects the figures of steps and writes their means at every logging step.

    main: whether this process writes (rank 0). `state` and `start` carry the open window across an interruption.
    """

    def __init__(self, run_dir: Path, config: TrainConfig, total: int, main: bool, processes: int = 1) -> None:
        self.run_dir, self.config, self.total, self.main, self.processes = run_dir, config, total, main, processes
        self.window: dict[str, dict[str, float]] = {}  # task -> sums, with the number of steps under "steps"
        self.drawn: dict[str, dict[str, dict[str, int]]] = {}  # task -> figure -> choice -> steps
        self.spread: dict[str, dict[str, dict[int, int]]] = {}  # task -> figure -> bucket -> tokens
        self.terms: dict[str, list[str]] = {}  # task -> names of the parts of its loss
        self.dev: dict[str, Any] = {"step": 0, "metrics": {}, "best": None}  # of the last evaluation, and the best
        self.rate = Rate(0, total)
        self.status: Status | None = None
        self._shown: dict[str, list[str]] = {}  # the terms that the layout of charts has

    def start(self, step: int, state: Mapping[str, Any] | None) -> None:
        """Opens the files. state: what `state` returned at the checkpoint to go on from; None for a new run."""
        kept = copy.deepcopy(dict(state or {}))
        self.window, self.drawn = kept.get("window", {}), kept.get("drawn", {})
        self.spread = {
            task: {name: {int(bucket): n for bucket, n in counts.items()} for name, counts in found.items()}
            for task, found in kept.get("spread", {}).items()
        }
        self.terms, self._shown = kept.get("terms", {}), kept.get("shown", {})
        self.dev = kept.get("dev", self.dev)
        self.rate = Rate(step, self.total)
        if not self.main:
            return
        self.run_dir.mkdir(parents=True, exist_ok=True)
        self._file = open(self.run_dir / METRICS_FILE, "ab")  # noqa: SIM115  (closed in `close`)
        self._cut(kept.get("bytes", 0))
        if state is None:
            shutil.rmtree(self.run_dir / FOLDER, ignore_errors=True)  # of a run killed before any checkpoint
            (self.run_dir / PROFILE).unlink(missing_ok=True)
        # What an interrupted run wrote after its checkpoint is purged; the step after it is the first that comes anew.
        self._board = Board(self.run_dir, step + 1 if step else 0)
        if state is None:
            with _writing(self.run_dir):
                self._board.begin(self.config)
        self._display = Display(self.config.progress, self.total, step, self.dev["metrics"], self.dev["step"])
        known = {"metrics": self.dev["metrics"], "evaluated_step": self.dev["step"], "best": self.dev["best"]}
        self.status = Status(self.run_dir, step, self.total, self.processes, **known)

    def _cut(self, size: int) -> None:
        """Takes away the lines that were written after the checkpoint."""
        have = self._file.seek(0, os.SEEK_END)
        if have < size:
            log.warning("%s: shorter than at the checkpoint (%d of %d bytes)", METRICS_FILE, have, size)
        self._file.truncate(min(have, size))
        self._file.seek(0, os.SEEK_END)

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold. Forces `metrics.jsonl` to the disk first, and what TensorBoard was given out of
        this process."""
        if not self.main:
            return {}
        with _writing(self.run_dir):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._board.flush()
        window = {"window": self.window, "drawn": self.drawn, "spread": self.spread}
        return {"bytes": self._file.tell(), **window, "terms": self.terms, "shown": self._shown, "dev": self.dev}

    # --- what happens -------------------------------------------------------------------------------------------------

    def name_terms(self, task: str, names: Iterable[str]) -> None:
        """Which of the figures of a task's step are its loss and the terms of it."""
        known = self.terms.setdefault(task, [])
        known += [name for name in names if name not in known]

    def add(self, step: int, task: str, figures: Mapping[str, Any], examples: int) -> None:
        """The figures of one step: `loss`, terms, `<method>/<figure>`; empty when the step was skipped.

        Means are taken of numbers; a `Choice` is counted; counts by bucket add up.
        """
        if figures:
            sums = self.window.setdefault(task, {"steps": 0.0})
            sums["steps"] += 1
            for name, value in figures.items():
                if isinstance(value, Choice):
                    counts = self.drawn.setdefault(task, {}).setdefault(name, {})
                    counts[str(value)] = counts.get(str(value), 0) + 1
                elif isinstance(value, Mapping):
                    buckets = self.spread.setdefault(task, {}).setdefault(name, {})
                    for bucket, count in value.items():
                        buckets[bucket] = buckets.get(bucket, 0) + count
                else:
                    sums[name] = sums.get(name, 0.0) + value
        self.rate.add(examples)
        if self.main:
            self._display.step(step)
            if self.status:
                self.status.step(step)

    def log(self, step: int, epoch: float, rate: float, grad_norm: float) -> None:
        """Writes the means and counts of the window, the learning rate and the last gradient norm; begins a new one."""
        tasks = {
            task: {name: total / sums["steps"] for name, total in sums.items() if name != "steps"}
            for task, sums in self.window.items()
        }
        drawn = {task: {name: _sorted(counts) for name, counts in found.items()} for task, found in self.drawn.items()}
        spread, self.window, self.drawn, self.spread = self.spread, {}, {}, {}
        if not self.main:
            return
        speed = self.rate.lap()
        scalars = {f"train/{task}/{name}": value for task, figures in tasks.items() for name, value in figures.items()}
        scalars |= {"train/lr": rate, "train/grad_norm": grad_norm, "train/examples_per_second": speed}
        with _writing(self.run_dir):
            self._board.scalars(scalars, step)
            for tag, counts in _tagged(drawn):
                self._board.choices(tag, counts, step)
            for tag, counts in _tagged(spread):
                self._board.sizes(tag, counts, step)
            if self.terms != self._shown:
                self._board.layout(self.terms, step)
                self._shown = copy.deepcopy(self.terms)
        written = {task: {**figures, **drawn.get(task, {})} for task, figures in tasks.items()}
        self._line({"step": step, "epoch": round(epoch, 6), "lr": rate, "grad_norm": grad_norm, "train": written})
        parts = {task: {name: figures[name] for name in self.terms.get(task, ()) if name in figures}
                 for task, figures in tasks.items()}  # fmt: skip
        report = Report(step, epoch, rate, speed, self.rate.left(step), parts)
        self._display.report(report)
        if self.status:
            losses = {**self.status.facts.get("losses", {}), **parts}
            self.status.write(
                step=step, epoch=epoch, learning_rate=rate, examples_per_second=speed,
                seconds_left=report.seconds_left, losses=losses,
            )  # fmt: skip

    def evaluated(self, step: int, epoch: float, metrics: Mapping[str, Mapping[str, float]]) -> None:
        """Writes the metrics of an evaluation."""
        self.dev |= {"step": step, "metrics": {task: dict(found) for task, found in metrics.items()}}
        if not self.main:
            return
        self._scalars({f"eval/{task}/{name}": x for task, found in metrics.items() for name, x in found.items()}, step)
        self._line({"step": step, "epoch": round(epoch, 6), "eval": metrics})
        words = [
            "  ".join([task, *(f"{name} {x:.2f}" for name, x in found.items())]) for task, found in metrics.items()
        ]
        self._display.evaluated(step, metrics)
        self.say(f"evaluation after step {step}: " + " · ".join(words))
        if self.status:
            self.status.write(metrics=self.dev["metrics"], evaluated_step=step)

    def best(self, step: int, score: float) -> None:
        """The evaluation of this step is the best so far."""
        self.dev["best"] = {"step": step, "score": score, "of": self.config.metric_for_best_model}
        if self.status:
            self.status.write(best=self.dev["best"])

    def samples(self, step: int, tables: Mapping[str, str]) -> None:
        """Writes sample predictions of the last evaluation, a Markdown text for each task."""
        if self.main:
            with _writing(self.run_dir):
                for task, table in tables.items():
                    self._board.text(f"eval/{task}/samples", table, step)

    def timed(self, step: int, seconds: Mapping[str, float]) -> None:
        """Writes the seconds that each part of a step took, `profile/<part>`, to TensorBoard."""
        if self.main:
            self._scalars({f"profile/{part}": taken for part, taken in seconds.items()}, step)

    def say(self, text: str) -> None:
        """A line for the person who watches."""
        if self.main:
            self._display.say(text)

    @contextmanager
    def pause(self, doing: str) -> Iterator[None]:
        """Time spent inside does not count as training time. doing: what is done instead."""
        start = monotonic()
        self._doing(doing)
        try:
            yield
        finally:
            self.rate.paused += monotonic() - start
        self._doing("training")

    def _doing(self, what: str) -> None:
        if self.status:
            self.status.write(doing=what)
            self._display.doing("" if what == "training" else what)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Inside is the whole run: `status.json` says how it ends."""
        try:
            yield
        except BaseException as error:
            if self.status:
                self.status.ended(error)
            raise
        if self.status:
            self.status.ended(None)

    def close(self, finished: bool) -> None:
        """Closes the files. finished: whether the run came to its end."""
        if not self.main:
            return
        with _writing(self.run_dir):
            if finished:
                self._board.end(self.total + 1)
            self._board.close()
            self._display.close()
            self._file.close()

    def _scalars(self, scalars: Mapping[str, float], step: int) -> None:
        with _writing(self.run_dir):
            self._board.scalars(scalars, step)

    def _line(self, record: Mapping[str, Any]) -> None:
        with _writing(self.run_dir):
            self._file.write((json.dumps(finite(record), ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8"))
            self._file.flush()


def _tagged(counts: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, Any]]:
    """(tag, counts) of every figure of every task that has any."""
    for task, found in counts.items():
        for name, of_figure in found.items():
            if of_figure:
                yield f"train/{task}/{name}", of_figure


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
