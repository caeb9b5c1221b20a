"""One cell of the matrix: a method on a task type, an encoder family and a site, as a `TrainStep` on a small batch."""

from __future__ import annotations

import atexit
import functools
import tempfile
from typing import Any

import torch
from transformers import BertForMaskedLM

from mtrobust.config import PerturbSpec
from mtrobust.models.multitask import MultiTaskModel
from mtrobust.perturb import build_methods
from mtrobust.tasks.base import Batch
from mtrobust.tasks.taskdef import TaskDef
from mtrobust.training.step import TrainStep
from tests.models.tiny import CONFIGS, tiny_encoder, tiny_inputs

TASKS: dict[str, dict[str, Any]] = {
    "Classification": {"data_format": "PremiseAndOneHypothesis", "labels": ["no", "maybe", "yes"]},
    "Regression": {"data_format": "PremiseAndOneHypothesis"},
    "SpanClassification": {"data_format": "MRC"},
    "SpanClassificationYN": {"data_format": "MRC"},
    "MaskLM": {"data_format": "MLM"},
    "Ranking": {"data_format": "PremiseAndMultiHypothesis"},
    "MultipleChoice": {"data_format": "PremiseAndMultiHypothesis"},
    "SequenceLabeling": {"data_format": "Sequence", "labels": ["O", "B-X", "I-X"]},
}


def task_of(task_type: str, **more: Any) -> TaskDef:
    return TaskDef(name=task_type.lower(), task_type=task_type, **TASKS[task_type], **more)


def batch_of(family: str, task_type: str, rows: int = 4, labelled: list[bool] | None = None, step: int = 0) -> Batch:
    """Token ids, and targets that fit any of the task types; for spans the first third stands for the question."""
    inputs = tiny_inputs(family, rows)
    known = torch.tensor([True] * rows if labelled is None else labelled)
    if TASKS[task_type]["data_format"] == "MRC":
        passage = inputs["attention_mask"].bool()
        passage[:, 1:3] = False
        targets = {
            "start_positions": torch.tensor([3, 0, 4, 3])[:rows],
            "end_positions": torch.tensor([5, 0, 4, 5])[:rows],
            "passage_mask": passage,
        }
    elif task_type == "MaskLM":
        labels = torch.full_like(inputs["input_ids"], -100)
        labels[:, 1], labels[0, 6], labels[1:, 3] = 9, 14, 31
        inputs["input_ids"] = inputs["input_ids"].masked_fill(labels != -100, 4)
        targets = {"labels": labels}
    elif TASKS[task_type]["data_format"] == "PremiseAndMultiHypothesis":  # a list of two, the others of one list
        place = torch.tensor([0, 1, *range(rows - 2)])
        known = known[[0, 0, *[2] * (rows - 2)]]
        targets = {"place": place, "gains": torch.tensor([0.0, 1.0, 1.0, 0.0])[:rows], "second": torch.full((rows,), 3)}
    elif task_type == "SequenceLabeling":
        word = torch.full_like(inputs["input_ids"], -1, dtype=torch.int32)
        word[:, 1], word[:, 3] = 0, 1
        targets = {"labels": inputs["input_ids"] % 3, "word": word}
    elif task_type == "Regression":
        targets = {"labels": torch.tensor([0.5, 4.0, 2.25, 5.0])[:rows]}
    else:
        targets = {"labels": torch.tensor([0, 1, 2, 1])[:rows]}
    return Batch(task_type.lower(), inputs, {**targets, "labelled": known}, torch.arange(rows) + 7, step)


def step_of(
    family: str,
    task_type: str,
    specs: list[PerturbSpec],
    dropout: float = 0.1,
    dtype: torch.dtype = torch.float32,
    **task: Any,
) -> TrainStep:
    encoder = tiny_encoder(family, dropout)
    tasks = {task_type.lower(): task_of(task_type, dropout_p=dropout, **task)}
    model = MultiTaskModel(encoder, tasks).to(dtype).train()
    return TrainStep(model, build_methods(specs, tasks, encoder), seed=3).to(dtype).train()


@functools.cache
def tiny_mlm() -> str:
    """A folder with a masked language model of the tiny vocabulary; gone when the tests end."""
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    torch.manual_seed(1)
    config = CONFIGS["bert"](hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    BertForMaskedLM(config).save_pretrained(folder.name)
    return folder.name


def spec(name: str, **options: Any) -> PerturbSpec:
    """A method with options, and with those that it cannot do without."""
    if name == "vda":
        options = {"mlm": tiny_mlm(), **options}
    return PerturbSpec(name=name, options=options)


def gradients(step: TrainStep, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The loss and every parameter's gradient (parameters without one are left out)."""
    step.zero_grad()
    loss = step(batch).loss
    loss.backward()
    return loss.detach(), {n: p.grad.clone() for n, p in step.named_parameters() if p.grad is not None}
