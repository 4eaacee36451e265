"""The writing end of one folder's stream: commits become frames of the current segment and are durable when `commit` returns.

The order that must hold: frames, sync, mark. Readers look no further than the mark, so they see nothing whose commit failed;
and after a failed commit nothing more goes into that file: the next segment's header says where it ends.
"""

from __future__ import annotations

import contextlib
import logging
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from analytics_dagster.clock import Clock
from analytics_dagster.ingest.log.payloads import SeriesNumbers, encode_plays, with_origin
from analytics_dagster.ingest.log.recovery import recover
from analytics_dagster.ingest.log.segments import (
    COMMITTED,
    HEADER_BYTES,
    FrameHeader,
    Kind,
    Mark,
    MarkWriter,
    SegmentHeader,
    padded,
    remove_unfinished,
    segment_path,
    sync_folder,
    unfinished_path,
)
from analytics_dagster.ingest.points import Plays, Points

_LOG = logging.getLogger(__name__)
# Without times: a segment's growth is waited for, its last change is not. Absent on macOS.
_sync_data = getattr(os, "fdatasync", os.fsync)
_MOST_ZEROS = 2**20


class SegmentFile(Protocol):
    """The file of a segment, as the stream uses it; tests put failing ones in its place."""

    def write(self, buffers: Sequence[bytes | pa.Buffer], offset: int) -> None:
        """Write all of `buffers` at `offset`."""
        ...

    def sync(self) -> None:
        """Wait until what was written is on the disk."""
        ...

    def truncate(self, size: int) -> None:
        """Cut the file."""
        ...

    def close(self) -> None:
        """Let go of the file."""
        ...


class Disk:
    """Makes segment files that lie on a real disk."""

    def create(self, path: Path) -> SegmentFile:
        """A new, empty file. Raises OSError, FileExistsError too."""
        return _DiskFile(path)


class _DiskFile:
    """A segment with zeros ahead of what is written: a sync that only overwrites need not wait for the file system's journal,
    in which those of several writers queue up. While a segment is small they are few, so who writes little lays none to speak of.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        self._written = self._filled = 0

    def write(self, buffers: Sequence[bytes | pa.Buffer], offset: int) -> None:
        rest = [memoryview(buffer).cast("B") for buffer in buffers]
        end = offset + sum(map(len, rest))
        if end > self._filled:
            self._fill(end)
        self._written = end
        while rest:
            written = os.pwritev(self._descriptor, rest, offset)
            offset += written
            while rest and written >= len(rest[0]):
                written -= len(rest.pop(0))
            if rest:
                rest[0] = rest[0][written:]

    def sync(self) -> None:
        _sync_data(self._descriptor)

    def truncate(self, size: int) -> None:
        os.ftruncate(self._descriptor, size)
        self._written = self._filled = size

    def close(self) -> None:
        try:
            if self._filled > self._written:
                os.ftruncate(self._descriptor, self._written)
        finally:
            os.close(self._descriptor)

    def _fill(self, start: int) -> None:
        # A disk without room for the zeros may have it for what counts.
        with contextlib.suppress(OSError):
            self._filled = start + os.pwrite(self._descriptor, bytes(min(start, _MOST_ZEROS)), start)


class Stream:
    """Appends commits to a folder. For one thread, and only under the folder's lock."""

    def __init__(self, folder: Path, clock: Clock, segment_bytes: int, disk: Disk) -> None:
        self._folder, self._clock, self._segment_bytes, self._disk = folder, clock, segment_bytes, disk
        self._mark = Mark(folder / COMMITTED)
        tail = recover(folder)
        self.end = tail.end
        """Position of the newest durable batch, 0 for none."""
        # A new folder does not begin at 0: should somebody delete the log but keep the lake, positions still rise.
        self._floor = tail.floor or max(1, _micros(clock)) * 1_000
        self._file: SegmentFile | None = None
        self._marking: MarkWriter | None = None
        self._base = self._next = 0
        self._definitions = 0
        self._series = SeriesNumbers()
        # On a full disk the writer comes up all the same, and begins when there is room.
        self.mend()

    def commit(self, points: Sequence[Points], plays: Sequence[Plays]) -> int:
        """Make one commit durable, and give its bytes. Raises OSError; then nothing of it is ever read."""
        if self._file is None or self._next - self._base >= self._segment_bytes:
            self._begin()
        assert self._file is not None
        start = self._next
        try:
            buffers, end, definitions = self._frames(points, plays)
            self._file.write(buffers, start - self._base)
            self._file.sync()
        except BaseException:
            # Also when it was no disk's fault: series numbers may have been given out that no frame defines.
            self._abandon()
            raise
        self.end = self._next = end
        self._definitions = definitions
        self._publish()
        return end - start

    @property
    def broken(self) -> bool:
        """Whether a commit failed and the next segment, which cuts it off for good, could not be begun."""
        return self._file is None

    def mend(self) -> None:
        """Begin that segment now, if the disk lets us."""
        with contextlib.suppress(OSError):
            self._begin()

    def close(self) -> None:
        """Let go of the segment's file. It keeps its name; the next writer begins another."""
        if self.broken:
            self.mend()
        self._close_file()

    def _close_file(self) -> None:
        file, self._file = self._file, None
        marking, self._marking = self._marking, None
        for opened in (file, marking):
            if opened is not None:
                # All that counts in it was synced, so what closing has to say changes nothing.
                with contextlib.suppress(OSError):
                    opened.close()

    def _frames(self, points: Sequence[Points], plays: Sequence[Plays]) -> tuple[list[bytes | pa.Buffer], int, int]:
        buffers: list[bytes | pa.Buffer] = []
        before = end = self._next
        definitions = self._definitions
        written = _micros(self._clock)

        def add(kind: Kind, rows: int, payload: pa.Buffer) -> None:
            nonlocal end, definitions
            size = len(payload)
            frame = FrameHeader(end, size, before, definitions, written, rows, kind, zlib.crc32(payload))
            buffers.extend([frame.pack(), payload])
            if padded(size) > size:
                buffers.append(bytes(padded(size) - size))
            end, definitions = frame.end, end if kind is Kind.SERIES else definitions

        # A frame for all that are only points, and one for each request whose rows must be known again.
        for group in ([p for p in points if p.origin is None], *([p] for p in points if p.origin is not None)):
            if not group:
                continue
            series, new, rows = self._series.encode(group)
            if series is not None:
                add(Kind.SERIES, new, series)
            if group[0].origin is None:
                add(Kind.POINTS, sum(map(len, group)), rows)
            else:
                add(Kind.ORIGINAL_POINTS, len(group[0]), with_origin(group[0].origin, rows))
        if plays:
            add(Kind.PLAYS, sum(map(len, plays)), encode_plays(plays))
        return buffers, end, definitions

    def _begin(self) -> None:
        """Begin a segment behind what is committed. Its name is durable before anything is written to it."""
        self._close_file()
        base = max(self.end, self._floor)
        remove_unfinished(self._folder)
        path = unfinished_path(self._folder, base)
        file = self._disk.create(path)
        try:
            file.write([SegmentHeader(base, self.end, _micros(self._clock)).pack()], 0)
            file.sync()
            # Only a segment that never got a frame can bear this name already. It goes: a sync of it may have failed.
            path.replace(segment_path(self._folder, base))
            sync_folder(self._folder)
        except BaseException:
            file.close()
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
            raise
        self._file, self._base, self._next = file, base, base + HEADER_BYTES
        self._definitions, self._series = 0, SeriesNumbers()
        self._publish()

    def _abandon(self) -> None:
        """After a failed commit: cut it off twice, in its file and by beginning a segment that says where the stream goes on.

        A sync that failed is never tried again on the same file: the kernel may have dropped the pages and would report success.
        Should both fail, as on a disk that is gone, the mark still hides it from readers for as long as this process lives, and
        `mend` tries again.
        """
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.truncate(self._next - self._base)
        self._close_file()
        self.mend()

    def _publish(self) -> None:
        try:
            if self._marking is None:
                self._marking = self._mark.writing()
            self._marking.write(self.end)
        except OSError as error:
            # What is durable stays acknowledged; readers see it with the next mark.
            _LOG.warning("%s: the committed mark could not be written: %s", self._folder, error)


def _micros(clock: Clock) -> int:
    return int(clock.now().timestamp() * 1_000_000)
