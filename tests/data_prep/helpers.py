"""Runs a preparation command as the command line does, and reads what it wrote."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from data_prep import COMMANDS


def prep(name: str, *argv: object) -> int:
    """The exit code of `mtrobust prep NAME ARGV...`, in this process."""
    parser = argparse.ArgumentParser()
    COMMANDS[name].add_arguments(parser)
    return COMMANDS[name].run(parser.parse_args([str(arg) for arg in argv]))


def rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON Lines file."""
    with open(path, encoding="utf-8", newline="\n") as file:
        return [json.loads(line) for line in file]


def write(path: Path, *lines: str, encoding: str = "utf-8") -> Path:
    """Writes lines with \\n ends, making the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(line + "\n" for line in lines).encode(encoding))
    return path
