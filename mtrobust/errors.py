"""The two ways a command can end badly, so that `cli` alone decides how they are printed."""

from __future__ import annotations

from collections.abc import Iterable


class UserError(Exception):
    """Bad input found before any work began: exit code 2, one line per fault.

    Each fault names the place (file, line or key), the value, and what is allowed.
    """

    def __init__(self, faults: str | Iterable[str]) -> None:
        self.faults = [faults] if isinstance(faults, str) else list(faults)
        super().__init__("\n".join(self.faults))


class RunError(Exception):
    """A failure in the middle of a run (non-finite loss, full disk): exit code 1, one clear line."""

    exit_code = 1
