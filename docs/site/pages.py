"""The pages that are made of the code: a hook of MkDocs, and functions from the registries to Markdown."""

from __future__ import annotations

import argparse
import contextlib
import html
import importlib
import inspect
import io
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:  # a checkout that is not installed
    sys.path.insert(0, str(ROOT))

from mtrobust.cli import COMMANDS, main  # noqa: E402
from mtrobust.commands import prep  # noqa: E402
from mtrobust.commands.parser import Parser  # noqa: E402
from mtrobust.config import TrainConfig  # noqa: E402
from mtrobust.config_values import allowed, default_text  # noqa: E402
from mtrobust.evaluation.attacks import ATTACKS  # noqa: E402
from mtrobust.perturb import METHODS  # noqa: E402

NOTE = "*Made of the code of this version.*"


# --- Markdown ---------------------------------------------------------------------------------------------------------


def plain(text: str) -> str:
    """A text that may hold signs of Markdown and HTML, as itself; flags and what stands in backticks are code."""
    parts = re.split(r"(`[^`]*`|(?<![\w-])--[a-z][\w.]*)", " ".join(text.split()))
    code = lambda part: part if part.startswith("`") else f"`{part}`"  # noqa: E731
    escape = lambda part: re.sub(r"([*_\[\]|])", r"\\\1", html.escape(part, quote=False))  # noqa: E731
    return "".join(code(part) if number % 2 else escape(part) for number, part in enumerate(parts))


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table, with a blank line before and after."""
    head = list(header)
    lines = ["| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *rows]]
    return "\n" + "\n".join(lines) + "\n"


def fields(model: Any, skip: Iterable[str] = (), follows: Mapping[str, str] = {}) -> str:  # noqa: B006 (read only)
    """The fields of a typed model: name, what is allowed, default, meaning. follows: defaults that other keys give."""
    rows = [
        (
            f"`{name}`",
            plain(allowed(field)),
            follows.get(name, f"`{default_text(field)}`"),
            plain(field.description or ""),
        )
        for name, field in model.model_fields.items()
        if name not in set(skip)
    ]
    return table(("name", "allowed", "default", "meaning"), rows)


# --- commands ---------------------------------------------------------------------------------------------------------


def parser_of(*words: str) -> argparse.ArgumentParser | str:
    """The parser that a command's `--help` prints, or, where it has none, the text."""
    seen: list[argparse.ArgumentParser] = []
    out = io.StringIO()
    keep = mock.patch.object(Parser, "print_help", lambda self, file=None: seen.append(self))
    with keep, contextlib.redirect_stdout(out):
        main([*words, "--help"])
    return seen[0] if seen else out.getvalue()


# Commands that are several: how one of them is called, and where their names are.
INNER: dict[str, tuple[str, Callable[[], Iterable[str]]]] = {
    "prep": ("prep", prep.commands),
    "attack": ("attack --attack", lambda: ATTACKS),
    "analyze": ("analyze", lambda: importlib.import_module("mtrobust.analysis").ANALYSES),
}


def parsers() -> dict[str, argparse.ArgumentParser | str]:
    """By what one types: every command, and those inside a command (`prep glue`)."""
    found: dict[str, argparse.ArgumentParser | str] = {}
    for name in COMMANDS:
        if name in INNER:
            call, names = INNER[name]
            found |= {f"{call} {inner}": parser_of(*call.split(), inner) for inner in names()}
        else:
            found[name] = parser_of(name)
    return found


def commands() -> str:
    """The command reference."""
    parts = ["# Commands", NOTE, "", "```", "mtrobust COMMAND --help", "```"]
    rows = [(f"[`{name}`](#{name})", plain(text)) for name, (_, text) in COMMANDS.items()]
    parts.append(table(("command", ""), rows))
    done: set[str] = set()
    for name, parser in parsers().items():
        command = name.split()[0]
        if command not in done:
            parts.append(f"\n## {command} {{ #{command} }}\n\n{plain(COMMANDS[command][1])}.\n")
            done.add(command)
        if name != command:
            parts.append(f"\n### {name} {{ #{'-'.join(name.replace('--', '').split())} }}\n")
        parts.append(f"```text\n{parser}\n```\n" if isinstance(parser, str) else _parser(parser))
    return "\n".join(parts)


def _parser(parser: argparse.ArgumentParser) -> str:
    """Usage, description, arguments and flags of one parser."""
    usage = parser.format_usage().removeprefix("usage: ").rstrip()
    rows = []
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction) or action.help == argparse.SUPPRESS:
            continue
        formatter = parser._get_formatter()
        metavar = formatter._get_default_metavar_for_optional(action)
        value = "" if action.nargs == 0 else formatter._format_args(action, metavar)
        called = ", ".join(action.option_strings) or str(action.metavar or action.dest)
        flag = f"`{called} {value}`" if value and action.option_strings else f"`{called}`"
        needed = "**needed.** " if action.required and action.option_strings else ""
        rows.append((flag, needed + plain(formatter._expand_help(action) if action.help else "")))
    text = [f"```text\n{usage}\n```\n"]
    text += [plain_lines(part) for part in (parser.description,) if part]
    if rows:
        text.append(table(("argument", "meaning"), rows))
    if parser.epilog:
        text.append(f"```text\n{parser.epilog.rstrip()}\n```\n")
    return "\n".join(text)


def plain_lines(text: str) -> str:
    """A description whose indented parts stay as they are."""
    parts = re.split(r"\n\s*\n", text.strip("\n"))
    shown = [f"```text\n{part}\n```" if re.search(r"^\s", part, re.MULTILINE) else plain(part) for part in parts]
    return "\n\n".join(shown) + "\n"


# --- options, definitions, methods, Python ----------------------------------------------------------------------------


def options() -> str:
    """Every setting of a run."""
    text = """# Options of a run
{note}

Each is a flag of `mtrobust train` (`--learning_rate 2e-5`), a key of a recipe (`learning_rate: 2e-5`) and a keyword of
[`mtrobust.train`](../python.md). Lists are written `a,b`, booleans as `--bf16` and `--no_bf16`. Options of methods are
[on a page of their own](methods.md): `--perturb.layers 1-3`.
"""
    return text.format(note=NOTE) + fields(TrainConfig)


def task_definitions() -> str:
    """Task types, keys, metrics and shipped definitions."""
    import mtrobust.tasks  # noqa: F401  (registers)
    from mtrobust.tasks.base import TASK_TYPES
    from mtrobust.tasks.metrics import METRICS
    from mtrobust.tasks.taskdef import EvalSet, TaskDef, load_task_defs, shipped_task_defs

    names = lambda values: ", ".join(f"`{value}`" for value in values)  # noqa: E731
    types = [
        (f"`{name}`", plain(kind.summary), names(kind.data_formats), names(kind.metrics))
        for name, kind in TASK_TYPES.items()
    ]
    metrics = [(f"`{name}`", f"`{metric.key}`" if metric.key else "") for name, metric in METRICS.items()]
    follows = {"n_class": "from `labels`; 1 for numbers", "metric_meta": "the type's first"}
    shipped = [(f"`{name}`", names(load_task_defs([path], use=[]))) for name, path in shipped_task_defs().items()]
    return "\n".join([
        "# Task definitions", NOTE, "", "[Tasks and rows](../tasks.md) explains them; `mtrobust tasks` prints them.",
        "\n## Task types", table(("`task_type`", "", "`data_format`", "`metric_meta`, the default first"), types),
        "\n## Keys of a task", fields(TaskDef, ["name"], follows),
        "\n## Keys of an evaluation set", "Under `eval_sets: {NAME: …}`.", fields(EvalSet),
        "\n## Metrics", table(("name", "key in results"), metrics),
        "\n## Definitions that come with the package", table(("`--task_def`", "tasks"), shipped),
    ])  # fmt: skip


def methods() -> str:
    """Every method with its options."""
    rows = [(f"[`{n}`](#{n})", plain(m.summary), plain(m.paper) if m.paper != "-" else "") for n, m in METHODS.items()]
    parts = ["# Options of methods", NOTE, "", "[Methods](../methods.md) has the formulas. `--perturb NAME` selects a "
             "method, `--perturb.OPTION VALUE` sets an option, `--perturb.NAME.OPTION VALUE` where there are several.",
             table(("method", "", "source"), rows)]  # fmt: skip
    for name, method in METHODS.items():
        shown = fields(method.Options) if method.Options.model_fields else "\nIt has no options.\n"
        link = f"[Formulas](../methods.md#{anchor(name)})"
        parts.append(f"\n## {name} {{ #{name} }}\n\n{plain(method.summary)}. {link}\n{shown}")
    return "\n".join(parts)


def anchor(method: str) -> str:
    """The anchor of a method's section in methods.md, whose headings are `name: what it is`."""
    text = (ROOT / "docs/methods.md").read_text(encoding="utf-8")
    heading = re.search(rf"^## ({method}\b.*)$", text, flags=re.MULTILINE)
    return re.sub(r"[^\w\- ]", "", heading[1].lower()).replace(" ", "-") if heading else method


def python() -> str:
    """The functions of the package, for the end of python.md."""
    import mtrobust
    from mtrobust import api

    parts = ["\n## All names", "`Files` is a text or a path; `Methods` is what stands under `perturb` in a recipe."]
    for name in mtrobust.__all__:
        item = getattr(api, name)
        shown = f"{name}{inspect.signature(item)}" if inspect.isfunction(item) else name
        shown = re.sub(r"'([^']*)'", r"\1", shown) if inspect.isfunction(item) else shown
        parts.append(f"### {name} {{ #{name} }}\n\n```python\n{shown}\n```\n\n{inspect.getdoc(item)}\n")
    return "\n".join(parts)


def root_page(name: str) -> str:
    """A document of the top folder, its links as they are from here."""
    text = (ROOT / name).read_text(encoding="utf-8")
    return re.sub(r"\]\(docs/", "](", text)


GENERATED: dict[str, Callable[[], str]] = {
    "reference/commands.md": commands,
    "reference/options.md": options,
    "reference/task_definitions.md": task_definitions,
    "reference/methods.md": methods,
    "contributing.md": lambda: root_page("CONTRIBUTING.md"),
    "changelog.md": lambda: root_page("CHANGELOG.md"),
}

STYLE = """/* room for lines of 120 characters; flags in tables are not broken */
.md-grid { max-width: 76rem; }
.md-typeset pre > code { font-size: 0.68rem; }
.md-typeset table:not([class]) td:first-child code { white-space: nowrap; }
"""


# --- the hook ---------------------------------------------------------------------------------------------------------


def on_config(config: Any) -> Any:
    """Leaves pages out of the navigation that are not there."""
    here = Path(config.docs_dir)

    def kept(items: list[Any]) -> list[Any]:
        found: list[Any] = []
        for item in items:
            ((title, value),) = item.items()
            if isinstance(value, list):
                found.append({title: kept(value)})
            elif value in GENERATED or (here / value).is_file():
                found.append(item)
        return found

    config.nav = kept(config.nav)
    return config


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages that are made."""
    from mkdocs.structure.files import File

    for path, make in GENERATED.items():
        files.append(File.generated(config, path, content=make()))
    files.append(File.generated(config, "assets/site.css", content=STYLE))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Adds what is made of the code to written pages; lists begin after a paragraph as they do on code forges."""
    if page.file.src_uri == "python.md":
        markdown += python()
    if page.file.src_uri == "methods.md":
        for name in METHODS:
            link = f"\n\n[Options with their defaults](reference/methods.md#{name})\n"
            markdown = re.sub(rf"^(## {name}\b.*)$", rf"\1{link}", markdown, flags=re.MULTILINE)
    if page.file.src_uri == "index.md":
        markdown = markdown.replace("<!-- pages -->", contents(config.nav, Path(config.docs_dir)))
    return spaced(markdown)


def contents(nav: list[Any], folder: Path) -> str:
    """Every page of the navigation with its first sentence."""
    parts = []
    for item in nav:
        ((title, value),) = item.items()
        if not isinstance(value, list):
            continue
        parts.append(f"\n## {title}\n")
        for page in value:
            ((name, path),) = page.items()
            parts.append(f"- [{name}]({path})")
    return "\n".join(parts) + "\n"


def spaced(markdown: str) -> str:
    """A blank line between a paragraph and a list that follows it; fenced blocks without a language are shell."""
    lines: list[str] = []
    fenced = False
    item = re.compile(r"\s*([-*]|\d+\.) ")
    for line in markdown.split("\n"):
        if line.lstrip().startswith("```"):
            fenced = not fenced
            line += "sh" if fenced and line.endswith("```") else ""
        before = lines[-1] if lines else ""
        starts = item.match(line) and before.strip() and not item.match(before) and not before.startswith((" ", "#"))
        if starts and not fenced:
            lines.append("")
        lines.append(line)
    return "\n".join(lines)
