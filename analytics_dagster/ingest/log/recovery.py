"""What a writer that is gone left behind: whole frames are taken over and made durable, a torn tail is cut.

Only under the folder's lock. Whoever comes first does it, the next writer or a reader; what lies below the committed mark is
never touched here, whatever its state.
"""

from __future__ import annotations

import logging
import os
import zlib
from dataclasses import dataclass
from pathlib import Path

from analytics_dagster.errors import IntegrityError
from analytics_dagster.ingest.log.segments import (
    COMMITTED,
    CONSUMED,
    FRAME_MAGIC,
    HEADER_BYTES,
    FrameHeader,
    Mark,
    padded,
    parse_frame,
    read_header,
    segment_bases,
    segment_path,
    sync_folder,
)

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tail:
    """Where a stream goes on. `end` is that of what is committed, 0 for nothing; the next segment begins at `floor` or later."""

    end: int
    floor: int


def recover(folder: Path) -> Tail:
    """Settle the end of the folder's stream and write it into the committed mark.

    Raises IntegrityError when the newest segment has frames but no header.
    """
    mark = Mark(folder / COMMITTED)
    committed = mark.read() or 0
    known = max(committed, Mark(folder / CONSUMED).read() or 0)
    base = _newest_begun(folder)
    if base is None:
        return Tail(known, known)
    path = segment_path(folder, base)
    header = read_header(path)
    with path.open("r+b", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        # Below the mark is the readers' business, unless the file ends before it: then its last whole frame has to be found.
        trusted = committed if base < committed <= base + size else base + HEADER_BYTES
        end = _settle(file.fileno(), path, base, size, trusted)
    sync_folder(folder)
    if end == base + HEADER_BYTES:
        end = header.previous_end
    if end < committed:
        _LOG.error(
            "%s ends at %d, but was committed up to %d: %d acknowledged bytes are missing; somebody cut or replaced the file",
            path,
            end,
            committed,
            committed - end,
        )
    else:
        mark.write(end)
    return Tail(end, max(known, end, base))


def _newest_begun(folder: Path) -> int | None:
    """Base of the newest segment whose beginning was finished. A crash leaves one without a header: nothing was in it yet."""
    bases = segment_bases(folder)
    while bases:
        path = segment_path(folder, bases[-1])
        if path.stat().st_size > HEADER_BYTES or not _unfinished(path):
            return bases[-1]
        path.unlink()
        bases.pop()
    return None


def _unfinished(path: Path) -> bool:
    try:
        read_header(path)
    except IntegrityError:
        return True
    return False


def _settle(file: int, path: Path, base: int, size: int, start: int) -> int:
    """End of the last whole frame. What is behind it is cut; what is before it is synced."""
    end = _whole_through(file, base, size, start)
    while (proof := _later_commit(file, base, size, end)) is not None:
        # Not torn but damaged: a commit that was begun afterwards says that these bytes were durable. The reader reports it.
        _LOG.error("%s is damaged at offset %d, within what was acknowledged; nothing is cut there", path, end - base)
        end = _whole_through(file, base, size, proof)
    if base + size > end:
        # Behind what was written lie zeros, which a writer that was killed leaves there.
        torn = os.pread(file, base + size - end, end - base).rstrip(b"\0")
        if torn:
            _LOG.warning("%s: cut %d bytes of a commit that was never acknowledged, at offset %d", path, len(torn), end - base)
        os.ftruncate(file, end - base)
    os.fsync(file)
    return end


def _whole_through(file: int, base: int, size: int, start: int) -> int:
    while (header := _frame_at(file, base, start)) is not None:
        payload = os.pread(file, header.length, start - base + HEADER_BYTES)
        if header.end > base + size or zlib.crc32(payload) != header.checksum:
            break
        start = header.end
    return start


def _frame_at(file: int, base: int, start: int) -> FrameHeader | None:
    return parse_frame(memoryview(os.pread(file, HEADER_BYTES, start - base)), 0, start)


def _later_commit(file: int, base: int, size: int, bad: int) -> int | None:
    """Start of a frame behind `bad` whose commit began when `bad` was durable already; None when there is none."""
    rest = os.pread(file, max(0, base + size - bad), bad - base)
    at = rest.find(FRAME_MAGIC, 1)
    while at >= 0:
        if at == padded(at):
            header = parse_frame(memoryview(rest), at, bad + at)
            if header is not None and header.before > bad:
                return bad + at
        at = rest.find(FRAME_MAGIC, at + 1)
    return None
