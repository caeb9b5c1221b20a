"""An attack with texts scored in batches against the same attack one text at a time, on the weights of a run.

    python scripts/bench/attack.py --run RUN --task mr --mlm MODEL [--threads 1] [--json FILE]

Sides are processes that take turns; a turn is an attack on the next rows, the same for all sides. A side is one of
- `one_by_one`: `one_by_one.py` on the exported model: every text is a call of its own, of its own length;
- `padded`: the same, every text padded to the task's length, as run_glue pads by default;
- `ours`: what `mtrobust attack` runs; `ours:4` for batches of 4.
Outcomes, texts and query counts of all sides must be the same, or there is nothing to compare. The times contain the
work of the masked language model, which is the same on all sides.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import Side, Turns, compared, machine, names, parser, positive, report, take_turns

from mtrobust.errors import UserError
from mtrobust.evaluation.attacks.bert_attack import Options
from mtrobust.evaluation.attacks.runner import Job
from mtrobust.evaluation.attacks.target import check_task, chosen, labelled_rows, run_target

FORM = re.compile(r"one_by_one|padded|ours(:[1-9]\d*)?")
SIDES = "one_by_one,padded,ours"


def work(settings: dict[str, Any]) -> None:
    """A side, in its own process. Writes a record per row."""
    turns = Turns()
    target = run_target(Path(settings["run"]), settings["task"])
    field = check_task(target.task, _kind(), None)
    rows = labelled_rows(target.task, target.data_dir or Path(), settings["split"])[1]
    rows = chosen(rows, settings["rows"] * settings["rounds"] + 1, 1)
    options = Options(mlm=settings["mlm"])
    name, _, size = settings["side"].partition(":")
    job = Job(target, "bert_attack", options, field, int(size) if size else None, use_cpu=not settings["accelerator"])
    run = job.start() if name == "ours" else _one_by_one(settings, job, padded=name == "padded")
    run(rows[-1])  # what a library does at its first call
    turns.next()
    with open(settings["records"], "w", encoding="utf-8") as file:
        for start in range(0, len(rows) - 1, settings["rows"]):
            part = rows[start : start + settings["rows"]]
            begun = time.perf_counter()
            records = [run(row) for row in part]
            seconds = time.perf_counter() - begun
            kept = ("success", "adversarial", "changes", "queries")
            file.writelines(json.dumps({key: record[key] for key in kept}) + "\n" for record in records)
            file.flush()
            turns.next(examples=len(part), seconds=seconds)


def _kind() -> Any:
    from mtrobust.evaluation.attacks import ATTACKS

    return ATTACKS["bert_attack"]


def _one_by_one(settings: dict[str, Any], job: Job, padded: bool) -> Any:
    """The plain attack on the exported model, as a function from rows to records."""
    from one_by_one import asker, attack
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(settings["exported"]).eval()
    tokenizer = AutoTokenizer.from_pretrained(settings["exported"])
    victim = job.target.open(job.use_cpu, 0, 1)
    model.to(victim.device)
    options = job.options
    assert isinstance(options, Options)
    substitutes = _kind()(options, victim, job.field).model

    def run(row: Any) -> dict[str, Any]:
        first = row["text"] if job.field == "text_pair" else None
        ask = asker(model, tokenizer, victim.max_len, first, padded)
        return attack(row[job.field], row["label"], ask, victim.mask, substitutes, options.max_changed)

    return run


def planned(args: argparse.Namespace, folder: Path) -> list[Side]:
    """The sides. Writes the exported model. Raises `UserError` for bad flags."""
    faults = [f"--sides: {text}: must be one_by_one, padded, ours or ours:BATCH"
              for text in args.sides if not FORM.fullmatch(text)]  # fmt: skip
    if faults:
        raise UserError(faults)
    check_task(run_target(args.run, args.task).task, _kind(), None)
    from mtrobust.evaluation.run_folder import load_run
    from mtrobust.models.export import export

    export(load_run(args.run, device="cpu"), args.task, folder / "exported")
    return [
        Side(text, [sys.executable, __file__, "--as_side"], {
            "side": text, "run": str(args.run), "task": args.task, "mlm": args.mlm, "split": args.split,
            "accelerator": args.accelerator, "rows": args.rows, "rounds": args.rounds,
            "exported": str(folder / "exported"),
            "records": str(folder / f"{text.replace(':', '-')}.jsonl"),
        })
        for text in args.sides
    ]  # fmt: skip


def measured(sides: list[Side], args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """The rows of the table. Ends the script where the sides do not come to the same outcomes."""
    turns = take_turns(sides, args.rounds, args.threads, folder / "sides")
    found = {side.name: Path(side.settings["records"]).read_text(encoding="utf-8").split("\n") for side in sides}
    base = found[sides[0].name]
    for side in sides[1:]:
        different = [
            number for number, pair in enumerate(zip(base, found[side.name], strict=True)) if len(set(pair)) > 1
        ]
        if different:
            lines = "\n".join(lines[different[0]] for lines in (base, found[side.name]))
            raise SystemExit(f"{side.name}: {len(different)} rows end otherwise than with {sides[0].name}:\n{lines}")
    queries = sum(json.loads(line)["queries"] for line in base if line)
    rows = compared(turns, [sides[0].name])
    return [{**row, "queries/s": queries / sum(row["seconds"])} for row in rows]


def main() -> None:
    """Prints one Markdown table."""
    if sys.argv[1:2] == ["--as_side"]:
        return work(json.loads(sys.argv[2]))
    flags = parser(__doc__, rounds=10, model=False)
    flags.add_argument("--run", type=Path, required=True, help="folder of a finished run")
    flags.add_argument("--task", required=True, help="one of its tasks, of type Classification")
    flags.add_argument("--mlm", required=True, help="masked language model")
    flags.add_argument("--split", default="dev", help="split of the run's data (dev)")
    flags.add_argument("--rows", type=positive, default=2, help="rows that a turn attacks (2)")
    flags.add_argument("--accelerator", action="store_true", help="all sides run on the accelerator, not on the CPU")
    flags.add_argument("--sides", type=names, default=names(SIDES), help=f"the first is the base ({SIDES})")
    args = flags.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        try:
            sides = planned(args, Path(folder))
        except UserError as error:
            print(error, file=sys.stderr)
            sys.exit(2)
        table = measured(sides, args, Path(folder))
    args.model = args.run
    report(
        machine(args, task=args.task, accelerator=args.accelerator, split=args.split, rows=args.rows), table, args.json
    )


if __name__ == "__main__":
    main()
