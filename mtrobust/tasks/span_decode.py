"""From start and end logits to answers: n-best lists over the windows of a passage, with or without "no answer".

The rules (candidates from the n best starts and ends, order among equals, placeholder texts, the null score as the
smallest over the windows) are those of the SQuAD evaluation code that came with BERT and that SWEP used. Where the
text of a candidate comes from is up to the caller: offsets into the passage in training and evaluation here, or
`final_text`, which projects word pieces back onto the words they were made from, where no offsets are known.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Window:
    """One window over a passage.

    start, end: logits [T]; can_start, can_end: bool [T], positions at which an answer may begin or end; null: start
    and end logit of "no answer here"; text: what the tokens from i to j (inclusive) say.
    """

    start: np.ndarray
    end: np.ndarray
    can_start: np.ndarray
    can_end: np.ndarray
    null: tuple[float, float]
    text: Callable[[int, int], str]


@dataclass(frozen=True)
class Candidate:
    """An entry of an n-best list. text "" means no answer."""

    text: str
    start_logit: float
    end_logit: float
    probability: float = 0.0

    @property
    def score(self) -> float:
        """Sum of both logits."""
        return self.start_logit + self.end_logit

    def record(self) -> dict[str, Any]:
        """As in the official nbest_predictions.json."""
        return {
            "text": self.text,
            "probability": self.probability,
            "start_logit": self.start_logit,
            "end_logit": self.end_logit,
        }


@dataclass(frozen=True)
class Answer:
    """A decoded question. best: the text of the best candidate that is an answer ("" if there is none);
    null_score_diff: score of "no answer" minus that of the best answer (None where every question has an answer)."""

    best: str
    nbest: list[Candidate]
    null_score_diff: float | None

    def text(self, threshold: float = 0.0) -> str:
        """The answer, or "" when abstaining is better by more than `threshold`."""
        return "" if self.null_score_diff is not None and self.null_score_diff > threshold else self.best


def top_indexes(logits: np.ndarray, n: int) -> np.ndarray:
    """Positions of the n largest logits, largest first, the lower index first among equals; int64 [<= n]."""
    import numpy as np

    return np.argsort(-np.asarray(logits, dtype=np.float64), kind="stable")[:n]


def _candidates(window: Window, n_best: int, max_length: int) -> list[tuple[float, float, int, int]]:
    """(start logit, end logit, i, j) of the valid spans between the n best starts and ends, in order of both ranks."""
    import numpy as np

    starts, ends = top_indexes(window.start, n_best), top_indexes(window.end, n_best)
    length = ends[None, :] - starts[:, None] + 1
    valid = window.can_start[starts][:, None] & window.can_end[ends][None, :] & (length >= 1) & (length <= max_length)
    a, b = np.nonzero(valid)
    i, j = starts[a], ends[b]
    return list(zip(window.start[i].tolist(), window.end[j].tolist(), i.tolist(), j.tolist(), strict=True))


def _with_probabilities(entries: Iterable[Candidate]) -> list[Candidate]:
    import numpy as np

    entries = list(entries)
    scores = np.array([entry.score for entry in entries], dtype=np.float64)
    weights = np.exp(scores - scores.max())
    shares = (weights / weights.sum()).tolist()
    return [Candidate(e.text, e.start_logit, e.end_logit, p) for e, p in zip(entries, shares, strict=True)]


def decode_question(
    windows: Sequence[Window],
    null: bool,
    n_best: int,
    max_length: int,
    placeholder: str = "",
) -> Answer:
    """The answer of one question from all windows of its passage (at least one).

    null: the question may have no answer; n_best: starts, ends and entries of the list that are looked at; max_length:
    of an answer, in tokens; placeholder: the text that stands in the list where no span is valid.
    """
    spans = [(*c, window) for window in windows for c in _candidates(window, n_best, max_length)]
    spans.sort(key=lambda s: -(s[0] + s[1]))  # stable: windows, then ranks, decide among equals
    nothing = Candidate("", *min((window.null for window in windows), key=sum))
    entries: dict[str, Candidate] = {}
    for start_logit, end_logit, i, j, window in spans:
        if null and "" not in entries and nothing.score > start_logit + end_logit:
            entries[""] = nothing  # its place in the order; among equals spans come first
        if len(entries) >= n_best:
            break
        text = window.text(i, j)
        if text not in entries:
            entries[text] = Candidate(text, start_logit, end_logit)
    if null:
        entries.setdefault("", nothing)
    listed = list(entries.values())
    if not listed or (null and len(listed) == 1):
        listed.insert(0, Candidate(placeholder, 0.0, 0.0))
    listed = _with_probabilities(listed)
    best = next((entry for entry in listed if entry.text), listed[0])
    return Answer(best.text, listed, nothing.score - best.score if null else None)


def _is_punctuation(char: str) -> bool:
    ascii_symbol = char.isascii() and not char.isalnum() and "!" <= char <= "~"
    return ascii_symbol or unicodedata.category(char).startswith("P")


def _is_cjk(char: str) -> bool:
    blocks = ((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0xF900, 0xFAFF), (0x20000, 0x2CEAF), (0x2F800, 0x2FA1F))
    return any(low <= ord(char) <= high for low, high in blocks)


def basic_words(text: str, lower: bool) -> list[str]:
    """BERT's splitting before word pieces: no control characters, punctuation and CJK characters apart, and with
    `lower` small letters without accents."""
    pieces = []
    for char in text:
        category = unicodedata.category(char)
        if char in " \t\n\r" or category == "Zs":
            pieces.append(" ")
        elif char not in "\0\ufffd" and not category.startswith("C"):
            pieces.append(f" {char} " if _is_cjk(char) else char)
    words = []
    for word in unicodedata.normalize("NFC", "".join(pieces)).split():
        if lower:
            word = "".join(c for c in unicodedata.normalize("NFD", word.lower()) if unicodedata.category(c) != "Mn")
        words.append("".join(f" {c} " if _is_punctuation(c) else c for c in word))
    return " ".join(words).split()


def final_text(pieces_text: str, original: str, lower: bool) -> str:
    """The part of `original` that `pieces_text` (normalised, joined word pieces) was made from.

    Both are compared without spaces, character by character; `original` comes back whole where they cannot be aligned.
    """
    normal = " ".join(basic_words(original, lower))
    at = normal.find(pieces_text)
    places = [i for i, char in enumerate(original) if char != " "]
    normal_places = [i for i, char in enumerate(normal) if char != " "]
    if at < 0 or len(places) != len(normal_places):
        return original
    rank = {place: k for k, place in enumerate(normal_places)}
    first, last = rank.get(at), rank.get(at + len(pieces_text) - 1)
    if first is None or last is None:
        return original
    return original[places[first] : places[last] + 1]


def join_pieces(tokens: Sequence[str]) -> str:
    """Word pieces as a text: continuations (`##`) are joined to what stands before them."""
    return " ".join(" ".join(tokens).replace(" ##", "").split())
