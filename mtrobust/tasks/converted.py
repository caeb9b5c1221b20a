"""An old task-definition file in this package's names, with comments that say what changed. Needs no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mtrobust.config_values import show
from mtrobust.tasks import mtdnn
from mtrobust.tasks.taskdef import TaskDef, definition_values, dump_yaml, load_task_defs
from mtrobust.tasks.values import NAMED
from mtrobust.yaml_file import read_yaml

_SOFT_LOSSES = {theirs: ours for ours, theirs in mtdnn.SOFT_LOSS_NAMES.items()}
_HEAD = """\
# {name} in the names that `mtrobust tasks` lists.
# `loss`, `adv_loss`, `encoder_type` change nothing: the task type, the method and the model folder say what they are.
"""


def converted_definitions(path: Path) -> str:
    """The file as a YAML text that loads to the same tasks. Raises `UserError` for a file that does not load."""
    written, tasks = read_yaml(path, "task-definition", NAMED), load_task_defs([path], use=())
    return _HEAD.format(name=path.name) + "".join(_task(task, written[name]) for name, task in tasks.items())


def _task(task: TaskDef, written: dict[str, Any]) -> str:
    values = definition_values(task)
    if task.kd_loss in _SOFT_LOSSES:
        values["kd_loss"] = _SOFT_LOSSES[task.kd_loss]
    name, *body = dump_yaml({task.name: values}).rstrip("\n").split("\n")
    lines = ["", name, *(f"  # cannot be used by this version: {fault}" for fault in task.faults())]
    for line in body:
        key = line[2:].partition(":")[0]
        remark = _remark(key, values[key], written) if key in values and line[:3] == f"  {key[0]}" else ""
        lines += [f"  # {key}: {remark}"] if remark else []
        lines.append(line)
    left = [key for key in written if key not in values]
    if left:
        lines.append(f"  # left out, being as they are by default: {', '.join(left)}")
    return "\n".join(lines) + "\n"


def _remark(key: str, value: Any, written: dict[str, Any]) -> str:
    """What changed at a key; "" where nothing did."""
    if key not in written:
        return "not in the old file; it follows from the rest"
    same = written[key] == value or (isinstance(value, list) and [str(item) for item in written[key]] == value)
    return "" if same else f"was {show(written[key])}"
