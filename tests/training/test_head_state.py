"""A killed run with stochastic heads and soft labels ends in the same bits; at weight 0 soft labels leave no trace."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from mtrobust.config import PerturbSpec
from mtrobust.training.run import train
from tests.evaluation.runs import read_lines, write_rows
from tests.training.test_method_state import Killed, killing
from tests.training.world import settings, write_world


@pytest.fixture
def world(tmp_path, tiny_model_dir):
    """`stsb` has a SAN, `mood` a pooler; most of their rows have soft labels, some nothing else."""
    made = write_world(tmp_path, tiny_model_dir("bert"))
    text = (made / "defs.yml").read_text(encoding="utf-8")
    text = text.replace("stsb:\n", "stsb:\n  enable_san: true\n  san_step_dropout: 0.5\n")
    (made / "defs.yml").write_text(text.replace("mood:\n", "mood:\n  head_input: pooler\n  kd_temperature: 2\n"))
    for task, soft in (("mood", [0.2, 0.2, 0.6]), ("stsb", 2.0)):
        path = made / "data" / task / "train.jsonl"
        rows = read_lines(path)
        write_rows(path, [row | ({"soft_label": soft} if i % 4 else {}) for i, row in enumerate(rows)])
    return made


def tensors(world, run, step):
    return load_file(world / run / "checkpoints" / f"step-{step}" / "step.safetensors")


def test_a_killed_run_ends_in_the_same_bits(world):
    common = {"perturb": [PerturbSpec(name="smart")], "train_tasks": ["mood", "stsb"], "save_steps": 3, "max_steps": 10}
    train(settings(world, "whole", **common))
    with pytest.raises(Killed):
        train(settings(world, "half", **common), on_event=killing(8))
    train(settings(world, "half", resume=True, **common))
    one, two = tensors(world, "whole", 10), tensors(world, "half", 10)
    assert any(".gru." in name for name in one) and any(".dense." in name for name in one)
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    assert (world / "whole" / "metrics.jsonl").read_bytes() == (world / "half" / "metrics.jsonl").read_bytes()


def test_at_weight_zero_soft_labels_change_no_bit(world):
    common = {"train_tasks": ["mood"], "max_steps": 6}
    text = (world / "defs.yml").read_text(encoding="utf-8")
    learned = train(settings(world, "soft", **common))
    (world / "defs.yml").write_text(text.replace("kd_temperature: 2", "kd_weight: 0"), encoding="utf-8")
    train(settings(world, "zero", **common))
    path = world / "data" / "mood" / "train.jsonl"
    write_rows(path, [{k: v for k, v in row.items() if k != "soft_label"} for row in read_lines(path)])
    train(settings(world, "plain", **common))
    runs = {name: tensors(world, name, 6) for name in ("soft", "zero", "plain")}
    assert all(torch.equal(runs["zero"][name], value) for name, value in runs["plain"].items())
    assert any(not torch.equal(runs["soft"][name], value) for name, value in runs["plain"].items())
    assert learned["train"]["rows"]["mood"]["left_out"] < 26 // 3  # rows with the soft label alone are trained on
