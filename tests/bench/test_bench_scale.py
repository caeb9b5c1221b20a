"""The benchmark of many rows and many heads on a tiny model: each row once, what it reports, what it refuses."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from mtrobust.data.sampler import MultiTaskSampler, TaskRows

BENCH = Path(__file__).resolve().parents[2] / "scripts" / "bench"
WORDS = ["a clear film", "the old bridge was built near the river", "no cat", "some dogs chased the cat"]
ON_LINUX = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads /proc")


@pytest.fixture
def scale(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """scripts/bench/scale.py, which is no part of a package."""
    monkeypatch.syspath_prepend(BENCH)
    return importlib.import_module("scale")


@pytest.fixture
def args(tmp_path: Path, tiny_model_dir: Callable[[str], Path]) -> Namespace:
    """Flags for 300 rows made of 13, and for three heads."""
    (tmp_path / "data" / "mr").mkdir(parents=True)
    rows = [{"text": WORDS[i % 4], "label": ["negative", "positive"][i % 2]} for i in range(13)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "data" / "mr" / "train.jsonl").write_text(text, encoding="utf-8")
    return Namespace(
        model=str(tiny_model_dir("bert")), data_dir=tmp_path / "data", task="mr", work=tmp_path / "work", count=300,
        starts=2, max_tokens=64, heads=3, batch=4, rounds=2, threads=1,
    )  # fmt: skip


@ON_LINUX
def test_each_row_is_in_an_epoch_once(scale: ModuleType, args: Namespace, monkeypatch: pytest.MonkeyPatch):
    asked = []
    monkeypatch.setattr(scale, "in_fresh_process", lambda settings: asked.append(settings) or scale.work(settings))
    by_rows, by_tokens = scale.rows_table(scale.definition("mr"), args)
    assert [settings["whole"] for settings in asked] == [True, False] * 2
    assert by_rows["what"] == "300 rows, batches of 4 rows" and by_rows["batches of an epoch"] == 75
    assert by_tokens["what"] == "300 rows, batches of 64 tokens" and by_tokens["batches of an epoch"] < 75
    for row in (by_rows, by_tokens):
        assert row["each row once"] == "yes"
        assert 0 < row["start, s"] <= row["slowest, s"] and row["resident, MiB"] >= 0
    texts = (args.work / "rows-300" / "mr" / "train.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    assert [json.loads(text)["text"] for text in texts] == [f"{WORDS[i % 13 % 4]} {i}" for i in range(300)]


@ON_LINUX
def test_a_row_that_is_missing_shows(scale: ModuleType, args: Namespace, monkeypatch: pytest.MonkeyPatch):
    at = MultiTaskSampler.at

    def twice(self: MultiTaskSampler, number: int):
        return at(self, max(number, 1))

    monkeypatch.setattr(scale, "in_fresh_process", scale.work)
    monkeypatch.setattr(MultiTaskSampler, "at", twice)
    assert [row["each row once"] for row in scale.rows_table(scale.definition("mr"), args)] == ["no", "no"]


def test_every_head_has_had_a_step_before(scale: ModuleType, args: Namespace, monkeypatch: pytest.MonkeyPatch):
    step_seconds, steps = scale.step_seconds, []

    def noted(trainer, sampled):
        steps.append((len(trainer.step.model.heads), sampled.task, sampled.number, sampled.rows.tolist()))
        return step_seconds(trainer, sampled)

    monkeypatch.setattr(scale, "step_seconds", noted)
    row = scale.heads_row(scale.definition("mr"), args)
    assert row["what"] == "a step with 3 heads, batches of 4 rows" and row["seconds with one"] > 0
    assert row["of a step with one"]["low"] <= row["of a step with one"]["ratio"] <= row["of a step with one"]["high"]
    one, many = ([step for step in steps if step[0] == heads] for heads in (1, 3))
    assert [step[1] for step in many] == ["mr0", "mr1", "mr2", "mr0", "mr1"]
    assert [step[2:] for step in one] == [step[2:] for step in many]  # the same batches


@pytest.mark.slow
@ON_LINUX
def test_the_script(args: Namespace, tmp_path: Path):
    flags = {key: value for key, value in vars(args).items() if key != "starts"} | {"json": tmp_path / "out.json"}
    command = [
        sys.executable,
        BENCH / "scale.py",
        *(part for key, value in flags.items() for part in (f"--{key}", value)),
    ]
    done = subprocess.run([*map(str, command), "--starts", "1"], capture_output=True, text=True, cwd=BENCH.parents[1])
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert [row["what"].partition(",")[0] for row in found["rows"]] == ["300 rows", "300 rows", "a step with 3 heads"]
    assert found["facts"]["threads"] == 1 and found["rows"][0]["each row once"] == "yes"
    unknown = subprocess.run(
        [*map(str, command), "--task", "mood"], capture_output=True, text=True, cwd=BENCH.parents[1]
    )
    assert unknown.returncode == 2 and unknown.stderr.startswith("--task: mood: not shipped (allowed: ")


@pytest.mark.slow
def test_reading_features_imports_no_pandas(scale: ModuleType, args: Namespace):
    """Which would take longer than all else that is done to open a cache."""
    scale.features_of(scale.definition("mr"), args.data_dir, args.model)
    code = (
        "import sys; from pathlib import Path; import scale; "
        f"scale.features_of(scale.definition('mr'), Path({str(args.data_dir)!r}), {args.model!r}); "
        "print('pandas' in sys.modules)"
    )
    path = {"PYTHONPATH": f"{BENCH}:{BENCH.parents[1]}"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=path)
    assert done.stdout == "False\n", done.stderr[-3000:]


@pytest.mark.parametrize("by_length", [True, False])
def test_a_batch_of_a_token_budget_ends_where_the_next_row_would_not_fit(by_length: bool):
    budget, lengths = 100, np.random.default_rng(5).integers(1, 120, size=4000).astype(np.int32)
    sampler = MultiTaskSampler({"a": TaskRows(lengths, 4)}, max_tokens=budget, group_by_length=by_length, num_epochs=1)
    made = sampler._streams[0].get(0)
    for begin, end in zip(made.bounds[:-1], made.bounds[1:], strict=True):
        batch = lengths[made.order[begin:end]]
        assert len(batch) == 1 or batch.max() * len(batch) <= budget
        if end < len(lengths):
            assert max(batch.max(), lengths[made.order[end]]) * (len(batch) + 1) > budget
