"""`mtrobust prep NAME`: the data preparation commands of `data_prep`."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

from mtrobust.commands.parser import Parser
from mtrobust.errors import UserError
from mtrobust.registry import suggestion


def commands() -> dict[str, Any]:
    """`data_prep.COMMANDS`, from the installed package or from the folder beside `mtrobust/` in a checkout."""
    if importlib.util.find_spec("mtrobust.data_prep") is None:
        folder = Path(__file__).resolve().parents[2] / "data_prep"
        spec = importlib.util.spec_from_file_location(
            "mtrobust.data_prep", folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        if spec is None or spec.loader is None or not (folder / "__init__.py").is_file():
            raise UserError(f"prep: the data_prep package is not installed (looked in {folder})")
        module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return importlib.import_module("mtrobust.data_prep").COMMANDS


def run(argv: list[str]) -> int:
    """Runs one preparation command."""
    known = commands()
    width = max(map(len, known))
    listing = "\n".join(f"  {name:<{width}}  {command.help}" for name, command in known.items())
    if not argv or argv[0] in ("-h", "--help"):
        print(f"usage: mtrobust prep NAME [flags]\n\n{listing}\n\nmtrobust prep NAME --help says more")
        return 0 if argv else 2
    name, *rest = argv
    if name not in known:
        raise UserError(f"prep {name}: unknown{suggestion(name, known)} (known: {', '.join(known)})")
    parser = Parser(prog=f"mtrobust prep {name}", description=known[name].help)
    known[name].add_arguments(parser)
    return int(known[name].run(parser.parse(rest)))
