"""A victim that is a rule over words, and substitutes from a table: attacks whose outcome can be worked out by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mtrobust.evaluation.attacks.bert_attack import BertAttack, Options
from mtrobust.evaluation.attacks.words import Word


class RuleVictim:
    """Two labels; the log-odds of label 1 are the sum of the words' weights. Sees the first `sees` words only."""

    mask = "[MASK]"

    def __init__(self, weights: Mapping[str, float], batch_size: int = 3, sees: int = 1000) -> None:
        self.weights, self.batch_size, self.sees = weights, batch_size, sees
        self.asked: list[int] = []  # texts per call

    def features(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        return [{"input_ids": row["text"].lower().split()[: self.sees]} for row in rows]

    def probabilities(self, features: Sequence[Mapping[str, Any]]) -> np.ndarray:
        self.asked.append(len(features))
        odds = np.array([sum(self.weights.get(word, 0.0) for word in one["input_ids"]) for one in features])
        positive = 1 / (1 + np.exp(-odds))
        return np.stack([1 - positive, positive], axis=1)

    def ask(self, text: str) -> tuple[list[float], list[Any]]:
        """As the plain attack asks."""
        features = self.features([{"text": text}])
        return self.probabilities(features)[0].tolist(), features[0]["input_ids"]


class Table:
    """In place of the masked language model: substitutes by word."""

    def __init__(self, table: Mapping[str, Sequence[str]]) -> None:
        self.table = table

    def of(self, words: Sequence[Word]) -> Found:
        return Found([list(self.table.get(word.text, ())) for word in words])


class Found:
    def __init__(self, found: list[list[str]]) -> None:
        self.found = found

    def possible(self) -> list[int]:
        return [i for i, substitutes in enumerate(self.found) if substitutes]

    def at(self, index: int) -> list[str]:
        return self.found[index]


class RuleAttack(BertAttack):
    """BERT-Attack with both."""

    def __init__(self, victim: RuleVictim, table: Mapping[str, Sequence[str]], **options: Any) -> None:
        self.options = Options(mlm="none", **options)
        self.victim, self.field, self.model = victim, "text", Table(table)  # type: ignore[assignment]
        self.vectors = self.similarity = None
