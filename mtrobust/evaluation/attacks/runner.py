"""Attacks many rows, in this process or in several, and writes every outcome at once. Imports no torch by itself."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mtrobust.errors import RunError, UserError
from mtrobust.evaluation.attacks.base import ATTACKS, Attack, AttackOptions
from mtrobust.evaluation.attacks.records import AttackLog, Record, figures, record_of
from mtrobust.evaluation.attacks.target import Target

Mode = Literal["auto", "lines", "off"]
_EVERY = 10.0  # seconds between two lines of progress
_POLL = 1.0  # seconds after which processes that wait look whether the others are still there


class Stopped(RunError):
    """The user's wish: exit code 130."""

    exit_code = 130


@dataclass(frozen=True)
class Job:
    """What a process needs to attack rows; small enough to be sent to it."""

    target: Target
    attack: str
    options: AttackOptions
    field: str
    batch_size: int | None = None
    use_cpu: bool = False

    def start(self, number: int = 0) -> Callable[[Mapping[str, Any]], Record]:
        """Loads the models; a function from rows to records. Raises `UserError`."""
        import mtrobust.evaluation.attacks  # noqa: F401  (registers)

        victim = self.target.open(self.use_cpu, number, self.batch_size)
        attack: Attack = ATTACKS[self.attack](self.options, victim, self.field)
        return lambda row: record_of(row, self.field, self.target.task.labels, attack.run(row))


def attack_rows(
    job: Job, rows: Sequence[Mapping[str, Any]], written: AttackLog, processes: int = 1, progress: Mode = "off"
) -> dict[str, Any]:
    """Attacks the rows that are not in `written` yet and adds them to it; the figures over all rows.

    The outcome of a row does not depend on the number of processes. Raises `Stopped` on Ctrl-C or a termination
    signal; what was done is written then, and the same call goes on.
    """
    waiting = [row for row in rows if row["id"] not in written.done]
    shown = Progress(progress, len(rows), written.done)
    with written:
        if waiting:
            before = signal.signal(signal.SIGTERM, signal.default_int_handler)
            try:
                several = processes > 1 and len(waiting) > 1
                done = _in_several(job, waiting, min(processes, len(waiting))) if several else map(job.start(), waiting)
                for record in done:
                    written.add(record)
                    shown.add(record)
            except KeyboardInterrupt:
                count = f"{len(written.done)} of {len(rows)} rows"
                raise Stopped(f"stopped after {count}, which are written; the same command goes on") from None
            finally:
                signal.signal(signal.SIGTERM, before)
                shown.close()
        return written.finish(job.options.notes())


# --- several processes ------------------------------------------------------------------------------------------------


def _in_several(job: Job, rows: Sequence[Mapping[str, Any]], count: int) -> Iterator[Record]:
    """Records as they come. Processes take rows from one queue, so that none waits for a slow one."""
    context = multiprocessing.get_context("spawn")
    todo: Any = context.Queue()
    done: Any = context.Queue()
    for row in [*rows, *[None] * count]:
        todo.put(row)
    workers = [context.Process(target=_work, args=(job, n, count, todo, done), daemon=True) for n in range(count)]
    try:
        for worker in workers:
            worker.start()
        for _ in rows:
            yield _next(done, workers)
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.join()
        for channel in (todo, done):
            channel.cancel_join_thread()


def _next(done: Any, workers: Sequence[Any]) -> Record:
    """The next record. Raises what ended a process instead."""
    while True:
        try:
            kind, value = done.get(timeout=_POLL)
        except queue.Empty:
            dead = [worker.exitcode for worker in workers if worker.exitcode]
            if dead and done.empty():
                raise RunError(f"a process of the attack ended with code {dead[0]}; the same command goes on") from None
            continue
        if kind == "faults":
            raise UserError(value)
        if kind == "failed":
            raise RunError(value)
        return value


def _work(job: Job, number: int, count: int, todo: Any, done: Any) -> None:
    """A process: attacks what it takes from `todo` until there is nothing, or nobody who waits."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the first one ends the others
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    parent = os.getppid()
    import torch

    torch.set_num_threads(max(1, torch.get_num_threads() // count))
    try:
        attack = job.start(number)
        while os.getppid() == parent:
            try:
                row = todo.get(timeout=_POLL)
            except queue.Empty:
                continue
            if row is None:
                return
            done.put(("record", attack(row)))
    except UserError as error:
        done.put(("faults", error.faults))
    except RunError as error:
        done.put(("failed", str(error)))


# --- what a person sees -----------------------------------------------------------------------------------------------


class Progress:
    """`12/50 rows · accuracy 84.0 -> 20.0 · 95 queries · 1.3 rows/s · 0:29 left` on standard error: one line that
    changes where that is a terminal, else a line every ten seconds."""

    def __init__(self, mode: Mode, total: int, done: Mapping[str, Record]) -> None:
        self._mode, self._total, self._records = mode, total, list(done.values())
        self._first = len(self._records)
        self._begun = self._last = time.monotonic()
        self._same_line = mode == "auto" and sys.stderr.isatty()

    def add(self, record: Record) -> None:
        """Counts a row."""
        self._records.append(record)
        now = time.monotonic()
        due = now - self._last >= (0.2 if self._same_line else _EVERY) or len(self._records) == self._total
        if self._mode != "off" and due:
            self._last = now
            print(self._line(now), file=sys.stderr, end="" if self._same_line else "\n", flush=True)

    def close(self) -> None:
        """Leaves the last line standing."""
        if self._same_line and len(self._records) > self._first:
            print(file=sys.stderr)

    def _line(self, now: float) -> str:
        found, count = figures(self._records), len(self._records)
        rate = (count - self._first) / max(now - self._begun, 1e-9)
        minutes, seconds = divmod(int((self._total - count) / max(rate, 1e-9)), 60)
        asked = "" if found["query_number"] is None else f" · {found['query_number']:.0f} queries"
        accuracy = f"accuracy {found['original_accuracy']:.1f} -> {found['attack_accuracy']:.1f}"
        line = f"{count}/{self._total} rows · {accuracy}{asked} · {rate:.2f} rows/s · {minutes}:{seconds:02d} left"
        return f"\r\x1b[K{line}" if self._same_line else line
