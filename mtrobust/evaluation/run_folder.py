"""Run folders after training: opening a finished one, and writing results and predictions into it.

Layout (all written through a temporary file in the same folder, so that a reader never sees half a file):
`config.yml`, `task_def.yml`, `all_results.json`, `model/` (final model and tokenizer), `checkpoints/step-N/`,
`predictions/<task>.<split>.jsonl`, `predictions/<task>.<split>/<file>` for formats with a fixed file name.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mtrobust.errors import UserError
from mtrobust.files import atomic_file
from mtrobust.registry import suggestion

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from mtrobust.config import TrainConfig
    from mtrobust.models.multitask import MultiTaskModel
    from mtrobust.tasks.taskdef import TaskDef

log = logging.getLogger(__name__)

CONFIG, TASK_DEF, MODEL, CHECKPOINTS, RESULTS = "config.yml", "task_def.yml", "model", "checkpoints", "all_results.json"
COMPLETE = "COMPLETE"  # marker file of a checkpoint that was written to its end


class Run(NamedTuple):
    """A finished run: its configuration, task definitions by name, model (in evaluation mode) and tokenizer."""

    config: TrainConfig
    tasks: dict[str, TaskDef]
    model: MultiTaskModel
    tokenizer: PreTrainedTokenizerBase
    path: Path | None = None

    def task(self, name: str) -> TaskDef:
        """The definition of one of the run's tasks. Raises `UserError` naming the run's tasks otherwise."""
        return self.select([name])[name]

    def select(self, names: Iterable[str] | None) -> dict[str, TaskDef]:
        """Definitions of the named tasks, or of all that the model has a head for. Raises `UserError`."""
        own = {name: task for name, task in self.tasks.items() if name in self.model.heads}
        if names is None:
            return own
        wanted = list(dict.fromkeys(names))
        unknown = [str(name) for name in wanted if name not in own]
        if unknown:
            known = ", ".join(own)
            raise UserError(
                [f"{name}: the run has no such task{suggestion(name, own)} (its tasks: {known})" for name in unknown]
            )
        return {name: own[name] for name in wanted}


def load_run(run_dir: str | os.PathLike[str], device: str | None = None) -> Run:
    """Opens the folder of a finished run.

    device: where the model is put; default: the first accelerator, or the CPU where there is none or the run was
    trained with `use_cpu`. Raises `UserError` when the folder is not there, is no run folder, holds a run that has not
    finished (naming the checkpoints and how to go on) or cannot be read, and for a device that is not there.
    """
    run = Path(run_dir)
    check_run(run)
    config, tasks = load_config(run), load_tasks(run)
    if device is not None:
        _check_device(device)

    from transformers import AutoTokenizer

    from mtrobust.models.multitask import MultiTaskModel

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(run / MODEL), trust_remote_code=config.trust_remote_code)
        model = MultiTaskModel.load(run / MODEL)
    except UserError:
        raise
    except Exception as error:  # whatever a damaged file makes the libraries raise, the folder is what is at fault
        raise UserError(f"{run / MODEL}: cannot be loaded ({one_line(error)}); {_resume_hint(run)}") from error
    missing = [name for name in model.heads if name not in tasks]
    if missing:
        raise UserError([f"{run / TASK_DEF}: {name}: no definition, but the model has its head" for name in missing])
    results = read_results(run)
    for name, task in tasks.items():
        task.type.restore(results.get(name, {}))
    return Run(config, tasks, model.to(device or _default_device(config)).eval(), tokenizer, run)


def _check_device(device: str) -> None:
    """Raises `UserError` for a device that torch does not know or that is not there."""
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError, ValueError):
        found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        here = f"cpu or {found.type}" if found else "cpu"
        raise UserError(f"device: {device or repr(device)}: must be one that is here: {here}") from None


def _default_device(config: TrainConfig) -> str:
    import torch

    return "cuda" if torch.cuda.is_available() and not config.use_cpu else "cpu"


def check_run(run: Path) -> None:
    """Raises `UserError` unless `run` is the folder of a finished run; reads no model."""
    if not run.exists():
        raise UserError(f"{run}: no such run folder (expected the --output_dir of a `mtrobust train` run)")
    if not run.is_dir():
        raise UserError(f"{run}: is a file; expected the run folder that `mtrobust train` wrote")
    if (run / MODEL).is_dir() and (run / CONFIG).is_file() and (run / TASK_DEF).is_file():
        return
    if (run / CONFIG).is_file() and not (run / MODEL).is_dir():
        raise UserError(f"{run}: this run has not finished (no {MODEL}/); {_resume_hint(run)}")
    absent = [name for name in (CONFIG, TASK_DEF, MODEL) if not (run / name).exists()]
    home = {MODEL: run.parent, CHECKPOINTS: run.parent.parent}.get(run.name if run.name == MODEL else run.parent.name)
    hint = f"; did you mean '{home}'?" if home is not None and (home / CONFIG).is_file() else ""
    raise UserError(f"{run}: is no run folder: {', '.join(absent)} missing{hint}")


def _resume_hint(run: Path) -> str:
    steps = complete_checkpoints(run)
    if not steps:
        return f"it has no complete checkpoint: train again with --output_dir {run} --overwrite_output_dir"
    return f"last complete checkpoint: {steps[-1]}; go on with `mtrobust train {run / CONFIG} --resume`"


def complete_checkpoints(run: Path) -> list[Path]:
    """Checkpoint folders that carry the completeness marker, by ascending step."""
    found = []
    for folder in (run / CHECKPOINTS).glob("step-*") if (run / CHECKPOINTS).is_dir() else ():
        match = re.fullmatch(r"step-(\d+)", folder.name)
        if match and (folder / COMPLETE).is_file():
            found.append((int(match[1]), folder))
    return [folder for _, folder in sorted(found)]


def load_config(run: Path) -> TrainConfig:
    """The resolved configuration of a run. Raises `UserError` naming each key at fault."""
    from pydantic import ValidationError

    from mtrobust.config import TrainConfig
    from mtrobust.yaml_file import read_yaml

    path = run / CONFIG
    raw = read_yaml(path, "run configuration")
    try:
        return TrainConfig(**raw)
    except ValidationError as error:
        faults = error.errors(include_url=False)
        raise UserError([f"{path}: {'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in faults]) from error


def load_tasks(run: Path) -> dict[str, TaskDef]:
    """The task definitions of a run, by name."""
    from mtrobust.tasks.taskdef import load_task_defs

    return load_task_defs([run / TASK_DEF])


def run_tasks(run: Path, trained: bool = False) -> dict[str, TaskDef]:
    """Definitions of the tasks that a run's model has a head for, which are those it was trained or evaluated on
    (trained: those it was trained on), without reading the model."""
    config, defined = load_config(run), load_tasks(run)
    if not config.train_tasks:
        return defined
    own = {*config.train_tasks, *(() if trained else config.eval_tasks or ())}
    return {name: task for name, task in defined.items() if name in own}


def one_line(error: BaseException) -> str:
    """The first line of an exception's message, or its class where it has none."""
    text = str(error).strip()
    return text.split("\n", 1)[0].strip() if text else type(error).__name__


# --- writing -----------------------------------------------------------------------------------------------------


def jsonable(value: Any) -> Any:
    """`value` as strict JSON can hold it: non-finite numbers become None, NumPy scalars and arrays plain ones."""
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if hasattr(value, "tolist"):  # NumPy scalar or array
        return jsonable(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_json(path: Path, value: Any, indent: int | None = 2) -> None:
    """Writes `value` as strict JSON (non-finite numbers as null), atomically."""
    with atomic_file(path) as file:
        json.dump(jsonable(value), file, ensure_ascii=False, allow_nan=False, indent=indent)
        file.write("\n")


def json_line(record: Mapping[str, Any]) -> str:
    """One line of a JSON Lines file, newline included."""
    return json.dumps(jsonable(record), ensure_ascii=False, allow_nan=False) + "\n"


def read_results(run: Path) -> dict[str, dict[str, Any]]:
    """What `all_results.json` holds by task; empty where there is none. Raises `UserError` if it is damaged."""
    path = run / RESULTS
    try:
        known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: is not JSON ({one_line(error)}); move it away, it is not overwritten") from error
    if not isinstance(known, dict) or not all(isinstance(value, dict) for value in known.values()):
        raise UserError(f"{path}: must map tasks to their metrics; move it away, it is not overwritten")
    return known


def update_results(run: Path, results: Mapping[str, Mapping[str, float]], split: str = "dev") -> Path:
    """Merges metrics into `all_results.json`: as `<metric>` for dev, as `<split>/<metric>` for other splits.

    Other keys in the file (other tasks, `train`) stay. Raises `UserError` for a damaged file, which stays as it is.
    """
    path, known = run / RESULTS, read_results(run)
    for task, metrics in results.items():
        prefix = "" if split == "dev" else f"{split}/"
        known.setdefault(task, {}).update({f"{prefix}{name}": value for name, value in metrics.items()})
    write_json(path, known)
    return path
