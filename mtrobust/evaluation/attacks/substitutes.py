"""Substitutes for the words of a text, from a masked language model that reads the text as it is.

Works with WordPiece, byte-level BPE and SentencePiece: whether a piece begins or continues a word is found by decoding
it behind another word.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from mtrobust.errors import UserError
from mtrobust.evaluation.attacks.words import Word, in_case_of
from mtrobust.models.masked_lm import masked_lm_with_tokenizer

PIECES = 12  # a word of more pieces has no substitutes
PIECE_CHOICES = 4  # likeliest pieces looked at for the combinations, per place
_ANCHOR = "the"

Accept = Callable[[str, str], bool]  # (word, substitute) -> whether it may stand there


class Piece(NamedTuple):
    """An entry of the vocabulary that can be part of a word: its characters, and whether it begins one."""

    text: str
    begins: bool


class Place(NamedTuple):
    """A token of a text that is part of a word: its position, its number, its characters."""

    at: int
    token: int
    text: str


class SubstituteModel:
    """mlm: folder or hub name; top_k: likeliest tokens looked at per place; threshold: least score (logit) of a token
    that replaces a word of one piece, 0 for none; combinations: of pieces, for a word of several, 0 for none.

    Raises `UserError` when the model cannot be loaded or its tokenizer is not a fast one.
    """

    def __init__(
        self, mlm: str, device: torch.device, *, top_k: int, threshold: float, combinations: int, accept: Accept
    ) -> None:
        self.lm, self.tokenizer = masked_lm_with_tokenizer(mlm)
        self.lm.model.to(device)
        self.device, self.accept = device, accept
        self.top_k, self.threshold, self.combinations = min(top_k, self.lm.vocabulary), threshold, combinations
        self._backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if self._backend is None:
            raise UserError(f"--mlm: {mlm}: a fast tokenizer (tokenizer.json) is needed")
        positions = int(getattr(self.lm.model.config, "max_position_embeddings", 0) or 512)
        self.max_len = min(self.tokenizer.model_max_length, positions - 2, 512)
        # byte-level pieces know a blank before the word: the first word of a text shall look like the others
        plain, spaced = (self.tokenizer.tokenize(lead + _ANCHOR) for lead in ("", " "))
        self._lead = " " if len(spaced) == len(plain) else ""
        self._anchor: list[int] = self._ids(self._lead + _ANCHOR, special=False)
        self._anchor_text = self._decode(self._anchor)
        whole = self._ids(self._lead + _ANCHOR, special=True)
        at = next(i for i in range(len(whole)) if whole[i : i + len(self._anchor)] == self._anchor)
        self._head, self._tail = whole[:at], whole[at + len(self._anchor) :]
        self._special = set(self.tokenizer.all_special_ids)
        self._pieces: dict[int, Piece | None] = {}

    def of(self, words: Sequence[Word]) -> Substitutes:
        """Substitutes for the words of a text; one pass of the model."""
        parts, spans, length = [], [], len(self._lead)
        for word in words:
            for part in filter(None, (word.before, word.text, word.after)):
                # punctuation stands apart, so that the word's first piece begins a word
                parts.append(part)
                length += len(part) + 1
            end = length - 1 - (len(word.after) + 1 if word.after else 0)
            spans.append((end - len(word.text), end))
        text = self._lead + " ".join(parts)
        encoded = self.tokenizer(text, truncation=True, max_length=self.max_len, return_offsets_mapping=True)
        offsets, tokens = encoded.pop("offset_mapping"), encoded["input_ids"]
        inputs = {name: torch.tensor([values], device=self.device) for name, values in encoded.items()}
        scores, ids = self.lm.logits(inputs)[0].topk(self.top_k, dim=-1)
        places = []
        for (start, end), word in zip(spans, words, strict=True):
            covering = [i for i, (a, b) in enumerate(offsets) if a < end and b > start]
            complete = bool(covering) and offsets[covering[-1]][1] >= end
            usable = covering if complete and word.replaceable else []
            places.append([Place(i, tokens[i], text[slice(*offsets[i])].strip()) for i in usable])
        return Substitutes(self, words, places, scores.tolist(), ids.tolist())

    def piece(self, number: int) -> Piece | None:
        """An entry of the vocabulary; None for what is not part of a word (punctuation, special tokens, bytes)."""
        if number not in self._pieces:
            rest = self._decode([*self._anchor, number]).removeprefix(self._anchor_text)
            text = rest.strip()
            sound = (
                text and "\ufffd" not in text and text[0].isalnum() and text[-1].isalnum() and len(text.split()) == 1
            )
            usable = sound and number not in self._special
            self._pieces[number] = Piece(text, rest[0].isspace()) if usable else None
        return self._pieces[number]

    def by_perplexity(self, combinations: Sequence[Sequence[int]]) -> list[int]:
        """The order of combinations of equally many pieces by the model's mean loss on them, each read by itself
        between the special tokens, nothing masked."""
        rows = torch.tensor([[*self._head, *pieces, *self._tail] for pieces in combinations], device=self.device)
        logits = self.lm.logits({"input_ids": rows, "attention_mask": torch.ones_like(rows)})
        inside = slice(len(self._head), len(self._head) + len(combinations[0]))
        gold = rows[:, inside].unsqueeze(-1)
        losses = -logits[:, inside].log_softmax(-1).gather(-1, gold).squeeze(-1).mean(-1)
        return torch.sort(losses, stable=True).indices.tolist()

    def _ids(self, text: str, special: bool) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=special)["input_ids"])

    def _decode(self, ids: list[int]) -> str:
        backend: Any = self._backend
        return str(backend.decode(ids, skip_special_tokens=False))


class Substitutes:
    """Substitutes for each word of one text, the likeliest first. Words of several pieces are worked out when asked.

    places: the tokens of each word, none where it has no substitutes (stop words, behind the cut); scores, ids: of the
    likeliest tokens by position, by falling score.
    """

    def __init__(
        self,
        model: SubstituteModel,
        words: Sequence[Word],
        places: Sequence[list[Place]],
        scores: list[list[float]],
        ids: list[list[int]],
    ) -> None:
        self._model, self._words, self._scores, self._ids = model, words, scores, ids
        self._known = {i: self._accepted(i, self._single(*found)) for i, found in enumerate(places) if len(found) == 1}
        self._combined = {i: self._combine(found) for i, found in enumerate(places) if len(found) > 1}

    def possible(self) -> list[int]:
        """Words that may have substitutes; those of several pieces may turn out to have none."""
        return [i for i in range(len(self._words)) if self._known.get(i) or self._combined.get(i)]

    def at(self, index: int) -> list[str]:
        """The substitutes of a word, without repetition."""
        if index not in self._known:
            found = self._combined.get(index, [])
            order = self._model.by_perplexity([ids for ids, _ in found]) if found else []
            self._known[index] = self._accepted(index, [found[i][1] for i in order])
        return self._known[index]

    def _single(self, place: Place) -> list[str]:
        """Words in the place of a word of one piece."""
        least = self._model.threshold or float("-inf")
        likely = zip(self._ids[place.at], self._scores[place.at], strict=True)
        pieces = [self._model.piece(i) for i, score in likely if score >= least]
        return [piece.text for piece in pieces if piece is not None and piece.begins]

    def _combine(self, places: Sequence[Place]) -> list[tuple[tuple[int, ...], str]]:
        """The combinations of pieces with the largest sum of scores, as (pieces, word)."""
        if len(places) > PIECES or not self._model.combinations:
            return []
        best: list[tuple[float, tuple[int, ...], str]] = [(0.0, (), "")]
        for place in places:
            choices = self._choices(place)
            longer = [(s + score, (*ids, i), word + text) for s, ids, word in best for score, i, text in choices]
            best = sorted(longer, key=lambda item: -item[0])[: self._model.combinations]
        return [(ids, word) for _, ids, word in best]

    def _choices(self, place: Place) -> list[tuple[float, int, str]]:
        """(score, number, characters) of what may stand for one piece of a word: pieces that begin or continue a word
        as it does. Punctuation within the word (a hyphen) stays; for what cannot be read there is nothing."""
        own = self._model.piece(place.token)
        if own is None:
            inside = place.text and not any(map(str.isalnum, place.text))
            return [(0.0, place.token, place.text)] if inside else []
        likely = list(zip(self._ids[place.at], self._scores[place.at], strict=True))[:PIECE_CHOICES]
        pieces = [(score, i, self._model.piece(i)) for i, score in likely]
        return [(s, i, piece.text) for s, i, piece in pieces if piece is not None and piece.begins == own.begins]

    def _accepted(self, index: int, found: Sequence[str]) -> list[str]:
        word = self._words[index].text
        cased = dict.fromkeys(in_case_of(word, substitute) for substitute in found)
        return [substitute for substitute in cased if self._model.accept(word, substitute)]
