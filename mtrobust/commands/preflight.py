"""What can be said of a training run before anything heavy is imported: definitions, data files, model, output folder.

Everything is looked at in one go, also when some settings are faulty already, so that one try shows all faults.
"""

from __future__ import annotations

import re
from pathlib import Path

from mtrobust.config import TrainConfig
from mtrobust.config_parse import Parsed, task_perturb_faults
from mtrobust.errors import UserError

_HUB_NAME = re.compile(r"^[A-Za-z0-9][\w.-]*(/[\w.-]+)?$")
_KEY = re.compile(r"(\w+): ")


def preflight(parsed: Parsed) -> list[str]:
    """Faults of a parsed configuration that need the file system to be seen; keys in `parsed.bad` are left out."""
    if parsed.config is None:
        return []
    faults = [] if "task_def" in parsed.bad else [*_run(parsed.config), *_methods_of_tasks(parsed.config)]
    if parsed.config.init_from is None:  # else the checks of the run have looked at it
        faults += _model(parsed.config.model_name_or_path)
    return placed(faults, parsed)


def placed(faults: list[str], parsed: Parsed) -> list[str]:
    """Lines `key: …` of the run's checks with the flag or the recipe's key that set the value, without bad keys."""
    lines = []
    for fault in faults:
        match = _KEY.match(fault)
        key = match[1] if match and match[1] in TrainConfig.model_fields else None
        # a setting that has an effect beside another one may have had it, if that one were sound
        beside = fault.partition(": without effect without ")[2].split()
        if key is None and not parsed.bad.isdisjoint(("train_tasks", "eval_tasks")):
            continue  # of data files: which tasks need theirs is not known
        if key not in parsed.bad and parsed.bad.isdisjoint(beside):
            lines.append(fault if key is None else parsed.place(key) + fault.removeprefix(key))
    return lines


def _run(config: TrainConfig) -> list[str]:
    from mtrobust.training.checks import check_run  # imports no torch

    try:
        check_run(config)
    except UserError as error:
        return error.faults
    return []


def _methods_of_tasks(config: TrainConfig) -> list[str]:
    from mtrobust.tasks.taskdef import load_task_defs

    try:
        return task_perturb_faults(load_task_defs(list(config.task_def), use=()), config.task_def)
    except UserError:
        return []  # already said by the checks of the run


def _model(name: str) -> list[str]:
    """Faults of a model given as a folder; a name that may be the hub's is left to the loader."""
    key, path = "model_name_or_path", Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            return [f"{key}: {name}: no config.json in it; expected a Hugging Face model folder"]
        return []
    if path.is_file():
        return [f"{key}: {name}: is a file; expected a Hugging Face model folder or a hub name"]
    if not _HUB_NAME.match(name):
        return [f"{key}: {name}: no such folder, and not a hub name (as bert-base-uncased or google/electra-base)"]
    return []
