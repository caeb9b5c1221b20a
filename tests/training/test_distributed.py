"""Two processes under torchrun on gloo train as one process with the doubled batch does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
import yaml

from mtrobust.config import PerturbSpec
from tests.training.fake import Data, trainer, weights
from tests.training.world import losses, settings, write_world

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


def torchrun(output: Path, processes: int = 2, check: bool = True, **values) -> subprocess.CompletedProcess:
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes), "--master_port", "0"),
        *("--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0", "-m", "tests.training.fake", str(output)),
        *(f"{key}={json.dumps(value)}" for key, value in values.items()),
    ]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert not check or done.returncode == 0, done.stderr[-4000:]
    return done


def read(output: Path, rank: int) -> tuple[dict, dict]:
    folder = output.parent
    record = json.loads((folder / f"{output.name}.rank{rank}.json").read_text(encoding="utf-8"))
    return torch.load(folder / f"{output.name}.rank{rank}.pt"), record


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> tuple[Path, dict]:
    """A run of two processes: three epochs whose last steps leave one rank without a row (37 and 21 rows by 8)."""
    output = tmp_path_factory.mktemp("pair") / "run"
    values = {
        "dropout": 0.0, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "num_train_epochs": 3,
        "sizes": {"a": 37, "b": 25}, "save_steps": 5,
    }  # fmt: skip
    torchrun(output, **values)
    return output, values


def test_ranks_are_bit_identical(pair):
    (one, first), (two, second) = read(pair[0], 0), read(pair[0], 1)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert first["losses"] == second["losses"]
    assert first["state"] == second["state"]


def test_the_losses_are_those_of_one_process_with_the_doubled_batch(pair, tmp_path):
    output, values = pair
    alone = dict(values, per_device_train_batch_size=4)
    made = trainer(tmp_path, data=Data(sizes=alone.pop("sizes")), **alone)
    losses, add = [], made.monitor.add
    made.monitor.add = lambda step, task, figures, n: (losses.append((task, figures)), add(step, task, figures, n))
    made.train()
    single, (both, record) = weights(made), read(output, 0)
    assert [task for task, _ in losses] == [task for _, task, _ in record["losses"]]
    for (_, expected), (_, _, got) in zip(losses, record["losses"], strict=True):
        for name in ("loss", "task", "fake/change"):
            assert got[name] == pytest.approx(expected[name], abs=1e-5)
    for name, value in single.items():
        torch.testing.assert_close(both[name], value, atol=1e-4, rtol=1e-4)


def test_no_row_is_lost_or_doubled(pair):
    seen: dict[str, Counter[int]] = {"a": Counter(), "b": Counter()}
    ghosts = 0
    fetched = [read(pair[0], rank)[1]["fetched"] for rank in (0, 1)]
    for (task, left), (other, right) in zip(*fetched, strict=True):
        assert task == other
        if left == right:  # one row for two ranks: the second runs a copy that does not count
            ghosts += 1
            right = []
        seen[task].update(left + right)
    assert ghosts > 0, "this test should meet a rank without rows"
    assert seen == {"a": Counter({row: 3 for row in range(37)}), "b": Counter({row: 3 for row in range(25)})}


def test_the_run_goes_on_where_it_was(pair, tmp_path):
    """Stopped after the checkpoint of step 15 and started again: the same bits, dropout included."""
    values = pair[1] | {"dropout": 0.2, "save_total_limit": 9}
    whole, half = tmp_path / "whole", tmp_path / "half"
    torchrun(whole, **values)
    shutil.copytree(whole, half, symlinks=True)
    folder = half / "checkpoints"
    for path in folder.glob("step-*"):
        if path.name != "step-15":
            (path / "COMPLETE").unlink()
    torchrun(half, resume=True, **values)
    for rank in (0, 1):
        (one, first), (two, second) = read(whole, rank), read(half, rank)
        assert all(torch.equal(one[name], two[name]) for name in one)
        assert second["losses"] == first["losses"][15:]
    assert (whole / "metrics.jsonl").read_bytes() == (half / "metrics.jsonl").read_bytes()


def test_what_both_ranks_draw_counts_once(pair):
    text = (pair[0] / "metrics.jsonl").read_text(encoding="utf-8").strip()
    windows = [json.loads(line).get("train", {}) for line in text.split("\n")]
    steps = Counter(task for _, task, _ in read(pair[0], 0)[1]["losses"])
    counted = {task: sum(sum(found[task]["fake/site"].values()) for found in windows if task in found) for task in "ab"}
    assert counted == dict(steps)


def test_another_number_of_processes_is_refused(pair):
    output, values = pair
    done = torchrun(output, processes=1, check=False, resume=True, **values)
    assert done.returncode != 0
    assert "was made by 2 processes; go on with as many, not 1" in done.stderr


def test_fewer_rows_than_ranks(tmp_path):
    torchrun(tmp_path / "few", sizes={"a": 1, "b": 3}, per_device_train_batch_size=1, num_train_epochs=2)
    one, two = read(tmp_path / "few", 0)[0], read(tmp_path / "few", 1)[0]
    assert all(torch.equal(one[name], two[name]) for name in one)


def train_command(recipe: Path, processes: int) -> None:
    command = [sys.executable, "-m", "mtrobust", "train", str(recipe)]
    if processes > 1:
        launcher = ["torch.distributed.run", "--nproc_per_node", str(processes), "--rdzv_backend", "c10d"]
        command[2:2] = [*launcher, "--rdzv_endpoint", "localhost:0", "-m"]
    done = subprocess.run(
        command, cwd=recipe.parent, env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]


def alone_and_both(world: Path, method: str | None = None, **more: object) -> Path:
    """Trains in one process with batches of 4 and in two with batches of 2; the losses have to be the same."""
    for run, processes, size in (("alone", 1, 4), ("both", 2, 2)):
        values = settings(world, run, method, per_device_train_batch_size=size, num_train_epochs=2, **more)
        (world / f"{run}.yml").write_text(yaml.safe_dump(values.model_dump(mode="json")), encoding="utf-8")
        train_command(world / f"{run}.yml", processes)
    alone, both = losses(world / "alone"), losses(world / "both")
    assert [task for task, _ in alone] == [task for task, _ in both] and len(alone) > 20
    for (_, one), (_, two) in zip(alone, both, strict=True):
        assert two["loss"] == pytest.approx(one["loss"], abs=1e-5, rel=1e-5)
    return world


def test_held_out_labels_under_torchrun(tmp_path, tiny_model_dir):
    """So few labels that a process, or all of them, may have none in a step."""
    world = alone_and_both(write_world(tmp_path, tiny_model_dir("bert")), "rpt", label_fraction=0.1)
    assert any(figures["task"] == 0 and figures["loss"] > 0 for _, figures in losses(world / "both"))
    one, two = (json.loads((world / run / "all_results.json").read_text(encoding="utf-8")) for run in ("alone", "both"))
    assert one["train"]["rows"] == two["train"]["rows"] and one["train"]["rows"]["mood"]["labelled"] == 2


def test_the_command_itself_under_torchrun(tmp_path, tiny_model_dir):
    """`standard` without dropout on a real encoder: two processes give the losses of one with the doubled batch."""
    world = alone_and_both(write_world(tmp_path, tiny_model_dir("bert")))
    results = [json.loads((world / run / "all_results.json").read_text(encoding="utf-8")) for run in ("alone", "both")]
    assert results[0]["train"]["examples"] == results[1]["train"]["examples"]
    assert results[1]["train"]["processes"] == 2
    for task in ("mood", "squad"):
        assert results[0][task] == pytest.approx(results[1][task])


OWN_PASSES = {
    "freelb with swep": [PerturbSpec(name="freelb"), PerturbSpec(name="swep")],
    "jacobian with averaged weights": [
        PerturbSpec(name="jacobian"),
        PerturbSpec(name="smart", options={"bregman": 0.9}),
    ],
}


@pytest.mark.parametrize("perturb", OWN_PASSES.values(), ids=list(OWN_PASSES))
def test_methods_with_passes_and_weights_of_their_own_under_torchrun(tmp_path, tiny_model_dir, perturb):
    """Gradients that are handed over, networks of methods, second derivatives: the same as in one process."""
    alone_and_both(write_world(tmp_path, tiny_model_dir("bert")), perturb=perturb)


def test_adapters_under_torchrun(tmp_path, tiny_model_dir):
    """Only adapters and heads learn, the inner steps of `smart` go through them: the same as in one process."""
    world = alone_and_both(write_world(tmp_path, tiny_model_dir("bert")), "smart", lora_r=4)
    assert not (world / "both/model/model.safetensors").exists()
    assert (world / "both/model/adapter_model.safetensors").exists()
