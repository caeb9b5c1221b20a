"""The worlds in which guides are run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.docs import worlds


@pytest.fixture(scope="session")
def guide_world(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Path], None]:
    """`guide_world(document, folder)` makes the folder that a document's commands are run in."""
    base = worlds.write_base(tmp_path_factory.mktemp("guide"))
    return lambda document, folder: worlds.write_world(base, document, folder)
