"""Checks of single values in a task definition, each with a message that says what is allowed."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

from mtrobust.config import PerturbSpec
from mtrobust.config_values import show
from mtrobust.registry import suggestion

NAMED = ("labels", "map")  # keys of definitions whose numbers are names, see `read_yaml`
MOST_CLASSES = 500_000  # no encoder's vocabulary has more; beyond it a slip of the pen


def known(value: Any, names: Mapping[str, str], offered: Iterable[str] | None = None) -> str:
    """Our spelling of a name; `ValueError` with a suggestion for one that is in no table."""
    if not isinstance(value, str):
        raise ValueError(f"must be one of {', '.join(offered or dict.fromkeys(names.values()))}")
    if value not in names:
        allowed = ", ".join(offered or dict.fromkeys(names.values()))
        raise ValueError(f"unknown{suggestion(value, names)} (known: {allowed})")
    return names[value]


def known_list(value: Any, names: Mapping[str, str]) -> list[str]:
    """Our spellings of a list of names, each once, in the order given."""
    if not isinstance(value, list) or value == []:
        raise ValueError(f"must be a list of at least one of {', '.join(dict.fromkeys(names.values()))}")
    faults = []
    for item in value:
        try:
            known(item, names)
        except ValueError as error:
            faults.append(f"{item}: {error}")
    if faults:
        raise ValueError("; ".join(faults))
    return list(dict.fromkeys(names[item] for item in value))


def as_names(value: Any) -> Any:
    """Label names; whole numbers become text. YAML's bare true, false, null are not names."""
    if value is None:
        return value
    if not isinstance(value, list) or not value:
        raise ValueError("must be a list of label names")
    if len(value) > MOST_CLASSES:
        raise ValueError(f"{len(value)} labels: at most {MOST_CLASSES} are taken")
    for item in value:
        if item is None or isinstance(item, bool):
            raise ValueError("true, false and null are not text in YAML; quote the label")
        if isinstance(item, float):
            raise ValueError(f"{item}: a fraction can be written in several ways; quote the label")
        if not isinstance(item, str | int) or item == "":
            raise ValueError(f"{show(item)}: a label is a text")
        if isinstance(item, str) and any(unicodedata.category(char) in ("Cc", "Cs") for char in item):
            raise ValueError(f"{item!r:.60}: a label is one line of characters, without tabs and half surrogate pairs")
    return [str(item) for item in value]


def perturb_specs(value: Any) -> list[PerturbSpec]:
    """`rapt`, `{name: smart, layers: 1-3}` or a list of these; the options are checked where the methods are known."""
    specs = []
    for entry in value if isinstance(value, list) else [value]:
        if isinstance(entry, PerturbSpec):
            specs.append(entry)
        elif isinstance(entry, str) and entry:
            specs.append(PerturbSpec(name=entry))
        elif (
            isinstance(entry, dict)
            and isinstance(entry.get("name"), str)
            and isinstance(options := entry.get("options", {}), dict)
        ):
            loose = {str(k): v for k, v in entry.items() if k not in ("name", "options")}
            if twice := [key for key in map(str, options) if key in loose]:
                raise ValueError(f"{entry['name']}.{twice[0]}: written twice, also in options")
            specs.append(PerturbSpec(name=entry["name"], options=loose | options))
        else:
            raise ValueError(f"{show(entry)}: must be a method's name or a mapping {{name: METHOD, OPTION: VALUE}}")
    return specs
