"""Sequence labelling: one tag for each word of a text."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from mtrobust.errors import UserError
from mtrobust.registry import suggestion
from mtrobust.tasks import labels as given
from mtrobust.tasks import tokenised
from mtrobust.tasks.base import TASK_TYPES, Column, EncoderInfo, HeadContract, Prediction, RowError, TaskType
from mtrobust.tasks.metrics import METRICS
from mtrobust.tasks.sequence import Rows, checked_text

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedTokenizerBase

    from mtrobust.tasks.taskdef import TaskDef

OUTSIDE = "O"
NO_WORDS = ("X", "CLS", "SEP")  # MT-DNN's labels of tokens that begin no word
_CHUNK = re.compile(r"[BIES]-.+")


def word_starts(words: Sequence[str]) -> tuple[str, np.ndarray]:
    """The words with one space between them, and of each character the number of its word (-1 of a space), int32."""
    import numpy as np

    owner = np.concatenate([np.append(np.full(len(word), i, np.int32), np.int32(-1)) for i, word in enumerate(words)])
    return " ".join(words), owner[:-1]


def first_tokens(offsets: Sequence[tuple[int, int]], owner: np.ndarray) -> np.ndarray:
    """The number of the word that begins at each token, -1 elsewhere, int32 [T].

    offsets: (begin, end) of each token in the text, (0, 0) of special ones. A token is of the word of its first
    character that is of one: some vocabularies count the space before a word to it.
    """
    import numpy as np

    begin, end = np.asarray(offsets, dtype=np.int64).reshape(-1, 2).T
    following = np.where(owner >= 0, owner, np.append(owner[1:], -1))  # of a space: the word after it
    number = np.where((end > begin) & (owner[end - 1] >= 0), following[np.minimum(begin, len(owner) - 1)], -1)
    before = np.maximum.accumulate(np.append(-1, number[:-1]))
    return np.where(number > before, number, -1).astype(np.int32)


@TASK_TYPES.register("SequenceLabeling")
class SequenceLabeling(TaskType):
    """The family's token-classification head; a word's tag is that of its first token.

    Words beyond `max_len` tokens (and the few of which a tokenizer makes nothing) are not trained on; they are
    predicted as `O`, where that is a label, and else as null, and count so in all metrics.
    """

    data_formats: ClassVar[tuple[str, ...]] = ("Sequence",)
    metrics: ClassVar[tuple[str, ...]] = ("SeqEval", "TagACC")
    columns: ClassVar[dict[str, Column]] = {
        "labels": Column("int64", "token"),
        "word": Column("int32", "token", pad=-1),
        "labelled": Column("bool"),
        "words": Column("int32", in_batch=False),
        "cut": Column("int32", in_batch=False),
    }
    summary: ClassVar[str] = "one tag for each word of a text (named entities, parts of speech)"
    tokenised: ClassVar[bool] = True

    @classmethod
    def check(cls, task: TaskDef) -> list[str]:
        """At least two tags; seqeval and chunk tags where `SeqEval` is asked for."""
        faults = [f"n_class: {task.n_class}: SequenceLabeling needs at least 2 labels"] if task.n_class < 2 else []
        if "SeqEval" not in task.metric_meta:
            return faults
        if importlib.util.find_spec("seqeval") is None:
            faults.append("metric_meta: SeqEval: needs a further package: pip install 'mtrobust[seqlabel]'")
        if OUTSIDE not in task.labels or not any(map(_CHUNK.fullmatch, task.labels)):
            faults.append(
                "metric_meta: SeqEval: is for chunks, with labels O, B-NAME, I-NAME; for other tags give TagACC"
            )
        return faults

    def parse_row(self, raw: dict[str, Any]) -> dict[str, Any]:
        """Checks `tokens` and `tags`; the tags' numbers become `label`, None where they are not given (or null).

        Of token ids: `word`, the word that begins at each token, of which only the tags are known."""
        if tokenised.is_tokenised(raw):
            return raw | self._tagged_tokens(raw)
        tokens = raw.get("tokens")
        if not isinstance(tokens, list) or not tokens:
            problem = "is missing" if tokens is None else f"is {tokens!r:.60}"
            raise RowError("tokens", f"{problem}; a list of words is needed")
        words = [checked_text({f"tokens[{i}]": word}, f"tokens[{i}]") for i, word in enumerate(tokens)]
        tags = raw.get("tags")
        return raw | {"tokens": words, "label": None if tags is None else self.tags(tags, len(words))}

    def _tagged_tokens(self, raw: dict[str, Any]) -> dict[str, Any]:
        """`word`, `tokens` (a place for each word) and `label`, of MT-DNN's labels for all tokens."""
        names = self.task.labels
        missing = [name for name in NO_WORDS if name not in names]
        if missing:
            lacks = f"the definition's labels lack {', '.join(missing)}"
            raise RowError("token_id", f"{lacks}, which MT-DNN gives to tokens that begin no word")
        size = len(raw["token_id"])
        value = raw["label"][:size] if isinstance(raw.get("label"), list) else raw.get("label")
        labels = self.tags(value, size, ids=True)
        word, number = [], -1
        for label in labels:
            begins = names[label] not in NO_WORDS
            number += begins
            word.append(number if begins else -1)
        own = [label for label, place in zip(labels, word, strict=True) if place >= 0]
        return {"word": word, "tokens": [None] * len(own), "label": own}

    def check_tokenised(
        self, row: dict[str, Any], tokenizer: PreTrainedTokenizerBase, max_len: int, training: bool
    ) -> None:
        """The ids are this tokenizer's, and no more than `max_len`."""
        tokenised.check_fit(row, tokenizer, max_len)

    def tags(self, value: Any, size: int, ids: bool = False) -> list[int]:
        """The ids of tags given by name or id. ids: a number is an id, whatever the names are. Raises `RowError`."""
        names = self.task.labels
        if not isinstance(value, list) or len(value) != size:
            what = f"{len(value)} tags" if isinstance(value, list) else given.brief(value)
            raise RowError("tags", f"{what} for {size} tokens; a list of as many tags is needed")
        made = []
        for i, tag in enumerate(value):
            found = given.class_id(tag, names, ids)
            if found is None:
                hint = suggestion(tag, names) if isinstance(tag, str) else ""
                raise RowError(f"tags[{i}]", f"{given.brief(tag)}: unknown{hint} (allowed: {given.listed(names)})")
            made.append(found)
        return made

    def featurize(
        self, rows: Rows, tokenizer: PreTrainedTokenizerBase, max_len: int, training: bool
    ) -> list[dict[str, Any]]:
        """One feature per row: its words with a space between them, cut after `max_len` tokens. Raises `UserError` for
        a tokenizer without offsets."""
        import numpy as np

        if not tokenizer.is_fast:
            raise UserError(f"{self.task.name}: sequence labelling needs a fast tokenizer (one with a tokenizer.json)")
        written = [row for row in rows if not tokenised.is_tokenised(row)]
        texts = iter(self._encoded_texts(written, tokenizer, max_len))
        features = []
        for i, row in enumerate(rows):
            if tokenised.is_tokenised(row):
                tokenised.must_fit(self, row, tokenizer, max_len, training)
                inputs, word = tokenised.inputs_of(row, tokenizer), np.asarray(row["word"], dtype=np.int32)
            else:
                inputs, word = next(texts)
            labels = np.zeros(len(word), dtype=np.int64)
            if row["label"] is not None:
                labels[word >= 0] = np.asarray(row["label"], dtype=np.int64)[word[word >= 0]]
            words = len(row["tokens"])
            feature = {**inputs, "row": i, "labels": labels, "word": word, "labelled": row["label"] is not None}
            features.append(feature | {"words": words, "cut": words - int((word >= 0).sum())})
        return features

    def _encoded_texts(
        self, rows: Rows, tokenizer: PreTrainedTokenizerBase, max_len: int
    ) -> list[tuple[dict[str, np.ndarray], np.ndarray]]:
        """Of each row the encoder's inputs, and the word that begins at each token."""
        import numpy as np

        if not rows:
            return []
        texts, owners = zip(*(word_starts(row["tokens"]) for row in rows), strict=True)
        encoded = tokenizer(
            list(texts),
            truncation=True,
            max_length=max_len,
            return_offsets_mapping=True,
            return_attention_mask=False,
        )
        names = [name for name in ("input_ids", "token_type_ids") if name in encoded]
        inputs = [{name: np.asarray(encoded[name][i], dtype=np.int32) for name in names} for i in range(len(rows))]
        return [(inputs[i], first_tokens(encoded["offset_mapping"][i], owners[i])) for i in range(len(rows))]

    def remark(self, column: Callable[[str], np.ndarray]) -> str | None:
        """How many words are beyond the length."""
        cut, words = column("cut"), int(column("words").sum())
        if not cut.any():
            return None
        return (
            f"{int(cut.sum())} of {words} words, in {int((cut > 0).sum())} of {len(cut)} rows, are beyond max_len "
            f"(or have no token): not trained on, predicted as {self.outside or 'null'}"
        )

    @property
    def outside(self) -> str | None:
        """What words without a prediction are given."""
        return OUTSIDE if OUTSIDE in self.task.labels else None

    def build_head(self, info: EncoderInfo) -> HeadContract:
        """The family's token-classification head, with one output per tag."""
        from mtrobust.tasks.token_head import TokenHead

        return TokenHead(info, len(self.task.labels), self.task.dropout_p)

    def decode(self, rows: Rows, features: Rows, outputs: Sequence[dict[str, np.ndarray]]) -> list[Prediction]:
        """A tag for each word; `cut`: how many of them have none of the model's."""
        import numpy as np

        made: dict[int, Prediction] = {}
        for feature, output in zip(features, outputs, strict=True):
            row, word = rows[int(feature["row"])], np.asarray(feature["word"])
            tags: list[str | None] = [self.outside] * len(row["tokens"])
            for number, tag in zip(word[word >= 0].tolist(), output["tag"][word >= 0].tolist(), strict=True):
                tags[number] = self.task.labels[int(tag)]
            record: dict[str, Any] = {"id": row["id"], "prediction": tags}
            if feature["cut"]:
                record["cut"] = int(feature["cut"])
            if row["label"] is not None:
                record["label"] = self.names(row)
            made[int(feature["row"])] = Prediction(record, tags)
        return [made[i] for i in range(len(rows))]

    def names(self, row: Mapping[str, Any]) -> list[str]:
        """The tags of a labelled row."""
        return [self.task.labels[tag] for tag in row["label"]]

    def score(self, rows: Rows, predictions: Sequence[Prediction]) -> dict[str, float]:
        """The definition's metrics over the labelled rows; empty when there are none."""
        kept = [i for i, row in enumerate(rows) if row["label"] is not None]
        given, found = [self.names(rows[i]) for i in kept], [predictions[i].value for i in kept]
        scores: dict[str, float] = {}
        for name in self.task.metric_meta:
            if kept:
                scores |= METRICS[name](given, found)
        return scores

    def main_metric(self) -> str:
        """The definition's first metric."""
        return METRICS[self.task.metric_meta[0]].key

    def carried(self, prediction: Prediction, row: Mapping[str, Any], names: Mapping[str, str]) -> Prediction:
        """The set's tag for each of the task's."""
        tags = [tag if tag is None else names[tag] for tag in prediction.value]
        record = {**prediction.record, "prediction": tags}
        if row["label"] is not None:
            record["label"] = self.names(row)
        return Prediction(record, tags)
