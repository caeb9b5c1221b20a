"""`mtrobust predict RUN --task T --input F --output F`, `RUN [RUN ...] --soft …`, or `--glue_submission DIR`."""

from __future__ import annotations

import argparse
from pathlib import Path

from mtrobust.commands.runs import add_pass_flags, check_tasks, open_run, run_parser
from mtrobust.errors import UserError
from mtrobust.files import folder_faults, output_faults

_DESCRIPTION = """Predictions of a finished run: one JSON line per row of --input, in its order; with --soft the rows
themselves, to train a student on, with what the run predicts of them, or several runs on average; or, with
--glue_submission, the files that the GLUE server takes, for the test rows in the data folder.
"""


def run(argv: list[str]) -> int:
    """Predicts and writes."""
    parser = run_parser("predict", _DESCRIPTION, several=True)
    parser.add_argument("--task", help="one of the run's tasks")
    parser.add_argument(
        "--input", type=Path, metavar="F", help="rows, in any format that the task reads; labels not needed"
    )
    parser.add_argument("--output", type=Path, metavar="F", help="JSON Lines file to write")
    parser.add_argument(
        "--soft", action="store_true", help="write the rows with `soft_label`, the mean over the runs' posteriors"
    )
    parser.add_argument("--glue_submission", type=Path, metavar="DIR", help="folder for the files of a submission")
    parser.add_argument(
        "--data_dir", type=Path, metavar="D", help="for --glue_submission: the data; default: the run's"
    )
    add_pass_flags(parser)
    args = parser.parse(argv)
    faults = _together(args)
    if faults:
        raise UserError(faults)
    for path in args.runs:
        check_tasks(path, [args.task] if args.task else None, "--task")
    if args.glue_submission is not None:
        if faults := folder_faults("--glue_submission", args.glue_submission):
            raise UserError(faults)
        from mtrobust.evaluation.predict import glue_submission

        opened = open_run(args.runs[0], args.use_cpu)
        written = glue_submission(opened, args.glue_submission, args.data_dir, batch_size=args.batch_size)
        for file, rows in written.items():
            print(f"{args.glue_submission / file}: {rows} rows")
        return 0
    faults = [] if args.input.is_file() else [f"--input: {args.input}: no such file"]
    if faults := faults + output_faults("--output", args.output, args.input):
        raise UserError(faults)
    return _soft(args) if args.soft else _plain(args)


def _plain(args: argparse.Namespace) -> int:
    from mtrobust.evaluation.predict import predict

    opened = open_run(args.runs[0], args.use_cpu)
    rows = predict(opened, args.task, args.input, args.output, batch_size=args.batch_size, bf16=args.bf16)
    print(f"{args.output}: {rows} predictions")
    return 0


def _soft(args: argparse.Namespace) -> int:
    from mtrobust.evaluation.soft import check_teachers, write_soft

    check_teachers(args.runs, args.task)
    rows = write_soft(
        args.runs, args.task, args.input, args.output, lambda path: open_run(path, args.use_cpu),
        batch_size=args.batch_size, bf16=args.bf16,
    )  # fmt: skip
    print(f"{args.output}: {rows} rows with soft labels of {len(args.runs)} run{'s' * (len(args.runs) > 1)}")
    return 0


def _together(args: argparse.Namespace) -> list[str]:
    """Faults of the combination of flags."""
    faults = []
    if len(args.runs) > 1 and not args.soft:
        faults.append(f"{args.runs[1]}: several runs only with --soft; name one")
    twice = sorted({str(path) for path in args.runs if args.runs.count(path) > 1})
    faults += [f"{path}: named twice" for path in twice]
    single = [name for name in ("task", "input", "output") if getattr(args, name) is not None]
    if args.glue_submission is not None:
        single += ["soft"] * args.soft
        return faults + [f"--{name}: not together with --glue_submission" for name in single]
    faults += [
        f"--{name}: needed (or --glue_submission DIR)" for name in ("task", "input", "output") if name not in single
    ]
    if args.data_dir is not None:
        faults.append("--data_dir: only with --glue_submission; name the rows with --input")
    return faults
