"""What is looked at before a run loads or writes anything: tasks, data files, output folder, an earlier run."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mtrobust.config import TrainConfig
from mtrobust.data.rows import find_split
from mtrobust.errors import UserError
from mtrobust.evaluation.eval_sets import chosen_sets
from mtrobust.evaluation.run_folder import CONFIG, MODEL, TASK_DEF, load_config
from mtrobust.files import folder_faults
from mtrobust.registry import suggestion
from mtrobust.tasks.eval_sets import task_of_set
from mtrobust.tasks.metrics import METRICS
from mtrobust.tasks.taskdef import TaskDef, load_task_defs

# Settings that may differ when a run goes on: they do not change what is trained.
_FREE = {
    "resume", "overwrite_output_dir", "output_dir", "data_dir", "cache_dir", "task_def", "model_name_or_path",
    "progress", "save_total_limit", "trust_remote_code", "init_from",
}  # fmt: skip

_OFFSET_POSITIONS = ("roberta", "xlm-roberta", "camembert", "mpnet")  # positions count from the padding id + 1


@dataclass(frozen=True)
class Chosen:
    """tasks: definitions of all tasks that take part; trained, evaluated: their names; sets: (task, evaluation set)."""

    tasks: dict[str, TaskDef]
    trained: list[str]
    evaluated: list[str]
    sets: list[tuple[str, str]] = field(default_factory=list)


def check_run(config: TrainConfig) -> Chosen:
    """The tasks of a run. Raises one `UserError` with every fault that shows without the model."""
    try:
        use = [*config.train_tasks, *(config.eval_tasks or [])] if config.train_tasks else None
        defined, faults = load_task_defs(list(config.task_def), use), []
    except UserError as error:
        defined, faults = {}, error.faults
    trained = list(dict.fromkeys(config.train_tasks or defined))
    evaluated = list(dict.fromkeys(config.eval_tasks or trained))
    if defined:
        for key, names in (("train_tasks", trained), ("eval_tasks", [n for n in evaluated if n not in trained])):
            faults += [
                f"{key}: {name}: no such task{suggestion(name, defined)} (defined: {', '.join(defined)})"
                for name in names
                if name not in defined
            ]
        trained, evaluated = [n for n in trained if n in defined], [n for n in evaluated if n in defined]
        chosen = Chosen({name: defined[name] for name in dict.fromkeys([*trained, *evaluated])}, trained, evaluated)
        try:
            sets = chosen_sets({name: defined[name] for name in evaluated}, config.data_dir, config.eval_sets)
            chosen = replace(chosen, sets=sets)
        except UserError as error:
            faults += error.faults
        faults += _settings(config, chosen) + _splits(config, chosen)
    faults += _start(config) + _output(config) + _launched()
    if faults:
        raise UserError(list(dict.fromkeys(faults)))
    if config.resume and (config.output_dir / CONFIG).is_file():
        _same_run(config, chosen)
    return chosen


def _settings(config: TrainConfig, chosen: Chosen) -> list[str]:
    faults = _in_vain(config)
    asks = "sampling main_ratio" if config.sampling == "main_ratio" else "sampling_order main_last"
    needs_main = config.sampling == "main_ratio" or config.sampling_order == "main_last"
    if needs_main and config.main_task not in chosen.trained:
        hint = suggestion(config.main_task or "", chosen.trained)
        faults.append(f"main_task: {config.main_task}: {asks} needs a training task{hint} "
                      f"(allowed: {', '.join(chosen.trained)})")  # fmt: skip
    if config.resume and config.overwrite_output_dir:
        faults.append("resume: not together with overwrite_output_dir: one goes on, the other deletes")
    if config.label_fraction < 1:
        faults += [
            f"label_fraction: {config.label_fraction}: {name} ({chosen.tasks[name].task_type}) cannot train on a row "
            "without label (allowed: 1; data_fraction takes a share of the rows)"
            for name in chosen.trained
            if chosen.tasks[name].type.needs_labels
        ]
    wanted = config.metric_for_best_model
    allowed = ["mean", *(f"{name}.{key}" for name in chosen.evaluated for key in metric_keys(chosen.tasks[name]))]
    allowed += [f"{task}.{name}/{key}" for task, name in chosen.sets
                for key in metric_keys(task_of_set(chosen.tasks[task], name), further=False)]  # fmt: skip
    if wanted not in allowed:
        hint = suggestion(wanted, allowed)
        faults.append(f"metric_for_best_model: {wanted}: no such metric{hint} (allowed: {', '.join(allowed)})")
    return faults


def _in_vain(config: TrainConfig) -> list[str]:
    """Faults of settings that have an effect only beside another one."""
    needs = {
        "sampling_temperature": ("sampling", "temperature"),
        "main_task_ratio": ("sampling", "main_ratio"),
        "task_weighting_learning_rate": ("task_weighting", "uncertainty"),
    }
    changed = [name for name, known in TrainConfig.model_fields.items() if getattr(config, name) != known.default]
    faults = [
        f"{key}: {getattr(config, key)}: without effect without {other} {value}"
        for key, (other, value) in needs.items()
        if key in changed and getattr(config, other) != value
    ]
    if "main_task" in changed and config.sampling != "main_ratio" and config.sampling_order != "main_last":
        told = "without effect without sampling main_ratio or sampling_order main_last"
        faults.append(f"main_task: {config.main_task}: {told}")
    if config.optim == "adafactor":
        adam = [name for name in changed if name.startswith("adam_")]
        faults += [f"{key}: {getattr(config, key)}: without effect with optim adafactor" for key in adam]
    return faults + _adapters(config)


def _adapters(config: TrainConfig) -> list[str]:
    """Faults of low-rank adapters."""
    changed = lambda key: getattr(config, key) != TrainConfig.model_fields[key].default  # noqa: E731
    if config.lora_r is None:
        keys = ("lora_alpha", "lora_dropout", "lora_targets")
        return [f"{key}: {getattr(config, key)}: without effect without lora_r" for key in keys if changed(key)]
    faults = [
        f"{key}: {getattr(config, key)}: not together with lora_r, which keeps all weights of the encoder as they are"
        for key in ("freeze_embeddings", "freeze_layers")
        if changed(key)
    ]
    if find_spec("peft") is None:
        faults.append(f"lora_r: {config.lora_r}: needs the package peft: pip install 'mtrobust[lora]'")
    return faults


# What `accelerate launch` sets for engines that split weights among processes.
_SPLITTING = {
    "ACCELERATE_USE_FSDP": "FSDP", "ACCELERATE_USE_DEEPSPEED": "DeepSpeed", "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
}  # fmt: skip


def _launched() -> list[str]:
    """Faults of the way the processes were started."""
    return [
        f"accelerate: {name} is not supported, since methods differentiate inside a step, where only a part of the "
        "weights is at hand; data-parallel processes (torchrun, accelerate launch --multi_gpu) are; "
        "gradient_checkpointing, bf16 and lora_r save memory"
        for variable, name in _SPLITTING.items()
        if os.environ.get(variable, "false").lower() in ("true", "1")
    ]


def _start(config: TrainConfig) -> list[str]:
    """Faults of the run to start from."""
    run = config.init_from
    if run is None:
        return []
    if not (run / MODEL / "config.json").is_file():
        return [f"init_from: {run}: no finished run (no {MODEL}/config.json); expected the output_dir of one"]
    if Path(config.model_name_or_path) != run / MODEL:
        return [f"model_name_or_path: {config.model_name_or_path}: not together with init_from, whose encoder is taken"]
    if config.output_dir.resolve() == run.resolve():
        return [f"output_dir: {config.output_dir}: is the run to start from; name another folder"]
    return []


def metric_keys(task: TaskDef, further: bool = True) -> list[str]:
    """What an evaluation of the task can be compared by: a key for each of its metrics on each of its dev splits
    (further: on those behind the first)."""
    keys = []
    for name in task.metric_meta:
        keys += ["em", METRICS[name].key] if METRICS[name].reads == "answer" else [METRICS[name].key]
    keys = [key for key in dict.fromkeys(keys) if key]
    return keys + [f"{split}/{key}" for split in task.dev_splits[1:] * further for key in keys]


def _splits(config: TrainConfig, chosen: Chosen) -> list[str]:
    """Faults of the data files that the run will read."""
    if not config.data_dir.is_dir():
        return [f"data_dir: {config.data_dir}: no such folder (expected one with <task>/<split>.jsonl)"]
    faults = []
    for name, task in chosen.tasks.items():
        wanted = {"train": task.train_splits} if name in chosen.trained else {}
        wanted |= {"dev": task.dev_splits} if name in chosen.evaluated else {}
        for kind, splits in wanted.items():
            if not splits:
                faults.append(
                    f"{name}.split_names: {', '.join(task.split_names)}: none is `{kind}` or ends in `_{kind}`"
                )
            for split in splits:
                try:
                    find_split(task, config.data_dir, split)
                except UserError as error:
                    faults += error.faults
    return faults


def _output(config: TrainConfig) -> list[str]:
    """Faults of the run folder and of the folder for features."""
    run = config.output_dir
    inside = [path.name for path in run.iterdir() if not path.name.startswith(".")] if os.path.isdir(run) else []
    # Only the first process: it may have begun to write by the time that another one looks.
    if inside and os.environ.get("RANK", "0") == "0":
        if CONFIG not in inside:
            return [f"output_dir: {run}: not empty and no run folder (no {CONFIG}); name another folder"]
        if not (config.resume or config.overwrite_output_dir):
            return [
                f"output_dir: {run}: holds a run; --resume goes on with it, --overwrite_output_dir deletes it first"
            ]
    cache = config.cache_dir  # one that is there may hold all features already, and then only has to be read
    kept = [] if cache is None or os.path.isdir(cache) else folder_faults("cache_dir", cache)
    return folder_faults("output_dir", run) + kept


def _same_run(config: TrainConfig, chosen: Chosen) -> None:
    """Raises `UserError` when the run folder's settings are not those that would be trained with now."""
    run = config.output_dir
    saved, now = load_config(run).model_dump(mode="json"), config.model_dump(mode="json")
    faults = [
        f"{key}: {now[key]}: the run in {run} has {saved[key]}"
        for key in now
        if key not in _FREE and now[key] != saved[key]
    ]
    written = load_task_defs([run / TASK_DEF]) if (run / TASK_DEF).is_file() else chosen.tasks
    plain = [{name: task.model_dump() for name, task in tasks.items()} for tasks in (written, chosen.tasks)]
    if plain[0] != plain[1]:
        faults.append(f"task_def: the definitions differ from those of the run ({run / TASK_DEF})")
    if faults:
        raise UserError(
            [*faults, f"output_dir: {run}: resume with the run's settings: mtrobust train {run / CONFIG} --resume"]
        )


def longest_input(model_config: Any) -> int | None:
    """Tokens that an encoder has positions for; None where positions are relative."""
    if model_config.model_type == "t5" or not getattr(model_config, "position_biased_input", True):
        return None
    offset = model_config.pad_token_id + 1 if model_config.model_type in _OFFSET_POSITIONS else 0
    positions = getattr(model_config, "max_position_embeddings", None)
    return positions - offset if positions else None


def check_lengths(config: TrainConfig, tasks: dict[str, TaskDef], model_config: Any) -> list[str]:
    """Faults of lengths beyond what the encoder can read."""
    limit = longest_input(model_config)
    if limit is None:
        return []
    places = {f"{name}.max_len": task.max_len for name, task in tasks.items() if task.max_len}
    if len(places) < len(tasks):
        places["max_seq_length"] = config.max_seq_length
    return [f"{key}: {n}: the encoder reads at most {limit} tokens" for key, n in places.items() if n > limit]


def run_items(run: Path) -> list[Path]:
    """What a run writes into its folder, as far as it is there."""
    names = [
        CONFIG,
        TASK_DEF,
        "metrics.jsonl",
        "profile.json",
        "status.json",
        "all_results.json",
        "checkpoints",
        "model",
        "tensorboard",
        "predictions",
    ]
    return [run / name for name in names if (run / name).exists() or (run / name).is_symlink()]
