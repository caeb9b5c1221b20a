"""`mtrobust analyze NAME RUN [RUN ...] --out DIR`: what methods do to the representations of trained runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from mtrobust.analysis import ANALYSES, Analysis
from mtrobust.commands.parser import Parser
from mtrobust.commands.runs import check_tasks
from mtrobust.config_values import allowed, default_text, faults_of, wrong_kind
from mtrobust.errors import UserError
from mtrobust.files import folder_faults
from mtrobust.registry import suggestion

if TYPE_CHECKING:
    import argparse

    from mtrobust.analysis.probe import Subject

_DESCRIPTION = """Looks at what the methods of finished runs do to hidden states and posteriors.

Each analysis writes OUT/<name>-<task>.csv and .json, a picture as .png and .svg (with matplotlib), and entries for
TensorBoard under OUT/tensorboard. `mtrobust analyze NAME --help` lists the options of one.
"""


def run(argv: list[str]) -> int:
    """Looks, writes, prints."""
    if not argv or argv[0].startswith("-"):
        return _overview(argv)
    name, *rest = argv
    if name not in ANALYSES:
        raise UserError(f"{name}: unknown analysis{suggestion(name, ANALYSES)} (known: {', '.join(ANALYSES)})")
    kind = ANALYSES[name]
    args = _parser(kind).parse(rest)
    analysis, tasks = _checked(args, kind)
    subjects = _open(args)
    from rich.console import Console

    from mtrobust.analysis.output import write
    from mtrobust.evaluation.pictures import MISSING, available

    console = Console(soft_wrap=False)
    for task in tasks:
        found = analysis.look(subjects, task)
        console.print(found.shown)
        for note in found.notes:
            print(f"note: {note}")
        written = write(args.out, f"{name}-{task}", analysis, found)
        print(f"written: {written[0]} and {', '.join(path.name for path in written[1:])}")
    if not available():
        print(f"no pictures: {MISSING}")
    return 0


def _overview(argv: Sequence[str]) -> int:
    """The list of analyses, for `--help`; what else stands in place of a name is a fault."""
    width = max(map(len, ANALYSES))
    known = "\n".join(f"  {name:<{width}}  {kind.summary} ({kind.paper})" for name, kind in ANALYSES.items())
    usage = "mtrobust analyze NAME RUN [RUN ...] --out DIR [FLAGS]"
    parser = Parser("mtrobust analyze", f"{_DESCRIPTION}\nAnalyses:\n{known}\n", usage=usage)
    parser.parse(argv)
    raise UserError(f"NAME: which analysis? (known: {', '.join(ANALYSES)})")


def _parser(kind: type[Analysis]) -> Parser:
    parser = Parser(f"mtrobust analyze {kind.name}", f"{kind.summary}\n\n{_documented(kind)}\n")
    add = parser.add_argument
    add("runs", type=Path, nargs="+", metavar="RUN", help="run folder (the --output_dir of mtrobust train)")
    add("--out", type=Path, required=True, metavar="DIR", help="folder for the files; only these are overwritten")
    add("--use_cpu", action="store_true", help="run on the CPU though an accelerator is there")
    for name, field in kind.Options.model_fields.items():
        told = field.description or ""
        if field.is_required():
            told += f"; {allowed(field)}"
        elif field.default is not None:  # else the description says what stands in for it
            told += f"; {allowed(field)} (default: {default_text(field)})"
        add(f"--{name}", metavar="X", required=field.is_required(), help=told.replace("%", "%%"))
    return parser


def _documented(kind: type[Analysis]) -> str:
    """The class's docstring without its indentation."""
    return "\n".join(line.removeprefix("    ") for line in (kind.__doc__ or "").strip().split("\n"))


def _checked(args: argparse.Namespace, kind: type[Analysis]) -> tuple[Analysis, list[str]]:
    """(the analysis, its tasks). Raises one `UserError` with all faults; loads no model."""
    given = {name: value for name in kind.Options.model_fields if (value := getattr(args, name)) is not None}
    faults = [f"--{name}: {given[name]}: must be {words}" for name, words in wrong_kind(kind.Options, given).items()]
    options = None
    try:
        options = kind.Options(**given)
    except ValidationError as error:
        found = faults_of(error, kind.Options, lambda key: f"--{key}" if key else "options")
        faults += [fault.removeprefix("options: ") for fault in found]  # these name their flags themselves
    sound = []
    for path in args.runs:
        try:
            check_tasks(path, [args.task] if args.task else None, "--task", trained=True)
            sound.append(path)
        except UserError as error:
            faults += error.faults
    if len({path.resolve() for path in args.runs}) < len(args.runs):
        faults.append("RUN: the same run is named twice")
    if args.data_dir is not None and not Path(args.data_dir).is_dir():
        faults.append(f"--data_dir: {args.data_dir}: no such folder")
    analysis = kind(options) if options is not None else None
    if analysis is not None:
        faults += analysis.faults(sound)
    tasks: list[str] = []
    if len(sound) == len(args.runs):
        tasks, wrong = _tasks(args, kind)
        faults += wrong
    faults += folder_faults("--out", args.out)
    if faults or analysis is None:
        raise UserError(faults)
    return analysis, tasks


def _tasks(args: argparse.Namespace, kind: type[Analysis]) -> tuple[list[str], list[str]]:
    """(tasks to look at, faults)."""
    from mtrobust.evaluation.run_folder import run_tasks

    if args.task is not None:
        return [args.task], []
    shared: list[str] | None = None
    for path in args.runs:
        own = list(run_tasks(path, trained=True))
        shared = own if shared is None else [name for name in shared if name in own]
    if not shared:
        return [], ["RUN: the runs have no task in common"]
    if len(shared) > 1 and not kind.every_task:
        return [], [f"--task: needed: the runs have several ({', '.join(shared)})"]
    return shared, []


def _open(args: argparse.Namespace) -> list[Subject]:
    """The runs, called by their folders' names, with their parents' where these are the same."""
    from mtrobust.analysis.probe import Subject

    paths = [path.resolve() for path in args.runs]
    names = [path.name for path in paths]
    alike = len(set(names)) < len(names)
    labels = [f"{path.parent.name}/{path.name}" if alike else path.name for path in paths]
    faults: list[str] = []
    subjects = []
    for path, label in zip(args.runs, labels, strict=True):
        try:
            subjects.append(Subject.open(path, label, args.use_cpu))
        except UserError as error:
            faults += error.faults
    if faults:
        raise UserError(faults)
    return subjects
