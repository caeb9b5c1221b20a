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


@pytest.mark.parametrize("script", ["quickstart.sh", "train_joint.sh", "make_mlm.sh", "compare_methods.sh", "test.sh"])
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


def finished(folder: Path, method: str, seed: int, acc: float, speed: float) -> None:
    """A run folder of compare_methods.sh with its results."""
    (folder / f"{method}-{seed}").mkdir(parents=True)
    record = {"mr": {"acc": acc}, "train": {"examples_per_second": speed}}
    (folder / f"{method}-{seed}" / "all_results.json").write_text(json.dumps(record), encoding="utf-8")


def rows_of_mr(folder: Path) -> None:
    for split, count in (("train", 16), ("dev", 8)):
        rows = [{"text": f"text {i}", "label": ["negative", "positive"][i % 2]} for i in range(count)]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def methods_table(out: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "scripts/methods_table.py"), "--data_dir", str(out / "data"), "--task", "mr"]
    return subprocess.run([*command, str(out / "mr")], capture_output=True, text=True)


def test_methods_table(tmp_path: Path):
    rows_of_mr(tmp_path / "data" / "mr")
    for seed, (acc, speed) in enumerate([(80.0, 30.0), (82.0, 40.0)], start=1):
        finished(tmp_path / "mr", "standard", seed, acc, speed)
        finished(tmp_path / "mr", "rapt", seed, acc + seed, speed / 2)
    (tmp_path / "mr" / "vat-1").mkdir()
    printed = methods_table(tmp_path).stdout
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in printed.split("\n") if "|" in line]
    assert cells[2:] == [
        ["standard", "81.0 ± 1.4", "", "1.00 x", "1, 2"],
        ["rapt", "82.5 ± 2.1", "+1.5", "2.00 x", "1, 2"],
    ]
    assert "Not finished: vat-1" in printed and "Majority class: 50.0" in printed


def test_methods_table_compares_nothing_where_nothing_was_learned(tmp_path: Path):
    rows_of_mr(tmp_path / "data" / "mr")
    finished(tmp_path / "mr", "standard", 1, 51.0, 30.0)
    finished(tmp_path / "mr", "rapt", 1, 60.0, 30.0)
    done = methods_table(tmp_path)
    assert done.returncode == 1 and "`standard` reaches 51.0, the majority class 50.0" in done.stdout
    assert "rapt" not in done.stdout


@pytest.mark.slow
def test_compare_methods_goes_on_where_it_was_stopped(tmp_path: Path, tiny_model_dir):
    """As a user runs it, with an installed command of the same name in place of a fresh environment."""
    out, venv = tmp_path / "out", tmp_path / "venv" / "bin"
    rows_of_mr(out / "data" / "mr")
    finished(out / "mr", "standard", 1, 80.0, 30.0)
    before = (out / "mr" / "standard-1" / "all_results.json").read_bytes()
    venv.mkdir(parents=True)
    for name, module in (("python", ""), ("mtrobust", "-m mtrobust ")):
        (venv / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {module}"$@"\n', encoding="utf-8")
        (venv / name).chmod(0o755)
    (venv.parent / ".mtrobust-plain").touch()
    os.utime(venv.parent / ".mtrobust-plain", (2**31 - 1, 2**31 - 1))  # newer than any file it is compared with
    variables = {
        "MTROBUST_DATA": str(tmp_path), "MODEL": str(tiny_model_dir("bert")), "OUT": str(out), "SEEDS": "1",
        "METHODS": "standard rapt vda", "JOBS": "2", "EPOCHS": "1", "PYTHONPATH": str(ROOT),
        "MTROBUST_VENV": str(venv.parent),
    }  # fmt: skip
    command = ["bash", str(ROOT / "scripts/compare_methods.sh"), "--use_cpu", "--perturb.layers", "1"]
    done = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    assert "rapt, seed 1: done" in done.stdout and "vda is left out: set MLM" in done.stderr
    assert (out / "mr" / "standard-1" / "all_results.json").read_bytes() == before
    assert "| rapt " in (out / "mr.md").read_text(encoding="utf-8")
