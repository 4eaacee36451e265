"""How much the log may still take: what waits to be consumed, over all writers of a log root, and what the disk has free.

Both are asked before anything is accepted, so they are looked up at most a few times a second and added to in between.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from analytics_dagster.errors import IntegrityError, LogFullError
from analytics_dagster.ingest.log.segments import (
    COMMITTED,
    CONSUMED,
    HEADER_BYTES,
    Mark,
    parse_frame,
    read_header,
    segment_bases,
    segment_path,
)

_LOOK_AGAIN_SECONDS = 0.25
# Of a small disk not a whole segment, but this part stays free: the lake and the database must go on to empty the log.
_PART_KEPT_FREE = 20


@dataclass(frozen=True)
class Backlog:
    """What a folder, or all of a log root, holds. `oldest` is when the oldest unconsumed batch was committed."""

    unconsumed_bytes: int
    segments: int
    oldest: dt.datetime | None

    def __add__(self, other: Backlog) -> Backlog:
        times = [time for time in (self.oldest, other.oldest) if time is not None]
        return Backlog(
            self.unconsumed_bytes + other.unconsumed_bytes, self.segments + other.segments, min(times) if times else None
        )


def writer_folders(root: Path) -> list[Path]:
    """The writers' folders below a log root, by name."""
    return sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []


def backlog(root: Path) -> dict[str, Backlog]:
    """Every writer's backlog by source name. A few small reads a folder, whatever its size."""
    return {f"log/{folder.name}": _backlog(folder) for folder in writer_folders(root)}


def unconsumed_bytes(folder: Path) -> int:
    """Bytes committed to a folder that no consumer has released yet."""
    committed = Mark(folder / COMMITTED).read() or 0
    bases = segment_bases(folder)
    return max(0, committed - max(Mark(folder / CONSUMED).read() or 0, bases[0])) if bases else 0


def _backlog(folder: Path) -> Backlog:
    unconsumed, bases = unconsumed_bytes(folder), segment_bases(folder)
    # A segment that is released between two looks has nothing unconsumed.
    with contextlib.suppress(FileNotFoundError):
        return Backlog(unconsumed, len(bases), _oldest(folder, bases) if unconsumed else None)
    return Backlog(unconsumed, len(bases), None)


def _oldest(folder: Path, bases: list[int]) -> dt.datetime | None:
    consumed = Mark(folder / CONSUMED).read() or 0
    ends = [read_header(segment_path(folder, base)).previous_end for base in bases[1:]]
    at = next((number for number, end in enumerate(ends) if end > consumed), len(bases) - 1)
    start = max(consumed, bases[at] + HEADER_BYTES)
    with segment_path(folder, bases[at]).open("rb") as file:
        file.seek(start - bases[at])
        header = parse_frame(memoryview(file.read(HEADER_BYTES)), 0, start)
    if header is None:
        raise IntegrityError(
            f"{segment_path(folder, bases[at])} is damaged at offset {start - bases[at]}: there is no frame header"
        )
    return dt.datetime.fromtimestamp(header.written_us / 1_000_000, dt.UTC)


class Headroom:
    """Says whether a writer may accept more. Safe to call from any thread."""

    def __init__(self, folder: Path, max_bytes: int, segment_bytes: int) -> None:
        self._folder, self._max_bytes, self._segment_bytes = folder, max_bytes, segment_bytes
        self._lock = threading.Lock()
        self._looked = float("-inf")
        self._unconsumed = self._free = self._reserve = 0
        # All bytes committed through this, and how many of them the last look saw.
        self._committed = self._seen = 0

    def check(self, waiting_bytes: int) -> None:
        """Raise LogFullError unless `waiting_bytes` fit: into the log's limit and on the disk, with the reserve left free."""
        if time.monotonic() - self._looked > _LOOK_AGAIN_SECONDS:
            self._look()
        with self._lock:
            coming = self._committed - self._seen + waiting_bytes
            unconsumed, free, reserve = self._unconsumed + coming, self._free - coming, self._reserve
        if unconsumed > self._max_bytes:
            raise LogFullError(
                f"the log {self._folder.parent} has {unconsumed} bytes that wait to be consumed, and ANALYTICS_LOG_MAX_BYTES is "
                f"{self._max_bytes}: try again when they are; nothing was accepted"
            )
        if free < reserve:
            raise LogFullError(
                f"the disk of {self._folder} has {max(0, self._free)} bytes free, and the log keeps {reserve}: free some; "
                "nothing was accepted"
            )

    def add(self, committed_bytes: int) -> None:
        """Count what was committed since the last look."""
        with self._lock:
            self._committed += committed_bytes

    def look_ahead(self) -> None:
        """Look before a `check` has to, in the thread that commits: those who append wait for nothing then."""
        if time.monotonic() - self._looked > _LOOK_AGAIN_SECONDS / 2:
            with contextlib.suppress(OSError):  # the next check looks again, and says it
                self._look()

    def _look(self) -> None:
        # What is committed while this looks may be in it or not: it counts.
        committed = self._committed
        disk = os.statvfs(self._folder)
        unconsumed = sum(unconsumed_bytes(folder) for folder in writer_folders(self._folder.parent))
        with self._lock:
            self._free = disk.f_bavail * disk.f_frsize
            self._reserve = min(self._segment_bytes, disk.f_blocks * disk.f_frsize // _PART_KEPT_FREE)
            self._unconsumed = unconsumed
            self._seen = committed
            self._looked = time.monotonic()
