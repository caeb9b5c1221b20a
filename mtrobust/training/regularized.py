"""Methods around a plain Hugging Face classifier, for a loop that is not ours (`transformers.Trainer`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from mtrobust.errors import UserError
from mtrobust.models.encoder import Encoder
from mtrobust.models.families import family_of
from mtrobust.models.multitask import MultiTaskModel
from mtrobust.perturb.build import build_methods
from mtrobust.tasks.base import Batch
from mtrobust.tasks.heads import IGNORED
from mtrobust.tasks.taskdef import TaskDef
from mtrobust.training.step import TrainStep

if TYPE_CHECKING:
    from mtrobust.config import PerturbSpec

_TASK = "task"


class Regularized(nn.Module):
    """A sequence classifier or regressor whose loss has the terms of methods in it while it trains.

    model: of the family's `…ForSequenceClassification` class, in float32 or float64; it is trained itself, nothing is
    copied, and `regularized.model` is what is saved, evaluated and published. perturb: the methods; seed: keys their
    noise.
    Raises `UserError` for other models and for methods or layers that do not fit.

    In training mode with labels the loss is that of a `TrainStep`: one number, its terms by name in `terms`. A label of
    -100 (regression: NaN) marks a row without one, which takes part in regularisers only. Otherwise the model's own
    outputs come back. Noise belongs to the place of a row in its batch, the number of the pass and the process.

    What methods own (`swep`'s network) is in `owned` and trains along. Activation checkpointing is not supported here.
    `passes`, a 0-d int64 buffer, counts the forward passes in training mode; it is part of the state dict, and a
    training that goes on from one draws the noise that it would have drawn. Each pass counts as a step: under gradient
    accumulation over n micro-batches the averaged weights of `smart` with `bregman` move n times an update, with beta
    each time (the n-th root of a beta gives that of a whole update).
    """

    passes: Tensor

    def __init__(self, model: PreTrainedModel, perturb: Sequence[PerturbSpec], seed: int = 0) -> None:
        super().__init__()
        _check(model)
        task = _task(model)
        encoder = Encoder(getattr(model, model.base_model_prefix))
        inner = MultiTaskModel(encoder, {_TASK: task})
        head: Any = inner.heads[_TASK]
        head.net.take_over(model)
        step = TrainStep(inner, build_methods(perturb, {_TASK: task}, encoder), seed)
        self.model = model
        self.owned = step.owned
        self.register_buffer("passes", torch.zeros((), dtype=torch.int64))
        self.terms: dict[str, float] = {}
        self._regression = model.config.num_labels == 1
        self._hidden = (step,)  # its weights are the model's: they must not be listed twice
        step.train(model.training)

    def train(self, mode: bool = True) -> Regularized:
        """As `nn.Module.train`; the step's own modules follow."""
        super().train(mode)
        self._hidden[0].train(mode)
        return self

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> SequenceClassifierOutput:
        """input_ids, attention_mask (default: all ones), token_type_ids: int64 [B, T]; labels: [B] or [B, 1], int64 or
        for a regressor floating. Raises `UserError` for labels of another shape."""
        given = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        inputs = {name: value for name, value in given.items() if value is not None}
        if not self.training or labels is None:
            return self.model(**inputs, labels=labels)
        inputs.setdefault("attention_mask", torch.ones_like(input_ids))
        out = self._hidden[0](self._batch(inputs, labels))
        self.terms = {name: float(value) for name, value in out.terms.items()}
        return SequenceClassifierOutput(loss=out.loss)

    def _batch(self, inputs: dict[str, Tensor], labels: Tensor) -> Batch:
        rows = len(inputs["input_ids"])
        if labels.shape not in ((rows,), (rows, 1)):
            raise UserError(f"labels: {list(labels.shape)}: must be [{rows}] or [{rows}, 1], one for each row")
        labels = labels.reshape(-1)
        labelled = ~labels.isnan() if self._regression else labels != IGNORED
        labels = labels.where(labelled, 0)
        batch = Batch(_TASK, inputs, {"labels": labels, "labelled": labelled}, self._row_ids(labels), int(self.passes))
        self.passes += 1
        return batch

    def _row_ids(self, labels: Tensor) -> Tensor:
        """Places in the batch; other numbers on each process, since each has other rows."""
        distributed = torch.distributed
        rank = distributed.get_rank() if distributed.is_available() and distributed.is_initialized() else 0
        return torch.arange(len(labels), device=labels.device) + (rank << 32)


def _check(model: Any) -> None:
    """Raises `UserError` unless a head like the model's can be rebuilt around a shared encoder."""
    kind = type(model).__name__
    mapping: Any = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
    if not isinstance(model, PreTrainedModel):
        raise UserError(f"model: {kind}: must be a Hugging Face model (AutoModelForSequenceClassification)")
    family_of(model.config.model_type)
    if model.config.model_type == "t5" or mapping.get(type(model.config), None) is not type(model):
        raise UserError(f"model: {kind}: must be an encoder family's …ForSequenceClassification; other kinds of tasks "
                        "train with build_model and build_step")  # fmt: skip
    problem, outputs = getattr(model.config, "problem_type", None), model.config.num_labels
    if problem not in (None, "regression" if outputs == 1 else "single_label_classification"):
        raise UserError(f"model: {kind}: problem_type {problem} with {outputs} outputs is not supported (supported: "
                        "single_label_classification, or regression with one output)")  # fmt: skip
    narrow = {parameter.dtype for parameter in model.parameters()} - {torch.float32, torch.float64}
    if narrow:  # as transformers loads a file that has such weights, unless it is told otherwise
        names = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in narrow))
        raise UserError(f"model: {kind}: weights in {names} are not supported (supported: float32, float64); load it "
                        'with from_pretrained(..., dtype="float32"), and let autocast compute in bfloat16 '
                        "(TrainingArguments: bf16=True)")  # fmt: skip
    if model.is_activation_checkpointing:
        raise UserError(f"model: {kind}: gradient checkpointing is on, which is not supported here; mtrobust.train has "
                        "gradient_checkpointing")  # fmt: skip


def _task(model: PreTrainedModel) -> TaskDef:
    """The task that the model's configuration describes."""
    outputs = int(model.config.num_labels or 1)
    kind = {"task_type": "Classification", "n_class": outputs} if outputs > 1 else {"task_type": "Regression"}
    return TaskDef.model_validate({"name": _TASK, "data_format": "PremiseAndOneHypothesis", **kind})
