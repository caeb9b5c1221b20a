"""The table that the scripts print, and the help and refusals of the scripts themselves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def results(folder: Path, name: str, **tasks: dict) -> Path:
    (folder / name).mkdir()
    (folder / name / "all_results.json").write_text(json.dumps(tasks), encoding="utf-8")
    return folder / name


def compare(*arguments: object) -> list[list[str]]:
    """Cells of the printed table by row, without header and rule."""
    command = [sys.executable, str(ROOT / "scripts/compare.py"), *map(str, arguments)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in printed.split("\n") if "|" in line]
    return rows[2:]


def test_compare_names_the_difference_only_above_the_level(tmp_path: Path):
    (tmp_path / "data/a").mkdir(parents=True)
    rows = [{"label": "yes"}] * 3 + [{"label": "no"}]
    text = "\n".join(map(json.dumps, rows))
    (tmp_path / "data/a/dev.jsonl").write_text(text, encoding="utf-8")
    (tmp_path / "data/a/dev_shift.jsonl").write_text(text, encoding="utf-8")
    one = results(tmp_path, "one", a={"acc": 90.0, "dev_shift/acc": 76.0}, b={"mcc": 20.0}, train={"seconds": 3.0})
    two = results(tmp_path, "two", a={"acc": 92.5, "dev_shift/acc": 80.0}, b={"mcc": None})
    assert compare("--data_dir", tmp_path / "data", one, two) == [
        ["a", "dev", "acc", "75.0", "90.0", "92.5", "+2.5"],
        ["a", "dev_shift", "acc", "75.0", "76.0", "80.0", "reference at level"],
        ["b", "dev", "mcc", "0.0", "20.0", "-", "-"],
    ]


def test_compare_takes_the_untrained_run_as_level(tmp_path: Path):
    one = results(tmp_path, "one", qa={"f1": 60.0})
    low = results(tmp_path, "low", qa={"f1": 7.25})
    assert compare("--untrained", low, one) == [["qa", "dev", "f1", "7.2", "60.0", "+0.0"]]


def test_compare_names_a_folder_without_results(tmp_path: Path):
    command = [sys.executable, str(ROOT / "scripts/compare.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert f"no all_results.json in {tmp_path}" in done.stderr


@pytest.mark.parametrize("script", ["quickstart.sh", "train_joint.sh", "make_mlm.sh", "test.sh"])
def test_scripts_print_their_help_without_doing_anything(script: str):
    command = ["bash", str(ROOT / "scripts" / script), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert script in done.stdout
    assert done.stderr == ""


def test_an_unknown_tier_is_refused():
    done = subprocess.run(["bash", str(ROOT / "scripts/test.sh"), "units"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "allowed: unit, matrix" in done.stderr


def test_quickstart_does_not_delete_a_folder_that_is_not_its_own(tmp_path: Path):
    (tmp_path / "thesis.tex").write_text("years of work", encoding="utf-8")
    environment = {**os.environ, "OUT": str(tmp_path)}
    command = ["bash", str(ROOT / "scripts/quickstart.sh")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 2
    assert (tmp_path / "thesis.tex").exists()
    assert "set OUT to another folder" in done.stderr
