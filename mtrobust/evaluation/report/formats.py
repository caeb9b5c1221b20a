"""A report as Markdown, LaTeX, CSV and JSON. Each function returns the text of a file."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from mtrobust.evaluation.report.sheets import Bold, Sheet
from mtrobust.evaluation.report.table import Cell, Report, Row
from mtrobust.evaluation.run_folder import jsonable


def markdown(report: Report, tables: Sequence[Sheet], pictures: bool = True) -> str:
    """GitHub-flavoured tables. pictures: with links to the files below `plots/`."""
    parts = ["# Comparison", ""]
    for sheet in tables:
        parts += [f"## {sheet.title}", "", *_markdown_table(sheet), ""]
        parts += [f"- {line}" for line in sheet.lines]
        parts += [""] if sheet.lines else []
    for title, lines in lists(report):
        parts += [f"## {title}", "", *(f"- {line}" for line in lines), ""]
    if pictures and report.plots:
        parts += ["## Plots", ""]
        for stem, caption in report.plots:
            parts += [f"![{caption}](plots/{stem}.png)", "", caption, ""]
    return "\n".join(parts)


def lists(report: Report) -> Iterator[tuple[str, list[str]]]:
    """The lists that close a report. That nothing is missing is said, too."""
    yield "Missing", report.missing or ["nothing"]
    if report.notes:
        yield "Notes", report.notes


def _markdown_table(sheet: Sheet) -> Iterator[str]:
    shown = [[_markdown_cell(cell) for cell in row] for row in [sheet.header, *sheet.rows]]
    widths = [max(len(row[i]) for row in shown) for i in range(len(sheet.header))]
    shown.insert(1, ["-" * width for width in widths])
    for row in shown:
        yield "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"


def _markdown_cell(cell: str) -> str:
    text = cell.replace("|", "\\|")
    return f"**{text}**" if isinstance(cell, Bold) else text


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "×": r"$\times$", "<": "$<$", ">": "$>$",
    "→": r"$\rightarrow$", "`": "",
}  # fmt: skip


def latex_text(text: str) -> str:
    """`text` with the characters that LaTeX reads as commands written out; a minus before a digit as one."""
    escaped = "".join(_LATEX.get(character, character) for character in text)
    return re.sub(r"(?<![\w}])-(?=\d)", "$-$", escaped)


def latex(report: Report, tables: Sequence[Sheet]) -> str:
    """One `table` with booktabs rules for each sheet; needs \\usepackage{booktabs}. Gaps stand in comments."""
    parts = ["% needs \\usepackage{booktabs}"]
    parts += [f"% {title}: {line}" for title, lines in lists(report) for line in lines]
    for sheet in tables:
        # what has no row for a method (levels, settings) begins with texts; figures are centred
        parts += ["", r"\begin{table}", r"\centering", rf"\begin{{tabular}}{{l{'c' * (len(sheet.header) - 1)}}}"]
        parts += [r"\toprule", _latex_row(sheet.header), r"\midrule", *map(_latex_row, sheet.rows), r"\bottomrule"]
        parts += [r"\end{tabular}"]
        parts += [rf"\caption{{{latex_text('. '.join([sheet.title, ' '.join(sheet.lines)]).strip())}}}", r"\end{table}"]
    return "\n".join(parts) + "\n"


def _latex_row(cells: Sequence[str]) -> str:
    shown = [rf"\textbf{{{latex_text(c)}}}" if isinstance(c, Bold) else latex_text(c) for c in cells]
    return " & ".join(shown) + r" \\"


FIELDS = (
    *("method", "published", "column", "n", "seeds", "mean", "std", "baseline", "difference", "low", "high"),
    *("interval_of", "low_examples", "high_examples", "difference_n", "why_no_difference"),
    *("seconds_per_example", "time_multiple"),
)


def csv_text(report: Report) -> str:
    """One line for each method and column, with all digits; empty where there is nothing."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, FIELDS, lineterminator="\n")
    writer.writeheader()
    for row in report.rows:
        for column, cell in row.cells.items():
            writer.writerow({"column": column, **_row_fields(row), **_cell_fields(cell)})
    return buffer.getvalue()


def _row_fields(row: Row) -> dict[str, Any]:
    return {
        "method": row.label,
        "published": row.published,
        "baseline": row.baseline,
        "seconds_per_example": row.seconds,
        "time_multiple": row.time,
    }


def _cell_fields(cell: Cell) -> dict[str, Any]:
    found = cell.difference
    fields: dict[str, Any] = {
        "n": len(cell.values) or None,
        "seeds": " ".join(map(str, cell.values)),
        "mean": cell.mean,
        "std": cell.std,
        "why_no_difference": cell.why or None,
    }
    if found is not None:
        fields |= {"difference": found.mean, "difference_n": len(found.seeds), "interval_of": found.interval.of}
        if found.interval.of != "none":
            fields |= {"low": found.interval.low, "high": found.interval.high}
        if found.of_examples is not None:
            fields |= {"low_examples": found.of_examples.low, "high_examples": found.of_examples.high}
    return fields


def json_text(report: Report) -> str:
    """Everything, with the figure of every seed."""
    rows = []
    for row in report.rows:
        cells = {
            column: {**_cell_fields(cell), "seeds": list(cell.values), "values": list(cell.values.values())}
            for column, cell in row.cells.items()
        }
        rows.append(
            {**_row_fields(row), "mark": row.mark or None, "seeds": row.seeds, "times": row.times, "columns": cells}
        )
    levels = [
        {
            "baseline": base,
            "column": column,
            "reaches": verdict.reached,
            "compared": verdict.compared,
            "decided_by": verdict.source,
            **(verdict.level._asdict() if verdict.level else {}),
        }
        for (base, column), verdict in report.verdicts.items()
    ]
    grid = [dict(zip(("setting", report.grid_column, "note"), line, strict=True)) for line in report.grid]
    content = {
        "baseline": report.baseline,
        "columns": report.columns,
        "averaged": report.averaged,
        "rows": rows,
        "levels": levels,
        "settings_tried": grid,
        "missing": report.missing,
        "notes": report.notes,
        "plots": [{"file": f"plots/{stem}", "caption": caption} for stem, caption in report.plots],
    }
    return json.dumps(jsonable(content), ensure_ascii=False, allow_nan=False, indent=2) + "\n"
