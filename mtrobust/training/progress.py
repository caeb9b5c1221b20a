"""What a person sees while a run goes on: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text


def clock(seconds: float) -> str:
    """`1:02:03` or `2:03`."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


class Rate:
    """Examples per second and the time left, over the time that training itself took since the last report."""

    def __init__(self, step: int, total: int) -> None:
        self.total, self.started, self.first = total, time.monotonic(), step
        self.paused = 0.0  # seconds spent on evaluations and checkpoints
        self._mark, self._paused_mark, self._examples, self._all = self.started, 0.0, 0, 0

    def add(self, examples: int) -> None:
        """Counts the examples of a step."""
        self._examples += examples
        self._all += examples

    def lap(self) -> float:
        """Examples per second since the last call."""
        now = time.monotonic()
        spent = now - self._mark - (self.paused - self._paused_mark)
        rate = self._examples / max(spent, 1e-9)
        self._mark, self._paused_mark, self._examples = now, self.paused, 0
        return rate

    def overall(self) -> float:
        """Examples per second of training time since the start of this process."""
        return self._all / max(time.monotonic() - self.started - self.paused, 1e-9)

    def left(self, step: int) -> float:
        """Seconds of training left, at the mean speed since the start of this process."""
        spent = time.monotonic() - self.started - self.paused
        return spent / max(step - self.first, 1) * (self.total - step)


class _Words(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(task.fields.get("words", ""))


class Display:
    """mode: `bar`, `lines`, `off`, or `auto` (a bar where stderr is a terminal, else lines). Writes to stderr."""

    def __init__(self, mode: str, total: int, step: int) -> None:
        self.console = Console(stderr=True)
        if mode == "auto":
            mode = "bar" if self.console.is_terminal else "lines"
        self.mode, self.total = mode, total
        self._bar: Progress | None = None
        if mode == "bar":
            self._bar = Progress(
                TextColumn("{task.completed}/{task.total}"),
                BarColumn(20),
                _Words(),
                console=self.console,
                transient=True,
            )
            self._task = self._bar.add_task("train", total=total, completed=step, words="")
            self._bar.start()

    def step(self, step: int) -> None:
        """After every step."""
        if self._bar is not None:
            self._bar.update(self._task, completed=step)

    def report(self, step: int, epoch: float, losses: Mapping[str, float], rate: float, left: float) -> None:
        """At every logging step. losses: the loss by task."""
        words = " ".join(f"{task} {loss:.3f}" for task, loss in losses.items())
        tail = f"{words} · {rate:.0f} ex/s · {clock(left)} left"
        if self._bar is not None:
            self._bar.update(self._task, words=f"epoch {epoch:.2f} · {tail}")
        elif self.mode == "lines":
            print(f"step {step}/{self.total} · epoch {epoch:.2f} · {tail}", file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        """A line that stays."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        elif self.mode == "lines":
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Takes the bar away."""
        if self._bar is not None:
            self._bar.stop()
