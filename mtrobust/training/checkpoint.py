"""Checkpoints on disk: written beside their place, fsynced, marked complete, then renamed; no pickle.

A checkpoint is a folder `step-N` with safetensors files, `state.json` and the marker `COMPLETE`, which lists the other
files with their sizes. A process may die at any moment: what it leaves is either a whole checkpoint or a folder that
`last_complete` passes over.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mtrobust.errors import RunError, UserError
from mtrobust.files import usual_permissions

log = logging.getLogger(__name__)

COMPLETE, STATE = "COMPLETE", "state.json"
Tensors = Mapping[str, Mapping[str, Tensor]]  # file name without its suffix -> tensors by name


def save_checkpoint(folder: Path, step: int, tensors: Tensors, state: Mapping[str, Any]) -> Path:
    """Writes `folder/step-<step>`, in place of an earlier one, and points `last` to it.

    Raises `RunError` when the disk is full or the folder cannot be written; earlier checkpoints are untouched then.
    """
    final, temporary = folder / f"step-{step}", folder / f".tmp-step-{step}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        for name, content in tensors.items():
            save_file(
                {key: value.detach().contiguous() for key, value in content.items()}, temporary / f"{name}.safetensors"
            )
        (temporary / STATE).write_text(json.dumps(state), encoding="utf-8", newline="\n")
        usual_permissions(temporary)
        files = sorted(temporary.iterdir())
        for file in files:
            _sync(file)
        marker = {file.name: file.stat().st_size for file in files}
        (temporary / COMPLETE).write_text(json.dumps(marker), encoding="utf-8", newline="\n")
        _sync(temporary / COMPLETE)
        _sync(temporary)
        _replace(temporary, final)
        point(folder, "last", final)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise RunError(_cannot_write(folder, step, tensors, error)) from error
    return final


def _cannot_write(folder: Path, step: int, tensors: Tensors, error: Exception) -> str:
    size = sum(t.numel() * t.element_size() for content in tensors.values() for t in content.values()) / 2**20
    good = last_complete(folder, quiet=True)
    rest = (
        f"the last complete one is {good}; free space there, then go on with --resume" if good else "there is none yet"
    )
    return f"{folder / f'step-{step}'}: the checkpoint ({size:.0f} MiB) could not be written: {error}; {rest}"


def _replace(temporary: Path, final: Path) -> None:
    """Renames; an earlier folder of that name steps aside first, since a rename onto a full folder fails."""
    if final.exists():
        old = final.with_name(f".old-{final.name}")
        shutil.rmtree(old, ignore_errors=True)
        os.rename(final, old)
        os.rename(temporary, final)
        shutil.rmtree(old, ignore_errors=True)
    else:
        os.rename(temporary, final)
    _sync(final.parent)


def _sync(path: Path) -> None:
    """Forces a file's or a folder's content to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def point(folder: Path, name: str, target: Path) -> None:
    """Makes `folder/name` a link to a checkpoint beside it, in one step."""
    link = folder / f".{name}"
    link.unlink(missing_ok=True)
    link.symlink_to(target.name)
    os.replace(link, folder / name)


def fault(path: Path) -> str | None:
    """Why a checkpoint is not whole; None when it is."""
    try:
        sizes = json.loads((path / COMPLETE).read_text(encoding="utf-8"))
        for name, size in sizes.items():
            if (path / name).stat().st_size != size:
                return f"{name} has {(path / name).stat().st_size} bytes instead of {size}"
        return None if STATE in sizes else f"{STATE} is not listed"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, AttributeError) as error:
        return f"{COMPLETE} cannot be read ({error})"


def steps(folder: Path) -> list[Path]:
    """All `step-N` folders, whole or not, by ascending N."""
    if not folder.is_dir():
        return []
    named = [(re.fullmatch(r"step-(\d+)", path.name), path) for path in folder.iterdir()]
    return [path for _, path in sorted((int(match[1]), path) for match, path in named if match)]


def last_complete(folder: Path, quiet: bool = False) -> Path | None:
    """The latest whole checkpoint; damaged ones after it are passed over with a warning."""
    for path in reversed(steps(folder)):
        reason = fault(path)
        if reason is None:
            return path
        if not quiet:
            log.warning("%s: incomplete, passed over (%s)", path, reason)
    return None


def load_checkpoint(path: Path, needed: Iterable[str] = ()) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """(tensors by file name without suffix, state). Raises `UserError` when a file cannot be read, or the state lacks
    one of the needed keys."""
    try:
        state = json.loads((path / STATE).read_text(encoding="utf-8"))
        absent = [key for key in needed if key not in state] if isinstance(state, dict) else ["contents"]
        if absent:
            raise ValueError(f"{STATE} has no {', '.join(absent)}")
        return {file.stem: load_file(file) for file in sorted(path.glob("*.safetensors"))}, state
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be read ({error}); remove this folder to go on from the one before") from error


def prune(folder: Path, keep: int, protected: Iterable[str] = ()) -> None:
    """Removes all but the latest `keep` checkpoints and the protected names, and what dead processes left behind."""
    found = [path for path in steps(folder) if path.name not in set(protected)]
    leftovers = [*folder.glob(".tmp-step-*"), *folder.glob(".old-step-*")]
    for path in [*found[:-keep], *leftovers]:
        # Renamed first: a folder that is half removed must not look like a checkpoint.
        doomed = path.with_name(f".old-{path.name.lstrip('.')}")
        if doomed != path:
            os.rename(path, doomed)
        shutil.rmtree(doomed, ignore_errors=True)
