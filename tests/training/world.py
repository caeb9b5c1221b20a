"""A data folder and a tiny encoder without dropout for whole training runs: one task of each kind, labels missing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from mtrobust.config import PerturbSpec, TrainConfig
from tests.evaluation.runs import TASK_DEF, span_rows, text_rows, write_rows

SIZES = {"mood": 26, "stsb": 18, "squad": 7}


def write_world(folder: Path, model_dir: Path) -> Path:
    """`defs.yml`, `data/`, `model/` (dropout 0). In `mood` every third row has no label, in `stsb` every fourth."""
    (folder / "defs.yml").write_text(TASK_DEF, encoding="utf-8")
    mood = text_rows(SIZES["mood"], ["sad", "calm", "glad"], pair=False)
    stsb = text_rows(SIZES["stsb"], [0.0, 1.5, 2.5, 4.0, 5.0], pair=True)
    for rows, nth in ((mood, 3), (stsb, 4)):
        for row in rows[::nth]:
            del row["label"]
    for name, rows in (("mood", mood), ("stsb", stsb), ("squad", span_rows(SIZES["squad"]))):
        write_rows(folder / "data" / name / "train.jsonl", rows)
        write_rows(folder / "data" / name / "dev.jsonl", rows[:9])
    shutil.copytree(model_dir, folder / "model")
    settings = json.loads((folder / "model" / "config.json").read_text(encoding="utf-8"))
    settings |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "classifier_dropout": 0.0}
    (folder / "model" / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


def settings(world: Path, run: str = "run", method: str | None = None, **values: Any) -> TrainConfig:
    plain: dict[str, Any] = {
        "task_def": [str(world / "defs.yml")],
        "data_dir": world / "data",
        "model_name_or_path": str(world / "model"),
        "output_dir": world / run,
        "train_tasks": list(SIZES),
        "max_seq_length": 64,
        "per_device_train_batch_size": 4,
        "num_train_epochs": 1,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "progress": "off",
        "use_cpu": True,
        "perturb": [PerturbSpec(name=method)] if method else [],
    }
    return TrainConfig(**(plain | values))


def losses(run: Path) -> list[tuple[str, dict[str, float]]]:
    """(task, figures) of each step of a run with `logging_steps` 1."""
    with open(run / "metrics.jsonl", encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    return [pair for line in lines if "train" in line for pair in line["train"].items()]
