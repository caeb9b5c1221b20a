"""Evaluation of tasks on their splits: one pass over cached features, sorted by length, then decoding and metrics.

Several processes: each runs its share of the batches, and the outputs are exchanged, so that all hold the same
metrics. The batches are the same as in one process; the figures do not depend on the number of processes.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mtrobust.data.collator import evaluation_batches
from mtrobust.data.features import load_features
from mtrobust.data.rows import find_split, read_rows
from mtrobust.errors import RunError, UserError
from mtrobust.evaluation.run_folder import atomic_file, json_line, write_json
from mtrobust.models.products import fixed_weights
from mtrobust.registry import suggestion

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from mtrobust.evaluation.run_folder import Run
    from mtrobust.models.multitask import MultiTaskModel
    from mtrobust.tasks.base import Prediction
    from mtrobust.tasks.taskdef import TaskDef

log = logging.getLogger(__name__)

Outputs = dict[str, np.ndarray]
Progress = Callable[[str, int, int], None]  # what is being run, batches done, batches in all


@dataclass
class SplitResult:
    """What one split of one task gave: its rows, a prediction per row, metrics (none without labelled rows), and the
    task type's own files by name."""

    task: str
    split: str
    rows: list[dict[str, Any]]
    predictions: list[Prediction]
    metrics: dict[str, float] = field(default_factory=dict)
    files: dict[str, Any] = field(default_factory=dict)


class Evaluator:
    """Evaluates a model on splits of tasks; keeps what it predicted last.

    model: its heads decide which tasks can be evaluated; tasks: definitions by name; data_dir: folder with
    `<task>/<split>.jsonl`; cache_dir: where tokenised features are kept (default: `DATA_DIR/.features`); max_len:
    tokens per feature where a definition sets none; batch_size: features per batch; max_samples: only so many rows of
    each dev split and evaluation set; device: default: where the model is; bf16: bfloat16 autocast (outputs are float32
    anyhow).

    The model is put in evaluation mode for the time of a pass and each of its modules back as it was; gradients and
    the random generators are left alone, so evaluation in the middle of training changes nothing there.
    """

    def __init__(
        self,
        model: MultiTaskModel,
        tasks: Mapping[str, TaskDef],
        data_dir: str | Path,
        tokenizer: PreTrainedTokenizerBase,
        cache_dir: str | Path | None = None,
        max_len: int = 128,
        batch_size: int = 64,
        max_samples: int | None = None,
        device: torch.device | str | None = None,
        bf16: bool = False,
        progress: Progress | None = None,
    ) -> None:
        self.model, self.tasks, self.tokenizer = model, dict(tasks), tokenizer
        self.data_dir = Path(data_dir)
        self.cache_dir = Path(cache_dir) if cache_dir is not None else self.data_dir / ".features"
        self.max_len, self.batch_size, self.max_samples = max_len, batch_size, max_samples
        self.device, self.bf16, self.progress = device, bf16, progress
        self.results: dict[tuple[str, str], SplitResult] = {}
        self._data: dict[tuple[str, str], tuple[list[dict[str, Any]], list[dict[str, Any]]]] = {}

    @classmethod
    def of_run(
        cls,
        run: Run,
        tasks: Mapping[str, TaskDef],
        data_dir: str | Path | None = None,
        batch_size: int | None = None,
        bf16: bool | None = None,
        all_rows: bool = False,
    ) -> Evaluator:
        """Evaluates a finished run's model as the run did; data_dir: other rows than the run's, with a cache of their
        own; batch_size, bf16: other than the run's; all_rows: also where the run took `max_eval_samples`, which is
        of its own rows."""
        config = run.config
        folder = Path(data_dir) if data_dir is not None else config.data_dir
        own = folder.resolve() == config.data_dir.resolve()
        return cls(
            run.model,
            tasks,
            folder,
            run.tokenizer,
            cache_dir=config.cache_dir if own else None,
            max_len=config.max_seq_length,
            batch_size=batch_size or config.per_device_eval_batch_size,
            max_samples=config.max_eval_samples if own and not all_rows else None,
            bf16=config.bf16 if bf16 is None else bf16,
            progress=told(),
        )

    def evaluate(self, tasks: Iterable[str] | None = None, split: str = "dev") -> dict[str, dict[str, float]]:
        """Metrics in percent by task: `{"mnli": {"acc": 84.1, "mismatched_dev/acc": 84.5}}`.

        split: a split's name, or `dev`/`test`/`train` for every split of that kind (`matched_dev` and
        `mismatched_dev`); the metrics of the first have plain names, those of the others are prefixed. A split without
        a labelled row gives predictions and no metrics. A metric that is not defined (the correlation of a constant)
        is NaN and logged. In a distributed run every process must call this, with the same arguments.
        """
        plan = self.prepare(tasks, split)
        table: dict[str, dict[str, float]] = {name: {} for name, _ in plan}
        first = {name: part for name, part in reversed(plan)}
        for name, part in plan:
            result = self._evaluate_split(name, part)
            self.results[name, part] = result
            prefix = "" if part == first[name] else f"{part}/"
            table[name].update({prefix + metric: value for metric, value in result.metrics.items()})
        return table

    def prepare(self, tasks: Iterable[str] | None = None, split: str = "dev") -> list[tuple[str, str]]:
        """Reads rows and features of every task's split; the (task, split) pairs, in the order of evaluation.

        Raises one `UserError` with the faults of all tasks, so calling this before training finds them in time.
        """
        names = list(self.tasks) if tasks is None else list(dict.fromkeys(tasks))
        faults, plan = [], []
        for name in names:
            if name not in self.tasks or name not in self.model.heads:
                known = [task for task in self.tasks if task in self.model.heads]
                faults.append(f"task '{name}' cannot be evaluated{suggestion(name, known)} (tasks: {', '.join(known)})")
                continue
            for part in splits_of(self.tasks[name], split):
                try:
                    self.load(self.tasks[name], part)
                    plan.append((name, part))
                except UserError as error:
                    faults.extend(error.faults)
        if faults:
            raise UserError(faults)
        return plan

    def write_predictions(self, run_dir: str | Path) -> list[Path]:
        """Writes what was predicted last: `predictions/<task>.<split>.jsonl`, and files with a fixed name (SQuAD's
        `predictions.json`) under `predictions/<task>.<split>/`. Each file appears whole or not. Other processes than
        the first write nothing. Returns the paths."""
        if _rank()[0] != 0:
            return []
        folder, written = Path(run_dir) / "predictions", []
        for (name, split), result in self.results.items():
            path = folder / f"{name}.{split}.jsonl"
            with atomic_file(path) as file:
                file.writelines(json_line(prediction.record) for prediction in result.predictions)
            written.append(path)
            for file_name, content in result.files.items():
                written.append(folder / f"{name}.{split}" / file_name)
                write_json(written[-1], content)
        return written

    def outputs(self, task: TaskDef, records: Sequence[Mapping[str, Any]], what: str) -> list[Outputs]:
        """What the task's head reports of features, see `run_features`. what: the name of the split or set."""
        return run_features(
            self.model,
            task,
            records,
            evaluation_batches(task, self.tokenizer),
            batch_size=self.batch_size,
            device=self.device,
            bf16=self.bf16,
            progress=self.progress and (lambda done, total: self.progress(f"{task.name} {what}", done, total)),
            place=f"{task.name}.{what}",
        )

    def _evaluate_split(self, name: str, split: str) -> SplitResult:
        task = self.tasks[name]
        rows, records = self.load(task, split)
        outputs = self.outputs(task, records, split)
        predictions = task.type.decode(rows, records, task.type.detokenized(outputs, self.tokenizer))
        metrics = {}
        if any(bool(record["labelled"]) for record in records):
            metrics = {key: float(value) for key, value in task.type.score(rows, predictions).items()}
        for metric, value in metrics.items():
            if not math.isfinite(value):
                log.warning(
                    "%s: %s is not defined on %s (%d rows; are all labels or all predictions the same?): "
                    "reported as null", name, metric, split, len(rows),
                )  # fmt: skip
        # made now: a type may hold what `score` tuned on these rows (a threshold), and the next split tunes it anew
        return SplitResult(name, split, rows, predictions, metrics, task.type.files(predictions))

    def load(self, task: TaskDef, split: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Rows and features of a split, read once; `row` of a feature is its place among these rows.

        `max_samples` takes rows of a dev split or set evenly from the whole file, which may be sorted by label.
        """
        if (task.name, split) not in self._data:
            rows = read_rows(task, find_split(task, self.data_dir, split))
            features = load_features(
                task, split, self.data_dir, self.tokenizer, self.max_len, self.cache_dir, training=False
            )
            of_set = task.name not in self.tasks  # its definition has a name of its own, see `task_of_set`
            limit = self.max_samples if of_set or split in task.dev_splits else None
            count = min(len(rows), limit or len(rows))
            if count < len(rows):
                log.info("%s.%s: %d of %d rows are evaluated (max_eval_samples)", task.name, split, count, len(rows))
            kept = np.arange(count) * len(rows) // count
            place = {int(row): i for i, row in enumerate(kept)}
            records = [{**feature, "row": place[int(feature["row"])]} for feature in features.subset(kept)]
            self._data[task.name, split] = ([rows[i] for i in kept], records)
        return self._data[task.name, split]


def told(every: float = 10.0) -> Progress:
    """Says in the log how far a long evaluation is, at most once in so many seconds; of a short one nothing."""
    started, last = time.monotonic(), time.monotonic()

    def progress(what: str, done: int, total: int) -> None:
        nonlocal started, last
        now = time.monotonic()
        if done == 1:
            started = last = now
        elif now - last > every and done < total:
            last = now
            left = (now - started) / (done - 1) * (total - done)
            log.info("%s: %d of %d batches, %.0f s left", what, done, total, left)

    return progress


def splits_of(task: TaskDef, split: str) -> list[str]:
    """The definition's splits that a name stands for: itself, or for train/dev/test all of that kind (`matched_dev`).

    A name that the definition does not list is taken as it is: the data folder may hold further splits.
    """
    if split in task.split_names:
        return [split]
    kinds = {"train": task.train_splits, "dev": task.dev_splits, "test": task.test_splits}
    return kinds.get(split) or [split]


def run_features(
    model: MultiTaskModel,
    task: TaskDef,
    features: Sequence[Mapping[str, Any]],
    collate: Callable[[list[Any]], Any],
    *,
    batch_size: int,
    device: torch.device | str | None = None,
    bf16: bool = False,
    progress: Callable[[int, int], None] | None = None,
    place: str = "",
) -> list[Outputs]:
    """What the head reports of each feature, float32, per-token values cut to the feature's length.

    Batches hold features of similar lengths, the longest first (so that memory that does not suffice shows at once).
    In a distributed run each process takes every n-th batch. Raises `RunError` where outputs are NaN.
    """
    if not features:
        return []
    lengths = np.array([len(feature["input_ids"]) for feature in features])
    order = np.argsort(-lengths, kind="stable")
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    rank, world = _rank()
    device = torch.device(device) if device is not None else next(model.parameters()).device
    head: Any = model.heads[task.name]
    per_token = head.token_outputs
    done: dict[int, Outputs] = {}
    with evaluating(model, device), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        for number, indices in enumerate(batches):
            if number % world == rank:
                batch = collate([features[i] for i in indices]).to(device)
                out = {key: value.float().cpu().numpy() for key, value in model.predict(batch).items()}
                _check_finite(out, place or task.name)
                for at, i in enumerate(indices):
                    cut = {k: v[at, : lengths[i]] if k in per_token else v[at] for k, v in out.items()}
                    done[int(i)] = {k: np.array(v) for k, v in cut.items()}  # a copy: the batch is freed
            if progress:
                progress(number + 1, len(batches))
    if world > 1:
        done = _exchange(done, world)
    return [done[i] for i in range(len(features))]


@contextmanager
def evaluating(model: torch.nn.Module, device: torch.device) -> Iterator[None]:
    """No gradients, evaluation mode, generators untouched; every module's own mode comes back afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad(), fixed_weights(), torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        for module, training in modes:
            module.training = training


def _check_finite(out: Outputs, place: str) -> None:
    for key, value in out.items():
        if np.isnan(value).any():
            why = "training diverged, or the weights are damaged"
            raise RunError(f"{place}: the model's {key} are not numbers (NaN): {why}")


def _rank() -> tuple[int, int]:
    """This process's number and the number of processes."""
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def _exchange(done: dict[int, Outputs], world: int) -> dict[int, Outputs]:
    """The outputs of all processes together."""
    parts: list[dict[int, Outputs]] = [{} for _ in range(world)]
    torch.distributed.all_gather_object(parts, done)
    return {index: out for part in parts for index, out in part.items()}
