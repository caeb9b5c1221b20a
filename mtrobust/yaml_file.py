"""YAML files of the user, read so that every fault is one line with the file and, where there is one, the line."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml

from mtrobust.errors import UserError


class _Loader(yaml.SafeLoader):
    """SafeLoader with the plain values of YAML 1.2's core schema, which refuses a key written twice.

    So `2e-5` is a number, and `no`, `on`, `1:30` and `2024-01-01` are texts (in PyYAML's YAML 1.1 they are not).
    """

    names: Collection[str] = ()  # see `read_yaml`

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """The value of a node; one that its tag (`!!bool maybe`) cannot be read as is a fault with a line."""
        try:
            return super().construct_object(node, deep)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            kind = node.tag.rpartition(":")[2]
            text = f"'{node.value:.60}'" if isinstance(node.value, str) else "what stands here"
            problem = f"{text} cannot be read as {kind}"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The mapping; a repeated key is a fault instead of the last one winning in silence."""
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in self.names:
                _as_written(value)
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.MarkedYAMLError(
                        problem=f"key '{key.value}' is written twice", problem_mark=key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _as_written(names: yaml.Node) -> None:
    """Turns the numbers of a list, or of a mapping's keys and values, into texts as they stand in the file."""
    inner = names.value if isinstance(names, yaml.CollectionNode) else []
    for node in [part for item in inner for part in (item if isinstance(item, tuple) else (item,))]:
        if node.tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float"):
            node.tag = "tag:yaml.org,2002:str"


_CORE = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?\d+", list("-+0123456789")),
    "float": (r"[-+]?(\.\d+|\d+(\.\d*)?)([eE][-+]?\d+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", list("-+.0123456789")),
    "merge": (r"<<", ["<"]),
}
_Loader.yaml_implicit_resolvers = {}
for _tag, (_pattern, _first) in _CORE.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$", re.ASCII), _first)
_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(str(node.value)))


def read_yaml(path: str | Path, what: str, names: Collection[str] = ()) -> dict[str, Any]:
    """The mapping in a YAML file; an empty file is an empty mapping.

    what: what the file is, for messages (`recipe`); names: keys of lists and mappings whose numbers are names, and so
    stay as they are written (`01`, `2.50`). Raises `UserError` for a file that is missing, unreadable, not
    UTF-8, not YAML or not a mapping with text keys.
    """
    path = Path(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: no such {what} file{_neighbours(path)}") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder; a {what} is a YAML file") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line}: byte {error.start} is not UTF-8; save the {what} as UTF-8") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    try:
        loader = _Loader(text)
        loader.names = names
        data = loader.get_single_data()
    except yaml.MarkedYAMLError as error:
        mark, begun = error.problem_mark or error.context_mark, error.context_mark
        problem = ", ".join(filter(None, [error.problem, error.context]))
        if mark and begun and begun.line != mark.line:
            problem += f" that begins in line {begun.line + 1}"
        place = f"{path}:{mark.line + 1}" if mark else f"{path}"
        raise UserError(f"{place}: not valid YAML: {problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise UserError(f"{path}: must be a mapping of `key: value` lines, not a {type(data).__name__}")
    wrong = [key for key in data if not isinstance(key, str)]
    if wrong:
        raise UserError([f"{path}: {key}: a key must be a text; quote it" for key in wrong])
    return data


def read_scalar(text: str) -> Any:
    """A value from the command line as YAML reads it where that is a number, a list or a mapping; else the text."""
    try:
        value = yaml.load(text, Loader=_Loader)  # noqa: S506  (a SafeLoader)
    except (yaml.YAMLError, ValueError):
        return text
    plain = isinstance(value, bool | int | float) or text.strip()[:1] in ("[", "{")
    return value if plain else text


def _neighbours(path: Path) -> str:
    """The YAML files beside a file that is not there."""
    folder = path.parent
    if not folder.is_dir():
        return f" (and no folder {folder})"
    try:
        names = sorted(p.name for p in folder.iterdir() if p.suffix in (".yml", ".yaml"))[:8]
    except OSError:
        return ""
    return f" (in {folder}: {', '.join(names)})" if names else ""
