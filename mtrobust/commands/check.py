"""`mtrobust check`: validates task definitions, and every row where a data folder is given."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mtrobust.commands.parser import Parser, names
from mtrobust.commands.runs import select_tasks
from mtrobust.config_parse import task_perturb_faults
from mtrobust.errors import UserError

if TYPE_CHECKING:
    from mtrobust.tasks.taskdef import TaskDef

_DESCRIPTION = """Validate task definitions, and every row of their splits where a data folder is given.

Prints a table of what was found; exit code 2 with all faults otherwise.
"""


def run(argv: list[str]) -> int:
    """Checks definitions (and rows), prints a table, raises `UserError` with every fault."""
    parser = Parser(prog="mtrobust check", description=_DESCRIPTION)
    parser.add_argument(
        "--task_def", type=names, action="extend", required=True, metavar="F", help="files or shipped names"
    )
    parser.add_argument("--data_dir", type=Path, metavar="D", help="folder with <task>/<split>.jsonl")
    parser.add_argument(
        "--tasks", type=names, action="extend", metavar="a,b", help="tasks to check; default: all defined"
    )
    args = parser.parse(argv)

    from mtrobust.tasks.taskdef import load_task_defs

    defined = load_task_defs(args.task_def, use=args.tasks)
    chosen, faults = select_tasks(args.tasks, defined, "--tasks")
    tasks = {name: defined[name] for name in chosen}
    faults += task_perturb_faults(tasks, args.task_def)
    table: list[tuple[str, ...]] = []
    if args.data_dir is None:
        table = [("task", "type", "labels", "splits")]
        table += [(n, t.task_type, str(t.n_class), ", ".join(t.split_names)) for n, t in tasks.items()]
    elif not args.data_dir.is_dir():
        faults.append(f"--data_dir: {args.data_dir}: no such folder")
    else:
        table = [("task", "type", "split", "rows", "labelled", "file")]
        for name, task in tasks.items():
            lines, found = _check_rows(name, task, args.data_dir, asked=args.tasks is not None)
            table += lines
            faults += found
        if not faults and all(line[3] == "none" for line in table[1:]):
            faults.append(f"--data_dir: {args.data_dir}: no data of any of the tasks ({', '.join(tasks)}) in it")
    if table:
        widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
        for row in table:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    if faults:
        raise UserError(faults)
    print(f"{len(tasks)} task{'s' if len(tasks) != 1 else ''} checked: no faults")
    return 0


def _check_rows(name: str, task: TaskDef, folder: Path, asked: bool) -> tuple[list[tuple[str, ...]], list[str]]:
    """Table lines and faults of one task. A task without any file is a fault where it was asked for by name."""
    from mtrobust.data.rows import find_split, read_rows

    lines: list[tuple[str, ...]] = []
    faults: list[str] = []
    missing: list[str] = []
    for split in task.split_names:
        try:
            path = find_split(task, folder, split)
        except UserError as error:
            lines.append((name, task.task_type, split, "none", "", ""))
            missing += error.faults
            continue
        try:
            rows = read_rows(task, path)
        except UserError as error:
            lines.append((name, task.task_type, split, "faulty", "", str(path)))
            faults += error.faults
            continue
        labelled = sum(task.type.is_labelled(row) for row in rows)
        if task.type.needs_labels and split in task.train_splits and labelled < len(rows):
            first = next(row["id"] for row in rows if not task.type.is_labelled(row))
            faults.append(
                f"{path}: {len(rows) - labelled} of {len(rows)} training rows have no label, without which "
                f"{task.task_type} cannot train on a row (the first: {first})"
            )
        lines.append((name, task.task_type, split, str(len(rows)), str(labelled), str(path)))
    if len(missing) == len(task.split_names):
        return [(name, task.task_type, "all", "none", "", "")], missing[:1] if asked else []
    return lines, faults
