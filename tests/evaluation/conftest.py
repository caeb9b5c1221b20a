"""A data folder and one finished run with every task type, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.evaluation.runs import write_data, write_run

ALL = ["mood", "mnli", "cola", "stsb", "squad", "squad2"]


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir, data_dir: Path) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "run", tiny_model_dir("bert"), data_dir, ALL)


@pytest.fixture(scope="session")
def run(run_dir: Path):
    from mtrobust.evaluation.run_folder import load_run

    return load_run(run_dir)
