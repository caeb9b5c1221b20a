"""Where a perturbation acts: one spelling of layers for every method. Imports no torch.

Sites of an encoder with N layers: `words` (word-embedding rows), 0 (output of the embedding block) and 1..N (output of
that layer). A text names sites (`words`, `embeddings` = 0, `3`), ranges (`1-3`) and `all` (1..N), separated by commas.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from pydantic_core import core_schema

from mtrobust.errors import UserError
from mtrobust.registry import suggestion

Site = Literal["words"] | int

_RANGE = re.compile(r"(\d{1,4})\s*-\s*(\d{1,4})", re.ASCII)
_NUMBER = re.compile(r"\d{1,4}", re.ASCII)
ALLOWED = "words, embeddings (= 0), a layer such as 3, a range such as 1-3, all, or a list of these"


@dataclass(frozen=True)
class LayerSpec:
    """Sites as the user named them; the encoder's depth is known only later (`resolve`).

    parts: `words`, `all`, or inclusive ranges (low, high) with low <= high.
    Fields of pydantic models may have this type: they take text, a number, a list, or a LayerSpec.
    """

    parts: tuple[str | tuple[int, int], ...]

    @classmethod
    def parse(cls, value: Any) -> LayerSpec:
        """A spec from text, a number or a list of both. Raises `ValueError` naming each part that is not allowed."""
        if isinstance(value, LayerSpec):
            return value
        parts: list[str | tuple[int, int]] = []
        faults: list[str] = []
        for item in _items(value):
            try:
                parts.append(_part(item))
            except ValueError as error:
                faults.append(str(error))
        if faults:
            raise ValueError("; ".join(faults) + f" (allowed: {ALLOWED})")
        if not parts:
            raise ValueError(f"no layer is named (allowed: {ALLOWED})")
        return cls(tuple(dict.fromkeys(parts)))

    def resolve(self, num_layers: int, place: str = "layers") -> list[Site]:
        """The sites in an encoder of `num_layers` layers, each once, `words` first, then upwards.

        Raises `UserError` with one line per part that the encoder does not have; `place` starts each line.
        """
        sites: set[Site] = set()
        faults: list[str] = []
        for part in self.parts:
            if part == "words":
                sites.add("words")
            elif part == "all":
                sites.update(range(1, num_layers + 1))
            else:
                low, high = cast(tuple[int, int], part)
                if high > num_layers:
                    allowed = f"words, embeddings (= 0), 1-{num_layers}"
                    faults.append(f"{place}: {_text(part)}: the encoder has {num_layers} layers; allowed: {allowed}")
                else:
                    sites.update(range(low, high + 1))
        if faults:
            raise UserError(faults)
        return sorted(sites, key=lambda site: -1 if site == "words" else site)

    def __str__(self) -> str:
        """Text that `parse` reads back as the same spec."""
        return ",".join(map(_text, self.parts))

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> core_schema.CoreSchema:
        """Fields of this type are parsed by `parse` and dumped as text."""
        return core_schema.no_info_plain_validator_function(
            cls.parse, serialization=core_schema.plain_serializer_function_ser_schema(str)
        )


def _items(value: Any) -> Sequence[Any]:
    """The single parts of a value: commas and lists (nested ones too) are taken apart."""
    if isinstance(value, str):
        return [item.strip() for item in value.strip().removeprefix("[").removesuffix("]").split(",") if item.strip()]
    if isinstance(value, (list, tuple)):
        return [part for item in value for part in _items(item)]
    return [value]


def _part(item: Any) -> str | tuple[int, int]:
    """One part of a spec. Raises `ValueError` for what is none."""
    if isinstance(item, int) and not isinstance(item, bool) and item >= 0:
        return (item, item)
    if not isinstance(item, str):
        raise ValueError(f"{item!r} is not a layer")
    text = item.lower()
    if text in ("words", "all"):
        return text
    if text == "embeddings":
        return (0, 0)
    if _NUMBER.fullmatch(text):
        return (int(text), int(text))
    if match := _RANGE.fullmatch(text):
        low, high = int(match[1]), int(match[2])
        if low > high:
            raise ValueError(f"'{item}' is an empty range")
        return (low, high)
    hint = suggestion(item, ("words", "embeddings", "all"))
    raise ValueError(f"'{item}' is not a layer{hint}")


def _text(part: str | tuple[int, int]) -> str:
    """A part as `parse` reads it."""
    if isinstance(part, str):
        return part
    low, high = part
    if low == high:
        return "embeddings" if low == 0 else str(low)
    return f"{low}-{high}"
