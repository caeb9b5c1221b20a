"""The help and refusals of the scripts, and their grids of runs."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from mtrobust.evaluation.report.inputs import read_expected
from tests.evaluation.report.fake import write_run

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    "script",
    [
        *("quickstart.sh", "train_joint.sh", "make_mlm.sh", "compare_methods.sh", "grid.sh", "refine.sh", "adapt.sh"),
        *("test.sh", "docs.sh"),
    ],
)
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


def rows_of_mr(folder: Path) -> None:
    for split, count in (("train", 16), ("dev", 8)):
        rows = [{"text": f"text {i}", "label": ["negative", "positive"][i % 2]} for i in range(count)]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.mark.slow
def test_compare_methods_goes_on_where_it_was_stopped(tmp_path: Path, tiny_model_dir, installed: dict[str, str]):
    out = tmp_path / "out"
    rows_of_mr(out / "data" / "mr")
    write_run(out / "mr/standard-1", [], 1, {"mr": {"acc": 80.0}}, speed=30.0)
    before = (out / "mr" / "standard-1" / "all_results.json").read_bytes()
    variables = {
        "MTROBUST_DATA": str(tmp_path), "MODEL": str(tiny_model_dir("bert")), "OUT": str(out), "SEEDS": "1",
        "METHODS": "standard rapt vda", "JOBS": "2", "EPOCHS": "1",
    }  # fmt: skip
    command = ["bash", str(ROOT / "scripts/compare_methods.sh"), "--use_cpu", "--perturb.layers", "1"]
    done = subprocess.run(command, env={**installed, **variables}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    assert "mr/rapt, seed 1: done" in done.stdout and "vda is left out: set MLM" in done.stderr
    assert (out / "mr" / "standard-1" / "all_results.json").read_bytes() == before
    table = (out / "report/report.md").read_text(encoding="utf-8")
    assert "| rapt " in table and "| standard " in table


@pytest.mark.slow
def test_refine_starts_the_targets_from_the_joint_run(tmp_path: Path, tiny_model_dir, installed: dict[str, str]):
    for task in ("mr", "sst2"):
        rows_of_mr(tmp_path / "data" / task)
    variables = {
        "DATA_DIR": str(tmp_path / "data"), "TASKS": "mr", "TARGETS": "sst2", "FRACTIONS": "0.5 1", "SEEDS": "1",
        "MODEL": str(tiny_model_dir("bert")), "OUT": str(tmp_path / "out"), "METHOD": "rapt --perturb.layers 1",
    }  # fmt: skip
    command = ["bash", str(ROOT / "scripts/refine.sh"), "--small", "--jobs", "2", "--max_steps", "2", "--use_cpu"]
    done = subprocess.run(command, env={**installed, **variables}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    out = tmp_path / "out/small"
    assert "task sst2: head fresh (no such task there)" in (out / "sst2/refined-1-1.log").read_text("utf-8")
    for fraction in ("0.5", "1"):
        table = (out / f"report/fraction-{fraction}/report.md").read_text("utf-8")
        assert "| plain " in table and "| refined " in table and "nothing" in table.partition("## Missing")[2], table


@pytest.mark.slow
def test_adapt_takes_a_joint_run_to_shares_of_a_new_task(tmp_path: Path, tiny_model_dir, installed: dict[str, str]):
    from mtrobust.config import TrainConfig
    from mtrobust.training.run import train

    for task in ("mr", "sst2"):
        rows_of_mr(tmp_path / "data" / task)
    joint = {
        "task_def": ["textcls"], "data_dir": tmp_path / "data", "train_tasks": ["mr"], "use_cpu": True,
        "model_name_or_path": str(tiny_model_dir("bert")), "output_dir": tmp_path / "joint", "max_steps": 2,
    }  # fmt: skip
    train(TrainConfig(**joint, progress="off"))
    variables = {
        "RUN": str(tmp_path / "joint"), "DATA_DIR": str(tmp_path / "data"), "TASKS": "sst2", "SEEDS": "1",
        "FRACTIONS": "0.25 1", "OUT": str(tmp_path / "out"),
    }  # fmt: skip
    command = ["bash", str(ROOT / "scripts/adapt.sh"), "--small", "--jobs", "2", "--max_steps", "2", "--use_cpu"]
    done = subprocess.run(command, env={**installed, **variables}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    out = tmp_path / "out/small"
    assert "head fresh (no such task there)" in (out / "sst2/adapted-1-1.log").read_text("utf-8")
    flags = (out / "sst2/plain-0.25-1.flags").read_text("utf-8")
    assert f"--model_name_or_path {joint['model_name_or_path']}" in flags and "scripts/recipes/adapt.yml" in flags
    rows = json.loads((out / "sst2/plain-0.25-1/all_results.json").read_text("utf-8"))["train"]["rows"]
    assert rows["sst2"]["labelled"] == 4
    curve = (out / "report/sst2/report.md").read_text("utf-8")
    assert "## sst2/acc by data_fraction" in curve and "| data_fraction=0.25 | data_fraction=1" in curve
    table = (out / "report/sst2-0.25/report.md").read_text("utf-8")
    assert "| plain " in table and "| adapted " in table and "## Differences to plain" in table


def test_adapt_needs_a_finished_run(tmp_path: Path):
    variables = {"RUN": str(tmp_path), "DATA_DIR": str(tmp_path), "TASKS": "sst2"}
    command = ["bash", str(ROOT / "scripts/adapt.sh")]
    done = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True)
    assert done.returncode == 2 and f"RUN: {tmp_path}: no finished run" in done.stderr


@pytest.mark.parametrize("path", sorted((ROOT / "scripts/recipes").glob("*.yml")), ids=lambda path: path.stem)
def test_recipes_are_sound(path: Path):
    from mtrobust.config_parse import parse_train

    text = path.read_text("utf-8")
    lines = [line.removeprefix("#") for line in text.split("\n") if line.startswith("#  ") or line.endswith("\\")]
    words = " ".join(lines).replace("\\", " ").split()
    assert words[:3] == ["mtrobust", "train", f"scripts/recipes/{path.name}"]
    parsed = parse_train([str(path), *words[3:]])
    assert parsed.faults == [] and parsed.config is not None


# --- the grid, with a command of a few lines in place of mtrobust ----------------------------------------------------

STUB = """#!/usr/bin/env bash
# train: writes config.yml, then what its name asks for
[ "$1" = train ] || { echo "$@" >>"$(dirname "$0")/other"; exit 0; }
echo "$@" >>"$(dirname "$0")/calls"
while [ $# -gt 0 ]; do [ "$1" != --output_dir ] || run=$2; shift; done
mkdir -p "$run" && touch "$run/config.yml"
case "$run" in
    *bad*) echo "error: no such layer"; exit 2 ;;
    *long*) echo $$ >"$run/pid"; trap 'touch "$run/asked"; kill $!; exit 143' TERM; sleep 60 & wait $! ;;
esac
echo '{}' >"$run/all_results.json"
"""
GRID = """set -euo pipefail
mtrobust={stub}
source {lib}
grid_begin {out} "$@"
for seed in 1 2; do
    for name in {names}; do run_cell "mr/$name" "$seed" --epochs "$(small 1 3)"; done
done
grid_wait
run_step {out}/step mr/good 1 touch {out}/step
grid_report {out}
grid_end
"""


def grid_script(folder: Path, names: str = "good bad") -> Path:
    stub = folder / "stub"
    stub.write_text(STUB, encoding="utf-8")
    stub.chmod(0o755)
    script = folder / "grid.sh"
    text = GRID.format(stub=stub, lib=ROOT / "scripts/lib/grid.sh", out=folder / "out", names=names)
    script.write_text(text, encoding="utf-8")
    return script


def run_grid(script: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(["bash", str(script), *arguments], capture_output=True, text=True)


def lines_of(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").strip().split("\n") if path.exists() else []


@pytest.mark.parametrize("jobs", [[], ["--jobs", "3"]])
def test_a_failed_cell_stops_nothing_and_is_named(tmp_path: Path, jobs: list[str]):
    script = grid_script(tmp_path)
    first = run_grid(script, *jobs, "--max_steps", "5")
    assert first.returncode == 1
    log = tmp_path / "out/mr/bad-1.log"
    assert f"2 failed:\nmr/bad, seed 1: see {log}\nmr/bad, seed 2: see" in first.stderr
    assert log.read_text(encoding="utf-8") == "error: no such layer\n"
    assert first.stdout.count(": done (") == 2 and "mr/good, seed 2: done" in first.stdout
    calls = lines_of(tmp_path / "calls")
    assert len(calls) == 4 and all(call.endswith("--epochs 3 --max_steps 5") for call in calls)
    assert (tmp_path / "out/step").exists() and lines_of(tmp_path / "other") == [
        f"report --out {tmp_path}/out/report --expect {tmp_path}/out/expected.yml {tmp_path}/out"
    ]
    expected = read_expected(tmp_path / "out/expected.yml")
    assert [path.name for path in expected.runs] == ["good-1", "bad-1", "good-2", "bad-2"]
    again = run_grid(script, *jobs, "--max_steps", "5")
    added = lines_of(tmp_path / "calls")[4:]
    assert again.returncode == 1 and sorted(call.split("/")[-1].split()[0] for call in added) == ["bad-1", "bad-2"]
    assert all(call.endswith("--resume") for call in added)


def test_a_cell_made_with_other_flags_is_not_taken_for_this_one(tmp_path: Path):
    script = grid_script(tmp_path, "good")
    assert run_grid(script).returncode == 0
    other = run_grid(script, "--max_steps", "5")
    assert other.returncode == 1 and "was made with other flags" in other.stderr
    assert len(lines_of(tmp_path / "calls")) == 2


def test_small_runs_stand_apart(tmp_path: Path):
    script = grid_script(tmp_path, "good")
    assert run_grid(script, "--small").returncode == 0
    calls = lines_of(tmp_path / "calls")
    assert all("/out/small/mr/good-" in call and call.endswith("--epochs 1") for call in calls)
    assert run_grid(script, "--jobs", "x").stderr == "--jobs: 'x': must be a whole number of at least 1\n"


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_stopped_grid_asks_what_runs_to_end_and_leaves_nothing_behind(tmp_path: Path, jobs: str):
    script = grid_script(tmp_path, "long")
    running = subprocess.Popen(["bash", str(script), "--jobs", jobs], stderr=subprocess.PIPE, text=True)
    pid_file = tmp_path / "out/mr/long-1/pid"
    deadline = time.monotonic() + 20
    while not (pid_file.exists() and pid_file.read_text(encoding="utf-8").strip()) and time.monotonic() < deadline:
        time.sleep(0.05)
    running.terminate()
    _, stderr = running.communicate(timeout=20)
    assert running.returncode == 130 and "the same command goes on" in stderr
    assert (tmp_path / "out/mr/long-1/asked").exists()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid_file.read_text(encoding="utf-8")), 0)
