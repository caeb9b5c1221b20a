"""Recipe and flags together: what wins, which spellings are read, and how messages name the place."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from mtrobust.config import PerturbSpec, TrainConfig
from mtrobust.config_parse import parse_train, read_perturb

NEEDED = ["--task_def", "a", "--data_dir", "d", "--model_name_or_path", "m", "--output_dir", "o"]


def parsed(*flags: object) -> TrainConfig:
    result = parse_train([*NEEDED, *map(str, flags)])
    assert result.faults == []
    assert result.config is not None
    return result.config


@pytest.fixture
def recipe(tmp_path: Path):
    def write(text: str) -> Path:
        path = tmp_path / "r.yml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_defaults_are_the_configuration_s_own():
    assert parsed() == TrainConfig(task_def=["a"], data_dir="d", model_name_or_path="m", output_dir="o")


@pytest.mark.parametrize(
    ("flags", "field", "value"),
    [
        (["--learning_rate", "2e-5"], "learning_rate", 2e-5),
        (["--learning_rate=3e-5"], "learning_rate", 3e-5),
        (["--seed", "1", "--seed", "2"], "seed", 2),
        (["--train_tasks", "a,b"], "train_tasks", ["a", "b"]),
        (["--train_tasks", "a", "--train_tasks", "b, c"], "train_tasks", ["a", "b", "c"]),
        (["--bf16"], "bf16", True),
        (["--bf16", "false"], "bf16", False),
        (["--bf16=True"], "bf16", True),
        (["--no_group_by_length"], "group_by_length", False),
        (["--no-group_by_length"], "group_by_length", False),
        (["--max_steps", "none"], "max_steps", None),
        (["--eval_tasks", "none"], "eval_tasks", None),
        (["--model_name_or_path", "-odd"], "model_name_or_path", "-odd"),
        (["--cache_dir", "x/y"], "cache_dir", Path("x/y")),
    ],
)
def test_flags_in_every_spelling(flags: list[str], field: str, value: object):
    assert getattr(parsed(*flags), field) == value


def test_a_flag_wins_over_the_recipe_and_the_recipe_over_the_default(recipe):
    path = recipe("learning_rate: 2e-5\nseed: 7\ntrain_tasks: [x]\nbf16: yes\neval_tasks: a, b\n")
    config = parsed(path, "--seed", 8)
    assert (config.learning_rate, config.seed, config.train_tasks, config.bf16) == (2e-5, 8, ["x"], True)
    assert config.eval_tasks == ["a", "b"]


def test_a_flag_unsets_what_the_recipe_sets(recipe):
    assert parsed(recipe("max_steps: 5"), "--max_steps", "none").max_steps is None


def test_a_saved_configuration_is_a_recipe(recipe):
    config = parsed("--perturb", "rapt,rpt", "--perturb.rapt.layers", "1-3", "--perturb.rpt.c", "1e-4", "--seed", 3)
    path = recipe(yaml.safe_dump(config.model_dump(mode="json")))
    again = parse_train([str(path)])
    assert again.faults == [] and again.config == config


RAPT = PerturbSpec(name="rapt", options={"layers": "1-3", "eta": 2})


@pytest.mark.parametrize(
    "text",
    [
        "perturb: {name: rapt, layers: 1-3, eta: 2}",
        "perturb: [{name: rapt, layers: 1-3, eta: 2}]",
        "perturb: [{name: rapt, options: {layers: 1-3, eta: 2}}]",
    ],
)
def test_methods_in_a_recipe_in_every_form(recipe, text: str):
    assert parsed(recipe(text)).perturb == [RAPT]


def test_methods_by_flags():
    assert parsed("--perturb", "rapt", "--perturb.layers", "1-3", "--perturb.eta", "2").perturb == [RAPT]
    both = parsed("--perturb", "smart,rapt", "--perturb.rapt.layers=1-3", "--perturb.rapt.eta", 2).perturb
    assert both == [PerturbSpec(name="smart"), RAPT]


def test_an_option_by_flag_goes_into_the_recipe_s_method(recipe):
    assert parsed(recipe("perturb: {name: rapt, layers: 1-3, eta: 1}"), "--perturb.eta", 2).perturb == [RAPT]


def test_naming_methods_by_flag_replaces_the_recipe_s_with_their_options(recipe):
    assert parsed(recipe("perturb: {name: rapt, eta: 1}"), "--perturb", "rapt").perturb == [PerturbSpec(name="rapt")]


def test_none_is_absence_where_an_option_may_be_absent_and_a_choice_elsewhere():
    flags = ["--perturb", "rapt", "--perturb.detach_clean", "none", "--perturb.norm", "none"]
    assert parsed(*flags).perturb == [PerturbSpec(name="rapt", options={"detach_clean": None, "norm": "none"})]


def test_an_option_without_a_value_is_a_switch():
    assert parsed("--perturb", "rpt", "--perturb.detach_clean", "--seed", 1).perturb[0].options == {
        "detach_clean": True
    }


@pytest.mark.parametrize(("text", "value"), [("[embeddings, 2-4]", ["embeddings", "2-4"]), ("3", 3)])
def test_option_values_are_read_as_yaml_reads_them(text: str, value: object):
    specs, faults = read_perturb("rapt", [("layers", text)], "--perturb")
    assert faults == [] and specs[0].options == {"layers": value}


def test_all_faults_come_at_once_with_their_places_and_the_sound_part_stays(recipe):
    path = recipe("seed: x\nlearning_rate: 3e-5\nfoo: 1\n")
    result = parse_train([str(path), "--optim", "z", "--task_def", "glue"])
    for text in (
        f"{path}: seed: x:",
        f"{path}: foo: unknown",
        "--optim: z:",
        "--data_dir: missing",
        "--output_dir: missing",
    ):
        assert sum(fault.startswith(text) for fault in result.faults) == 1
    assert result.bad == {"seed", "foo", "optim", "data_dir", "model_name_or_path", "output_dir"}
    assert result.config is not None
    assert (result.config.learning_rate, result.config.task_def, result.config.seed) == (3e-5, ["glue"], 42)


def test_a_recipe_that_cannot_be_read_is_not_also_said_to_lack_everything(recipe):
    result = parse_train([str(recipe("seed: ["))])
    assert len(result.faults) == 1
