"""Pictures of a report: figures and differences, learning curves, sweeps. Black is the baseline."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mtrobust.evaluation.pictures import BASE, GREY, OTHERS, Picture, available, new_figure, save, style
from mtrobust.evaluation.report.choose import Sweep
from mtrobust.evaluation.report.groups import Group
from mtrobust.evaluation.report.runs import curves, is_dev
from mtrobust.evaluation.report.sheets import name_of, number
from mtrobust.evaluation.report.table import AVERAGE, Report, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["available", "draw"]

_UNITS = {"query_number": "queries", "ppl": ""}
TOGETHER = 4  # curves in one panel; more bands than these hide each other


def draw(report: Report, groups: Sequence[Group], sweeps: Sequence[Sweep]) -> Iterator[Picture]:
    """All pictures, one after another. groups: those of the rows, with their runs (curves are read from them)."""
    with style():
        for column in (c for c in report.columns if any(c in row.cells for row in report.own_rows)):
            yield save(f"figures-{_slug(column)}", *_figures(report, column))
        for sweep in sweeps:
            for column in report.columns:
                made = _sweep(report, sweep, column)
                if made:
                    yield save(f"sweep-{_slug(sweep.key)}-{_slug(column)}", *made)
        for name, of_group in _curves(report, groups).items():
            yield save(f"curve-{_slug(name)}", *_curve_figure(report, name, of_group))


def _slug(text: str) -> str:
    return re.sub(r"[^\w.]+", "-", text.replace("/", ".")).strip("-")


def axis_label(column: str) -> str:
    """A column with its unit."""
    unit = _UNITS.get(column.rsplit("/", 1)[-1], "%")
    return f"{column} ({unit})" if unit else column


def _is_base(report: Report, label: str) -> bool:
    return any(row.baseline == label == row.label for row in report.own_rows)


def _colours(report: Report, labels: Iterable[str]) -> dict[str, str]:
    found, others = {}, 0
    for label in labels:
        if _is_base(report, label):
            found[label] = BASE
        else:
            found[label] = OTHERS[others % len(OTHERS)]
            others += 1
    return found


# --- figures and differences -------------------------------------------------------------------------------------


def _figures(report: Report, column: str) -> tuple[Figure, str]:
    """Left: every seed and the mean; right: bars of the differences with their intervals."""
    rows = [row for row in report.rows if column in row.cells][::-1]
    compared = [row for row in rows if row.cells[column].difference is not None]
    figure = new_figure(1.3 + 0.28 * len(rows))
    axes = figure.subplots(1, 2 if compared else 1, sharey=True, squeeze=False)[0]
    _seeds(axes[0], rows, column)
    caption = f"{column}: dots are seeds, strokes means" + ("; hollow: published." if _any_published(rows) else ".")
    verdicts = [verdict for (_, of), verdict in report.verdicts.items() if of == column and verdict.source == column]
    if len(verdicts) == 1 and verdicts[0].level:
        level = verdicts[0].level
        low, high = axes[0].get_xlim()
        if level.figure > low - (high - low) / 2:  # else it would press the figures together
            axes[0].axvline(level.figure, color=GREY, linestyle=":", linewidth=1.5)
            caption += f" Dotted: {level.kind} ({number(level.figure)})."
        else:
            caption += f" Far to the left: {level.kind} ({number(level.figure)})."
    if compared:
        _bars(axes[1], rows, column)
        axes[1].set_xlabel(f"difference to {report.baseline}" + (" (points)" if "(%)" in axis_label(column) else ""))
        caption += " Right: paired differences with 95 % intervals; dark: the interval leaves 0 out."
    return figure, caption


def _any_published(rows: Iterable[Row]) -> bool:
    return any(row.published for row in rows)


def _seeds(axes: Axes, rows: Sequence[Row], column: str) -> None:
    for at, row in enumerate(rows):
        cell = row.cells[column]
        colour = BASE if row.baseline == row.label else OTHERS[0]
        if row.published:
            axes.plot([cell.mean], [at], "D", color=OTHERS[1], markerfacecolor="white", markersize=6)
            continue
        axes.plot(list(cell.values.values()), [at] * len(cell.values), "o", color=colour, markersize=5, alpha=0.5)
        axes.plot([cell.mean], [at], "|", color=colour, markersize=15, markeredgewidth=2.5)
    axes.set_yticks(range(len(rows)), [name_of(row) for row in rows])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("mean over columns (%)" if column == AVERAGE else axis_label(column))


def _bars(axes: Axes, rows: Sequence[Row], column: str) -> None:
    for at, row in enumerate(rows):
        found = row.cells[column].difference
        if found is None:
            continue
        axes.barh(at, found.mean, height=0.6, color="#56B4E9" if found.clear else "#d6ebf7")
        if found.interval.of != "none":
            reach = [[found.mean - found.interval.low], [found.interval.high - found.mean]]
            axes.errorbar([found.mean], [at], xerr=reach, color="#222222", capsize=2.5, linewidth=1.1)
    axes.axvline(0, color=BASE, linewidth=1)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)


# --- sweeps ------------------------------------------------------------------------------------------------------


def _sweep(report: Report, sweep: Sweep, column: str) -> tuple[Figure, str] | None:
    cells = {label: cell for label, (_, cell) in report.cells_of(column).items()}
    families = {
        name: {value: cells[label] for value, label in points.items() if label in cells}
        for name, points in sweep.families.items()
    }
    families = {name: points for name, points in families.items() if len(points) > 1}
    if not families:
        return None
    figure = new_figure(3.8)
    axes = figure.subplots()
    place = _scale(axes, sweep.values)
    colours = _colours(report, [*sweep.flat, *families])
    for name, points in families.items():
        x = [place[value] for value in sweep.values if value in points]
        chosen = [points[value] for value in sweep.values if value in points]
        spread = [cell.std or 0.0 for cell in chosen]
        means = [cell.mean for cell in chosen]
        axes.errorbar(x, means, yerr=spread, color=colours[name], marker="o", capsize=3, linewidth=1.6, label=name)
    for label in sweep.flat:
        if label in cells:
            axes.axhline(cells[label].mean, color=colours[label], linestyle="--", linewidth=1.3, label=label)
    axes.set_xlabel(sweep.key.removeprefix("perturb."))
    axes.set_ylabel("mean over columns (%)" if column == AVERAGE else axis_label(column))
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    name = sweep.key.removeprefix("perturb.")
    return (
        figure,
        f"{column} against {name}: mean ± sample standard deviation over seeds; dashed: without this setting.",
    )


def _scale(axes: Axes, values: Sequence[str]) -> dict[str, float]:
    """Where each value stands: at its number (logarithmic over more than a factor of 30), or one after another."""
    try:
        numbers = {value: float(value) for value in values}
    except ValueError:
        axes.set_xticks(range(len(values)), values)
        return {value: float(at) for at, value in enumerate(values)}
    if min(numbers.values()) > 0 and max(numbers.values()) > 30 * min(numbers.values()):
        axes.set_xscale("log")
    axes.set_xticks(list(numbers.values()), values)
    axes.minorticks_off()
    return numbers


# --- learning curves ---------------------------------------------------------------------------------------------

Band = tuple[list[int], Any, Any, Any]  # steps, mean, lowest, highest


def _curves(report: Report, groups: Sequence[Group]) -> dict[str, dict[str, Band]]:
    """Curves with at least two steps, by name and group: training loss of every task, dev metrics of the columns."""
    found: dict[str, dict[str, list[dict[int, float]]]] = {}
    labels = [row.label for row in report.own_rows]
    for group in sorted((g for g in groups if g.label in labels), key=lambda g: labels.index(g.label)):
        for run in group.finished:
            for name, points in curves(run).items():
                if name.endswith("/loss") or (name in report.columns and is_dev(name)):
                    found.setdefault(name, {}).setdefault(group.label, []).append(points)
    bands = {name: {label: _band(seeds) for label, seeds in of.items()} for name, of in found.items()}
    bands = {name: {label: band for label, band in of.items() if len(band[0]) > 1} for name, of in bands.items()}
    return {name: of for name, of in bands.items() if of}


def _band(seeds: Sequence[Mapping[int, float]]) -> Band:
    """Over the steps that all seeds have."""
    steps = sorted(set.intersection(*(set(points) for points in seeds)))
    values = np.array([[points[step] for step in steps] for points in seeds])
    return steps, values.mean(axis=0), values.min(axis=0), values.max(axis=0)


def _curve_figure(report: Report, name: str, of_group: Mapping[str, Band]) -> tuple[Figure, str]:
    """One panel where the methods can be told apart in it, else one for each method with the baseline behind it."""
    together = len(of_group) <= TOGETHER
    label = (
        axis_label(name) if not name.endswith("/loss") else f"{name.removesuffix('/loss')}: training loss per example"
    )
    what = "mean over seeds; band: from the lowest to the highest seed"
    if together:
        figure = new_figure(3.8)
        axes = figure.subplots()
        for (group, band), colour in zip(of_group.items(), _colours(report, of_group).values(), strict=True):
            _line(axes, band, colour, group)
        axes.set_xlabel("optimiser step")
        axes.set_ylabel(label)
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
        return figure, f"{label} against the step: {what}."
    base = next((group for group in of_group if _is_base(report, group)), None)
    others = [group for group in of_group if group != base]
    lines = -(-len(others) // 3)
    figure = new_figure(0.5 + 1.8 * lines)
    panels = figure.subplots(lines, 3, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, group in zip(panels, others, strict=False):
        if base is not None:
            _line(axes, of_group[base], BASE, base)
        _line(axes, of_group[group], OTHERS[0], group)
        axes.set_title(group, fontsize=9)
        axes.tick_params(labelsize=8)
    for axes in panels[len(others) :]:
        axes.set_visible(False)
    figure.supxlabel("optimiser step", fontsize=10)
    figure.supylabel(label, fontsize=10)
    return figure, f"{label} against the step: {what}" + (f"; black: {base}." if base else ".")


def _line(axes: Axes, band: Band, colour: str, label: str) -> None:
    steps, mean, low, high = band
    axes.fill_between(steps, low, high, color=colour, alpha=0.18, linewidth=0)
    axes.plot(steps, mean, color=colour, linewidth=1.5, label=label)
