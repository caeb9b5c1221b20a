"""Run folders as a report reads them: configuration, figures by column, curves. Nothing of torch is imported.

A column is a path of names joined by "/": `mr/acc` (task and metric on dev), `sst2/imdb/acc` (evaluation set),
`mnli/hans/lexical_overlap/acc` (group of one), `mr/attack/test/attack_accuracy` (figures of `attack/mr.test.json`).
"""

from __future__ import annotations

import glob
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mtrobust.errors import UserError
from mtrobust.evaluation.run_folder import CONFIG, TASK_DEF, complete_checkpoints, one_line, read_results
from mtrobust.yaml_file import read_yaml

DEPTH = 4  # levels of folders below an argument that are searched for run folders
ATTACK_FIGURES = ("original_accuracy", "attack_accuracy", "query_number", "perturbed_percentage")
_NO_METRIC = re.compile(r"cmat_\d+_\d+|best_\w+_thresh|threshold|count|rows|examples")
_SMALLER = {"ppl"}  # metrics of which less is better


@dataclass(frozen=True)
class RunData:
    """One run folder. `results` is None when the run has not finished; figures are as recorded, None: undefined."""

    path: Path
    config: dict[str, Any]
    results: dict[str, dict[str, Any]] | None
    tasks: dict[str, Any] = field(default_factory=dict)  # the raw task definitions
    figures: dict[str, float | None] = field(default_factory=dict)
    unfinished: list[str] = field(default_factory=list)  # attacks that were begun

    @property
    def seed(self) -> int:
        """The seed of the run; the training default where an older configuration does not state one."""
        return int(self.config.get("seed", 42))

    @property
    def trained(self) -> tuple[str, ...]:
        """The tasks that the run trains."""
        return tuple(self.config.get("train_tasks") or self.tasks)

    @property
    def train(self) -> dict[str, Any]:
        """What the run recorded of its training."""
        return (self.results or {}).get("train", {})

    @property
    def seconds_per_example(self) -> float | None:
        """Seconds of training per example, evaluation and checkpoints left out."""
        rate = self.train.get("examples_per_second")
        return 1.0 / rate if isinstance(rate, int | float) and rate > 0 else None

    def where(self) -> str:
        """How far an unfinished run came, and how it goes on."""
        steps = complete_checkpoints(self.path)
        if not steps:
            return "no checkpoint"
        return f"at {steps[-1].name}; goes on with `mtrobust train {self.path / CONFIG} --resume`"


def task_of(column: str) -> str:
    """The task of a column."""
    return column.split("/", 1)[0]


def is_dev(column: str) -> bool:
    """Whether a column is a task's own dev metric (not an evaluation set, another split or an attack)."""
    return column.count("/") == 1


def higher_is_better(column: str) -> bool:
    """False for perplexity."""
    return column.rsplit("/", 1)[-1] not in _SMALLER


def find_runs(words: Iterable[str]) -> list[Path]:
    """The run folders that the arguments name: folders, parents of folders, patterns; each once, in natural order.

    Raises `UserError` with a line for every argument that leads to no run folder.
    """
    found: dict[Path, Path] = {}
    faults = []
    for word in words:
        paths = [Path(word)] if Path(word).exists() else [Path(name) for name in sorted(glob.glob(word))]
        if not paths:
            faults.append(f"{word}: no such folder, and no folder matches it")
            continue
        runs = [run for path in paths for run in _below(path, DEPTH)]
        if not runs:
            faults.append(f"{word}: neither a run folder (no {CONFIG}) nor a folder that holds some")
        for run in runs:
            found.setdefault(run.resolve(), run)
    if faults:
        raise UserError(faults)
    return sorted(found.values(), key=lambda path: natural(str(path)))


def _below(path: Path, depth: int) -> Iterator[Path]:
    if not path.is_dir():
        return
    if (path / CONFIG).is_file():
        yield path
    elif depth:
        for child in sorted(path.iterdir()):
            if not child.name.startswith("."):
                yield from _below(child, depth - 1)


def natural(text: str) -> list[tuple[int, int | str]]:
    """A key that sorts `run-2` before `run-10`."""
    parts = re.split(r"(\d+)", text)
    return [(0, int(part)) if part.isdigit() else (1, part) for part in parts]


def read_runs(paths: Iterable[Path]) -> list[RunData]:
    """Reads all folders. Raises one `UserError` with the faults of every damaged file."""
    runs, faults = [], []
    for path in paths:
        try:
            runs.append(_read(path))
        except UserError as error:
            faults.extend(error.faults)
    if faults:
        raise UserError(faults)
    return runs


def _read(path: Path) -> RunData:
    config = read_yaml(path / CONFIG, "run configuration")
    faults = []
    if not isinstance(config.get("perturb") or [], list):
        faults.append(f"{path / CONFIG}: perturb: must be a list of methods")
    elif not all(isinstance(spec, dict) and isinstance(spec.get("name"), str) for spec in config.get("perturb") or []):
        faults.append(f"{path / CONFIG}: perturb: every entry must be a mapping with a `name`")
    if not isinstance(config.get("seed", 42), int):
        faults.append(f"{path / CONFIG}: seed: {config['seed']}: must be a whole number")
    if not isinstance(config.get("train_tasks") or [], list):
        faults.append(f"{path / CONFIG}: train_tasks: must be a list")
    if faults:
        raise UserError(faults)
    tasks = read_yaml(path / TASK_DEF, "task definition") if (path / TASK_DEF).is_file() else {}
    results = read_results(path)
    if "train" not in results:  # written when training ends; there is no other sign of a half-done run
        return RunData(path, config, None, tasks)
    figures: dict[str, float | None] = {}
    for task, metrics in results.items():
        if task != "train":
            figures.update(flatten(metrics, task))
    unfinished = []
    for file in sorted((path / "attack").glob("*.json")) if (path / "attack").is_dir() else ():
        found = _attack(file)
        if found is None:
            unfinished.append(f"attack/{file.name}")
        else:
            figures.update(found)
    return RunData(path, config, results, tasks, figures, unfinished)


def flatten(figures: Mapping[str, Any], prefix: str) -> dict[str, float | None]:
    """Numbers of a nested mapping by path. Other values, counts and thresholds are no metrics and are left out."""
    found: dict[str, float | None] = {}
    for name, value in figures.items():
        if isinstance(value, Mapping):
            found.update(flatten(value, f"{prefix}/{name}"))
        elif _NO_METRIC.fullmatch(str(name).rsplit("/", 1)[-1]):
            continue
        elif value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
            found[f"{prefix}/{name}"] = None if value is None or not math.isfinite(value) else float(value)
    return found


def _attack(path: Path) -> dict[str, float | None] | None:
    """The figures of one attack, None while it is not complete; the file's name is `<task>.<split>.json`."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: is not JSON ({one_line(error)})") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: must be a mapping with {', '.join(ATTACK_FIGURES)}")
    if content.get("complete") is False:
        return None
    task, _, split = path.stem.partition(".")
    flat = flatten(content, f"{task}/attack" + (f"/{split}" if split else ""))
    return {column: value for column, value in flat.items() if column.rsplit("/", 1)[-1] in ATTACK_FIGURES}


def curves(run: RunData) -> dict[str, dict[int, float]]:
    """Figures by step: `<task>/loss` of training, and the dev metrics under their columns.

    A line that is cut off (a run that was killed) is passed over; of a step that was logged twice (a resumed run) the
    later line counts.
    """
    found: dict[str, dict[int, float]] = {}
    path = run.path / "metrics.jsonl"
    if not path.is_file():
        return found
    with path.open(encoding="utf-8", newline="\n") as file:
        for line in file:
            try:
                record = json.loads(line)
                step = int(record["step"])
            except (ValueError, KeyError, TypeError):
                continue
            for task, figures in (record.get("train") or {}).items():
                if isinstance(figures, dict) and isinstance(figures.get("loss"), int | float):
                    found.setdefault(f"{task}/loss", {})[step] = float(figures["loss"])
            for task, figures in (record.get("eval") or {}).items():
                for column, value in flatten(figures, task).items():
                    if value is not None:
                        found.setdefault(column, {})[step] = value
    return found
