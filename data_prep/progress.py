"""A line on standard error that tells how far a long preparation is: items, rate, the time left where it is known."""

from __future__ import annotations

import sys
import time

FIRST = 3.0  # seconds before the first line: a quick command shows none
EVERY = {True: 1.0, False: 30.0}  # seconds between lines on a terminal and elsewhere


def duration(seconds: float) -> str:
    """`2:05` or `1:02:05`."""
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Progress:
    """Counts items and now and then writes a line. total: how many there will be; done: of these, before the start."""

    def __init__(self, what: str, total: int | None = None, done: int = 0, unit: str = "rows") -> None:
        self.what, self.total, self.unit = what, total, unit
        self.start_at, self.done = done, done
        self.began = time.monotonic()
        self.next = self.began + FIRST
        self.terminal = sys.stderr.isatty()
        self.shown = False

    def step(self, items: int = 1) -> None:
        """Counts further items."""
        self.done += items
        if time.monotonic() >= self.next:
            self._show()

    def line(self, now: float) -> str:
        """What is shown at a time of the monotonic clock."""
        rate = (self.done - self.start_at) / max(now - self.began, 1e-9)
        text = f"{self.what}: {self.done}{'' if self.total is None else f'/{self.total}'} {self.unit}, {rate:.3g}/s"
        left = (self.total - self.done) / rate if self.total is not None and rate > 0 else None
        return text if left is None else f"{text}, {duration(left)} left"

    def _show(self) -> None:
        now = time.monotonic()
        line = self.line(now)
        print(
            f"\r{line}\x1b[K" if self.terminal else line, end="" if self.terminal else "\n", file=sys.stderr, flush=True
        )
        self.next, self.shown = now + EVERY[self.terminal], True

    def close(self) -> None:
        """Ends the line on a terminal."""
        if self.shown and self.terminal:
            print(file=sys.stderr)
