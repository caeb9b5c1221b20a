"""SIGINT and SIGTERM as a wish to end well."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

_AGAIN = 2.0  # seconds after which a second signal is meant as "now"; launchers pass one signal on twice


class StopSignals:
    """Inside the `with` block a signal is remembered in `received`; another one later raises `KeyboardInterrupt`.

    Outside the main thread Python cannot catch signals: nothing is changed there.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._at = 0.0
        self._before: dict[signal.Signals, Callable[..., Any] | int | None] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._remember) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _remember(self, number: int, frame: Any) -> None:
        if self.received is not None and time.monotonic() - self._at > _AGAIN:
            raise KeyboardInterrupt
        if self.received is None:
            self.received, self._at = signal.Signals(number), time.monotonic()
