"""A whole training run, from its configuration to the finished run folder."""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from mtrobust.config import TrainConfig
from mtrobust.data.collator import Collator
from mtrobust.data.features import load_features
from mtrobust.data.sampler import MultiTaskSampler, TaskRows
from mtrobust.errors import RunError, UserError
from mtrobust.evaluation.eval_sets import SetEvaluator
from mtrobust.evaluation.evaluator import Evaluator, told
from mtrobust.evaluation.run_folder import CONFIG, MODEL, RESULTS, TASK_DEF, atomic_file, write_json
from mtrobust.files import usual_permissions
from mtrobust.models.loading import first_line
from mtrobust.models.multitask import MultiTaskModel
from mtrobust.perturb import METHODS, Compose, build_methods
from mtrobust.tasks.taskdef import TaskDef, task_defs_yaml
from mtrobust.training import checks, memory
from mtrobust.training.engine import make_accelerator
from mtrobust.training.monitor import finite
from mtrobust.training.optim import check_depth, freeze
from mtrobust.training.rows import Taken, TrainRows
from mtrobust.training.state import seed_all
from mtrobust.training.step import TrainStep
from mtrobust.training.trainer import RunState, Trainer
from mtrobust.training.watch import watch_memory, watch_samples

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)
Results = dict[str, dict[str, Any]]


def train(config: TrainConfig, on_event: Callable[[str, int], None] | None = None) -> Results:
    """Trains, and fills the run folder: checkpoints, figures, `model/`, predictions, `all_results.json`.

    on_event: see `Trainer`. Returns what stands in `all_results.json`: metrics by task, and `train`.
    Raises `UserError` before the first step for anything that cannot work, `RunError` for failures in the run.
    """
    started = time.monotonic()
    chosen = checks.check_run(config)
    accelerator = make_accelerator(config)
    seed_all(config.seed)
    tokenizer = _tokenizer(config)
    model = _model(config, chosen)
    step = _step(config, chosen, model)
    with accelerator.main_process_first():  # the others read what the first has cached
        rows = {
            name: _train_rows(config, chosen.tasks[name], tokenizer, accelerator, _uses_unlabelled(step.methods[name]))
            for name in chosen.trained
        }
        evaluator = _evaluator(config, chosen, model, tokenizer, accelerator)
        evaluator.prepare(chosen.evaluated, "dev")
        sets = SetEvaluator(evaluator, chosen.sets)
        sets.prepare()
    _check_labels(config, chosen, rows, sets)
    _begin(config, chosen, accelerator)
    task_rows = _task_rows(config, chosen, rows)
    trainer = Trainer(
        config,
        step,
        _sampler(config, task_rows, accelerator),
        lambda task, positions, number: rows[task](positions, number),
        accelerator,
        lambda _: sets.evaluate_all(chosen.evaluated),
        {name: chosen.tasks[name].type.main_metric() for name in chosen.evaluated},
        on_event,
        {name: part.digest() for name, part in rows.items()},
    )
    _announce(trainer, rows, accelerator)
    watch_memory(trainer, task_rows)
    watch_samples(trainer, evaluator)
    with trainer.monitor.watched():
        state = trainer.train()
        return _finish(config, trainer, sets, chosen, rows, tokenizer, state, time.monotonic() - started)


# --- before the first step ----------------------------------------------------------------------------------------


def _tokenizer(config: TrainConfig) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    name = config.model_name_or_path
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=config.trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"model_name_or_path: {name}: no tokenizer can be loaded ({first_line(error)})") from error
    if not tokenizer.is_fast or tokenizer.pad_token_id is None:
        raise UserError(f"model_name_or_path: {name}: needs a fast tokenizer with a padding token")
    if len(tokenizer) <= len(tokenizer.all_special_ids):  # what transformers makes where the files are missing
        raise UserError(f"model_name_or_path: {name}: no vocabulary; are the tokenizer's files (tokenizer.json) there?")
    return tokenizer


def _model(config: TrainConfig, chosen: checks.Chosen) -> MultiTaskModel:
    """Pretrained encoder with fresh heads, or encoder and heads of another run."""
    model = MultiTaskModel.from_encoder(config, chosen.tasks)
    if config.init_from is not None:
        found = model.take_heads(config.init_from / MODEL)
        for name, why in found.items():
            log.info("task %s: head %s", name, f"fresh ({why})" if why else f"of {config.init_from}")
        model.take_pretrained([name for name, why in found.items() if why], str(config.init_from / MODEL))
    return model


def _step(config: TrainConfig, chosen: checks.Chosen, model: MultiTaskModel) -> TrainStep:
    """The step, after everything that depends on the encoder was checked: layers, depths, lengths."""
    faults = check_depth(model, config) + checks.check_lengths(config, chosen.tasks, model.encoder.config)
    methods = {}
    try:
        methods = build_methods(config.perturb, {name: chosen.tasks[name] for name in chosen.trained}, model.encoder)
    except UserError as error:
        faults += error.faults
    if faults:
        raise UserError(faults)
    freeze(model, config)
    return TrainStep(model, methods, config.seed, config.task_weighting)


def _cache(config: TrainConfig) -> Path:
    return config.cache_dir or config.data_dir / ".features"


def _uses_unlabelled(compose: Compose) -> bool:
    return any(method.active and method.uses_unlabelled for method in compose.methods.values())


def _train_rows(
    config: TrainConfig,
    task: TaskDef,
    tokenizer: PreTrainedTokenizerBase,
    accelerator: Accelerator,
    unlabelled: bool,
) -> TrainRows:
    """What the settings take of the task's training splits. unlabelled: whether a method uses rows without a label."""
    parts = [
        load_features(
            task, split, config.data_dir, tokenizer, config.max_seq_length, _cache(config), training=True,
            progress=_told(config, accelerator, f"tokenising {task.name} {split}"),
        )
        for split in task.train_splits
    ]  # fmt: skip
    most = task.max_train_samples or config.max_train_samples
    labels = 1.0 if task.type.self_labelled else config.label_fraction
    taken = Taken(config.seed, config.data_fraction, most, labels, unlabelled)
    return TrainRows(
        parts,
        Collator(task, tokenizer.pad_token_id),
        taken,
        lambda batch, number: task.type.drawn(batch, tokenizer, (config.seed, number)),
        task.type.together,
    )


def _check_labels(
    config: TrainConfig, chosen: checks.Chosen, rows: Mapping[str, TrainRows], sets: SetEvaluator
) -> None:
    """Raises `UserError` naming the tasks that have nothing to learn from, rows without a label that they need, and
    evaluations by which checkpoints are to be compared though none of their rows has a label."""
    faults = [
        f"{name}: none of its {part.counts.unlabelled + part.counts.left_out} training rows has a label; one is needed"
        for name, part in rows.items()
        if not part.counts.labelled
    ]
    faults += [
        f"{name}: {without} of its training rows have no label, without which {chosen.tasks[name].task_type} cannot "
        "train on a row; take them out"
        for name, part in rows.items()
        if chosen.tasks[name].type.needs_labels and (without := part.counts.unlabelled + part.counts.left_out)
    ]
    wanted, patience = config.metric_for_best_model, config.early_stopping_patience
    if wanted != "mean":
        task, _, metric = wanted.partition(".")
        place = metric.rpartition("/")[0]  # a further dev split or a set; a plain name is of the first split
        if not sets.labelled(task, place):
            place = f"{task}.{place or 'dev'}"
            faults.append(f"metric_for_best_model: {wanted}: no row of {place} that is evaluated has a label")
    elif patience and not any(sets.labelled(name) for name in chosen.evaluated):
        faults.append(f"early_stopping_patience: {patience}: no dev row that is evaluated has a label "
                      f"({', '.join(chosen.evaluated)}); checkpoints cannot be compared")  # fmt: skip
    if faults:
        raise UserError(faults)


def _told(config: TrainConfig, accelerator: Accelerator, what: str) -> Callable[[int], None] | None:
    """Reports slow preparation, at most every five seconds."""
    if config.progress == "off" or not accelerator.is_main_process:
        return None
    last = [time.monotonic()]

    def progress(rows: int) -> None:
        if time.monotonic() - last[0] > 5:
            last[0] = time.monotonic()
            log.info("%s: %d rows so far", what, rows)

    return progress


def _evaluator(
    config: TrainConfig,
    chosen: checks.Chosen,
    model: MultiTaskModel,
    tokenizer: PreTrainedTokenizerBase,
    accelerator: Accelerator,
) -> Evaluator:
    return Evaluator(
        model,
        {name: chosen.tasks[name] for name in chosen.evaluated},
        config.data_dir,
        tokenizer,
        cache_dir=_cache(config),
        max_len=config.max_seq_length,
        batch_size=config.per_device_eval_batch_size,
        max_samples=config.max_eval_samples,
        device=accelerator.device,
        bf16=config.bf16,
        progress=None if config.progress == "off" else told(),
    )


def _task_rows(config: TrainConfig, chosen: checks.Chosen, rows: Mapping[str, TrainRows]) -> dict[str, TaskRows]:
    sizes = {name: chosen.tasks[name].batch_size or config.per_device_train_batch_size for name in rows}
    return {name: TaskRows(part.lengths, sizes[name], part.sizes) for name, part in rows.items()}


def _sampler(config: TrainConfig, rows: Mapping[str, TaskRows], accelerator: Accelerator) -> MultiTaskSampler:
    return MultiTaskSampler(
        rows,
        sampling=config.sampling,
        seed=config.seed,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        accumulation=config.gradient_accumulation_steps,
        max_tokens=config.max_tokens_per_batch,
        group_by_length=config.group_by_length,
        temperature=config.sampling_temperature,
        main_task=config.main_task,
        main_task_ratio=config.main_task_ratio,
        main_last=config.sampling_order == "main_last",
        num_epochs=config.num_train_epochs,
        max_steps=config.max_steps,
    )


def _begin(config: TrainConfig, chosen: checks.Chosen, accelerator: Accelerator) -> None:
    """Makes the run folder: the first thing that is written, after all checks."""
    run = config.output_dir
    if accelerator.is_main_process:
        try:
            run.mkdir(parents=True, exist_ok=True)
            if config.overwrite_output_dir:
                for item in checks.run_items(run):
                    shutil.rmtree(item) if item.is_dir() and not item.is_symlink() else item.unlink()
            plain = config.model_dump(mode="json", exclude={"resume", "overwrite_output_dir"})
            with atomic_file(run / CONFIG) as file:
                yaml.safe_dump(plain, file, sort_keys=False, allow_unicode=True)
            with atomic_file(run / TASK_DEF) as file:
                file.write(task_defs_yaml(chosen.tasks.values()))
        except OSError as error:
            raise RunError(f"output_dir: {run}: cannot be written: {error}") from error
    accelerator.wait_for_everyone()


def _announce(trainer: Trainer, rows: Mapping[str, TrainRows], accelerator: Accelerator) -> None:
    if not accelerator.is_main_process:
        return
    sizes = ", ".join(f"{name} {len(part.lengths)}" for name, part in rows.items())
    learn, whole = (sum(p.numel() for p in some) for some in (trainer.parameters, trainer.step.parameters()))
    log.info("%d steps on %s; %s of %s weights learn; device %s", trainer.total, sizes, f"{learn:,}", f"{whole:,}",
             trainer.device)  # fmt: skip
    for name, part in rows.items():
        if part.counts.unlabelled:
            log.info("task %s: %d rows with label, %d without", name, part.counts.labelled, part.counts.unlabelled)
        if part.counts.left_out:
            reason = _without_labels(trainer.step.methods[name])
            log.info("task %s: %d rows without label are left out: %s", name, part.counts.left_out, reason)


def _without_labels(compose: Compose) -> str:
    """Why rows without a label are of no use to these methods, and which methods use them."""
    names = [name if method.active else f"{name} at weight 0" for name, method in compose.methods.items()]
    active = {name for name, method in compose.methods.items() if method.active}
    others = ", ".join(name for name, method in METHODS.items() if method.uses_unlabelled and name not in active)
    learns = "learn" if len(names) > 1 else "learns"
    return f"{' and '.join(names) or 'standard'} {learns} from labels only; {others} use them"


# --- after the last step ------------------------------------------------------------------------------------------


def _finish(
    config: TrainConfig,
    trainer: Trainer,
    sets: SetEvaluator,
    chosen: checks.Chosen,
    rows: Mapping[str, TrainRows],
    tokenizer: PreTrainedTokenizerBase,
    state: RunState,
    seconds: float,
) -> Results:
    """Writes `model/`, predictions and results. With early stopping the model is the best one, else the last.

    A run that was finished before it was resumed stays as it is.
    """
    done = config.output_dir / RESULTS
    if state.step == trainer.first_step and done.is_file() and (config.output_dir / MODEL).is_dir():
        trainer.monitor.say(f"{config.output_dir}: this run has finished; nothing left to do")
        return json.loads(done.read_text(encoding="utf-8"))
    best = config.early_stopping_patience > 0 and state.best_step not in (None, state.step)
    if best and not trainer.load_best():
        log.warning("the checkpoint of the best step %s is not there; model/ holds the last one", state.best_step)
        best = False
    metrics = state.best_metrics if best else state.metrics
    if best or not sets.evaluator.results:  # the last evaluation was of other weights, or in an earlier process
        metrics = sets.evaluate_all(chosen.evaluated)
    peak = memory.peak(trainer.device)
    train_figures = {
        "steps": state.step,
        "examples": state.examples,
        "skipped_steps": state.skipped,
        "model_step": state.best_step if best else state.step,
        "best_step": state.best_step,
        "best_score": state.best_score,
        "metric_for_best_model": config.metric_for_best_model,
        "stopped_early": state.stopped_early,
        "seconds": round(seconds, 3),
        "examples_per_second": round(trainer.monitor.rate.overall(), 3),
        "peak_memory_mib": None if peak is None else round(peak.mib, 1),
        "peak_memory_of": None if peak is None else peak.of,
        "processes": trainer.world,
        "seed": config.seed,
        "rows": {name: asdict(part.counts) for name, part in rows.items()},
    }
    results: Results = finite({**{task: dict(found) for task, found in metrics.items()}, "train": train_figures})
    try:
        if trainer.main:
            save_model(trainer.step.model, config.output_dir / MODEL, tokenizer)
        sets.evaluator.write_predictions(config.output_dir)
        if trainer.main:
            write_json(config.output_dir / RESULTS, results)
    except OSError as error:
        raise RunError(
            f"{config.output_dir}: cannot be written: {error}; free space, then --resume finishes the run"
        ) from error
    trainer.accelerator.wait_for_everyone()
    return results


def save_model(model: MultiTaskModel, target: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Writes the model folder beside its place, then moves it there."""
    temporary, old = target.with_name(f".{target.name}.tmp"), target.with_name(f".{target.name}.old")
    for path in (temporary, old):
        shutil.rmtree(path, ignore_errors=True)
    model.save_pretrained(temporary, tokenizer)
    usual_permissions(temporary)
    for file in temporary.rglob("*"):
        if file.is_file():
            with open(file, "rb") as handle:
                os.fsync(handle.fileno())
    if target.exists():
        os.rename(target, old)
    os.rename(temporary, target)
    shutil.rmtree(old, ignore_errors=True)
