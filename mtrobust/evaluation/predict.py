"""Predictions of a trained model for new rows, and the files that the GLUE server takes."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtrobust.data.collator import evaluation_batches
from mtrobust.data.rows import find_split, iter_rows, read_rows
from mtrobust.errors import UserError
from mtrobust.evaluation.evaluator import Progress, run_features, told
from mtrobust.evaluation.run_folder import Run, atomic_file, json_line
from mtrobust.files import folder_faults, output_faults

if TYPE_CHECKING:
    from mtrobust.tasks.base import Prediction
    from mtrobust.tasks.taskdef import TaskDef

log = logging.getLogger(__name__)

CHUNK = 2048  # rows whose features and outputs are in memory at a time


def predict(
    run: Run,
    task: str,
    input: str | os.PathLike[str],  # noqa: A002  (the flag's name)
    output: str | os.PathLike[str],
    *,
    batch_size: int | None = None,
    bf16: bool | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Writes one line per row of `input` to `output` (JSON Lines), in the order of the input; returns their number.

    input: a file in any row format that the task reads, labels not needed; it is read twice. All rows are checked
    first: bad ones are listed in one `UserError` and nothing is written. `output` appears, or replaces an older file,
    only when it is whole. progress: called with rows done and rows in all.
    """
    definition, source, target = run.task(task), Path(input), Path(output)
    if faults := output_faults("--output", target, source):
        raise UserError(faults)
    total = sum(1 for _ in iter_rows(definition, source))  # looks at every row, keeps none
    done, rows = 0, iter_rows(definition, source)
    with atomic_file(target) as file:
        made = predictions(run, definition, rows, batch_size=batch_size, bf16=bf16, progress=told())
        for prediction in made:
            file.write(json_line(prediction.record))
            done += 1
            if progress and (done % CHUNK == 0 or done == total):
                progress(done, total)
    return done


def predictions(
    run: Run,
    task: TaskDef,
    rows: Iterable[dict[str, Any]],
    *,
    batch_size: int | None = None,
    bf16: bool | None = None,
    progress: Progress | None = None,
) -> Iterator[Prediction]:
    """One prediction per parsed row, in order; only `CHUNK` rows are taken from `rows` at a time. progress: called with
    which of them are at work, batches done and batches of these rows."""
    max_len = task.max_len or run.config.max_seq_length
    collate = evaluation_batches(task, run.tokenizer)
    remaining, first = iter(rows), 1
    while part := list(islice(remaining, CHUNK)):
        what = f"{task.name}, rows {first} to {first + len(part) - 1}"
        first += len(part)
        features = task.type.featurize(part, run.tokenizer, max_len, training=False)
        outputs = run_features(
            run.model,
            task,
            features,
            collate,
            batch_size=batch_size or run.config.per_device_eval_batch_size,
            bf16=run.config.bf16 if bf16 is None else bf16,
            progress=progress and partial(progress, what),
        )
        yield from task.type.decode(part, features, task.type.detokenized(outputs, run.tokenizer))


# --- GLUE server -------------------------------------------------------------------------------------------------

_ENTAILMENT = ("not_entailment", "entailment")
_NLI = ("contradiction", "neutral", "entailment")


@dataclass(frozen=True)
class Submission:
    """One file of a GLUE submission.

    task: whose model predicts it; split: the rows it is for; rows: how many the official test set has; names: our
    label names in the official order, None for a score; numbered: the file wants the label's number, not its name;
    folder: the data folder where it is not the task's.
    """

    file: str
    task: str
    rows: int
    names: tuple[str, ...] | None
    numbered: bool = False
    split: str = "test"
    folder: str | None = None


SUBMISSIONS = (
    Submission("CoLA.tsv", "cola", 1063, ("unacceptable", "acceptable"), numbered=True),
    Submission("SST-2.tsv", "sst2", 1821, ("negative", "positive"), numbered=True),
    Submission("MRPC.tsv", "mrpc", 1725, ("not_equivalent", "equivalent"), numbered=True),
    Submission("STS-B.tsv", "stsb", 1379, None),
    Submission("QQP.tsv", "qqp", 390965, ("not_duplicate", "duplicate"), numbered=True),
    Submission("MNLI-m.tsv", "mnli", 9796, _NLI, split="matched_test"),
    Submission("MNLI-mm.tsv", "mnli", 9847, _NLI, split="mismatched_test"),
    Submission("QNLI.tsv", "qnli", 5463, _ENTAILMENT),
    Submission("RTE.tsv", "rte", 3000, _ENTAILMENT),
    Submission("WNLI.tsv", "wnli", 146, _ENTAILMENT, numbered=True),
    Submission("AX.tsv", "mnli", 1104, _NLI, folder="ax"),
)


def glue_submission(
    run: Run,
    out: str | os.PathLike[str],
    data_dir: str | os.PathLike[str] | None = None,
    *,
    batch_size: int | None = None,
) -> dict[str, int]:
    """Writes the GLUE server's files for the run's GLUE tasks: `index<TAB>prediction`, one line per test row.

    Tasks are known by their names in the shipped definitions (cola, sst2, mrpc, stsb, qqp, mnli, qnli, rte, wnli);
    AX.tsv comes from the mnli head on `<data_dir>/ax/test.jsonl`. A file whose test rows are not there is left out and
    logged, as is a row count that is not the official one. Returns rows by file name. Raises `UserError`, before
    anything is written, when the run has no GLUE task, no test rows are found, rows are bad or labels have no place.
    """
    folder, data = Path(out), Path(data_dir) if data_dir is not None else Path(run.config.data_dir)
    own = run.select(None)
    wanted = [item for item in SUBMISSIONS if item.task in own]
    if not wanted:
        known = ", ".join(dict.fromkeys(item.task for item in SUBMISSIONS))
        raise UserError(f"--glue_submission: the run has no GLUE task (its tasks: {', '.join(own)}; GLUE: {known})")
    faults, plan = folder_faults("--glue_submission", folder), []
    for item in wanted:
        task = own[item.task] if item.folder is None else own[item.task].model_copy(update={"data": item.folder})
        faults += _label_faults(item, task)
        try:
            path = find_split(task, data, item.split)
        except UserError as error:
            level = logging.WARNING if item.folder is None else logging.INFO  # few have the diagnostic set
            log.log(level, "%s is left out: %s", item.file, "; ".join(error.faults))
            continue
        try:
            plan.append((item, task, read_rows(task, path)))
        except UserError as error:
            faults += error.faults
    if not plan and not faults:
        raise UserError(f"--glue_submission: no test rows in {data} for {', '.join(item.file for item in wanted)}")
    if faults:
        raise UserError(faults)
    return {item.file: _write_submission(run, item, task, rows, folder, batch_size) for item, task, rows in plan}


def _label_faults(item: Submission, task: TaskDef) -> list[str]:
    if item.names is None or set(task.labels) == set(item.names) or _plain_numbers(item, task):
        return []
    return [f"{task.name}: labels: {', '.join(task.labels)}: {item.file} needs {', '.join(item.names)}"]


def _plain_numbers(item: Submission, task: TaskDef) -> bool:
    """Whether the definition names its labels 0, 1, as MT-DNN's files do, which is what the server wants."""
    return item.numbered and list(task.labels) == [str(number) for number in range(len(item.names or ()))]


def _write_submission(
    run: Run, item: Submission, task: TaskDef, rows: Sequence[dict[str, Any]], folder: Path, batch_size: int | None
) -> int:
    if len(rows) != item.rows:
        official = "the official test set has %d, and the server refuses others"
        log.warning(f"%s: %d rows; {official}", item.file, len(rows), item.rows)
    ids = [str(row["id"]) for row in rows]
    index = ids if all(text.isdecimal() for text in ids) else [str(number) for number in range(len(rows))]
    with atomic_file(folder / item.file) as file:
        file.write("index\tprediction\n")
        for number, prediction in zip(index, predictions(run, task, rows, batch_size=batch_size), strict=True):
            file.write(f"{number}\t{_cell(item, task, prediction)}\n")
    return len(rows)


def _cell(item: Submission, task: TaskDef, prediction: Prediction) -> str:
    """What the server wants to read: a score between 0 and 5, a label's number, or its name."""
    value = prediction.record["prediction"]
    if item.names is None:
        return f"{min(5.0, max(0.0, float(value))):.3f}"
    if _plain_numbers(item, task):
        return str(value)
    return str(item.names.index(value)) if item.numbered else str(value)
