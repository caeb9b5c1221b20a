"""Questions that come as windows of token ids, as MT-DNN's preprocessing of SQuAD writes them. Needs no torch.

Its training lines have `start_position` and `end_position` in tokens, its evaluation lines `offset_mapping` in
characters of the `context`, and the `answer`: the former can be trained on, the latter predicted and scored.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from mtrobust.tasks.base import RowError
from mtrobust.tasks.tokenised import check_fit, parts_of

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedTokenizerBase

_POSITIONS = ("start_position", "end_position")


def parsed_windows(raw: Mapping[str, Any]) -> dict[str, Any]:
    """`windows`, `context` (None in training lines) and `answers` (accepted texts only; None where not given).

    Each window has `token_id`, `type_id`, `positions` (start and end, or None) and `offsets` (pairs, or None). Raises
    `RowError`.
    """
    if "windows" not in raw:
        raise RowError("windows", "is missing: a question's token ids stand in a list of windows")
    windows = [_window(window, f"windows[{i}].") for i, window in enumerate(raw["windows"])]
    context = raw.get("context")
    if context is not None and not isinstance(context, str):
        raise RowError("context", f"is {context!r:.60}; a text is needed")
    if context is None:
        windows = [window | {"offsets": None} for window in windows]  # of no use without the characters
    return {"windows": windows, "context": context, "answers": _answers(raw.get("answers", raw.get("answer")))}


def _window(window: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    length = len(window["token_id"])
    positions = offsets = None
    if any(window.get(name) is not None for name in _POSITIONS):
        positions = tuple(_position(window.get(name), length, f"{prefix}{name}") for name in _POSITIONS)
    if window.get("offset_mapping") is not None:
        offsets = window["offset_mapping"]
        pairs = isinstance(offsets, list) and all(pair is None or _is_pair(pair) for pair in offsets)
        if not pairs or len(offsets) < length:
            raise RowError(f"{prefix}offset_mapping", f"{length} pairs of character offsets are needed, one per token")
        offsets = [pair or [0, 0] for pair in offsets[:length]]
    return {"token_id": window["token_id"], "type_id": window["type_id"], "positions": positions, "offsets": offsets}


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(type(item) is int and item >= 0 for item in value)


def _position(value: Any, length: int, field: str) -> int:
    """A token position; of several (an answer that occurs more than once) the first."""
    if isinstance(value, list) and value:
        value = value[0]
    if type(value) is not int or not 0 <= value < length:
        raise RowError(field, f"{value!r:.60}: a position among the {length} tokens is needed")
    return value


def _answers(value: Any) -> dict[str, list[Any]] | None:
    """Accepted texts; where they stand is not read, for the windows say it."""
    if value is None or (isinstance(value, list) and all(isinstance(text, str) for text in value)):
        return None  # the text that a training line's positions stand for
    texts = value.get("text") if isinstance(value, dict) else None
    if not isinstance(texts, list) or not all(isinstance(text, str) and text for text in texts):
        raise RowError("answer", f'{value!r:.60}: {{"text": [...], "answer_start": [...]}} is needed')
    return {"text": [] if value.get("is_impossible") else texts, "answer_start": value.get("answer_start", [])}


def check_windows(row: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, max_len: int, training: bool) -> None:
    """Raises `RowError` for ids that do not fit, positions that cannot be learned, or lines made for the other use."""
    for i, window in enumerate(row["windows"]):
        prefix = f"windows[{i}]."
        check_fit(window, tokenizer, max_len, prefix)
        passage = {at for at, part in enumerate(parts_of(window, tokenizer)) if part == 1}
        if training:
            _check_positions(window, passage | {null_position(window["token_id"], tokenizer.cls_token_id)}, prefix)
        if not training or window["offsets"] is not None:
            _check_offsets(window, row["context"], passage, prefix)


def _check_positions(window: Mapping[str, Any], usable: set[int], prefix: str) -> None:
    if window["positions"] is None:
        made = "this line was made for evaluation; train on those of a training split"
        raise RowError(f"{prefix}start_position", f"is missing; {made}")
    start, end = window["positions"]
    if not {start, end} <= usable or end < start:
        raise RowError(f"{prefix}start_position", f"{start} to {end} is not a span of the passage's tokens")


def _check_offsets(window: Mapping[str, Any], context: str | None, passage: set[int], prefix: str) -> None:
    if window["offsets"] is None or context is None:
        name = "context" if window["offsets"] is not None else f"{prefix}offset_mapping"
        made = "this line was made for training; evaluate on those of a dev split, or on SQuAD's own file"
        raise RowError(name, f"is missing; {made}")
    pairs = [pair for at, pair in enumerate(window["offsets"]) if at in passage]
    wrong = [pair for pair in pairs if not pair[0] <= pair[1] <= len(context)]
    if wrong:
        raise RowError(f"{prefix}offset_mapping", f"{wrong[0]}: not a piece of the context ({len(context)} characters)")


def null_position(ids: Iterable[int], cls_id: int | None) -> int:
    """The position that stands for no answer: that of CLS; in families without it (T5) the first one."""
    return next((at for at, token in enumerate(ids) if token == cls_id), 0)


def arrays_of(window: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> tuple[np.ndarray, np.ndarray]:
    """(bool [T], the tokens of the passage; int32 [T, 2], their character offsets, 0 where not known and outside the
    passage, where they say nothing and nobody has checked them)."""
    import numpy as np

    passage = np.array([part == 1 for part in parts_of(window, tokenizer)], dtype=bool)
    pairs = window["offsets"] or [[0, 0]] * len(passage)
    inside = [pair if of else [0, 0] for pair, of in zip(pairs, passage, strict=True)]
    return passage, np.asarray(inside, dtype=np.int32)
