"""Heads: losses by hand, unlabelled rows, what counts, views and their support, dtypes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mtrobust.tasks.base import Batch, HeadInput
from mtrobust.tasks.heads import ClassificationHead, RegressionHead, SpanHead
from mtrobust.tasks.taskdef import TaskDef

B, T, H = 4, 6, 8


class Net(nn.Module):
    """As a family's head: reads the first token (sequence) or every token (span)."""

    first_only = False

    def __init__(self, kind: str, n: int) -> None:
        super().__init__()
        self.kind, self.linear = kind, nn.Linear(H, n, dtype=torch.float64)

    def forward(self, last: Tensor, pooled: Tensor | None, inputs: dict[str, Tensor]) -> Tensor:
        return self.linear(last[:, 0] if self.kind == "sequence" else last)


class Info:
    """As an encoder describes itself; notes what was asked for."""

    model_type, hidden_size, num_layers = "fake", H, 2

    def __init__(self) -> None:
        self.asked: list[tuple[str, int, float | None]] = []

    def family_head(self, kind: str, num_labels: int, dropout: float | None) -> nn.Module:
        self.asked.append((kind, num_labels, dropout))
        return Net(kind, num_labels)


def read() -> HeadInput:
    torch.manual_seed(1)
    return HeadInput(torch.randn(B, T, H, dtype=torch.float64), None)


def batch(**targets: Any) -> Batch:
    mask = torch.ones(B, T, dtype=torch.int64)
    targets.setdefault("labelled", torch.tensor([True, True, False, True]))
    return Batch("t", {"input_ids": mask, "attention_mask": mask}, targets, torch.arange(B))


def passage() -> Tensor:
    mask = torch.zeros(B, T, dtype=torch.bool)
    mask[:, 0] = True  # CLS
    mask[:, 2:5] = True
    return mask


def spans(**targets: Any) -> Batch:
    start, end = torch.tensor([2, 0, -1, 3]), torch.tensor([4, 0, -1, 3])
    return batch(start_positions=start, end_positions=end, passage_mask=passage(), **targets)


def test_classification_loss_is_cross_entropy_of_labelled_rows() -> None:
    info, given = Info(), batch(labels=torch.tensor([0, 2, -1, 1]))
    head = ClassificationHead(info, 3, 0.25)
    assert info.asked == [("sequence", 3, 0.25)]
    out = head(read(), given)
    loss = head.loss(out, given)
    expected = -out["logits"].log_softmax(-1)[[0, 1, 3], [0, 2, 1]]
    assert loss[2] == 0
    assert torch.equal(loss[[0, 1, 3]], expected)
    assert head.count(given) == 3
    assert head.items(given) == B


def test_regression_loss_is_the_squared_error_and_not_a_table() -> None:
    given = batch(labels=torch.tensor([1.0, 2.0, 0.0, -1.0]))
    head = RegressionHead(Info(), 1, None)
    out = head(read(), given)
    loss = head.loss(out, given)
    assert loss.shape == (B,)
    assert torch.equal(loss[[0, 1, 3]], (out["logits"][[0, 1, 3], 0] - torch.tensor([1.0, 2.0, -1.0])) ** 2)
    assert loss[2] == 0
    (view,) = head.views(out, given)
    assert (view.kind, view.logits.shape, view.support) == ("real", (B, 1), None)


@pytest.mark.parametrize("shape", [(B, 1), (1,), (B, B)])
def test_numbers_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    head, logits = RegressionHead(Info(), 1, None), torch.zeros(B, 1)
    with pytest.raises(ValueError, match=r"labels of shape .* for numbers of shape \[4\]"):
        head.loss({"logits": logits}, batch(labels=torch.zeros(shape)))
    every = torch.ones(B, dtype=torch.bool)
    given = batch(labels=torch.zeros(B), soft=torch.zeros(B), has_soft=every, has_label=every)
    with pytest.raises(ValueError, match=r"labels of shape \[4\] for numbers of shape \[4, 1\]"):
        head.loss({"logits": logits}, given)


def test_span_loss_runs_over_the_passage_and_cls() -> None:
    given = spans()
    head = SpanHead(Info(), None)
    out = head(read(), given)
    loss = head.loss(out, given)
    allowed = [0, 2, 3, 4]
    for row, (start, end) in {0: (2, 4), 1: (0, 0), 3: (3, 3)}.items():
        logs = [out[f"{side}_logits"][row][allowed].log_softmax(-1) for side in ("start", "end")]
        expected = -(logs[0][allowed.index(start)] + logs[1][allowed.index(end)]) / 2
        assert loss[row].item() == pytest.approx(expected.item(), rel=1e-12)
    assert loss[2] == 0
    assert head.count(given) == 3


def test_span_loss_over_all_positions_is_the_plain_one() -> None:
    given = spans()
    del given.targets["passage_mask"]  # not read
    head = SpanHead(Info(), None, all_positions=True)
    out = head(read(), given)
    loss = head.loss(out, given)
    logs = [out[f"{side}_logits"].log_softmax(-1) for side in ("start", "end")]
    assert loss[0].item() == pytest.approx(-(logs[0][0, 2] + logs[1][0, 4]).item() / 2, rel=1e-12)
    assert all(view.support is None for view in head.views(out, given))


def test_span_views_are_two_with_support() -> None:
    given, head = spans(), SpanHead(Info(), None)
    out = head(read(), given)
    start, end = head.views(out, given)
    assert torch.equal(start.logits, out["start_logits"])
    assert torch.equal(end.logits, out["end_logits"])
    assert torch.equal(start.support, passage())
    assert start.row.tolist() == [0, 1, 2, 3]  # unlabelled rows have views too
    assert head.items(given) == B
    assert head.token_outputs == {"start_logits", "end_logits"}


def test_positions_outside_the_support_get_no_gradient() -> None:
    given, head = spans(), SpanHead(Info(), None)
    logits = {f"{side}_logits": torch.randn(B, T, requires_grad=True) for side in ("start", "end")}
    head.loss(logits, given).sum().backward()
    outside = logits["start_logits"].grad[~passage()]
    assert outside.abs().max() == 0
    assert torch.isfinite(logits["end_logits"].grad).all()
    assert logits["end_logits"].grad[2].abs().max() == 0  # the unlabelled row


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_losses_are_at_least_single_precision(dtype: torch.dtype) -> None:
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    logits = torch.tensor([[50.0, -50.0]] * B, dtype=dtype)
    labelled = batch(labels=torch.zeros(B, dtype=torch.int64))
    assert ClassificationHead(Info(), 2, None).loss({"logits": logits}, labelled).dtype == wide
    numbers = batch(labels=torch.zeros(B))
    assert RegressionHead(Info(), 1, None).loss({"logits": logits[:, :1]}, numbers).dtype == wide
    row = torch.zeros(B, T, dtype=dtype)
    loss = SpanHead(Info(), None).loss({"start_logits": row, "end_logits": row}, spans())
    assert loss.dtype == wide
    assert loss[0].item() == pytest.approx(torch.tensor(4.0).log().item(), rel=1e-6)


def test_a_batch_without_labels_has_loss_zero_and_no_count() -> None:
    none = torch.zeros(B, dtype=torch.bool)
    given, head = spans(labelled=none), SpanHead(Info(), None)
    loss = head.loss(head(read(), given), given)
    assert loss.abs().sum() == 0
    assert head.count(given) == 0
    loss.sum().backward()
    assert head.net.linear.weight.grad.abs().sum() == 0


def test_unlabelled_rows_with_infinite_logits_do_not_spoil_the_others() -> None:
    logits = torch.tensor([[1.0, 2.0], [0.5, 0.1], [float("inf"), 0.0], [0.0, 0.0]], requires_grad=True)
    given = batch(labels=torch.tensor([1, 0, 0, 1]))
    assert torch.isfinite(ClassificationHead(Info(), 2, None).loss({"logits": logits}, given)).all()


@pytest.mark.parametrize(
    ("kind", "keys", "head", "asked"),
    [
        (
            "Classification",
            {"data_format": "PremiseOnly", "labels": list("abc")},
            ClassificationHead,
            ("sequence", 3, 0.3),
        ),
        ("Regression", {"data_format": "PremiseOnly"}, RegressionHead, ("sequence", 1, 0.3)),
        ("SpanClassification", {"data_format": "MRC", "span_positions": "all"}, SpanHead, ("span", 2, 0.3)),
        ("SpanClassificationYN", {"data_format": "MRC"}, SpanHead, ("span", 2, 0.3)),
    ],
)
def test_each_task_type_builds_its_head(kind: str, keys: dict[str, Any], head: type, asked: tuple) -> None:
    info = Info()
    built = TaskDef(name="t", task_type=kind, dropout_p=0.3, **keys).type.build_head(info)
    assert type(built) is head
    assert info.asked == [asked]
    assert getattr(built, "all_positions", False) == (keys.get("span_positions") == "all")
