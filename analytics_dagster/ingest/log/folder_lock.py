"""One writer a folder: a lock that the kernel lets go of when its process dies, with the holder's number to be read."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
import weakref
from pathlib import Path

from analytics_dagster.errors import BusyError

_NAME = "writer.lock"
_LOOK_AGAIN_SECONDS = 0.02


class FolderLock:
    """A held lock on a writer's folder. Get one with `acquire`."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor
        _HELD.add(self)

    def release(self) -> None:
        """Let go; a second call does nothing."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        _HELD.discard(self)


_HELD: weakref.WeakSet[FolderLock] = weakref.WeakSet()


def acquire(folder: Path, *, patience: float, writer: bool = True) -> FolderLock:
    """Lock `folder` for writing, or for mending what a dead writer left (`writer=False`, which leaves no number behind).

    Whoever mends holds it for milliseconds, so a writer waits `patience` seconds. Raises BusyError naming the holder.
    """
    descriptor = os.open(folder / _NAME, os.O_RDWR | os.O_CREAT, 0o666)
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() >= deadline:
                holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "(unknown)"
                os.close(descriptor)
                raise BusyError(
                    f"the log {folder} is being written by process {holder}; stop it first, or use another home (--home)"
                ) from None
            time.sleep(_LOOK_AGAIN_SECONDS)
    if writer:
        # On a full disk the number is not to be had, but the lock is.
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return FolderLock(descriptor)


def holder(folder: Path) -> int | None:
    """The process that writes to `folder` now, None when none does."""
    try:
        descriptor = os.open(folder / _NAME, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except BlockingIOError:
        text = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
        return int(text) if text.isdigit() else None
    finally:
        os.close(descriptor)


def _let_go_in_child() -> None:
    # A forked child shares the lock: left open there, it would outlive the writer's death for as long as the child runs.
    for lock in list(_HELD):
        lock.release()


os.register_at_fork(after_in_child=_let_go_in_child)
