"""Runs of `standard`, `rapt` and `swep`, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.analysis.world import write_data, write_method_run


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir) -> Path:
    """Folder with `standard`, `rapt` (layers 1-3), `swep` (two checkpoints), `mu` (swep without epsilon) and `data`."""
    folder = tmp_path_factory.mktemp("analysis")
    data, model = write_data(folder / "data"), tiny_model_dir("bert")
    write_method_run(folder / "standard", model, data, [])
    write_method_run(folder / "rapt", model, data, [{"name": "rapt", "options": {}}])
    write_method_run(folder / "swep", model, data, [{"name": "swep", "options": {"variance": 9.0}}], (2, 4))
    still = {"name": "swep", "options": {"ablation": "no_epsilon"}}
    write_method_run(folder / "mu", model, data, [still], (4,))
    return folder


@pytest.fixture
def subject(runs: Path):
    """`subject("swep")`: an opened run."""
    from mtrobust.analysis.probe import Subject

    return lambda name: Subject.open(runs / name, name, use_cpu=True)
