"""The files that a user may give beside the runs: the expected grid and published figures."""

from __future__ import annotations

import sys
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
    """Reads `--expect`: `methods` with `seeds`, or `runs` (relative to the file), or both; `columns` if wanted.

    Raises `UserError` with all its faults.
    """
    content = read_yaml(path, "expected grid")
    known = ", ".join(Expected._fields)
    faults = [f"{path}: {key}: unknown key (known: {known})" for key in content if key not in Expected._fields]
    lists = {}
    examples = {
        "methods": "the names that the report gives to the rows",
        "columns": "columns, such as mr/acc",
        "runs": "run folders",
    }
    for key, what in examples.items():
        lists[key] = content.get(key, [])
        if not isinstance(lists[key], list) or not all(isinstance(name, str) for name in lists[key]):
            faults.append(f"{path}: {key}: {lists[key]}: must be a list of {what}")
            lists[key] = [""]
    seeds = parse_seeds(content.get("seeds"))
    if seeds is None and ("seeds" in content or "methods" in content):
        faults.append(f"{path}: seeds: {content.get('seeds')}: must be a list of whole numbers, or like 1-3")
    if not lists["methods"] and not lists["runs"]:
        faults.append(f"{path}: methods: none; name the methods and the seeds, or the runs")
    if faults:
        raise UserError(faults)
    runs = [path.parent / name for name in lists["runs"]]
    return Expected(lists["methods"], seeds or [], lists["columns"], runs)


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
            if isinstance(figure, bool) or not isinstance(figure, int | float) or not abs(figure) <= sys.float_info.max:
                faults.append(f"{path}: {column}: {method}: {figure}: must be a finite number")
            else:
                figures.setdefault(column, {})[str(method)] = float(figure)
    if faults:
        raise UserError(faults)
    return Published(str(source).strip(), figures)
