"""What a complete grid of runs would hold and these do not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

from mtrobust.evaluation.report.groups import Group
from mtrobust.evaluation.run_folder import RESULTS


class Expected(NamedTuple):
    """What was planned: every method with every seed, columns (patterns) that some run must have, run folders."""

    methods: list[str]
    seeds: list[int]
    columns: list[str]
    runs: list[Path]


def whole_numbers(numbers: Iterable[int]) -> str:
    """`1-3, 5`."""
    parts: list[list[int]] = []
    for number in sorted(set(numbers)):
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)


def _seeds(numbers: Iterable[int]) -> str:
    found = set(numbers)
    return f"seed{'s' if len(found) > 1 else ''} {whole_numbers(found)}"


def find_missing(groups: Sequence[Group], expected: Expected | None, columns: Sequence[str]) -> list[str]:
    """One line for each gap: unfinished runs, absent seeds, methods and figures, undefined figures.

    Without `expected` the grid is what the runs themselves span: of each set of tasks, all methods that ran on any set
    with all seeds that ran on this one.
    """
    lines = [
        f"{group.label}, seed {run.seed}: not finished ({run.path}: {run.where()})"
        for group in groups
        for run in group.runs
        if run.results is None
    ]
    lines += [
        f"{group.label}, seed {run.seed}: {name} not finished ({run.path})"
        for group in groups
        for run in group.runs
        for name in run.unfinished
    ]
    lines += _planned(groups, expected) if expected else []
    lines += [] if expected and expected.methods else _derived(groups)
    return lines + _figures(groups, columns, expected)


def _planned(groups: Sequence[Group], expected: Expected) -> list[str]:
    lines = []
    for method in expected.methods:
        there = {run.seed for group in groups if method in (group.label, group.method) for run in group.runs}
        absent = set(expected.seeds) - there
        if not there:
            lines.append(f"{method}: no run (expected: {_seeds(expected.seeds)})")
        elif absent:
            lines.append(f"{method}: no run with {_seeds(absent)} (expected)")
    named = {run.path.resolve() for group in groups for run in group.runs}
    for path in expected.runs:
        # a finished one that the report was not given belongs to another table
        if path.resolve() not in named and not (path / RESULTS).is_file():
            lines.append(f"{path}: no run, or it failed before its first step (expected)")
    return lines


def _derived(groups: Sequence[Group]) -> list[str]:
    lines = []
    for tasks in sorted({run.trained for group in groups for run in group.runs}):
        there = {group.label: {run.seed for run in group.runs if run.trained == tasks} for group in groups}
        every = set().union(*there.values())
        place = f" on {', '.join(tasks)}" if tasks else ""
        for label, seeds in there.items():
            if seeds and every - seeds:
                lines.append(f"{label}: no run{place} with {_seeds(every - seeds)}, which others have")
        absent = [label for label, seeds in there.items() if not seeds]
        if absent:
            lines.append(f"no run{place} of {', '.join(absent)}")
    return lines


def _figures(groups: Sequence[Group], columns: Sequence[str], expected: Expected | None) -> list[str]:
    """Figures that runs on the same tasks have, or that the plan asks for, and that some lack."""
    lines = []
    having: dict[tuple[str, tuple[str, ...]], bool] = {}
    for group in groups:
        for run in group.finished:
            having.update({(column, run.trained): True for column in run.figures})
    planned = expected.columns if expected else []
    lines += [f"{p}: no run has such a column (expected)" for p in planned if not any(fnmatch(c, p) for c in columns)]
    for group in groups:
        absent: dict[str, list[int]] = {}
        undefined: dict[str, list[int]] = {}
        for run in group.finished:
            for column in columns:
                if column in run.figures:
                    if run.figures[column] is None:
                        undefined.setdefault(column, []).append(run.seed)
                elif (column, run.trained) in having:
                    absent.setdefault(column, []).append(run.seed)
        lines += _by_seeds(group.label, absent, "lacks")
        lines += _by_seeds(group.label, undefined, "has undefined values (null) of")
    return lines


def _by_seeds(label: str, found: dict[str, list[int]], what: str) -> list[str]:
    """Columns with the same seeds in one line."""
    together: dict[tuple[int, ...], list[str]] = {}
    for column, seeds in found.items():
        together.setdefault(tuple(sorted(seeds)), []).append(column)
    return [f"{label}, {_seeds(seeds)}: {what} {', '.join(columns)}" for seeds, columns in together.items()]
