"""Uncertainty weighting: the closed form, its gradients, micro-batches, the board, and exact resuming."""

from __future__ import annotations

import json
import math

import pytest
import torch
from safetensors.torch import load_file

from mtrobust.config import PerturbSpec
from mtrobust.perturb import build_methods
from mtrobust.training.optim import param_groups
from mtrobust.training.run import train
from mtrobust.training.step import TrainStep
from mtrobust.training.weighting import Uncertainty
from tests.perturb.cells import batch_of, gradients, spec, step_of
from tests.training.world import losses, settings, write_world

METHODS = ["standard", "smart", "freelb", "swep"]


def two_steps(task_type: str, method: str, s: float, weight: float = 1.5) -> tuple[TrainStep, TrainStep]:
    """The same model without and with learned weights, the log variance at `s`."""
    made = []
    for weighting in ("fixed", "uncertainty"):
        plain = step_of("bert", task_type, [spec(method)], dropout=0.0, weight=weight)
        tasks = plain.model.tasks
        methods = build_methods([spec(method)], tasks, plain.model.encoder)
        torch.manual_seed(0)  # swep's network
        made.append(TrainStep(plain.model, methods, 3, weighting).train())
    made[1].model.load_state_dict(made[0].model.state_dict())
    with torch.no_grad():
        made[1].weighting.log_variance(task_type.lower()).fill_(s)
    return made[0], made[1]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("task_type", "factor"), [("Classification", 1.0), ("Regression", 0.5), ("MaskLM", 1.0)])
def test_loss_and_gradients_are_the_closed_form(task_type: str, factor: float, method: str) -> None:
    s, weight = 0.7, 1.5
    plain, weighed = two_steps(task_type, method, s, weight)
    batch = batch_of("bert", task_type, labelled=[True, False, True, True])
    loss, grads = gradients(plain, batch)
    given, found = gradients(weighed, batch)
    scale = factor * math.exp(-s)
    assert given.item() == pytest.approx(scale * loss.item() + weight * s / 2, rel=1e-5)
    own = found.pop(f"weighting.log_variance_{task_type.lower()}")
    assert own.item() == pytest.approx(weight / 2 - scale * loss.item(), rel=1e-4)
    assert found.keys() == grads.keys()
    for name, grad in grads.items():
        torch.testing.assert_close(found[name], scale * grad, atol=1e-6, rtol=1e-4)


def test_terms_and_figures() -> None:
    plain, weighed = two_steps("Regression", "rapt", 0.3)
    batch = batch_of("bert", "Regression")
    one, two = plain(batch), weighed(batch)
    torch.testing.assert_close(two.terms, one.terms)
    assert two.stats["uncertainty/log_variance"].item() == pytest.approx(0.3)
    assert two.stats["uncertainty/factor"].item() == pytest.approx(0.5 * math.exp(-0.3))


def test_the_penalty_counts_once_however_a_step_is_split() -> None:
    _, step = two_steps("Classification", "standard", 0.4)
    batch = batch_of("bert", "Classification", labelled=[True, False, True, True])
    whole = step(batch).loss.item()
    total = 0.0
    for rows in ([0, 1], [2], [3]):
        part = batch_of("bert", "Classification", labelled=[True, False, True, True])
        part.inputs = {k: v[rows] for k, v in part.inputs.items()}
        part.targets = {k: v[rows] for k, v in part.targets.items()}
        part.row_ids, part.norms = part.row_ids[rows], step.counts(batch)
        total += step(part).loss.item()
    assert total == pytest.approx(whole, rel=1e-5)
    part.norms = None
    part.targets["labelled"][:] = False  # nothing is known, so nothing is learned of the variance either
    assert step(part).loss.item() == 0


def test_log_variances_settle_where_the_gradient_is_zero() -> None:
    class Head:
        def __init__(self, factor: float) -> None:
            self.nll_factor = factor

    weights = Uncertainty({"a": Head(1.0), "b-2": Head(0.5)})
    optimizer = torch.optim.Adam(weights.parameters(), lr=0.05)
    for _ in range(600):
        optimizer.zero_grad()
        (weights(torch.tensor(3.0), "a", 1.0, 1.0) + weights(torch.tensor(0.2), "b-2", 2.0, 1.0) * 0).backward()
        optimizer.step()
    assert weights.log_variance("a").item() == pytest.approx(math.log(2 * 3.0), abs=0.02)
    assert weights.log_variance("b-2").item() == 0


def test_they_have_their_own_rate_and_no_decay(tmp_path) -> None:
    _, step = two_steps("Classification", "swep", 0.0)
    config = settings(tmp_path, weight_decay=0.1, head_learning_rate=2e-3, task_weighting_learning_rate=0.5)
    (group,) = [g for g in param_groups(step, step.model, config) if any("log_variance" in n for n in g["names"])]
    assert group["names"] == ["weighting.log_variance_classification"]
    assert (group["lr"], group["weight_decay"]) == (0.5, 0.0)


class Killed(Exception):
    pass


def killing(kind, step):
    if (kind, step) == ("step", 8):
        raise Killed


def test_a_killed_run_ends_in_the_same_bits_and_the_board_shows_the_variances(tmp_path, tiny_model_dir) -> None:
    world = write_world(tmp_path, tiny_model_dir("bert"))
    common = {"perturb": [PerturbSpec(name="rapt")], "task_weighting": "uncertainty", "save_steps": 3, "max_steps": 14}
    train(settings(world, "whole", **common))
    with pytest.raises(Killed):
        train(settings(world, "half", **common), on_event=killing)
    train(settings(world, "half", resume=True, **common))
    one, two = (load_file(world / run / "checkpoints" / "step-14" / "step.safetensors") for run in ("whole", "half"))
    names = {f"weighting.log_variance_{task}" for task in ("mood", "stsb", "squad")}
    assert names <= one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    assert all(one[name] != 0 for name in names)
    assert (world / "whole" / "metrics.jsonl").read_bytes() == (world / "half" / "metrics.jsonl").read_bytes()
    steps = losses(world / "whole")
    assert all({"uncertainty/log_variance", "uncertainty/factor"} <= figures.keys() for _, figures in steps)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(world / "whole" / "tensorboard"))
    board.Reload()
    assert "train/mood/uncertainty/log_variance" in board.Tags()["scalars"]
    config = json.dumps((world / "whole" / "config.yml").read_text(encoding="utf-8"))
    assert "task_weighting: uncertainty" in config
