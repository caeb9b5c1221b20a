"""Named factories whose lookup errors say what is registered and what was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

from mtrobust.errors import UserError

T = TypeVar("T")


def suggestion(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the closest known name, else the empty string."""
    by_lower = {k.lower(): k for k in known}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    return f"; did you mean '{by_lower[close[0]]}'?" if close else ""


class Registry(Generic[T]):
    """Maps names (and aliases) to objects of one kind, in the order of registration."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._items: dict[str, T] = {}
        self._aliases: dict[str, str] = {}

    def register(self, name: str, *aliases: str) -> Callable[[T], T]:
        """Decorator: adds the decorated object under `name`; a second one under a taken name is an error."""

        def add(item: T) -> T:
            for key in (name, *aliases):
                if key in self._items or key in self._aliases:
                    raise ValueError(f"{self.kind} '{key}' is registered twice")
            self._items[name] = item
            self._aliases.update(dict.fromkeys(aliases, name))
            return item

        return add

    def __getitem__(self, name: str) -> T:
        """The object under a name or alias. Raises `UserError` with the registered names otherwise."""
        key = self._aliases.get(name, name)
        if key not in self._items:
            hint = suggestion(name, [*self._items, *self._aliases])
            raise UserError(f"unknown {self.kind} '{name}'{hint} (known: {', '.join(self._items)})")
        return self._items[key]

    def __contains__(self, name: object) -> bool:
        return name in self._items or name in self._aliases

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def items(self) -> Iterable[tuple[str, T]]:
        """All (name, object) pairs, without aliases."""
        return self._items.items()
