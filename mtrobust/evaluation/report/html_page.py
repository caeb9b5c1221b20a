"""The report as one HTML file that needs nothing else: style and pictures are inside."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from html import escape

from mtrobust.evaluation.report.formats import lists
from mtrobust.evaluation.report.sheets import Bold, Sheet
from mtrobust.evaluation.report.table import Report

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1a1a1a; background: #fff; margin: 2em auto; max-width: 1100px;
  padding: 0 1em; }
h1 { font-size: 1.6em; } h2 { font-size: 1.2em; margin-top: 2em; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; border-top: 2px solid #333;
  border-bottom: 2px solid #333; }
th, td { padding: .3em .8em; text-align: left; white-space: nowrap; }
thead th { border-bottom: 1px solid #333; } tbody th { font-weight: normal; }
tbody tr:nth-child(even) { background: #f4f4f4; }
tr.published { color: #555; font-style: italic; }
ul { color: #333; padding-left: 1.2em; } figure { margin: 1.5em 0; } img { max-width: 100%; }
figcaption { color: #333; font-size: .93em; }
"""


def page(report: Report, tables: Sequence[Sheet], pictures: Mapping[str, bytes]) -> str:
    """The text of the file. pictures: SVG by the stem in `report.plots`."""
    body = ["<h1>Comparison</h1>"]
    for sheet in tables:
        body += [f"<h2>{escape(sheet.title)}</h2>", *_table(sheet), *_items(sheet.lines)]
    for title, lines in lists(report):
        body += [f"<h2>{escape(title)}</h2>", *_items(lines)]
    if pictures:
        body.append("<h2>Plots</h2>")
    for stem, caption in report.plots:
        if stem in pictures:
            data = base64.b64encode(pictures[stem]).decode("ascii")
            image = f'<img alt="{escape(caption)}" src="data:image/svg+xml;base64,{data}">'
            body.append(f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>")
    head = '<meta charset="utf-8">\n<meta name="viewport" content="width=device-width, initial-scale=1">'
    title = "<title>Comparison of runs</title>"
    inside = "\n".join(body)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n{head}\n{title}\n<style>{_STYLE}</style>\n</head>\n'
        f"<body>\n{inside}\n</body>\n</html>\n"
    )


def _table(sheet: Sheet) -> Iterator[str]:
    yield '<div class="wide"><table>'
    yield "<thead><tr>" + "".join(f'<th scope="col">{escape(cell)}</th>' for cell in sheet.header) + "</tr></thead>"
    yield "<tbody>"
    for name, *cells in sheet.rows:
        kind = ' class="published"' if name.endswith("(published)") else ""
        shown = [f"<b>{escape(cell)}</b>" if isinstance(cell, Bold) else escape(cell) for cell in cells]
        row = f'<th scope="row">{escape(name)}</th>' + "".join(f"<td>{cell}</td>" for cell in shown)
        yield f"<tr{kind}>{row}</tr>"
    yield "</tbody></table></div>"


def _items(lines: Sequence[str]) -> list[str]:
    return ["<ul>", *(f"<li>{escape(line)}</li>" for line in lines), "</ul>"] if lines else []
