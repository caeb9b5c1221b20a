"""Finished runs of a tiny encoder with methods, and checkpoints where a method has weights of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from tests.evaluation.runs import span_rows, text_rows, write_rows, write_run

TASKS = ["mood", "squad"]


def write_data(folder: Path) -> Path:
    """Train and dev splits of a classification and a question task."""
    for split, more in (("train", 20), ("dev", 8)):
        write_rows(folder / "mood" / f"{split}.jsonl", text_rows(more, ["sad", "calm", "glad"], pair=False))
        write_rows(folder / "squad" / f"{split}.jsonl", span_rows(4))
    return folder


def write_method_run(
    folder: Path, model_dir: Path, data_dir: Path, perturb: list[dict[str, Any]], steps: tuple[int, ...] = ()
) -> Path:
    """A run trained (as far as its files say) with the methods; its checkpoints at `steps` hold other weights each."""
    import torch

    from mtrobust.config import PerturbSpec
    from mtrobust.models.multitask import MultiTaskModel
    from mtrobust.perturb import build_methods
    from mtrobust.tasks.taskdef import load_task_defs
    from mtrobust.training.checkpoint import save_checkpoint
    from mtrobust.training.state import module_tensors
    from mtrobust.training.step import TrainStep

    write_run(folder, model_dir, data_dir, TASKS)
    config = yaml.safe_load((folder / "config.yml").read_text(encoding="utf-8"))
    config["perturb"] = perturb
    (folder / "config.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    results = {"mood": {"acc": 40.0}, "train": {"model_step": steps[-1] if steps else None}}
    (folder / "all_results.json").write_text(json.dumps(results), encoding="utf-8")
    if steps:
        model = MultiTaskModel.load(folder / "model")
        tasks = load_task_defs([folder / "task_def.yml"])
        methods = build_methods([PerturbSpec(**one) for one in perturb], tasks, model.encoder)
        step = TrainStep(model, methods, config["seed"])
        for number in steps:
            with torch.no_grad():
                for parameter in step.owned.parameters():
                    parameter.add_(0.05 * torch.randn_like(parameter))
            save_checkpoint(folder / "checkpoints", number, {"step": module_tensors(step)}, {})
    return folder
