"""Text classification and scoring: MR, AG News, IMDB, Yelp, and any TSV, CSV or JSON Lines file with named columns."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

from mtrobust.errors import UserError

from .common import (
    Record,
    Row,
    RowFault,
    Split,
    collect,
    existing_folder,
    score_of,
    text_of,
    writable_folder,
    write_task,
)
from .readers import bad_byte, read_by_suffix, read_lines
from .textcls_sets import SETS, cut_dev, letters

HELP = "text classification: MR, AG News, IMDB, Yelp, or any TSV/CSV/JSONL with named columns"
FILE_FLAGS = ("train", "dev", "test")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `mtrobust prep textcls`."""
    parser.add_argument("--dataset", choices=[*SETS, "file"], required=True, help="a known set, or your own files")
    parser.add_argument("--raw", type=Path, help="folder of a known set's original files")
    parser.add_argument("--out", type=Path, required=True, help="folder that gets <task>/<split>.jsonl")
    parser.add_argument("--task", help="name of the output folder; default: the set's name (needed for --dataset file)")
    parser.add_argument("--dev_share", type=float, help="share of training rows for dev, where the set has no dev part")
    parser.add_argument(
        "--hold_out", type=Path, metavar="FILE", help="rows `label text` (attack examples) to keep out of train and dev"
    )
    own = parser.add_argument_group("your own files (--dataset file)")
    for name in FILE_FLAGS:
        own.add_argument(f"--{name}_file", type=Path, help=f"{name} rows: .tsv (no quoting), .csv or .jsonl")
    own.add_argument("--text_column", default="text", help="column of the text; default: text")
    own.add_argument("--text_pair_column", help="column of the second text, for pairs")
    own.add_argument("--label_column", default="label", help="column of the label; default: label")
    own.add_argument("--id_column", help="column of a unique id; default: the row's position")
    own.add_argument("--labels", help="allowed labels, comma-separated; others are rejected. default: those of train")
    own.add_argument("--regression", action="store_true", help="the label is a number, not a class")


def _cell(value: Any, name: str) -> str:
    """A label or id as text; JSON numbers and booleans count, nothing else does."""
    if isinstance(value, (str, int, float)) and str(value).strip():
        return str(value).strip()
    raise RowFault(f"{name}: expected a value, got {value!r}")


def convert_own(record: Record, args: argparse.Namespace, labels: set[str] | None) -> Row:
    """One row of a user's file. An empty or null label makes an unlabelled row."""
    fields = record.fields
    row: Row = {"id": _cell(fields.get(args.id_column), args.id_column)} if args.id_column else {}
    row["text"] = text_of(fields, args.text_column)
    if args.text_pair_column:
        row["text_pair"] = text_of(fields, args.text_pair_column)
    if fields.get(args.label_column) in (None, ""):
        return row
    if args.regression:
        row["label"] = score_of(fields, args.label_column, -1e30, 1e30)
        return row
    row["label"] = _cell(fields[args.label_column], args.label_column)
    if labels is not None and row["label"] not in labels:
        raise RowFault(f"{args.label_column}: unknown label '{row['label']}' (allowed: {', '.join(sorted(labels))})")
    return row


def read_own(args: argparse.Namespace) -> dict[str, Split]:
    """The user's files by split. Labels seen in train are the allowed ones unless --labels names them."""
    files = {name: getattr(args, f"{name}_file") for name in FILE_FLAGS if getattr(args, f"{name}_file")}
    faults = [f"--{name}_file: no file {path}" for name, path in files.items() if not path.is_file()]
    faults += [] if files else ["--dataset file: needs --train_file, --dev_file or --test_file"]
    faults += [] if args.task else ["--dataset file: needs --task, the name of the output folder"]
    faults += ["--labels: a score has none; leave it out with --regression"] if args.labels and args.regression else []
    if faults:
        raise UserError(faults)
    labels = {name.strip() for name in args.labels.split(",")} if args.labels else None
    splits = {}
    for name, path in files.items():
        needed = [args.text_column, args.text_pair_column, args.id_column]
        needed += [args.label_column] if name != "test" else []  # a test set may have no labels
        records = read_by_suffix(path, [column for column in needed if column])
        splits[name] = collect(records, lambda record: convert_own(record, args, labels))  # noqa: B023 - used at once
        if name == "train" and labels is None and not args.regression:
            labels = {row["label"] for row in splits[name].rows if "label" in row}
    return splits


def read_hold_out(path: Path) -> dict[str, str]:
    """Texts of a `label text` file by their letters. Raises `UserError` for an empty or undecodable file."""
    held: dict[str, str] = {}
    for number, line in read_lines(path):
        if bad_byte(line):
            raise UserError(f"--hold_out: {path}:{number}: {bad_byte(line)}")
        text = line.split(maxsplit=1)
        if len(text) != 2:
            raise UserError(f"--hold_out: {path}:{number}: expected a label and a text")
        held[letters(text[1])] = text[1]
    if not held:
        raise UserError(f"--hold_out: {path} is empty")
    return held


def hold_out(splits: dict[str, Split], path: Path) -> None:
    """Moves rows whose text stands in the file from train and dev to `test` (`held_out` where a test set exists).

    Texts are compared by letters and digits, for attack samples are tokenised. Held-out texts found in no split are
    counted in a line of output.
    """
    held = read_hold_out(path)
    moved: list[Row] = []
    for name in ("train", "dev"):
        if name in splits:
            moved += [row for row in splits[name].rows if letters(row["text"]) in held]
            splits[name].rows = [row for row in splits[name].rows if letters(row["text"]) not in held]
    known = {letters(row["text"]) for rows in (moved, *(split.rows for split in splits.values())) for row in rows}
    absent = [text for key, text in held.items() if key not in known]
    print(f"held out: {len(moved)} rows moved from train and dev; {len(absent)} of {len(held)} texts are in no split")
    for text in absent[:3]:
        print(f"  not found: {text[:100]}")
    if moved:
        splits["held_out" if "test" in splits else "test"] = Split(moved)


def definition(task: str, args: argparse.Namespace, splits: dict[str, Split]) -> str:
    """The task definition that fits a user's files, to be pasted into a YAML file."""
    counts = Counter(row["label"] for row in next(iter(splits.values())).rows if "label" in row)
    labels = [name.strip() for name in args.labels.split(",")] if args.labels else sorted(counts)
    listed = json.dumps(labels, ensure_ascii=False)  # quoted, for YAML would read 0 or no as something else
    kind = ["task_type: Regression"] if args.regression else ["task_type: Classification", f"labels: {listed}"]
    shape = "PremiseAndOneHypothesis" if args.text_pair_column else "PremiseOnly"
    metrics = "[Pearson, Spearman]" if args.regression else "[ACC]"
    lines = [*kind, f"data_format: {shape}", f"metric_meta: {metrics}", f"split_names: [{', '.join(splits)}]"]
    return "\n".join([f"{task}:", *(f"  {line}" for line in lines)])


def check_arguments(args: argparse.Namespace) -> None:
    """Raises `UserError` with every fault of the flags that can be seen before reading."""
    faults = []
    if args.dev_share is not None and not 0 <= args.dev_share < 1:
        faults.append(f"--dev_share: {args.dev_share} is outside 0 to 1 (1 excluded)")
    if args.hold_out is not None and not args.hold_out.is_file():
        faults.append(f"--hold_out: no file {args.hold_out}")
    if args.dataset != "file" and args.raw is None:
        faults.append(f"--dataset {args.dataset}: needs --raw, the folder of the original files")
    if faults:
        raise UserError(faults)


def run(args: argparse.Namespace) -> int:
    """Writes the rows of one set."""
    check_arguments(args)
    if args.dataset == "file":
        task, splits, share = args.task, read_own(args), args.dev_share or 0.0
    else:
        task, known = args.task or args.dataset, SETS[args.dataset]
        splits = known.read(existing_folder(args.raw, "--raw"))
        share = known.dev_share if args.dev_share is None else args.dev_share
    writable_folder(args.out)
    if args.hold_out is not None:
        hold_out(splits, args.hold_out)
    if share and "train" in splits and "dev" not in splits:
        splits |= cut_dev(splits["train"], share)
    order = [name for name in ("train", "dev", "test", "held_out") if name in splits]
    write_task(args.out, task, {name: splits[name] for name in order})
    if args.dataset == "file":
        print(f"\nA task definition for these rows:\n\n{definition(task, args, splits)}")
    return 0
