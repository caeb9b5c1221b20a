"""`mtrobust embed RUN --task T --input F --output F`: hidden states of a run's encoder."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mtrobust.commands.parser import positive
from mtrobust.commands.runs import check_tasks, open_run, run_parser
from mtrobust.errors import UserError
from mtrobust.files import output_faults
from mtrobust.perturb.layers import ALLOWED, LayerSpec

_DESCRIPTION = """Hidden states of a finished run's encoder for a file of rows: one vector per text, or every token's.
"""
_POOLS = ("mean", "first", "none")
_SUFFIXES = (".jsonl", ".safetensors")


def run(argv: list[str]) -> int:
    """Embeds and writes."""
    parser = run_parser("embed", _DESCRIPTION)
    add = parser.add_argument
    add("--task", required=True, help="one of the run's tasks: how the rows are read and cut")
    add("--input", type=Path, required=True, metavar="F", help="rows, in any format that the task reads")
    add("--output", type=Path, required=True, metavar="F", help="file to write: .jsonl or .safetensors")
    add("--layers", type=_layers, metavar="SPEC", help=f"{ALLOWED}; default: the last layer")
    add("--pool", choices=_POOLS, default="mean", help="one vector per text, or none: all tokens (default: mean)")
    add("--batch_size", type=positive, metavar="N", help="default: the run's per_device_eval_batch_size")
    args = parser.parse(argv)
    faults = [f"--input: {args.input}: no such file"] if not args.input.is_file() else []
    if args.output.suffix not in _SUFFIXES:
        faults.append(f"--output: {args.output}: must end in {' or '.join(_SUFFIXES)}")
    faults += output_faults("--output", args.output, args.input)
    try:
        check_tasks(args.run, [args.task], "--task")
    except UserError as error:
        faults += error.faults
    if faults:
        raise UserError(faults)
    from mtrobust.evaluation.embed import embed

    opened = open_run(args.run, args.use_cpu)
    count = embed(
        opened, args.task, args.input, args.output, layers=args.layers, pool=args.pool, batch_size=args.batch_size,
        progress=lambda done, total: print(f"{done} of {total} rows", file=sys.stderr),
    )  # fmt: skip
    print(f"{args.output}: {count} {'texts' if args.pool != 'none' else 'sequences of tokens'}")
    return 0


def _layers(text: str) -> LayerSpec:
    try:
        return LayerSpec.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
