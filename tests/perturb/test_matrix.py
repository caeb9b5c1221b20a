"""Method x task type x encoder family x site: every cell on BERT, pairs on the other families."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from mtrobust.errors import UserError
from mtrobust.perturb import METHODS
from mtrobust.tasks.base import TASK_TYPES
from tests.models.tiny import FAMILIES, LAYERS
from tests.perturb.cells import TASKS, batch_of, gradients, spec, step_of

EDITING = [name for name, method in METHODS.items() if "layers" in method.Options.model_fields]
SITES = ["words", *map(str, range(LAYERS + 1)), "all", "words,1-2"]
PICKS = ["random", "each"]


def cells_on_bert() -> list[tuple[str, str, str, str, str]]:
    every = [("bert", *cell) for cell in product(EDITING, TASKS, SITES, ["random"])]
    return every + [("bert", *cell, "words,1-2", "each") for cell in product(EDITING, TASKS)]


def pairs_elsewhere() -> list[tuple[str, str, str, str, str]]:
    """Every (family, method), (family, task type) and (family, site) pair stands in some cell."""
    cells = []
    for index, family in enumerate(family for family in FAMILIES if family != "bert"):
        types = list(TASKS)
        for turn in range(max(len(EDITING), len(types), len(SITES))):
            method = EDITING[(turn + index) % len(EDITING)]
            cells.append((family, method, types[turn % len(types)], SITES[turn % len(SITES)], PICKS[turn % 2]))
    return cells


def test_the_matrix_knows_every_registered_task_type():
    assert set(TASKS) == set(TASK_TYPES)


@pytest.mark.parametrize(("family", "method", "task_type", "layers", "pick"), cells_on_bert() + pairs_elsewhere())
def test_cell(family, method, task_type, layers, pick):
    step = step_of(family, task_type, [spec(method, layers=layers, pick=pick)])
    batch = batch_of(family, task_type, labelled=[True, False, True, True])
    out = step(batch)
    assert set(out.terms) == {"task", f"{method}/reg"}
    assert torch.isfinite(out.loss) and out.terms[f"{method}/reg"] > 0
    assert torch.isclose(out.loss.detach(), sum(out.terms.values()), rtol=1e-5)
    _, grads = gradients(step, batch)
    assert all(torch.isfinite(grad).all() for grad in grads.values())
    layers_reached = {name for name, grad in grads.items() if ".base." in name and grad.abs().sum() > 0}
    assert layers_reached, "the loss trains the encoder"
    assert any(name.startswith("model.heads.") for name in grads)


@pytest.mark.parametrize("task_type", TASKS)
@pytest.mark.parametrize("family", FAMILIES)
def test_standard_cell(family, task_type):
    out = step_of(family, task_type, [spec("standard")])(batch_of(family, task_type))
    assert set(out.terms) == {"task"} and torch.equal(out.loss.detach(), out.terms["task"])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", EDITING)
def test_layers_that_the_encoder_lacks_are_refused(family, method):
    with pytest.raises(
        UserError, match=rf"perturb\.{method}\.layers: 2-9: the encoder has {LAYERS} layers; allowed: words"
    ):
        step_of(family, "Classification", [spec(method, layers="2-9")])
