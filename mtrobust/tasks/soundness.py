"""Whether a well-formed task definition can be used by this version: contradictions, and settings without code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from mtrobust.config_values import show
from mtrobust.tasks import mtdnn
from mtrobust.tasks.eval_sets import set_faults
from mtrobust.tasks.head_options import head_faults, soft_faults

if TYPE_CHECKING:
    from mtrobust.tasks.base import TaskType
    from mtrobust.tasks.taskdef import TaskDef

_ONLY_FOR = {  # keys of one kind of task: data format -> what it is called, keys
    "MRC": ("span tasks", ("doc_stride", "max_answer_length", "n_best", "span_positions")),
    "PremiseAndMultiHypothesis": ("lists of candidates", ("ranking_loss",)),
    "MLM": ("masked language models", ("mlm_probability", "whole_word_masking")),
    "Generation": ("tasks that write text", ("max_target_len", "num_beams", "length_penalty")),
}


def faults(task: TaskDef, registered: Mapping[str, type[TaskType]]) -> list[str]:
    """What stands against using a task, as `key: message`. registered: the task types there are, by name."""
    found = [*_contradictions(task), *_unsupported(task)]
    kind = registered.get(task.task_type)
    if kind is None:
        return [*found, no_such_type(task.task_type, registered)]
    if task.data_format not in kind.data_formats:
        found.append(f"data_format: {task.data_format}: {task.task_type} takes {', '.join(kind.data_formats)}")
    for metric in task.metric_meta:
        if metric not in kind.metrics:
            found.append(f"metric_meta: {metric}: {task.task_type} has {', '.join(kind.metrics)}")
    for name in task.eval_sets:
        found += [f"eval_sets.{name}.{line}" for line in set_faults(task, name, kind)]
    found += head_faults(task, kind) + soft_faults(task, kind)
    told = {line.split(":")[0] for line in found}
    return [*found, *(line for line in kind.check(task) if line.split(":")[0] not in told)]


def no_such_type(name: str, registered: Mapping[str, type[TaskType]]) -> str:
    """The fault of a task type that has no code yet."""
    return f"task_type: {name}: not supported yet (supported: {', '.join(registered)})"


def _contradictions(task: TaskDef) -> list[str]:
    found = []
    twice = sorted(label for label, count in Counter(task.labels).items() if count > 1)
    if twice:
        found.append(f"labels: {', '.join(twice)}: named twice")
    if task.labels and task.n_class != len(task.labels) and task.task_type in mtdnn.NAMED_CLASSES:
        found.append(f"n_class: {task.n_class}: but {len(task.labels)} labels ({show(', '.join(task.labels))})")
    for data_format, (kind, keys) in _ONLY_FOR.items():
        if task.data_format != data_format:
            extra = [key for key in keys if key in task.model_fields_set]
            found += [f"{key}: only for {kind} (data_format {data_format})" for key in extra]
    if "doc_stride" in task.model_fields_set and task.max_len is not None and task.doc_stride >= task.max_len:
        found.append(f"doc_stride: {task.doc_stride}: must be less than max_len ({task.max_len})")
    return found


def _unsupported(task: TaskDef) -> list[str]:
    """Settings that would change what is trained or evaluated and have no code yet."""
    found = []
    losses = mtdnn.LOSSES.get(task.task_type, ())
    if task.loss is not None and losses and task.loss not in losses:
        found.append(f"loss: {task.loss}: {task.task_type} is trained with {' or '.join(losses)}")
    usual = mtdnn.ADV_LOSSES.get(task.task_type, mtdnn.USUAL_ADV_LOSS)
    if task.adv_loss is not None and task.adv_loss not in usual:
        hint = "choose another divergence by the method's option `divergence` (key perturb)"
        found.append(f"adv_loss: {task.adv_loss}: supported: {' or '.join(usual)}; {hint}")
    return found
