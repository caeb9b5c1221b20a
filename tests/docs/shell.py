"""The commands of a document, as a shell has them: its shell blocks run with stand-ins for every program.

A stand-in does nothing but write down its arguments and environment, so that loops, variables, quoting, continued lines
and comments are the shell's own business. A program without a stand-in is an error.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{path.name}" for path in ROOT.glob("docs/*.md"))]
_SHELL = {"", "sh", "bash", "shell", "console"}
_PROGRAMS = ["mtrobust", "python", "pip", "bash", "tensorboard", "torchrun", "accelerate"]
_STAND_IN = """#!/bin/sh
{ printf '%s\\0' "$0" "$@"; printf '\\1\\0'; /usr/bin/env -0; printf '\\2\\0'; } >>"$DOC_LOG"
"""


@dataclass(frozen=True)
class Block:
    """A fenced block; kind: `shell`, or the language that the fence names."""

    kind: str
    text: str


@dataclass(frozen=True)
class Command:
    """A command as it was called. block: the number of its block in the document; variables: set for it alone."""

    document: str
    block: int
    words: tuple[str, ...]
    variables: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.document}: {' '.join(self.words)}"


def blocks(document: str) -> list[Block]:
    """The fenced blocks of a document, in order."""
    text = (ROOT / document).read_text(encoding="utf-8")
    found = re.findall(r"^ *```(\w*)[^\n]*\n(.*?)^ *```$", text, flags=re.DOTALL | re.MULTILINE)
    return [Block("shell" if language in _SHELL else language, body) for language, body in found]


def commands(document: str, folder: Path) -> list[Command]:
    """The commands in the shell blocks of a document. folder: an empty one, in which the shell runs."""
    shell = [(number, block.text) for number, block in enumerate(blocks(document)) if block.kind == "shell"]
    return recorded(document, shell, folder) if shell else []


def recorded(document: str, shell: list[tuple[int, str]], folder: Path) -> list[Command]:
    """The commands of numbered pieces of shell, which share their variables."""
    log, programs = folder / "log", folder / "bin"
    scripts = [path.relative_to(ROOT) for path in ROOT.glob("scripts/*.sh")]
    tools = [Path(f".venv/bin/{name}") for name in ("ruff", "mypy", "python", "pip", "mtrobust", "tensorboard")]
    tools += [Path(f"textattack-env/bin/{name}") for name in ("pip", "uv", "textattack")]
    for path in (*(programs / name for name in [*_PROGRAMS, "block"]), *(folder / path for path in [*scripts, *tools])):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_STAND_IN, encoding="utf-8")
        path.chmod(0o755)
    for name in ("mkdir", "awk"):  # real, as are the files of definitions: redirections read and write them
        (programs / name).symlink_to(shutil.which(name) or f"/bin/{name}")
    (programs / "cp").symlink_to("/bin/true")
    (folder / "task_defs").symlink_to(ROOT / "task_defs")
    (folder / "all.sh").write_text("".join(f"block {n}\n{text}\n" for n, text in shell), encoding="utf-8")
    environment = {"PATH": str(programs), "DOC_LOG": str(log), "HOME": str(folder)}
    done = subprocess.run(
        ["/bin/bash", "-eu", str(folder / "all.sh")], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, (
        f"{document}: {done.stderr}(a fenced block without a language is shell; output is `text`)"
    )
    return _read(document, log.read_text(encoding="utf-8"), folder)


def _read(document: str, log: str, folder: Path) -> list[Command]:
    ours = {"PATH", "DOC_LOG", "HOME", "PWD", "OLDPWD", "SHLVL", "_"}
    found, block = [], 0
    for entry in log.split("\2\0")[:-1]:
        called, variables = (part.split("\0")[:-1] for part in entry.split("\1\0"))
        path = Path(called[0])
        name = path.name if path.parent == folder / "bin" else os.path.relpath(folder / path, folder)
        if name == "block":
            block = int(called[1])
            continue
        names = sorted({line.partition("=")[0] for line in variables} - ours)
        found.append(Command(document, block, (name, *called[1:]), tuple(names)))
    return found


def inline(document: str) -> list[str]:
    """What stands in backticks within the text of a document and begins with `mtrobust `."""
    text = (ROOT / document).read_text(encoding="utf-8")
    text = re.sub(r"^ *```.*?^ *```$", "", text, flags=re.DOTALL | re.MULTILINE)
    return [" ".join(code.split()) for code in re.findall(r"`(mtrobust [^`]+)`", text)]
