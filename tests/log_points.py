"""What the log's tests share: points that are told by their value, and disks that fail when told to."""

from __future__ import annotations

import datetime as dt
import errno
import os
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pyarrow as pa

from analytics_dagster.clock import Clock, SystemClock
from analytics_dagster.ingest.log.embedded import EmbeddedLog
from analytics_dagster.ingest.log.source import FolderSource
from analytics_dagster.ingest.log.stream import Disk, SegmentFile
from analytics_dagster.ingest.points import PLAY_ROWS, Plays, Points, SeriesTable

FIRST_US = 1_767_225_600_000_000  # 2026-01-01
TABLE = SeriesTable()
# Without a limit in its way, and long enough for the busiest machine.
SECONDS = 60


def points(*values: float, tenant: str = "default", labels: str = "{}", table: SeriesTable = TABLE) -> Points:
    """One point for each value, all of one series."""
    series = table.number(tenant, "gauge", "temperature", labels)
    times = FIRST_US + np.array(values).astype(np.int64)
    return Points(table, np.full(len(values), series, np.int32), times, np.array(values, np.float64))


def plays(*ids: str, tenant: str = "default") -> Plays:
    """One play for each id."""
    filled = {"tenant": tenant, "ts": pa.scalar(FIRST_US, PLAY_ROWS.field("ts").type), "format": "test"}
    rows = [{"play_id": play, **filled} for play in ids]
    return Plays(pa.Table.from_pylist(rows, schema=PLAY_ROWS))


def open_folder(folder: Path, clock: Clock | None = None, disk: Disk | None = None, **limits: int) -> EmbeddedLog:
    """A log with room for all that a test appends."""
    given = {"segment_bytes": 2**20, "max_bytes": 2**30, **limits}
    return EmbeddedLog(folder, clock or SystemClock(), disk=disk, **given)


def source(folder: Path, clock: Clock | None = None, retention: float = 0) -> FolderSource:
    """Its reading end."""
    return FolderSource(folder, clock or SystemClock(), dt.timedelta(seconds=retention))


def done(*futures: Future[None]) -> None:
    """Wait until all are durable."""
    for future in futures:
        future.result(SECONDS)


def values(reader: FolderSource, after: int = 0) -> list[float]:
    """The values of all points behind `after`, in order."""
    return [value for batch in reader.read(after, 10**9) if batch.table == "metrics" for value in batch.rows["value"].to_pylist()]


def positions(reader: FolderSource) -> list[int]:
    """The positions of all batches."""
    return [batch.position for batch in reader.read(0, 10**9)]


def segments(folder: Path) -> list[Path]:
    """The segment files, oldest first."""
    return sorted(folder.glob("*.segment"))


class FailingDisk(Disk):
    """A real disk until `fail` is set: then writes stop half way, syncs or new files fail, each with that error."""

    def __init__(self) -> None:
        self.fail: str | None = None
        self.error = errno.ENOSPC
        self.syncs_after_failure: list[str] = []

    def create(self, path: Path) -> SegmentFile:
        self.raise_when("create")
        return _FailingFile(super().create(path), self)

    def raise_when(self, call: str) -> None:
        if self.fail is not None and call in self.fail.split():
            raise OSError(self.error, os.strerror(self.error))


class _FailingFile:
    def __init__(self, file: SegmentFile, disk: FailingDisk) -> None:
        self._file, self._disk, self._failed = file, disk, False

    def write(self, buffers: Sequence[bytes | pa.Buffer], offset: int) -> None:
        if self._disk.fail is not None and "write" in self._disk.fail.split():
            data = b"".join(bytes(memoryview(buffer)) for buffer in buffers)
            self._file.write([data[: len(data) // 2]], offset)
        self._disk.raise_when("write")
        self._file.write(buffers, offset)

    def sync(self) -> None:
        if self._failed:
            self._disk.syncs_after_failure.append("sync")
        try:
            self._disk.raise_when("sync")
        except OSError:
            self._failed = True
            raise
        self._file.sync()

    def truncate(self, size: int) -> None:
        self._disk.raise_when("truncate")
        self._file.truncate(size)

    def close(self) -> None:
        self._file.close()
