"""Every method with a stochastic answer network and with the other heads of one vector per example."""

from __future__ import annotations

import pytest
import torch

from mtrobust.errors import UserError
from mtrobust.perturb import METHODS
from tests.models.tiny import FAMILIES, LAYERS
from tests.perturb.cells import batch_of, gradients, spec, step_of

TYPES = ["Classification", "Regression"]
READ = [*TYPES, "Ranking"]  # types with a choice of heads
EDITING = [name for name, method in METHODS.items() if "layers" in method.Options.model_fields]


def batch_for(family: str, task_type: str, **more):
    batch = batch_of(family, task_type, **more)
    batch.targets["second"] = torch.tensor([5, 3, 2, 3], dtype=torch.int32)
    return batch


def check(step, batch, name: str) -> None:
    out = step(batch)
    assert out.terms and all(torch.isfinite(term) and term >= 0 for term in out.terms.values()), out.terms
    _, grads = gradients(step, batch)
    assert all(torch.isfinite(grad).all() for grad in grads.values())
    assert any(n.startswith("model.heads.") and g.abs().sum() > 0 for n, g in grads.items()), name
    assert any(".base." in n and g.abs().sum() > 0 for n, g in grads.items()), name


@pytest.mark.parametrize("task_type", READ)
@pytest.mark.parametrize("method", list(METHODS))
@pytest.mark.parametrize("layers", ["words", "2"])
def test_methods_with_san(method, task_type, layers):
    options = {"layers": layers} if method in EDITING else {}
    if (method, task_type) == ("smix", "Ranking"):
        with pytest.raises(UserError, match="mixes the labels of two examples, which Ranking does not have"):
            step_of("bert", task_type, [spec(method, **options)], enable_san=True)
        return
    step = step_of("bert", task_type, [spec(method, **options)], enable_san=True)
    check(step, batch_for("bert", task_type, labelled=[True, False, True, True]), method)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", ["standard", "smart", "jacobian", "freelb"])
def test_families_with_san(family, method):
    step = step_of(family, "Classification", [spec(method)], enable_san=True)
    check(step, batch_for(family, "Classification"), method)


@pytest.mark.parametrize("head_input", ["first", "mean", "pooler"])
@pytest.mark.parametrize("method", list(METHODS))
def test_methods_with_other_heads(method, head_input):
    step = step_of("bert", "Classification", [spec(method)], head_input=head_input)
    check(step, batch_for("bert", "Classification", labelled=[True, False, True, True]), method)


@pytest.mark.parametrize("task_type", TYPES)
@pytest.mark.parametrize("method", list(METHODS))
def test_methods_with_soft_labels(method, task_type):
    """Rows with both labels, the soft one alone, the hard one alone, none."""
    step = step_of("bert", task_type, [spec(method)])
    batch = batch_of("bert", task_type, labelled=[True, True, True, False])
    n = 3 if task_type == "Classification" else 1
    batch.targets |= {
        "soft": torch.rand(4, n).softmax(-1) if n > 1 else torch.rand(4, 1),
        "has_soft": torch.tensor([True, True, False, False]),
        "has_label": torch.tensor([True, False, True, False]),
    }
    check(step, batch, method)


def test_shared_masks_repeat_the_steps_of_san():
    """A pass with shared masks and no edit is the clean pass, step dropout included."""
    from mtrobust.perturb import Passes

    step = step_of("bert", "Classification", [spec("smart")], enable_san=True, san_step_dropout=0.5)
    batch = batch_for("bert", "Classification")
    needs = step.methods["classification"].needs
    passes = Passes(step.model.encoder, step.model.heads["classification"], batch, step.noise, needs)
    clean = passes.out["logits"]
    again = passes.at(0, passes.h(0), dropout="shared").out["logits"]
    torch.testing.assert_close(again, clean, atol=1e-5, rtol=1e-5)
    other = passes.at(0, passes.h(0)).out["logits"]
    assert not torch.allclose(other, clean, atol=1e-3)


def test_san_reads_every_token_so_the_last_layer_is_whole():
    step = step_of("bert", "Classification", [spec("standard")], enable_san=True)
    batch = batch_for("bert", "Classification")
    assert step.model.encoder.num_layers == LAYERS
    tape = step.model.encoder.record(batch.inputs, rows=step.model.heads["classification"].reads)
    assert tape.last.shape[1] == batch.inputs["input_ids"].shape[1]
