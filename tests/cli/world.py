"""A small world for the commands: definitions and rows of four tasks."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DEFS = """\
pairs:
  task_type: Classification
  data_format: PremiseAndOneHypothesis
  labels: [different, same]
  metric_meta: [ACC, F1]
mood:
  task_type: Classification
  data_format: PremiseOnly
  labels: [bad, good]
  metric_meta: [ACC]
score:
  task_type: Regression
  data_format: PremiseAndOneHypothesis
  metric_meta: [Pearson]
qa:
  task_type: SpanClassification
  data_format: MRC
  metric_meta: [EmF1]
  max_len: 48
  doc_stride: 8
"""
CONTEXT = "The old bridge was built near the river in 1886."
ROWS: dict[str, list[dict[str, Any]]] = {
    "pairs": [
        {"text": "A clear film.", "text_pair": "A warm film.", "label": "different"},
        {"text": "The cat slept.", "text_pair": "The cat did sleep.", "label": "same"},
        {"text": "The team won.", "text_pair": "The team lost.", "label": "different"},
        {"text": "No dog chased it.", "text_pair": "It was chased by no dog.", "label": "same"},
    ],
    "mood": [{"text": f"A {word} film.", "label": label} for word, label in [("dull", "bad"), ("warm", "good")] * 2],
    "score": [{"text": "A cat.", "text_pair": "The cat.", "label": value} for value in (4.5, 0, 3, 1.25)],
    "qa": [
        {"question": "When was it built?", "context": CONTEXT, "answers": {"text": ["1886"], "answer_start": [43]}},
        {"question": "What was built?", "context": CONTEXT, "answers": {"text": ["old bridge"], "answer_start": [4]}},
    ],
}


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8", newline="\n")


def write_world(folder: Path) -> None:
    """`defs.yml`, `data/<task>/<split>.jsonl`, and `model/`: just enough of one to pass for a folder with a model."""
    (folder / "defs.yml").write_text(DEFS, encoding="utf-8")
    for task, rows in ROWS.items():
        for split in ("train", "dev"):
            write_rows(folder / "data" / task / f"{split}.jsonl", rows)
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text('{"model_type": "bert"}', encoding="utf-8")


def fingerprint(folder: Path) -> dict[str, str]:
    """Every file and folder below `folder` with what it holds."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in sorted(folder.rglob("*"))
    }


@dataclass
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str
