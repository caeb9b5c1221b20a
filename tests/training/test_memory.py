"""The estimate of a run's memory: against what autograd saves, and its largest batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from mtrobust.config import PerturbSpec
from mtrobust.data.sampler import TaskRows
from mtrobust.training import memory
from tests.perturb.cells import batch_of, step_of


def saved(step, batch) -> int:
    """Bytes that autograd keeps for the backward pass of a step; parameters and the batch do not count."""
    known = {t.untyped_storage().data_ptr() for t in [*step.parameters(), *step.buffers(), *batch.inputs.values()]}
    kept: dict[int, int] = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        step(batch)
    return sum(kept.values())


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
@pytest.mark.parametrize("specs", [[], [PerturbSpec(name="rpt")]], ids=["standard", "rpt"])
def test_the_estimate_is_near_what_autograd_saves(family, specs):
    step, batch = step_of(family, "Classification", specs), batch_of(family, "Classification")
    rows, length = batch.inputs["input_ids"].shape
    tasks = {"classification": TaskRows(np.full(rows, length, dtype=np.int32), rows)}
    estimate = memory.estimate(step, tasks, torch.device("cpu"), bf16=False)
    # The head, the embedding's index and the divergence are not in the estimate; at this size they are a few per cent.
    assert estimate.activations == pytest.approx(saved(step, batch), rel=0.25)
    assert (estimate.rows, estimate.length, estimate.passes) == (rows, length, 2.0 if specs else 1.0)


def test_what_does_not_learn_has_no_gradient_and_no_state():
    step = step_of("bert", "Classification", [])
    step.model.encoder.requires_grad_(False)
    head = sum(p.nbytes for p in step.parameters() if p.requires_grad)
    found = memory.estimate(step, {"classification": TaskRows(np.array([5, 9]), 2)}, torch.device("cpu"), bf16=False)
    assert (found.gradients, found.optimiser) == (head, 2 * head)
    assert found.weights == sum(t.nbytes for t in [*step.parameters(), *step.buffers()])


def test_the_largest_batch():
    rows = TaskRows(np.array([3, 20, 9, 9]), 2)
    assert list(memory.largest_batches(rows, None)) == [(2, 20)]
    assert list(memory.largest_batches(rows, 30)) == [(4, 3), (3, 9), (1, 20)]
    lists = TaskRows(np.array([3, 20, 9, 9]), 2, np.array([9, 2, 5, 1]))
    assert list(memory.largest_batches(lists, None)) == [(7, 20)], "those of 45 and of 40 tokens"
    assert list(memory.largest_batches(lists, 30)) == [(10, 3), (5, 9), (2, 20)]


def test_the_peak_is_that_of_this_process():
    found = memory.peak(torch.device("cpu"))
    assert found is not None and found.of == "process" and 50 < found.mib < 100_000
    assert "MiB of the whole process" in str(found)
