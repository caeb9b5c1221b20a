"""Settings of a training run that are refused: one line for each fault, with the flag or key, and what is allowed."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from mtrobust import UserError, train
from mtrobust.config_parse import parse_train

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


# --- empty texts, flags without a value -------------------------------------------------------------------------------

EMPTY = {
    "task_def": "a list of names, at least one",
    "data_dir": "a path",
    "train_tasks": "a list of names",
    "eval_tasks": "a list of names, or none",
    "cache_dir": "a path, or none",
    "model_name_or_path": "a text",
    "init_from": "a path, or none",
    "lora_targets": "a list of names, or none",
    "perturb": "names of methods (mtrobust methods lists them)",
    "output_dir": "a path",
    "metric_for_best_model": "a text",
    "main_task": "a text, or none",
}


@pytest.mark.parametrize("key", EMPTY)
def test_an_empty_text_is_no_value(refused, key: str):
    says = f"must be {EMPTY[key]} (not empty)"
    assert refused(f"{FLAGS} --{key} ''") == [f"--{key}: '': {says}"]
    assert refused(f"{FLAGS} --{key}=' '") == [f"--{key}: '': {says}"]
    if key != "perturb":
        assert refused("", settings(**{key: "''"})) == [f"recipe.yml: {key}: '': {says}"]


def test_an_empty_flag_does_not_fall_back_on_the_recipe_or_on_an_earlier_flag(refused):
    assert len(refused("--train_tasks ''", settings())) == 1
    assert len(refused(f"{FLAGS} --train_tasks ''")) == 1
    shipped = refused(f"{FLAGS} --task_def textcls --train_tasks ''")  # no word of the rows that these lack
    assert shipped == ["--train_tasks: '': must be a list of names (not empty)"]
    assert len(refused(f"{FLAGS} --perturb '' --perturb.eta 2")) == 1


@pytest.mark.parametrize("text", [",", "' , '"])
def test_commas_alone_name_nothing(refused, text: str):
    assert refused(f"{FLAGS} --eval_tasks {text}")[0].startswith("--eval_tasks: ,: must be a list of names")


def test_an_empty_name_in_a_list_is_no_name(refused):
    says = "recipe.yml: train_tasks: ['pairs', '']: must be a list of names (not empty)"
    assert refused("", settings(train_tasks="[pairs, '']")) == [says]


def test_an_empty_list_is_not_taken_for_none(refused):
    says = "recipe.yml: eval_tasks: []: must be a list of names, or none (not empty)"
    assert refused("", settings(eval_tasks="[]")) == [says]


@pytest.mark.parametrize("text", ["''", "['']", "[rapt, ',']"])
def test_an_empty_method_is_no_method(refused, text: str):
    (line,) = refused("", settings(perturb=text))
    assert line.startswith("recipe.yml: perturb: ") and ": must be a method's name or {name: METHOD" in line


def test_lists_without_a_name_stay_what_a_saved_configuration_has(world: Path, mtrobust: Callable):
    ended = mtrobust("train", *shlex.split(f"{FLAGS} --model_name_or_path nowhere/at/all"))
    assert len(ended.err.strip().split("\n")) == 1
    (world / "recipe.yml").write_text(settings(train_tasks="[]", perturb="[]", model_name_or_path="nowhere/at/all"))
    assert mtrobust("train", "recipe.yml").err.replace("recipe.yml: ", "--") == ended.err


def test_an_empty_name_of_a_recipe_is_said_alone(refused):
    assert refused("''") == ["'': must be a recipe file (not empty)"]


@pytest.mark.parametrize("key", ["output_dir", "task_def", "perturb", "cache_dir"])
def test_a_flag_without_a_value_is_one_fault(refused, key: str):
    others = " ".join(f"--{name} {value}" for name, value in SOUND.items() if name != key)
    (line,) = refused(f"{others} --{key} --max_steps 2")
    assert line.startswith(f"--{key}: needs a value: ")


# --- booleans, numbers ------------------------------------------------------------------------------------------------


def test_a_word_after_a_boolean_flag_is_its_value_or_the_recipe(refused, world: Path):
    assert refused("--bf16 maybe", settings()) == ["--bf16: maybe: must be true or false"]
    assert refused("--no_bf16 false", settings()) == [
        "--no_bf16: false: takes no value; write --no_bf16 or --bf16 VALUE"
    ]
    assert refused("--no_bf16=x", settings()) == ["--no_bf16: x: takes no value; write --no_bf16 or --bf16 VALUE"]
    (world / "recipe").write_text(settings(seed="x"), encoding="utf-8")
    for words in ("--bf16 recipe", "--no_bf16 recipe", "--bf16 yes recipe"):
        assert refused(words) == ["recipe: seed: x: must be an integer >= 0 and < 9223372036854775808"]
    assert refused("--bf16 gone.yml")[0].startswith("gone.yml: no such recipe file")


@pytest.mark.parametrize("number", ["1_0", "1_000", "١"])
def test_numbers_are_plain_digits(refused, number: str):
    assert refused(f"{FLAGS} --max_steps {number}") == [f"--max_steps: {number}: must be an integer >= 1, or none"]
    assert refused(f"{FLAGS} --learning_rate {number}") == [f"--learning_rate: {number}: must be a number > 0"]
    assert refused("", settings(save_steps=number)) == [f"recipe.yml: save_steps: {number}: must be an integer >= 0"]
    assert refused(f"{FLAGS} --perturb rapt --perturb.eta {number}")[0].startswith(f"--perturb.eta: {number}: must be")


# --- settings without effect ------------------------------------------------------------------------------------------


def test_a_main_task_without_a_use_for_it_is_refused(refused, world: Path, mtrobust: Callable):
    told = "without effect without sampling main_ratio or sampling_order main_last"
    assert refused(f"{FLAGS} --main_task pairs") == [f"--main_task: pairs: {told}"]
    assert refused(f"{FLAGS} --main_task pairs --sampling sqrt") == [f"--main_task: pairs: {told}"]
    for use in ("--sampling main_ratio", "--sampling_order main_last"):
        (line,) = refused(f"{FLAGS} --main_task pairs {use} --data_dir gone")
        assert line.startswith("--data_dir: gone")


def test_what_has_an_effect_beside_a_faulty_setting_is_not_complained_of(refused):
    for flags in ("--sampling main_rato --main_task pairs", "--sampling_order last --main_task pairs",
                  "--sampling --main_task pairs"):  # fmt: skip
        (line,) = refused(f"{FLAGS} {flags}")
        assert line.startswith("--sampling")


def test_an_option_in_two_places_of_a_recipe_is_refused(refused):
    text = settings(perturb="{name: rapt, eta: 1, layers: 1-3, options: {eta: 2}}")
    assert refused("", text) == ["recipe.yml: perturb: rapt.eta: written twice, also in options"]


# --- the start of a run -----------------------------------------------------------------------------------------------


def test_a_flag_that_names_the_start_wins_over_the_recipe(world: Path):
    (world / "recipe.yml").write_text(settings(), encoding="utf-8")
    config = parse_train(["recipe.yml", "--init_from", "r1"]).config
    assert config is not None and (config.init_from, config.model_name_or_path) == (Path("r1"), "r1/model")
    (world / "saved.yml").write_text(settings(init_from="r1", model_name_or_path="r1/model"), encoding="utf-8")
    config = parse_train(["saved.yml", "--model_name_or_path", "model"]).config
    assert config is not None and (config.init_from, config.model_name_or_path) == (None, "model")
    config = parse_train(["saved.yml", "--init_from", "none"]).config
    assert config is not None and (config.init_from, config.model_name_or_path) == (None, "r1/model")


def test_two_starts_in_one_place_are_refused(refused, world: Path):
    (world / "r1" / "model").mkdir(parents=True)
    (world / "r1" / "model" / "config.json").write_text("{}", encoding="utf-8")
    told = "model_name_or_path: model: not together with init_from, whose encoder is taken"
    assert refused(f"{FLAGS} --init_from r1") == [f"--{told}"]
    assert refused("", settings(init_from="r1")) == [f"recipe.yml: {told}"]
