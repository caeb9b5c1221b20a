"""The documentation site: it builds, its links lead somewhere, and what is made of the code is whole."""

from __future__ import annotations

import html.parser
import logging
import re
import subprocess
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from mtrobust.config import TrainConfig
from mtrobust.perturb import METHODS
from tests.docs.guides import pages
from tests.docs.shell import ROOT

SETTINGS = ROOT / "docs/site/mkdocs.yml"


class _Page(html.parser.HTMLParser):
    """The anchors, links and loaded files of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attributes}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag in ("script", "img", "iframe") and "src" in given:
            self.loaded.append(given["src"])
        if tag == "link" and given.get("rel") in ("stylesheet", "icon", "preload", "preconnect"):
            self.loaded.append(given["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The built site. A warning of the build is an error."""
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    out = tmp_path_factory.mktemp("site")
    config = load_config(str(SETTINGS), site_dir=str(out), strict=True)
    log = logging.getLogger("mkdocs")
    seen: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: seen.append(record.getMessage())  # type: ignore[method-assign]
    log.addHandler(handler)
    try:
        build(config)
    finally:
        log.removeHandler(handler)
    assert seen == []
    yield out


@pytest.fixture(scope="module")
def built(site: Path) -> dict[Path, _Page]:
    return {path: _Page(path) for path in site.rglob("*.html")}


@pytest.mark.slow
def test_every_link_of_the_site_leads_somewhere(site: Path, built: dict[Path, _Page]):
    broken = []
    for path, page in built.items():
        for link in page.links:
            parts = urllib.parse.urlsplit(link)
            if parts.scheme or parts.netloc or path.name == "404.html":
                continue
            target = (path.parent / urllib.parse.unquote(parts.path)).resolve() if parts.path else path
            anchor = urllib.parse.unquote(parts.fragment)
            known = target.is_file() and (not anchor or target not in built or anchor in built[target].anchors)
            broken += [] if known else [f"{path.relative_to(site)}: {link}"]
    assert broken == []


@pytest.mark.slow
def test_nothing_of_the_site_comes_from_the_network(site: Path, built: dict[Path, _Page]):
    far = [link for page in built.values() for link in page.loaded if urllib.parse.urlsplit(link).netloc]
    assert far == []
    for style in site.rglob("*.css"):
        assert "url(http" not in style.read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_home_page_links_every_page(site: Path, built: dict[Path, _Page]):
    links = {link.partition("#")[0] for link in built[site / "index.html"].links}
    names = {str(path.relative_to(site)) for path in built} - {"404.html", "index.html"}
    assert names - links == set()


def _navigation(items: list[Any]) -> list[str]:
    found = []
    for item in items:
        ((_, value),) = item.items()
        found += _navigation(value) if isinstance(value, list) else [value]
    return found


def test_every_page_stands_in_the_navigation():
    class Loader(yaml.SafeLoader):
        """Passes over what only MkDocs understands."""

    Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: None)
    listed = _navigation(yaml.load(SETTINGS.read_text(encoding="utf-8"), Loader)["nav"])  # noqa: S506 (a safe loader)
    written = [path.name for path in ROOT.glob("docs/*.md")]
    assert [name for name in [*written, *pages().GENERATED] if name not in listed] == []
    assert len(set(listed)) == len(listed)


def test_the_command_reference_has_every_command_and_flag():
    from mtrobust.cli import COMMANDS

    text, found = pages().commands(), pages().parsers()
    assert {name.split()[0] for name in found} == set(COMMANDS)
    for call, names in (inner for name, inner in pages().INNER.items() if name in COMMANDS):
        assert {f"{call} {name}" for name in names()} <= set(found)
    for name, parser in found.items():
        assert not isinstance(parser, str), f"{name}: prints no parser's help"
        for action in parser._actions:
            for flag in action.option_strings:
                if flag not in ("-h", "--help"):
                    assert re.search(rf"`(-\w, )?{flag}[ ,`]", text), f"{name} {flag}"
    assert "| `--batch_size N` | rows per batch; default: the run's |" in text


def test_the_options_page_has_every_setting_with_its_default():
    text = pages().options()
    for name in TrainConfig.model_fields:
        assert f"| `{name}` |" in text
    assert "| `warmup_ratio` | a number &gt;= 0 and &lt;= 1 | `0.1` |" in text


def test_the_definitions_page_has_every_type_key_and_metric():
    from mtrobust.tasks.base import TASK_TYPES
    from mtrobust.tasks.metrics import METRICS
    from mtrobust.tasks.taskdef import EvalSet, TaskDef, shipped_task_defs

    text = pages().task_definitions()
    names = [*TASK_TYPES, *METRICS, *EvalSet.model_fields, *shipped_task_defs()]
    for name in [*names, *(key for key in TaskDef.model_fields if key != "name")]:
        assert f"| `{name}` |" in text, name
    assert "`mnli`" in text and "required" not in text.partition("`n_class`")[2].partition("\n")[0]


def test_the_methods_page_has_every_option_and_links_the_formulas():
    text = pages().methods()
    for name, method in METHODS.items():
        part = text.partition(f"\n## {name} ")[2].partition("\n## ")[0]
        for option in method.Options.model_fields:
            assert f"| `{option}` |" in part, f"{name}.{option}"
        assert f"methods.md#{pages().anchor(name)}" in part


def test_the_python_page_ends_with_every_name():
    import mtrobust

    text = pages().python()
    assert [name for name in mtrobust.__all__ if f"### {name} " not in text] == []
    assert "load_run(path: Files, device: str | None = None) -> Run" in text


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("a_b * <x> [y]", r"a\_b \* &lt;x&gt; \[y\]"),
        ("code `a_b|c` stays", "code `a_b|c` stays"),
        ("needs --data_dir, or `--x y`", "needs `--data_dir`, or `--x y`"),
        ("a-b -- c", "a-b -- c"),
    ],
)
def test_texts_stay_what_they_are_in_markdown(given: str, expected: str):
    assert pages().plain(given) == expected


def test_lists_get_a_blank_line_and_shell_its_language():
    assert pages().spaced("text\n- a\n- b\n  more\n- c") == "text\n\n- a\n- b\n  more\n- c"
    assert pages().spaced("text\n```text\na\n- b\n```") == "text\n```text\na\n- b\n```"
    assert pages().spaced("text\n```\na\n- b\n```\n- c") == "text\n```sh\na\n- b\n```\n\n- c"


def test_the_script_does_not_write_into_a_folder_that_is_not_its_own(tmp_path: Path):
    (tmp_path / "thesis.tex").write_text("years of work", encoding="utf-8")
    command = ["bash", str(ROOT / "scripts/docs.sh")]
    done = subprocess.run(command, capture_output=True, text=True, env={"OUT": str(tmp_path), "PATH": "/usr/bin:/bin"})
    assert done.returncode == 2 and "set OUT to another folder" in done.stderr
