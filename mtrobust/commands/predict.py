"""`mtrobust predict RUN --task T --input F --output F`, or `--glue_submission DIR`."""

from __future__ import annotations

import argparse
from pathlib import Path

from mtrobust.commands.runs import add_pass_flags, check_tasks, open_run, run_parser
from mtrobust.errors import UserError

_DESCRIPTION = """Predictions of a finished run: one JSON line per row of --input, in its order; or, with
--glue_submission, the files that the GLUE server takes, for the test rows in the data folder.
"""


def run(argv: list[str]) -> int:
    """Predicts and writes."""
    parser = run_parser("predict", _DESCRIPTION)
    parser.add_argument("--task", help="one of the run's tasks")
    parser.add_argument(
        "--input", type=Path, metavar="F", help="rows, in any format that the task reads; labels not needed"
    )
    parser.add_argument("--output", type=Path, metavar="F", help="JSON Lines file to write")
    parser.add_argument("--glue_submission", type=Path, metavar="DIR", help="folder for the files of a submission")
    parser.add_argument(
        "--data_dir", type=Path, metavar="D", help="for --glue_submission: the data; default: the run's"
    )
    add_pass_flags(parser)
    args = parser.parse(argv)
    faults = _together(args)
    if faults:
        raise UserError(faults)
    check_tasks(args.run, [args.task] if args.task else None, "--task")
    if args.glue_submission is not None:
        from mtrobust.evaluation.predict import glue_submission

        opened = open_run(args.run, args.use_cpu)
        written = glue_submission(opened, args.glue_submission, args.data_dir, batch_size=args.batch_size)
        for file, rows in written.items():
            print(f"{args.glue_submission / file}: {rows} rows")
        return 0
    if not args.input.is_file():
        raise UserError(f"--input: {args.input}: no such file")
    from mtrobust.evaluation.predict import predict

    opened = open_run(args.run, args.use_cpu)
    rows = predict(opened, args.task, args.input, args.output, batch_size=args.batch_size, bf16=args.bf16)
    print(f"{args.output}: {rows} predictions")
    return 0


def _together(args: argparse.Namespace) -> list[str]:
    """Faults of the combination of flags."""
    single = [name for name in ("task", "input", "output") if getattr(args, name) is not None]
    if args.glue_submission is not None:
        return [f"--{name}: not together with --glue_submission" for name in single]
    faults = [
        f"--{name}: needed (or --glue_submission DIR)" for name in ("task", "input", "output") if name not in single
    ]
    if args.data_dir is not None:
        faults.append("--data_dir: only with --glue_submission; name the rows with --input")
    return faults
