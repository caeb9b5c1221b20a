"""What the benchmarks run on: methods as their flags name them, and the batches of a run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from transformers import AutoTokenizer

from mtrobust.config import PerturbSpec
from mtrobust.config_parse import read_perturb
from mtrobust.data.collator import Collator
from mtrobust.data.features import load_features
from mtrobust.data.sampler import MultiTaskSampler, TaskRows
from mtrobust.errors import UserError
from mtrobust.tasks.base import Batch
from mtrobust.tasks.taskdef import TaskDef
from mtrobust.yaml_file import read_scalar


def spec_of(text: str, mlm: str | None, flag: str) -> PerturbSpec:
    """`name+option=value+…`, values as on the command line of `mtrobust train`; `vda` takes mlm where it names none.

    Raises `UserError`, which names the flag, for methods and options that do not exist.
    """
    name, *pairs = text.split("+")
    options = {key: read_scalar(value) for key, _, value in (pair.partition("=") for pair in pairs)}
    if name == "vda" and mlm:
        options.setdefault("mlm", mlm)
    specs, faults = read_perturb([PerturbSpec(name=name, options=options)], [], f"{flag}: {text}")
    if faults:
        raise UserError(faults)
    return specs[0]


def batches(task: TaskDef, model: str, data_dir: Path, size: int, count: int) -> Iterator[Batch]:
    """The first batches of a run on one task."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    features = load_features(task, "train", data_dir, tokenizer, 128, data_dir / ".features", True)
    sampler = MultiTaskSampler({task.name: TaskRows(features.lengths, size)}, seed=1)
    collate = Collator(task, tokenizer.pad_token_id)
    for number in range(count):
        rows = sampler.at(number).rows
        batch = task.type.drawn(collate([features.row(int(i)) for i in rows], rows), tokenizer, (1, number))
        batch.step = number
        yield batch
