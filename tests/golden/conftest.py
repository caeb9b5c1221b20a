"""The recorded models of one golden folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.golden.fixtures import Fixture


@pytest.fixture
def fixture(golden: Path) -> Fixture:
    """The recorded encoder, heads, batch and noise in float64."""
    return Fixture.load(golden)


@pytest.fixture
def mlm(golden: Path, tmp_path: Path) -> Path:
    """Folder with the recorded masked language model."""
    for source, name in (("mlm_config.json", "config.json"), ("mlm_model.safetensors", "model.safetensors")):
        shutil.copy(golden / "fixtures" / source, tmp_path / name)
    return tmp_path
