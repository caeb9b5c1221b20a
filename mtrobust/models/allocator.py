"""What glibc's allocator does with freed memory, for steps that ask for the same large blocks again and again.

By default glibc hands large blocks back to the system when they are freed, and the system clears every page of the
next one: on the CPU an eighth of a training step went into that (docs/performance.md). Kept blocks are used again as
they are. The numbers stay the same; the process holds on to the most that it has needed so far.
"""

from __future__ import annotations

import ctypes
import os
import platform

# of malloc.h
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_GROWTH = 64 << 20  # bytes by which the heap grows at least


def keep_freed_memory() -> bool:
    """Freed memory stays with the process from now on. Returns whether that was set: not on systems without glibc, nor
    where the user has set its allocator up (`GLIBC_TUNABLES`, a `MALLOC_…_` variable)."""
    own = any(name == "GLIBC_TUNABLES" or (name.startswith("MALLOC_") and name.endswith("_")) for name in os.environ)
    if own or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1), (_TOP_PAD, _GROWTH))  # -1: never trimmed
    return mallopt is not None and all([mallopt(name, value) == 1 for name, value in settings])
