"""Imports point one way, and the paths that must answer at once load nothing heavy."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# A room may import itself and what stands before it.
ORDER = [
    *("errors", "registry", "clock", "files", "yaml_file", "config", "config_values"),
    *("tasks", "data", "models", "perturb", "config_parse", "evaluation", "training", "analysis", "api"),
    *("commands", "cli", "__main__"),
]
RANK = {room: rank for rank, room in enumerate(ORDER)}
HEAVY = ("torch", "transformers", "datasets", "accelerate", "sklearn", "scipy", "tensorboard", "pandas")


def package_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(ROOT / "mtrobust").parts[0].removesuffix(".py")


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """(line, absolute module name) of every import of a file, those inside functions included."""
    package = list(path.relative_to(ROOT).parent.parts)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, name.name) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            # `from mtrobust import x` may name a room
            yield from ((node.lineno, f"{module}.{name.name}") for name in node.names)


@pytest.mark.parametrize("path", package_files("mtrobust"), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_imports_only_what_stands_before_it(path: Path):
    room = room_of(path)
    assert room in RANK or room == "__init__", f"{room} has no place in the order"
    rank = RANK.get(room, 0)
    for line, module in imported(path):
        parts = module.split(".")
        if parts[0] != "mtrobust" or len(parts) == 1 or parts[1] not in RANK:
            continue
        other = parts[1]
        if (room, other) == ("__init__", "api"):  # for type checkers; `LIGHT` shows that nothing is loaded
            continue
        assert other == room or RANK[other] < rank, f"{path.relative_to(ROOT)}:{line}: {room} may not import {other}"


@pytest.mark.parametrize("path", package_files("data_prep"), ids=lambda path: str(path.relative_to(ROOT)))
def test_data_prep_stands_alone(path: Path):
    for line, module in imported(path):
        allowed = not module.startswith("mtrobust") or module.startswith(("mtrobust.errors", "mtrobust.files"))
        assert allowed, f"{path.relative_to(ROOT)}:{line}: data_prep may not import {module}"


def loaded_after(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded after running `code`."""
    script = f"import sys\n{code}\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    return set(fresh_interpreter(script).split("\n")[-2].split())


def fresh_interpreter(script: str) -> str:
    """What a script prints that runs in a new process in the checkout."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


LIGHT = [
    "import mtrobust",
    "from mtrobust import *",
    "from mtrobust import load_task_defs, read_rows; read_rows(load_task_defs('glue')['cola'], [{'text': 'A cat.'}])",
    "import mtrobust.cli",
    "import mtrobust.config",
    "import mtrobust.tasks",
    "import mtrobust.tasks.taskdef",
    "import mtrobust.data.rows",
    "import mtrobust.perturb",
    "import mtrobust.commands.attack",
    "import mtrobust.commands.doctor",
    "import mtrobust.training.status, mtrobust.training.progress, mtrobust.evaluation.report.runs",
    "import mtrobust.commands.analyze",
    "from mtrobust.tasks.taskdef import load_task_defs; load_task_defs(['glue', 'squad', 'textcls'])",
    "import data_prep; list(data_prep.COMMANDS)",
]


@pytest.mark.parametrize("code", LIGHT)
def test_the_quick_paths_load_nothing_heavy(code: str):
    assert loaded_after(code) & set(HEAVY) == set()


def test_every_module_can_be_imported_first():
    """No circle hides behind a lucky order: each module is imported alone in a fresh interpreter state."""
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in package_files("mtrobust")
        if path.name != "__main__.py"
    ]
    script = (
        "import importlib, sys\n"
        f"for name in {names!r}:\n"
        "    for old in [m for m in sys.modules if m.split('.')[0] == 'mtrobust']: del sys.modules[old]\n"
        "    importlib.import_module(name)\n"
    )
    fresh_interpreter(script)
