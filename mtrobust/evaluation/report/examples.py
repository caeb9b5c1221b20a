"""What a run predicted for each example, as a figure of any weighted set of these examples.

The metrics are those of `mtrobust.tasks.metrics`, computed for many draws at once. A file is used only if its examples
give the figure that the run recorded (`usable`), so a set that was scored in another way (groups, several variants of
a question) has no examples here rather than wrong ones.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtrobust.data.rows import find_split, read_rows
from mtrobust.errors import UserError
from mtrobust.evaluation.report.runs import RunData, is_dev, task_of
from mtrobust.evaluation.report.stats import Array, Score
from mtrobust.evaluation.run_folder import load_tasks
from mtrobust.registry import Registry
from mtrobust.tasks import squad_metrics
from mtrobust.tasks.answers import accepted_texts
from mtrobust.tasks.taskdef import TaskDef

TOLERANCE = 1e-3  # points between a recorded figure and the one of the examples


@dataclass(frozen=True)
class Examples:
    """A prediction file. labels and predictions are names or numbers, in the order of `ids`.

    classes: names by class id, empty where there are none; own: figures that each example has by itself, such as `em`
    of a question, and 1 or 0 for whether it is part of the mean.
    """

    place: Path
    ids: tuple[str, ...]
    labels: list[Any]
    predictions: list[Any]
    classes: tuple[str, ...] = ()
    own: Mapping[str, tuple[Array, Array]] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The same for files about the same examples."""
        return "\n".join([self.place.name, *self.ids])

    def score(self, metric: str) -> Score | None:
        """The metric as a function of weights; None for one that is not known here or not defined for these."""
        if metric in self.own:
            return _mean(*self.own[metric])
        return SCORERS[metric](self) if metric in SCORERS else None


SCORERS: Registry[Callable[[Examples], Score | None]] = Registry("metric of examples")


def _mean(values: Array, parts: Array) -> Score:
    """The mean over the drawn examples that are part of it; NaN where none is."""

    def score(weights: Array) -> Array:
        total, drawn = weights @ (values * parts), weights @ parts
        return np.divide(total, drawn, out=np.full_like(total, np.nan), where=drawn > 0)

    return score


@SCORERS.register("acc")
@SCORERS.register("f1_micro")
def _accuracy(examples: Examples) -> Score | None:
    if not examples.classes:
        return None
    pairs = zip(examples.labels, examples.predictions, strict=True)
    right = np.array([100.0 * (label == predicted) for label, predicted in pairs])
    return _mean(right, np.ones(len(right)))


def _one_hot(values: list[Any], classes: tuple[str, ...]) -> Array:
    return np.array([[float(value == name) for name in classes] for value in values])


def _counts(examples: Examples) -> tuple[Array, Array, Array]:
    """One-hot labels, predictions and agreements, [n, classes]."""
    gold, predicted = _one_hot(examples.labels, examples.classes), _one_hot(examples.predictions, examples.classes)
    return gold, predicted, gold * predicted


@SCORERS.register("f1")
def _f1(examples: Examples) -> Score | None:
    if len(examples.classes) != 2:
        return None
    gold, predicted, both = (counts[:, 1] for counts in _counts(examples))
    return lambda weights: 200.0 * (weights @ both) / np.maximum(weights @ (gold + predicted), 1.0)


@SCORERS.register("f1_macro")
def _f1_macro(examples: Examples) -> Score | None:
    if not examples.classes:
        return None
    gold, predicted, both = _counts(examples)

    def score(weights: Array) -> Array:
        sides = weights @ (gold + predicted)
        each = 200.0 * (weights @ both) / np.maximum(sides, 1.0)
        return each.sum(axis=1) / (sides > 0).sum(axis=1)

    return score


@SCORERS.register("mcc")
def _mcc(examples: Examples) -> Score | None:
    if not examples.classes:
        return None
    gold, predicted, both = _counts(examples)

    def score(weights: Array) -> Array:
        n, t, p = weights.sum(axis=1), weights @ gold, weights @ predicted
        covariance = n * (weights @ both).sum(axis=1) - (t * p).sum(axis=1)
        scale = np.sqrt((n**2 - (t**2).sum(axis=1)) * (n**2 - (p**2).sum(axis=1)))
        return 100.0 * np.divide(covariance, scale, out=np.zeros_like(scale), where=scale > 0)

    return score


def _numbers(examples: Examples) -> tuple[Array, Array] | None:
    try:
        return np.array(examples.labels, dtype=np.float64), np.array(examples.predictions, dtype=np.float64)
    except (TypeError, ValueError):
        return None


def _correlation(weights: Array, x: Array, y: Array) -> Array:
    """Weighted Pearson's r times 100. x, y: [n], or [draws, n] where they depend on the weights; NaN if constant."""
    total = weights.sum(axis=1)
    x = x - ((weights * x).sum(axis=1) / total)[:, None]
    y = y - ((weights * y).sum(axis=1) / total)[:, None]
    covariance, xx, yy = ((weights * a * b).sum(axis=1) for a, b in ((x, y), (x, x), (y, y)))
    scale = np.sqrt(xx * yy)
    return 100.0 * np.divide(covariance, scale, out=np.full_like(scale, np.nan), where=scale > 1e-12)


@SCORERS.register("pearson")
def _pearson(examples: Examples) -> Score | None:
    numbers = _numbers(examples)
    return None if numbers is None else lambda weights: _correlation(weights, *numbers)


@SCORERS.register("spearman")
def _spearman(examples: Examples) -> Score | None:
    numbers = _numbers(examples)
    if numbers is None:
        return None
    order = [np.unique(values, return_inverse=True) for values in numbers]

    def ranks(weights: Array, inverse: NDArray[np.intp], groups: int) -> Array:
        """Mean ranks of the drawn examples, equal values sharing theirs."""
        held = np.stack([np.bincount(inverse, row, minlength=groups) for row in weights])
        return (np.cumsum(held, axis=1) - held / 2 + 0.5)[:, inverse]

    return lambda weights: _correlation(weights, *(ranks(weights, at, len(found)) for found, at in order))


# --- reading -----------------------------------------------------------------------------------------------------


def usable(examples: Examples | None, column: str, recorded: float) -> Score | None:
    """The score of a column if the examples give the recorded figure."""
    score = examples.score(column.rsplit("/", 1)[-1]) if examples else None
    if score is None or examples is None:
        return None
    found = score(np.ones((1, len(examples.ids))))[0]
    return score if abs(found - recorded) <= TOLERANCE else None  # False for NaN


def read_examples(run: RunData, column: str, data_dir: Path | None = None) -> Examples | None:
    """The examples behind a column; None where the run wrote none or they hold no labels.

    data_dir: where the rows are whose answers question answering is scored by; default: the run's.
    """
    for path in _files(run, column):
        if path.is_file():
            records = _records(path)
            attacked = path.parent.name == "attack"
            return _attacked(path, records) if attacked else _predicted(path, records, run, column, data_dir)
    return None


def _files(run: RunData, column: str) -> Iterator[Path]:
    """Where the predictions of a column may stand."""
    task, *middle, _ = column.split("/")
    if middle and middle[0] == "attack":
        yield run.path / "attack" / f"{'.'.join([task, *middle[1:]])}.jsonl"
        return
    folder = run.path / "predictions"
    if is_dev(column):
        splits = (run.tasks.get(task) or {}).get("split_names") or []
        yield folder / f"{task}.dev.jsonl"
        yield from (folder / f"{task}.{split}.jsonl" for split in splits if "dev" in str(split))
    elif len(middle) == 1:
        yield from (folder / f"{task}.{middle[0]}{end}.jsonl" for end in ("", ".dev", ".test"))


def _records(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON Lines file; a line that is none (cut off) is passed over."""
    records = []
    with path.open(encoding="utf-8", newline="\n") as file:
        for line in file:
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict) and "id" in record:
                records.append(record)
    return sorted(records, key=lambda record: str(record["id"]))


def _predicted(
    path: Path, records: list[dict[str, Any]], run: RunData, column: str, data_dir: Path | None
) -> Examples | None:
    ids = tuple(str(record["id"]) for record in records)
    if not ids or len(set(ids)) != len(ids):
        return None
    predictions: list[Any] = [record.get("prediction") for record in records]
    if all(record.get("label") is not None for record in records):
        classes = tuple(records[0].get("probabilities") or ())
        return Examples(path, ids, [record["label"] for record in records], predictions, classes)
    answers = _answers(run, column, data_dir)
    if not answers or not all(key in answers for key in ids) or not all(isinstance(x, str) for x in predictions):
        return None
    golds = [answers[key] for key in ids]
    question = squad_metrics.v1_question if all(golds) else squad_metrics.v2_question
    scores = 100.0 * np.array([question(text, gold) for text, gold in zip(predictions, golds, strict=True)])
    every = np.ones(len(ids))
    return Examples(path, ids, golds, predictions, (), {"em": (scores[:, 0], every), "f1": (scores[:, 1], every)})


def _answers(run: RunData, column: str, data_dir: Path | None) -> dict[str, list[str]]:
    """Accepted answers by id from the rows behind a column."""
    answers = {row["id"]: row["accepted"] for row in _rows(run, column, data_dir)}
    return {key: found for key, found in answers.items() if found is not None}


_READ: dict[tuple[Path, str], list[dict[str, Any]]] = {}  # seeds and methods share their rows


def _rows(run: RunData, column: str, data_dir: Path | None) -> list[dict[str, Any]]:
    """The rows behind a column: id, label name or number, accepted texts; none where they cannot be found or read."""
    name, *middle, _ = column.split("/")
    root = data_dir or Path(str(run.config.get("data_dir", "")))
    try:
        task = load_tasks(run.path)[name]
        path = _split_file(task, root, middle[0] if middle else None)
        if path is None or len(middle) > 1:
            return []
        key = path.resolve(), json.dumps(run.tasks.get(name), sort_keys=True, default=str)
        if key not in _READ:
            names = task.labels or []
            _READ[key] = [
                {"id": row["id"], "accepted": accepted_texts(row), "label": _label(row.get("label"), names)}
                for row in read_rows(task, path)
            ]
        return _READ[key]
    except (UserError, KeyError):
        return []


def _label(label: Any, names: Sequence[str]) -> Any:
    """The name of a label id; anything else as it is."""
    return names[label] if isinstance(label, int) and label < len(names) else label


def _split_file(task: TaskDef, root: Path, part: str | None) -> Path | None:
    """The file of the first dev split, or of a split or an evaluation set called `part`."""
    places = [(task, part or task.dev_splits[0])]
    if part:
        of_set = task.model_copy(update={"data": part})
        places += [(of_set, split) for split in ("dev", "test")]
    for definition, split in places:
        try:
            return find_split(definition, root, split)
        except UserError:
            continue
    return None


def _attacked(path: Path, records: list[dict[str, Any]]) -> Examples | None:
    """An attack's lines: `success` is true, false, or null for an example that was wrong before."""
    if not records or not all("success" in record for record in records):
        return None
    outcomes = [record["success"] for record in records]
    attacked, succeeded, held = (
        np.array([float(outcome in kinds) for outcome in outcomes]) for kinds in ((True, False), (True,), (False,))
    )
    every = np.ones(len(records))
    own = {"original_accuracy": (100 * attacked, every), "attack_accuracy": (100 * held, every)}
    if all(isinstance(record.get("queries"), int) for record in records):
        own["query_number"] = (np.array([float(record["queries"]) for record in records]), attacked)
    if all(isinstance(record.get("words"), int) and isinstance(record.get("changes"), list) for record in records):
        shares = [100.0 * len(record["changes"]) / max(record["words"], 1) for record in records]
        own["perturbed_percentage"] = (np.array(shares), succeeded)
    return Examples(path, tuple(str(record["id"]) for record in records), outcomes, outcomes, (), own)


def labels_of(run: RunData, column: str, data_dir: Path | None) -> tuple[list[Any], tuple[str, ...]]:
    """(labels of the examples behind a column, class names by id): from predictions, else from the rows."""
    examples = read_examples(run, column, data_dir)
    if examples is not None and examples.classes:
        return examples.labels, examples.classes
    if examples is not None:
        return examples.labels, ()
    labels = [row["label"] for row in _rows(run, column, data_dir) if row["label"] is not None]
    given = (run.tasks.get(task_of(column)) or {}).get("labels") or []
    return labels, tuple(map(str, given))
