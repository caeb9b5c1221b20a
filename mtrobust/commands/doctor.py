"""`mtrobust doctor`: what this machine and installation can do, and what is missing for what."""

from __future__ import annotations

import argparse
import json
import os
from typing import Any

from mtrobust.commands.parser import Parser

_DESCRIPTION = """Versions, devices, threads, bfloat16, a short speed test, and what is missing for which feature.

Exit code 0: training works here. 1: a required package is missing or too old, PyTorch does not work, or a folder that
must be writable is not; the last lines say which. What only an optional feature needs never counts.
"""


def run(argv: list[str]) -> int:
    """Looks, measures, prints."""
    parser = Parser(prog="mtrobust doctor", description=_DESCRIPTION)
    parser.add_argument("--json", action="store_true", help="everything as one JSON object")
    parser.add_argument(
        "--seconds", type=_seconds, default=5.0, metavar="S", help="length of the speed test; 0: none (default: 5)"
    )
    args = parser.parse(argv)
    found = examine(args.seconds)
    print(json.dumps(found, indent=2) if args.json else "\n".join(lines(found)))
    return 1 if found["problems"] else 0


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 600:
        raise argparse.ArgumentTypeError(f"{text}: must be a number of seconds from 0 to 600")
    return value


def examine(seconds: float) -> dict[str, Any]:
    """All that is known, with the `problems` that keep training from working."""
    from mtrobust.commands import machine

    packages, problems = machine.versions(), []
    for name, entry in packages.items():
        if not entry["ok"] and not entry["extras"]:
            problems.append(f"{name} {entry['version'] or 'is not installed'}: {entry['required'] or 'any'} is needed")
    found: dict[str, Any] = {"packages": packages, "features": machine.features(packages)}
    found["variables"] = {name: os.environ.get(name) for name in machine.VARIABLES}
    found |= {"caches": {}, "devices": None, "speed": None}
    try:
        found["caches"] = machine.caches()
        found["devices"] = machine.devices()
        found["speed"] = machine.speed(seconds) if seconds else None
    except Exception as error:  # whatever a broken installation raises is what is to be told
        problems.append(f"PyTorch or Transformers does not work: {type(error).__name__}: {error}")
    problems += [f"{name}: {c['path']}: cannot be written" for name, c in found["caches"].items() if not c["ok"]]
    return found | {"problems": problems}


def lines(found: dict[str, Any]) -> list[str]:
    """The report as text."""
    from mtrobust.commands.machine import VARIABLES

    needed = {name: entry for name, entry in found["packages"].items() if not entry["extras"]}
    told = ["packages", "  " + ", ".join(f"{name} {e['version'] or '-'}" for name, e in needed.items())]
    if found["devices"]:
        cpu, others = found["devices"]["cpu"], found["devices"]["accelerators"]
        told += ["devices", f"  cpu: {cpu['name']}, {cpu['usable']} of {cpu['cores']} cores, {cpu['threads']} threads"]
        told += [f"  {name}" for name in others] or ["  no accelerator"]
    if found["speed"]:
        told += ["speed", *(f"  {line}" for line in _speed(found["speed"]))]
    told.append("optional features")
    for extra, entry in found["features"].items():
        lacks = ", ".join(entry["missing"])
        state = f"missing: {lacks} (pip install 'mtrobust[{extra}]')" if lacks else "there"
        told.append(f"  {extra:<9} {state} - {entry['for']}")
    told.append("environment")
    told += [f"  {name}={value} - {VARIABLES[name]}" for name, value in found["variables"].items() if value is not None]
    told += [f"  {name}: not set - {VARIABLES[name]}" for name, value in found["variables"].items() if value is None]
    told += [f"  {name}: {c['path']}{'' if c['ok'] else ' - CANNOT BE WRITTEN'}" for name, c in found["caches"].items()]
    return [*told, *([f"problem: {line}" for line in found["problems"]] or ["all that training needs is there"])]


def _speed(speed: dict[str, Any]) -> list[str]:
    known = {True: "in hardware", False: "not in hardware", None: "unknown whether in hardware"}
    return [
        f"{speed['steps_per_second']:.1f} steps/s of a tiny encoder on {speed['device']} "
        "(2 layers, width 128, 16 rows of 64 tokens)",
        f"{speed['gflops']:.0f} GFLOP/s in float32, {speed['gflops_bf16']:.0f} in bfloat16",
        f"bfloat16 {known[speed['bf16_hardware']]}, {speed['bf16_ratio']:.1f} times as fast as float32"
        + ("" if speed["bf16_ratio"] > 1.2 else ": --bf16 is not worth it here"),
    ]
