"""What the commands on finished runs share: opening the folder quickly when it is wrong, and the device to run on."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from mtrobust.commands.parser import Parser, positive
from mtrobust.errors import UserError
from mtrobust.registry import suggestion

if TYPE_CHECKING:
    from mtrobust.evaluation.run_folder import Run


def run_parser(name: str, description: str, several: bool = False) -> Parser:
    """A parser with the RUN argument (several: one or more, as `runs`) and the flags that every pass over data has."""
    parser = Parser(prog=f"mtrobust {name}", description=description)
    told = "run folder (the --output_dir of mtrobust train)"
    if several:
        parser.add_argument("runs", type=Path, metavar="RUN", nargs="+", help=told)
    else:
        parser.add_argument("run", type=Path, metavar="RUN", help=told)
    parser.add_argument("--use_cpu", action="store_true", help="run on the CPU though an accelerator is there")
    return parser


def add_pass_flags(parser: Parser) -> None:
    """`--batch_size` and `--bf16`, with the run's own values as defaults."""
    parser.add_argument("--batch_size", type=positive, metavar="N", help="rows per batch; default: the run's")
    parser.add_argument("--bf16", action="store_const", const=True, help="bfloat16 autocast; default: the run's")
    parser.add_argument("--no_bf16", dest="bf16", action="store_const", const=False, help="float32 throughout")


def select_tasks(names: Iterable[str] | None, defined: Iterable[str], place: str) -> tuple[list[str], list[str]]:
    """(the chosen tasks, all defined ones when `names` is empty; faults for unknown names)."""
    known, wanted = list(defined), list(dict.fromkeys(names or []))
    faults = [
        f"{place}: {name}: no such task{suggestion(name, known)} (defined: {', '.join(known)})"
        for name in wanted
        if name not in known
    ]
    return [name for name in wanted if name in known] if wanted else known, faults


def check_tasks(run: Path, tasks: list[str] | None, flag: str, trained: bool = False) -> None:
    """Raises `UserError` for a folder that is no finished run and for tasks that it does not have (trained: that it was
    not trained on); loads no model."""
    from mtrobust.evaluation.run_folder import check_run, run_tasks

    check_run(run)
    faults = select_tasks(tasks, run_tasks(run, trained), flag)[1]
    if faults:
        raise UserError(faults)


def open_run(path: Path, use_cpu: bool) -> Run:
    """The run with its model on the accelerator, if there is one and it is wanted."""
    import torch

    from mtrobust.evaluation.run_folder import load_run

    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return load_run(path, "cpu" if use_cpu or accelerator is None else accelerator.type)
