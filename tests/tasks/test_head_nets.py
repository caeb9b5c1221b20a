"""What the output layer reads: by hand, the encoder's dropout, what a definition builds, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional

from mtrobust.models.multitask import MultiTaskModel
from mtrobust.tasks.head_nets import FirstNet, MeanNet, PoolerNet
from mtrobust.tasks.taskdef import TaskDef
from tests.models.tiny import FAMILIES, tiny_encoder
from tests.perturb.cells import batch_of, spec, step_of

H = 6
NETS = {"first": FirstNet, "mean": MeanNet, "pooler": PoolerNet}


class Info:
    model_type, hidden_size, num_layers, head_dropout = "fake", H, 2, 0.3


def task(**keys: Any) -> TaskDef:
    return TaskDef(
        name="classification", task_type="Classification", data_format="PremiseOnly", labels=["a", "b", "c"], **keys
    )


def test_vectors_by_hand() -> None:
    last, mask = torch.randn(2, 4, H), torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    given = {"attention_mask": mask}
    for name, kind in NETS.items():
        net = kind(Info(), 3, None).eval()
        vector = {
            "first": lambda net=net: last[:, 0],
            "mean": lambda net=net: torch.stack([last[0, :3].mean(0), last[1].mean(0)]),
            "pooler": lambda net=net: torch.tanh(last[:, 0] @ net.dense.weight.T + net.dense.bias),
        }[name]()
        torch.testing.assert_close(net(last, None, given), vector @ net.classifier.weight.T + net.classifier.bias)
        assert net.first_only == (name != "mean") and net.dropout.p == 0.3


@pytest.mark.parametrize("actf", ["tanh", "relu", "gelu"])
def test_the_activation_of_the_pooler(actf: str) -> None:
    head = task(head_input="pooler", actf=actf, dropout_p=0.0).type.build_head(Info())
    last = torch.randn(2, 1, H)
    dense = head.net.dense(last[:, 0])
    expected = {"tanh": torch.tanh, "relu": functional.relu, "gelu": functional.gelu}[actf](dense)
    torch.testing.assert_close(head.net.vector(last, torch.ones(2, 1)), expected)


@pytest.mark.parametrize("name", NETS)
def test_definitions_build_them(name: str) -> None:
    built = task(head_input=name, dropout_p=0.05).type.build_head(Info())
    assert type(built.net) is NETS[name] and built.net.dropout.p == 0.05
    assert built.reads == ("all" if name == "mean" else "first")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", NETS)
def test_every_family_trains_with_them(family: str, name: str) -> None:
    """The same numbers whether all tokens were computed or the first alone, and gradients down to the words."""
    step = step_of(family, "Classification", [spec("standard")], dropout=0.0, head_input=name)
    batch = batch_of(family, "Classification")
    head, encoder = step.model.heads["classification"], step.model.encoder
    given = step.model(batch)["logits"]
    tape = encoder.record(batch.inputs, rows="all")
    torch.testing.assert_close(head.net(tape.last, None, batch.inputs), given, atol=1e-5, rtol=1e-5)
    step(batch).loss.backward()
    assert encoder.word_embeddings.weight.grad.abs().sum() > 0
    assert head.net.classifier.weight.grad.abs().sum() > 0


def test_the_dropout_of_the_family_is_the_default() -> None:
    encoder = tiny_encoder("bert", dropout=0.2)
    for name, expected in ((None, 0.2), (0.4, 0.4)):
        model = MultiTaskModel(encoder, {"t": task(head_input="first", dropout_p=name)})
        assert model.heads["t"].net.dropout.p == expected
    assert tiny_encoder("distilbert").head_dropout == 0.2  # its `seq_classif_dropout`
    assert tiny_encoder("t5", dropout=0.3).head_dropout == 0.3
