"""The tables of a report as texts, one way for all formats: what a cell says, and the sentences that explain it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from mtrobust.evaluation.report.choose import Sweep
from mtrobust.evaluation.report.missing import whole_numbers
from mtrobust.evaluation.report.table import AVERAGE, Cell, Report, Row, Verdict

NOTHING = "-"
MOST_COLUMNS = 8  # of a table with a row for each method


class Bold(str):
    """A cell that stands out."""


@dataclass
class Sheet:
    """A table: name of the section, header, rows of the same width, lines of explanation below."""

    title: str
    header: list[str]
    rows: list[list[str]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)


def sheets(report: Report, sweeps: Iterable[Sweep] = ()) -> list[Sheet]:
    """All tables that have rows, in the order in which they are read."""
    found = [_figures(report), _differences(report), _levels(report)]
    found += [_sweep(report, sweep, column) for sweep in sweeps for column in report.columns]
    if report.grid:
        found.append(
            Sheet(
                f"Settings tried, by {report.grid_column}",
                ["setting", report.grid_column, ""],
                [list(line) for line in report.grid],
                ["The best mean on dev of each method is the row above; on this column its figure is optimistic."],
            )
        )
    return [sheet for sheet in found if sheet.rows]


def name_of(row: Row) -> str:
    """The first cell of a row."""
    if row.published:
        return f"{row.label} (published)"
    return row.label + (f" ({row.mark})" if row.mark else "")


def number(value: float | None, sign: bool = False) -> str:
    """With one decimal, or the mark for nothing. What rounds to zero has no sign."""
    if value is None or value != value:
        return NOTHING
    text = format(value, "+.1f" if sign else ".1f")
    return "0.0" if text in ("-0.0", "+0.0") else text


def _spread(cell: Cell, usual: tuple[int, ...]) -> str:
    text = number(cell.mean) + (f" ± {number(cell.std)}" if cell.std is not None else "")
    return text + (f" (n={len(cell.values)})" if cell.values and tuple(cell.values) != usual else "")


def _figures(report: Report) -> Sheet:
    timed = any(row.times for row in report.rows)
    header = ["method", *report.columns, "seeds", *(["time"] if timed else [])]
    sheet = Sheet("Figures", header)
    for row in report.rows:
        cells = [_spread(row.cells[c], row.seeds) if c in row.cells else NOTHING for c in report.columns]
        time = [f"{row.time:.2f} ×" if row.time is not None else NOTHING] if timed else []
        sheet.rows.append([name_of(row), *cells, whole_numbers(row.seeds) or NOTHING, *time])
    sheet.lines.append("Mean ± sample standard deviation over seeds; n: where a figure has fewer seeds than its row.")
    if timed:
        sheet.lines.append(
            f"Time: seconds per training example, as a multiple of `{report.baseline}` with the same seed and tasks "
            "(median), as the runs measured it."
        )
    if report.averaged:
        sheet.lines.append(f"{AVERAGE}: mean over {', '.join(report.averaged)}, of seeds that have them all.")
    sources = list(dict.fromkeys(row.published for row in report.rows if row.published))
    sheet.lines += [f"Published: {source}. Not measured here." for source in sources]
    return _turned(sheet)


_MARKS = {"seeds and examples": "", "seeds": " (s)", "examples": " (e)", "none": ""}


def _difference(row: Row, cell: Cell | None) -> str:
    if cell is None:
        return NOTHING
    found = cell.difference
    if found is None:
        return cell.why
    text = number(found.mean, sign=True)
    if found.interval.of != "none":
        text += f" [{number(found.interval.low)}, {number(found.interval.high)}]{_MARKS[found.interval.of]}"
    if found.seeds != row.seeds:
        text += f" (n={len(found.seeds)})"
    return Bold(text) if found.clear else text


def _differences(report: Report) -> Sheet:
    rows = [row for row in report.own_rows if row.baseline is not None and row.label != row.baseline]
    bases = {row.baseline for row in rows}
    several = len(bases) > 1
    sheet = Sheet(
        f"Differences to {report.baseline}", ["method", *(["compared with"] if several else []), *report.columns]
    )
    for row in rows:
        cells = [_difference(row, row.cells.get(column)) for column in report.columns]
        sheet.rows.append([name_of(row), *([str(row.baseline)] if several else []), *cells])
    kinds = {cell.difference.interval.of for row in rows for cell in row.cells.values() if cell.difference is not None}
    sheet.lines.append(
        "Paired by seed: mean of (method - baseline) over common seeds [95 % interval]. Bold: the interval leaves 0 "
        "out; with many rows and columns some do by chance."
    )
    if "seeds and examples" in kinds:
        sheet.lines.append(
            "Intervals cover other seeds (Student's t) and other examples of the same kind (paired bootstrap)."
        )
    if "seeds" in kinds:
        sheet.lines.append("(s): other seeds only (Student's t); the examples are not at hand for this metric.")
    if "examples" in kinds:
        sheet.lines.append("(e): one seed: other examples only, these very models; says nothing about other seeds.")
    sheet.lines += _not_compared(report, {str(base) for base in bases})
    return _turned(sheet, several)


def _not_compared(report: Report, bases: set[str]) -> list[str]:
    """One line on the columns without a comparison, and why."""
    found = [
        f"{column} ({number(verdict.reached)}; {_level_of(verdict, column)})"
        for (base, column), verdict in report.verdicts.items()
        if base in bases and not verdict.compared
    ]
    if not found:
        return []
    return [
        f"Not compared, since `{report.baseline}` is not clearly above what a model that learned nothing reaches: "
        + "; ".join(found)
        + "."
    ]


def _level_of(verdict: Verdict, column: str) -> str:
    if verdict.level is None:
        return "holds such columns"
    place = "" if verdict.source == column else f" of {verdict.source}, where it reaches {number(verdict.reached)}"
    level = verdict.level
    return f"{level.kind} {number(level.figure)}, upper end of its interval {number(level.upper)}{place}"


def _turned(sheet: Sheet, fixed: bool = False) -> Sheet:
    """With a row for each column of the report where these are many and the methods fewer, so that it can be read."""
    if fixed or not sheet.rows or len(sheet.header) <= MOST_COLUMNS or len(sheet.header) <= len(sheet.rows) + 1:
        return sheet
    header, *rows = zip(sheet.header, *sheet.rows, strict=True)
    return Sheet(sheet.title, ["", *header[1:]], [list(row) for row in rows], sheet.lines)


def _levels(report: Report) -> Sheet:
    sheet = Sheet("Level to beat", ["column", "baseline", "reaches", "level", "upper end", "what", "compared"])
    for (base, column), verdict in report.verdicts.items():
        if column == AVERAGE:
            continue
        level = verdict.level
        figures = [number(level.figure), number(level.upper), level.kind] if level else [NOTHING, NOTHING, "not known"]
        if verdict.source != column:
            figures[2] += f", of {verdict.source}"
        sheet.rows.append([column, base, number(verdict.reached), *figures, "yes" if verdict.compared else "no"])
    sheet.lines.append(
        "Level: what a model that learned nothing reaches; a column is compared where the baseline's mean is above the "
        "upper end of the level's 95 % interval."
    )
    return sheet


def _sweep(report: Report, sweep: Sweep, column: str) -> Sheet:
    cells = report.cells_of(column)
    name = sweep.key.removeprefix("perturb.")
    sheet = Sheet(f"{column} by {name}", ["method", *(f"{name}={value}" for value in sweep.values)])
    for family, labels in sweep.families.items():
        found = [cells.get(labels.get(value, "")) for value in sweep.values]
        if any(found):
            sheet.rows.append([family, *(_spread(pair[1], pair[0].seeds) if pair else NOTHING for pair in found)])
    if sheet.rows:
        flat = [f"{label}: {_spread(cells[label][1], cells[label][0].seeds)}" for label in sweep.flat if label in cells]
        sheet.lines += ["Without this setting: " + "; ".join(flat)] if flat else []
    return sheet
