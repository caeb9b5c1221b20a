"""The report as data: one row for each group of runs, one column for each figure, what it is compared with and why not.

Every output format is made from a `Report` and adds nothing to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np

from mtrobust.errors import UserError
from mtrobust.evaluation.report.examples import Examples, read_examples, usable
from mtrobust.evaluation.report.groups import Group, baseline_of
from mtrobust.evaluation.report.level import Level, level_of
from mtrobust.evaluation.report.runs import RunData, is_dev, task_of
from mtrobust.evaluation.report.stats import Array, Interval, Score, bootstrap, interval, mean_std
from mtrobust.registry import suggestion

AVERAGE = "average"


@dataclass(frozen=True)
class Settings:
    """What the user chose. Patterns are those of shell file names; `gate`: `column` or `task`."""

    baseline: str = "standard"
    columns: Sequence[str] = ()
    average: Sequence[str] = ()
    gate: str = "column"
    untrained: RunData | None = None
    data_dir: Path | None = None


class Point(NamedTuple):
    """A figure of one seed; deviations: [draws] of the bootstrap over the examples that `key` stands for."""

    value: float
    key: str = ""
    deviations: Array | None = None


class Difference(NamedTuple):
    """Mean difference to the baseline over common seeds. of_examples: the interval with these seeds taken as fixed."""

    mean: float
    seeds: tuple[int, ...]
    interval: Interval
    of_examples: Interval | None

    @property
    def clear(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.interval.low > 0 or self.interval.high < 0


@dataclass(frozen=True)
class Cell:
    """A figure of a group: by seed, mean, sample standard deviation; difference, or `why` there is none."""

    values: Mapping[int, float]
    mean: float
    std: float | None
    difference: Difference | None = None
    why: str = ""


class Verdict(NamedTuple):
    """Whether a column is compared. reached: the baseline's mean; source: the column whose level decides."""

    level: Level | None
    reached: float
    compared: bool
    source: str


@dataclass
class Row:
    """A group, or the published figures of one (`published`: where they are from). times: ratios to the baseline."""

    label: str
    method: str
    cells: dict[str, Cell]
    seeds: tuple[int, ...] = ()
    baseline: str | None = None  # label of the group that it is compared with; None: nothing is
    seconds: float | None = None  # per example, median over runs
    times: tuple[float, ...] = ()
    published: str = ""
    mark: str = ""  # "chosen on dev"

    @property
    def time(self) -> float | None:
        """Median multiple of the baseline's seconds per example."""
        return median(self.times) if self.times else None


@dataclass
class Report:
    """What all formats show. verdicts: by (label of the baseline group, column)."""

    baseline: str
    columns: list[str]
    rows: list[Row]
    verdicts: dict[tuple[str, str], Verdict] = field(default_factory=dict)
    grid: list[tuple[str, str, str]] = field(default_factory=list)  # (setting, dev figure, why chosen or not)
    grid_column: str = ""
    missing: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    averaged: list[str] = field(default_factory=list)
    swept: list[Row] = field(default_factory=list)  # all settings, where `rows` holds chosen ones only
    plots: list[tuple[str, str]] = field(default_factory=list)  # (file stem below the folder, caption)

    @property
    def own_rows(self) -> list[Row]:
        """Without published figures."""
        return [row for row in self.rows if not row.published]

    def cells_of(self, column: str) -> dict[str, tuple[Row, Cell]]:
        """Figures of one column by label, of settings that were not chosen too."""
        rows = [*self.own_rows, *self.swept]
        return {row.label: (row, row.cells[column]) for row in rows if column in row.cells}


Points = dict[str, dict[str, dict[int, Point]]]  # label -> column -> seed


def select_columns(groups: Iterable[Group], patterns: Sequence[str]) -> list[str]:
    """Columns of finished runs, by task: dev metrics, then sets and attacks. Raises `UserError` for idle patterns."""
    found = list(dict.fromkeys(column for group in groups for run in group.finished for column in run.figures))
    tasks = list(dict.fromkeys(map(task_of, found)))
    # stable: the metrics of a set keep the order in which the run wrote them
    found.sort(key=lambda column: (tasks.index(task_of(column)), not is_dev(column)))
    return pick(found, patterns, "--columns") if patterns else found


def pick(columns: Sequence[str], patterns: Sequence[str], flag: str) -> list[str]:
    """The columns that a pattern fits. Raises `UserError` naming every pattern that fits none."""
    idle = [pattern for pattern in patterns if not any(fnmatch(column, pattern) for column in columns)]
    if idle:
        known = ", ".join(columns[:20])
        faults = [
            f"{flag}: {pattern}: no such column{suggestion(pattern, columns)} (columns: {known})" for pattern in idle
        ]
        raise UserError(faults)
    return [column for column in columns if any(fnmatch(column, pattern) for pattern in patterns)]


def make_report(groups: Sequence[Group], settings: Settings, order: Sequence[str] = ()) -> Report:
    """The report on these groups, `settings.baseline` first, then those named in `order`, then the rest.

    Raises `UserError` for columns that no run has.
    """
    columns = select_columns(groups, settings.columns)
    averaged = pick(columns, settings.average, "--average") if settings.average else []
    groups = [group for group in groups if group.finished]
    points = _points(groups, columns, settings)
    if averaged:
        for of_group in points.values():
            of_group[AVERAGE] = _average([of_group.get(column, {}) for column in averaged])
        columns = [*columns, AVERAGE]
    report = Report(settings.baseline, columns, [], averaged=averaged)
    against = {group.label: baseline_of(group, groups, settings.baseline) for group in groups}
    for base in {group.label: group for group in against.values() if group}.values():
        _judge(report, base, points[base.label], settings)

    def rank(group: Group) -> tuple[bool, int]:
        place = order.index(group.label) if group.label in order else len(order)
        return settings.baseline not in (group.label, group.method), place

    report.rows = [_row(group, against[group.label], points, report) for group in sorted(groups, key=rank)]
    return report


# --- points ------------------------------------------------------------------------------------------------------


def _points(groups: Sequence[Group], columns: Sequence[str], settings: Settings) -> Points:
    """All figures, with the bootstrap deviations of those whose examples are at hand."""
    points: Points = {group.label: {} for group in groups}
    jobs: dict[str, list[tuple[str, str, int, float, Score]]] = {}
    sizes: dict[str, int] = {}
    for group in groups:
        for run in group.finished:
            cache: dict[str, Examples | None] = {}  # by column without metric: one file holds several metrics
            for column in columns:
                value = run.figures.get(column)
                if value is None:
                    continue
                points[group.label].setdefault(column, {})[run.seed] = Point(value)
                place = column.rpartition("/")[0]
                if place not in cache:
                    cache[place] = read_examples(run, column, settings.data_dir)
                examples = cache[place]
                score = usable(examples, column, value)
                if examples is not None and score is not None:
                    sizes[examples.key] = len(examples.ids)
                    jobs.setdefault(examples.key, []).append((group.label, column, run.seed, value, score))
    for key, listed in jobs.items():
        drawn = bootstrap([score for *_, score in listed], key, sizes[key])
        for (label, column, seed, value, _), figures in zip(listed, drawn, strict=True):
            points[label][column][seed] = Point(value, key, figures - value)
    return points


def _average(columns: Sequence[dict[int, Point]]) -> dict[int, Point]:
    """The mean over columns of each seed that has them all; the same examples are drawn in each."""
    found = {}
    for seed in sorted(set.intersection(*(set(column) for column in columns))):
        points = [column[seed] for column in columns]
        drawn = [point.deviations for point in points if point.deviations is not None]
        mean = np.mean(drawn, axis=0) if len(drawn) == len(points) else None
        key = "\n\n".join(point.key for point in points)
        found[seed] = Point(float(np.mean([point.value for point in points])), key, mean)
    return found


# --- what may be compared ----------------------------------------------------------------------------------------


def _judge(report: Report, base: Group, points: Mapping[str, Mapping[int, Point]], settings: Settings) -> None:
    """Adds the verdict on every column of one baseline group."""
    own: dict[str, Verdict] = {}
    for column in points:
        if column != AVERAGE:
            run = next(run for run in base.finished if run.figures.get(column) is not None)
            level = level_of(column, run, settings.untrained, settings.data_dir)
            reached = float(np.mean([point.value for point in points[column].values()]))
            own[column] = Verdict(level, reached, level is None or reached > level.upper + 1e-9, column)
    for column, verdict in own.items():
        if verdict.level is None or (settings.gate == "task" and not is_dev(column)):
            source = next((other for other in _parents(column, own) if own[other].level is not None), None)
            if source is not None:
                verdict = Verdict(own[source].level, own[source].reached, own[source].compared, source)
        report.verdicts[base.label, column] = verdict
    if AVERAGE in points:
        held = [report.verdicts[base.label, column] for column in report.averaged if column in own]
        reached = (
            float(np.mean([point.value for point in points[AVERAGE].values()])) if points[AVERAGE] else float("nan")
        )
        report.verdicts[base.label, AVERAGE] = Verdict(None, reached, all(v.compared for v in held), AVERAGE)


def _parents(column: str, known: Iterable[str]) -> list[str]:
    """Columns whose level stands for one without its own: the whole set of a group, then the task's dev metrics."""
    task, *middle, metric = column.split("/")
    whole = ["/".join([task, *middle[:n], metric]) for n in range(len(middle) - 1, 0, -1)]
    known = list(known)
    return [c for c in whole if c in known] + [c for c in known if task_of(c) == task and is_dev(c)]


# --- rows --------------------------------------------------------------------------------------------------------


def _row(group: Group, base: Group | None, points: Points, report: Report) -> Row:
    row = Row(group.label, group.method, {}, tuple(sorted({run.seed for run in group.finished})))
    row.baseline = base.label if base else None
    speeds = [run.seconds_per_example for run in group.finished]
    row.seconds = median([x for x in speeds if x is not None]) if any(x is not None for x in speeds) else None
    row.times = tuple(_times(group, base)) if base else ()
    for column in report.columns:
        own = points[group.label].get(column)
        if not own:
            continue
        values = {seed: own[seed].value for seed in sorted(own)}
        mean, std = mean_std(list(values.values()))
        difference, why = _difference(group, base, column, points, report)
        row.cells[column] = Cell(values, mean, std, difference, why)
    return row


def _times(group: Group, base: Group) -> list[float]:
    """Seconds per example over those of the baseline's run with the same seed and tasks."""
    found = {(run.seed, run.trained): run.seconds_per_example for run in base.finished}
    pairs = [(run.seconds_per_example, found.get((run.seed, run.trained))) for run in group.finished]
    return [own / reference for own, reference in pairs if own and reference]


def _difference(
    group: Group, base: Group | None, column: str, points: Points, report: Report
) -> tuple[Difference | None, str]:
    """(the difference to the baseline, or why there is none)."""
    if base is None:
        return None, f"no `{report.baseline}` to compare with"
    if base is group:
        return None, "baseline"
    own, other = points[group.label][column], points[base.label].get(column, {})
    seeds = tuple(sorted(own.keys() & other.keys()))
    if not seeds:
        return None, "no common seed"
    if not report.verdicts[base.label, column].compared:
        return None, "not compared"
    return compare([own[seed] for seed in seeds], [other[seed] for seed in seeds], seeds), ""


def compare(own: Sequence[Point], other: Sequence[Point], seeds: Sequence[int]) -> Difference:
    """The difference of paired points. The examples count only if all points are about the same ones."""
    differences = [a.value - b.value for a, b in zip(own, other, strict=True)]
    drawn = []
    for a, b in zip(own, other, strict=True):
        if a.deviations is not None and b.deviations is not None and a.key == b.key == own[0].key:
            drawn.append(a.deviations - b.deviations)
    deviations = np.mean(drawn, axis=0) if len(drawn) == len(differences) else None
    mean = float(np.mean(differences))
    return Difference(
        mean,
        tuple(seeds),
        interval(differences, deviations),
        None if deviations is None else interval([mean], deviations),
    )
