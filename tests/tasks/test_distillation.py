"""Soft labels: losses by closed form, mixtures row by row, rows and features, and what changes nothing."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from mtrobust.data.collator import Collator
from mtrobust.data.rows import read_rows
from mtrobust.errors import UserError
from mtrobust.tasks.base import Batch
from mtrobust.tasks.distillation import SOFT_LOSSES, Soft, tempered
from mtrobust.tasks.heads import ClassificationHead, RegressionHead
from mtrobust.tasks.taskdef import TaskDef
from tests.evaluation.runs import write_rows

LOGITS = torch.tensor([[0.3, -1.2, 2.0], [1.0, 1.0, 1.0]], dtype=torch.float64)
SOFT = torch.tensor([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0]], dtype=torch.float64)


class Info:
    model_type, hidden_size, num_layers, head_dropout = "fake", 4, 2, 0.0

    def family_head(self, kind: str, n: int, dropout: float | None) -> Any:
        net = torch.nn.Linear(4, n)
        net.first_only = True
        return net


def definition(**keys: Any) -> TaskDef:
    values = {"name": "t", "task_type": "Classification", "data_format": "PremiseOnly", "labels": list("abc")} | keys
    return TaskDef(**{key: value for key, value in values.items() if value is not None})


@pytest.mark.parametrize("temperature", [1.0, 2.0, 0.5])
def test_losses_against_numpy(temperature: float) -> None:
    for row in range(2):
        z, p = LOGITS[row].numpy() / temperature, SOFT[row].numpy() ** (1 / temperature)
        p, log_q = p / p.sum(), z - np.log(np.exp(z).sum())
        entropy = -sum(x * math.log(x) for x in p if x)
        cross = -(p * log_q).sum()
        given = {name: loss(LOGITS, SOFT, temperature)[row].item() for name, loss in SOFT_LOSSES.items()}
        assert given["CeCriterion"] == pytest.approx(cross * temperature**2, rel=1e-12)
        assert given["KlCriterion"] == pytest.approx((cross - entropy) * temperature**2, rel=1e-9)
        if temperature == 1:
            assert given["MseCriterion"] == pytest.approx(((np.exp(log_q) - p) ** 2).mean(), rel=1e-12)


def test_kl_has_the_gradient_of_cross_entropy_and_ends_at_zero() -> None:
    logits = LOGITS.clone().requires_grad_(True)
    grads = [
        torch.autograd.grad(SOFT_LOSSES[n](logits, SOFT, 2.0).sum(), logits)[0] for n in ("CeCriterion", "KlCriterion")
    ]
    torch.testing.assert_close(*grads)
    matched = SOFT[:1].log()
    assert SOFT_LOSSES["KlCriterion"](matched, SOFT[:1], 1.0).item() == pytest.approx(0, abs=1e-12)
    assert torch.equal(tempered(torch.zeros(1, 3), 2.0), torch.zeros(1, 3))


def test_a_one_hot_soft_label_is_the_label() -> None:
    expected = torch.nn.functional.cross_entropy(LOGITS[1:], torch.tensor([0]), reduction="none")
    assert torch.equal(SOFT_LOSSES["CeCriterion"](LOGITS[1:], SOFT[1:], 1.0), expected)


def batch(**more: Any) -> Batch:
    mask = torch.ones(4, 2, dtype=torch.int64)
    targets = {"labels": torch.tensor([2, 0, 0, 1]), "labelled": torch.tensor([True, True, True, False])}
    return Batch("t", {"input_ids": mask, "attention_mask": mask}, targets | more, torch.arange(4))


@pytest.mark.parametrize("weight", [0.5, 0.2, 1.0])
def test_each_row_learns_from_what_it_has(weight: float) -> None:
    head = ClassificationHead(Info(), 3, None, soft=Soft(weight, 2.0, "KlCriterion"))
    logits = torch.randn(4, 3, dtype=torch.float64)
    soft = torch.tensor([[0.1, 0.2, 0.7], [0.0, 0.0, 0.0], [0.6, 0.3, 0.1], [0.3, 0.3, 0.4]], dtype=torch.float64)
    given = batch(soft=soft, has_soft=torch.tensor([True, False, True, True]),
                  has_label=torch.tensor([True, True, False, True]))  # fmt: skip
    hard = torch.nn.functional.cross_entropy(logits, given.targets["labels"], reduction="none")
    kl = SOFT_LOSSES["KlCriterion"](logits, soft, 2.0)
    loss = head.loss({"logits": logits}, given)
    expected = [(1 - weight) * hard[0] + weight * kl[0], hard[1], kl[2], 0.0]
    assert loss.tolist() == pytest.approx([float(x) for x in expected], rel=1e-12)
    assert head.count(given) == 3


def test_regression_learns_from_the_teachers_number() -> None:
    head, logits = RegressionHead(Info(), 1, None, soft=Soft(0.25)), torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    given = batch(labels=torch.tensor([0.0, 1.0, 0.0, 9.0]), soft=torch.tensor([[3.0], [0.0], [2.5], [0.0]]),
                  has_soft=torch.tensor([True, False, True, False]),
                  has_label=torch.tensor([True, True, False, True]))  # fmt: skip
    assert head.loss({"logits": logits}, given).tolist() == [0.75 * 1 + 0.25 * 4, 1.0, 0.25, 0.0]


def test_no_gradient_of_a_part_that_does_not_count() -> None:
    """Infinite logits of a row without a soft label, or without any, spoil nothing."""
    head = ClassificationHead(Info(), 3, None, soft=Soft())
    logits = torch.zeros(4, 3, requires_grad=True)
    given = batch(soft=torch.zeros(4, 3), has_soft=torch.tensor([False] * 3 + [True]),
                  has_label=torch.tensor([True, True, True, False]))  # fmt: skip
    head.loss({"logits": logits}, given).sum().backward()
    plain = torch.zeros(4, 3, requires_grad=True)
    ClassificationHead(Info(), 3, None).loss({"logits": plain}, batch()).sum().backward()
    assert torch.equal(logits.grad, plain.grad)


# --- rows and features --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer(tiny_model_dir: Any) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model_dir("bert"))


ROWS = [
    {"id": "0", "text": "a cat", "label": "b", "soft_label": [0.25, 0.5, 0.25]},
    {"id": "1", "text": "a dog", "soft_label": [0, 0, 1]},
    {"id": "2", "text": "the river", "label": 2},
    {"id": "3", "text": "a film"},
    {"id": "4", "text": "a film", "softlabel": [0.9995, 0.0, 0.0]},  # MT-DNN's name; divided by its sum
]


def made(task: TaskDef, tokenizer: Any, rows: list[dict[str, Any]] = ROWS) -> Batch:
    parsed = [task.type.parse_row(row) for row in rows]
    return task.type.drawn(Collator(task, 0)(task.type.featurize(parsed, tokenizer, 16, True)), tokenizer)


def test_features_say_what_a_row_has(tokenizer: Any) -> None:
    targets = made(definition(), tokenizer).targets
    assert targets["labelled"].tolist() == [True, True, True, False, True]
    assert targets["has_label"].tolist() == [True, False, True, False, False]
    assert targets["has_soft"].tolist() == [True, True, False, False, True]
    assert targets["soft"].tolist() == [[0.25, 0.5, 0.25], [0, 0, 1], [0] * 3, [0] * 3, [1, 0, 0]]
    assert targets["soft"].dtype == torch.float32


def test_at_weight_zero_soft_labels_are_not_there(tokenizer: Any) -> None:
    plain = [{k: v for k, v in row.items() if not k.startswith("soft")} for row in ROWS]
    given, wanted = made(definition(kd_weight=0.0), tokenizer), made(definition(), tokenizer, plain)
    assert given.targets.keys() == wanted.targets.keys() == {"labels", "labelled", "second"}
    assert all(torch.equal(given.targets[name], wanted.targets[name]) for name in wanted.targets)
    assert not definition(kd_weight=0.0).type.is_labelled({"label": None, "soft_label": [1, 0, 0]})


@pytest.mark.parametrize(
    ("task_type", "row"),
    [
        ("SpanClassification", {"question": "q?", "context": "It was."}),
        ("MaskLM", {"text": "a film"}),
    ],
)
def test_other_task_types_refuse_rows_with_soft_labels(task_type: str, row: dict[str, Any], tmp_path: Any) -> None:
    task = TaskDef(name="t", task_type=task_type, data_format={"MaskLM": "MLM"}.get(task_type, "MRC"))
    for name in ("soft_label", "softlabel"):
        path = write_rows(tmp_path / "rows.jsonl", [row | {name: [0.5, 0.5]}])
        with pytest.raises(UserError, match=f"rows.jsonl:1: {name}: {task_type} does not learn from soft labels"):
            read_rows(task, path)


def test_definitions_name_the_loss_in_both_ways() -> None:
    assert definition(kd_loss="kl").kd_loss == "KlCriterion" == definition(kd_loss="KlCriterion").kd_loss
    assert definition().faults() == definition(kd_loss="mse").faults() == []
    regression = {"task_type": "Regression", "labels": None}
    assert definition(**regression, kd_loss="RegCriterion").faults() == []
    for name in ("ce", "CeCriterion"):
        (fault,) = definition(**regression, kd_loss=name).faults()
        assert fault == "kd_loss: ce (CeCriterion): Regression has mse, RegCriterion"
    assert definition(**regression, kd_temperature=2.0).faults() == [
        "kd_temperature: 2: only with kd_loss ce or kl, not mse"
    ]


def test_rows_with_the_mean_of_several_predictions() -> None:
    from mtrobust.tasks.base import Prediction

    task = definition()
    row = task.type.parse_row({"id": "x", "text": "t", "label": "c", "genre": "g"})
    shares = [{"a": 0.1, "b": 0.2, "c": 0.7}, {"c": 0.5, "a": 0.3, "b": 0.2}]
    soft = task.type.soft_row(row, [Prediction({"probabilities": s}, None) for s in shares])
    assert soft.pop("soft_label") == pytest.approx([0.2, 0.2, 0.6])
    assert soft == {"id": "x", "text": "t", "label": "c", "genre": "g"}
    number = definition(task_type="Regression", labels=None)
    row = number.type.parse_row({"id": "x", "text": "t"})
    given = number.type.soft_row(row, [Prediction({}, {"number": n}) for n in (1.0, 2.5)])
    assert given == {"id": "x", "text": "t", "soft_label": 1.75}
