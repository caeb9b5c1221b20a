"""What a typed field allows, in words, and pydantic's faults as one line each that says so.

Used for the run configuration, for the options of perturbation methods and by `--help`, so that the help text and the
error messages cannot disagree with the checks.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from mtrobust.registry import suggestion

_NOUNS = {bool: "true or false", int: "an integer", float: "a number", str: "a text", Path: "a path"}
_SIGNS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}


def strip_optional(annotation: Any) -> tuple[Any, bool]:
    """(`X`, True) for `X | None`, else (annotation, False). Unions of several types stay as they are."""
    if get_origin(annotation) in (Union, types.UnionType):
        rest = [a for a in get_args(annotation) if a is not type(None)]
        if len(rest) < len(get_args(annotation)):
            return (rest[0] if len(rest) == 1 else Union[tuple(rest)]), True  # noqa: UP007  (built at run time)
    return annotation, False


def _noun(annotation: Any) -> str:
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return "one of: " + ", ".join(map(str, args))
    if origin is typing.Annotated:
        return _noun(args[0])
    if origin in (Union, types.UnionType):
        return " or ".join(_noun(a) for a in args)
    if origin is list or annotation is list:
        return f"a list (each {_noun(args[0])})" if args and args[0] is not str else "a list of names"
    if origin is dict or annotation is dict:
        return "a mapping"
    return _NOUNS.get(annotation) or str(getattr(annotation, "wording", None) or type_name(annotation))


def allowed(field: FieldInfo) -> str:
    """What a field takes, in words: `a number > 0 and <= 1`, `one of: adamw, adamax`, `an integer >= 1 or none`."""
    annotation, optional = strip_optional(field.annotation)
    bounds = [f"{sign} {getattr(m, key)}" for m in field.metadata for key, sign in _SIGNS.items() if hasattr(m, key)]
    words = _noun(annotation) + (" " + " and ".join(bounds) if bounds else "")
    words += ", at least one" if any(hasattr(m, "min_length") for m in field.metadata) else ""
    return words + (", or none" if optional else "")


def type_name(annotation: Any) -> str:
    """A short name of a type for tables: `int`, `float`, `adamw|adamax`, `list[str]`, `int, none`."""
    annotation, optional = strip_optional(annotation)
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        text = "|".join(map(str, args))
    elif origin is typing.Annotated:
        text = type_name(args[0])
    elif origin in (Union, types.UnionType):
        text = "|".join(type_name(a) for a in args)
    elif origin is list:
        text = f"list[{type_name(args[0])}]"
    elif origin is dict:
        text = "mapping"
    else:
        text = "path" if annotation is Path else str(getattr(annotation, "__name__", annotation))
    return text + (", none" if optional else "")


def default_text(field: FieldInfo) -> str:
    """The default as one would write it; `required` where there is none."""
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "required"
    if isinstance(value, bool):
        return str(value).lower()
    if value is None or value == []:
        return "none"
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value))
    return format(value, "g") if isinstance(value, float) else str(value)


def show(value: Any) -> str:
    """A value in a message, cut to a length that keeps the line readable."""
    text = value if isinstance(value, str) else repr(value)
    text = " ".join(text.split())
    return (text[:77] + "...") if len(text) > 80 else (text or "''")


def faults_of(
    error: ValidationError, model: type[BaseModel], place: Callable[[str], str], known: Iterable[str] | None = None
) -> list[str]:
    """One line per fault of a failed validation: `<place of the key>: value: what is allowed`.

    place: key -> text that names where the user wrote it, "" where that is said already; known: names offered for an
    unknown key (default: the model's fields).
    """
    names = list(known) if known is not None else list(model.model_fields)
    faults: dict[tuple[str, str], str] = {}  # one per key and value: unions report every branch
    for item in error.errors(include_url=False):
        key, *inner = [*item["loc"], ""][: max(1, len(item["loc"]))]
        where = place(str(key)) + "".join(f"[{i}]" for i in inner[:1] if isinstance(i, int))
        value = show(item["input"])
        if item["type"] == "extra_forbidden":
            line = f"{where}: unknown{suggestion(str(key), names)} (known: {', '.join(names)})"
        elif item["type"] == "missing":
            line = f"{where}: missing: {model.model_fields[str(key)].description or 'needed'}"
        elif item["type"] in ("value_error", "assertion_error"):
            message = str(item.get("ctx", {}).get("error", item["msg"]))
            told = value in message or not key or not where
            line = f"{where}: {message if told else f'{value}: {message}'}"
        elif str(key) in model.model_fields:
            line = f"{where}: {value}: must be {_must_be(model.model_fields[str(key)], item['input'], inner)}"
        else:
            line = f"{where}: {value}: {item['msg']}"
        faults.setdefault((where, value), line)
    return list(faults.values())


def _must_be(field: FieldInfo, value: Any, inner: list[Any]) -> str:
    """The allowed values of a field, with the nearest name where it takes one of a few."""
    annotation = strip_optional(field.annotation)[0]
    if inner and isinstance(inner[0], int) and get_origin(annotation) is list:
        return _noun(get_args(annotation)[0])
    hint = ""
    if get_origin(annotation) is Literal and isinstance(value, str):
        hint = suggestion(value, map(str, get_args(annotation)))
    return allowed(field) + hint


def wrong_kind(model: type[BaseModel], values: dict[str, Any]) -> dict[str, str]:
    """Values that pydantic would bend into shape although the user meant something else, as key -> what is allowed.

    A boolean is no number, infinity and NaN are no settings, and of texts only plain digits are numbers (Python also
    reads `1_0` and digits of other scripts).
    """
    bad = {}
    for key, value in values.items():
        if key not in model.model_fields:
            continue
        annotation = strip_optional(model.model_fields[key].annotation)[0]
        is_number = annotation in (int, float)
        infinite = is_number and _is_not_finite(value)
        odd = isinstance(value, bool) or (isinstance(value, str) and not _is_plain(value))
        if is_number and (odd or infinite):
            bad[key] = allowed(model.model_fields[key]) + (" (finite)" if infinite else "")
    return bad


def _is_plain(text: str) -> bool:
    return text.isascii() and "_" not in text


def _is_not_finite(value: Any) -> bool:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return False
    return number != number or number in (float("inf"), float("-inf"))
