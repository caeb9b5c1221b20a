"""A clock that says how long each part of some work took. Imports nothing, so that every room can use it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

_STOPPED = nullcontext()


class Clock:
    """Charges the time between `start` and `stop` to the innermost open part: `with clock.part("clean"): …`.

    wait: called before every reading while the clock runs, so that what an accelerator still has to do is charged to
    the part that asked for it. A clock that does not run (the default of all who take one) reads no time and does not
    wait.
    """

    def __init__(self, wait: Callable[[], object] = lambda: None) -> None:
        self.running = False
        self.seconds: dict[str, float] = {}  # by part, since `start`
        self._wait = wait
        self._open: list[tuple[str, ...]] = []
        self._last = 0.0

    def part(self, *names: str) -> AbstractContextManager[None]:
        """The time inside, but not that of parts opened within, belongs to this part; several names share it evenly."""
        return self._part(names) if self.running else _STOPPED

    def start(self, rest: str) -> None:
        """From now on time is charged; rest: to what while no part is open."""
        self.seconds, self._open, self.running = {}, [(rest,)], True
        self._wait()
        self._last = time.perf_counter()

    def stop(self) -> dict[str, float]:
        """Seconds by part since `start`; their sum is the whole time between the two calls."""
        self._charge()
        self.running = False
        return self.seconds

    @contextmanager
    def _part(self, names: tuple[str, ...]) -> Iterator[None]:
        self._charge()
        self._open.append(names)
        try:
            yield
        finally:
            self._charge()
            self._open.pop()

    def _charge(self) -> None:
        self._wait()
        now = time.perf_counter()
        names = self._open[-1]
        for name in names:
            self.seconds[name] = self.seconds.get(name, 0.0) + (now - self._last) / len(names)
        self._last = now
