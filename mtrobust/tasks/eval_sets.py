"""Evaluation sets: another data set's rows, read by the head of a task as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mtrobust.registry import suggestion
from mtrobust.tasks.metrics import METRICS

if TYPE_CHECKING:
    from mtrobust.tasks.base import Prediction, TaskType
    from mtrobust.tasks.taskdef import EvalSet, TaskDef

Rows = Sequence[Mapping[str, Any]]


def task_of_set(task: TaskDef, name: str) -> TaskDef:
    """The definition by which the rows of a set are read and scored: the task's, with the set's data, labels and
    metrics. Raises pydantic's `ValidationError` where they do not fit together."""
    other = task.eval_sets[name]
    values: dict[str, Any] = task.model_dump(exclude={"eval_sets", "perturb"}, exclude_unset=True)
    labels = other.labels or task.labels
    values |= {"name": f"{task.name}-{name}", "data": other.data or name, "n_class": len(labels) or task.n_class}
    values |= {"metric_meta": other.metric_meta or task.metric_meta} | ({"labels": labels} if labels else {})
    return type(task)(**values)


def set_faults(task: TaskDef, name: str, kind: type[TaskType]) -> list[str]:
    """What stands against a set of a well-formed task, as `key: message`."""
    other, found = task.eval_sets[name], []
    if name in task.split_names:
        found.append(f"'{name}' is a split of the task too: predictions/{task.name}.{name}.jsonl would be both")
    found += _map_faults(task, other)
    found += [f"metric_meta: {metric}: {task.task_type} has {', '.join(kind.metrics)}"
              for metric in other.metric_meta or () if metric not in kind.metrics]  # fmt: skip
    if other.worst_of:
        single = [metric for metric in kind.metrics if METRICS[metric].of_a_row]
        found += [f"worst_of: {metric} has no value for a single row (of {task.task_type}: "
                  f"{', '.join(single) or 'none has'})"
                  for metric in other.metric_meta or task.metric_meta if metric not in single]  # fmt: skip
    if not found:
        found += kind.check(task_of_set(task, name))
    return found


def _map_faults(task: TaskDef, other: EvalSet) -> list[str]:
    found = [
        f"map: {label}: not a label of the task{suggestion(label, task.labels)} ({', '.join(task.labels)})"
        for label in other.map
        if label not in task.labels
    ]
    allowed = other.labels if other.labels is not None else task.labels
    for label in task.labels:
        target = other.map.get(label, label)
        if target not in allowed:
            what = f"{label} -> {target}" if label in other.map else f"{label}: not mapped, and"
            found.append(f"map: {what}: not among the set's labels ({', '.join(allowed)})")
    return found


def missing_columns(other: EvalSet, rows: Rows) -> list[str]:
    """Columns that the set names and a row lacks, as messages."""
    return [
        f"{key}: row {row['id']} has no column '{column}'"
        for key, columns in (("group_by", other.group_by or []), ("worst_of", [other.worst_of] * bool(other.worst_of)))
        for column in columns
        if (row := next((row for row in rows if row.get(str(column)) is None), None)) is not None
    ]


def scored(kind: TaskType, other: EvalSet, rows: Rows, predictions: Sequence[Prediction]) -> dict[str, float]:
    """The set's metrics in percent over all rows; with `group_by` also `<value>/<metric>` for each of its values (of
    several columns: `<value>/<value>/<metric>`); with `worst_of` also `worst/<metric>`.

    Worst: rows that agree in the column are variants of one question; a metric's smallest value over the variants
    counts for it, and the mean over questions is reported (Jia and Liang 2017, section 2.3: the adversary's choice).
    """
    groups: dict[str, list[int]] = {}
    for i, row in enumerate(rows) if other.group_by else ():
        named = {**row, "label": predictions[i].record.get("label")}  # labels of rows are numbers by now
        groups.setdefault("/".join(str(named[column]) for column in other.group_by or ()), []).append(i)
    scores = kind.score(list(map(dict, rows)), predictions)
    for value in sorted(groups):
        part = kind.score([dict(rows[i]) for i in groups[value]], [predictions[i] for i in groups[value]])
        scores |= {f"{value}/{metric}": figure for metric, figure in part.items()}
    return scores | (_worst(kind, other.worst_of, rows, predictions) if other.worst_of else {})


def _worst(kind: TaskType, column: str, rows: Rows, predictions: Sequence[Prediction]) -> dict[str, float]:
    lowest: dict[str, dict[str, float]] = {}
    for row, prediction in zip(rows, predictions, strict=True):
        found = kind.score([dict(row)], [prediction])
        kept = lowest.setdefault(str(row[column]), dict(found))
        kept.update({metric: min(value, kept.get(metric, value)) for metric, value in found.items()})
    known = [part for part in lowest.values() if part]
    names = list(known[0]) if known else []
    return {f"worst/{name}": sum(part[name] for part in known) / len(known) for name in names}
