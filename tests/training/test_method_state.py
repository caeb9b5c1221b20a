"""What a method saves of its own comes back: a killed run with a noise network or averaged weights ends alike."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from mtrobust.config import PerturbSpec
from mtrobust.training.run import train
from tests.training.world import settings, write_world

pytestmark = pytest.mark.slow

METHODS = {
    "swep": [PerturbSpec(name="swep")],
    "smart with averaged weights": [PerturbSpec(name="smart", options={"bregman": 0.9})],
    "freelb with swep": [PerturbSpec(name="freelb"), PerturbSpec(name="swep", options={"beta_steps": 12})],
}


class Killed(Exception):
    pass


def killing(at):
    def on_event(kind, step):
        if (kind, step) == ("step", at):
            raise Killed

    return on_event


@pytest.mark.parametrize("perturb", METHODS.values(), ids=list(METHODS))
def test_a_killed_run_ends_in_the_same_bits(tmp_path, tiny_model_dir, perturb):
    world = write_world(tmp_path, tiny_model_dir("bert"))
    common = {"perturb": perturb, "save_steps": 3, "max_steps": 14}
    train(settings(world, "whole", **common))
    with pytest.raises(Killed):
        train(settings(world, "half", **common), on_event=killing(8))
    train(settings(world, "half", resume=True, **common))
    one, two = (load_file(world / run / "checkpoints" / "step-14" / "step.safetensors") for run in ("whole", "half"))
    assert any(name.startswith("owned.") for name in one)
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    assert (world / "whole" / "metrics.jsonl").read_bytes() == (world / "half" / "metrics.jsonl").read_bytes()
