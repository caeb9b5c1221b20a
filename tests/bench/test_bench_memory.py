"""The benchmark of what steps keep in memory, on a tiny model: its rows, what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[2] / "scripts" / "bench"


def bench(*flags: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, BENCH / "memory.py", "--threads", 1, *flags]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=BENCH.parents[1])


@pytest.mark.slow
def test_rows_of_the_table(tmp_path: Path, tiny_model_dir):
    words = ["a clear film", "the old bridge was built near the river", "no cat", "some dogs chased the cat"]
    rows = [{"text": words[i % 4], "label": ["negative", "positive"][i % 2]} for i in range(13)]
    (tmp_path / "data" / "mr").mkdir(parents=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "data" / "mr" / "train.jsonl").write_text(text, encoding="utf-8")
    settings = ["--model", tiny_model_dir("bert"), "--data_dir", tmp_path / "data", "--batch", 4]
    done = bench(*settings, "--methods", "smart,vda,freelb", "--json", tmp_path / "table.json")
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "table.json").read_text(encoding="utf-8"))
    assert len(found["facts"]["tokens"]) == found["facts"]["rounds"] == 3
    sites = [f"rapt, layer {site} of 3" for site in range(3)]
    plain = ["standard", "smart", "freelb"]  # vda needs --mlm
    again = [f"{name}, gradient checkpointing" for name in plain]
    rows = {row["step"]: row for row in found["rows"]}
    assert list(rows) == ["two passes", *sites, *plain, *again]
    assert [rows[site]["within"] for site in sites] == ["yes"] * 3
    assert all(rows[site]["of two passes"] <= rows[site]["bound"] for site in sites)
    assert rows["standard"]["of standard"] == 1
    assert rows["smart"]["of standard"] > 1.5 > rows["freelb"]["of standard"]
    assert all(rows[name]["MiB"] < rows["standard"]["MiB"] for name in again)
    refused = bench(*settings, "--task", "mood")
    assert refused.returncode == 2 and refused.stderr.startswith("--task: mood: not shipped (allowed: ")
