"""`transformers.Trainer` as the peer of train.py and inference.py, which start it: a process that imports no mtrobust.

    python scripts/bench/trainer_peer.py SETTINGS     # JSON; see `train` and `predict`

Rows are JSON Lines with `text`, `text_pair` (pairs only) and `label`. Everything that the settings do not name stays
at the defaults of transformers, but for what would write or print: no checkpoints, reports, logs or progress bar.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np
import torch
from common import Chunks, Turns
from datasets import Dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    default_data_collator,
    set_seed,
)


def read(path: str) -> list[dict[str, Any]]:
    """Rows of a file."""
    with open(path, encoding="utf-8", newline="\n") as file:
        return [json.loads(line) for line in file if line.strip()]


def tokenised(rows: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, length: int, pad: bool) -> Dataset:
    """What run_glue makes of rows: cut at `length`, with `pad` padded to it; labels by their number, if there are."""
    columns = [name for name in ("text", "text_pair") if name in rows[0]]
    content: dict[str, list[Any]] = {name: [row[name] for row in rows] for name in columns}
    if "label" in rows[0]:
        numbers = {label: number for number, label in enumerate(sorted({row["label"] for row in rows}))}
        content["label"] = [numbers[row["label"]] for row in rows]
    padding = "max_length" if pad else False
    return Dataset.from_dict(content).map(
        lambda part: tokenizer(*(part[name] for name in columns), padding=padding, max_length=length, truncation=True),
        batched=True,
        remove_columns=columns,
    )


def arguments(settings: dict[str, Any], **further: Any) -> TrainingArguments:
    """The defaults, on the CPU, in silence."""
    return TrainingArguments(
        output_dir=settings["folder"],
        bf16=settings["bf16"],
        use_cpu=True,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **further,
    )


class OnStep(TrainerCallback):
    """Cuts the loop into turns."""

    def __init__(self, chunks: Chunks) -> None:
        self.chunks = chunks

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """After the optimiser's step."""
        self.chunks.step()


def train(settings: dict[str, Any], turns: Turns) -> None:
    """Settings: model, file, rows (the first so many are taken), length, pad, bf16, batch, chunk, steps,
    folder."""
    set_seed(1)
    rows = read(settings["file"])
    tokenizer = AutoTokenizer.from_pretrained(settings["model"])
    data = tokenised(rows, tokenizer, settings["length"], settings["pad"]).select(range(settings["rows"]))
    model = AutoModelForSequenceClassification.from_pretrained(
        settings["model"], num_labels=len({row["label"] for row in rows}), dtype=torch.float32
    )
    Trainer(
        model=model,
        args=arguments(settings, per_device_train_batch_size=settings["batch"], max_steps=settings["steps"]),
        train_dataset=data,
        processing_class=tokenizer,
        data_collator=default_data_collator if settings["pad"] else DataCollatorWithPadding(tokenizer),
        callbacks=[OnStep(Chunks(turns, settings["chunk"], settings["batch"]))],
    ).train()


def predict(settings: dict[str, Any], turns: Turns) -> None:
    """Settings: model, file, length, pad, bf16, batch (None: the default), folder, logits (the file to save them to).

    A turn is one call of `Trainer.predict`; as in run_glue the rows have no label there.
    """
    rows = [{key: row[key] for key in ("text", "text_pair") if key in row} for row in read(settings["file"])]
    tokenizer = AutoTokenizer.from_pretrained(settings["model"])
    data = tokenised(rows, tokenizer, settings["length"], settings["pad"])
    model = AutoModelForSequenceClassification.from_pretrained(settings["model"], dtype=torch.float32)
    batch = {"per_device_eval_batch_size": settings["batch"]} if settings["batch"] else {}
    trainer = Trainer(model=model, args=arguments(settings, **batch), processing_class=tokenizer)
    np.save(settings["logits"], trainer.predict(data).predictions)
    turns.next()
    while True:
        begun = time.perf_counter()
        trainer.predict(data)
        turns.next(examples=len(data), seconds=time.perf_counter() - begun)


def main() -> None:
    """Works in turns until the process that started this one ends it."""
    turns, settings = Turns(), json.loads(sys.argv[1])
    {"train": train, "predict": predict}[settings["work"]](settings, turns)


if __name__ == "__main__":
    main()
