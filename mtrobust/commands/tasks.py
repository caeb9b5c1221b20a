"""`mtrobust tasks`: what is registered in `mtrobust.tasks.base.TASK_TYPES`, and the keys of a task definition."""

from __future__ import annotations

from mtrobust.commands.listing import option_lines
from mtrobust.commands.parser import Parser


def run(argv: list[str]) -> int:
    """Prints each task type with its data formats and metrics, then the keys of a definition with their defaults."""
    parser = Parser(prog="mtrobust tasks", description="The task types, and the keys of a task definition.")
    parser.add_argument("names", nargs="*", metavar="TYPE", help="task types to show; default: all")
    args = parser.parse(argv)

    import mtrobust.tasks  # noqa: F401  (registers the types)
    from mtrobust.tasks.base import TASK_TYPES
    from mtrobust.tasks.taskdef import TaskDef

    for name, kind in [(name, TASK_TYPES[name]) for name in args.names] or list(TASK_TYPES.items()):
        print(f"{name}: {kind.summary}")
        print(f"  data_format: {', '.join(kind.data_formats)}")
        print(f"  metric_meta: {', '.join(kind.metrics)} (default: {kind.metrics[0]})")
    if not args.names:
        print("\nkeys of a task definition (YAML, one mapping per task)")
        print("\n".join(option_lines(TaskDef, skip=("name",))))
    return 0
