"""The benchmark of inference on a tiny model: what it reports, what it refuses."""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Folder with 12 rows of MR and of MRPC, of different lengths."""
    for task, labels in (("mr", ["negative", "positive"]), ("mrpc", ["not_equivalent", "equivalent"])):
        (tmp_path / "data" / task).mkdir(parents=True)
        rows = [{"id": str(i), "text": "the old bridge " * (i % 5 + 1), "label": labels[i % 2]} for i in range(12)]
        if task == "mrpc":
            rows = [{**row, "text_pair": "no cat chased every dog"} for row in rows]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / "data" / task / "dev.jsonl").write_text(text, encoding="utf-8")
    return tmp_path / "data"


def bench(data: Path, *flags: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "scripts/bench/inference.py", "--data_dir", data, "--threads", 1, *flags]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=ROOT)


def test_all_faults_of_the_flags_at_once(data: Path):
    sides = "ours,peer,trainer:0,ours:8:bf16"
    done = bench(data, "--model", "unread", "--tasks", "mrpc,cola", "--sides", sides)
    assert done.returncode == 2
    assert done.stderr.strip().split("\n") == [
        "--sides: peer: must be trainer, trainer:pad128 or ours, then :BATCH, then :bf16",
        "--sides: trainer:0: must be trainer, trainer:pad128 or ours, then :BATCH, then :bf16",
        f"--data_dir: {data / 'cola' / 'dev.jsonl'}: no such file; `mtrobust prep` writes it",
    ]


def test_the_weights_are_of_an_encoder_or_of_a_run(data: Path):
    done = bench(data, "--model", "a", "--run", "b")
    assert done.returncode == 2 and "not allowed with" in done.stderr
    done = bench(data)
    assert done.returncode == 2 and "--model --run" in done.stderr


@pytest.mark.slow
def test_both_sides_give_the_same_logits(data: Path, tiny_model_dir, tmp_path: Path):
    sides = ["trainer", "trainer:pad128", "ours:5", "ours:bf16"]
    done = bench(
        data, "--model", tiny_model_dir("bert"), "--rounds", 2, "--sides", ",".join(sides),
        "--json", tmp_path / "i.json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "i.json").read_text(encoding="utf-8"))
    assert [(row["task"], row["side"]) for row in found["rows"]] == [("mrpc", side) for side in sides]
    for row in found["rows"]:
        assert row["examples/s"] > 0
        assert set(row["over trainer"]) == {"ratio", "low", "high", "totals"} and min(row["over trainer"].values()) > 0
        assert 0 <= row["logit difference"] < (0.1 if row["side"] == "ours:bf16" else 1e-5)
    assert {"rounds": 2, "split": "dev", "threads": 1}.items() <= found["facts"].items()


@pytest.mark.parametrize(("bf16", "far"), [(False, True), (False, False), (True, True)])
def test_sides_in_float32_that_differ_are_not_compared(monkeypatch, tmp_path: Path, bf16: bool, far: bool):
    monkeypatch.syspath_prepend(str(ROOT / "scripts" / "bench"))
    for name in ("common", "inference"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    inference = importlib.import_module("inference")
    sides = []
    for name, value, rounded in (("trainer", 0.5, False), ("ours", 0.5 + (3e-4 if far else 3e-5), bf16)):
        np.save(tmp_path / f"{name}.npy", np.full((3, 2), value))
        settings = {"logits": tmp_path / f"{name}.npy", "bf16": rounded}
        sides.append(inference.Side(name, [], settings))
    turns = {one.name: [{"examples": 3, "seconds": 1.0}] for one in sides}
    monkeypatch.setattr(inference, "take_turns", lambda *args: turns)
    flags = argparse.Namespace(rounds=1, threads=1)
    if far and not bf16:
        with pytest.raises(SystemExit, match="mr: the logits of ours and trainer differ by 0.0003"):
            inference.measured("mr", sides, flags, tmp_path)
    else:
        rows = inference.measured("mr", sides, flags, tmp_path)
        assert rows[1]["logit difference"] == pytest.approx(3e-4 if far else 3e-5)


@pytest.mark.slow
def test_a_pass_that_fails_ends_the_benchmark(data: Path, tiny_model_dir):
    (data / "mr" / "dev.jsonl").write_text('{"text": "a film", "label": "green"}\n', encoding="utf-8")
    done = bench(data, "--model", tiny_model_dir("bert"), "--tasks", "mr", "--sides", "ours,trainer")
    assert done.returncode == 1
    assert "ours: its process ended with code 1" in done.stderr and "green" in done.stderr
    assert done.stdout == ""
