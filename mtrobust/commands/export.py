"""`mtrobust export RUN --task T --out DIR`: one task as a plain Hugging Face model folder."""

from __future__ import annotations

from pathlib import Path

from mtrobust.commands.runs import check_tasks, open_run, run_parser

_DESCRIPTION = "One task of a run as a folder that transformers loads by itself (AutoModelFor…, pipeline), same logits."


def run(argv: list[str]) -> int:
    """Exports and says where to."""
    parser = run_parser("export", _DESCRIPTION)
    parser.add_argument("--task", required=True, help="one of the run's tasks")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder that does not exist yet or is empty"
    )
    parser.add_argument(
        "--adapters_only", action="store_true",
        help="of a run with low-rank adapters: they and the head as a folder for peft, without the base",
    )  # fmt: skip
    args = parser.parse(argv)
    check_tasks(args.run, [args.task], "--task")

    from mtrobust.models.export import check_target, export

    check_target(args.out)
    print(f"exported: {export(open_run(args.run, args.use_cpu), args.task, args.out, args.adapters_only)}")
    return 0
