"""Faults of the keys that choose a task's head, and of those on soft labels. Needs no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mtrobust.tasks import mtdnn

if TYPE_CHECKING:
    from mtrobust.tasks.base import TaskType
    from mtrobust.tasks.taskdef import TaskDef

PAIR = "PremiseAndOneHypothesis"
PAIRS = (PAIR, "PremiseAndMultiHypothesis")
ACTIVATIONS = ("tanh", "relu", "gelu")


def head_faults(task: TaskDef, kind: type[TaskType]) -> list[str]:
    """Faults of `enable_san`, `san_*`, `head_input` and `actf`, as `key: message`."""
    given, found = task.model_fields_set, []
    if task.enable_san and not (kind.head_choice and task.data_format in PAIRS):
        supported = f"Classification, Regression with data_format {PAIR}; Ranking"
        found.append(f"enable_san: true: reads two texts (supported: {supported})")
    if not task.enable_san:
        found += [f"{key}: only with enable_san: true" for key in ("san_steps", "san_step_dropout") if key in given]
    elif task.head_input != "family":
        found.append(f"head_input: {task.head_input}: not with enable_san: true, which reads all tokens")
    if task.head_input != "family" and not kind.head_choice:
        found.append(
            f"head_input: {task.head_input}: only for Classification, Regression, Ranking; {task.task_type}: family"
        )
    pooler = task.head_input == "pooler"
    allowed = ACTIVATIONS if pooler else ("tanh",)
    if task.actf is not None and task.actf not in allowed:
        why = "" if pooler else " (others with head_input: pooler; other heads have their own)"
        found.append(f"actf: {task.actf}: supported: {', '.join(allowed)}{why}")
    return found


def soft_faults(task: TaskDef, kind: type[TaskType]) -> list[str]:
    """Faults of `kd_loss`, `kd_weight` and `kd_temperature`, as `key: message`.

    A type that takes no soft labels may have a `kd_loss`, as MT-DNN's files do; it is its rows that are refused.
    """
    given = task.model_fields_set
    if not kind.soft_labels:
        return [
            f"{key}: only for Classification, Regression" for key in ("kd_weight", "kd_temperature") if key in given
        ]
    losses = mtdnn.SOFT_LOSSES.get(task.task_type, ())
    names = {theirs: ours for ours, theirs in mtdnn.SOFT_LOSS_NAMES.items()}
    chosen = task.kd_loss or (losses[0] if losses else None)
    if chosen not in losses:
        both = f"{names[chosen]} ({chosen})" if chosen in names else chosen  # either may stand in the file
        return [f"kd_loss: {both}: {task.task_type} has {', '.join(names.get(name, name) for name in losses)}"]
    if task.kd_temperature != 1 and chosen not in ("CeCriterion", "KlCriterion"):
        return [f"kd_temperature: {task.kd_temperature:g}: only with kd_loss ce or kl, not {names.get(chosen, chosen)}"]
    return []
