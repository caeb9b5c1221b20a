"""The options of a typed model as aligned lines of text: name, type, default, description."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Collection

from pydantic import BaseModel

from mtrobust.config_values import default_text, type_name


def option_lines(model: type[BaseModel], skip: Collection[str] = ()) -> list[str]:
    """One line per field, long descriptions wrapped under themselves; columns as wide as they need to be."""
    fields = {name: field for name, field in model.model_fields.items() if name not in skip}
    rows = [(name, type_name(f.annotation), default_text(f), f.description or "") for name, f in fields.items()]
    widths = [min(30, max((len(row[i]) for row in rows), default=0)) for i in range(3)]
    room = max(40, shutil.get_terminal_size((120, 24)).columns - sum(widths) - 8)
    lines = []
    for row in rows:
        head = "  " + "  ".join(cell.ljust(width) for cell, width in zip(row[:3], widths, strict=True))
        first, *rest = textwrap.wrap(row[3], room) or [""]
        lines.append(f"{head}  {first}".rstrip())
        lines += [" " * (sum(widths) + 8) + text for text in rest]
    return lines
