"""Small data sets of every task type, and finished run folders around a tiny random encoder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

TASK_DEF = """
mood:
  task_type: Classification
  data_format: PremiseOnly
  labels: [sad, calm, glad]
  metric_meta: [ACC, F1MAC]
mnli:
  task_type: Classification
  data_format: PremiseAndOneHypothesis
  labels: [contradiction, neutral, entailment]
  metric_meta: [ACC]
  split_names: [train, matched_dev, mismatched_dev, matched_test, mismatched_test]
cola:
  task_type: Classification
  data_format: PremiseOnly
  labels: [unacceptable, acceptable]
  metric_meta: [MCC]
stsb:
  task_type: Regression
  data_format: PremiseAndOneHypothesis
  metric_meta: [Pearson, Spearman]
squad:
  task_type: SpanClassification
  data_format: MRC
  metric_meta: [EmF1]
  max_len: 48
  doc_stride: 16
squad2:
  task_type: SpanClassificationYN
  data_format: MRC
  metric_meta: [EmF12]
  max_len: 48
  doc_stride: 16
"""
TEXT = "the doctor met lawyers cat dog bridge river warm dull film heart team won price market built slept"
WORDS = TEXT.split(" ")


def sentence(number: int, words: int | None = None) -> str:
    """A sentence that depends on its number only, of differing length."""
    length = words or 3 + number * 5 % 11
    return " ".join(WORDS[(number * 7 + i * (number % 3 + 1)) % len(WORDS)] for i in range(length)) + "."


def text_rows(count: int, labels: list[Any] | None, pair: bool) -> list[dict[str, Any]]:
    """Rows of a text task; `labels` None: unlabelled."""
    rows: list[dict[str, Any]] = [{"id": str(i), "text": sentence(i)} for i in range(count)]
    for i, row in enumerate(rows):
        if pair:
            row["text_pair"] = sentence(i + 50)
        if labels is not None:
            row["label"] = labels[i * 2 % len(labels)]
    return rows


def span_rows(count: int, unanswerable: bool = False) -> list[dict[str, Any]]:
    """Questions on passages of one or several windows; every third has no answer where asked for."""
    rows = []
    for i in range(count):
        context = " ".join(sentence(i + j) for j in range(2 + i % 5))
        answer = context.split(". ")[1].split(" ")[0]
        answers = {"text": [answer], "answer_start": [context.index(answer)]}
        if unanswerable and i % 3 == 0:
            answers = {"text": [], "answer_start": []}
        rows.append({"id": f"q{i}", "question": f"who met number {i}?", "context": context, "answers": answers})
    return rows


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read_lines(path: Path) -> list[dict[str, Any]]:
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def write_data(folder: Path) -> Path:
    """Every split of the tasks in `TASK_DEF`."""
    nli = ["contradiction", "neutral", "entailment"]
    write_rows(folder / "mood/dev.jsonl", text_rows(13, ["sad", "calm", "glad"], pair=False))
    write_rows(folder / "mood/test.jsonl", text_rows(5, None, pair=False))
    write_rows(folder / "mnli/matched_dev.jsonl", text_rows(9, nli, pair=True))
    write_rows(folder / "mnli/mismatched_dev.jsonl", text_rows(7, nli[1:], pair=True))
    write_rows(folder / "mnli/matched_test.jsonl", text_rows(6, None, pair=True))
    write_rows(folder / "mnli/mismatched_test.jsonl", text_rows(4, None, pair=True))
    write_rows(folder / "cola/dev.jsonl", text_rows(8, ["acceptable", "unacceptable"], pair=False))
    write_rows(folder / "cola/test.jsonl", text_rows(6, None, pair=False))
    write_rows(folder / "stsb/dev.jsonl", text_rows(8, [0.0, 1.5, 2.5, 4.0, 5.0], pair=True))
    write_rows(folder / "stsb/test.jsonl", text_rows(5, None, pair=True))
    write_rows(folder / "squad/dev.jsonl", span_rows(6))
    write_rows(folder / "squad2/dev.jsonl", span_rows(9, unanswerable=True))
    return folder


def write_run(folder: Path, model_dir: Path, data_dir: Path, tasks: list[str]) -> Path:
    """A finished run as `mtrobust train` leaves it, with heads that were never trained."""
    import torch
    import yaml
    from transformers import AutoTokenizer

    from mtrobust.config import TrainConfig
    from mtrobust.models.multitask import MultiTaskModel
    from mtrobust.tasks.taskdef import load_task_defs

    folder.mkdir(parents=True)
    whole = yaml.safe_load(TASK_DEF)
    chosen = yaml.safe_dump({name: whole[name] for name in tasks}, sort_keys=False)
    (folder / "task_def.yml").write_text(chosen, encoding="utf-8")
    config = TrainConfig(
        task_def=[str(folder / "task_def.yml")],
        data_dir=data_dir,
        model_name_or_path=str(model_dir),
        output_dir=folder,
        train_tasks=tasks,
        per_device_eval_batch_size=4,
        max_seq_length=64,
        use_cpu=True,
    )
    torch.manual_seed(3)
    model = MultiTaskModel.from_encoder(config, load_task_defs([folder / "task_def.yml"]))
    with torch.no_grad():  # far enough from zero that the predictions differ from row to row
        for parameter in model.heads.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.5)
    model.save_pretrained(folder / "model", AutoTokenizer.from_pretrained(model_dir))
    (folder / "config.yml").write_text(yaml.safe_dump(config.model_dump(mode="json")), encoding="utf-8")
    return folder


def copy_run(source: Path, target: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(source, target))
