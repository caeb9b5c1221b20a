"""Tasks that choose among the candidates of a list: ranking and multiple choice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from mtrobust.tasks import labels as given
from mtrobust.tasks import tokenised as tokens
from mtrobust.tasks.base import TASK_TYPES, Column, EncoderInfo, HeadContract, Prediction, RowError, TaskType
from mtrobust.tasks.metrics import METRICS
from mtrobust.tasks.sequence import Encoded, Rows, checked_text, second_begins

if TYPE_CHECKING:
    import numpy as np
    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from mtrobust.tasks.taskdef import TaskDef

LISTS = "PremiseAndMultiHypothesis"


def checked_candidates(raw: dict[str, Any]) -> list[str]:
    """The texts under `candidates`, at least two. Raises `RowError`."""
    value = raw.get("candidates")
    if value is None:
        raise RowError("candidates", "is missing; a list of texts is needed")
    if not isinstance(value, list) or len(value) < 2:
        raise RowError("candidates", f"is {value!r:.60}; a list of at least 2 texts is needed")
    return [checked_text({f"candidates[{i}]": text}, f"candidates[{i}]") for i, text in enumerate(value)]


class ListType(TaskType):
    """What both kinds share: each candidate is a feature, and those of a row stay together in training."""

    data_formats: ClassVar[tuple[str, ...]] = (LISTS,)
    together: ClassVar[bool] = True
    tokenised: ClassVar[bool] = True
    columns: ClassVar[dict[str, Column]] = {
        "place": Column("int64"),
        "gains": Column("float32"),
        "labelled": Column("bool"),
        "second": Column("int32"),
    }
    family_kind: ClassVar[Literal["sequence", "choice"]]  # the family's head that gives the scores

    def parse_row(self, raw: dict[str, Any]) -> dict[str, Any]:
        """Checks `text`, `candidates` (texts, or the pairs' token ids) and `label`; one not given (or null) is None."""
        if tokens.is_tokenised(raw):
            row = dict(raw)
            if len(raw.get("candidates", ())) < 2:
                raise RowError("candidates", "at least 2 are needed, each with token_id and type_id")
        else:
            row = raw | {"text": checked_text(raw, "text"), "candidates": checked_candidates(raw)}
        label = raw.get("label")
        if label is not None:
            label = self.label(label, len(row["candidates"]), tokens.is_tokenised(raw))
        return row | {"label": label}

    def label(self, value: Any, size: int, ids: bool = False) -> int | list[float]:
        """The right candidate's number, or how right each is, of a list of that size. ids: see `gains`. Raises
        `RowError`."""
        if given.is_whole(value) and 0 <= value < size:
            return int(value)
        if isinstance(value, list) and len(value) == size:
            return self.gains(value, ids)
        allowed = f"the number of the right candidate, 0 to {size - 1}, or a list of {size} numbers, one for each"
        raise RowError("label", f"{given.brief(value)}: allowed: {allowed}")

    def gains(self, values: list[Any], ids: bool = False) -> list[float]:
        """How right each candidate is, from the definition's two label names or other numbers. ids: a number is itself,
        whatever the names are. Raises `RowError`."""
        names = self.task.labels
        named = [given.name_id(value, names if isinstance(value, str) or not ids else []) for value in values]
        pairs = zip(values, named, strict=True)
        numbers = [given.as_float(value if place is None else place) for value, place in pairs]
        gains = [number for number in numbers if number is not None and number >= 0]
        if len(gains) < len(values):
            also = f", or {' and '.join(names)}" if names else ""
            allowed = f"a number that is at least 0 and at most {given.LARGEST:.1e} (float32)"
            raise RowError("label", f"{given.brief(values)}: {allowed} is needed for each candidate{also}")
        if not any(gains):
            allowed = "no candidate is right; leave the label out for an unlabelled row"
            raise RowError("label", f"{given.brief(values)}: {allowed}")
        return gains

    @staticmethod
    def gains_of(row: dict[str, Any]) -> list[float]:
        """How right each candidate of a parsed row is; zeros without a label."""
        label = row["label"]
        return label if isinstance(label, list) else [float(i == label) for i in range(len(row["candidates"]))]

    def pair(self, row: dict[str, Any], candidate: str) -> tuple[str, str]:
        """The two texts of which the encoder makes a candidate's score."""
        return row["text"], candidate

    def check_tokenised(
        self, row: dict[str, Any], tokenizer: PreTrainedTokenizerBase, max_len: int, training: bool
    ) -> None:
        """The ids of each candidate are this tokenizer's, and no more than `max_len`."""
        for i, candidate in enumerate(row["candidates"]):
            tokens.check_fit(candidate, tokenizer, max_len, f"candidates[{i}].")

    def featurize(
        self, rows: Rows, tokenizer: PreTrainedTokenizerBase, max_len: int, training: bool
    ) -> list[dict[str, Any]]:
        """One feature per candidate: the pair of texts, cut to `max_len` tokens, the longer side first. Token ids are
        taken as they are."""
        written = [row for row in rows if not tokens.is_tokenised(row)]
        pairs = [self.pair(row, candidate) for row in written for candidate in row["candidates"]]
        texts = iter(self._encoded(pairs, tokenizer, max_len))
        features: list[dict[str, Any]] = []
        for i, row in enumerate(rows):
            if tokens.is_tokenised(row):
                tokens.must_fit(self, row, tokenizer, max_len, training)
            for place, gain in enumerate(self.gains_of(row)):
                candidate = row["candidates"][place]
                if isinstance(candidate, str):
                    inputs, parts = next(texts)
                else:
                    inputs, parts = tokens.inputs_of(candidate, tokenizer), tokens.parts_of(candidate, tokenizer)
                feature: dict[str, Any] = {**inputs, "row": i, "place": place, "gains": gain}
                feature |= {"labelled": self.is_labelled(row)}
                feature["second"] = second_begins(parts) if self.task.enable_san else 0
                features.append(feature)
        return features

    def _encoded(
        self, pairs: Sequence[tuple[str, str]], tokenizer: PreTrainedTokenizerBase, max_len: int
    ) -> list[Encoded]:
        """Of each pair the encoder's inputs, and the text that each token is of."""
        import numpy as np

        if not pairs:
            return []
        encoded = tokenizer(
            *map(list, zip(*pairs, strict=True)),
            truncation="longest_first",
            max_length=max_len,
            return_attention_mask=False,
        )
        names = [name for name in ("input_ids", "token_type_ids") if name in encoded]
        return [
            ({name: np.asarray(encoded[name][i], dtype=np.int32) for name in names}, encoded.sequence_ids(i))
            for i in range(len(pairs))
        ]

    def build_head(self, info: EncoderInfo) -> HeadContract:
        """One score per candidate, by the head that the definition asks for."""
        from mtrobust.tasks.ranking_head import RankingHead

        return RankingHead(self.net(info), self.task.ranking_loss)

    def net(self, info: EncoderInfo) -> nn.Module:
        """What makes the score of the states: the family's own head of the type's kind."""
        return info.family_head(self.family_kind, 1, self.task.dropout_p)

    def decode(self, rows: Rows, features: Rows, outputs: Sequence[dict[str, np.ndarray]]) -> list[Prediction]:
        """The number of the candidate with the highest score (the first of equals), and all scores."""
        scores = [[0.0] * len(row["candidates"]) for row in rows]
        for feature, output in zip(features, outputs, strict=True):
            scores[int(feature["row"])][int(feature["place"])] = float(output["logits"][0])
        made = []
        for row, own in zip(rows, scores, strict=True):
            record: dict[str, Any] = {"id": row["id"], "prediction": own.index(max(own)), "scores": own}
            if row["label"] is not None:
                record["label"] = row["label"]
            made.append(Prediction(record, own))
        return made

    def score(self, rows: Rows, predictions: Sequence[Prediction]) -> dict[str, float]:
        """The definition's metrics over the labelled rows; empty when there are none."""
        kept = [i for i, row in enumerate(rows) if row["label"] is not None]
        gains, scores = [self.gains_of(rows[i]) for i in kept], [predictions[i].value for i in kept]
        found: dict[str, float] = {}
        for name in self.task.metric_meta:
            if kept:
                found |= METRICS[name](gains, scores)
        return found

    def main_metric(self) -> str:
        """The definition's first metric."""
        return METRICS[self.task.metric_meta[0]].key


@TASK_TYPES.register("Ranking")
class Ranking(ListType):
    """Candidates for a text, one or several of them right, or each to a degree.

    The family's sequence head gives the scores, so that an exported model is an ordinary cross-encoder.
    """

    metrics: ClassVar[tuple[str, ...]] = ("TopACC", "MRR", "MAP", "NDCG")
    summary: ClassVar[str] = "candidates for a text, brought into order"
    head_choice: ClassVar[bool] = True
    family_kind: ClassVar[Literal["sequence", "choice"]] = "sequence"

    @classmethod
    def check(cls, task: TaskDef) -> list[str]:
        """One output; label names, where rows have them, are two."""
        faults = [f"n_class: {task.n_class}: Ranking has 1 output, a score"] if task.n_class != 1 else []
        if task.labels and len(task.labels) != 2:
            faults.append(f"labels: {', '.join(task.labels)}: Ranking has none, or two: for wrong and right candidates")
        return faults

    def net(self, info: EncoderInfo) -> nn.Module:
        """The head that `head_input` or `enable_san` names."""
        from mtrobust.tasks.head_nets import build_net

        return build_net(self.task, info, 1)


@TASK_TYPES.register("MultipleChoice")
class MultipleChoice(ListType):
    """Choices for a text, one of them right. A row may have a `context`: the pair is then this and `text candidate`.

    The family's multiple-choice head gives the scores.
    """

    metrics: ClassVar[tuple[str, ...]] = ("TopACC",)
    summary: ClassVar[str] = "choices for a text, one of them right"
    family_kind: ClassVar[Literal["sequence", "choice"]] = "choice"

    @classmethod
    def check(cls, task: TaskDef) -> list[str]:
        """One output without label names."""
        faults = [f"n_class: {task.n_class}: MultipleChoice has 1 output, a score"] if task.n_class != 1 else []
        return faults + (["labels: MultipleChoice has numbers of choices, not named labels"] if task.labels else [])

    def parse_row(self, raw: dict[str, Any]) -> dict[str, Any]:
        """As of ranking, with a `context` that is a text where it is given."""
        row = super().parse_row(raw)
        return row if raw.get("context") is None else row | {"context": checked_text(raw, "context")}

    def gains(self, values: list[Any], ids: bool = False) -> list[float]:
        """1 for the right choice, 0 for the others. Raises `RowError`."""
        gains = super().gains(values, ids)
        if sorted(gains) != [0.0] * (len(gains) - 1) + [1.0]:
            raise RowError("label", f"{given.brief(values)}: one 1 and else 0 are needed: exactly one choice is right")
        return gains

    def pair(self, row: dict[str, Any], candidate: str) -> tuple[str, str]:
        """The context beside text and choice, or the text beside the choice."""
        if row.get("context") is None:
            return row["text"], candidate
        return row["context"], f"{row['text']} {candidate}"
