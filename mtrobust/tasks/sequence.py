"""Classification and regression over one text or a pair of texts."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from mtrobust.registry import suggestion
from mtrobust.tasks.base import TASK_TYPES, Column, EncoderInfo, HeadContract, Prediction, RowError, TaskType
from mtrobust.tasks.metrics import METRICS, Metric

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedTokenizerBase

    from mtrobust.tasks.taskdef import TaskDef

Rows = Sequence[dict[str, Any]]
PAIR = "PremiseAndOneHypothesis"


def checked_text(raw: dict[str, Any], name: str) -> str:
    """The non-blank text under `name`. Raises `RowError`."""
    value = raw.get(name)
    if value is None:
        raise RowError(name, "is missing; a text is needed")
    if not isinstance(value, str):
        raise RowError(name, f"is {type(value).__name__} {value!r:.60}; a text is needed")
    if not value.strip():
        raise RowError(name, "is empty; a text is needed")
    return value


class SequenceType(TaskType):
    """What tasks share that have one output per text or pair; subclasses say what a label is."""

    data_formats: ClassVar[tuple[str, ...]] = ("PremiseOnly", PAIR)

    @abstractmethod
    def label(self, value: Any) -> int | float:
        """A given label as the head is trained on it. Raises `RowError`."""

    def parse_row(self, raw: dict[str, Any]) -> dict[str, Any]:
        """Checks `text`, `text_pair` and `label`; without a label (or null) the row is unlabelled, `label` None."""
        row = raw | {"text": checked_text(raw, "text")}
        if self.task.data_format == PAIR:
            row["text_pair"] = checked_text(raw, "text_pair")
        elif raw.get("text_pair") is not None:
            raise RowError("text_pair", f"is given, but data_format {self.task.data_format} has one text only")
        if raw.get("soft_label") is not None:
            raise RowError("soft_label", "is not supported; give `label`")
        row["label"] = None if raw.get("label") is None else self.label(raw["label"])
        return row

    def featurize(
        self, rows: Rows, tokenizer: PreTrainedTokenizerBase, max_len: int, training: bool
    ) -> list[dict[str, Any]]:
        """One feature per row; texts beyond `max_len` tokens are cut, of a pair the longer side first."""
        import numpy as np

        pairs = [row["text_pair"] for row in rows] if self.task.data_format == PAIR else None
        encoded = tokenizer(
            [row["text"] for row in rows],
            pairs,
            truncation="longest_first",
            max_length=max_len,
            return_attention_mask=False,
        )
        names = [name for name in ("input_ids", "token_type_ids") if name in encoded]
        features = []
        for i, row in enumerate(rows):
            feature = {name: np.asarray(encoded[name][i], dtype=np.int32) for name in names}
            given = row.get("label") is not None
            features.append(feature | {"row": i, "labels": row["label"] if given else 0, "labelled": given})
        return features

    def reading(self, metric: Metric, predictions: Sequence[Prediction]) -> list[Any]:
        """What `metric` compares with the labels."""
        return [prediction.value[metric.reads] for prediction in predictions]

    def score(self, rows: Rows, predictions: Sequence[Prediction]) -> dict[str, float]:
        """The definition's metrics over the labelled rows; empty when there are none."""
        kept = [i for i, row in enumerate(rows) if row.get("label") is not None]
        labels, chosen = [rows[i]["label"] for i in kept], [predictions[i] for i in kept]
        scores: dict[str, float] = {}
        for name in self.task.metric_meta or self.metrics[:1]:
            if kept:
                scores |= METRICS[name](labels, self.reading(METRICS[name], chosen))
        return scores

    def main_metric(self) -> str:
        """The key of the definition's first metric that can compare models."""
        return next(METRICS[name].key for name in self.task.metric_meta or self.metrics if METRICS[name].key)


@TASK_TYPES.register("Classification")
class Classification(SequenceType):
    """One of n labels; the softmax over the family's own sequence head."""

    metrics: ClassVar[tuple[str, ...]] = ("ACC", "F1", "F1MAC", "F1MIC", "MCC", "AUC", "CMAT")
    columns: ClassVar[dict[str, Column]] = {"labels": Column("int64"), "labelled": Column("bool")}
    summary: ClassVar[str] = "one label for a text or a pair of texts"

    @classmethod
    def check(cls, task: TaskDef) -> list[str]:
        """At least two labels; metrics for two classes only where there are two."""
        n = len(task.labels)
        faults = [f"n_class: {n}: Classification needs at least 2 labels"] if n < 2 else []
        if task.metric_meta == ["CMAT"]:
            faults.append("metric_meta: CMAT: counts cannot compare models; give a further metric, such as ACC")
        binary = [name for name in task.metric_meta if name in METRICS and METRICS[name].two_classes and n > 2]
        return faults + [f"metric_meta: {name}: only for two classes, not {n} (ACC, F1MAC, MCC are)" for name in binary]

    def label(self, value: Any) -> int:
        """The id of a label name, or an id itself (an int, or its digits as a text)."""
        names = self.task.labels
        if isinstance(value, str) and value in names:
            return names.index(value)
        if isinstance(value, str) and value.isascii() and value.isdigit():
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(names):
            return value
        hint = suggestion(value, names) if isinstance(value, str) else ""
        allowed = f"{', '.join(names)}, or their numbers 0 to {len(names) - 1}"
        raise RowError("label", f"{value!r:.60}: unknown{hint} (allowed: {allowed})")

    def build_head(self, info: EncoderInfo) -> HeadContract:
        """The family's sequence head with one output per label."""
        from mtrobust.tasks.heads import ClassificationHead

        return ClassificationHead(info, len(self.task.labels), self.task.dropout_p)

    def decode(self, rows: Rows, features: Rows, outputs: Sequence[dict[str, np.ndarray]]) -> list[Prediction]:
        """The most probable label (the first of equals) with all probabilities."""
        import numpy as np

        made: dict[int, Prediction] = {}
        names = self.task.labels
        for feature, output in zip(features, outputs, strict=True):
            logits = np.asarray(output["logits"], dtype=np.float64)
            weights = np.exp(logits - logits.max())
            probabilities = (weights / weights.sum()).tolist()
            best = int(np.argmax(logits))
            row = rows[int(feature["row"])]
            shares = dict(zip(names, probabilities, strict=True))
            record = {"id": row["id"], "prediction": names[best], "probabilities": shares}
            if row.get("label") is not None:
                record["label"] = names[row["label"]]
            made[int(feature["row"])] = Prediction(record, {"class": best, "score": probabilities[1]})
        return [made[i] for i in range(len(rows))]

    def carried(self, prediction: Prediction, row: Mapping[str, Any], names: Mapping[str, str]) -> Prediction:
        """The set's label for the task's likeliest one (argmax, then the map, as HANS has it).

        The record keeps the task's own as `predicted_label`. AUC reads the probability of all labels that stand for the
        set's second one."""
        labels, record = self.task.labels, dict(prediction.record)
        record["predicted_label"] = record["prediction"]
        record["prediction"] = names[record["prediction"]]
        if row.get("label") is not None:
            record["label"] = labels[row["label"]]
        second = sum(share for label, share in record["probabilities"].items() if names[label] == labels[1])
        return Prediction(record, {"class": labels.index(record["prediction"]), "score": second})


@TASK_TYPES.register("Regression")
class Regression(SequenceType):
    """A number for a text or a pair; squared error."""

    metrics: ClassVar[tuple[str, ...]] = ("Pearson", "Spearman")
    columns: ClassVar[dict[str, Column]] = {"labels": Column("float32"), "labelled": Column("bool")}
    summary: ClassVar[str] = "a number for a text or a pair of texts"

    @classmethod
    def check(cls, task: TaskDef) -> list[str]:
        """There is one output and it has no label names."""
        faults = [f"n_class: {task.n_class}: Regression has 1 output"] if task.n_class != 1 else []
        return faults + (["labels: Regression has numbers, not named labels"] if task.labels else [])

    def label(self, value: Any) -> float:
        """A finite number, or its decimal form as a text."""
        if isinstance(value, str):
            try:
                value = float(value)
            except ValueError:
                raise RowError("label", f"{value!r:.60} is not a number") from None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise RowError("label", f"is {type(value).__name__} {value!r:.60}; a number is needed")
        if not math.isfinite(value):
            raise RowError("label", f"is {value}; a finite number is needed")
        return float(value)

    def build_head(self, info: EncoderInfo) -> HeadContract:
        """The family's sequence head with one output."""
        from mtrobust.tasks.heads import RegressionHead

        return RegressionHead(info, 1, self.task.dropout_p)

    def decode(self, rows: Rows, features: Rows, outputs: Sequence[dict[str, np.ndarray]]) -> list[Prediction]:
        """The output itself."""
        made: dict[int, Prediction] = {}
        for feature, output in zip(features, outputs, strict=True):
            row, value = rows[int(feature["row"])], float(output["logits"][0])
            record = {"id": row["id"], "prediction": value}
            if row.get("label") is not None:
                record["label"] = row["label"]
            made[int(feature["row"])] = Prediction(record, {"number": value})
        return [made[i] for i in range(len(rows))]
