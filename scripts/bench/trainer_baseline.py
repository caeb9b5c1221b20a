"""Plain `transformers.Trainer` on one GLUE task: the reference that single-task `standard` is held against.

    python scripts/bench/trainer_baseline.py --model MODEL --task mrpc --raw DATA/MRPC --seed 1 --out result.json

Reads the raw GLUE files with its own few lines, so that it shares no code with mtrobust.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
from datasets import Dataset
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)


def read(task: str, path: Path) -> Dataset:
    """Raw GLUE rows as columns text, text_pair (MRPC only) and label."""
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        lines = [line.rstrip("\r\n").split("\t") for line in file]
    if task == "mrpc":
        return Dataset.from_list([{"text": c[3], "text_pair": c[4], "label": int(c[0])} for c in lines[1:]])
    return Dataset.from_list([{"text": c[3], "label": int(c[1])} for c in lines])


def metrics(task: str, labels: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """The metrics that GLUE reports for the task, in percent."""
    if task == "cola":
        return {"mcc": 100 * float(matthews_corrcoef(labels, predicted))}
    return {"acc": 100 * float(accuracy_score(labels, predicted)), "f1": 100 * float(f1_score(labels, predicted))}


def main() -> None:
    """Train, evaluate on dev, write one JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--task", required=True, choices=["mrpc", "cola"])
    parser.add_argument("--raw", type=Path, required=True, help="folder with train.tsv and dev.tsv")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--lr", type=float, default=5e-5)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--max_len", type=int, default=128)
    args = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(args.model)
    splits = {}
    for split in ("train", "dev"):
        rows = read(args.task, args.raw / f"{split}.tsv")
        columns = [name for name in ("text", "text_pair") if name in rows.column_names]
        splits[split] = rows.map(
            lambda batch, columns=columns: tokenizer(
                *(batch[name] for name in columns), truncation=True, max_length=args.max_len
            ),
            batched=True,
            remove_columns=columns,
        )
    settings = TrainingArguments(
        output_dir=str(args.out.parent / f"trainer-{args.task}-{args.seed}"),
        per_device_train_batch_size=args.batch,
        per_device_eval_batch_size=64,
        learning_rate=args.lr,
        num_train_epochs=args.epochs,
        warmup_steps=0.1,
        seed=args.seed,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        logging_steps=100,
    )
    # The head is drawn after the seed is set, as run_glue does through model_init-less Trainer runs.
    from transformers import set_seed

    set_seed(args.seed)
    model = AutoModelForSequenceClassification.from_pretrained(args.model, num_labels=2)
    trainer = Trainer(
        model=model,
        args=settings,
        train_dataset=splits["train"],
        eval_dataset=splits["dev"],
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=lambda out: metrics(args.task, out.label_ids, out.predictions.argmax(-1)),
    )
    start = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - start
    result = {key.removeprefix("eval_"): value for key, value in trainer.evaluate().items()}
    result.update(task=args.task, seed=args.seed, train_seconds=seconds)
    args.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
