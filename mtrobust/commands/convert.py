"""`mtrobust convert`: MT-DNN's task definitions and data in the forms of this package."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mtrobust.commands.parser import Parser, names
from mtrobust.commands.runs import select_tasks
from mtrobust.errors import UserError
from mtrobust.files import folder_faults, output_faults

if TYPE_CHECKING:
    from mtrobust.tasks.taskdef import TaskDef

_DESCRIPTION = """Rewrite what MT-DNN left, either a task-definition file or a data folder:

  mtrobust convert OLD.yml --out NEW.yml
  mtrobust convert --task_def F --data_dir DIR --out DIR

A definition comes out in our names and loads to the same tasks; comments say what changed. Of data, canonical TSV
becomes JSON Lines with texts, preprocessed lines JSON Lines with token ids (their texts cannot be had back). Neither
is needed to train: the old files are read as they are.
"""


class _Split(NamedTuple):
    task: TaskDef
    split: str
    source: Path
    target: Path


def run(argv: list[str]) -> int:
    """Converts one definition file, or the data of tasks."""
    parser = Parser(prog="mtrobust convert", description=_DESCRIPTION)
    add = parser.add_argument
    add("definitions", type=Path, nargs="?", metavar="OLD.yml", help="task-definition file to rewrite")
    add("--task_def", type=names, action="extend", metavar="F", help="for data: files or shipped names")
    add("--data_dir", type=Path, metavar="D", help="for data: folder with <task>_<split>.tsv or .json")
    add("--tasks", type=names, action="extend", metavar="a,b", help="for data: which tasks; default: all defined")
    add("--out", type=Path, required=True, metavar="PATH", help="file or folder to write")
    args = parser.parse(argv)
    given = [flag for flag in ("task_def", "data_dir", "tasks") if getattr(args, flag)]
    if args.definitions is not None:
        if given:
            raise UserError(f"--{given[0]}: for data only; convert {args.definitions} and the data one after the other")
        return _convert_definitions(args.definitions, args.out)
    missing = [f"--{flag}: needed to convert data" for flag in ("task_def", "data_dir") if flag not in given]
    if missing:
        raise UserError([*missing, "OLD.yml: or name a task-definition file"] if not given else missing)
    return _convert_data(args.task_def, args.data_dir, args.tasks, args.out)


def _convert_definitions(source: Path, target: Path) -> int:
    from mtrobust.evaluation.run_folder import atomic_file
    from mtrobust.tasks.converted import converted_definitions

    if faults := output_faults("--out", target, source):
        raise UserError(faults)
    text = converted_definitions(source)
    with atomic_file(target) as file:
        file.write(text)
    print(f"{target}: {text.count('  task_type: ')} tasks")
    return 0


def _convert_data(task_def: list[str], data_dir: Path, tasks: list[str] | None, out: Path) -> int:
    """All rows are checked before the first file is written."""
    from mtrobust.data.rows import raw_and_parsed
    from mtrobust.evaluation.run_folder import atomic_file, json_line
    from mtrobust.tasks.tokenised import is_tokenised

    found, faults = _splits(task_def, data_dir, tasks, out)
    kinds: list[str] = []
    for item in found:
        try:
            tokenised = [is_tokenised(row) for row, _ in raw_and_parsed(item.task, item.source)]
            kinds.append("token ids" if any(tokenised) else "texts")
        except UserError as error:
            faults += error.faults
    if faults:
        raise UserError(faults)
    for item, kind in zip(found, kinds, strict=True):
        with atomic_file(item.target) as file:
            count = 0
            for row, _ in raw_and_parsed(item.task, item.source):
                file.write(json_line(_without_gaps(row)))
                count += 1
        print(f"{item.target}: {count} rows of {kind} from {item.source}")
    return 0


def _without_gaps(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if value is not None}


def _splits(task_def: list[str], data_dir: Path, tasks: list[str] | None, out: Path) -> tuple[list[_Split], list[str]]:
    """The files there are of the tasks' splits, and the faults: tasks without any, or of a type that is not here."""
    from mtrobust.tasks.taskdef import load_task_defs

    defined = load_task_defs(task_def, use=tasks or ())
    chosen, faults = select_tasks(tasks, defined, "--tasks")
    if not data_dir.is_dir():
        return [], [*faults, f"--data_dir: {data_dir}: no such folder"]
    found: list[_Split] = []
    for name in chosen:
        there = list(_files(defined[name], data_dir, out))
        faults += [] if there or tasks is None else [f"{data_dir}: no file of task {name}"]
        faults += [f"{name}.{line}" for line in defined[name].faults()] if there and tasks is None else []
        found += there if defined[name].faults() == [] else []
    faults += folder_faults("--out", out)
    faults += [f"--out: {item.target}: exists; name another folder" for item in found if os.path.exists(item.target)]
    if not found and not faults:
        faults.append(f"--data_dir: {data_dir}: no data of any of the tasks ({', '.join(chosen)}) in it")
    return found, faults


def _files(task: TaskDef, data_dir: Path, out: Path) -> Iterator[_Split]:
    from mtrobust.data.rows import find_split

    for split in task.split_names:
        try:
            source = find_split(task, data_dir, split)
        except UserError:
            continue
        yield _Split(task, split, source, out / (task.data or task.name) / f"{split}.jsonl")
