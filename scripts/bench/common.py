"""What the benchmarks share: flags, the description of the machine, processes that take turns, ratios with their
spread, table and JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import IO, Any, NoReturn

Record = dict[str, float]  # of one turn: examples, seconds
TAIL = 20  # lines of a side's error output that are shown when it fails


# --- flags and facts ---------------------------------------------------------------------------------------------


def positive(text: str) -> int:
    """A whole number of at least 1, as the type of a flag."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be a whole number, at least 1")
    return int(text)


def names(text: str) -> list[str]:
    """A comma-separated list without repetitions, as the type of a flag."""
    return list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def parser(doc: str | None, rounds: int | None, model: bool = True) -> argparse.ArgumentParser:
    """A parser with the flags of every benchmark. doc: the script's docstring; rounds: None where none take turns."""
    made = argparse.ArgumentParser(description=(doc or "").split("\n")[0])
    if model:
        made.add_argument("--model", required=True, help="encoder: a local folder, or a hub name")
    if rounds is not None:
        made.add_argument("--rounds", type=positive, default=rounds, help=f"turns that every side gets ({rounds})")
    made.add_argument("--threads", type=positive, default=2, help="threads of every side (2)")
    made.add_argument("--json", type=Path, help="where the table is written as JSON too")
    return made


def machine(args: argparse.Namespace, **facts: Any) -> dict[str, Any]:
    """Facts without which a figure says nothing: machine, versions, threads, load, and `facts` of the benchmark."""
    import torch
    import transformers

    described = {
        "machine": platform.machine(),
        "processors": os.cpu_count(),
        "threads": args.threads,
        "load": round(os.getloadavg()[0], 1),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    if hasattr(args, "rounds"):
        described["rounds"] = args.rounds
    if hasattr(args, "model"):
        described["model"] = Path(args.model).name
    return described | facts


# --- processes that take turns -----------------------------------------------------------------------------------


@dataclass
class Side:
    """A process that works in its turns only: between them it is blocked on a read of its standard input.

    command: starts it; the settings and `folder`, where it may write, follow as JSON. It writes one JSON record a line:
    the first says that it is ready, each further one is what a turn gave. See `Turns` for the other end.
    """

    name: str
    command: Sequence[str]
    settings: Mapping[str, Any]
    _process: subprocess.Popen[str] | None = field(default=None, init=False)
    _errors: IO[str] | None = field(default=None, init=False)

    def start(self, folder: Path, threads: int) -> None:
        """Starts the process and waits until it is ready. folder: an existing one, of this side alone."""
        limits = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        self._errors = (folder / "stderr").open("w+", encoding="utf-8", errors="replace")
        self._process = subprocess.Popen(
            [*self.command, json.dumps({**self.settings, "folder": str(folder)})],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, **limits, "TOKENIZERS_PARALLELISM": "false"},
            text=True,
        )
        self._answer()

    def turn(self) -> Record:
        """Lets the process work once; what it reports."""
        assert self._process is not None and self._process.stdin is not None
        try:
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self._failed()
        return self._answer()

    def end(self) -> None:
        """Ends the process, wherever it is."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
        if self._errors is not None:
            self._errors.close()

    def _answer(self) -> Record:
        assert self._process is not None and self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):  # a library may have printed something before `Turns` was made
                return json.loads(line)
        self._failed()

    def _failed(self) -> NoReturn:
        assert self._process is not None and self._errors is not None
        code = self._process.wait()
        self._errors.seek(0)
        tail = "".join(self._errors.readlines()[-TAIL:])
        raise SystemExit(f"{self.name}: its process ended with code {code}; the end of its error output:\n{tail}")


class Turns:
    """The other end of a `Side`, in its process. What is printed from now on goes to the error output."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)

    def next(self, **record: float) -> None:
        """Reports, then waits for the next turn; ends the process when there is none."""
        print(json.dumps(record), file=self._out, flush=True)
        if not sys.stdin.readline():
            os._exit(0)


class Chunks:
    """Cuts a training loop into turns of `chunk` steps of `batch` examples; the first step belongs to the start."""

    def __init__(self, turns: Turns, chunk: int, batch: int) -> None:
        self.turns, self.chunk, self.batch = turns, chunk, batch
        self.steps, self.begun = 0, 0.0

    def step(self) -> None:
        """Called after every step."""
        self.steps += 1
        if self.steps == 1:
            self.turns.next()
        elif (self.steps - 1) % self.chunk == 0:
            self.turns.next(examples=self.chunk * self.batch, seconds=time.perf_counter() - self.begun)
        else:
            return
        self.begun = time.perf_counter()


def take_turns(
    sides: Sequence[Side], rounds: int, threads: int, folder: Path, warm_up: int = 0
) -> dict[str, list[Record]]:
    """Records of `rounds` turns by side, after `warm_up` rounds that do not count.

    The sides are started one after the other; only one ever works. Each round begins with another side. folder: what
    the processes write. Raises `SystemExit` with the end of its error output when a side fails.
    """
    records: dict[str, list[Record]] = {side.name: [] for side in sides}
    try:
        for number, side in enumerate(sides):
            (folder / str(number)).mkdir(parents=True)
            side.start(folder / str(number), threads)
            print(f"{side.name}: ready", file=sys.stderr)
        for number in range(warm_up + rounds):
            for place in range(len(sides)):
                side = sides[(place + number) % len(sides)]
                record = side.turn()
                if number >= warm_up:
                    records[side.name].append(record)
            print(f"round {number + 1} of {warm_up + rounds}", file=sys.stderr)
    finally:
        for side in sides:
            side.end()
    return records


# --- figures -----------------------------------------------------------------------------------------------------


def spread(values: Sequence[float], base: Sequence[float]) -> dict[str, float]:
    """`ratio` (the median of values[i] / base[i]) with its quartiles `low` and `high`."""
    found = [value / other for value, other in zip(values, base, strict=True)]
    low, _, high = quantiles(found, n=4) if len(found) > 1 else (found * 3)
    return {"ratio": median(found), "low": low, "high": high}


def compared(records: Mapping[str, Sequence[Record]], bases: Sequence[str]) -> list[dict[str, Any]]:
    """A row per side: its examples per second, and for each base how many times faster it is, by `spread` over the
    rounds and by `totals` (all examples over all seconds). `seconds`: of each turn."""

    def total(found: Sequence[Record]) -> float:
        return sum(record["examples"] for record in found) / sum(record["seconds"] for record in found)

    speeds = {name: [record["examples"] / record["seconds"] for record in found] for name, found in records.items()}
    return [
        {"side": name, "examples/s": total(found)}
        | {
            f"over {base}": spread(speeds[name], speeds[base]) | {"totals": total(found) / total(records[base])}
            for base in bases
        }
        | {"seconds": [record["seconds"] for record in found]}
        for name, found in records.items()
    ]


def report(facts: dict[str, Any], rows: Sequence[dict[str, Any]], path: Path | None) -> None:
    """Prints the facts and a Markdown table with the keys of the rows as columns, but for lists; writes all as
    JSON to `path`."""
    print("; ".join(f"{name} {value}" for name, value in facts.items()) + "\n")
    columns = list(dict.fromkeys(name for row in rows for name in row if not isinstance(row[name], list)))
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    for row in rows:
        print("| " + " | ".join(_cell(row.get(name)) for name in columns) + " |")
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"facts": facts, "rows": list(rows)}, indent=1) + "\n", encoding="utf-8")


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, Mapping):  # what `spread` gives
        totals = f"; totals {value['totals']:.2f}" if "totals" in value else ""
        return f"{value['ratio']:.2f} ({value['low']:.2f} to {value['high']:.2f}{totals})"
    if isinstance(value, float):
        return (
            f"{value:.1f}"
            if abs(value) >= 10
            else f"{value:.3f}"
            if abs(value) >= 0.001 or not value
            else f"{value:.1g}"
        )
    return str(value)
