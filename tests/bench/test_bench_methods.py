"""The benchmark of methods' steps, on a tiny model: its rows, the plain way beside them, what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[2] / "scripts" / "bench"


@pytest.mark.slow
def test_rows_of_the_table(tmp_path: Path, tiny_model_dir):
    def bench(*flags: object) -> subprocess.CompletedProcess[str]:
        settings = ["--model", tiny_model_dir("bert"), "--data_dir", tmp_path, "--batch", 4, "--rounds", 2]
        command = [sys.executable, BENCH / "methods.py", "--threads", 1, *settings, *flags]
        return subprocess.run(list(map(str, command)), capture_output=True, text=True)

    words = ["a clear film", "the old bridge was built near the river", "no cat", "some dogs chased the cat"]
    rows = [{"text": words[i % 4], "label": ["negative", "positive"][i % 2]} for i in range(16)]
    (tmp_path / "mr").mkdir()
    (tmp_path / "mr" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    methods = ["rapt+layers=1", "smart+inner_bf16=true", "freelb", "swep", "vda"]
    shape = ["--shape", "4x64", "--naive", "--json", tmp_path / "table.json"]
    done = bench("--methods", ",".join(methods), *shape)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "table.json").read_text(encoding="utf-8"))
    assert (found["facts"]["layers"], found["facts"]["width"]) == (4, 64)
    rows = {row["method"]: row for row in found["rows"]}
    assert list(rows) == ["standard", *methods[:4]]  # vda needs --mlm
    assert [row["bound"] for row in rows.values()] == pytest.approx([1, 1.75, 2 + 2 / 3, 3, 2])
    assert all(row["of standard"]["ratio"] > 0 and row["naive of ours"]["ratio"] > 0 for row in rows.values())

    for flags, message in (
        (["--methods", "rapt+bogus=1"], "--methods: rapt+bogus=1: rapt.bogus: unknown (known: layers, "),
        (["--task", "mood"], "--task: mood: not shipped (allowed: "),
        (["--shape", "4x50"], "4x50: must be LAYERSxWIDTH, the width a multiple of 64"),
        (["--methods", "rpt", "--naive", "--task", "stsb"], "--naive: stsb, bert: is written for Classification"),
    ):
        refused = bench(*flags)
        assert refused.returncode == 2 and message in refused.stderr, refused.stderr
        assert "Traceback" not in refused.stderr
