"""Micro-batches of one step give what one large batch gives, whatever they hold."""

from __future__ import annotations

import pytest
import torch

from tests.training.fake import Data, trainer, weights


def trained(tmp_path, name, **values):
    made = trainer(tmp_path / name, dropout=0.0, **values)
    losses = []
    add = made.monitor.add
    made.monitor.add = lambda step, task, figures, n: (losses.append(figures["loss"]), add(step, task, figures, n))
    made.train()
    return weights(made), losses, made


@pytest.mark.parametrize("unlabelled", [0.0, 0.6], ids=["all labelled", "uneven labels"])
@pytest.mark.parametrize("sizes", [{"a": 37}, {"a": 37, "b": 22}], ids=["one task", "mixed"])
def test_four_times_four_equals_sixteen(tmp_path, unlabelled, sizes):
    data = Data(unlabelled, sizes)
    common = {"data": data, "num_train_epochs": 3, "optim": "adamw"}
    large, large_losses, _ = trained(tmp_path, "large", per_device_train_batch_size=16, **common)
    small, small_losses, made = trained(
        tmp_path, "small", per_device_train_batch_size=4, gradient_accumulation_steps=4, **common
    )
    assert made.state.examples == 3 * sum(sizes.values())
    torch.testing.assert_close(torch.tensor(small_losses), torch.tensor(large_losses), atol=1e-6, rtol=1e-6)
    # Adam divides by the root of squared gradients: where these are nearly 0, rounding is blown up in the weights.
    for name, value in large.items():
        torch.testing.assert_close(small[name], value, atol=2e-5, rtol=1e-5)


def test_gradients_of_each_step_are_equal(tmp_path, monkeypatch):
    """The gradients themselves, to 1e-6, at the same weights."""
    data = Data(0.6)
    grads: dict[str, list] = {}
    for name, size, times in (("large", 16, 1), ("small", 4, 4)):
        made = trainer(
            tmp_path / name, data=data, dropout=0.0, per_device_train_batch_size=size,
            gradient_accumulation_steps=times, learning_rate=1e-12, max_grad_norm=0,
        )  # fmt: skip
        kept = grads.setdefault(name, [])

        def step(made=made, kept=kept):
            kept.append([None if p.grad is None else p.grad.clone() for p in made.parameters])

        monkeypatch.setattr(made.optimizer, "step", step)
        made.train()
    assert len(grads["large"]) == len(grads["small"]) > 5
    for large, small in zip(grads["large"], grads["small"], strict=True):
        for a, b in zip(large, small, strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6)


def test_a_step_without_any_label_trains_on_the_rest(tmp_path):
    data = Data(1.0)
    values, losses, made = trained(tmp_path, "none", data=data)
    assert all(0 < loss < 100 for loss in losses)
