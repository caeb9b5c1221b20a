"""Masked language modelling: some tokens of a text are hidden, and the encoder's vocabulary is predicted there."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from mtrobust.errors import UserError
from mtrobust.tasks.base import TASK_TYPES, Batch, Column, EncoderInfo, HeadContract, Prediction, RowError, TaskType
from mtrobust.tasks.metrics import METRICS
from mtrobust.tasks.sequence import Rows, checked_text

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedTokenizerBase

    from mtrobust.tasks.taskdef import TaskDef

HIDDEN, RANDOM = 0.8, 0.1  # of the chosen tokens: share that becomes the mask token, and a random one; the rest stays


def block_key(row_id: str, block: int) -> int:
    """A 63-bit number of one block of a row: masks are keyed by it, so they are the row's own in any file or batch."""
    digest = hashlib.blake2b(f"{block}\x1f{row_id}".encode(errors="backslashreplace"), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def choose_tokens(words: np.ndarray, share: float, whole_words: bool, random: np.random.Generator) -> np.ndarray:
    """The tokens of one text that are to be predicted: int64 positions, ascending.

    words: int [T], the word that each token belongs to, -1 for tokens that are never chosen. As many tokens as `share`
    of the others, rounded up or down at random so that the mean is the share, but at least one where there is one. With
    whole_words, words are taken in random order as long as they fit into that number (the first one in any case).
    """
    import numpy as np

    places = np.flatnonzero(words >= 0)
    wanted = max(1, int(share * len(places) + random.random()))
    if not whole_words:
        return np.sort(random.permutation(places)[:wanted])
    names, sizes = np.unique(words[places], return_counts=True)
    taken: list[int] = []
    left = wanted
    for i in random.permutation(len(names)):
        if sizes[i] <= left or not taken:
            taken.append(int(names[i]))
            left -= int(sizes[i])
        if left <= 0:
            break
    return places[np.isin(words[places], taken)]


def random_tokens(count: int, size: int, special: Sequence[int], random: np.random.Generator) -> np.ndarray:
    """int64 [count] ids drawn evenly from a vocabulary of that size without its special tokens (ascending)."""
    drawn = random.integers(0, size - len(special), count)
    for i in special:  # leave a gap at each
        drawn += drawn >= i
    return drawn


@TASK_TYPES.register("MaskLM")
class MaskedLM(TaskType):
    """The family's own language-model head, its output matrix tied to the encoder's word embeddings.

    A text is cut into blocks of `max_len` tokens, one feature each. Which tokens are hidden is drawn anew in every
    training step, by seed, step and row; in evaluation the row alone decides. A text needs no label: every row counts
    as labelled.
    """

    data_formats: ClassVar[tuple[str, ...]] = ("MLM",)
    metrics: ClassVar[tuple[str, ...]] = ("MaskAcc", "PPL")
    columns: ClassVar[dict[str, Column]] = {
        "labelled": Column("bool"),
        "key": Column("int64"),
        "word": Column("int32", "token", pad=-1),
    }
    summary: ClassVar[str] = "masked language modelling: the hidden tokens of a text, no labels needed"
    self_labelled: ClassVar[bool] = True

    @classmethod
    def check(cls, task: TaskDef) -> list[str]:
        """No named labels; a metric that can compare models."""
        faults = ["labels: MaskLM predicts the encoder's vocabulary, not named labels"] if task.labels else []
        if not any(METRICS[name].key for name in task.metric_meta if name in METRICS):
            faults.append("metric_meta: PPL: lower is better, so it cannot compare checkpoints; give MaskAcc too")
        return faults

    def parse_row(self, raw: dict[str, Any]) -> dict[str, Any]:
        """Checks `text`; a label is of no concern."""
        if raw.get("text_pair") is not None:
            raise RowError("text_pair", "is given, but MaskLM has one text a row (`prep text --rows` makes two of it)")
        return raw | {"text": checked_text(raw, "text")}

    def is_labelled(self, row: dict[str, Any]) -> bool:
        """Always: the text is its own label."""
        return True

    def featurize(
        self, rows: Rows, tokenizer: PreTrainedTokenizerBase, max_len: int, training: bool
    ) -> list[dict[str, Any]]:
        """Consecutive blocks of a text, special tokens around each. Raises `UserError` for a tokenizer without a mask
        token or a vocabulary file that tells words apart."""
        import numpy as np

        if tokenizer.mask_token_id is None or not tokenizer.is_fast:
            lacks = "is not a fast one (tokenizer.json)" if not tokenizer.is_fast else "has no mask token"
            raise UserError(f"{self.task.name}.task_type: MaskLM: the encoder's tokenizer {lacks}")
        encoded = tokenizer(
            [row["text"] for row in rows],
            truncation=True,
            max_length=max_len,
            return_overflowing_tokens=True,
            return_attention_mask=False,
        )
        names = [name for name in ("input_ids", "token_type_ids") if name in encoded]
        special = list(set(tokenizer.all_special_ids))
        features: list[dict[str, Any]] = []
        block = before = -1
        for i, row in enumerate(encoded["overflow_to_sample_mapping"]):
            block, before = (block + 1 if row == before else 0), row
            feature: dict[str, Any] = {name: np.asarray(encoded[name][i], dtype=np.int32) for name in names}
            words = np.array([-1 if word is None else word for word in encoded.word_ids(i)], dtype=np.int32)
            words[np.isin(feature["input_ids"], special)] = -1  # also those that stand in the text, such as unknown
            key = block_key(rows[row]["id"], block)
            features.append(feature | {"row": row, "labelled": True, "key": key, "word": words})
        return features

    def drawn(self, batch: Batch, tokenizer: PreTrainedTokenizerBase, key: tuple[int, ...] = ()) -> Batch:
        """The batch with tokens hidden in `input_ids`; targets: `labels` int64 [B, T], their ids, `IGNORED` elsewhere,
        and `labelled` as it was."""
        import numpy as np
        import torch

        from mtrobust.tasks.heads import IGNORED

        size, mask = len(tokenizer), tokenizer.mask_token_id
        special = sorted(i for i in set(tokenizer.all_special_ids) if i < size)
        ids = batch.inputs["input_ids"].numpy().copy()
        labels = np.full_like(ids, IGNORED)
        keys, words = batch.targets["key"].tolist(), batch.targets["word"].numpy()
        for row, name in enumerate(keys):
            random = np.random.default_rng((*key, name))
            places = choose_tokens(words[row], self.task.mlm_probability, self.task.whole_word_masking, random)
            labels[row, places] = ids[row, places]
            fate, others = random.random(len(places)), random_tokens(len(places), size, special, random)
            ids[row, places[fate < HIDDEN]] = mask
            exchanged = (fate >= HIDDEN) & (fate < HIDDEN + RANDOM)
            ids[row, places[exchanged]] = others[exchanged]
        inputs = batch.inputs | {"input_ids": torch.from_numpy(ids)}
        targets = {"labels": torch.from_numpy(labels), "labelled": batch.targets["labelled"]}
        return replace(batch, inputs=inputs, targets=targets)

    def build_head(self, info: EncoderInfo) -> HeadContract:
        """The family's language-model head. Raises `UserError` for a family that has none."""
        from mtrobust.tasks.heads import MaskedLMHead

        try:
            return MaskedLMHead(info, self.task.dropout_p)
        except UserError as error:
            raise UserError([f"{self.task.name}.task_type: MaskLM: {fault}" for fault in error.faults]) from error

    def decode(self, rows: Rows, features: Rows, outputs: Sequence[dict[str, np.ndarray]]) -> list[Prediction]:
        """How many tokens of a text were hidden, how many of them are right, and their mean loss in nats."""
        sums = [[0, 0, 0.0] for _ in rows]
        for feature, output in zip(features, outputs, strict=True):
            of_row = sums[int(feature["row"])]
            of_row[0] += int(output["masked"].sum())
            of_row[1] += int(output["hit"].sum())
            of_row[2] += float(output["nll"].sum(dtype="float64"))
        made = []
        for row, (masked, right, nll) in zip(rows, sums, strict=True):
            record = {"id": row["id"], "masked": masked, "right": right, "nll": nll / masked if masked else None}
            made.append(Prediction(record, {"masked": masked, "tokens": (right, nll)}))
        return made

    def score(self, rows: Rows, predictions: Sequence[Prediction]) -> dict[str, float]:
        """Accuracy of the masked tokens in percent (`acc`), perplexity (`ppl`): over all tokens, not the mean of rows.
        Empty where nothing could be masked."""
        sizes = [prediction.value["masked"] for prediction in predictions]
        scores: dict[str, float] = {}
        for name in self.task.metric_meta:
            if sum(sizes):
                scores |= METRICS[name](sizes, [p.value[METRICS[name].reads] for p in predictions])
        return scores

    def main_metric(self) -> str:
        """`acc`."""
        return next(METRICS[name].key for name in self.task.metric_meta if METRICS[name].key)
