"""The benchmark of attacks on a tiny model: all sides come to the same outcomes, or nothing is compared."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.evaluation.attacks.lm import write_tiny_lm
from tests.evaluation.runs import write_data, write_run

ROOT = Path(__file__).resolve().parents[2]


def bench(*flags: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "scripts/bench/attack.py", "--threads", 1, *flags]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=ROOT)


@pytest.mark.slow
@pytest.mark.parametrize(("task", "split"), [("mood", "dev"), ("mnli", "matched_dev")])
def test_all_sides_come_to_the_same_outcomes(tmp_path: Path, tiny_model_dir, task: str, split: str):
    run = write_run(tmp_path / "run", tiny_model_dir("bert"), write_data(tmp_path / "data"), [task])
    lm = write_tiny_lm(tiny_model_dir("bert"), tmp_path / "lm")
    sides = ["one_by_one", "padded", "ours:2", "ours"]
    done = bench(
        "--run", run, "--task", task, "--split", split, "--mlm", lm, "--rounds", 2, "--rows", 3,
        "--sides", ",".join(sides), "--json", tmp_path / "a.json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert [row["side"] for row in found["rows"]] == sides
    assert all(row["queries/s"] > 0 and row["over one_by_one"]["ratio"] > 0 for row in found["rows"])


def test_unknown_sides_are_refused(tmp_path: Path):
    done = bench("--run", tmp_path, "--task", "mr", "--mlm", "m", "--sides", "ours:0,theirs")
    assert done.returncode == 2
    assert done.stderr.strip().split("\n") == [
        f"--sides: {side}: must be one_by_one, padded, ours or ours:BATCH" for side in ("ours:0", "theirs")
    ]
