"""An argparse parser whose errors are `UserError`s with a suggestion, so that all commands complain in one form."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import NoReturn

from mtrobust.errors import UserError
from mtrobust.registry import suggestion


class HelpFormatter(argparse.HelpFormatter):
    """Keeps the line breaks of descriptions and leaves room for long flags."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=34, width=110)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "".join(indent + line for line in text.splitlines(keepends=True))


class Parser(argparse.ArgumentParser):
    """No abbreviations; unknown flags are named together, each with the flag that was probably meant."""

    def __init__(self, prog: str, description: str, epilog: str | None = None, usage: str | None = None) -> None:
        super().__init__(prog, usage, description, epilog, formatter_class=HelpFormatter, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Called by argparse at the first fault it finds."""
        message = message.removeprefix("argument ")
        raise UserError(f"{message} ({self.prog} --help)")

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """Parses; raises `UserError` for empty words, unknown flags and surplus words."""
        if faults := list(_empty(argv)):
            raise UserError(faults)
        args, unknown = self.parse_known_args(list(argv))
        if unknown:
            flags = [flag for action in self._actions for flag in action.option_strings]
            raise UserError([self._unknown(word, flags) for word in unknown if self._is_own_word(word, unknown)])
        return args

    def _unknown(self, word: str, flags: list[str]) -> str:
        if not word.startswith("-"):
            return f"{word}: unexpected argument ({self.prog} --help)"
        name = word.partition("=")[0]
        return f"{name}: unknown flag{suggestion(name, flags)} ({self.prog} --help lists all)"

    @staticmethod
    def _is_own_word(word: str, unknown: list[str]) -> bool:
        """Whether `word` is at fault itself, not the value of an unknown flag before it."""
        at = unknown.index(word)
        return word.startswith("-") or at == 0 or not unknown[at - 1].startswith("-")


def _empty(argv: Sequence[str]) -> Iterator[str]:
    """Faults of empty words, which most often are shell variables that are not set: as a path they would be the working
    directory, as a name all or the default."""
    for before, word in zip(["", *argv], argv, strict=False):
        flag, equals, value = word.partition("=")
        if not word.strip():
            place = f"{before}: " if before.startswith("--") and "=" not in before else ""
            yield f"{place}'': must not be empty"
        elif flag.startswith("--") and equals and not value.strip():
            yield f"{flag}: '': must not be empty"


def names(text: str) -> list[str]:
    """`a,b` as a list; the `type` of flags that take several names."""
    found = [part.strip() for part in text.split(",") if part.strip()]
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r}: names separated by commas")
    return found


def positive(text: str) -> int:
    """The `type` of flags that take a whole number of at least 1."""
    try:
        value = int(text) if text.isascii() and "_" not in text else 0
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be an integer >= 1")
    return value
