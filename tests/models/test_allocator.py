"""Freed memory is used again, not asked for anew; a user's own settings stay."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator alone is set up")

# Page faults of twenty blocks of 48 MiB, each written and freed before the next; the first one is not counted.
SCRIPT = """
import ctypes, resource, sys
from mtrobust.models.allocator import keep_freed_memory
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
size = 48 << 20
def once():
    block = libc.malloc(size); ctypes.memset(block, 1, size); libc.free(block)
done = keep_freed_memory() if sys.argv[1] == "keep" else None
once()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20): once()
print(done, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode: str, **environment: str) -> tuple[str, int]:
    command = [sys.executable, "-c", SCRIPT, mode]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={"PATH": "", **environment})
    said, count = done.stdout.split()
    return said, int(count)


def test_kept_memory_is_not_cleared_by_the_system_again():
    assert faults("plain")[1] > 20 * 1000
    said, count = faults("keep")
    assert said == "True" and count < 1000


@pytest.mark.parametrize("name", ["GLIBC_TUNABLES", "MALLOC_ARENA_MAX_"])
def test_an_allocator_that_the_user_has_set_up_is_left_alone(name: str):
    said, count = faults("keep", **{name: "glibc.malloc.arena_max=2" if name == "GLIBC_TUNABLES" else "2"})
    assert said == "False" and count > 20 * 1000
