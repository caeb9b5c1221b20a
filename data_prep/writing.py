"""The files of a task: rows go from a stream to disk, are counted on the way, and appear when all splits are whole."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from mtrobust.errors import RunError, UserError
from mtrobust.files import folder_faults

from .common import Items, Reject, Row
from .progress import Progress

SHOWN_REJECTS = 10
SHOWN_REASONS = 3
KNOWN_REASONS = 1000  # different reasons that are counted; a hostile file may have as many as lines


@dataclass
class Tally:
    """What went into a split: rows, rejected ones, labels, and what is shown of these."""

    rows: int = 0
    rejected: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    scores: tuple[float, float, float, int] = (float("inf"), 0.0, float("-inf"), 0)  # least, sum, most, how many
    first: list[Reject] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)

    def add(self, item: Row | Reject) -> None:
        """Counts a row or a reject."""
        if isinstance(item, Reject):
            self.rejected += 1
            if len(self.first) < SHOWN_REJECTS:
                self.first.append(item)
            if item.reason in self.reasons or len(self.reasons) < KNOWN_REASONS:
                self.reasons[item.reason] += 1
            return
        self.rows += 1
        if item.get("answers") is not None:
            label: Any = "answerable" if item["answers"]["text"] else "unanswerable"
        else:
            label = item.get("label")
        if isinstance(label, float):
            least, total, most, count = self.scores
            self.scores = (min(least, label), total + label, max(most, label), count + 1)
        else:
            labels = item.get("tags") or ["unlabelled" if label is None else label]
            self.labels.update(map(str, labels))

    def described(self) -> str:
        """The labels in one line: counts and percent, the range of scores, or (un)answerable questions."""
        least, total, most, count = self.scores
        if count:
            return f"min {least:g}, mean {total / count:.3f}, max {most:g}"
        total = self.labels.total()  # rows, or words
        return ", ".join(f"{name} {n} ({100 * n / total:.1f} %)" for name, n in sorted(self.labels.items()))


class TaskWriter:
    """Writes `<out>/<task>/<split>.jsonl`, and `<split>.rejects.jsonl` where rows were rejected.

    Used as a context: `add` puts rows into files with temporary names, `finish` renames all of them. Left without
    `finish`, by a fault or an interruption, nothing has changed. Raises `UserError` for a folder that cannot be, and
    `RunError` when the disk refuses.
    """

    def __init__(self, out: Path, task: str, splits: Iterable[str], others: Iterable[str] = ()) -> None:
        """splits: in the order in which they are shown; others: splits of the folder that somebody else looks after."""
        self.folder, self.task = out / task, task
        self.tallies = {name: Tally() for name in splits}
        self.others = set(others)
        self.files: dict[Path, IO[str]] = {}
        self.progress = Progress(f"{task}: read", unit="rows")
        self.made = [path for path in (self.folder, *self.folder.parents) if not path.exists()]

    def __enter__(self) -> TaskWriter:
        if faults := folder_faults("--out", self.folder):
            raise UserError(faults)
        return self

    def add(self, split: str, item: Row | Reject) -> None:
        """Takes a row or a reject of a split."""
        self.tallies[split].add(item)
        if isinstance(item, Reject):
            self._write(f"{split}.rejects.jsonl", {"place": item.place, "reason": item.reason})
        else:
            self._write(f"{split}.jsonl", item)
        self.progress.step()

    def _write(self, name: str, item: Mapping[str, Any]) -> None:
        path = self.folder / name
        try:
            if path not in self.files:
                self.folder.mkdir(parents=True, exist_ok=True)
                self.files[path] = open(self._temporary(path), "w", encoding="utf-8", newline="\n")  # noqa: SIM115
            self.files[path].write(json.dumps(item, ensure_ascii=False) + "\n")
        except OSError as error:
            raise RunError(f"{path}: cannot be written ({error.strerror})") from error

    @staticmethod
    def _temporary(path: Path) -> Path:
        return path.with_name(f".{path.name}.{os.getpid()}.tmp")

    def finish(self) -> None:
        """Renames the files and prints the counts. Raises `UserError`, with nothing changed, for a split without a
        usable row."""
        empty = []
        for name, tally in self.tallies.items():
            first = "".join(f"; first: {reject.place}: {reject.reason}" for reject in tally.first[:1])
            empty += [] if tally.rows else [f"{self.task}: {name}: no usable row{first}"]
        if empty:
            raise UserError(empty)
        path = self.folder
        try:
            for path, file in self.files.items():  # noqa: B007  (the path is named where the disk refuses)
                file.flush()
                os.fsync(file.fileno())
                file.close()
            for path in list(self.files):
                os.replace(self._temporary(path), path)
                del self.files[path]
        except OSError as error:
            raise RunError(f"{path}: cannot be written ({error.strerror})") from error
        self.progress.close()
        self._tell()

    def _tell(self) -> None:
        for name, tally in self.tallies.items():
            if not tally.rejected:
                (self.folder / f"{name}.rejects.jsonl").unlink(missing_ok=True)  # left over from earlier
        known = {*self.tallies, *self.others}
        old = sorted(path.name for path in self.folder.glob("*.jsonl") if path.name.split(".")[0] not in known)
        if old:
            print(f"{self.task}: not written now, left from an earlier preparation: {', '.join(old)}")
        for name, tally in self.tallies.items():
            counts = f"{tally.rows:>8} rows {tally.rejected:>5} rejected"
            print(f"{self.task:<14} {name:<16} {counts}   {tally.described()}")
        for name, tally in self.tallies.items():
            for reject in tally.first:
                print(f"  rejected: {reject.place}: {reject.reason}")
            if tally.rejected > len(tally.first):
                print(f"  ... and {tally.rejected - len(tally.first)} more in {self.task}/{name}.rejects.jsonl")
                for reason, count in tally.reasons.most_common(SHOWN_REASONS):
                    if count > 1:
                        print(f"  {count} times: {reason}")

    def __exit__(self, *_: object) -> None:
        for path, file in self.files.items():
            file.close()
            self._temporary(path).unlink(missing_ok=True)
        if self.files:
            for folder in self.made:  # what was made for nothing
                if folder.is_dir() and not any(folder.iterdir()):
                    folder.rmdir()


def write_task(out: Path, task: str, splits: Mapping[str, Items], others: Iterable[str] = ()) -> None:
    """Writes the splits of a task, each read to its end in turn, and prints the counts; see `TaskWriter`.

    Raises `UserError`, with nothing changed, when a split has no usable row at all.
    """
    with TaskWriter(out, task, splits, others) as writer:
        for name, items in splits.items():
            for item in items:
                writer.add(name, item)
        writer.finish()
