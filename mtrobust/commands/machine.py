"""What a machine and an installation can do: versions, devices, precision, speed, caches."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from mtrobust.files import refusal

PACKAGE = "mtrobust"
FEATURES = {  # extra -> what it is for; an extra that is not named here is shown by its name
    "plot": "plots of `mtrobust report` and `mtrobust analyze`",
    "seqlabel": "entity-level scores of token labels",
    "lora": "training low-rank adapters instead of all weights",
    "docs": "building the documentation",
    "dev": "running the tests",
}
VARIABLES = {
    "HF_HOME": "where models and data sets from the hub are kept",
    "HF_HUB_OFFLINE": "1: nothing is asked of the hub",
    "CUDA_VISIBLE_DEVICES": "which CUDA devices are used",
    "OMP_NUM_THREADS": "threads of one operation on the CPU",
    "TOKENIZERS_PARALLELISM": "whether tokenizers use several threads",
    "MTROBUST_DATA": "tests: benchmark files",
    "MTROBUST_MODELS": "tests: a real encoder",
    "MTROBUST_GOLDEN": "tests: recorded reference cases",
}


def versions() -> dict[str, dict[str, Any]]:
    """Of Python and of every package that is required or belongs to an extra: `version` (None: not installed), what
    is `required`, whether that is met (`ok`), and the `extras` it is for (none: always needed)."""
    from packaging.requirements import Requirement

    found: dict[str, dict[str, Any]] = {"python": _entry(platform.python_version(), ">=3.11", True, [])}
    try:
        found[PACKAGE] = _entry(importlib.metadata.version(PACKAGE), "", True, [])
        wanted = importlib.metadata.requires(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:  # run from a checkout on the path
        found[PACKAGE] = _entry(None, "", True, [])
        wanted = []
    for text in wanted:
        requirement = Requirement(text)
        extra = re.search(r"extra == [\"']([^\"']+)", text)
        version = _installed(requirement.name)
        met = version is not None and requirement.specifier.contains(version, prereleases=True)
        entry = found.setdefault(requirement.name, _entry(version, str(requirement.specifier), met, []))
        entry["ok"] = entry["ok"] and met
        entry["extras"] += [extra[1]] if extra else ["always"]
    for entry in found.values():
        entry["extras"] = [] if "always" in entry["extras"] else entry["extras"]
    return found


def _entry(version: str | None, required: str, ok: bool, extras: list[str]) -> dict[str, Any]:
    return {"version": version, "required": required, "ok": ok, "extras": extras}


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def features(packages: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Of every extra: what it is `for`, and what is `missing` of it."""
    extras = dict.fromkeys(extra for entry in packages.values() for extra in entry["extras"])
    return {
        extra: {
            "for": FEATURES.get(extra, extra),
            "missing": [name for name, e in packages.items() if extra in e["extras"] and not e["ok"]],
        }
        for extra in extras
    }


def caches() -> dict[str, dict[str, Any]]:
    """Folders that must be writable: `path`, `ok`."""
    from huggingface_hub.constants import HF_HUB_CACHE

    places = {"models from the hub": Path(HF_HUB_CACHE), "temporary files": Path(tempfile.gettempdir())}
    return {name: {"path": str(path), "ok": refusal(path) is None} for name, path in places.items()}


def devices() -> dict[str, Any]:
    """`cpu` (name, cores, cores that this process may use, threads of an operation) and `accelerators`."""
    import torch

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cpu = {"name": _cpu_name(), "cores": os.cpu_count(), "usable": usable, "threads": torch.get_num_threads()}
    kind = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    count = torch.accelerator.device_count() if kind is not None else 0
    named = torch.cuda.get_device_name if kind is not None and kind.type == "cuda" else lambda number: ""
    return {"cpu": cpu, "accelerators": [f"{kind}:{i} {named(i)}".strip() for i in range(count)]}


def _cpu_name() -> str:
    return _cpu_info("model name") or platform.processor() or platform.machine()


def _cpu_info(key: str) -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            return next((line.partition(":")[2].strip() for line in file if line.startswith(key)), "")
    except OSError:
        return ""


def bf16_hardware(device: str) -> bool | None:
    """Whether a device multiplies bfloat16 matrices by itself; None where that cannot be told."""
    import torch

    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    flags = _cpu_info("flags").split() if device == "cpu" else []
    return bool({"avx512_bf16", "amx_bf16"} & set(flags)) if flags else None


def speed(seconds: float) -> dict[str, Any]:
    """Measures for about so long, on the device that training would use: steps a second of a tiny encoder, GFLOP/s of a
    matrix product in float32 and bfloat16, and how many times faster the latter is."""
    import torch

    kind = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    device = torch.device(kind.type if kind is not None else "cpu")
    wait = (lambda: None) if device.type == "cpu" else torch.accelerator.synchronize
    size = 512 if device.type == "cpu" else 4096
    pairs = [torch.randn(2, size, size, device=device).to(dtype) for dtype in (torch.float32, torch.bfloat16)]
    products = [lambda a=a, b=b: a @ b for a, b in pairs]
    plain, half = (2 * size**3 * rate / 1e9 for rate in rates(products, wait, seconds / 2))
    (steps,) = rates([_tiny_step(device)], wait, seconds / 2)
    return {
        "device": str(device),
        "steps_per_second": steps,
        "gflops": plain,
        "gflops_bf16": half,
        "bf16_ratio": half / plain,
        "bf16_hardware": bf16_hardware(device.type),
    }


def rates(works: Sequence[Callable[[], object]], wait: Callable[[], object], seconds: float) -> list[float]:
    """Calls a second of each: 1 / the median time. They take turns, for so many seconds, after a first call of each."""
    for work in works:
        work()
        wait()
    taken: list[list[float]] = [[] for _ in works]
    until = time.perf_counter() + seconds
    while not taken[0] or time.perf_counter() < until:
        for work, times in zip(works, taken, strict=True):
            start = time.perf_counter()
            work()
            wait()
            times.append(time.perf_counter() - start)
    return [1 / median(times) for times in taken]


def _tiny_step(device: Any) -> Callable[[], object]:
    """A training step of a BERT of two layers and width 128, on 16 rows of 64 tokens."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(hidden_size=128, num_hidden_layers=2, num_attention_heads=2, intermediate_size=512)
    model = BertForSequenceClassification(config).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    ids = torch.randint(100, config.vocab_size, (16, 64), device=device)
    labels = torch.zeros(16, dtype=torch.long, device=device)

    def step() -> None:
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step
