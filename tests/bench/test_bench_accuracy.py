"""The comparison of the fast with the plain way: both train, a finished cell is not run again, bad input."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "bench" / "accuracy.py"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Folder with 24 rows of MR in each split."""
    (tmp_path / "data" / "mr").mkdir(parents=True)
    words = [("a clear film", "positive"), ("no cat was near the old bridge", "negative")]
    rows = [{"id": str(i), "text": words[i % 2][0], "label": words[i % 2][1]} for i in range(24)]
    for split in ("train", "dev"):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / "data" / "mr" / f"{split}.jsonl").write_text(text, encoding="utf-8")
    return tmp_path / "data"


def bench(data: Path, *flags: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, SCRIPT, "--data_dir", data, "--threads", 1, *flags]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True)


def test_both_ways_learn_and_finished_cells_stay(data: Path, tiny_model_dir, tmp_path: Path):
    flags = [
        "--model", tiny_model_dir("bert"), "--out", tmp_path / "cells", "--tasks", "mr", "--seeds", 2, "--epochs", 8,
        "--batch", 4, "--lr", 3e-3, "--methods", "standard,rpt", "--json", tmp_path / "table.json",
    ]  # fmt: skip
    done = bench(data, *flags)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "table.json").read_text())["rows"]
    assert [(row["method"], row["metric"]) for row in rows] == [("standard", "acc"), ("rpt", "acc")]
    for row in rows:
        assert all(min(values) == 100 for values in row["runs"][0].values()), "two texts, one of each class"
    cells = sorted((tmp_path / "cells").iterdir())
    assert len(cells) == 2 * 2 * 2
    for cell in cells:
        cell.write_text('{"acc": 12.0}')
    assert "12.0 ± 0.0" in bench(data, *flags).stdout
    flags[flags.index("--batch") + 1] = 8
    assert "12.0 ± 0.0" not in bench(data, *flags).stdout, "cells of other settings are not taken"


def test_faults_come_together(data: Path, tmp_path: Path):
    done = bench(
        data, "--model", "none", "--out", tmp_path / "cells", "--tasks", "stsb,x", "--methods", "swep,rapt+layers=1"
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[1:] == [
        "--tasks: stsb: is of type Regression; must be of type Classification",
        "--methods: swep: must be one of standard, rpt, rapt, vat, jacobian, at their defaults",
        "--methods: rapt+layers=1: must be one of standard, rpt, rapt, vat, jacobian, at their defaults",
    ]
