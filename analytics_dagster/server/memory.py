"""What a process of the server does with memory that it does not need now: workers keep it, the consumer gives it back.

A worker needs the same megabytes for the next body that it needed for this one; returned to the kernel they come back as page
faults, which took a third of the time that a body of 10,000 rows takes. The consumer needs much memory for a second, then none
for ten, and its threads leave holes in what they share, so without this it grows for hours.

The C library's settings are glibc's (mallopt(3)). Elsewhere they are not there, and all of this only costs what is said above.
"""

from __future__ import annotations

import ctypes
import gc
import sys

# From malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
# What a large body and its copies take. glibc takes no threshold for mmap above 32 MiB.
_KEPT_BYTES, _KEPT_AT_ONCE = 64 * 2**20, 32 * 2**20
_GIVEN_BACK_BYTES = 128 * 2**10
# One for the thread that waits, one for those that work.
_ARENAS = 2


def keep_freed_memory() -> list[bytes]:
    """For a worker. What is returned keeps memory with the process for as long as it is held."""
    _mallopt(_M_MMAP_THRESHOLD, _KEPT_AT_ONCE)
    _mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
    return _kept_arenas()


def give_back_freed_memory() -> None:
    """For the process that consumes, before its first thread: freed memory goes to the kernel, from Arrow's columns too."""
    import pyarrow as pa

    _mallopt(_M_MMAP_THRESHOLD, _GIVEN_BACK_BYTES)
    _mallopt(_M_TRIM_THRESHOLD, _GIVEN_BACK_BYTES)
    _mallopt(_M_ARENA_MAX, _ARENAS)
    # Arrow's own allocators hold what one thread freed until that thread asks again.
    pa.set_memory_pool(pa.system_memory_pool())


def tune_garbage_collection() -> None:
    """What is open now stays: the collector need not look at it again, and what requests leave behind has few cycles.

    With Python's default thresholds a batch of 10,000 rows is walked several times while it is parsed (a third of its time).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)


def _mallopt(parameter: int, value: int) -> None:
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(parameter, value)


def _kept_arenas(size: int = 32 * 2**20) -> list[bytes]:
    """Objects that keep `size` bytes of memory for small objects with the process, for as long as they are held.

    CPython gives an arena of 1 MiB back to the kernel as soon as nothing is in it, so the rows of each large body would be
    made in fresh pages. Some objects in each arena hold it.
    """
    block = 448  # a size class of its own, and of few other objects
    blocks = [bytes(block - sys.getsizeof(b"")) for _ in range(size // block)]
    return blocks[:: 2**20 // block // 4]
