"""Rows that come as token ids: MT-DNN's preprocessed lines, `{uid, label, token_id, type_id, attention_mask}`.

A row with `token_id` has no text; a task type that reads such rows takes its features from the ids as they stand. Needs
no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mtrobust.errors import UserError
from mtrobust.tasks.base import RowError, TaskType

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedTokenizerBase

MASKS = ("attention_mask", "mask")  # the latter in MT-DNN's earlier versions and for spans


def is_tokenised(row: Mapping[str, Any]) -> bool:
    """Whether a raw or parsed row holds token ids instead of texts (of its windows, of its candidates)."""
    if "text" in row or "question" in row:
        return False
    candidates = row.get("candidates")
    listed = isinstance(candidates, list) and any(isinstance(candidate, dict) for candidate in candidates)
    return "token_id" in row or "windows" in row or listed


def checked_tokens(raw: Mapping[str, Any], prefix: str = "") -> dict[str, list[int]]:
    """`token_id` and `type_id` of the real tokens: padding, which the mask tells, is cut off.

    prefix: what messages put before a field's name. Raises `RowError`.
    """
    ids, types = (_numbers(raw, name, prefix) for name in ("token_id", "type_id"))
    if len(types) != len(ids):
        raise RowError(f"{prefix}type_id", f"{len(types)} numbers for {len(ids)} tokens; one per token is needed")
    if max(types) > 1:
        raise RowError(f"{prefix}type_id", f"{max(types)}: 0 (first text) or 1 (second text) is needed")
    length = len(ids)
    for name in MASKS:
        if raw.get(name) is None:
            continue
        mask = _numbers(raw, name, prefix)
        length = sum(mask)
        if len(mask) != len(ids) or mask != [1] * length + [0] * (len(mask) - length) or not length:
            raise RowError(f"{prefix}{name}", f"{len(ids)} numbers are needed: 1 for each token, then 0 for padding")
    return {"token_id": ids[:length], "type_id": types[:length]}


def with_tokens(raw: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A raw row with its token ids checked, without the mask: padding is cut off. Raises `RowError`."""
    return {name: value for name, value in raw.items() if name not in MASKS} | checked_tokens(raw, prefix)


def _numbers(raw: Mapping[str, Any], name: str, prefix: str) -> list[int]:
    value = raw.get(name)
    if value is None:
        raise RowError(f"{prefix}{name}", "is missing; a list with one number per token is needed")
    sound = isinstance(value, list) and value and all(type(item) is int and item >= 0 for item in value)
    if not sound:
        raise RowError(f"{prefix}{name}", f"{value!r:.60}: a list of whole numbers >= 0 is needed, one per token")
    return list(value)


def check_fit(row: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, max_len: int, prefix: str = "") -> None:
    """Raises `RowError` for ids that are not this tokenizer's or more of them than `max_len`."""
    ids = row["token_id"]
    if len(ids) > max_len:
        allowed = f"{len(ids)} tokens, and max_len (or --max_seq_length) is {max_len}; raise it, or preprocess anew"
        raise RowError(f"{prefix}token_id", allowed)
    if max(ids) >= len(tokenizer):
        fault = f"{max(ids)} is not in the encoder's vocabulary (0 to {len(tokenizer) - 1})"
        raise RowError(f"{prefix}token_id", f"{fault}; preprocessed for another encoder?")
    first = tokenizer.cls_token_id
    if first is not None and ids[0] != first:
        fault = f"begins with {ids[0]}, not with the encoder's {tokenizer.cls_token} ({first})"
        raise RowError(f"{prefix}token_id", f"{fault}; preprocessed for another encoder?")


def must_fit(
    kind: TaskType, row: dict[str, Any], tokenizer: PreTrainedTokenizerBase, max_len: int, training: bool
) -> None:
    """`check_tokenised` for who knows no line any more: a `UserError` that names the task and the row."""
    try:
        kind.check_tokenised(row, tokenizer, max_len, training)
    except RowError as error:
        raise UserError(f"{kind.task.name}: row '{row['id']}': {error}") from error


def inputs_of(row: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> dict[str, np.ndarray]:
    """`input_ids` int32 [T], and `token_type_ids` where the tokenizer makes them."""
    import numpy as np

    inputs = {"input_ids": np.asarray(row["token_id"], dtype=np.int32)}
    if "token_type_ids" in tokenizer.model_input_names:
        inputs["token_type_ids"] = np.asarray(row["type_id"], dtype=np.int32)
    return inputs


def parts_of(row: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> list[int | None]:
    """Of each token the text it is of (0, 1), None for special ones; as a fast tokenizer's `sequence_ids`.

    Where there are token types they say it; families without (RoBERTa) have separators between the texts.
    """
    ids, types = row["token_id"], row["type_id"]
    ends = {tokenizer.sep_token_id, tokenizer.eos_token_id} - {None}
    special = ends | ({tokenizer.cls_token_id, tokenizer.bos_token_id} - {None})
    by_type, part, found = 1 in types, 0, []
    for at, token in enumerate(ids):
        if by_type:
            found.append(None if token in special else types[at])
            continue
        if token in ends and (at == 0 or ids[at - 1] not in ends) and at + 1 < len(ids):
            part += 1  # the first of one or two separators
        found.append(None if token in special else min(part, 1))
    return found
