"""The reading end of one writer's folder: whole committed batches behind a position, in any process, while it is written.

Nothing beyond the committed mark is read. What a writer that died left beyond it is settled first, as the next writer would.
Files are read, not mapped: of a bad disk a read gets an error where a mapping kills the process.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import threading
import zlib
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pyarrow as pa

from analytics_dagster.clock import Clock
from analytics_dagster.errors import BusyError, IntegrityError
from analytics_dagster.ingest.log.folder_lock import acquire
from analytics_dagster.ingest.log.interface import PLAYS, POINTS, Batch
from analytics_dagster.ingest.log.payloads import SegmentSeries, decode_plays, split_origin
from analytics_dagster.ingest.log.recovery import recover
from analytics_dagster.ingest.log.segments import (
    COMMITTED,
    CONSUMED,
    HEADER_BYTES,
    WRITE_OFF,
    FrameHeader,
    Kind,
    Mark,
    SegmentHeader,
    parse_frame,
    read_header,
    segment_bases,
    segment_path,
    sync_folder,
    unfinished_path,
)

# A read brings in this much at once; a larger frame is read whole.
_WINDOW_BYTES = 4 * 2**20
# A listing that is overtaken by a release is made anew; more than this is something else.
_LOOKS = 10


@dataclass(frozen=True)
class _Span:
    """What of one segment is to be read: [start, end) of the stream."""

    path: Path
    base: int
    start: int
    end: int


class FolderSource:
    """Implements LogSource over a folder. Safe to use from several threads; each `read` stands for itself."""

    def __init__(self, folder: Path, clock: Clock, retention: dt.timedelta) -> None:
        self._folder, self._clock, self._retention = folder, clock, retention
        self._committed = Mark(folder / COMMITTED)
        self._consumed = Mark(folder / CONSUMED)
        # The segment read last: going on in it needs no look at what it named before.
        self._series: tuple[int, SegmentSeries] = (-1, SegmentSeries())
        self._one_at_a_time = threading.Lock()

    @property
    def name(self) -> str:
        """Identity for ever: `log/server-0`."""
        return f"log/{self._folder.name}"

    def end(self) -> int:
        """Position of the newest durable batch, 0 for none."""
        return self._settled_end()

    def read(self, after: int, max_rows: int) -> Iterator[Batch]:
        """Whole batches behind `after`, oldest first, until about `max_rows` rows are given.

        Raises IntegrityError naming file and offset where committed bytes are damaged or missing; never skips any.
        """
        given = 0
        while given < max_rows and (span := self._next_span(after)) is not None:
            while given < max_rows and after < span.end:
                try:
                    batches, after = self._window(span, max(after, span.start))
                except FileNotFoundError:
                    break  # released meanwhile, so consumed; look again
                for batch in batches:
                    yield batch
                    given += batch.rows.num_rows
                    if given >= max_rows:
                        return

    def release(self, through: int) -> None:
        """Note that everything up to `through` is consumed; delete segments that wholly are and are past the retention.

        A file's age is its last change against `clock`. One that seems to lie in the future by more than the retention counts as
        old too: a clock that was stepped back must not keep files for ever.
        """
        through = max(through, self._consumed.read() or 0)
        # First on disk: readers take what is deleted without being noted here for lost.
        self._consumed.write(through, durable=True)
        bases = segment_bases(self._folder)
        for base, following in pairwise(bases):
            if read_header(segment_path(self._folder, following)).previous_end > through or not self._expired(base):
                return
            segment_path(self._folder, base).unlink(missing_ok=True)
        if bases and self._expired(bases[-1]):
            self._empty_unless_written(through)

    def _expired(self, base: int) -> bool:
        try:
            changed = segment_path(self._folder, base).stat().st_mtime
        except FileNotFoundError:
            return True
        return abs(self._clock.now().timestamp() - changed) >= self._retention.total_seconds()

    def _empty_unless_written(self, through: int) -> None:
        """Replace the last segment of a writer that is gone by an empty one, whose name keeps the position for the next."""
        with contextlib.suppress(BusyError), _held(self._folder):
            tail = recover(self._folder)
            bases = segment_bases(self._folder)
            if not bases or tail.end > through or bases[-1] >= tail.end:
                return
            header = SegmentHeader(tail.floor, tail.end, int(self._clock.now().timestamp() * 1_000_000))
            path = unfinished_path(self._folder, tail.floor)
            with path.open("wb") as file:
                file.write(header.pack())
                file.flush()
                os.fsync(file.fileno())
            path.replace(segment_path(self._folder, tail.floor))
            sync_folder(self._folder)
            for base in bases:
                segment_path(self._folder, base).unlink(missing_ok=True)

    def _settled_end(self) -> int:
        committed = self._committed.read()
        bases = segment_bases(self._folder)
        if not bases:
            return committed or 0
        with contextlib.suppress(FileNotFoundError):
            size = segment_path(self._folder, bases[-1]).stat().st_size
            if committed is None or bases[-1] + size > max(committed, bases[-1] + HEADER_BYTES):
                # Either a commit is under way, and the writer has the lock, or its writer is gone. Who may only read, sees the
                # rest when somebody who may write has been here.
                with contextlib.suppress(BusyError, PermissionError), _held(self._folder):
                    recover(self._folder)
        return self._committed.read() or 0

    def _next_span(self, after: int) -> _Span | None:
        for _ in range(_LOOKS):
            # In this order: every segment that begins below the mark is then in the listing.
            end = self._settled_end()
            if end <= after:
                return None
            try:
                return self._span(after, end, segment_bases(self._folder))
            except FileNotFoundError:
                continue
        raise IntegrityError(
            f"the segments of {self._folder} change faster than they can be listed; what else deletes files there?"
        )

    def _span(self, after: int, end: int, bases: list[int]) -> _Span | None:
        if not bases:
            raise IntegrityError(f"{self._folder} has no segments, but was committed up to {end}; restore them or {WRITE_OFF}")
        at = max(0, bisect_right(bases, after) - 1)
        oldest = read_header(segment_path(self._folder, bases[0]))
        if after < oldest.previous_end and (self._consumed.read() or 0) < oldest.previous_end:
            raise IntegrityError(
                f"{self._folder} begins at {oldest.previous_end}, and what is before was never consumed: "
                f"a segment is missing; restore it or {WRITE_OFF}"
            )
        while at < len(bases):
            base, path = bases[at], segment_path(self._folder, bases[at])
            following = bases[at + 1] if at + 1 < len(bases) else None
            limit = end if following is None else read_header(segment_path(self._folder, following)).previous_end
            if after < limit and base < limit:
                read_header(path)
                size = path.stat().st_size
                if base + size < limit:
                    raise IntegrityError(
                        f"{path} is damaged at offset {size}: it ends there, {limit - base - size} committed bytes are missing; "
                        f"restore it or {WRITE_OFF}"
                    )
                return _Span(path, base, max(after, base + HEADER_BYTES), limit)
            at += 1
        return None

    def _window(self, span: _Span, start: int) -> tuple[list[Batch], int]:
        """Batches of the next whole frames from `start`, all with the same dictionaries, and where they end."""
        descriptor = os.open(span.path, os.O_RDONLY)
        try:
            data = _read(descriptor, start - span.base, min(_WINDOW_BYTES, span.end - start))
            first = parse_frame(memoryview(data), 0, start)
            if first is not None and first.end - start > len(data) and first.end <= span.end:
                data = _read(descriptor, start - span.base, first.end - start)
            frames = list(_frames(span, data, start))
            with self._one_at_a_time:
                return list(self._batches(descriptor, span, frames)), frames[-1][0].end
        finally:
            os.close(descriptor)

    def _batches(self, descriptor: int, span: _Span, frames: list[tuple[FrameHeader, pa.Buffer]]) -> Iterator[Batch]:
        base, series = self._series
        if base != span.base:
            series = SegmentSeries()
            self._series = span.base, series
        _load(descriptor, span, series, frames[0][0].definitions)
        for header, payload in frames:
            if header.kind == Kind.SERIES and header.start > series.loaded_through:
                series.add(payload, header.start)
        for header, payload in frames:
            try:
                if header.kind == Kind.POINTS:
                    yield Batch(header.end, POINTS, series.decode(payload))
                elif header.kind == Kind.ORIGINAL_POINTS:
                    origin, points = split_origin(payload)
                    yield Batch(header.end, POINTS, series.decode(points), origin)
                elif header.kind == Kind.PLAYS:
                    yield Batch(header.end, PLAYS, decode_plays(payload))
            except (ValueError, pa.ArrowInvalid) as error:
                raise _damaged(span, header.start, str(error)) from error


def _frames(span: _Span, data: pa.Buffer, start: int) -> Iterator[tuple[FrameHeader, pa.Buffer]]:
    """The whole frames in `data`, at least one: what is behind is torn by the window's end, or damaged and the next first."""
    view = memoryview(data)
    at = 0
    while at < len(data) or at == 0:
        header = parse_frame(view, at, start + at)
        try:
            if header is None:
                raise _damaged(span, start + at, "there is no frame header")
            payload = _payload(span, data, at, header)
        except IntegrityError:
            if at > 0:
                return
            raise
        yield header, payload
        at = header.end - start


def _payload(span: _Span, data: pa.Buffer, at: int, header: FrameHeader) -> pa.Buffer:
    if header.end > span.end or header.end - header.start > len(data) - at:
        raise _damaged(span, header.start, "its frame is longer than what was committed")
    payload = data.slice(at + HEADER_BYTES, header.length)
    if zlib.crc32(payload) != header.checksum:
        raise _damaged(span, header.start, "the checksum of its frame differs")
    if header.kind not in frozenset(Kind):
        raise IntegrityError(
            f"{span.path} has a frame of kind {header.kind}, which this version of analytics-dagster does not know: upgrade it"
        )
    return payload


def _load(descriptor: int, span: _Span, series: SegmentSeries, newest: int) -> None:
    """Bring in the series named up to the frame at `newest`, following the frames' pointers back."""
    missing: list[tuple[int, pa.Buffer]] = []
    while newest > series.loaded_through:
        header = parse_frame(memoryview(_read(descriptor, newest - span.base, HEADER_BYTES)), 0, newest)
        if header is None or header.kind != Kind.SERIES:
            raise _damaged(span, newest, "there is no frame of series")
        data = _read(descriptor, newest - span.base, header.end - newest)
        missing.append((newest, _payload(span, data, 0, header)))
        newest = header.definitions
    for start, payload in reversed(missing):
        series.add(payload, start)


def _read(descriptor: int, offset: int, size: int) -> pa.Buffer:
    """Bytes of the file in memory of Arrow's, aligned for its kernels; fewer where the file ends."""
    buffer = pa.allocate_buffer(size, resizable=True)
    view = memoryview(buffer)
    done = 0
    while done < size and (got := os.preadv(descriptor, [view[done:]], offset + done)) > 0:
        done += got
    view.release()
    return buffer.slice(0, done)


def _damaged(span: _Span, start: int, what: str) -> IntegrityError:
    return IntegrityError(f"{span.path} is damaged at offset {start - span.base}: {what}; restore the file or {WRITE_OFF}")


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    lock = acquire(folder, patience=0, writer=False)
    try:
        yield
    finally:
        lock.release()
