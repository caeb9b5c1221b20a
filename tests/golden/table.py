"""Runs the golden tests and prints how far each group of recorded fields was from ours, as they found it.

    MTROBUST_GOLDEN=... MTROBUST_MODELS=... python -m tests.golden.table

The figures are those that the tests' own comparisons noted; nothing is computed here a second time.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.golden.exemptions import Ledger

HEADER = ("file", "group", "cases", "fields", "exempt", "worst relative error", "in", "rounded arrays")
WHOLE = ("rapt", "smart_paper", "clean", "baselines", "freelb", "smart_in_vda_repo")  # one kind of cases each


def group_of(folder: str, key: str) -> str:
    """The kind of cases that a field belongs to; float32 and comparisons of random draws stand apart."""
    if folder == "divergences":
        _, function, field = key.split("/")
        group = f"{function.split('_')[0]} {'gradients' if field.startswith('grad') else 'values'}"
    elif folder.startswith("encoder/vda_mixture"):
        group = key.split("_")[0]
    elif folder.startswith("encoder/"):
        top, _, rest = key.partition("/")
        top = top.replace("_fp32", "")
        group = top if top in WHOLE else f"{top}/{re.split('[./]', rest)[0]}"
    else:
        group = "all"
    random = "/mc_" in key or group == "synthetic"
    return group + (" (float32)" if "fp32" in key else " (random draws)" if random else "")


def case_of(key: str) -> str:
    """The case that a field belongs to."""
    return key.rpartition("/")[0] or key


def rows(ledgers: Iterable[Ledger]) -> list[tuple[str, ...]]:
    """One row of the table for each group, all cells as text."""
    groups: dict[tuple[str, str], list[tuple[Ledger, str]]] = {}
    for ledger in ledgers:
        for key in ledger.seen:
            groups.setdefault((ledger.folder, group_of(ledger.folder, key)), []).append((ledger, key))
    out = []
    for (folder, group), members in sorted(groups.items()):
        compared = [(ledger, key) for ledger, key in members if key in ledger.compared]
        errors = {False: [(0.0, "")], True: [(0.0, "")]}
        for ledger, key in compared:
            if key in ledger.errors:
                errors[key in ledger.rounded].append((ledger.errors[key], key))
        (worst, where), (rounded, _) = max(errors[False]), max(errors[True])
        figure = f"{worst:.1e}" if where else "none" if len(errors[False]) > 1 else "-"
        exempt = sum(ledger.exempt(key) for ledger, key in members)
        counts = len({case_of(key) for _, key in members}), len(compared), exempt
        out.append((folder, group, *map(str, counts), figure, f"`{where}`" if where else "",
                    f"{rounded:.1e}" if rounded else "-"))  # fmt: skip
    return out


def main() -> int:
    """Prints the table; the tests' exit code."""
    code = int(pytest.main([str(Path(__file__).parent), "-q", "-p", "no:cacheprovider"]))
    if not Ledger.all:
        print("No golden case was compared: MTROBUST_GOLDEN has to name the folder that holds them.")
        return code or 1
    print()
    for cells in (HEADER, ["---"] * len(HEADER), *rows(Ledger.all)):
        print("| " + " | ".join(cells) + " |")
    if code:
        print("\nTests failed: what they did not get to is not in the table.")
    return code


if __name__ == "__main__":
    sys.exit(main())
