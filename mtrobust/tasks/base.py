"""What a task type is made of: rows, features, a head, views to compare two passes, decoding and scoring.

This module imports no torch at run time, so that definitions and rows can be checked in a fraction of a second.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from mtrobust.registry import Registry

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

    from mtrobust.tasks.taskdef import TaskDef


class RowError(ValueError):
    """A row that cannot be used: the field at fault and what is allowed there."""

    def __init__(self, field: str, message: str) -> None:
        self.field, self.message = field, message
        super().__init__(f"{field}: {message}")


@dataclass(frozen=True)
class Column:
    """One extra feature column. `shape`: one number per feature, one per token, a vector that is equally long in all
    features of the task, or a list of any length (in a batch padded to the longest)."""

    dtype: Literal["int32", "int64", "float32", "bool"]
    shape: Literal["scalar", "token", "vector", "list"] = "scalar"
    pad: float = 0
    in_batch: bool = True  # False: kept for decoding only (offsets), not sent to the device


@dataclass
class Batch:
    """One one-task batch. All tensors share the first dimension B.

    inputs: what the encoder takes (`input_ids`, `attention_mask` int64 [B, T], `token_type_ids` where the family has
        them); targets: the task type's columns, among them `labelled` bool [B]; row_ids: int64 [B], one number per
        feature, unique within the task and the same in every epoch, rank and batch (noise is keyed by it).
    norms: what each count of this optimisation step sums to over all micro-batches and ranks, divided by the number
        of ranks; None = this batch alone.
    """

    task: str
    inputs: dict[str, Tensor]
    targets: dict[str, Tensor]
    row_ids: Tensor
    step: int = 0
    norms: dict[str, float] | None = None

    def to(self, device: Any) -> Batch:
        """The same batch with its tensors on `device`."""
        move = lambda tensors: {k: v.to(device, non_blocking=True) for k, v in tensors.items()}  # noqa: E731
        return Batch(self.task, move(self.inputs), move(self.targets), self.row_ids.to(device), self.step, self.norms)


@dataclass
class View:
    """One way in which two passes over the same batch are compared.

    logits: [n, C] for `categorical` (unnormalised log-probabilities), [n, 1] for `real`; row: int64 [n], the example
    each item belongs to; support: bool [n, C], the classes that count (None = all).
    """

    logits: Tensor
    row: Tensor
    support: Tensor | None = None
    kind: Literal["categorical", "real"] = "categorical"


class EncoderInfo(Protocol):
    """What a head may know of the encoder without importing it."""

    model_type: str
    hidden_size: int
    num_layers: int
    head_dropout: float  # before the output layer where a definition says nothing

    def family_head(
        self,
        kind: Literal["sequence", "choice", "token", "span", "mlm", "decoder"],
        num_labels: int | None,
        dropout: float | None,
    ) -> nn.Module:
        """The family's own head (as its Hugging Face class for the kind has it), freshly initialised.

        Called as `head(last, pooled, inputs) -> Tensor`: `[B, num_labels]` for sequence, `[B, 1]` for choice (one score
        per text), `[B, T, num_labels]` for token, `[B, T, 2]` for span, `[B, T, vocabulary]` for mlm, whose output
        matrix is the encoder's word-embedding table itself (num_labels is not read for choice and mlm). Families
        without such a class get a linear layer over the mean of the real tokens (sequence, choice) or per token (token,
        span); for mlm they are refused with a `UserError`. Its `first_only` says whether `last[:, :1]` will do.

        decoder: the family's decoder with its output layer, for families that have one (others: `UserError`); see
        `models.decoder.DecoderNet`, which has further methods. num_labels is not read; dropout: all of the decoder's.
        """


@dataclass
class HeadInput:
    """What heads read: last: [B, T, H] states after the family's final norm ([B, 1, H] for a head that reads the first
    token only); pooled: [B, H] or None."""

    last: Tensor
    pooled: Tensor | None


if TYPE_CHECKING:
    _Module = nn.Module
else:
    _Module = object


class HeadContract(ABC, _Module):
    """The methods of a head; concrete heads derive from `mtrobust.tasks.heads.Head`, an `nn.Module`."""

    reads: Literal["all", "first"] = "all"  # `first`: of the last states only the first token's, or the pooled one
    token_outputs: ClassVar[frozenset[str]] = frozenset()  # of `report`, with one value per token: cut to the length
    nll_factor: ClassVar[float] = 1.0  # times `loss`: a negative log-likelihood (squared error: 1/2, at variance 1)

    @abstractmethod
    def forward(self, read: HeadInput, batch: Batch) -> dict[str, Tensor]:
        """Named outputs (logits)."""

    @abstractmethod
    def loss(self, out: dict[str, Tensor], batch: Batch) -> Tensor:
        """Loss per example, [B], at least float32; rows without a label contribute 0."""

    @abstractmethod
    def count(self, batch: Batch) -> Tensor:
        """What the mean of `loss` divides by: the number of labelled rows (a 0-d tensor), known before the pass."""

    @abstractmethod
    def views(self, out: dict[str, Tensor], batch: Batch) -> list[View]:
        """How two passes are compared; structural masks only, so unlabelled rows have views too."""

    @abstractmethod
    def items(self, batch: Batch) -> Tensor:
        """The number of items of a view (a 0-d tensor), known before the pass: what a regulariser's mean divides by."""

    def report(self, out: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """What evaluation keeps of the outputs and hands to `decode`: tensors whose first dimension is B. Default: the
        outputs themselves; a head whose outputs are per item, or large, gives figures of them."""
        return out

    def predict(self, read: HeadInput, batch: Batch) -> dict[str, Tensor]:
        """What evaluation keeps of a batch. Default: `report` of a forward pass; a head that writes text has no use for
        one, since its forward pass reads the text that is to be written."""
        return self.report(self(read, batch), batch)

    def take_pretrained(self, source: str) -> list[str]:
        """Takes the weights that the head shares with no encoder but with its checkpoint; source: that folder or hub
        name. Returns what is not in it, a line each. Default: a head of fresh weights, for which nothing is there."""
        return []


@dataclass
class Prediction:
    """What `decode` makes of one row. record: the line of the predictions file; value: what `score` compares."""

    record: dict[str, Any]
    value: Any
    extra: dict[str, Any] = field(default_factory=dict)


class TaskType(ABC):
    """One kind of task. A subclass in one file, registered by one decorator, is all a new kind needs."""

    data_formats: ClassVar[tuple[str, ...]]
    metrics: ClassVar[tuple[str, ...]]  # allowed names; the first is the default
    columns: ClassVar[dict[str, Column]]  # beside input_ids, token_type_ids and row
    summary: ClassVar[str]  # one line for `mtrobust tasks`
    self_labelled: ClassVar[bool] = False  # every row is its own label, so that none can be held out
    needs_labels: ClassVar[bool] = False  # a row without a label has no views, so it cannot be trained on
    soft_labels: ClassVar[bool] = False  # rows may have a `soft_label`, and `soft_row` makes them
    tokenised: ClassVar[bool] = False  # rows may come as token ids (see `mtrobust.tasks.tokenised`)
    head_choice: ClassVar[bool] = False  # a vector per example is read, so `head_input` and `enable_san` have a meaning
    together: ClassVar[bool] = False  # all features of a row stand in the same training batch, one after the other

    def __init__(self, task: TaskDef) -> None:
        self.task = task

    @classmethod
    @abstractmethod
    def check(cls, task: TaskDef) -> list[str]:
        """Faults of a definition as `key: message`; empty when it is sound."""

    @abstractmethod
    def parse_row(self, raw: dict[str, Any]) -> dict[str, Any]:
        """The row with its fields checked and typed (label names become ids). Raises `RowError`."""

    def check_tokenised(  # noqa: B027  (most types read texts only)
        self, row: dict[str, Any], tokenizer: PreTrainedTokenizerBase, max_len: int, training: bool
    ) -> None:
        """Raises `RowError` where a parsed row of token ids is not for this tokenizer, length or use. Only where
        `tokenised`; `featurize` asks it too."""

    @abstractmethod
    def featurize(
        self, rows: Sequence[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, max_len: int, training: bool
    ) -> list[dict[str, Any]]:
        """Features of parsed rows: dicts with `input_ids`, `token_type_ids` if the tokenizer makes them, `row` (index
        into `rows`; one row may become several features, never none) and every name in `columns`."""

    def remark(self, column: Callable[[str], np.ndarray]) -> str | None:
        """What a user should know of a split's features before they are used; None for nothing.

        column: gives the values of a column that has one number per feature, [n].
        """
        return None

    def drawn(self, batch: Batch, tokenizer: PreTrainedTokenizerBase, key: tuple[int, ...] = ()) -> Batch:
        """The batch as one pass sees it: what is drawn anew for each pass over a row (which tokens are masked) is drawn
        here, by default nothing.

        Called for every batch after collation, on the CPU, before counts are asked. key: (seed, step) in training, ()
        in evaluation, where a row must look the same every time. Draws follow from the key and the row alone, never
        from a global generator, other rows or padding: a resumed run and micro-batches then see the same.
        """
        return batch

    def is_labelled(self, row: dict[str, Any]) -> bool:
        """Whether a parsed row has what the task's loss compares with."""
        return row.get("label") is not None or row.get("answers") is not None

    @abstractmethod
    def build_head(self, info: EncoderInfo) -> HeadContract:
        """A new head (an `nn.Module`)."""

    def detokenized(
        self, outputs: Sequence[dict[str, np.ndarray]], tokenizer: PreTrainedTokenizerBase
    ) -> Sequence[dict[str, Any]]:
        """Outputs as `decode` takes them: token ids turned into text, for types whose head reports any."""
        return outputs

    @abstractmethod
    def decode(
        self,
        rows: Sequence[dict[str, Any]],
        features: Sequence[dict[str, Any]],
        outputs: Sequence[dict[str, np.ndarray]],
    ) -> list[Prediction]:
        """One prediction per row. `outputs[i]` is what the head's `report` says of `features[i]`: per-token arrays are
        cut to its length."""

    @abstractmethod
    def score(self, rows: Sequence[dict[str, Any]], predictions: Sequence[Prediction]) -> dict[str, float]:
        """The definition's metrics over labelled rows, in percent (lower-case names: `acc`, `f1`, `em`, `pearson`)."""

    @abstractmethod
    def main_metric(self) -> str:
        """The key of `score` that stands for the task when checkpoints are compared."""

    def carried(self, prediction: Prediction, row: Mapping[str, Any], names: Mapping[str, str]) -> Prediction:
        """A prediction of a task's head as one about a row of an evaluation set, whose own definition this type has.

        names: the set's label for each of the task's. Default, for types without named labels: the prediction as it
        is, with the row's label in its record.
        """
        if row.get("label") is not None:
            prediction.record["label"] = row["label"]
        return prediction

    def shown(self, row: Mapping[str, Any], prediction: Prediction) -> dict[str, Any]:
        """What a person is shown of a parsed row and its prediction, by name: its texts, `gold`, `prediction`.

        Default: all texts and lists of texts that the row has; of a record without `prediction` all its figures."""
        texts = {name: value for name, value in row.items() if name not in ("id", "label") and _is_text(value)}
        record = prediction.record
        figures = {name: value for name, value in record.items() if name not in ("id", "label")}
        said = {"prediction": record["prediction"]} if "prediction" in record else figures
        return {
            **{name: value if isinstance(value, str) else " ".join(value) for name, value in texts.items()},
            **({"gold": record["label"]} if record.get("label") is not None else {}),
            **{name: f"{value:.3f}" if isinstance(value, float) else value for name, value in said.items()},
        }

    def soft_row(self, row: Mapping[str, Any], predictions: Sequence[Prediction]) -> dict[str, Any]:
        """A parsed row as a training row with `soft_label`, the mean of what several models predict of it. Only where
        `soft_labels`."""
        raise NotImplementedError

    def restore(self, scores: Mapping[str, Any]) -> None:  # noqa: B027 (most types tune nothing)
        """Takes over what an earlier `score` tuned (a threshold), from the figures that it gave."""

    def follow(self, other: TaskType) -> None:  # noqa: B027 (most types tune nothing)
        """From now on `score` keeps to what `other`, of the same class, has tuned on its own rows: an evaluation set is
        scored without a look at its labels."""

    def files(self, predictions: Sequence[Prediction]) -> dict[str, Any]:
        """Further files for the run folder, by name, as JSON-able objects (SQuAD's official formats)."""
        return {}


def _is_text(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(part, str) for part in value))


TASK_TYPES: Registry[type[TaskType]] = Registry("task type")
