"""`mtrobust evaluate RUN`: metrics of a finished run on a labelled split."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from mtrobust.commands.parser import names
from mtrobust.commands.runs import add_pass_flags, check_tasks, open_run, run_parser
from mtrobust.errors import UserError
from mtrobust.files import folder_faults
from mtrobust.tasks.taskdef import load_task_defs

_DESCRIPTION = """Metrics, in percent, of a finished run on a labelled split of its tasks.

Predictions go to OUT/predictions/ and metrics are merged into OUT/all_results.json. OUT is the run folder; with another
--data_dir than the run's, or with --all_rows of a run that had max_eval_samples, nothing is written unless --out says
where, so that the run's own figures stay.
"""


def run(argv: list[str]) -> int:
    """Evaluates, prints a table, writes predictions and results."""
    parser = run_parser("evaluate", _DESCRIPTION)
    parser.add_argument("--tasks", type=names, action="extend", metavar="a,b", help="default: all of the run")
    parser.add_argument("--split", help="split; dev, test and train stand for all of the kind (default: dev)")
    parser.add_argument(
        "--eval_sets",
        type=names,
        action="extend",
        metavar="a,b",
        help="evaluation sets of the tasks, or all; without --split nothing else is evaluated",
    )
    parser.add_argument(
        "--task_def", type=names, action="extend", metavar="F", help="take eval_sets from here; default: the run's"
    )
    parser.add_argument(
        "--data_dir", type=Path, metavar="D", help="folder with <task>/<split>.jsonl; default: the run's"
    )
    parser.add_argument(
        "--all_rows", action="store_true", help="all dev rows of a run that had max_eval_samples; default: the run's"
    )
    parser.add_argument(
        "--out", type=Path, metavar="OUT", help="folder for predictions and results; default: the run's"
    )
    add_pass_flags(parser)
    args = parser.parse(argv)
    _check(args)
    redefined = load_task_defs(args.task_def) if args.task_def else {}

    opened = open_run(args.run, args.use_cpu)
    from mtrobust.evaluation.eval_sets import SetEvaluator, chosen_sets
    from mtrobust.evaluation.evaluator import Evaluator
    from mtrobust.evaluation.run_folder import read_results, update_results

    config = opened.config
    same_data = args.data_dir is None or args.data_dir.resolve() == config.data_dir.resolve()
    same_rows = same_data and not args.all_rows
    data_dir = args.data_dir if args.data_dir is not None else config.data_dir
    tasks = {
        name: task.model_copy(update={"eval_sets": redefined[name].eval_sets}) if name in redefined else task
        for name, task in opened.select(args.tasks).items()
    }
    recorded = read_results(args.run)
    for name, task in tasks.items():
        task.type.restore(recorded.get(name, {}))  # a copy of a definition knows of no threshold
    pairs = chosen_sets(tasks, data_dir, args.eval_sets) if args.eval_sets else []
    evaluator = Evaluator.of_run(opened, tasks, args.data_dir, args.batch_size, args.bf16, args.all_rows)
    split = args.split or ("" if args.eval_sets else "dev")
    sets = SetEvaluator(evaluator, pairs)
    sets.prepare()
    found = sets.evaluate()  # first: with the run's threshold, not one that is tuned on another split now
    table = evaluator.evaluate(split=split) if split else {}
    _print({task: {**table.get(task, {}), **found.get(task, {})} for task in tasks if task in table or task in found})
    out = args.out or (args.run if same_rows else None)
    if out is None:
        whose = f"data are not the run's ({config.data_dir})" if not same_data else "run evaluated a part of these rows"
        print(f"not written, since the {whose}; --out says where to")
        return 0
    evaluator.write_predictions(out)
    update_results(out, table, split or "dev")
    print(f"written: {update_results(out, found)} and {out / 'predictions'}")
    return 0


def _check(args: argparse.Namespace) -> None:
    """Raises `UserError` with what is wrong of the flags and folders, before anything is loaded."""
    check_tasks(args.run, args.tasks, "--tasks")
    from mtrobust.evaluation.run_folder import load_config

    config, faults = load_config(args.run), []
    shown_alone = args.out is None and (args.data_dir is not None or args.all_rows)  # unless the rows are the run's
    if not shown_alone:
        faults += folder_faults("--out", args.out or args.run)
    if args.data_dir is not None and not args.data_dir.is_dir():
        faults.append(f"--data_dir: {args.data_dir}: no such folder")
    elif args.all_rows and args.data_dir is not None and args.data_dir.resolve() != config.data_dir.resolve():
        faults.append("--all_rows: without effect: of data that are not the run's all rows are taken")
    if args.all_rows and config.max_eval_samples is None:
        faults.append("--all_rows: without effect: the run had no max_eval_samples")
    if args.task_def and not args.eval_sets:
        faults.append("--task_def: without effect without --eval_sets")
    if faults:
        raise UserError(faults)


def _print(table: dict[str, dict[str, float]]) -> None:
    width = max(map(len, table), default=0)
    for task, metrics in table.items():
        shown = [
            f"{key} {'undefined' if math.isnan(value) else format(value, '.2f')}" for key, value in metrics.items()
        ]
        print(f"{task:<{width}}  {'  '.join(shown) or 'no labelled rows: predictions only'}")
