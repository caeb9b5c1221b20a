"""Prints the table of `compare_methods.sh`: each method's dev figure over seeds, and its time as a multiple.

    python scripts/methods_table.py --data_dir DATA --task TASK FOLDER

FOLDER holds run folders `<method>-<seed>`. Where `standard` is not clearly above the majority class (by the margin of
compare.py) the table says so and compares nothing. Missing runs are named.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

from compare import MARGIN, majority

Runs = dict[str, dict[int, dict[str, Any]]]  # method -> seed -> all_results.json


def read(folder: Path) -> tuple[Runs, list[str]]:
    """All finished runs, and the names of those that are not."""
    runs: Runs = {}
    missing = []
    for run in sorted(path for path in folder.iterdir() if path.is_dir()):
        method, _, seed = run.name.rpartition("-")
        if (run / "all_results.json").is_file():
            runs.setdefault(method, {})[int(seed)] = json.loads((run / "all_results.json").read_text(encoding="utf-8"))
        else:
            missing.append(run.name)
    return runs, missing


def spread(values: list[float]) -> str:
    """`mean ± standard deviation`."""
    return f"{mean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")


def rows(runs: Runs, task: str, metric: str) -> list[list[str]]:
    """One row per method, `standard` first, the others by their mean."""
    base = runs["standard"]
    figure = lambda found: {seed: float(result[task][metric]) for seed, result in found.items()}  # noqa: E731
    order = sorted(runs, key=lambda name: (name != "standard", -mean(figure(runs[name]).values())))
    table = [["method", f"dev {metric}", "difference", "seconds per example", "seeds"]]
    for name in order:
        values, both = figure(runs[name]), sorted(runs[name].keys() & base.keys())
        paired = [values[seed] - figure(base)[seed] for seed in both]
        speed = [base[s]["train"]["examples_per_second"] / runs[name][s]["train"]["examples_per_second"] for s in both]
        difference = "" if name == "standard" else f"{mean(paired):+.1f}" if paired else "-"
        times = f"{median(speed):.2f} x" if speed else "-"
        table.append([name, spread(list(values.values())), difference, times, ", ".join(map(str, sorted(values)))])
    return table


def main() -> int:
    """Prints the table as Markdown; returns 1 where there is nothing to compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data_dir", type=Path, required=True)
    parser.add_argument("--task", required=True)
    parser.add_argument("--metric", default="acc")
    args = parser.parse_args()
    runs, missing = read(args.folder)
    if "standard" not in runs:
        print(f"{args.folder}: no finished run of `standard` to compare with", file=sys.stderr)
        return 1
    level = majority(args.data_dir, (args.task, "dev", args.metric)) or 0.0
    reached = mean(float(result[args.task][args.metric]) for result in runs["standard"].values())
    if reached < level + MARGIN:
        print(f"`standard` reaches {reached:.1f}, the majority class {level:.1f}: nothing was learned to compare")
        return 1
    print(f"Majority class: {level:.1f}. Differences are paired by seed; times are medians over seeds.\n")
    table = rows(runs, args.task, args.metric)
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    table.insert(1, ["-" * width for width in widths])
    for row in table:
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |")
    if missing:
        print(f"\nNot finished: {', '.join(missing)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
