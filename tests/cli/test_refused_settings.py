"""Settings of a training run that are refused: one line for each fault, with the flag or key, and what is allowed."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from mtrobust import UserError, train

SOUND = {"task_def": "defs.yml", "data_dir": "data", "model_name_or_path": "model", "output_dir": "run",
         "train_tasks": "pairs"}  # fmt: skip
FLAGS = " ".join(f"--{key} {value}" for key, value in SOUND.items())


@pytest.fixture
def refused(world: Path, mtrobust: Callable):
    """The lines that end `mtrobust train`, without their `error: `; nothing is written."""

    def run(flags: str, recipe: str | None = None) -> list[str]:
        if recipe is not None:
            (world / "recipe.yml").write_text(recipe, encoding="utf-8")
        ended = mtrobust("train", *(["recipe.yml"] if recipe is not None else []), *shlex.split(flags))
        assert ended.code == 2 and not (world / "run").exists()
        return [line.removeprefix("error: ") for line in ended.err.rstrip("\n").split("\n")]

    return run


def settings(**changes: str) -> str:
    """The sound settings as a recipe, with some in other words."""
    return "".join(f"{key}: {value}\n" for key, value in {**SOUND, **changes}.items())


# --- no definition, large seeds ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["[]", ""])
def test_a_run_without_definitions_is_refused(refused, text: str):
    assert refused("", settings(task_def=text)) == ["recipe.yml: task_def: []: must be a list of names, at least one"]


def test_a_run_without_definitions_is_refused_in_python(world: Path, monkeypatch):
    monkeypatch.chdir(world)
    with pytest.raises(UserError) as caught:
        train(**{**SOUND, "task_def": []})
    assert caught.value.faults == ["task_def: []: must be a list of names, at least one"]


def test_a_seed_is_what_all_generators_take(refused):
    says = "must be an integer >= 0 and < 9223372036854775808"
    assert refused(f"{FLAGS} --seed {2**63}") == [f"--seed: {2**63}: {says}"]
    assert refused(f"{FLAGS} --seed {10**40}") == [f"--seed: {10**40}: {says}"]


def test_the_largest_seed_seeds_all_generators():
    from mtrobust.training.state import seed_all

    seed_all(2**63 - 1)
