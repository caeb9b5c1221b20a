"""Prints a table of runs side by side, from their `all_results.json`.

    python scripts/compare.py --data_dir DATA [--untrained RUN] RUN RUN ...

The first run is the reference: the last column is the difference of the last run to it. `level` is what a model that
has learned nothing reaches: the majority class (acc, f1 of two classes), 0 (correlations, mcc), or the figure of the
run given as --untrained, whichever is higher. Where the reference is not clearly above it (MARGIN points), the table
says so instead of a difference: two runs that learned nothing have nothing to compare.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

MARGIN = 3.0  # points
ZERO = ("mcc", "pearson", "spearman")
Figures = dict[tuple[str, str, str], float | None]  # (task, split, metric) -> percent; None: not defined


def figures(run: Path) -> tuple[Figures, dict[str, float]]:
    """All metrics of a run, and what it recorded of its training."""
    results = json.loads((run / "all_results.json").read_text(encoding="utf-8"))
    train = results.pop("train", {})
    found: Figures = {}
    for task, metrics in results.items():
        for name, value in metrics.items():
            split, _, metric = name.rpartition("/")
            found[task, split or "dev", metric] = value
    return found, train


def labels(data_dir: Path, task: str, split: str) -> list[str]:
    """The labels of a split's rows; empty where it has none of one kind (spans) or no file."""
    path = data_dir / task / f"{split}.jsonl"
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="\n") as file:
        rows = [json.loads(line) for line in file if line.strip()]
    return [str(row["label"]) for row in rows if row.get("label") is not None]


def majority(data_dir: Path | None, key: tuple[str, str, str]) -> float | None:
    """The figure of always answering the most frequent label; None where that has no meaning."""
    task, split, metric = key
    if metric in ZERO:
        return 0.0
    counts = Counter(labels(data_dir, task, split)) if data_dir and metric in ("acc", "f1") else Counter()
    if not counts or (metric == "f1" and len(counts) != 2):
        return None
    share = max(counts.values()) / counts.total()
    return 100 * share if metric == "acc" else 100 * 2 * share / (1 + share)


def table(runs: list[Path], data_dir: Path | None, untrained: Path | None) -> Iterator[list[str]]:
    """The cells of the table, header first."""
    found = [figures(run)[0] for run in runs]
    floor = figures(untrained)[0] if untrained else {}
    yield ["task", "split", "metric", "level", *(run.name for run in runs), f"{runs[-1].name} - {runs[0].name}"]
    for key in found[0]:
        values = [run.get(key) for run in found]
        known = [value for value in (majority(data_dir, key), floor.get(key)) if value is not None]
        level = max(known, default=None)
        yield [*key, *map(_number, (level, *values)), _difference(level, values)]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _difference(level: float | None, values: list[float | None]) -> str:
    first, last = values[0], values[-1]
    if first is None or last is None:
        return "-"
    if level is not None and first < level + MARGIN:
        return "reference at level"
    return f"{last - first:+.1f}"


def main() -> None:
    """Reads the folders and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--data_dir", type=Path, help="folder with <task>/<split>.jsonl, for the majority class")
    parser.add_argument("--untrained", type=Path, metavar="RUN", help="a run that was stopped before it learned")
    args = parser.parse_args()
    missing = [str(run) for run in (*args.runs, args.untrained) if run and not (run / "all_results.json").is_file()]
    if missing:
        parser.error(f"no all_results.json in {', '.join(missing)}")
    rows = list(table(args.runs, args.data_dir, args.untrained))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    rows.insert(1, ["-" * width for width in widths])
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        print("| " + " | ".join(cells) + " |")
    for run in args.runs:
        train = figures(run)[1]
        if train:
            print(f"{run.name}: " + ", ".join(f"{name} {value:g}" for name, value in train.items() if _plain(value)))


def _plain(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


if __name__ == "__main__":
    main()
