"""SSMBA (Ng et al. 2020, "SSMBA: Self-Supervised Manifold Based Data Augmentation"): new rows from a masked LM.

A share of a text's tokens is corrupted and all of them are predicted anew by a masked language model, each drawn from
its distribution. The label is kept. A text that is equal to the original or to another of its new texts is drawn again,
a limited number of times.

Of the chosen tokens 80 % become the mask token, 10 % a random token and 10 % stay: the defaults of the authors' code
(which chooses 15 % and makes 4 texts unless told otherwise). Words in which no token changed are taken from the text as
they stand, spaces and capitals included, where that code has the tokenizer write the whole text anew. The number of
chosen tokens is their share, rounded, and at least one. What stands beyond `--max_len` tokens stays.

Draws follow from the seed, the row's id and the number of the try. Work is kept every few rows in a hidden file in the
new folder: the same command, started again after an interruption, goes on there.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from mtrobust.errors import RunError, UserError

from . import derived
from .common import Reject, Row, writable_folder, write_atomically
from .progress import Progress
from .writing import write_task

HELP = "SSMBA: new training rows by masking tokens and filling them in with a masked language model"
FIELDS = ("text", "text_pair", "question")  # of a question's row the context stays, with the places of the answers
CHUNK = 32  # rows whose new texts are kept at once
Texts = list[dict[str, str]]  # the new texts of one row


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `mtrobust prep ssmba`."""
    derived.add_arguments(parser)
    parser.add_argument("--mlm", required=True, help="masked language model: a folder, or a name on the hub")
    parser.add_argument("--samples", type=int, default=8, help="new texts per row; default: 8")
    parser.add_argument("--mask", type=float, default=0.25, help="share of the tokens drawn anew; default: 0.25")
    parser.add_argument("--top_k", type=int, help="draw among the k most likely tokens; default: the whole vocabulary")
    parser.add_argument(
        "--field",
        choices=[*FIELDS, "both"],
        default="both",
        help="texts that change; default: all of these that a row has",
    )
    parser.add_argument("--tries", type=int, default=10, help="draws for a text that is not new; default: 10")
    parser.add_argument("--max_len", type=int, help="tokens that are looked at; default: what the model reads")
    parser.add_argument("--batch_size", type=int, default=64, help="texts per forward pass; default: 64")
    parser.add_argument("--seed", type=int, default=1)


def check_arguments(args: argparse.Namespace) -> derived.Origin:
    """The split that is read. Raises `UserError` with every fault of the options."""
    least = {"samples": 1, "top_k": 1, "tries": 1, "max_len": 8, "batch_size": 1, "seed": 0}
    values = {key: getattr(args, key) for key in least if getattr(args, key) is not None}
    faults = [f"--{k}: {v} (allowed: {least[k]} and more)" for k, v in values.items() if v < least[k]]
    if not 0 < args.mask < 1:
        faults.append(f"--mask: {args.mask} is outside 0 to 1 (both excluded)")
    folder = Path(args.mlm)
    if folder.is_dir() and not (folder / "config.json").is_file():
        faults.append(f"--mlm: {folder}: no config.json in it; name the folder of a saved model")
    elif not folder.is_dir() and (folder.is_absolute() or args.mlm.startswith(".") or args.mlm.count("/") > 1):
        faults.append(f"--mlm: no folder {folder}")
    return derived.checked(args, faults)


def fields_of(row: Row, field: str) -> tuple[str, ...]:
    """The texts of a row that change."""
    there = ("text", "text_pair") if row.get("text") is not None else ("question",)
    return tuple(name for name in there if row.get(name) is not None and field in (name, "both"))


def survey(origin: derived.Origin, field: str) -> tuple[int, str]:
    """(rows, digest of the file). Raises `UserError` with rows that have no text to change."""
    rows, faults = 0, []
    for row in origin.rows():
        if isinstance(row, Reject):
            faults.append(f"{row.place}: {row.reason}")
            continue
        rows += 1
        wrong = [name for name in FIELDS if row.get(name) is not None and not isinstance(row[name], str)]
        faults += [f"{origin.file}: row '{row['id']}': {name}: expected text" for name in wrong]
        if not wrong and not fields_of(row, field):
            needed = "text" if field == "both" else field
            faults.append(f"{origin.file}: row '{row['id']}': no {needed}; SSMBA is for texts, pairs and questions")
    if faults or not rows:
        more = [f"{origin.file}: {len(faults)} faults in all"] if len(faults) > 10 else []
        raise UserError([*faults[:10], *more] or f"{origin.file}: no rows")
    return rows, _digest(origin.file)


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Kept:
    """New texts that are already made, in a file of the new folder: a line of settings, then a line for each chunk."""

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        """Takes up the file of an interrupted run with the same settings. Raises `UserError` for other settings."""
        self.path, self.settings, self.chunks = path, settings, 0
        if path.is_file():
            self._take_up()

    def _take_up(self) -> None:
        with open(self.path, "rb") as file:
            try:
                earlier = json.loads(file.readline())
                different = [key for key, value in self.settings.items() if earlier[key] != value]
            except (ValueError, KeyError, TypeError):
                raise UserError(f"{self.path}: not readable as unfinished work; delete it to start anew") from None
            good = file.tell()
            for line in file:
                if not line.endswith(b"\n"):
                    break
                good, self.chunks = good + len(line), self.chunks + 1
            if different and self.chunks:
                told = ", ".join(f"{key} ({earlier[key]!r}, now {self.settings[key]!r})" for key in different)
                raise UserError(
                    f"{self.path}: unfinished work with other settings: {told}; "
                    f"give the same ones, or delete the file to start anew"
                )
        os.truncate(self.path, good)  # a line that was being written

    def add(self, texts: list[Texts]) -> None:
        """Keeps the new texts of a chunk of rows, on disk when this returns. Raises `RunError`."""
        try:
            if not self.chunks:
                write_atomically(self.path, [json.dumps(self.settings) + "\n"])
            with open(self.path, "a", encoding="utf-8", newline="\n") as file:
                file.write(json.dumps(texts, ensure_ascii=False) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise RunError(f"{self.path}: cannot be written ({error.strerror})") from error
        self.chunks += 1

    def __iter__(self) -> Iterator[Texts]:
        """The new texts of each row, in order."""
        with open(self.path, encoding="utf-8", newline="\n") as file:
            next(file)
            for line in file:
                yield from json.loads(line)


def settings_of(args: argparse.Namespace, digest: str) -> dict[str, Any]:
    """What the new texts follow from."""
    names = ("samples", "mask", "top_k", "field", "tries", "max_len", "batch_size", "seed")
    folder = Path(args.mlm)
    model = str(folder.resolve()) if folder.is_dir() else args.mlm
    weights = {path.name: _digest(path) for path in sorted(folder.glob("*")) if path.is_file()}
    return {"rows": digest, "model": model, "files": weights} | {name: getattr(args, name) for name in names}


def generate(args: argparse.Namespace, origin: derived.Origin, kept: Kept, rows: int) -> None:
    """Makes and keeps the new texts that are still missing."""
    done = min(rows, kept.chunks * CHUNK)
    if done:
        print(f"{origin.task}: goes on after {done} of {rows} rows")
    if done == rows:
        return
    from .ssmba_model import Reconstructor

    model = Reconstructor(args.mlm, args.mask, args.top_k, args.max_len, args.batch_size, args.seed)
    source = islice((row for row in origin.rows() if not isinstance(row, Reject)), done, None)
    progress = Progress(f"{origin.task}: ssmba", rows, done)
    while chunk := list(islice(source, CHUNK)):
        kept.add(model.samples(chunk, [fields_of(row, args.field) for row in chunk], args.samples, args.tries))
        progress.step(len(chunk))
    progress.close()
    if model.beyond:
        print(f"{origin.task}: {model.beyond} texts are longer than {model.max_len} tokens; what stands beyond stays")


def merged(origin: derived.Origin, texts: Iterable[Texts], counts: dict[str, int], wanted: int) -> Iterator[Row]:
    """Every row, followed by its new ones."""
    taken = origin.ids()
    for row, new in zip((row for row in origin.rows() if not isinstance(row, Reject)), texts, strict=True):
        yield row
        ids = derived.fresh_ids(f"{row['id']}-ssmba", taken)
        for changed in new:
            yield row | changed | {"id": next(ids), "source": "ssmba"}
        counts["new"] += len(new)
        counts["short"] += len(new) < wanted


def run(args: argparse.Namespace) -> int:
    """Makes the new rows and writes the new task folder."""
    origin = check_arguments(args)
    rows, digest = survey(origin, args.field)
    writable_folder(args.out)
    kept = Kept(origin.target / f".{origin.split}.ssmba", settings_of(args, digest))
    generate(args, origin, kept, rows)
    counts = {"new": 0, "short": 0}
    others = {path.name.split(".")[0] for path in origin.others()}
    write_task(args.out, origin.task, {origin.split: merged(origin, kept, counts, args.samples)}, others)
    origin.copy_others()
    kept.path.unlink()
    short = f"; {counts['short']} rows have fewer than {args.samples}" if counts["short"] else ""
    print(f"{origin.task}: {counts['new']} new rows beside {rows} original ones{short}")
    return 0
