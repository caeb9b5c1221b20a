"""Run folders as training leaves them, made of given figures and predictions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from mtrobust.errors import UserError
from mtrobust.evaluation.report.groups import Group, group_runs
from mtrobust.evaluation.report.runs import find_runs, read_runs

TASK_DEFS = {
    "mr": {
        "task_type": "Classification", "data_format": "PremiseOnly", "labels": ["negative", "positive"],
        "metric_meta": ["ACC"],
    },
    "qa": {"task_type": "SpanClassification", "data_format": "MRC", "metric_meta": ["EmF1"]},
}  # fmt: skip


def write_run(
    path: Path,
    perturb: Sequence[Mapping[str, Any]] = (),
    seed: int = 1,
    figures: Mapping[str, Any] | None = None,
    speed: float | None = 10.0,
    **config: Any,
) -> Path:
    """A run folder. figures: `all_results.json` without `train`; None: the run has not finished."""
    path.mkdir(parents=True, exist_ok=True)
    settings = {
        "perturb": [{"name": spec["name"], "options": dict(spec.get("options", {}))} for spec in perturb],
        "seed": seed, "train_tasks": ["mr"], "learning_rate": 1e-4, "data_dir": str(path.parent / "data"),
        "output_dir": str(path), **config,
    }  # fmt: skip
    (path / "config.yml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    (path / "task_def.yml").write_text(yaml.safe_dump(TASK_DEFS), encoding="utf-8")
    if figures is not None:
        train = {"seed": seed} | ({"examples_per_second": speed} if speed else {})
        (path / "all_results.json").write_text(json.dumps({**figures, "train": train}), encoding="utf-8")
    return path


def method(name: str, **options: Any) -> list[dict[str, Any]]:
    """The `perturb` list of one method."""
    return [{"name": name, "options": options}]


def write_predictions(
    run: Path, name: str, labels: Sequence[Any], predictions: Sequence[Any], classes: Any = None
) -> None:
    """`predictions/<name>.jsonl`; classes: names in the order of their ids."""
    records = [
        {"id": str(i), "prediction": b, "label": a}
        | ({"probabilities": dict.fromkeys(classes, 0.5)} if classes else {})
        for i, (a, b) in enumerate(zip(labels, predictions, strict=True))
    ]
    write_lines(run / "predictions" / f"{name}.jsonl", records)


def write_lines(path: Path, records: Sequence[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


NAMES = ("negative", "positive")


def classified(run: Path, right: Sequence[bool], positive: int, name: str = "mr.dev") -> float:
    """Predictions of `mr` with these right, the first `positive` rows being positive; returns the accuracy."""
    labels = [NAMES[i < positive] for i in range(len(right))]
    predictions = [a if ok else NAMES[a == NAMES[0]] for a, ok in zip(labels, right, strict=True)]
    write_predictions(run, name, labels, predictions, NAMES)
    return 100.0 * sum(right) / len(right)


def groups_of(folder: Path, *arguments: Any) -> list[Group]:
    """The groups of all runs below a folder."""
    return group_runs(read_runs(find_runs([str(folder)])), *arguments)


def faults(call: Any, *arguments: Any) -> list[str]:
    """The lines with which a call refuses its input."""
    with pytest.raises(UserError) as caught:
        call(*arguments)
    return caught.value.faults
