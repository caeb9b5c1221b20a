"""`mtrobust report RUN… --out DIR`: comparison tables and plots from run folders."""

from __future__ import annotations

import argparse
import fnmatch
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mtrobust.commands.parser import Parser, names
from mtrobust.errors import UserError
from mtrobust.files import folder_faults
from mtrobust.registry import suggestion

if TYPE_CHECKING:
    from mtrobust.evaluation.report.choose import Sweep
    from mtrobust.evaluation.report.groups import Group
    from mtrobust.evaluation.report.runs import RunData
    from mtrobust.evaluation.report.table import Report, Settings

log = logging.getLogger(__name__)
T = TypeVar("T")

_DESCRIPTION = """Tables of finished runs: mean and spread over seeds, paired differences to a baseline, time.

RUN: run folders, folders that hold some, or quoted patterns. Runs that differ only in seed and tasks are one row; what
else differs between the runs of a method is part of its name. A column is <task>/<metric>, <task>/<set>/<metric> or
<task>/attack/<split>/<figure>. What other runs have and one lacks is listed under "Missing".

Prints the tables as Markdown and writes DIR/report.md, .csv, .tex, .json, .html and, with matplotlib, DIR/plots/.
"""
_SUFFIXES = ("md", "csv", "tex", "json", "html")


def run(argv: list[str]) -> int:
    """Reads the runs, prints the tables, writes the files."""
    args = _parser().parse(argv)
    found = _read(args)
    report, groups, sweeps = _make(args, *found)
    _write(args.out, report, groups, sweeps)
    return 0


def _parser() -> Parser:
    parser = Parser(prog="mtrobust report", description=_DESCRIPTION)
    add = parser.add_argument
    add("runs", nargs="+", metavar="RUN", help="run folder, folder of run folders, or quoted pattern")
    add("--out", type=Path, required=True, metavar="DIR", help="folder for the files; only these are overwritten")
    add("--baseline", metavar="NAME", help="row or method that the others are compared with (default: standard)")
    add(
        "--group_by",
        type=names,
        action="extend",
        metavar="a,b",
        help="settings that make a row, such as perturb,data_fraction; default: the method and what varies",
    )
    add(
        "--label",
        type=_label,
        action="append",
        default=[],
        metavar="PATTERN=NAME",
        help="name of the row of the run folders that fit; may be given several times, the first that fits counts",
    )
    add(
        "--columns",
        type=names,
        action="extend",
        default=[],
        metavar="a,b",
        help="columns to show, as names or patterns",
    )
    add(
        "--average",
        type=names,
        action="extend",
        default=[],
        metavar="a,b",
        help="add the mean over these columns (patterns; '*': all)",
    )
    add(
        "--gate",
        choices=("column", "task"),
        default="column",
        help="where the baseline must beat the level before an evaluation set is compared: on the set (column) or on "
        "the task's dev split (default: column)",
    )
    add(
        "--untrained",
        metavar="RUN",
        help="run that was stopped before it learned: a level to beat beside the majority class",
    )
    add(
        "--data_dir",
        type=Path,
        metavar="D",
        help="rows, for answers and labels that predictions do not hold; default: each run's",
    )
    add(
        "--best_by", metavar="TASK/METRIC", help="of each method keep the setting with the best mean of this dev metric"
    )
    add(
        "--sweep",
        action="append",
        default=[],
        metavar="KEY",
        help="tables and plots against a setting, such as perturb.rapt.layers; may be given several times",
    )
    add(
        "--expect",
        type=Path,
        metavar="FILE",
        help="YAML with the planned methods and seeds: gaps are listed as missing",
    )
    add(
        "--published",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="YAML with figures of a paper, shown beside ours; may be given several times",
    )
    return parser  # fmt: skip


def _label(text: str) -> tuple[str, str]:
    pattern, _, label = text.rpartition("=")
    if not pattern or not label.strip():
        raise argparse.ArgumentTypeError(f"{text!r}: PATTERN=NAME, such as 'smart-*=SMART'")
    return pattern, label.strip()


class _Faults:
    """Collects the faults of inputs that do not depend on each other."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def of(self, read: Callable[..., T], *arguments: Any) -> T | None:
        """The result, or None with the faults kept."""
        try:
            return read(*arguments)
        except UserError as error:
            self.found += error.faults
            return None

    def stop(self) -> None:
        """Raises what was found."""
        if self.found:
            raise UserError(self.found)


def _read(args: argparse.Namespace) -> tuple[list[RunData], RunData | None, Any, list[Any]]:
    """(runs, untrained run, expected grid, published figures), all faults at once."""
    from mtrobust.evaluation.report.inputs import read_expected, read_published
    from mtrobust.evaluation.report.runs import find_runs, read_runs

    faults = _Faults()
    faults.of(_check_out, args.out)
    if args.data_dir is not None and not args.data_dir.is_dir():
        faults.found.append(f"--data_dir: {args.data_dir}: no such folder")
    paths = faults.of(find_runs, args.runs) or []
    untrained = faults.of(_untrained, args.untrained) if args.untrained else None
    paths = [path for path in paths if untrained is None or path.resolve() != untrained.path.resolve()]
    runs = faults.of(read_runs, paths) or []
    expected = faults.of(read_expected, args.expect) if args.expect else None
    published = [found for path in args.published if (found := faults.of(read_published, path))]
    if not faults.found and not any(found.results is not None for found in runs):
        faults.found += [f"{found.path}: not finished ({found.where()})" for found in runs]
        faults.found.append("no finished run: nothing to report")
    faults.stop()
    return runs, untrained, expected, published


def _check_out(out: Path) -> None:
    from mtrobust.evaluation.run_folder import CONFIG

    if faults := folder_faults("--out", out):
        raise UserError(faults)
    if (out / CONFIG).is_file():
        raise UserError(f"--out: {out}: is a run folder; name another one")


def _untrained(word: str) -> RunData:
    from mtrobust.evaluation.report.runs import find_runs, read_runs

    paths = find_runs([word])
    if len(paths) != 1:
        raise UserError(f"--untrained: {word}: holds {len(paths)} run folders; name one")
    (found,) = read_runs(paths)
    if found.results is None:
        raise UserError(f"--untrained: {word}: not finished ({found.where()})")
    return found


def _make(
    args: argparse.Namespace, runs: list[RunData], untrained: RunData | None, expected: Any, published: list[Any]
) -> tuple[Report, list[Group], list[Sweep]]:
    """The report, the groups that it shows, the sweeps."""
    from mtrobust.evaluation.report.choose import Choice, add_published, choose_best, find_sweep
    from mtrobust.evaluation.report.groups import REFERENCE, group_runs, unequal_settings
    from mtrobust.evaluation.report.missing import find_missing
    from mtrobust.evaluation.report.table import Settings, make_report, pick, select_columns

    groups = group_runs(runs, args.group_by, args.label)
    faults = _Faults()
    args.columns = _without_planned(args.columns, expected.columns if expected else [], groups)
    columns = faults.of(select_columns, groups, args.columns) or []
    if columns and args.average:
        faults.of(pick, columns, args.average, "--average")
    faults.of(_check_baseline, args.baseline, groups)
    sweeps = [sweep for key in args.sweep if (sweep := faults.of(find_sweep, groups, key))]
    choice = faults.of(choose_best, groups, args.best_by) if args.best_by else Choice(groups, [], {})
    faults.stop()
    assert choice is not None
    settings = Settings(args.baseline or REFERENCE, args.columns, args.average, args.gate, untrained, args.data_dir)
    log.info("%d runs, %d rows, %d columns", len(runs), len(choice.groups), len(columns))
    report = make_report(choice.groups, settings, expected.methods if expected else [])
    if sweeps and args.best_by:
        report.swept = make_report(groups, settings).rows
    report.missing = find_missing(groups, expected, columns)
    report.notes += _notes(report, settings, unequal_settings(choice.groups))
    report.grid, report.grid_column = choice.lines, args.best_by or ""
    for row in report.rows:
        row.mark = choice.marks.get(row.label, "")
    add_published(report, published)
    return report, choice.groups, sweeps


def _without_planned(patterns: list[str], planned: list[str], groups: Iterable[Group]) -> list[str]:
    """Patterns of columns less those that are planned and that no run has yet: they are listed as missing."""
    there = {column for group in groups for run in group.finished for column in run.figures}
    absent = {pattern for pattern in patterns if pattern in planned and not fnmatch.filter(there, pattern)}
    return [pattern for pattern in patterns if pattern not in absent] or patterns


def _check_baseline(name: str | None, groups: Iterable[Group]) -> None:
    known = list(dict.fromkeys(known for group in groups if group.finished for known in (group.label, group.method)))
    if name is not None and name not in known:
        raise UserError(f"--baseline: {name}: no finished run{suggestion(name, known)} (rows: {', '.join(known)})")


def _notes(report: Report, settings: Settings, unequal: list[str]) -> list[str]:
    notes = list(unequal)
    if not any(row.baseline for row in report.rows):
        notes.insert(0, f"no finished run of `{settings.baseline}`: nothing to compare with (--baseline names another)")
    lone = [row.label for row in report.rows if row.baseline is None]
    if lone and len(lone) < len(report.rows):
        notes.append(f"no `{settings.baseline}` with the same settings to compare with: {', '.join(lone)}")
    return notes


def _write(out: Path, report: Report, groups: list[Group], sweeps: list[Sweep]) -> None:
    """Writes all files and prints the tables."""
    from mtrobust.evaluation.pictures import MISSING, write_picture
    from mtrobust.evaluation.report import plots
    from mtrobust.evaluation.report.formats import csv_text, json_text, latex, markdown
    from mtrobust.evaluation.report.html_page import page
    from mtrobust.evaluation.report.sheets import sheets
    from mtrobust.evaluation.run_folder import atomic_file

    tables = sheets(report, sweeps)
    print(markdown(report, tables, pictures=False))
    svgs: dict[str, bytes] = {}
    if plots.available():
        for picture in plots.draw(report, groups, sweeps):
            report.plots.append((picture.stem, picture.caption))
            svgs[picture.stem] = picture.svg
            write_picture(out / "plots", picture)
    else:
        log.info("no plots: %s", MISSING)
    texts = (
        markdown(report, tables),
        csv_text(report),
        latex(report, tables),
        json_text(report),
        page(report, tables, svgs),
    )
    for suffix, text in zip(_SUFFIXES, texts, strict=True):
        with atomic_file(out / f"report.{suffix}") as file:
            file.write(text)
    log.info("written: %s (%d plots)", out / f"report.{{{','.join(_SUFFIXES)}}}", len(svgs))
