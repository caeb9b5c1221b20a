"""Runs of `main` in this process, in a small world of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.world import Ended, write_world


@pytest.fixture
def mtrobust(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """`mtrobust("train", "--seed", 1)`: runs the command in this process."""
    from mtrobust.cli import main

    def call(*argv: object) -> Ended:
        capsys.readouterr()
        code = main([str(word) for word in argv])
        captured = capsys.readouterr()
        return Ended(code, captured.out, captured.err)

    return call


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh folder with `write_world`'s files, which is also the current one."""
    write_world(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path
