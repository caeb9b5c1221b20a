"""The same rows from the Hugging Face hub, through `datasets` (imported only when asked for)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mtrobust.errors import UserError

from .common import Items, Record, Row, RowFault, accept, text_of

GLUE = "nyu-mll/glue"
GLUE_TEXTS = {
    "cola": ("sentence",),
    "sst2": ("sentence",),
    "mrpc": ("sentence1", "sentence2"),
    "stsb": ("sentence1", "sentence2"),
    "qqp": ("question1", "question2"),
    "mnli": ("premise", "hypothesis"),
    "qnli": ("question", "sentence"),
    "rte": ("sentence1", "sentence2"),
    "wnli": ("sentence1", "sentence2"),
    "ax": ("premise", "hypothesis"),
}
SPLITS = {
    "train": "train",
    "validation": "dev",
    "test": "test",
    "validation_matched": "matched_dev",
    "validation_mismatched": "mismatched_dev",
    "test_matched": "matched_test",
    "test_mismatched": "mismatched_test",
}


def load(path: str, name: str | None = None) -> Any:
    """`datasets.load_dataset`, its failures (no network, no such set) as a `UserError`."""
    import datasets

    try:
        return datasets.load_dataset(path, name)
    except Exception as error:  # the library raises many kinds, from OSError to its own hub errors
        raise UserError(f"--hub: {path}: cannot be loaded ({type(error).__name__}: {error})") from error


def records(path: str, split: str, rows: Iterable[dict[str, Any]]) -> Iterable[Record]:
    """Rows of a hub set with a place that names set, split and row."""
    return (Record(f"{path}/{split}:{i}", row) for i, row in enumerate(rows))


def glue_splits(task: str) -> dict[str, Items]:
    """All splits of one GLUE task; the label -1 of the test sets becomes no label, class numbers become names."""
    data = load(GLUE, task)
    splits: dict[str, Items] = {}
    for name, rows in data.items():
        names = getattr(rows.features["label"], "names", None)

        def convert(record: Record, names: list[str] | None = names) -> Row:
            row: Row = {"text": text_of(record.fields, GLUE_TEXTS[task][0])}
            if len(GLUE_TEXTS[task]) == 2:
                row["text_pair"] = text_of(record.fields, GLUE_TEXTS[task][1])
            label = record.fields["label"]
            if label is None or label == -1:
                return row
            if names is not None and not 0 <= label < len(names):
                raise RowFault(f"label: class {label} of {len(names)}")
            return row | {"label": float(label) if names is None else names[label]}

        splits[SPLITS.get(name, name)] = accept(records(f"{GLUE}/{task}", name, rows), convert)
    return splits
