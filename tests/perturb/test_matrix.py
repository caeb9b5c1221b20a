"""Method x task type x encoder family x site: every cell on BERT (with a decoder: on T5), pairs on the others."""

from __future__ import annotations

import re
from itertools import product

import pytest
import torch

from mtrobust.errors import UserError
from mtrobust.perturb import METHODS
from mtrobust.perturb.base import Consistency
from mtrobust.tasks.base import TASK_TYPES
from tests.models.tiny import FAMILIES, LAYERS
from tests.perturb.cells import TASKS, batch_of, family_for, gradients, spec, step_of

EDITING = [name for name, method in METHODS.items() if "layers" in method.Options.model_fields]
SITES = ["words", *map(str, range(LAYERS + 1)), "all", "words,1-2"]
PICKS = ["random", "each"]
NARROW = ("electra", "albert")  # word embeddings narrower than the hidden states

Cell = tuple[str, str, str, str, str]


def refusal(family: str, method: str, task_type: str, layers: str, pick: str) -> str | None:
    """What a refused cell says; None for one that must work. All refused cells of the product stand here."""
    several = layers in ("all", "words,1-2")
    if task_type == "MaskLM" and family == "t5":
        return "no Hugging Face class for masked language modelling"
    if task_type == "SequenceGeneration" and family != "t5":
        return f"sequencegeneration.task_type: SequenceGeneration: model type '{family}' has no decoder .supported: t5"
    if pick == "each" and method in ("swep", "freelb"):
        return f"{method}.pick: 'each': Input should be 'random'"
    if method == "swep" and several:
        return "swep.layers: .*the noise network belongs to one site"
    if method == "rdrop" and layers in (str(LAYERS), "all"):
        return f"rdrop.layers: .*above layer {LAYERS} no layer is left to draw masks"
    if method == "smix" and task_type not in ("Classification", "Regression"):
        return f"smix: task {task_type.lower()}: mixes the labels of two examples"
    if method == "vda" and family in NARROW and layers != "words":
        return "vda.layers: .*word embeddings are 8 wide, hidden states 16.* .allowed: words"
    return None


def whole_cells() -> list[Cell]:
    """Every method, task type and site, on one family each."""
    cells = [*product(EDITING, TASKS, SITES, ["random"]), *product(EDITING, TASKS, ["words,1-2"], ["each"])]
    return [(family_for(task_type), method, task_type, layers, pick) for method, task_type, layers, pick in cells]


def pairs_elsewhere() -> list[Cell]:
    """Every (family, method), (family, task type) and (family, site) pair stands in some cell."""
    cells = []
    for index, family in enumerate(family for family in FAMILIES if family != "bert"):
        types = list(TASKS)
        for turn in range(max(len(EDITING), len(types), len(SITES))):
            method = EDITING[(turn + index) % len(EDITING)]
            cells.append((family, method, types[turn % len(types)], SITES[turn % len(SITES)], PICKS[turn // 2 % 2]))
        # Where the turn gave a method only cells that are refused, one more at the site that all take.
        for method in EDITING:
            if all(refusal(*cell) for cell in cells if cell[:2] == (family, method)):
                cells.append((family, method, "Classification", "words", "random"))
    return cells


def test_the_matrix_knows_every_registered_task_type():
    assert set(TASKS) == set(TASK_TYPES)


def test_every_pair_of_family_and_method_works_somewhere():
    working = {cell[:2] for cell in whole_cells() + pairs_elsewhere() if not refusal(*cell)}
    assert working == set(product(FAMILIES, EDITING))


@pytest.mark.parametrize(("family", "method", "task_type", "layers", "pick"), whole_cells() + pairs_elsewhere())
def test_cell(family, method, task_type, layers, pick):
    options = {"layers": layers} | ({"pick": pick} if pick != "random" else {})
    refused = refusal(family, method, task_type, layers, pick)
    if refused:
        with pytest.raises(UserError) as caught:
            step_of(family, task_type, [spec(method, **options)])
        assert re.search(refused, "\n".join(caught.value.faults))
        return
    step = step_of(family, task_type, [spec(method, **options)])
    batch = batch_of(family, task_type, labelled=[True, False, True, True])
    out = step(batch)
    assert out.terms and all(torch.isfinite(term) and term >= 0 for term in out.terms.values())
    assert all(name == "task" or name.startswith(f"{method}/") for name in out.terms)
    if issubclass(METHODS[method], Consistency):
        alpha = METHODS[method].Options.model_fields["alpha"].default
        assert out.terms[f"{method}/reg"] > 0
        if method != "rdrop":
            assert torch.isclose(out.loss.detach(), out.terms["task"] + alpha * out.terms[f"{method}/reg"], rtol=1e-5)
    _, grads = gradients(step, batch)
    assert all(torch.isfinite(grad).all() for grad in grads.values())
    layers_reached = {name for name, grad in grads.items() if ".base." in name and grad.abs().sum() > 0}
    assert layers_reached, "the loss trains the encoder"
    assert any(name.startswith("model.heads.") for name in grads)


@pytest.mark.parametrize("task_type", TASKS)
@pytest.mark.parametrize("family", FAMILIES)
def test_standard_cell(family, task_type):
    if refusal(family, "standard", task_type, "words", "random"):
        with pytest.raises(UserError):
            step_of(family, task_type, [spec("standard")])
        return
    out = step_of(family, task_type, [spec("standard")])(batch_of(family, task_type))
    assert set(out.terms) == {"task"} and torch.equal(out.loss.detach(), out.terms["task"])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", EDITING)
def test_layers_that_the_encoder_lacks_are_refused(family, method):
    with pytest.raises(
        UserError, match=rf"perturb\.{method}\.layers: 2-9: the encoder has {LAYERS} layers; allowed: words"
    ):
        step_of(family, "Classification", [spec(method, layers="2-9")])
