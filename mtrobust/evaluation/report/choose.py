"""Choosing among settings of a method by a dev figure, setting the published figures beside ours, and sweeps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from mtrobust.errors import UserError
from mtrobust.evaluation.report.groups import CONDITIONS, Group, plain, settings_of
from mtrobust.evaluation.report.inputs import Published
from mtrobust.evaluation.report.runs import higher_is_better, is_dev, natural
from mtrobust.evaluation.report.stats import mean_std
from mtrobust.evaluation.report.table import Cell, Report, Row
from mtrobust.registry import suggestion

CHOSEN = "chosen on dev"


class Choice(NamedTuple):
    """The groups that stay, and the lines of the table of all settings."""

    groups: list[Group]
    lines: list[tuple[str, str, str]]
    marks: dict[str, str]


def choose_best(groups: Sequence[Group], column: str) -> Choice:
    """Of every method the setting with the best mean of a dev column; conditions (data fraction, …) stay apart.

    Settings with fewer seeds than others of the method are not considered: a mean of fewer is easier to be lucky with.
    Raises `UserError` for a column that is not a dev metric or that no run has.
    """
    known = list(dict.fromkeys(name for group in groups for run in group.finished for name in run.figures))
    if not is_dev(column) or column not in known:
        dev = ", ".join(filter(is_dev, known))
        raise UserError(
            f"--best_by: {column}: must be a dev metric that the runs have, as <task>/<metric>"
            f"{suggestion(column, known)} (these have {dev or 'none'})"
        )
    families: dict[tuple[str, ...], list[Group]] = {}
    for group in groups:
        conditions = [f"{key}={plain(x)}" for key, x in group.varied.items() if key in CONDITIONS]
        families.setdefault((group.method, *conditions), []).append(group)
    kept, lines, marks = [], [], {}
    for family in families.values():
        values = {group.label: _values(group, column) for group in family}
        most = max(map(len, values.values()))
        considered = [group for group in family if len(values[group.label]) == most and most]
        sign = 1 if higher_is_better(column) else -1
        best = max(considered, key=lambda group: sign * mean_std(values[group.label])[0], default=family[0])
        kept.append(best)
        if len(family) < 2:
            continue
        marks[best.label] = f"{CHOSEN}, of {len(considered)}"
        for group in family:
            why = "chosen" if group is best else "" if group in considered else "not considered: fewer seeds"
            lines.append((group.label, _figure(values[group.label]), why))
    return Choice(kept, lines, marks)


def _values(group: Group, column: str) -> list[float]:
    found = (run.figures.get(column) for run in group.finished)
    return [value for value in found if value is not None]


def _figure(values: Sequence[float]) -> str:
    if not values:
        return "-"
    mean, std = mean_std(values)
    return f"{mean:.1f}" + (f" ± {std:.1f}" if std is not None else "") + f" (n={len(values)})"


def add_published(report: Report, published: Iterable[Published]) -> None:
    """Puts a row of published figures under each method that has any; names what found no column."""
    for source in published:
        idle = [column for column in source.figures if column not in report.columns]
        if idle:
            report.notes.append(f"published figures without a column here ({source.source}): {', '.join(idle)}")
        for method in dict.fromkeys(name for column in report.columns for name in source.figures.get(column, {})):
            row = Row(method, method, _published_cells(report, source, method), published=source.source)
            rows = [at for at, other in enumerate(report.rows) if method in (other.label, other.method)]
            report.rows.insert(rows[-1] + 1 if rows else len(report.rows), row)


def _published_cells(report: Report, source: Published, method: str) -> dict[str, Cell]:
    """Figures of one method. A published difference has no interval, so only the figures are kept."""
    found = {column: source.figures.get(column, {}).get(method) for column in report.columns}
    return {column: Cell({}, value, None, None, "published") for column, value in found.items() if value is not None}


class Sweep(NamedTuple):
    """A setting that varies. families: by name, the label of the group at each value; flat: groups without it."""

    key: str
    values: list[Any]
    families: dict[str, dict[Any, str]]
    flat: list[str]


def find_sweep(groups: Sequence[Group], key: str) -> Sweep:
    """Groups by the values of a setting. Raises `UserError` where it does not vary or groups mix several values."""
    families: dict[str, dict[Any, str]] = {}
    flat, values, faults = [], {}, []
    known = list(dict.fromkeys(name for group in groups for run in group.runs for name in settings_of(run)))
    for group in groups:
        settings = [settings_of(run) for run in group.runs]
        own = {plain(found[key]): found[key] for found in settings if key in found}
        if not own:
            flat.append(group.label)
        elif len(own) > 1:
            faults.append(f"--sweep: {key}: {group.label} has runs with {', '.join(own)}; do not group these together")
        else:
            ((text, value),) = own.items()
            values[text] = value
            rest = " ".join(f"{name.rpartition('.')[2]}={plain(x)}" for name, x in group.varied.items() if name != key)
            families.setdefault(" ".join(filter(None, [group.method, rest])), {})[text] = group.label
    if key not in known:
        faults.append(f"--sweep: {key}: no run has this setting{suggestion(key, known)}")
    elif len(values) < 2 and not faults:
        faults.append(f"--sweep: {key}: has one value in all runs: {', '.join(values)}")
    if faults:
        raise UserError(faults)
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values.values())
    ordered = sorted(values, key=lambda text: values[text]) if numbers else _natural(values)
    # a method that ran at one value only (the baseline at its own) is a line to compare with
    for name in [name for name, points in families.items() if len(points) < 2]:
        flat += families.pop(name).values()
    return Sweep(key, [text for text in ordered if any(text in found for found in families.values())], families, flat)


def _natural(values: Iterable[str]) -> list[str]:
    # `words` and `embeddings` stand below layer 1
    below = {"words": 0, "embeddings": 1}
    return sorted(values, key=lambda text: (below.get(text, 2), natural(text)))
