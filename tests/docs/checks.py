"""Whether a documented command can be typed: its program, flags and values, without running it."""

from __future__ import annotations

import argparse
import configparser
import re
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

from mtrobust.commands.parser import Parser
from mtrobust.errors import UserError
from tests.docs.shell import ROOT, Command

# Programs that are none of ours, with what may be asked of them.
FOREIGN = {
    "run_glue.py": "an example of transformers",
    "venv": "Python's own",
    "textattack-env/bin/pip": "an environment of another program",
    "textattack-env/bin/uv": "an environment of another program",
    "textattack-env/bin/textattack": "another program",
}


class _Parsed(Exception):
    """Ends a command when its words have been read."""


def faults(command: Command) -> list[str]:
    """What is wrong with a command, as lines."""
    program, *words = command.words
    if program in FOREIGN:
        return []
    if program.startswith("scripts/"):
        return script_faults(program, words, command.variables)
    name = program.removeprefix(".venv/bin/")
    if name not in _PROGRAMS:
        return [f"{program}: unknown program"]
    return _PROGRAMS[name](words)


def mtrobust_faults(words: Sequence[str]) -> list[str]:
    """What is wrong with the words behind `mtrobust`."""
    from mtrobust.cli import COMMANDS, _dispatch

    if not words or words[0] in ("--help", "--version"):
        return []
    if words[0] == "train":
        return train_faults(words[1:])
    if words[0] not in COMMANDS:
        return [f"mtrobust {words[0]}: no such command"]
    parse = Parser.parse

    def stop(self: Parser, argv: Sequence[str]) -> argparse.Namespace:
        parse(self, argv)
        raise _Parsed

    try:
        with mock.patch.object(Parser, "parse", stop):
            _dispatch(list(words))
    except (_Parsed, SystemExit):  # the latter after --help
        return []
    except UserError as error:
        return error.faults
    return []


def train_faults(words: Sequence[str]) -> list[str]:
    """Faults of flags and their values. A recipe is not there: what it would say is not missed."""
    from mtrobust.config_parse import parse_train, split_flags

    recipes = split_flags(list(words)).positional
    found = parse_train([word for word in words if word not in recipes]).faults
    return [fault for fault in found if not (recipes and ": missing: " in fault)] + [
        f"{name}: a second recipe" for name in recipes[1:]
    ]


def script_faults(program: str, words: Sequence[str], variables: Sequence[str] = ()) -> list[str]:
    """Faults of a shell script of ours: variables that it does not read, arguments that neither it nor, where it hands
    its arguments on, `mtrobust train` has."""
    path = ROOT / program
    if not path.is_file():
        return [f"{program}: no such script"]
    text = path.read_text(encoding="utf-8")
    whole = text + "".join(other.read_text(encoding="utf-8") for other in ROOT.glob("scripts/lib/*.sh"))
    whole += (ROOT / "scripts/install.sh").read_text(encoding="utf-8")
    found = [f"{program}: {name}: not read by it" for name in variables if not re.search(rf"\$\{{?{name}\b", whole)]
    own = {label for line in re.findall(r"^ *([\w| -]+)\) ", whole, re.MULTILINE) for label in line.split(" | ")}
    left = [word for at, word in enumerate(words) if word not in own and words[max(at - 1, 0)] != "--jobs"]
    if left and ('"$@"' not in text or "takes no arguments" in text):
        return [*found, f"{program}: {' '.join(left)}: takes no such argument"]
    return found + [fault for fault in train_faults(left) if ": missing: " not in fault]


def program_faults(program: str, words: Sequence[str]) -> list[str]:
    """Faults of a Python program of ours: flags that neither it nor what its folder shares has."""
    path = ROOT / program
    if not path.is_file():
        return [f"{program}: no such program"]
    files = [path, *path.parent.glob("common.py")]
    known = {flag for file in files for flag in re.findall(r"\"(--[\w-]+)\"", file.read_text(encoding="utf-8"))}
    given = [word.partition("=")[0] for word in words if word.startswith("--")]
    return [f"{program}: {word}: unknown flag" for word in given if word not in known]


def _python(words: Sequence[str]) -> list[str]:
    if words[0] == "-m":
        name = words[1].replace(".", "/")
        there = (ROOT / f"{name}.py").is_file() or (ROOT / name / "__init__.py").is_file()
        return [] if there or words[1] in FOREIGN else [f"python -m {words[1]}: no such module"]
    return [] if words[0] in FOREIGN or words[0] == "-c" else program_faults(words[0], words[1:])


def _pip(words: Sequence[str]) -> list[str]:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    extras = re.findall(r"(?:mtrobust|\.)\[([\w,]+)\]", " ".join(words))
    unknown = [name for part in extras for name in part.split(",") if name not in config["options.extras_require"]]
    return [f"pip: {name}: no such extra" for name in unknown]


def _launched(words: Sequence[str]) -> list[str]:
    at = words.index("-m") + 1
    return mtrobust_faults(words[at + 1 :]) if words[at] == "mtrobust" else _python(words[at - 1 :])


def _tool(*allowed: str) -> Callable[[Sequence[str]], list[str]]:
    """A program of which the documents use a few forms."""
    return lambda words: [] if " ".join(words[:1]) in allowed else [f"{' '.join(words)}: not one of {allowed}"]


_PROGRAMS: dict[str, Callable[[Sequence[str]], Any]] = {
    "mtrobust": mtrobust_faults,
    "python": _python,
    "pip": _pip,
    "torchrun": _launched,
    "accelerate": _launched,
    "tensorboard": _tool("--logdir"),
    "bash": _tool(".ci/run"),
    "ruff": _tool("check"),
    "mypy": _tool(""),
}
