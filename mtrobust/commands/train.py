"""`mtrobust train [RECIPE.yml] --flag value …`."""

from __future__ import annotations

from mtrobust.commands.parser import Parser
from mtrobust.commands.preflight import placed, preflight
from mtrobust.config import TrainConfig
from mtrobust.config_parse import parse_train
from mtrobust.config_values import allowed, default_text, type_name
from mtrobust.errors import UserError

_DESCRIPTION = """Fine-tune one encoder jointly on the tasks of a task definition.

Every flag can stand in the recipe as `name: value`; a flag wins. Lists are written a,b or by repeating the flag,
booleans as --bf16, --no_bf16 or --bf16 false; `none` unsets a value that may be absent. A recipe for a later run
is RUN/config.yml, which also resumes it: mtrobust train RUN/config.yml --resume.
"""
_EPILOG = """methods:
  --perturb NAME[,NAME]            methods, composed in this order (mtrobust methods lists them and their options)
  --perturb.OPTION VALUE           an option, where the run has one method: --perturb rapt --perturb.layers 1-3
  --perturb.NAME.OPTION VALUE      an option of one of several methods: --perturb.smart.alpha 2
  in a recipe: perturb: [{name: rapt, layers: 1-3, eta: 2}]
"""


def parser() -> Parser:
    """The parser that prints the help; `config_parse` reads the flags, since it reports all faults at once."""
    made = Parser(
        prog="mtrobust train", description=_DESCRIPTION, epilog=_EPILOG, usage="mtrobust train [RECIPE.yml] [flags]"
    )
    made.add_argument("recipe", nargs="?", help="YAML file with any of the settings below")
    for name, field in TrainConfig.model_fields.items():
        default = default_text(field)
        note = "required" if default == "required" else f"default: {default}"
        words = field.description or allowed(field)
        metavar = (
            type_name(field.annotation).removesuffix(", none").replace("list[str]", "a,b").replace("PerturbSpec", "")
        )
        if name == "perturb":
            metavar = "a,b"
        text = f"{words} ({note})".replace("%", "%%")
        if field.annotation is bool:
            flag = f"--no_{name}" if field.default else f"--{name}"
            made.add_argument(flag, action="store_true", help=f"not: {text}" if field.default else text)
        else:
            made.add_argument(f"--{name}", metavar=metavar.upper() if "|" not in metavar else metavar, help=text)
    return made


def run(argv: list[str]) -> int:
    """Reads recipe and flags, looks at everything that can be checked without a model, then trains."""
    if any(word in ("-h", "--help") for word in argv):
        parser().print_help()
        return 0
    parsed = parse_train(argv)
    faults = list(parsed.faults)
    if parsed.config is not None:
        faults += preflight(parsed)
    if faults or parsed.config is None:
        raise UserError(list(dict.fromkeys(faults)) or ["nothing to do (mtrobust train --help)"])

    from mtrobust.training.engine import leave_processes
    from mtrobust.training.run import train
    from mtrobust.training.trainer import Interrupted

    try:
        train(parsed.config)
    except UserError as error:  # faults that only the model shows
        raise UserError(placed(error.faults, parsed)) from error
    except Interrupted:  # at the same step in all processes; where one fails alone, leaving would wait for the others
        leave_processes()
        raise
    leave_processes()
    return 0
