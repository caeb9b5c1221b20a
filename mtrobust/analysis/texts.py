"""One text of an analysis, and the words of a sequence of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from mtrobust.analysis.base import TextOptions
from mtrobust.errors import UserError
from mtrobust.tasks.base import RowError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from mtrobust.analysis.probe import Subject

_FIELDS = {"text": ("text", "question"), "text_pair": ("text_pair", "context")}  # an option's names in rows
_MARKS = ("\u2581", "\u0120")  # how a SentencePiece and a byte-level tokenizer mark the beginning of a word
_PIECE = "##"  # how WordPiece marks what goes on
_LONG = 1 << 20


class Word(NamedTuple):
    """A word of a sequence. places: of its tokens; special: a token that is no word."""

    text: str
    places: list[int]
    special: bool = False


@dataclass
class Text:
    """A text as a run reads it. title: the row's id, or the text; feature: as the task type makes it."""

    title: str
    feature: dict[str, Any]
    words: list[Word]


def read_text(subject: Subject, task: str, options: TextOptions) -> Text:
    """The text that the options name. Raises `UserError` for one that is too long or lacks a part."""
    row = _given(subject, task, options) if options.text is not None else _of_split(subject, task, options)
    place = "--text" if options.text is not None else f"row {row['id']}"
    definition, limit = subject.task(task), subject.max_len(task)
    (whole, *_) = definition.type.featurize([row], subject.run.tokenizer, _LONG, training=True)
    if len(whole["input_ids"]) > limit:
        raise UserError(f"{place}: {len(whole['input_ids'])} tokens; task {task} of {subject.path} takes {limit}")
    features = subject.features(task, [row])
    if len(features) > 1:
        raise UserError(f"{place}: task {task} makes {len(features)} inputs of a row; one can be looked at")
    feature = features[0]
    words = words_of(subject.run.tokenizer, feature["input_ids"].tolist())
    return Text(place if options.text is None else options.text, feature, words)


def _given(subject: Subject, task: str, options: TextOptions) -> dict[str, Any]:
    """A row made of the flags; the task type takes the fields that it knows."""
    raw: dict[str, Any] = {"id": "text"}
    for option, names in _FIELDS.items():
        if getattr(options, option) is not None:
            raw |= dict.fromkeys(names, getattr(options, option))
    try:
        return {**raw, **subject.task(task).type.parse_row(raw)}
    except RowError as error:
        flag = next((flag for flag, names in _FIELDS.items() if error.field in names), "text")
        raise UserError(f"--{flag}: task {task}: {error.message}") from error


def _of_split(subject: Subject, task: str, options: TextOptions) -> dict[str, Any]:
    rows = subject.rows(task, options.split, options.data_dir)
    if options.row is None:
        return rows[0]
    row = next((row for row in rows if row["id"] == options.row), None)
    if row is None:
        raise UserError(f"--row: {options.row}: no such id in the {options.split} split of {task} ({len(rows)} rows)")
    return row


def find_word(text: Text, word: str) -> Word:
    """The first place of a word in a text, in any case. Raises `UserError` naming the words that are there."""
    wanted = word.strip().lower()
    found = next((one for one in text.words if one.text.lower() == wanted and not one.special), None)
    if found is None:
        there = ", ".join(dict.fromkeys(one.text for one in text.words if is_word(one)))
        raise UserError(f"--word: {word}: not in the text ({there})")
    return found


def is_word(word: Word) -> bool:
    """Whether it has a letter or digit and is no special token."""
    return not word.special and any(map(str.isalnum, word.text))


def words_of(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[Word]:
    """The words of a sequence, in order: pieces of a word together, punctuation and special tokens for themselves."""
    special, marked = set(tokenizer.all_special_ids), has_marks(tokenizer)
    found: list[Word] = []
    for place, token in enumerate(tokenizer.convert_ids_to_tokens(list(ids))):
        plain = token.removeprefix(_PIECE) if not marked else token.lstrip("".join(_MARKS))
        if ids[place] in special:
            found.append(Word(token, [place], True))
            continue
        text = plain if not marked else tokenizer.convert_tokens_to_string([token]).strip()
        if found and _goes_on(found[-1], token, text, marked):
            found[-1] = Word(found[-1].text + text, [*found[-1].places, place])
        else:
            found.append(Word(text, [place]))
    return found


@lru_cache(maxsize=16)  # the vocabulary is made anew at each question for it
def has_marks(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether tokens mark the beginnings of words (else WordPiece's `##` marks what goes on)."""
    vocabulary = tokenizer.get_vocab()
    return sum(token.startswith(_MARKS) for token in vocabulary) > sum(token.startswith(_PIECE) for token in vocabulary)


def _goes_on(before: Word, token: str, text: str, marked: bool) -> bool:
    """Whether a token belongs to the word before it."""
    if before.special:
        return False
    if not marked:
        return token.startswith(_PIECE)
    return not token.startswith(_MARKS) and any(map(str.isalnum, text)) and any(map(str.isalnum, before.text))
