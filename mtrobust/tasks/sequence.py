"""Classification and regression over one text or a pair of texts."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from mtrobust.registry import suggestion
from mtrobust.tasks import labels as given
from mtrobust.tasks import tokenised as tokens
from mtrobust.tasks.base import TASK_TYPES, Batch, Column, EncoderInfo, HeadContract, Prediction, RowError, TaskType
from mtrobust.tasks.metrics import METRICS, Metric

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedTokenizerBase

    from mtrobust.tasks.taskdef import TaskDef

Rows = Sequence[dict[str, Any]]
Encoded = tuple[dict[str, "np.ndarray"], Sequence[int | None]]
PAIR = "PremiseAndOneHypothesis"
# Beside the labels. has_label, has_soft: which kinds of label a row has; soft: the soft one; second: where the tokens
# of the second text begin (0 where the head does not ask).
_SOFT = {"has_label": Column("bool"), "has_soft": Column("bool"), "soft": Column("float32", "vector")}
_MORE = {**_SOFT, "second": Column("int32")}


def checked_text(raw: dict[str, Any], name: str) -> str:
    """The non-blank text under `name`. Raises `RowError`."""
    value = raw.get(name)
    if value is None:
        raise RowError(name, "is missing; a text is needed")
    if not isinstance(value, str):
        raise RowError(name, f"is {type(value).__name__} {value!r:.60}; a text is needed")
    if not value.strip():
        raise RowError(name, "is empty; a text is needed")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise RowError(name, "holds half of a surrogate pair (\\ud800 to \\udfff), which is no character") from None
    return value


def second_begins(parts: Sequence[int | None]) -> int:
    """Where the second text's tokens begin. parts: of each token the text it is of, None for special ones."""
    return next((at for at, part in enumerate(parts) if part == 1), len(parts) - 1)


class SequenceType(TaskType):
    """What tasks share that have one output per text or pair; subclasses say what a label is."""

    data_formats: ClassVar[tuple[str, ...]] = ("PremiseOnly", PAIR)
    soft_labels: ClassVar[bool] = True
    head_choice: ClassVar[bool] = True
    tokenised: ClassVar[bool] = True

    @abstractmethod
    def label(self, value: Any, ids: bool = False) -> int | float:
        """A given label as the head is trained on it. ids: a number is an id, whatever the names are. Raises
        `RowError`."""

    @abstractmethod
    def soft_label(self, value: Any) -> list[float]:
        """A given soft label as the head is trained on it, one number per output. Raises `RowError`."""

    def parse_row(self, raw: dict[str, Any]) -> dict[str, Any]:
        """Checks `text`, `text_pair` (or token ids), `label` and `soft_label`; labels not given (or null) are None."""
        preprocessed = tokens.is_tokenised(raw)
        row = dict(raw) if preprocessed else raw | self._texts(raw)
        row["label"] = None if raw.get("label") is None else self.label(raw["label"], preprocessed)
        soft = raw.get("softlabel") if raw.get("soft_label") is None else raw["soft_label"]  # the former: MT-DNN's name
        row["soft_label"] = None if soft is None else self.soft_label(soft)
        return row

    def _texts(self, raw: dict[str, Any]) -> dict[str, str]:
        texts = {"text": checked_text(raw, "text")}
        if self.task.data_format == PAIR:
            return texts | {"text_pair": checked_text(raw, "text_pair")}
        if raw.get("text_pair") is not None:
            raise RowError("text_pair", f"is given, but data_format {self.task.data_format} has one text only")
        return texts

    def check_tokenised(
        self, row: dict[str, Any], tokenizer: PreTrainedTokenizerBase, max_len: int, training: bool
    ) -> None:
        """The ids are this tokenizer's, and no more than `max_len`."""
        tokens.check_fit(row, tokenizer, max_len)

    def is_labelled(self, row: dict[str, Any]) -> bool:
        """Whether a parsed row has a label, or a soft label that counts."""
        return row.get("label") is not None or (row.get("soft_label") is not None and self.task.kd_weight > 0)

    def featurize(
        self, rows: Rows, tokenizer: PreTrainedTokenizerBase, max_len: int, training: bool
    ) -> list[dict[str, Any]]:
        """One feature per row; texts beyond `max_len` tokens are cut, of a pair the longer side first. Token ids are
        taken as they are."""
        import numpy as np

        encoded = self._encoded(rows, tokenizer, max_len, training)
        features = []
        for i, (row, (inputs, parts)) in enumerate(zip(rows, encoded, strict=True)):
            feature: dict[str, Any] = dict(inputs)
            has_label = row.get("label") is not None
            feature |= {"row": i, "labels": row["label"] if has_label else 0, "labelled": self.is_labelled(row)}
            soft = row.get("soft_label") if self.task.kd_weight else None
            feature |= {"has_label": has_label, "has_soft": soft is not None}
            feature["soft"] = np.asarray(soft or [0.0] * self.task.n_class, dtype=np.float32)
            feature["second"] = second_begins(parts) if self.task.enable_san else 0
            features.append(feature)
        return features

    def _encoded(self, rows: Rows, tokenizer: PreTrainedTokenizerBase, max_len: int, training: bool) -> list[Encoded]:
        """Of each row the encoder's inputs, and the text that each token is of."""
        texts = iter(self._encoded_texts([row for row in rows if not tokens.is_tokenised(row)], tokenizer, max_len))
        made: list[Encoded] = []
        for row in rows:
            if tokens.is_tokenised(row):
                tokens.must_fit(self, row, tokenizer, max_len, training)
                made.append((tokens.inputs_of(row, tokenizer), tokens.parts_of(row, tokenizer)))
            else:
                made.append(next(texts))
        return made

    def _encoded_texts(self, rows: Rows, tokenizer: PreTrainedTokenizerBase, max_len: int) -> list[Encoded]:
        import numpy as np

        if not rows:
            return []
        encoded = tokenizer(
            [row["text"] for row in rows],
            [row["text_pair"] for row in rows] if self.task.data_format == PAIR else None,
            truncation="longest_first",
            max_length=max_len,
            return_attention_mask=False,
        )
        names = [name for name in ("input_ids", "token_type_ids") if name in encoded]
        return [
            (
                {name: np.asarray(encoded[name][i], dtype=np.int32) for name in names},
                encoded.sequence_ids(i) if self.task.enable_san else (),
            )
            for i in range(len(rows))
        ]

    def drawn(self, batch: Batch, tokenizer: PreTrainedTokenizerBase, key: tuple[int, ...] = ()) -> Batch:
        """Nothing is drawn; a batch without soft labels goes on without their columns."""
        if "soft" in batch.targets and not batch.targets["has_soft"].any():
            batch.targets = {name: value for name, value in batch.targets.items() if name not in _SOFT}
        return batch

    def written(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A parsed row as it stands in a file of rows."""
        return {name: value for name, value in row.items() if value is not None and name != "softlabel"}

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
    columns: ClassVar[dict[str, Column]] = {"labels": Column("int64"), "labelled": Column("bool"), **_MORE}
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

    def label(self, value: Any, ids: bool = False) -> int:
        """The id of a label name, or an id itself (a whole number, or its digits as a text)."""
        names = self.task.labels
        for known in (value, given.from_digits(value)):
            if (found := given.class_id(known, names, ids)) is not None:
                return found
        hint = suggestion(value, names) if isinstance(value, str) else ""
        numbers = f", or their numbers 0 to {len(names) - 1}" if given.has_ids(names) else ""
        raise RowError("label", f"{given.brief(value)}: unknown{hint} (allowed: {given.listed(names)}{numbers})")

    def soft_label(self, value: Any) -> list[float]:
        """A probability for each label, in their order; divided by their sum, which may differ from 1 by 1e-3."""
        names = self.task.labels
        wanted = f"a list of {len(names)} probabilities is needed ({given.listed(names)})"
        shares = [given.as_float(share) for share in value] if isinstance(value, list) else []
        found = [share for share in shares if share is not None]
        if not len(found) == len(shares) == len(names):
            raise RowError("soft_label", f"{given.brief(value)}: {wanted}")
        if not all(0 <= share <= 1.001 for share in found) or abs(sum(found) - 1) > 1e-3:
            raise RowError("soft_label", f"{given.brief(value)}: {wanted} that are at least 0 and sum to 1")
        return [share / sum(found) for share in found]

    def soft_row(self, row: Mapping[str, Any], predictions: Sequence[Prediction]) -> dict[str, Any]:
        """The mean of the models' probabilities, in the order of the labels."""
        names = self.task.labels
        shares = [[p.record["probabilities"][name] for name in names] for p in predictions]
        soft = [sum(column) / len(shares) for column in zip(*shares, strict=True)]
        label = {} if row.get("label") is None else {"label": names[row["label"]]}
        return self.written(row) | label | {"soft_label": soft}

    def build_head(self, info: EncoderInfo) -> HeadContract:
        """The head that the definition asks for, by default the family's sequence head, with one output per label."""
        from mtrobust.tasks.distillation import Soft
        from mtrobust.tasks.head_nets import build_net
        from mtrobust.tasks.heads import ClassificationHead

        n = len(self.task.labels)
        return ClassificationHead(info, n, self.task.dropout_p, build_net(self.task, info, n), Soft.of(self.task))

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
    columns: ClassVar[dict[str, Column]] = {"labels": Column("float32"), "labelled": Column("bool"), **_MORE}
    summary: ClassVar[str] = "a number for a text or a pair of texts"

    @classmethod
    def check(cls, task: TaskDef) -> list[str]:
        """There is one output and it has no label names."""
        faults = [f"n_class: {task.n_class}: Regression has 1 output"] if task.n_class != 1 else []
        return faults + (["labels: Regression has numbers, not named labels"] if task.labels else [])

    def label(self, value: Any, ids: bool = False) -> float:
        """A finite number, or its decimal form as a text."""
        return given.real(value, "label")

    def soft_label(self, value: Any) -> list[float]:
        """A number, as a label is."""
        return [given.real(value, "soft_label")]

    def soft_row(self, row: Mapping[str, Any], predictions: Sequence[Prediction]) -> dict[str, Any]:
        """The mean of the models' numbers."""
        numbers = [p.value["number"] for p in predictions]
        return self.written(row) | {"soft_label": sum(numbers) / len(numbers)}

    def build_head(self, info: EncoderInfo) -> HeadContract:
        """The head that the definition asks for, by default the family's sequence head, with one output."""
        from mtrobust.tasks.distillation import Soft
        from mtrobust.tasks.head_nets import build_net
        from mtrobust.tasks.heads import RegressionHead

        return RegressionHead(info, 1, self.task.dropout_p, build_net(self.task, info, 1), Soft.of(self.task))

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
