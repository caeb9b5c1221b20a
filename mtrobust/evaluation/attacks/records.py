"""The files of an attack: a line per row as it is done, and the figures over all of them. Imports no torch.

`<task>.<split>.jsonl` grows by a line whenever a row is done and is put into the order of the rows at the end;
`<task>.<split>.json` holds the settings from the start, and the figures once the last row is done.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from mtrobust.errors import UserError
from mtrobust.evaluation.attacks.base import Outcome
from mtrobust.evaluation.run_folder import atomic_file, json_line, one_line, write_json

log = logging.getLogger(__name__)

Record = dict[str, Any]
FORMAT = 1
_KEYS = {"id", "text", "label", "prediction", "field", "success", "adversarial", "changes", "queries", "words"}


def record_of(row: Mapping[str, Any], field: str, labels: Sequence[str], outcome: Outcome) -> Record:
    """The line of a row; labels by name, `success` null where the model was wrong before any change."""
    predicted = outcome.adversarial_prediction
    return {
        "id": row["id"],
        **{name: row[name] for name in ("text", "text_pair") if row.get(name) is not None},
        "label": labels[row["label"]],
        "prediction": labels[outcome.prediction],
        "field": field,
        "success": outcome.success,
        "adversarial": outcome.adversarial,
        "adversarial_prediction": None if predicted is None else labels[predicted],
        "changes": [{"index": one.index, "from": one.before, "to": one.after} for one in outcome.changes],
        "queries": outcome.queries,
        "words": outcome.words,
    }


def figures(records: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The figures of an attack; shares in percent, null where there is nothing to take a mean of.

    examples: rows; skipped: those that the model got wrong before any change; attacked: the others; succeeded: attacked
    rows whose label was changed. original_accuracy: attacked, of all examples; attack_accuracy: attacked and not
    succeeded, of all examples; success_rate: succeeded, of those attacked; query_number: mean queries over attacked
    rows, query_number_succeeded over those that succeeded; perturbed_percentage: mean share of the words that was
    changed, over those that succeeded.
    """
    records = list(records)
    attacked = [record for record in records if record["success"] is not None]
    done = [record for record in attacked if record["success"]]
    return {
        "examples": len(records),
        "skipped": len(records) - len(attacked),
        "attacked": len(attacked),
        "succeeded": len(done),
        "original_accuracy": _mean([100.0 * (record["success"] is not None) for record in records]),
        "attack_accuracy": _mean([100.0 * (record["success"] is False) for record in records]),
        "success_rate": _mean([100.0 * record["success"] for record in attacked]),
        "query_number": _mean([record["queries"] for record in attacked]),
        "query_number_succeeded": _mean([record["queries"] for record in done]),
        "perturbed_percentage": _mean([100.0 * len(record["changes"]) / record["words"] for record in done]),
    }


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


class AttackLog:
    """The two files of an attack, opened for going on. `done` holds the records so far, by id.

    settings: what the outcomes depend on; ids: of the rows to attack, in their order. Raises `UserError` where the
    files there are of other settings or rows, or damaged otherwise than at their last line. overwrite: they are
    replaced.
    """

    def __init__(
        self, folder: Path, name: str, settings: Mapping[str, Any], ids: Sequence[str], overwrite: bool = False
    ) -> None:
        self.lines, self.summary = folder / f"{name}.jsonl", folder / f"{name}.json"
        self.settings, self.ids = json.loads(json.dumps(settings)), list(ids)
        self.done: dict[str, Record] = {}
        self._whole = 0  # bytes of the lines that are whole
        self._file: IO[bytes] | None = None
        if not overwrite:
            self._check_settings()
            self._read()

    @property
    def complete(self) -> bool:
        """Whether every row is done."""
        return len(self.done) == len(self.ids)

    def __enter__(self) -> AttackLog:
        self.lines.parent.mkdir(parents=True, exist_ok=True)
        if not (self.complete and self.summary.exists()):
            self._write_summary(False, {})
            self._file = self.lines.open("r+b" if self._whole else "wb")
            self._file.truncate(self._whole)
            self._file.seek(self._whole)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, record: Record) -> None:
        """Writes a line to the disk."""
        assert self._file is not None
        self._file.write(json_line(record).encode("utf-8"))
        self._file.flush()
        os.fsync(self._file.fileno())
        self.done[record["id"]] = record

    def finish(self, notes: Sequence[str]) -> dict[str, Any]:
        """Puts the lines into the order of the rows, writes the figures and returns them."""
        ordered = [self.done[one] for one in self.ids]
        if list(self.done) != self.ids:
            with atomic_file(self.lines) as file:
                file.writelines(map(json_line, ordered))
        found = figures(ordered)
        self._write_summary(True, {**found, "notes": list(notes)})
        return found

    def _write_summary(self, complete: bool, found: Mapping[str, Any]) -> None:
        write_json(self.summary, {"format": FORMAT, "complete": complete, **found, "settings": self.settings})

    def _check_settings(self) -> None:
        if not self.lines.exists() or not self.lines.stat().st_size:
            return  # nothing was attacked yet
        hint = "--overwrite starts anew, --output_dir writes elsewhere"
        try:
            earlier = json.loads(self.summary.read_text(encoding="utf-8"))["settings"]
            different = [key for key in {**earlier, **self.settings} if earlier.get(key) != self.settings.get(key)]
        except FileNotFoundError:
            raise UserError(f"{self.summary}: is missing beside {self.lines.name}; {hint}") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self.summary}: cannot be read ({one_line(error)}); {hint}") from error
        if different:
            shown = "; ".join(f"{key}: {earlier.get(key)} there, {self.settings.get(key)} now" for key in different)
            raise UserError(f"{self.summary}: an attack with other settings ({shown}); {hint}")

    def _read(self) -> None:
        if not self.lines.exists():
            return
        wanted = set(self.ids)
        with self.lines.open("rb") as file:
            for number, line in enumerate(file, 1):
                record = _parsed(line)
                if record is None and not line.endswith(b"\n"):
                    log.warning("%s:%d: the last line is cut off; its row is attacked again", self.lines, number)
                    return
                place = f"{self.lines}:{number}"
                if record is None:
                    raise UserError(f"{place}: is no record of an attack; --overwrite starts anew")
                if record["id"] not in wanted:
                    raise UserError(
                        f"{place}: id '{record['id']}' is not among the {len(wanted)} rows to attack; "
                        "name as many with --examples as before, or more, or --overwrite"
                    )
                if record["id"] in self.done:
                    raise UserError(f"{place}: id '{record['id']}' is there twice; --overwrite starts anew")
                self.done[record["id"]] = record
                self._whole += len(line)


def _parsed(line: bytes) -> Record | None:
    """The record of a whole line."""
    try:
        value = json.loads(line.decode("utf-8"))
    except ValueError:
        return None
    return value if line.endswith(b"\n") and isinstance(value, dict) and value.keys() >= _KEYS else None
