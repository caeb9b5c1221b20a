"""A small world for runs of the command."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.world import write_world


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh folder with `write_world`'s files, which is also the current one."""
    write_world(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path
