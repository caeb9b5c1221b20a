"""What is attacked, as far as it can be known without loading a model: definition, rows, files. Imports no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtrobust.data.rows import find_split, iter_rows, read_rows
from mtrobust.errors import UserError
from mtrobust.evaluation.attacks.base import Attack
from mtrobust.evaluation.run_folder import MODEL, check_run, load_config, run_tasks
from mtrobust.registry import suggestion
from mtrobust.tasks.sequence import PAIR
from mtrobust.tasks.taskdef import TaskDef
from mtrobust.tasks.tokenised import is_tokenised

if TYPE_CHECKING:
    from mtrobust.evaluation.attacks.victim import Victim

FIELDS = ("text", "text_pair")
_WEIGHTS = ("*.safetensors", "*.bin", "config.json", "tokenizer.json", "vocab.txt", "spiece.model")


@dataclass(frozen=True)
class Target:
    """A model and its task. folder: of a run, or (is_run False) of an exported model; data_dir: of a run's own data."""

    folder: Path
    task: TaskDef
    is_run: bool
    data_dir: Path | None = None

    def open(self, use_cpu: bool, number: int, batch_size: int | None) -> Victim:
        """Loads the model, in the process that attacks it. batch_size: default: 8, with an accelerator 128.

        number: of the process, so that several use the accelerators in turn.
        """
        from mtrobust.evaluation.attacks.victim import device_of, of_folder, of_run

        device = device_of(use_cpu, number)
        size = batch_size or (8 if device.type == "cpu" else 128)
        return (of_run if self.is_run else of_folder)(self.folder, self.task, device, size)

    def digest(self) -> str:
        """16 hex digits over the model's files."""
        return digest_of(self.folder / MODEL if self.is_run else self.folder)


def digest_of(source: Path) -> str:
    """16 hex digits over the contents of a file, or of a model folder's weights, configuration and vocabulary."""
    digest = hashlib.blake2b(digest_size=8)
    files = {path for pattern in _WEIGHTS for path in source.glob(pattern)} if source.is_dir() else {source}
    for path in sorted(files):
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def run_target(run: Path, task: str) -> Target:
    """A task of a finished run. Raises `UserError`."""
    check_run(run)
    known = run_tasks(run)
    if task not in known:
        raise UserError(f"--task: {task}: no such task{suggestion(task, known)} (defined: {', '.join(known)})")
    return Target(run, known[task], True, load_config(run).data_dir)


def folder_target(folder: Path, task: str, kind: type[Attack], data_dir: Path, split: str) -> Target:
    """A Hugging Face folder with a sequence classifier, for the rows of `<data_dir>/<task>`.

    Labels are the folder's own; rows are pairs where the first has `text_pair`. Raises `UserError` for a folder that
    holds something else.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        names = {int(key): str(value) for key, value in config["id2label"].items()}
        heads = list(config.get("architectures") or [])
    except OSError as error:
        raise UserError(f"--model: {folder}: no config.json can be read there ({error.strerror})") from error
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"--model: {path}: must be a model's configuration with id2label") from error
    wrong = not any(str(head).endswith("ForSequenceClassification") for head in heads)
    if wrong or len(names) < 2 or sorted(names) != list(range(len(names))):
        raise UserError(
            f"--model: {folder}: holds {', '.join(map(str, heads)) or 'no class'} with {len(names)} labels; "
            "a …ForSequenceClassification with 2 labels or more can be attacked"
        )
    definition: dict[str, Any] = {
        "name": task, "task_type": kind.task_types[0], "labels": [names[i] for i in range(len(names))],
        "data_format": PAIR,
    }  # fmt: skip
    pair = TaskDef(**definition)
    try:
        next(iter_rows(pair, find_split(pair, data_dir, split)))
    except UserError:
        return Target(folder, TaskDef(**{**definition, "data_format": "PremiseOnly"}), False)
    return Target(folder, pair, False)


def check_task(task: TaskDef, kind: type[Attack], field: str | None) -> str:
    """The field to attack: the given one; else the second text of a pair, or the only one. Raises `UserError`."""
    faults = []
    if task.task_type not in kind.task_types:
        allowed = ", ".join(kind.task_types)
        faults.append(f"--task: {task.name}: is of type {task.task_type}; {kind.name} attacks tasks of type {allowed}")
    own = FIELDS if task.data_format == PAIR else FIELDS[:1]
    if field is not None and field not in own and not faults:
        faults.append(f"--field: {field}: {task.name} has rows with {', '.join(own)} only")
    if faults:
        raise UserError(faults)
    return field or own[-1]


def labelled_rows(task: TaskDef, data_dir: Path, split: str) -> tuple[Path, list[dict[str, Any]]]:
    """(the file, its rows that have a label). Raises `UserError` for bad rows and where no row has one."""
    path = find_split(task, data_dir, split)
    rows = [row for row in read_rows(task, path) if row["label"] is not None]
    if any(is_tokenised(row) for row in rows):
        raise UserError(f"--split: {path}: has rows of token ids; an attack changes words and needs texts")
    if not rows:
        raise UserError(f"--split: {path}: no row has a label; an attack needs to know what is right")
    return path, rows


def chosen(rows: Sequence[Mapping[str, Any]], count: int | None, seed: int | None) -> list[Mapping[str, Any]]:
    """The rows to attack, in their order: all, the first `count`, or with a seed `count` drawn ones.

    Of the same rows and seed, a larger count holds a smaller one's.
    """
    if count is None or count >= len(rows):
        return list(rows)
    if seed is None:
        return list(rows[:count])
    import numpy as np

    return [rows[i] for i in sorted(np.random.default_rng(seed).permutation(len(rows))[:count])]
