"""Files that appear whole: written under another name in their folder, with the permissions that the umask gives."""

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


def usual_permissions(path: Path) -> None:
    """Gives a file, or a folder and all in it, the permissions of a new one: temporary files, and those that
    safetensors writes, can be read by their owner alone."""
    mask = os.umask(0)
    os.umask(mask)
    for found in (path, *path.rglob("*")) if path.is_dir() else (path,):
        found.chmod((0o777 if found.is_dir() else 0o666) & ~mask)
