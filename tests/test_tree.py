"""The tree itself: sizes, places, no trace of one machine, text files as the rules say."""

from __future__ import annotations

import ast
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOP = {
    *("mtrobust", "task_defs", "data_prep", "scripts", "tests", "docs", ".ci"),
    *("setup.cfg", "pyproject.toml", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", ".gitignore"),
}


@cache
def project_files() -> tuple[Path, ...]:
    """Tracked files and new ones that are not ignored, relative to the top. Skips outside a git checkout."""
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        listed = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"not a git checkout: {error}")
    return tuple(path for path in map(Path, filter(None, listed.split("\0"))) if (ROOT / path).is_file())


def texts(*suffixes: str) -> list[tuple[Path, str]]:
    return [(p, (ROOT / p).read_text(encoding="utf-8")) for p in project_files() if p.suffix in suffixes]


def test_nothing_new_stands_at_the_top():
    assert {path.parts[0] for path in project_files()} <= TOP


def test_no_python_file_is_longer_than_400_lines():
    assert [(str(p), text.count("\n")) for p, text in texts(".py") if text.count("\n") > 400] == []


def test_no_path_of_one_machine():
    # The slashes stand in brackets so that this file does not find itself; `[\w.]` before: a URL, a relative path.
    pattern = re.compile(r"(?<![\w.])[/](root|work|home)[/]")
    hits = [
        f"{path}:{number}: {line.strip()[:100]}"
        for path, text in texts(".py", ".md", ".yml", ".cfg", ".toml", ".sh", ".txt", "")
        for number, line in enumerate(text.split("\n"), 1)
        if pattern.search(line)
    ]
    assert hits == []


def test_text_files_are_utf8_with_unix_line_ends_and_a_last_newline():
    for path, _ in texts(".py", ".md", ".yml", ".cfg", ".toml", ".sh"):
        raw = (ROOT / path).read_bytes()
        assert b"\r" not in raw, path
        assert not raw or raw.endswith(b"\n"), path


def _bare_handlers(tree: ast.AST) -> list[int]:
    """Lines of handlers that catch everything."""
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or (isinstance(node.type, ast.Name) and node.type.id == "BaseException"))
        and not any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
    ]


def test_no_handler_swallows_everything():
    assert [(str(p), lines) for p, text in texts(".py") if (lines := _bare_handlers(ast.parse(text)))] == []


def test_no_splitlines_on_data():
    """`str.splitlines` breaks at U+0085 and U+2028, which occur inside the rows of public data sets."""
    rooms = ("mtrobust/data/", "mtrobust/tasks/", "mtrobust/evaluation/", "data_prep/")
    assert [str(p) for p, text in texts(".py") if p.as_posix().startswith(rooms) and ".splitlines(" in text] == []


def test_names_of_one_kind_are_not_switched_on_outside_their_registry():
    """A new task type or method is one file: nothing else may compare with its name."""
    names = {"standard", "rapt", "rpt", "smart", "Classification", "Regression"}
    names |= {"SpanClassification", "SpanClassificationYN", "MaskLM"}
    hits = []
    for path, text in texts(".py"):
        if path.parts[0] != "mtrobust":
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Compare):
                sides = [node.left, *node.comparators]
                if any(isinstance(side, ast.Constant) and side.value in names for side in sides):
                    hits.append(f"{path}:{node.lineno}")
    assert hits == []


def test_shell_scripts_parse_and_are_executable():
    for path, _ in [*texts(".sh"), (Path(".ci/run"), "")]:
        subprocess.run(["bash", "-n", str(ROOT / path)], check=True)
        assert (ROOT / path).stat().st_mode & 0o100, path
