"""From what the user wrote to one `Compose` per task, every fault named before training starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from mtrobust.config import PerturbSpec
from mtrobust.errors import UserError
from mtrobust.perturb.base import METHODS, Compose, Perturbation
from mtrobust.registry import suggestion
from mtrobust.tasks.base import EncoderInfo
from mtrobust.tasks.taskdef import TaskDef


def check_specs(specs: Sequence[PerturbSpec], where: str = "perturb") -> list[str]:
    """Faults of a list of methods that can be seen without a model: unknown names, options, combinations."""
    faults: list[str] = []
    names = [spec.name for spec in specs]
    for name in sorted({name for name in names if names.count(name) > 1}):
        faults.append(f"{where}: {name}: named twice; each method stands once")
    for name in names:
        if len(names) > 1 and name in METHODS and METHODS[name].alone:
            faults.append(f"{where}: {name}: stands alone; name only the other methods")
    for spec in specs:
        if spec.name not in METHODS:
            faults.append(
                f"{where}: {spec.name}: unknown method{suggestion(spec.name, METHODS)} (known: {', '.join(METHODS)})"
            )
            continue
        faults.extend(_option_faults(spec, where))
    return faults


def _option_faults(spec: PerturbSpec, where: str) -> list[str]:
    options = METHODS[spec.name].Options
    try:
        options(**spec.options)
    except ValidationError as error:
        return [f"{where}.{spec.name}.{_explain(item, list(options.model_fields))}" for item in error.errors()]
    return []


def _explain(item: Mapping[str, Any], known: list[str]) -> str:
    """`key: message` of one pydantic error."""
    key = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        return f"{key}: unknown option{suggestion(key, known)} (known: {', '.join(known) or 'none'})"
    return f"{key}: {item['input']!r}: {item['msg'].removeprefix('Value error, ')}"


def build_methods(specs: Sequence[PerturbSpec], tasks: Mapping[str, TaskDef], info: EncoderInfo) -> dict[str, Compose]:
    """One composition per task: the task's own `perturb` where its definition has one, else the run's.

    Methods of the run are built once and shared by the tasks that use them. Raises `UserError` with every fault,
    layers that the encoder does not have among them.
    """
    own = {name: task.perturb for name, task in tasks.items() if task.perturb is not None}
    faults = check_specs(specs)
    for name, task_specs in own.items():
        faults.extend(check_specs(task_specs, f"{name}.perturb"))
    if faults:
        raise UserError(faults)
    composed: dict[str, Compose] = {}
    shared = Compose(_build(specs, info, "perturb", faults))
    for name in tasks:
        composed[name] = Compose(_build(own[name], info, f"{name}.perturb", faults)) if name in own else shared
    if faults:
        raise UserError(faults)
    return composed


def _build(specs: Sequence[PerturbSpec], info: EncoderInfo, where: str, faults: list[str]) -> dict[str, Perturbation]:
    methods: dict[str, Perturbation] = {}
    for spec in specs:
        method = METHODS[spec.name]
        try:
            methods[spec.name] = method(method.Options(**spec.options), info)
        except UserError as error:
            faults.extend(f"{where}.{spec.name}.{fault}" for fault in error.faults)
    return methods
