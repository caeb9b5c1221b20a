"""Files that appear whole: written under another name in their folder, with the permissions that the umask gives.
Whether they can appear at all is said before the work that they are to hold."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


@contextmanager
def atomic_file(path: Path, binary: bool = False) -> Iterator[IO[Any]]:
    """A file to write to, UTF-8 text or binary, that appears under its name only when the block ends well; folders are
    made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    text = {} if binary else {"encoding": "utf-8", "newline": "\n"}
    try:
        with os.fdopen(handle, "wb" if binary else "w", **text) as file:  # type: ignore[call-overload]
            yield file
            file.flush()
            os.fsync(file.fileno())
        usual_permissions(Path(name))
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def refusal(folder: Path) -> str | None:
    """Why nothing can be written into a folder that is there or would have to be made; None where it can be.

    Tried in the nearest folder that is there, since permissions alone do not say. Nothing is left behind and no folder
    made, so that several processes may ask at once.
    """
    there = folder
    try:
        while not _stands(there):
            there = there.parent
        with tempfile.TemporaryFile(dir=there):
            return None
    except OSError as error:
        return f"{there}: {error.strerror or error}"


def _stands(path: Path) -> bool:
    """Whether something has this name. Raises `OSError` for names that cannot be, such as too long ones."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return path == path.parent
    return True


def folder_faults(place: str, folder: Path) -> list[str]:
    """The fault, if there is one, of a folder that is to be written into. place: the flag or key that names it."""
    if os.path.isfile(folder):
        return [f"{place}: {folder}: is a file; name a folder"]
    reason = refusal(folder)
    return [f"{place}: {folder}: cannot be written: {reason}"] if reason else []


def output_faults(place: str, target: Path, source: Path) -> list[str]:
    """The fault, if there is one, of a file that is to be written from another one."""
    if os.path.isdir(target):
        return [f"{place}: {target} is a folder; name a file"]
    reason = refusal(target.parent)
    if reason:
        return [f"{place}: {target}: cannot be written: {reason}"]
    if os.path.exists(target) and os.path.exists(source) and target.samefile(source):
        return [f"{place}: {target} is the input; name another file"]
    return []


def usual_permissions(path: Path) -> None:
    """Gives a file, or a folder and all in it, the permissions of a new one: temporary files, and those that
    safetensors writes, can be read by their owner alone."""
    mask = os.umask(0)
    os.umask(mask)
    for found in (path, *path.rglob("*")) if path.is_dir() else (path,):
        found.chmod((0o777 if found.is_dir() else 0o666) & ~mask)
