"""The documents say what is there: tables against the registries, examples against the code."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from mtrobust.perturb import METHODS
from mtrobust.tasks import base as tasks_base

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


def commands(name: str) -> list[list[str]]:
    """The `mtrobust` commands in the shell blocks of a document, as words."""
    blocks = re.findall(r"```\n(.*?)```", text_of(name), flags=re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").split("\n")
    return [shlex.split(line, comments=True) for line in lines if line.strip().startswith("mtrobust ")]


def test_flags_in_the_readme_exist():
    from mtrobust.config import TrainConfig

    training = [words for words in commands("README.md") if words[1] == "train"]
    assert training
    for words in training:
        flags = [word.removeprefix("--").split(".")[0] for word in words if word.startswith("--")]
        assert [flag for flag in flags if flag not in TrainConfig.model_fields] == []


def test_the_new_method_of_contributing_runs(monkeypatch: pytest.MonkeyPatch):
    """The example is a whole method: it registers, and takes its option."""
    from pydantic import Field

    from mtrobust.perturb.base import Consistency, ConsistencyOptions, Passes, Term
    from mtrobust.perturb.layers import Site
    from mtrobust.registry import Registry

    registry: Registry = Registry("perturbation method")
    (code,) = re.findall(r"```python\n(.*?)```", text_of("CONTRIBUTING.md"), flags=re.DOTALL)
    names = {"Consistency": Consistency, "ConsistencyOptions": ConsistencyOptions, "Passes": Passes, "Site": Site}
    scope = {**names, "Term": Term, "Field": Field, "METHODS": registry, "__name__": "example"}
    exec(code, scope)
    assert registry["uniform"].Options(size=0.5).size == 0.5


def test_relative_links_lead_somewhere():
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]:
        for link in re.findall(r"\]\(([^)#]+)", path.read_text(encoding="utf-8")):
            if "://" not in link:
                assert (path.parent / link).exists(), f"{path.name}: {link}"
