"""What all tests share: no network, one thread, tiers by folder, real data where it is at hand, tiny models."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# Before any library reads them.
os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parents[1]
TIERS = {"golden": "golden", "cli": "cli"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tiers follow from the place of a file, so that no test can be forgotten by its tier."""
    for item in items:
        folder = item.path.parent.name
        if folder in TIERS:
            item.add_marker(TIERS[folder])
        if item.path.name.startswith("test_matrix"):
            item.add_marker("matrix")


def _folder(variable: str, inside: str = "") -> Path:
    """The folder a variable names; skips when it is unset, fails when it is set and wrong."""
    if not os.environ.get(variable):
        pytest.skip(f"{variable} is not set")
    path = Path(os.environ[variable]) / inside
    if not path.is_dir():
        pytest.fail(f"{variable}: no folder {path}")
    return path


@pytest.fixture
def mtrobust(capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """`mtrobust("train", "--seed", 1)`: runs the command in this process."""
    from mtrobust.cli import main
    from tests.cli.world import Ended

    def call(*argv: object) -> Ended:
        capsys.readouterr()
        code = main([str(word) for word in argv])
        captured = capsys.readouterr()
        return Ended(code, captured.out, captured.err)

    return call


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder with the benchmark files in their original formats."""
    return _folder("MTROBUST_DATA")


@pytest.fixture(scope="session")
def real_model() -> Path:
    """Folder of a real pretrained encoder: six layers, width 384, uncased English vocabulary."""
    return _folder("MTROBUST_MODELS", "minilm-l6-h384-uncased")


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder with the recorded reference cases."""
    return _folder("MTROBUST_GOLDEN")


@pytest.fixture(autouse=True)
def _seeded(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test that uses torch starts from the same generator state, whatever ran before it."""
    if "torch" in sys.modules:
        import torch

        torch.manual_seed(20)
        torch.set_num_threads(1)
    yield


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`tiny_model_dir(family)`: folder of a small random encoder and tokenizer, as `from_pretrained` reads them."""
    from tests.tiny import write_tiny_model

    made: dict[str, Path] = {}

    def make(family: str = "bert") -> Path:
        if family not in made:
            made[family] = write_tiny_model(family, tmp_path_factory.mktemp(f"tiny-{family}"))
        return made[family]

    return make


@pytest.fixture
def installed(tmp_path: Path) -> dict[str, str]:
    """Variables under which the scripts find this checkout installed: the commands of a made-up environment."""
    venv = tmp_path / "venv" / "bin"
    venv.mkdir(parents=True)
    for name, module in (("python", ""), ("mtrobust", "-m mtrobust ")):
        (venv / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {module}"$@"\n', encoding="utf-8")
        (venv / name).chmod(0o755)
    (venv.parent / ".mtrobust-plain").touch()
    os.utime(venv.parent / ".mtrobust-plain", (2**31 - 1, 2**31 - 1))  # newer than any file it is compared with
    paths = filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
    return {**os.environ, "MTROBUST_VENV": str(venv.parent), "PYTHONPATH": os.pathsep.join(paths)}
