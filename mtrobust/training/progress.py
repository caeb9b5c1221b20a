"""What a person sees while a run goes on: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

_METRICS = 4  # of a task, in a line


def clock(seconds: float) -> str:
    """`1:02:03` or `2:03`."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def number(value: float) -> str:
    """Three decimals, or two digits of what would then be 0."""
    return f"{value:.3f}" if abs(value) >= 0.0005 or not value else f"{value:.1e}"


def rate_words(examples_per_second: float) -> str:
    """`34`, or `3.4` below ten."""
    return f"{examples_per_second:.0f}" if examples_per_second >= 10 else f"{examples_per_second:.1f}"


def metrics_words(metrics: Mapping[str, float]) -> str:
    """The first metrics of a task's own split: `acc 71.20  f1 80.01`."""
    own = {name: value for name, value in metrics.items() if "/" not in name}
    return "  ".join(f"{name} {value:.2f}" for name, value in list(own.items())[:_METRICS])


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


@dataclass(frozen=True)
class Report:
    """Where a run stands at a logging step. tasks: loss and terms of each task that was trained since the last one."""

    step: int
    epoch: float
    learning_rate: float
    examples_per_second: float
    seconds_left: float
    tasks: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def words(self) -> list[str]:
        """For the head of the table: epoch, learning rate, speed, time left."""
        speed, left = f"{rate_words(self.examples_per_second)} ex/s", f"{clock(self.seconds_left)} left"
        return [f"epoch {self.epoch:.2f}", f"lr {self.learning_rate:.2e}", speed, left]


class Display:
    """mode: `bar` (the live table), `lines`, `off`, or `auto` (the table where stderr is a terminal, else lines).

    Writes to stderr. dev: what the last evaluation gave, by task, and its step.
    """

    def __init__(
        self, mode: str, total: int, step: int, dev: Mapping[str, Mapping[str, float]] | None = None, dev_step: int = 0
    ) -> None:
        self.console = Console(stderr=True)
        if mode == "auto":
            mode = "bar" if self.console.is_terminal else "lines"
        self.mode, self.total, self._step = mode, total, step
        self._report: Report | None = None
        self._tasks: dict[str, Mapping[str, float]] = {}
        self._dev, self._dev_step, self._doing = dict(dev or {}), dev_step, ""
        self._live: Live | None = None
        if mode == "bar":
            self._live = Live(get_renderable=self.picture, console=self.console, refresh_per_second=4)
            self._live.start()

    def step(self, step: int) -> None:
        """After every step."""
        self._step = step

    def doing(self, what: str) -> None:
        """What goes on instead of training (`evaluating`, `saving`); empty: training again."""
        self._doing = what

    def report(self, report: Report) -> None:
        """At every logging step."""
        self._report = report
        self._tasks.update(report.tasks)
        if self.mode == "lines":
            self._print([" · ".join([f"step {report.step}/{self.total}", *report.words()]), *self._lines(report)])

    def evaluated(self, step: int, metrics: Mapping[str, Mapping[str, float]]) -> None:
        """After every evaluation."""
        self._dev, self._dev_step = {task: dict(found) for task, found in metrics.items()}, step

    def say(self, text: str) -> None:
        """A line that stays."""
        if self._live is not None:
            self._live.console.print(text, markup=False, highlight=False)
        elif self.mode == "lines":
            self._print([text])

    def close(self) -> None:
        """Leaves the table as it is last."""
        if self._live is not None:
            self._live.stop()

    def picture(self) -> Group:
        """The table: a head with the bar, then a line for each task."""
        head = Table.grid(padding=(0, 1))
        words = [*(self._report.words() if self._report else []), *([self._doing] if self._doing else [])]
        bar = ProgressBar(self.total, self._step, width=20)
        head.add_row(f"{self._step}/{self.total}", bar, Text(" · ".join(words), no_wrap=True))
        lines = Table.grid(padding=(0, 2))
        for name in (*self._tasks, *(task for task in self._dev if task not in self._tasks)):
            cells = [Text(name, style="bold"), Text("  ".join(_terms(self._tasks.get(name, {}))))]
            lines.add_row(*cells, Text(self._dev_words(name), style="cyan"))
        for column in lines.columns:
            column.no_wrap, column.overflow = True, "ellipsis"
        return Group(head, lines)

    def _lines(self, report: Report) -> list[str]:
        width = max(map(len, report.tasks), default=0)
        rows = [
            [f"  {name:<{width}}", *_terms(figures), self._dev_words(name)] for name, figures in report.tasks.items()
        ]
        return ["  ".join(filter(None, row)) for row in rows]

    def _dev_words(self, task: str) -> str:
        found = metrics_words(self._dev.get(task, {}))
        return f"dev @{self._dev_step}  {found}" if found else ""

    def _print(self, lines: Sequence[str]) -> None:
        print("\n".join(lines), file=sys.stderr, flush=True)


def _terms(figures: Mapping[str, float]) -> list[str]:
    return [f"{name} {number(value)}" for name, value in figures.items()]
