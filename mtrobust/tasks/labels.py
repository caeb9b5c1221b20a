"""Labels as rows give them: names, ids and numbers, of Python's types or NumPy's. Needs no torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

_ID = re.compile(r"0|[1-9][0-9]{0,8}")  # as a text; what is written in another way (`01`) is a name or nothing


def brief(value: Any) -> str:
    """A value in a message, at most 60 characters."""
    try:
        return f"{value!r:.60}"
    except ValueError:  # Python does not write out thousands of digits
        return "a number of thousands of digits"


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


def class_id(value: Any, names: Sequence[str], ids: bool = False) -> int | None:
    """The id of a label: of the name that its text is; only otherwise a whole number is an id itself. None: neither.

    ids: a number is an id in any case, as preprocessing has put it in place of a name.
    """
    found = None if ids and is_whole(value) else name_id(value, names)
    if found is None and is_whole(value) and 0 <= value < len(names):
        return int(value)
    return found


def from_digits(value: Any) -> Any:
    """The number that a text of digits writes; other values as they are."""
    return int(value) if isinstance(value, str) and _ID.fullmatch(value) else value
