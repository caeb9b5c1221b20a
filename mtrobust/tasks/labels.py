"""Labels as rows give them: names, ids and numbers, of Python's types or NumPy's. Needs no torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

from mtrobust.tasks.base import RowError

LARGEST = 3.4028234663852886e38  # of float32, in which losses are computed
_DECIMAL = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
_WHOLE = re.compile(r"[+-]?[0-9]+")
_ID = re.compile(r"0|[1-9][0-9]{0,8}")  # as a text; what is written in another way (`01`) is a name or nothing


def brief(value: Any) -> str:
    """A value in a message, at most 60 characters."""
    try:
        return f"{value!r:.60}"
    except ValueError:  # Python does not write out thousands of digits
        return "a number of thousands of digits"


def listed(names: Sequence[str]) -> str:
    """The names in a message, the first 50 of them."""
    return ", ".join(names[:50]) + (f", ... ({len(names)} in all)" if len(names) > 50 else "")


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number; true and false are none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def name_id(value: Any, names: Sequence[str]) -> int | None:
    """The id of the name that is the value's text, so that 1 is the class "1", wherever that stands; None: no name."""
    if not isinstance(value, str):
        if isinstance(value, bool) or not isinstance(value, Real):
            return None
        try:
            value = str(value)
        except ValueError:  # see `brief`
            return None
    return names.index(value) if value in names else None


def has_ids(names: Sequence[str]) -> bool:
    """Whether numbers may stand for these names: not where a name is a number itself, such as `01` or `-1`, which the
    number 1 would be taken for another class of."""
    return not any(_WHOLE.fullmatch(name) for name in names)


def class_id(value: Any, names: Sequence[str], ids: bool = False) -> int | None:
    """The id of a label: of the name that its text is; only where no name is a number is a whole number an id itself.
    None: neither.

    ids: a number is an id in any case, as preprocessing has put it in place of a name.
    """
    found = None if ids and is_whole(value) else name_id(value, names)
    if found is None and is_whole(value) and 0 <= value < len(names) and (ids or has_ids(names)):
        return int(value)
    return found


def from_digits(value: Any) -> Any:
    """The number that a text of digits writes; other values as they are."""
    return int(value) if isinstance(value, str) and _ID.fullmatch(value) else value


def from_decimal(value: Any) -> Any:
    """The number that a text in plain decimals writes, with an exponent or without; other values as they are."""
    return float(value) if isinstance(value, str) and _DECIMAL.fullmatch(value.strip()) else value


def as_float(value: Any) -> float | None:
    """A finite number that float32 can hold; None for all else."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if abs(number) <= LARGEST else None


def real(value: Any, field: str) -> float:
    """A number to be learned, or its decimal form as a text. field: what messages call it. Raises `RowError`."""
    given = from_decimal(value)
    number = as_float(given)
    if number is not None:
        return number
    if isinstance(given, str):
        raise RowError(field, f"{brief(value)} is not a number; a finite one is needed, in decimals (4.25, 1e-3)")
    if isinstance(given, bool) or not isinstance(given, Real):
        raise RowError(field, f"is {type(value).__name__} {brief(value)}; a number is needed")
    raise RowError(field, f"is {brief(value)}; a finite number is needed, at most {LARGEST:.1e} (float32)")
