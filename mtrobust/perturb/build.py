"""From what the user wrote to one `Compose` per task, every fault named before training starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from mtrobust.config import PerturbSpec
from mtrobust.errors import UserError
from mtrobust.perturb.base import METHODS, Compose, Driver, Perturbation
from mtrobust.perturb.layers import Site
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
    drivers = [name for name in names if name in METHODS and issubclass(METHODS[name], Driver)]
    if len(drivers) > 1:
        faults.append(
            f"{where}: {', '.join(drivers)}: each makes passes of its own in place of the clean one; name one"
        )
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
        known = {name: field.description or "" for name, field in options.model_fields.items()}
        return [f"{where}.{spec.name}.{_explain(item, known)}" for item in error.errors()]
    return []


def _explain(item: Mapping[str, Any], descriptions: Mapping[str, str]) -> str:
    """`key: message` of one pydantic error."""
    if not item["loc"]:  # of the options as a whole; the message names them
        return str(item["msg"]).removeprefix("Value error, ")
    key = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        return f"{key}: unknown option{suggestion(key, descriptions)} (known: {', '.join(descriptions) or 'none'})"
    if item["type"] == "missing":
        return f"{key}: is needed: {descriptions[key]}"
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
    for name, task in tasks.items():
        where = "perturb" if name not in own else f"{name}.perturb"
        composed[name] = Compose(_build(own[name], info, where, faults)) if name in own else shared
        faults.extend(_refusals(composed[name], task, where))
    if faults:
        raise UserError(list(dict.fromkeys(faults)))
    return composed


def _build(specs: Sequence[PerturbSpec], info: EncoderInfo, where: str, faults: list[str]) -> dict[str, Perturbation]:
    methods: dict[str, Perturbation] = {}
    for spec in specs:
        method = METHODS[spec.name]
        try:
            methods[spec.name] = method(method.Options(**spec.options), info)
        except UserError as error:
            faults.extend(f"{where}.{spec.name}.{fault}" for fault in error.faults)
    faults.extend(_out_of_reach(methods, where))
    return methods


def _refusals(compose: Compose, task: TaskDef, where: str) -> list[str]:
    """Methods that have no meaning for a task."""
    found = []
    for name, method in compose.methods.items():
        why = method.refusal(task)
        if why is not None:
            found.append(f"{where}.{name}: task {task.name}: {why}; or give the task its own methods (key perturb)")
    return found


def _out_of_reach(methods: Mapping[str, Perturbation], where: str) -> list[str]:
    """Methods at sites below the one from which a driver's passes start."""
    found = []
    for name, driver in methods.items():
        if not isinstance(driver, Driver):
            continue
        start = max(map(_height, driver.sites))
        for other, method in methods.items():
            if other != name and any(_height(site) < start for site in method.sites):
                found.append(
                    f"{where}.{other}.layers: {name} starts its passes at {driver.options.layers}: what lies below is "
                    f"not computed again (allowed: that site and above, or {name}.layers: words)"
                )
    return found


def _height(site: Site) -> int:
    return -1 if site == "words" else int(site)
