"""Where a run stands, as one small file that is replaced as a whole: `status.json`. Imports nothing heavy.

It is written when something happens (a report, an evaluation, a checkpoint, the end), and in between at most every few
seconds: what a step pays is a look at the clock.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from mtrobust.errors import RunError, UserError
from mtrobust.evaluation import run_folder
from mtrobust.evaluation.run_folder import CONFIG, MODEL, RESULTS, jsonable, one_line, read_results

STATUS = "status.json"
BEAT = 5.0  # seconds between two signs of life
SILENT = 600.0  # seconds without one after which a run on another machine counts as gone: evaluations give none
RUNNING, FINISHED, STOPPED, FAILED = "running", "finished", "stopped", "failed"


class Status:
    """What the first process of a run says of it. A file that cannot be written stops nothing: the run's own files
    will tell."""

    def __init__(self, run_dir: Path, step: int, total: int, processes: int = 1, **facts: Any) -> None:
        self.path = run_dir / STATUS
        self._due = 0.0
        pid, host = os.getpid(), socket.gethostname()
        self.facts: dict[str, Any] = {"state": RUNNING, "doing": "training", "step": step, "total": total}
        self.facts |= {"pid": pid, "born": born(pid), "host": host, "processes": processes}
        self.facts |= {"started": time.time()} | facts
        self.write()

    def step(self, step: int) -> None:
        """After every step."""
        self.facts["step"] = step
        if time.monotonic() >= self._due:
            self.write()

    def write(self, **facts: Any) -> None:
        """Writes the file with these facts in place of earlier ones."""
        self.facts |= facts
        self._due = time.monotonic() + BEAT
        # Not forced to the disk: it is for those who look on, and a run goes on from its checkpoints.
        temporary = self.path.with_name(f".{STATUS}.tmp")
        with suppress(OSError):
            content = jsonable(self.facts | {"updated": time.time()})
            temporary.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8", newline="\n")
            os.replace(temporary, self.path)

    def ended(self, error: BaseException | None) -> None:
        """How the run ended: with an error, or (None) well."""
        if error is None:
            return self.write(state=FINISHED, doing="nothing", seconds_left=0.0)
        message = "stopped by Ctrl-C" if isinstance(error, KeyboardInterrupt) else one_line(error)
        if not isinstance(error, KeyboardInterrupt | RunError | UserError):
            message = f"{type(error).__name__}: {message}"
        wanted = isinstance(error, KeyboardInterrupt) or getattr(error, "exit_code", 1) == 130
        self.write(state=STOPPED if wanted else FAILED, doing="nothing", message=message)


def born(pid: int) -> int | None:
    """When a process began, in the system's own count, so that a number that is used again is not taken for the same
    process; 0 for one that has ended and was not yet waited for; None where the system does not say."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        return 0 if stat[0] == "Z" else int(stat[19])
    except (OSError, ValueError, IndexError):
        return None


def alive(pid: int, since: int | None) -> bool:
    """Whether the process is there, and is the one that began then."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is there, and another user's
        pass
    return since is None or born(pid) in (None, since)


def read_status(run: Path) -> dict[str, Any]:
    """Where a run stands. Keys: `run`, `state` (`running`, `finished`, `stopped`, `failed`), `message` (why it does not
    run), `checkpoint` (the last whole one), and what `status.json` holds. Raises `UserError` for a damaged file.

    A run of which nobody says that it ended is `stopped` where its process is gone.
    """
    checkpoints = run_folder.complete_checkpoints(run)
    found: dict[str, Any] = {"run": str(run), "checkpoint": checkpoints[-1].name if checkpoints else None}
    found |= {"message": None} | _written(run / STATUS)
    if "state" not in found:
        found |= _without_file(run)
    elif found["state"] == RUNNING:
        found["seen"] = max(0.0, time.time() - float(found.get("updated") or 0))
        reason = _gone(found)
        if reason:
            found |= {"state": STOPPED, "message": reason}
    if found["state"] in (STOPPED, FAILED):
        found["resume"] = f"mtrobust train {run / CONFIG} --resume"
    return found


def _written(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: is not JSON ({one_line(error)}); the next run or --resume writes it anew") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: must be a mapping; the next run or --resume writes it anew")
    return content


def _without_file(run: Path) -> dict[str, Any]:
    """A run that was begun by an earlier version, or that has not come to its first step."""
    train: Mapping[str, Any] = read_results(run).get("train", {})
    if not train or not (run / MODEL).is_dir():
        return {"state": STOPPED, "message": f"no {STATUS}: it is about to begin, or was begun by an earlier version"}
    best = {"step": train.get("best_step"), "score": train.get("best_score"), "of": train.get("metric_for_best_model")}
    metrics = {task: found for task, found in read_results(run).items() if task != "train"}
    steps = train.get("steps")
    return {"state": FINISHED, "step": steps, "total": steps, "best": best, "metrics": metrics} | {
        "examples_per_second": train.get("examples_per_second"), "message": f"{STATUS} is not there; from {RESULTS}",
    }  # fmt: skip


def _gone(found: Mapping[str, Any]) -> str | None:
    """Why a run that says it is running is not; None where it may be."""
    pid, host = found.get("pid"), found.get("host")
    if host == socket.gethostname() and os.name == "posix":  # elsewhere asking after a process would end it
        here = alive(int(pid or 0), found.get("born"))
        return None if here else f"process {pid} is gone without a last word (killed?)"
    silent = float(found["seen"])
    return None if silent < SILENT else f"no sign of process {pid} on {host} for {silent / 60:.0f} minutes"
