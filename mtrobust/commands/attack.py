"""`mtrobust attack RUN --task T --mlm M`: how many right predictions survive an attack on the text."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mtrobust.commands.parser import Parser, positive
from mtrobust.config_values import allowed, default_text, faults_of, wrong_kind
from mtrobust.errors import UserError
from mtrobust.evaluation.attacks import ATTACKS, Attack, AttackOptions
from mtrobust.evaluation.attacks.target import (
    FIELDS,
    Target,
    check_task,
    chosen,
    digest_of,
    folder_target,
    labelled_rows,
    run_target,
)
from mtrobust.files import folder_faults

_DESCRIPTION = """Attacks the right predictions of a classifier by changing words, and counts those that survive.

Figures go to OUT/attack/<task>.<split>.json, every text to the .jsonl beside it; OUT is the run folder unless
--output_dir names another. What is written already is not attacked again: the same command goes on after an
interruption, and with a larger --examples.
"""
_COLUMNS = {
    "examples": "examples", "original_accuracy": "original acc", "attack_accuracy": "attack acc",
    "query_number": "queries", "perturbed_percentage": "perturbed %", "success_rate": "success %", "skipped": "skipped",
}  # fmt: skip


def run(argv: list[str]) -> int:
    """Attacks, prints the figures, says where everything is."""
    kind = ATTACKS[_attack_name(argv)]
    args = _parser(kind).parse(argv)
    options, target, field, settings, rows = _checked(args, kind)
    from mtrobust.evaluation.attacks.records import AttackLog
    from mtrobust.evaluation.attacks.runner import Job, attack_rows

    folder = (args.output_dir or args.run) / "attack"
    ids = [row["id"] for row in rows]
    written = AttackLog(folder, f"{target.task.name}.{args.split}", settings, ids, args.overwrite)
    if written.done:
        print(f"{written.lines}: {len(written.done)} of {len(rows)} rows are done", file=sys.stderr)
    job = Job(target, kind.name, options, field, args.batch_size, args.use_cpu)
    found = attack_rows(job, rows, written, args.num_processes, args.progress)
    _print(found)
    for note in options.notes():
        print(f"note: {note}")
    print(f"written: {written.summary} and {written.lines.name}")
    return 0


def _attack_name(argv: Sequence[str]) -> str:
    """The attack whose options are the flags; looked for before the flags are known."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, argument_default=None)
    first.add_argument("--attack", nargs="?", default=next(iter(ATTACKS)))
    return str(first.parse_known_args(list(argv))[0].attack)


def _parser(kind: type[Attack]) -> Parser:
    known = "\n".join(f"  {name}: {one.summary} ({one.paper})" for name, one in ATTACKS.items())
    usage = "mtrobust attack RUN --task T --mlm M [FLAGS]\n       mtrobust attack --model DIR --task T --data_dir D ..."
    parser = Parser("mtrobust attack", f"{_DESCRIPTION}\nAttacks:\n{known}\n", usage=usage)
    add = parser.add_argument
    add("run", type=Path, nargs="?", metavar="RUN", help="run folder (the --output_dir of mtrobust train)")
    add("--model", type=Path, metavar="DIR", help="in place of RUN: an exported model, or any sequence classifier")
    add("--task", required=True, help="one of the run's tasks; with --model: the folder of the rows")
    add("--attack", default=kind.name, help=f"which attack (default: {next(iter(ATTACKS))})")
    add("--field", choices=FIELDS, help="text that is changed; default: the second of a pair")
    add("--split", default="dev", help="whose rows are attacked (default: dev)")
    add("--data_dir", type=Path, metavar="D", help="folder with <task>/<split>.jsonl; default: the run's")
    add("--output_dir", type=Path, metavar="OUT", help="folder for attack/<task>.<split>.*; default: the run's")
    add("--examples", type=positive, metavar="N", help="so many rows; default: all")
    add("--seed", type=positive, default=1, metavar="S", help="draws the N rows (default: 1)")
    add("--first", action="store_true", help="takes the first N rows instead of drawn ones")
    add("--num_processes", type=positive, default=1, metavar="N", help="processes that share the rows (default: 1)")
    add("--batch_size", type=positive, metavar="N", help="texts scored together; default: 8, on an accelerator 128")
    add("--use_cpu", action="store_true", help="run on the CPU though an accelerator is there")
    add("--progress", choices=["auto", "lines", "off"], default="auto", help="on standard error (default: auto)")
    add("--overwrite", action="store_true", help="start anew where an attack is written already")
    own = parser.add_argument_group(f"options of {kind.name}")
    for name, field in kind.Options.model_fields.items():
        default = "" if field.is_required() else f" (default: {default_text(field)})"
        own.add_argument(f"--{name}", metavar="X", help=f"{field.description}; {allowed(field)}{default}")
    return parser


def _checked(
    args: argparse.Namespace, kind: type[Attack]
) -> tuple[AttackOptions, Target, str, dict[str, Any], list[Any]]:
    """(options, target, field, settings, rows to attack). Raises one `UserError` with all faults; loads no model."""
    options, faults = _options(args, kind)
    faults += _together(args)
    field, path = "", Path()
    rows: list[dict[str, Any]] = []
    target = None
    try:
        target = _target(args, kind)
        field = check_task(target.task, kind, args.field)
        path, rows = labelled_rows(target.task, args.data_dir or target.data_dir or Path(), args.split)
        own = target.data_dir is not None and path.is_relative_to(target.data_dir)
        if args.output_dir is None and target.is_run and not own:
            faults.append("--output_dir: needed where --data_dir is not the run's: its own figures stay what they are")
    except UserError as error:
        faults += error.faults
    if faults or options is None or target is None:
        raise UserError(faults)
    settings = {
        "attack": kind.name, "task": target.task.name, "split": args.split, "field": field,
        "model": str(args.run or args.model), "model_digest": target.digest(), "data": str(path),
        "data_digest": digest_of(path), "choice": "first" if args.first else f"seed {args.seed}",
        **options.model_dump(mode="json"),
        **{f"{name}_digest": digest_of(source.expanduser()) for name, source in options.sources().items()},
    }  # fmt: skip
    return options, target, field, settings, chosen(rows, args.examples, None if args.first else args.seed)


def _options(args: argparse.Namespace, kind: type[Attack]) -> tuple[AttackOptions | None, list[str]]:
    """The attack's options, or their faults."""
    given = {name: value for name in kind.Options.model_fields if (value := getattr(args, name)) is not None}
    odd = [f"--{name}: {given[name]}: must be {words}" for name, words in wrong_kind(kind.Options, given).items()]
    files = kind.Options.file_faults(given)
    try:
        options = kind.Options(**given)
    except ValidationError as error:
        found = faults_of(error, kind.Options, lambda key: f"--{key}" if key else "options")
        named = tuple(fault.partition(": ")[0] + ":" for fault in odd)
        return None, odd + [fault for fault in found if not named or not fault.startswith(named)] + files
    return options, odd + files


def _together(args: argparse.Namespace) -> list[str]:
    """Faults of the combination of flags, and of the output folder."""
    faults = []
    if (args.run is None) == (args.model is None):
        faults.append("RUN or --model DIR: one of the two is needed")
    if args.model is not None and args.run is None:
        faults += [f"--{name}: needed with --model" for name in ("data_dir", "output_dir") if not getattr(args, name)]
    if args.first and args.examples is None:
        faults.append("--first: without effect without --examples")
    if args.data_dir is not None and not args.data_dir.is_dir():
        faults.append(f"--data_dir: {args.data_dir}: no such folder")
    written = args.output_dir or args.run
    if written is not None and (args.output_dir or written.is_dir()):  # else the run is said to be missing
        faults += folder_faults("--output_dir", written)
    return faults


def _target(args: argparse.Namespace, kind: type[Attack]) -> Target:
    if args.run is not None:
        return run_target(args.run, args.task)
    if args.model is None or args.data_dir is None:
        raise UserError([])  # said by `_together`
    return folder_target(args.model, args.task, kind, args.data_dir, args.split)


def _print(found: dict[str, Any]) -> None:
    """One table: a line of names, a line of figures."""
    values = ["-" if (v := found[key]) is None else f"{v:.1f}" if isinstance(v, float) else str(v) for key in _COLUMNS]
    widths = [max(len(name), len(value)) for name, value in zip(_COLUMNS.values(), values, strict=True)]
    for line in (_COLUMNS.values(), values):
        print("  ".join(f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True)))
