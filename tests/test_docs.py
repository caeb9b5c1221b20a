"""The documents say what is there: tables against the registries, examples against the code."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest

from mtrobust.perturb import METHODS, Passes, Perturbation
from mtrobust.tasks import base as tasks_base
from tests.docs.guides import pages

ROOT = Path(__file__).resolve().parents[1]


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def section(text: str, title: str) -> str:
    """The text under a heading, up to the next one of any level."""
    return re.split(r"\n#+ ", text.split(f"# {title}\n", 1)[1])[0]


def first_column(text: str) -> list[str]:
    """Names in backticks that start the rows of a table."""
    return re.findall(r"^\| `([^`]+)`", text, flags=re.MULTILINE)


def test_readme_names_exactly_the_registered_methods_and_task_types():
    import mtrobust.tasks  # noqa: F401  (registers)

    readme = text_of("README.md")
    assert sorted(first_column(section(readme, "Methods"))) == sorted(METHODS)
    assert sorted(first_column(section(readme, "Task types"))) == sorted(tasks_base.TASK_TYPES)


def test_every_method_and_divergence_has_its_formulas():
    from mtrobust.perturb.names import DIVERGENCES_HELP

    methods = text_of("docs/methods.md")
    for name in METHODS:
        assert re.search(rf"^## {name}\b", methods, flags=re.MULTILINE), name
    assert first_column(section(methods, "Divergences")) == list(DIVERGENCES_HELP)


@pytest.mark.parametrize("name", list(METHODS))
def test_every_option_of_a_method_is_explained(name: str):
    text = re.split(r"\n## ", text_of("docs/methods.md").split(f"\n## {name}", 1)[1])[0]
    shared = {"layers", "pick", "alpha", "divergence", "detach_clean"}
    missing = [option for option in METHODS[name].Options.model_fields if f"`{option}" not in text]
    assert [option for option in missing if option not in shared] == []


def test_every_key_of_a_definition_is_documented():
    from mtrobust.tasks.taskdef import TaskDef

    text = text_of("docs/tasks.md")
    not_ours = {"name", "loss", "adv_loss", "encoder_type"}  # the latter three are MT-DNN's
    shown = [key for key in TaskDef.model_fields if f"`{key}`" in text or f"  {key}:" in text]
    assert set(TaskDef.model_fields) - set(shown) - not_ours == set()


@pytest.fixture
def uniform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type[Perturbation]:
    """The worked example of CONTRIBUTING.md, imported as a file of the package; unregistered after the test."""
    (code,) = re.findall(r"```python\n(.*?)```", text_of("CONTRIBUTING.md"), flags=re.DOTALL)
    assert code.count("\n") < 80
    path = tmp_path / "uniform.py"
    path.write_text(code, encoding="utf-8")
    monkeypatch.setattr(METHODS, "_items", dict(METHODS.items()))
    found = importlib.util.spec_from_file_location("mtrobust.perturb.uniform", path)
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    monkeypatch.setitem(sys.modules, found.name, module)
    found.loader.exec_module(module)
    return METHODS["uniform"]


def test_the_worked_example_has_its_options_on_the_command_line(uniform, capsys: pytest.CaptureFixture[str]):
    from mtrobust.commands import methods
    from mtrobust.config_parse import parse_train

    assert methods.run(["uniform"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"uniform: {uniform.summary}\n")
    options = re.findall(r"^  (\w+) ", shown, flags=re.MULTILINE)
    assert options == ["layers", "pick", "alpha", "divergence", "detach_clean", "size"]

    parsed = parse_train(["--perturb", "uniform", "--perturb.layers", "1-2", "--perturb.size", "-1"])
    assert [fault for fault in parsed.faults if "perturb" in fault] == ["--perturb.size: -1: must be a number >= 0"]


@pytest.mark.parametrize("layers", ["words", "embeddings", "1-2"])
def test_the_worked_example_runs_in_cells_of_the_matrix(uniform, layers: str):
    from tests.perturb.cells import TASKS, batch_of, family_for, gradients, spec, step_of

    for task_type in TASKS:
        family = family_for(task_type)
        step = step_of(family, task_type, [spec("rapt"), spec("uniform", layers=layers, size=0.5)])
        batch = batch_of(family, task_type, labelled=[True, False, True, True])
        out = step(batch)
        assert set(out.terms) == {"task", "rapt/reg", "uniform/reg"} and out.terms["uniform/reg"] > 0
        assert set(out.stats) >= {"uniform/site", "uniform/delta_norm"}
        _, grads = gradients(step, batch)
        assert all(grad.isfinite().all() for grad in grads.values())


def test_the_worked_example_leaves_padding_alone(uniform):
    from tests.perturb.cells import batch_of, spec, step_of

    step, batch = step_of("bert", "Classification", [spec("uniform")]), batch_of("bert", "Classification")
    method = step.methods["classification"].methods["uniform"]
    passes = Passes(step.model.encoder, step.model.heads["classification"], batch, step.noise, method.needs)
    delta, mask = method.delta(passes, 0, passes.h(0)), batch.inputs["attention_mask"].bool()
    assert not mask.all() and not delta[~mask].any() and 0.05 < delta[mask].abs().max() <= 0.1


def test_no_example_stays_registered():
    assert "uniform" not in METHODS


def test_the_guide_names_every_kind_of_method():
    from mtrobust.perturb import base

    kinds = {name for name, kind in vars(base).items() if isinstance(kind, type) and base.Perturbation in kind.__mro__}
    assert {*first_column(text_of("CONTRIBUTING.md")), "Perturbation"} == kinds


def test_relative_links_lead_somewhere():
    made = {ROOT / "docs" / name for name in pages().GENERATED}  # of the code, when the site is built
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]:
        for link in re.findall(r"\]\(([^)#]+)", path.read_text(encoding="utf-8")):
            if "://" not in link:
                there = (path.parent / link).exists() or path.parent / link in made
                assert there, f"{path.name}: {link}"


def test_every_preparation_command_and_shipped_definition_is_documented():
    from data_prep import COMMANDS
    from data_prep.nli import SETS as INFERENCE
    from data_prep.textcls_sets import SETS
    from mtrobust.tasks.taskdef import shipped_task_defs

    data = text_of("docs/data.md")
    assert [name for name in COMMANDS if f"prep {name}" not in data] == []
    assert [name for name in [*SETS, *INFERENCE] if f"--dataset {name} " not in data] == []
    assert [name for name in shipped_task_defs() if f"`{name}`" not in text_of("docs/tasks.md")] == []


@pytest.mark.parametrize("name", ["ssmba", "augment", "glue_check"])
def test_every_option_of_the_row_making_tools_is_documented(name: str):
    import argparse

    from data_prep import COMMANDS

    parser = argparse.ArgumentParser(add_help=False)
    COMMANDS[name].add_arguments(parser)
    flags = [flag for action in parser._actions for flag in action.option_strings]
    assert [
        flag
        for flag in flags
        if f"{flag}`" not in text_of("docs/data.md") and f"{flag} " not in text_of("docs/data.md")
    ] == []
