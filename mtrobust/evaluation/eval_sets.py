"""Zero-shot evaluation: the heads of an evaluator's model on the evaluation sets of its tasks."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtrobust.data.rows import find_split
from mtrobust.errors import UserError
from mtrobust.registry import suggestion
from mtrobust.tasks.eval_sets import missing_columns, scored, task_of_set

if TYPE_CHECKING:
    from mtrobust.evaluation.evaluator import Evaluator, SplitResult
    from mtrobust.tasks.taskdef import TaskDef

log = logging.getLogger(__name__)
ALL, SKIP = "all", "skip"
Pair = tuple[str, str]  # task, set


def chosen_sets(tasks: Mapping[str, TaskDef], data_dir: Path, wanted: list[str] | None) -> list[Pair]:
    """The sets to evaluate, by task.

    wanted: names, `all`, `skip`; None: those that have rows under `data_dir` (the others are named in one line of the
    log). Raises `UserError` with all faults: unknown names, rows that are not there.
    """
    known = list(dict.fromkeys(name for task in tasks.values() for name in task.eval_sets))
    if wanted == [SKIP] or not (known or wanted):
        return []
    names = known if wanted in (None, [ALL]) else list(wanted or ())
    faults = [f"eval_sets: {name}: no such set{suggestion(name, known)} (of these tasks: {', '.join(known) or 'none'})"
              for name in names if name not in known]  # fmt: skip
    found, absent = [], []
    for task in tasks.values():
        for name in task.eval_sets:
            if name in names:
                try:
                    find_split(task_of_set(task, name), data_dir, task.eval_sets[name].split)
                    found.append((task.name, name))
                except UserError as error:
                    absent.append(f"{task.name}.{name}")
                    faults += [f"eval_sets: {line}" for line in error.faults] if wanted is not None else []
    if faults:
        raise UserError(faults)
    if absent:
        log.info("evaluation sets without rows in %s are left out: %s", data_dir, ", ".join(absent))
    return found


class SetEvaluator:
    """Evaluates pairs of (task, set) with an evaluator's model, settings and cache. Its results join the evaluator's:
    `predictions/<task>.<set>.jsonl`."""

    def __init__(self, evaluator: Evaluator, pairs: Iterable[Pair]) -> None:
        self.evaluator, self.pairs = evaluator, list(pairs)
        self._tasks = {(task, name): task_of_set(evaluator.tasks[task], name) for task, name in self.pairs}

    def prepare(self) -> None:
        """Reads rows and features. Raises one `UserError` with the faults of all sets."""
        faults: list[str] = []
        for task, name in self.pairs:
            try:
                rows, _ = self._load(task, name)
            except UserError as error:
                faults += error.faults
                continue
            other = self.evaluator.tasks[task].eval_sets[name]
            faults += [f"{task}.eval_sets.{name}.{line}" for line in missing_columns(other, rows)]
        if faults:
            raise UserError(faults)

    def labelled(self, task: str, name: str = "") -> bool:
        """Whether a row has a label, of a set or of another split of the task; default: of its first dev split, whose
        metrics have plain names."""
        if (task, name) in self._tasks:
            records = self._load(task, name)[1]
        else:
            split = name or self.evaluator.prepare([task])[0][1]
            records = self.evaluator.load(self.evaluator.tasks[task], split)[1]
        return any(bool(record["labelled"]) for record in records)

    def evaluate_all(self, tasks: Iterable[str], split: str = "dev") -> dict[str, dict[str, float]]:
        """Metrics of the tasks' own split and, after them, of the sets."""
        table = self.evaluator.evaluate(tasks, split)
        for task, metrics in self.evaluate().items():
            table.setdefault(task, {}).update(metrics)
        return table

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Metrics in percent by task: `{"mnli": {"hans/acc": 50.2, "hans/lexical_overlap/acc": 61.0}}`."""
        self.prepare()
        table: dict[str, dict[str, float]] = {}
        for task, name in self.pairs:
            result = self._evaluate(task, name)
            self.evaluator.results[task, name] = result
            table.setdefault(task, {}).update({f"{name}/{key}": value for key, value in result.metrics.items()})
        return table

    def _load(self, task: str, name: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        return self.evaluator.load(self._tasks[task, name], self.evaluator.tasks[task].eval_sets[name].split)

    def _evaluate(self, task: str, name: str) -> SplitResult:
        from mtrobust.evaluation.evaluator import SplitResult

        rows, records = self._load(task, name)
        definition, target = self.evaluator.tasks[task], self._tasks[task, name]
        other = definition.eval_sets[name]
        # Without labels: those of the rows are the set's, the head's are the task's.
        blind = [{**row, "label": None} if "label" in row else row for row in rows]
        outputs = definition.type.detokenized(
            self.evaluator.outputs(definition, records, name), self.evaluator.tokenizer
        )
        decoded = definition.type.decode(blind, records, outputs)
        names = {label: other.map.get(label, label) for label in definition.labels}
        predictions = [target.type.carried(p, row, names) for p, row in zip(decoded, rows, strict=True)]
        target.type.follow(definition.type)
        metrics = {}
        if any(bool(record["labelled"]) for record in records):
            metrics = {key: float(value) for key, value in scored(target.type, other, rows, predictions).items()}
        return SplitResult(task, name, rows, predictions, metrics, target.type.files(predictions))
