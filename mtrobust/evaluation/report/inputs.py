"""The files that a user may give beside the runs: the expected grid and published figures."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mtrobust.errors import UserError
from mtrobust.evaluation.report.missing import Expected
from mtrobust.yaml_file import read_yaml


@dataclass(frozen=True)
class Published:
    """Figures of a paper: figures[column][method], and the line that says where they are from."""

    source: str
    figures: dict[str, dict[str, float]] = field(default_factory=dict)


def parse_seeds(value: Any) -> list[int] | None:
    """`[1, 2, 3]`, `1-3`, `1,4-6` or one number; None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return [value]
    parts = value if isinstance(value, list) else value.split(",") if isinstance(value, str) else []
    found: list[int] = []
    for part in parts:
        first, dash, last = str(part).strip().partition("-")
        if isinstance(part, bool) or not first.isdigit() or (dash and not last.strip().isdigit()):
            return None
        found += range(int(first), int(last or first) + 1)
    return sorted(set(found)) or None


def read_expected(path: Path) -> Expected:
    """Reads `--expect`. Raises `UserError` with all its faults."""
    content = read_yaml(path, "expected grid")
    faults = [
        f"{path}: {key}: unknown key (known: methods, seeds, columns)" for key in content if key not in Expected._fields
    ]
    methods, seeds = content.get("methods"), parse_seeds(content.get("seeds"))
    if not isinstance(methods, list) or not methods or not all(isinstance(name, str) for name in methods):
        faults.append(f"{path}: methods: {methods}: must be a list of the names that the report gives to the rows")
    if seeds is None:
        faults.append(f"{path}: seeds: {content.get('seeds')}: must be a list of whole numbers, or like 1-3")
    columns = content.get("columns", [])
    if not isinstance(columns, list) or not all(isinstance(name, str) for name in columns):
        faults.append(f"{path}: columns: {columns}: must be a list of columns, such as mr/acc")
    if faults:
        raise UserError(faults)
    return Expected(list(methods or []), seeds or [], columns)


def read_published(path: Path) -> Published:
    """Reads `--published`. Raises `UserError` with all its faults."""
    content = read_yaml(path, "published figures")
    faults = []
    source = content.pop("source", None)
    if not isinstance(source, str) or not source.strip():
        faults.append(f"{path}: source: must say where the figures are from (paper, table)")
    if not content:
        faults.append(f"{path}: no figures; expected `<column>: {{<method>: <figure>}}` lines")
    figures: dict[str, dict[str, float]] = {}
    for column, methods in content.items():
        if not isinstance(methods, dict) or not methods:
            faults.append(f"{path}: {column}: must map methods to figures")
            continue
        for method, figure in methods.items():
            if isinstance(figure, bool) or not isinstance(figure, int | float):
                faults.append(f"{path}: {column}: {method}: {figure}: must be a number")
            else:
                figures.setdefault(column, {})[str(method)] = float(figure)
    if faults:
        raise UserError(faults)
    return Published(str(source).strip(), figures)
