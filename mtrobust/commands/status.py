"""`mtrobust status RUN…`: where runs stand, finished or not."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from mtrobust.commands.parser import Parser
from mtrobust.errors import UserError

_DESCRIPTION = """Where runs stand: running, finished, stopped or failed, how far they came, how well they do.

RUN: run folders, folders that hold some, or quoted patterns. Reads small files only; a run may write meanwhile.
"""
_HEAD = ("run", "state", "step", "epoch", "ex/s", "left", "best", "checkpoint")


def run(argv: list[str]) -> int:
    """Prints a row for each run, and details of those that are not finished."""
    parser = Parser(prog="mtrobust status", description=_DESCRIPTION)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folder, folder of run folders, or quoted pattern")
    parser.add_argument("--json", action="store_true", help="a JSON list with all that is known of each run")
    args = parser.parse(argv)

    from mtrobust.evaluation.report.runs import find_runs
    from mtrobust.evaluation.run_folder import jsonable
    from mtrobust.training.status import read_status

    found, faults = [], []
    for path in find_runs(args.runs):
        try:
            found.append(read_status(path))
        except UserError as error:
            faults += error.faults
    if args.json and not faults:
        print(json.dumps(jsonable(found), ensure_ascii=False, allow_nan=False, indent=2))
    elif found:
        print("\n".join(lines(found)))
    if faults:
        raise UserError(faults)
    return 0


def lines(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """A table with one row for each run; below the row of a run that is not finished: losses, dev metrics, why."""
    rows = [_HEAD, *(_row(status) for status in found)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEAD))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    shown = [text[0]]
    for line, status in zip(text[1:], found, strict=True):
        shown += [line, *(f"    {detail}" for detail in _details(status))]
    return shown


def _row(status: Mapping[str, Any]) -> tuple[str, ...]:
    from mtrobust.training.progress import clock, rate_words

    step, total, best = status.get("step"), status.get("total"), status.get("best") or {}
    running = status["state"] == "running"
    left = status.get("seconds_left") if running else None
    epoch, speed = status.get("epoch"), status.get("examples_per_second")
    return (
        status["run"],
        status["state"],
        "-" if step is None else f"{step}/{total} ({100 * step // total} %)" if total else str(step),
        "-" if epoch is None else f"{epoch:.2f}",
        "-" if speed is None else rate_words(speed),
        "-" if left is None else clock(left),
        "-" if best.get("score") is None else f"{best['of']} {best['score']:.2f} @{best['step']}",
        status["checkpoint"] or "-",
    )


def _details(status: Mapping[str, Any]) -> list[str]:
    from mtrobust.training.progress import clock, metrics_words, number

    if status["state"] == "finished":
        return []
    told = []
    if status["state"] == "running":
        seen = clock(status["seen"])
        told.append(f"{status.get('doing')}, process {status.get('pid')} on {status.get('host')}, seen {seen} ago")
    for task, terms in (status.get("losses") or {}).items():
        told.append(f"{task}: " + "  ".join(f"{name} {number(x)}" for name, x in terms.items() if x is not None))
    for task, metrics in (status.get("metrics") or {}).items():
        words = metrics_words({name: x for name, x in metrics.items() if x is not None})
        told += [f"{task}: dev @{status.get('evaluated_step')}  {words}"] if words else []
    if status.get("message"):
        told.append(str(status["message"]))
    if status.get("resume"):
        told.append(f"goes on with: {status['resume']}")
    return told
