"""Writing a text about a text: a sequence goes in, another comes out (T5). Generative question answering is one use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from mtrobust.errors import UserError
from mtrobust.tasks.base import TASK_TYPES, Column, EncoderInfo, HeadContract, Prediction, RowError, TaskType
from mtrobust.tasks.metrics import METRICS
from mtrobust.tasks.sequence import Rows, checked_text

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedTokenizerBase

    from mtrobust.tasks.taskdef import TaskDef

IGNORED = -100  # as in `heads`, which imports torch


def checked_references(raw: dict[str, Any]) -> list[str] | None:
    """The accepted texts of a row: `targets` or `gold_answers`, lists, or `answers`, a list or SQuAD's
    `{"text": [...]}`, each once and in their order; None where none is given. Raises `RowError`."""
    name = next((name for name in ("targets", "gold_answers") if raw.get(name) is not None), "answers")
    value = raw.get(name)
    if isinstance(value, dict):
        value = value.get("text")
    if raw.get(name) is None:
        return None
    if not isinstance(value, list) or not all(isinstance(text, str) and text.strip() for text in value):
        raise RowError(name, f"is {raw[name]!r:.60}; a list of texts that are not empty is needed")
    if not value:
        raise RowError(name, "is empty; a text to write is needed (null where it is not known)")
    return list(dict.fromkeys(value))


@TASK_TYPES.register("SequenceGeneration")
class SequenceGeneration(TaskType):
    """The family's pretrained decoder, taught by the target's own tokens; a beam search writes the prediction.

    Encoder and word embeddings are shared with the other tasks, the decoder is the task's own. Since the decoder reads
    the target, a row without one cannot be trained on, by regularisers neither.
    """

    data_formats: ClassVar[tuple[str, ...]] = ("Generation",)
    metrics: ClassVar[tuple[str, ...]] = ("EmF1", "Exact")
    columns: ClassVar[dict[str, Column]] = {
        "labels": Column("int64", "list", pad=IGNORED),
        "labelled": Column("bool"),
    }
    summary: ClassVar[str] = "a text written about a text by the family's decoder (T5), as in generative QA"
    needs_labels: ClassVar[bool] = True

    @classmethod
    def check(cls, task: TaskDef) -> list[str]:
        """No named labels; a penalty only where there are beams to compare."""
        faults = ["labels: SequenceGeneration writes texts, not named labels"] if task.labels else []
        if task.num_beams == 1 and "length_penalty" in task.model_fields_set:
            faults.append(f"length_penalty: {task.length_penalty:g}: compares beams: only with num_beams above 1")
        return faults

    def parse_row(self, raw: dict[str, Any]) -> dict[str, Any]:
        """Checks `text` (or `question` and `context`, of which it is made), `target` and the accepted texts.

        In the result `target` is what is learned, by default the first accepted text, and `targets` are all of these,
        by default the target alone; both None in a row without.
        """
        if raw.get("text") is None and raw.get("question") is not None:
            question, context = checked_text(raw, "question"), checked_text(raw, "context")
            raw = raw | {"text": f"question: {question.strip()} context: {context.strip()}"}
        row = raw | {"text": checked_text(raw, "text")}
        if raw.get("text_pair") is not None:
            raise RowError("text_pair", "is given, but SequenceGeneration has one text a row; put it into `text`")
        targets = checked_references(raw)
        target = checked_text(raw, "target") if raw.get("target") is not None else targets[0] if targets else None
        return row | {"target": target, "targets": targets or ([target] if target else None)}

    def is_labelled(self, row: dict[str, Any]) -> bool:
        """Whether there is something to write."""
        return row.get("target") is not None

    def featurize(
        self, rows: Rows, tokenizer: PreTrainedTokenizerBase, max_len: int, training: bool
    ) -> list[dict[str, Any]]:
        """One feature per row; texts beyond `max_len` tokens and targets beyond `max_target_len` are cut at their end.

        Raises `UserError` for a tokenizer without an end token.
        """
        import numpy as np

        end = tokenizer.eos_token_id
        if end is None:
            raise UserError(f"{self.task.name}.task_type: SequenceGeneration: the tokenizer has no end token")
        encoded = tokenizer([row["text"] for row in rows], truncation=True, max_length=max_len)["input_ids"]
        limit = self.task.max_target_len
        targets = tokenizer([row["target"] or "" for row in rows], truncation=True, max_length=limit)["input_ids"]
        features = []
        for i, (row, ids, target) in enumerate(zip(rows, encoded, targets, strict=True)):
            known = self.is_labelled(row)
            labels = [*target[: limit - 1], end] if target[-1:] != [end] else target
            feature = {"input_ids": np.asarray(ids, dtype=np.int32), "row": i, "labelled": known}
            features.append(feature | {"labels": np.asarray(labels if known else [], dtype=np.int64)})
        return features

    def build_head(self, info: EncoderInfo) -> HeadContract:
        """The family's decoder. Raises `UserError` for a family that has none."""
        from mtrobust.tasks.generation_head import GenerationHead

        task = self.task
        try:
            return GenerationHead(info, task.dropout_p, task.num_beams, task.max_target_len, task.length_penalty)
        except UserError as error:
            place = f"{task.name}.task_type: SequenceGeneration"
            raise UserError([f"{place}: {fault}" for fault in error.faults]) from error

    def detokenized(
        self, outputs: Sequence[dict[str, np.ndarray]], tokenizer: PreTrainedTokenizerBase
    ) -> list[dict[str, Any]]:
        """With `text` beside the `ids` of the head."""
        ids = [output["ids"].astype("int64").tolist() for output in outputs]
        texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
        return [{**output, "text": text} for output, text in zip(outputs, texts, strict=True)]

    def decode(self, rows: Rows, features: Rows, outputs: Sequence[dict[str, Any]]) -> list[Prediction]:
        """The text that was written, and its log-probability in nats."""
        made: dict[int, Prediction] = {}
        for feature, output in zip(features, outputs, strict=True):
            row, text = rows[int(feature["row"])], output["text"]
            record = {"id": row["id"], "prediction": text, "log_probability": float(output["log_probability"])}
            made[int(feature["row"])] = Prediction(record, text)
        return [made[i] for i in range(len(rows))]

    def score(self, rows: Rows, predictions: Sequence[Prediction]) -> dict[str, float]:
        """The definition's metrics over the rows with an accepted text; of several the best counts."""
        kept = [i for i, row in enumerate(rows) if self.is_labelled(row)]
        golds, texts = [rows[i]["targets"] for i in kept], [str(predictions[i].value) for i in kept]
        scores: dict[str, float] = {}
        for name in self.task.metric_meta:
            if kept:
                scores |= METRICS[name](golds, texts)
        return scores

    def main_metric(self) -> str:
        """`f1` of the answers, or `exact`: the first metric's key."""
        return METRICS[self.task.metric_meta[0]].key

    def files(self, predictions: Sequence[Prediction]) -> dict[str, Any]:
        """`predictions.json`: texts by id, as the official scripts of question sets read them."""
        return {"predictions.json": {p.record["id"]: p.value for p in predictions}}
