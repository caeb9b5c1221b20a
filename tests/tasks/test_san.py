"""The stochastic answer network: against a recount token by token, its step dropout, what padding may not change."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mtrobust.errors import UserError
from mtrobust.tasks.base import Batch, HeadInput
from mtrobust.tasks.heads import ClassificationHead, RegressionHead
from mtrobust.tasks.san import SanNet, average, parts
from mtrobust.tasks.sequence import second_begins
from mtrobust.tasks.taskdef import TaskDef

B, T, H = 3, 7, 8
LENGTHS, SECOND = [7, 6, 5], [4, 3, 2]


class Info:
    model_type, hidden_size, num_layers, head_dropout = "fake", H, 2, 0.25


def net(n: int = 3, steps: int = 4, step_dropout: float = 0.5, dropout: float | None = 0.0) -> SanNet:
    torch.manual_seed(4)
    made = SanNet(Info(), n, dropout, steps, step_dropout).double()
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.6)
    return made


def inputs(length: int = T) -> dict[str, torch.Tensor]:
    mask = torch.zeros(B, length, dtype=torch.int64)
    for row, real in enumerate(LENGTHS):
        mask[row, :real] = 1
    return {"attention_mask": mask, "second": torch.tensor(SECOND, dtype=torch.int32)}


def states(length: int = T) -> torch.Tensor:
    return torch.randn(B, length, H, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max())
    return e / e.sum()


def recount(made: SanNet, memory: np.ndarray, length: int, second: int) -> list[np.ndarray]:
    """Outputs of each step for one example, from the formulas."""
    w: dict[str, Any] = {name: value.detach().numpy() for name, value in made.state_dict().items()}
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    premise, hypothesis = memory[:second], memory[second:length]
    state = softmax(hypothesis @ w["summary.weight"][0] + w["summary.bias"]) @ hypothesis
    found = []
    for _ in range(made.steps):
        read = softmax(premise @ (w["attention.weight"] @ state + w["attention.bias"])) @ premise
        both = np.concatenate([state, read, abs(state - read), state * read])
        found.append(w["classifier.weight"] @ both + w["classifier.bias"])
        gates = w["gru.weight_ih"] @ read + w["gru.bias_ih"], w["gru.weight_hh"] @ state + w["gru.bias_hh"]
        (ri, zi, ni), (rh, zh, nh) = (part.reshape(3, H) for part in gates)
        reset, update = sigmoid(ri + rh), sigmoid(zi + zh)
        state = (1 - update) * np.tanh(ni + reset * nh) + update * state
    return found


@pytest.mark.parametrize("steps", [1, 4])
def test_the_output_is_the_mean_of_the_steps_posteriors(steps: int) -> None:
    made, last = net(steps=steps).eval(), states()
    out = made(last, None, inputs()).detach().numpy()
    for row in range(B):
        posteriors = [softmax(y) for y in recount(made, last[row].numpy(), LENGTHS[row], SECOND[row])]
        np.testing.assert_allclose(out[row], np.log(np.mean(posteriors, 0)), rtol=1e-10)
    np.testing.assert_allclose(np.exp(out).sum(1), 1, rtol=1e-12)


def test_one_output_is_the_mean_of_the_steps_numbers() -> None:
    made, last = net(n=1).eval(), states()
    out = made(last, None, inputs())
    for row in range(B):
        expected = np.mean(recount(made, last[row].numpy(), LENGTHS[row], SECOND[row]))
        assert out[row].item() == pytest.approx(expected, rel=1e-10)


def test_padding_and_other_rows_change_nothing() -> None:
    made, last = net().eval(), states()
    longer = torch.cat((last, torch.full((B, 3, H), 1e3, dtype=torch.float64)), 1)
    torch.testing.assert_close(made(longer, None, inputs(T + 3)), made(last, None, inputs()), rtol=1e-12, atol=0)
    alone = {name: value[1:2] for name, value in inputs().items()}
    torch.testing.assert_close(made(last[1:2], None, alone), made(last, None, inputs())[1:2], rtol=1e-12, atol=0)


def test_the_texts_have_different_parts() -> None:
    made, last = net().eval(), states()
    swapped = torch.cat((last[:1, 4:], last[:1, :4]), 1)
    turned = {"attention_mask": torch.ones(1, T, dtype=torch.int64), "second": torch.tensor([3])}
    given = made(last[:1], None, {name: value[:1] for name, value in inputs().items()})
    assert not torch.allclose(made(swapped, None, turned), given)
    first, second = parts(inputs()["attention_mask"], inputs()["second"])
    assert first.sum(1).tolist() == SECOND and second.sum(1).tolist() == [3, 3, 3]
    assert not (first & second).any()


def test_step_dropout_leaves_out_whole_steps_and_never_all() -> None:
    made = net(steps=5, step_dropout=0.3)
    kept = made.train().kept(20_000, torch.device("cpu"))
    assert kept.any(1).all()
    # P(kept) = 1 - p, and one step of five more where all would go
    assert kept.double().mean().item() == pytest.approx(0.7 + 0.3**5 / 5, abs=0.01)
    assert len(kept.unique(dim=0)) == 31
    hard = net(steps=3, step_dropout=0.999).train().kept(3000, torch.device("cpu"))
    assert hard.sum(1).double().mean().item() == pytest.approx(1, abs=0.02)
    assert hard.double().mean(0).tolist() == pytest.approx([1 / 3] * 3, abs=0.05)
    assert made.eval().kept(9, torch.device("cpu")).all()


def test_the_mean_is_over_the_steps_that_stay() -> None:
    outputs, kept = torch.randn(2, 3, 4, dtype=torch.float64), torch.tensor([[True, False, True], [False, True, False]])
    mean = average(outputs, kept)
    posteriors = outputs.softmax(-1)
    torch.testing.assert_close(mean[0], ((posteriors[0, 0] + posteriors[0, 2]) / 2).log())
    torch.testing.assert_close(mean[1], posteriors[1, 1].log())
    torch.testing.assert_close(average(outputs[..., :1], kept)[0], (outputs[0, 0, :1] + outputs[0, 2, :1]) / 2)
    outputs.requires_grad_(True)
    (grad,) = torch.autograd.grad(average(outputs, kept)[:, 0].sum(), outputs)
    assert grad.isfinite().all() and not grad[~kept].any()


def test_the_same_generator_state_repeats_the_steps() -> None:
    made, last = net(dropout=0.2).train(), states()
    torch.manual_seed(5)
    one = made(last, None, inputs())
    assert not torch.equal(made(last, None, inputs()), one)
    torch.manual_seed(5)
    assert torch.equal(made(last, None, inputs()), one)


def test_default_dropout_is_the_encoders_and_half_precision_is_widened() -> None:
    assert SanNet(Info(), 2, None).dropout.p == 0.25 and SanNet(Info(), 2, 0.0).dropout.p == 0
    made = SanNet(Info(), 2, None).eval()
    with torch.autocast("cpu", torch.bfloat16):
        out = made(states().bfloat16(), None, inputs())
    assert out.dtype == torch.float32


def test_second_derivatives_exist() -> None:
    made, last = net().train(), states().requires_grad_(True)
    (grad,) = torch.autograd.grad(made(last, None, inputs())[:, 0].sum(), last, create_graph=True)
    grad.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in made.parameters())


@pytest.mark.parametrize(
    ("ids", "begin"),
    [
        ([None, 0, 0, None, 1, None], 4),
        ([None, 0, None, None, 1, 1, None], 4),  # RoBERTa's two separators
        ([0, 0, None, 1, None], 3),  # T5 has none in front
        ([None, 0, 0, None, None], 4),  # a text that the tokenizer makes nothing of
    ],
)
def test_where_the_second_text_begins(ids: list[int | None], begin: int) -> None:
    assert second_begins(ids) == begin


@pytest.mark.parametrize("kind", ["Classification", "Regression"])
def test_definitions_build_it(kind: str, tiny_model_dir: Any) -> None:
    from transformers import AutoTokenizer

    keys = {"labels": ["a", "b"]} if kind == "Classification" else {}
    pair = {"name": "t", "task_type": kind, "data_format": "PremiseAndOneHypothesis"}
    task = TaskDef(**pair, **keys, enable_san=True, san_steps=3)
    assert task.faults() == []
    head = task.type.build_head(Info())
    assert type(head) is {"Classification": ClassificationHead, "Regression": RegressionHead}[kind]
    assert isinstance(head.net, SanNet) and (head.net.steps, head.net.step_dropout, head.reads) == (3, 0.1, "all")
    with pytest.raises(UserError, match="cannot be exported: its head .enable_san: true."):
        head.net.full_model(None)
    for family in ("bert", "roberta", "t5"):
        tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir(family))
        row = task.type.parse_row({"id": "a", "text": "the old bridge", "text_pair": "a cat"})
        (feature,) = task.type.featurize([row], tokenizer, 32, training=True)
        tail = tokenizer.decode(feature["input_ids"][feature["second"] :], skip_special_tokens=True)
        assert tail.strip() == "a cat"
    batch = Batch("t", inputs(), {**inputs(), "labelled": torch.ones(B, dtype=torch.bool)}, torch.arange(B))
    out = head.double().eval()(HeadInput(states(), None), batch)
    assert head.views(out, batch)[0].logits.shape == (B, 2 if kind == "Classification" else 1)
