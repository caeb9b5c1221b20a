"""What `from mtrobust import ...` gives: whole runs, and the parts that an own training loop is made of.

Nothing heavy is imported before a function needs it. Bad input raises `UserError`, whose `faults` are lines that name
the place and what is allowed; a failure while something runs raises `RunError`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtrobust.errors import RunError, UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from mtrobust.config import PerturbSpec
    from mtrobust.evaluation.run_folder import Run
    from mtrobust.models.multitask import MultiTaskModel
    from mtrobust.tasks.base import Batch
    from mtrobust.tasks.taskdef import TaskDef
    from mtrobust.training.regularized import Regularized
    from mtrobust.training.step import TrainStep

__all__ = [
    "train", "load_run", "evaluate", "predict", "export", "load_task_defs", "read_rows", "build_model", "build_step",
    "batches", "regularize", "UserError", "RunError",
]  # fmt: skip

Files = str | os.PathLike[str]
Methods = str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]] | None


# --- whole runs -------------------------------------------------------------------------------------------------------


def train(**settings: Any) -> dict[str, dict[str, Any]]:
    """Trains as `mtrobust train` does, and fills the run folder `output_dir`.

    settings: the flags of `mtrobust train` by name, in the forms that a recipe has (`learning_rate=2e-5`,
    `train_tasks=["mrpc", "cola"]`, `perturb="rapt"` or `perturb={"name": "rapt", "layers": "1-3"}`).
    Returns what stands in `all_results.json`: dev metrics in percent by task, and figures of the training as `train`.
    """
    from mtrobust.config_parse import parse_settings

    config = parse_settings(settings)
    from mtrobust.training.run import train as run

    return run(config)


def load_run(path: Files, device: str | None = None) -> Run:
    """A finished run: `config`, `tasks` (definitions by name), `model`, `tokenizer`, `path`.

    device: where the model is put, such as `"cpu"`; default: the first accelerator where there is one.
    """
    from mtrobust.evaluation.run_folder import load_run as load

    return load(path, device)


def evaluate(
    run: Run,
    tasks: str | Iterable[str] | None = None,
    split: str = "dev",
    data_dir: Files | None = None,
    batch_size: int | None = None,
    all_rows: bool = False,
) -> dict[str, dict[str, float]]:
    """Metrics, in percent, of a run on a labelled split: `{"mrpc": {"acc": 86.3, "f1": 90.4}}`. Writes nothing.

    tasks: a name or several, default all of the run; split: a split's name, or `dev`, `test`, `train` for all of the
    kind; data_dir: folder with `<task>/<split>.jsonl`, default the run's; batch_size: default the run's. all_rows: all
    dev rows of a run that had `max_eval_samples`; default: those that it evaluated.
    """
    from mtrobust.evaluation.evaluator import Evaluator

    faults = [] if batch_size is None else _whole("batch_size", batch_size, 1)
    if not (tasks is None or isinstance(tasks, Iterable)):
        faults.append(f"tasks: {tasks!r}: must be a task's name, or several")
    if data_dir is not None and not Path(data_dir).is_dir():
        faults.append(f"data_dir: {os.fspath(data_dir)}: no such folder")
    if faults:
        raise UserError(faults)
    chosen = run.select([tasks] if isinstance(tasks, str) else tasks)
    folder = os.fspath(data_dir) if data_dir is not None else None
    return Evaluator.of_run(run, chosen, folder, batch_size, all_rows=all_rows).evaluate(split=split)


def predict(run: Run, task: str, rows: Files | Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What a run predicts of rows, in their order: `{"id": …, "prediction": …}` and what the task type adds to it
    (`probabilities` of a classification).

    rows: a file that the task reads, or mappings with its fields: `[{"text": "A film."}]`. Labels are not needed.
    """
    from mtrobust.evaluation.predict import predictions

    definition = run.task(task)
    return [found.record for found in predictions(run, definition, read_rows(definition, rows))]


def export(run: Run, task: str, out: Files) -> Path:
    """Writes one task of a run as a plain Hugging Face folder, with the same logits; see `mtrobust export`.

    out: a folder that does not exist yet or is empty. Returns it.
    """
    from mtrobust.models.export import export as write

    return write(run, task, out)


# --- parts ------------------------------------------------------------------------------------------------------------


def load_task_defs(files: Files | Iterable[Files]) -> dict[str, TaskDef]:
    """Task definitions by name. files: YAML files, or names of those that come with the package (`"glue"`)."""
    from mtrobust.tasks.taskdef import load_task_defs as load

    return load([os.fspath(file) for file in ([files] if isinstance(files, str | os.PathLike) else files)])


def read_rows(task: TaskDef, rows: Files | Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows checked and typed by the task (label names become numbers), from a file or from mappings."""
    from mtrobust.data.rows import parse_rows
    from mtrobust.data.rows import read_rows as read

    if isinstance(rows, str | os.PathLike):
        return read(task, os.fspath(rows))
    if not isinstance(rows, Iterable):
        raise UserError(f"rows: {rows!r}: must be a file, or mappings of fields")
    return parse_rows(task, rows)


def build_model(model: str, tasks: Mapping[str, TaskDef]) -> MultiTaskModel:
    """A pretrained encoder with a head for each task: fresh ones, but for a decoder, which comes with its checkpoint.

    model: a hub name or folder; tasks: definitions by name.
    """
    from mtrobust.models.multitask import MultiTaskModel, load_encoder

    if not tasks:
        raise UserError("tasks: none is given; a model has a head for each")
    built = MultiTaskModel(load_encoder(model), tasks)
    built.take_pretrained(tasks, model)
    return built


def build_step(model: MultiTaskModel, perturb: Methods = None, seed: int = 0) -> TrainStep:
    """A training step: an `nn.Module` that takes a batch of one task and gives `loss` (to call `backward` on) and
    `terms` (each part of it by name).

    model: see `build_model`; perturb: methods as recipes have them: `"rapt"`, `"vda,smart"`,
    `{"name": "rapt", "layers": "1-3"}`, or a list of these; default: the task loss alone. seed: keys the noise.
    `step.parameters()` has the model's weights and those that methods own.
    """
    specs = _methods(perturb)
    from mtrobust.perturb.build import build_methods
    from mtrobust.training.step import TrainStep

    return TrainStep(model, build_methods(specs, model.tasks, model.encoder), seed)


def batches(
    task: TaskDef,
    rows: Sequence[dict[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    batch_size: int = 16,
    epochs: int = 1,
    seed: int = 0,
    max_len: int = 128,
) -> Iterator[Batch]:
    """Batches of rows for a `TrainStep`, each row once an epoch in an order that the seed fixes.

    rows: as `read_rows` gives them; max_len: tokens per example where the task sets none. batch_size: rows; of span
    questions windows of a passage, of which a row may have several; of ranking and multiple choice whole lists, so that
    a batch has as many texts as these have candidates. `batch.step` counts from 0 through all epochs; noise is drawn
    anew for each. On an accelerator: `step(batch.to("cuda"))`. All rows are tokenised at once and kept in memory.
    Raises `UserError`.
    """
    bad = _whole("batch_size", batch_size, 1) + _whole("epochs", epochs, 1) + _whole("seed", seed, 0)
    bad += _whole("max_len", max_len, 8)  # as `max_seq_length` of a run
    bad += [] if rows else ["rows: none are given"]
    if bad:
        raise UserError(bad)
    features = task.type.featurize(rows, tokenizer, task.max_len or max_len, training=True)
    return _batches(task, features, tokenizer, batch_size, epochs, seed)


def _batches(
    task: TaskDef,
    features: Sequence[dict[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    batch_size: int,
    epochs: int,
    seed: int,
) -> Iterator[Batch]:
    import numpy as np

    from mtrobust.data.collator import Collator
    from mtrobust.training.rows import Units

    collate, number = Collator(task, tokenizer.pad_token_id), 0
    units = Units(np.array([feature["row"] for feature in features]), task.type.together)
    for epoch in range(epochs):
        order = np.random.default_rng((seed, epoch)).permutation(len(units.sizes))
        for start in range(0, len(order), batch_size):
            chosen = units.places(order[start : start + batch_size])
            batch = collate([features[i] for i in chosen], chosen)
            batch = task.type.drawn(batch, tokenizer, (seed, number))
            batch.step = number
            yield batch
            number += 1


def regularize(model: PreTrainedModel, perturb: Methods, seed: int = 0) -> Regularized:
    """A Hugging Face sequence classifier with methods in its training loss: a module with the same arguments, for
    `transformers.Trainer` or any other loop. The model itself is trained; save `regularized.model`.

    model: its weights in float32 (`from_pretrained(..., dtype="float32")`); perturb, seed: see `build_step`.
    Raises `UserError`.
    """
    specs = _methods(perturb)
    from mtrobust.training.regularized import Regularized

    return Regularized(model, specs, seed)


def _whole(name: str, value: Any, least: int) -> list[str]:
    """The fault, if there is one, of a value that is to be a whole number of at least `least`."""
    sound = isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least
    return [] if sound else [f"{name}: {value!r}: must be an integer >= {least}"]


def _methods(perturb: Methods) -> list[PerturbSpec]:
    """Methods with their options checked. Raises `UserError`."""
    from mtrobust.config_parse import read_perturb

    given = list(perturb) if isinstance(perturb, Sequence) and not isinstance(perturb, str) else perturb
    specs, faults = read_perturb(dict(given) if isinstance(given, Mapping) else given, [], "perturb")
    if faults:
        raise UserError(faults)
    return specs
