"""Extractive question answering: SQuAD v1.1 (every question has an answer) and v2.0 (some have none)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from mtrobust.errors import UserError
from mtrobust.tasks import span_tokens, squad_metrics
from mtrobust.tasks import tokenised as tokens
from mtrobust.tasks.answers import accepted_texts, check_gold, checked_answers
from mtrobust.tasks.base import TASK_TYPES, Column, EncoderInfo, HeadContract, Prediction, RowError, TaskType
from mtrobust.tasks.metrics import METRICS
from mtrobust.tasks.sequence import Rows, checked_text
from mtrobust.tasks.span_decode import Answer, Window, decode_question

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedTokenizerBase

    from mtrobust.tasks.taskdef import TaskDef

MAX_QUESTION = 64  # tokens, as in BERT's SQuAD code; longer questions are cut
NONE = "(no answer)"
MIN_LEN = 16  # below this a window cannot hold a question and a useful piece of the passage


def _cut_questions(questions: list[str], tokenizer: PreTrainedTokenizerBase, limit: int) -> tuple[list[str], list[int]]:
    """The questions without surrounding space, cut after at most `limit` tokens, and how many tokens each has."""
    questions, lengths = [question.strip() for question in questions], [0] * len(questions)
    waiting = list(range(len(questions)))
    while waiting:  # a piece of a text may have more tokens than it had in the whole
        encoded = tokenizer([questions[i] for i in waiting], add_special_tokens=False, return_offsets_mapping=True)
        found, waiting = dict(zip(waiting, encoded["offset_mapping"], strict=True)), []
        for i, offsets in found.items():
            lengths[i] = len(offsets)
            if len(offsets) > limit:  # tokens of one character (the bytes of an emoji) go together
                whole = [end for _, end in offsets[:limit] if end <= offsets[limit][0]]
                questions[i] = questions[i][: min(max(whole, default=0), len(questions[i]) - 1)]
                waiting.append(i)
    return questions, lengths


def _span_positions(
    answers: dict[str, list[Any]] | None, starts: np.ndarray, ends: np.ndarray, reach: tuple[int, int], null: int
) -> tuple[int, int]:
    """Token positions of the first answer: (-1, -1) unlabelled, (null, null) if the window does not hold it whole.

    starts, ends: character offsets per token, -1 outside the passage; reach: the characters the window covers.
    """
    import numpy as np

    if answers is None:
        return -1, -1
    if not answers["text"]:
        return null, null
    text, begin = answers["text"][0], answers["answer_start"][0]
    begin += len(text) - len(text.lstrip())
    end = begin + len(text.strip())
    touched = np.flatnonzero((starts < end) & (ends > begin) & (starts >= 0))
    if not len(touched) or begin < reach[0] or end > reach[1]:
        return null, null
    return int(touched[0]), int(touched[-1])


def _trimmed(starts: np.ndarray, ends: np.ndarray, passage: np.ndarray, context: str) -> tuple[np.ndarray, np.ndarray]:
    """Character offsets without the space that some vocabularies count to a word (ModernBERT, DeBERTa-v2); -1 outside
    the passage. A token of nothing but space becomes empty."""
    import numpy as np

    place = np.arange(len(context) + 1, dtype=np.int32)
    solid = np.array([not char.isspace() for char in context] + [True])
    following = np.minimum.accumulate(np.where(solid, place, len(context))[::-1])[::-1]  # first non-space from here on
    preceding = np.maximum.accumulate(
        np.append(0, np.where(solid[:-1], place[1:], 0))
    )  # end of the last one before here
    starts, ends = np.where(passage, starts, 0), np.where(passage, ends, 0)
    starts = np.minimum(following[starts], ends)
    ends = np.maximum(preceding[ends], starts)
    return np.where(passage, starts, -1).astype(np.int32), np.where(passage, ends, -1).astype(np.int32)


def _feature(
    encoded: Any, i: int, row_index: int, row: dict[str, Any], edge: tuple[bool, bool], cls_id: int | None
) -> dict[str, Any]:
    """Window i of a text; edge: whether it is the first and the last of its passage."""
    import numpy as np

    ids = np.asarray(encoded["input_ids"][i], dtype=np.int32)
    passage = np.array([s == 1 for s in encoded.sequence_ids(i)], dtype=bool)
    offsets = np.asarray(encoded["offset_mapping"][i], dtype=np.int32)
    starts, ends = _trimmed(offsets[:, 0], offsets[:, 1], passage, row["context"])
    null = span_tokens.null_position(ids, cls_id)
    inside = np.flatnonzero(passage)
    low = 0 if edge[0] or not len(inside) else int(starts[inside[0]])
    high = len(row["context"]) if edge[1] or not len(inside) else int(ends[inside[-1]])
    positions = _span_positions(row["answers"], starts, ends, (low, high), null)
    inputs = {"input_ids": ids}
    if "token_type_ids" in encoded:
        inputs["token_type_ids"] = np.asarray(encoded["token_type_ids"][i], dtype=np.int32)
    passage[null] = True
    return inputs | _columns(row_index, positions, row["answers"] is not None, passage, starts, ends)


def _tokenised_feature(
    window: Mapping[str, Any], row_index: int, row: dict[str, Any], tokenizer: PreTrainedTokenizerBase
) -> dict[str, Any]:
    """A window that came as token ids."""
    passage, offsets = span_tokens.arrays_of(window, tokenizer)
    starts, ends = _trimmed(offsets[:, 0], offsets[:, 1], passage, row["context"] or "")
    passage[span_tokens.null_position(window["token_id"], tokenizer.cls_token_id)] = True
    positions = window["positions"]  # not known in lines made for evaluation, where no loss is asked for
    labelled = positions is not None or row["answers"] is not None
    columns = _columns(row_index, positions or (-1, -1), labelled, passage, starts, ends)
    return tokens.inputs_of(window, tokenizer) | columns


def _columns(
    row_index: int,
    positions: tuple[int, int],
    labelled: bool,
    passage: np.ndarray,
    starts: np.ndarray,
    ends: np.ndarray,
) -> dict[str, Any]:
    return {
        "row": row_index,
        "start_positions": positions[0],
        "end_positions": positions[1],
        "labelled": labelled,
        "passage_mask": passage,
        "offset_start": starts,
        "offset_end": ends,
    }


class SpanType(TaskType):
    """What both kinds share: windows over long passages, positions, decoding by character offsets."""

    data_formats: ClassVar[tuple[str, ...]] = ("MRC",)
    columns: ClassVar[dict[str, Column]] = {
        "start_positions": Column("int64"),
        "end_positions": Column("int64"),
        "labelled": Column("bool"),
        "passage_mask": Column("bool", "token", pad=0),
        "offset_start": Column("int32", "token", pad=-1, in_batch=False),
        "offset_end": Column("int32", "token", pad=-1, in_batch=False),
    }
    unanswerable: ClassVar[bool]
    tokenised: ClassVar[bool] = True

    @classmethod
    def check(cls, task: TaskDef) -> list[str]:
        """Two outputs, and room for a question with a piece of its passage."""
        faults = [f"n_class: {task.n_class}: spans have 2 outputs, start and end"] if task.n_class != 2 else []
        if task.max_len is not None and task.max_len < MIN_LEN:
            faults.append(f"max_len: {task.max_len}: too short for a question and a passage (at least {MIN_LEN})")
        return faults

    def parse_row(self, raw: dict[str, Any]) -> dict[str, Any]:
        """Checks `question`, `context`, `answers` (absent or null: unlabelled) and `gold_answers` (the texts to compare
        with, by default those of `answers`), or the windows of token ids."""
        if tokens.is_tokenised(raw):
            row = raw | span_tokens.parsed_windows(raw)
            check_gold(row, row["answers"])
            return row
        context = checked_text(raw, "context")
        answers = checked_answers(raw.get("answers"), context)
        if answers is not None and not answers["text"] and not self.unanswerable:
            raise RowError("answers", "is empty; questions without an answer need task_type SpanClassificationYN")
        check_gold(raw, answers)
        return raw | {"question": checked_text(raw, "question"), "context": context, "answers": answers}

    def check_tokenised(
        self, row: dict[str, Any], tokenizer: PreTrainedTokenizerBase, max_len: int, training: bool
    ) -> None:
        """The ids fit, and the windows say what their use needs: positions to train, offsets to evaluate."""
        span_tokens.check_windows(row, tokenizer, max_len, training)

    def is_labelled(self, row: dict[str, Any]) -> bool:
        """Whether a parsed row has accepted answers, or windows with positions."""
        return row["answers"] is not None or any(window["positions"] for window in row.get("windows", ()))

    def featurize(
        self, rows: Rows, tokenizer: PreTrainedTokenizerBase, max_len: int, training: bool
    ) -> list[dict[str, Any]]:
        """One feature per window. Windows of one passage overlap by `doc_stride` tokens, at most by half of what the
        question leaves free. Raises `UserError` for a `max_len` that is too short or a tokenizer without offsets."""
        if max_len < MIN_LEN:
            raise UserError(f"{self.task.name}: max_len: {max_len} is too short for a passage (at least {MIN_LEN})")
        if not tokenizer.is_fast:
            raise UserError(f"{self.task.name}: span tasks need a fast tokenizer (one with a tokenizer.json)")
        texts = [i for i, row in enumerate(rows) if not tokens.is_tokenised(row)]
        made = self._of_texts([rows[i] for i in texts], texts, tokenizer, max_len) if texts else []
        for i, row in enumerate(rows):
            if tokens.is_tokenised(row):
                tokens.must_fit(self, row, tokenizer, max_len, training)
                made += [_tokenised_feature(window, i, row, tokenizer) for window in row["windows"]]
        return sorted(made, key=lambda feature: int(feature["row"]))

    def _of_texts(
        self, rows: Rows, places: Sequence[int], tokenizer: PreTrainedTokenizerBase, max_len: int
    ) -> list[dict[str, Any]]:
        """The windows of rows with texts; places: what `row` of their features is."""
        asked = [row["question"] for row in rows]
        questions, lengths = _cut_questions(asked, tokenizer, min(MAX_QUESTION, max_len // 2))
        rest = max_len - tokenizer.num_special_tokens_to_add(pair=True)
        overlaps = [min(self.task.doc_stride, (rest - length) // 2) for length in lengths]
        features = []
        for overlap in sorted(set(overlaps)):  # one call each: a row's windows do not depend on the rows beside it
            chosen = [i for i, other in enumerate(overlaps) if other == overlap]
            encoded = tokenizer(
                [questions[i] for i in chosen],
                [rows[i]["context"] for i in chosen],
                truncation="only_second",
                max_length=max_len,
                stride=overlap,
                return_overflowing_tokens=True,
                return_offsets_mapping=True,
                return_attention_mask=False,
            )
            sample = [chosen[at] for at in encoded["overflow_to_sample_mapping"]]
            edges = [i == 0 or sample[i] != sample[i - 1] for i in range(len(sample))] + [True]
            features += [
                _feature(encoded, i, places[at], rows[at], (edges[i], edges[i + 1]), tokenizer.cls_token_id)
                for i, at in enumerate(sample)
            ]
        return features

    def build_head(self, info: EncoderInfo) -> HeadContract:
        """The family's span head."""
        from mtrobust.tasks.heads import SpanHead

        return SpanHead(info, self.task.dropout_p, all_positions=self.task.span_positions == "all")

    def _answers(self, rows: Rows, features: Rows, outputs: Sequence[dict[str, np.ndarray]]) -> list[Answer]:
        windows: list[list[Window]] = [[] for _ in rows]
        for feature, output in zip(features, outputs, strict=True):
            index = int(feature["row"])
            windows[index].append(_window(feature, output, rows[index]["context"]))
        n_best, longest = self.task.n_best, self.task.max_answer_length
        return [decode_question(group, self.unanswerable, n_best, longest) for group in windows]

    def score(self, rows: Rows, predictions: Sequence[Prediction]) -> dict[str, float]:
        """The definition's metrics over the labelled rows; empty when there are none."""
        found = [(gold, self.answer_text(one)) for one, gold in zip(predictions, map(accepted_texts, rows), strict=True)
                 if gold is not None]  # fmt: skip
        golds, texts = [gold for gold, _ in found], [text for _, text in found]
        scores: dict[str, float] = {}
        for name in self.task.metric_meta or self.metrics[:1]:
            if found:
                scores |= METRICS[name](golds, texts)
        return scores

    @abstractmethod
    def answer_text(self, prediction: Prediction) -> str:
        """The predicted text, "" for none."""

    def main_metric(self) -> str:
        """F1 of the answers."""
        return METRICS[(self.task.metric_meta or self.metrics)[0]].key

    def files(self, predictions: Sequence[Prediction]) -> dict[str, Any]:
        """`predictions.json` and `nbest_predictions.json`, as the official scripts read them."""
        return {
            "predictions.json": {p.record["id"]: self.answer_text(p) for p in predictions},
            "nbest_predictions.json": {p.record["id"]: p.extra["nbest"] for p in predictions},
        }

    def shown(self, row: Mapping[str, Any], prediction: Prediction) -> dict[str, Any]:
        """Question and context, the accepted answers, the predicted one."""
        shown = {name: row[name] for name in ("question", "context") if name in row}  # token ids have no texts
        if (gold := accepted_texts(row)) is not None:
            shown["gold"] = " / ".join(dict.fromkeys(gold)) or NONE
        return shown | {"prediction": prediction.record["prediction"] or NONE}


def _window(feature: dict[str, Any], output: dict[str, np.ndarray], context: str) -> Window:
    """Candidates are tokens of the passage that cover at least one character; CLS is the one position of the mask
    outside the passage."""
    import numpy as np

    low, high = np.asarray(feature["offset_start"]), np.asarray(feature["offset_end"])
    usable = high > low
    null = int(np.flatnonzero(np.asarray(feature["passage_mask"], dtype=bool) & (low < 0))[0])
    start, end = (np.asarray(output[f"{side}_logits"], dtype=np.float64) for side in ("start", "end"))
    return Window(
        start=np.where(usable, start, -np.inf),
        end=np.where(usable, end, -np.inf),
        can_start=usable,
        can_end=usable,
        null=(float(start[null]), float(end[null])),
        text=lambda i, j: context[low[i] : high[j]],
    )


@TASK_TYPES.register("SpanClassification", "Span")
class SpanClassification(SpanType):
    """SQuAD v1.1: the answer is a span of the passage."""

    metrics: ClassVar[tuple[str, ...]] = ("EmF1",)
    summary: ClassVar[str] = "the span of a passage that answers a question (SQuAD v1.1)"
    unanswerable: ClassVar[bool] = False

    def decode(self, rows: Rows, features: Rows, outputs: Sequence[dict[str, np.ndarray]]) -> list[Prediction]:
        """The best span over all windows of each passage, with its n-best list."""
        return [
            Prediction(
                {"id": row["id"], "prediction": answer.best, "probability": answer.nbest[0].probability},
                answer.best,
                {"nbest": [entry.record() for entry in answer.nbest]},
            )
            for row, answer in zip(rows, self._answers(rows, features, outputs), strict=True)
        ]

    def answer_text(self, prediction: Prediction) -> str:
        """The best span."""
        return str(prediction.value)


@TASK_TYPES.register("SpanClassificationYN")
class SpanClassificationYN(SpanType):
    """SQuAD v2.0: a span, or no answer when CLS beats the best span by more than a threshold tuned on labelled rows.

    `threshold` is 0 until `score` has tuned it; predictions that are decoded afterwards use the tuned value, and the
    ones scored are rewritten, so that all files of one evaluation agree.
    """

    metrics: ClassVar[tuple[str, ...]] = ("EmF12",)
    summary: ClassVar[str] = "a span of a passage or no answer, with a tuned threshold (SQuAD v2.0)"
    unanswerable: ClassVar[bool] = True

    def __init__(self, task: TaskDef) -> None:
        super().__init__(task)
        self.threshold, self.tunes = 0.0, True

    def decode(self, rows: Rows, features: Rows, outputs: Sequence[dict[str, np.ndarray]]) -> list[Prediction]:
        """The best span and by how much "no answer" beats it; value: the decoded `Answer`."""
        made = []
        for row, answer in zip(rows, self._answers(rows, features, outputs), strict=True):
            record = {
                "id": row["id"],
                "prediction": answer.text(self.threshold),
                "best_answer": answer.best,
                "null_score_diff": answer.null_score_diff,
            }
            made.append(Prediction(record, answer, {"nbest": [entry.record() for entry in answer.nbest]}))
        return made

    def answer_text(self, prediction: Prediction) -> str:
        """The best span, or "" at the present threshold."""
        return str(prediction.value.text(self.threshold))

    def restore(self, scores: Mapping[str, Any]) -> None:
        """The threshold that was tuned when these scores were made."""
        self.threshold = float(scores.get("best_f1_thresh") or 0.0)

    def follow(self, other: TaskType) -> None:
        """With that type's threshold, which `score` then leaves as it is."""
        assert isinstance(other, SpanClassificationYN)
        self.threshold, self.tunes = other.threshold, False

    def score(self, rows: Rows, predictions: Sequence[Prediction]) -> dict[str, float]:
        """Tunes the threshold for the best F1 (the official script's `best_f1_thresh`) and scores with it.

        The result holds it as `best_f1_thresh` beside `em`, `f1` and the parts for both kinds of questions. After
        `follow` these are of the threshold taken over, and `best_f1` says what the rows' own best would give.
        """
        golds = {str(i): gold for i, row in enumerate(rows) if (gold := accepted_texts(row)) is not None}
        if not golds:
            return {}
        best, threshold = self._tuned(golds, predictions)
        found = {"best_f1_thresh": threshold} | ({} if self.tunes else {"best_f1": best})
        if self.tunes:
            self.threshold = threshold
            for prediction in predictions:
                prediction.record["prediction"] = self.answer_text(prediction)
        return super().score(rows, predictions) | found

    @staticmethod
    def _tuned(golds: dict[str, list[str]], predictions: Sequence[Prediction]) -> tuple[float, float]:
        """(best F1 in percent, its threshold). golds: accepted texts by the number of the row."""
        answers = {key: predictions[int(key)].value for key in golds}
        odds = {key: answer.null_score_diff for key, answer in answers.items()}
        return squad_metrics.best_threshold(
            scores={key: squad_metrics.v2_question(answers[key].best, gold)[1] for key, gold in golds.items()},
            answered={key: bool(answers[key].best) for key in golds},
            no_answer=odds,
            has_answer={key: bool(gold) for key, gold in golds.items()},
            start=min(odds.values()) - 1.0,  # differences of logits may be negative: below all of them, all abstain
        )

    def files(self, predictions: Sequence[Prediction]) -> dict[str, Any]:
        """Those of v1.1, and `null_odds.json`: by how much "no answer" beats the best answer."""
        odds = {p.record["id"]: p.record["null_score_diff"] for p in predictions}
        return super().files(predictions) | {"null_odds.json": odds}
