"""The files of one writer's folder: segments of frames, and marks that say how far the stream is committed and consumed.

A writer's stream is one run of bytes for ever: a segment's name is the offset of its first byte in it, and a position is the
offset at which a frame ends. A frame is one group commit of one table, its header and its payload each under a CRC-32.
docs/explanation/ingest-log.md has the layout in a table.
"""

from __future__ import annotations

import os
import struct
import zlib
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

from analytics_dagster.errors import IntegrityError

COMMITTED = "committed"
CONSUMED = "consumed"
HEADER_BYTES = 64
FRAME_MAGIC = b"ADLF"

_SUFFIX = ".segment"
_UNFINISHED = ".new"
_SEGMENT_MAGIC = b"ADLOGSEG"
_VERSION = 1
_SEGMENT = struct.Struct("<8sIIqqq24x")
_FRAME = struct.Struct("<4sIqqqqqqiI")
_MARK = struct.Struct("<qI")


class Kind(IntEnum):
    """What a frame holds."""

    SERIES = 1
    """Series that the segment has not named before; points refer to them by number, counted from the segment's first."""
    POINTS = 2
    PLAYS = 3
    ORIGINAL_POINTS = 4
    """Points of one request that has an origin, which stands before them."""


class SegmentHeader(NamedTuple):
    """The first 64 bytes of a segment. What stands before it in the stream ends at `previous_end`, whatever its file holds."""

    base: int
    previous_end: int
    created_us: int

    def pack(self) -> bytes:
        """The 64 bytes."""
        checksum = zlib.crc32(_SEGMENT.pack(_SEGMENT_MAGIC, _VERSION, 0, *self))
        return _SEGMENT.pack(_SEGMENT_MAGIC, _VERSION, checksum, *self)


class FrameHeader(NamedTuple):
    """The first 64 bytes of a frame. Offsets are the stream's."""

    start: int
    length: int  # of the payload, without the zeros that fill it up to 8 bytes
    before: int  # everything up to here was durable when this commit began
    definitions: int  # the segment's last SERIES frame before this one, 0 for none
    written_us: int
    rows: int
    kind: int
    checksum: int

    @property
    def end(self) -> int:
        """Offset behind the frame: its position."""
        return self.start + HEADER_BYTES + padded(self.length)

    def pack(self) -> bytes:
        """The 64 bytes."""
        checksum = zlib.crc32(_FRAME.pack(FRAME_MAGIC, 0, *self))
        return _FRAME.pack(FRAME_MAGIC, checksum, *self)


def padded(length: int) -> int:
    """`length` filled up to 8 bytes, so that Arrow can use every payload where it lies."""
    return -(-length // 8) * 8


def parse_frame(data: memoryview, at: int, start: int) -> FrameHeader | None:
    """The frame header at `data[at:]`, None unless it is whole and says that it stands at `start` of the stream."""
    if len(data) - at < HEADER_BYTES:
        return None
    magic, checksum, *fields = _FRAME.unpack_from(data, at)
    header = FrameHeader(*fields)
    if magic != FRAME_MAGIC or header.start != start or checksum != zlib.crc32(_FRAME.pack(FRAME_MAGIC, 0, *fields)):
        return None
    return header


def parse_segment(data: bytes, path: Path) -> SegmentHeader:
    """A segment's header. Raises IntegrityError naming the file."""
    if len(data) >= HEADER_BYTES:
        magic, version, checksum, *fields = _SEGMENT.unpack_from(data)
        if magic == _SEGMENT_MAGIC and version > _VERSION:
            raise IntegrityError(
                f"{path} has format {version}; this version of analytics-dagster reads up to {_VERSION}: upgrade it"
            )
        if magic == _SEGMENT_MAGIC and checksum == zlib.crc32(_SEGMENT.pack(_SEGMENT_MAGIC, version, 0, *fields)):
            return SegmentHeader(*fields)
    raise IntegrityError(f"{path} is damaged at offset 0: its header is not one; restore the file or {WRITE_OFF}")


WRITE_OFF = "move its folder away to go on without what it holds"


def segment_path(folder: Path, base: int) -> Path:
    """The file of the segment that begins at `base`."""
    return folder / f"{base:020d}{_SUFFIX}"


def unfinished_path(folder: Path, base: int) -> Path:
    """The file that becomes this segment by being renamed when its header is on the disk, so that readers see no other."""
    return folder / f"{base:020d}{_SUFFIX}{_UNFINISHED}"


def remove_unfinished(folder: Path) -> None:
    """Delete beginnings that a crash left. Only under the folder's lock."""
    for path in folder.glob(f"*{_SUFFIX}{_UNFINISHED}"):
        path.unlink()


def segment_bases(folder: Path) -> list[int]:
    """Where the folder's segments begin, oldest first."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    return sorted(int(name.removesuffix(_SUFFIX)) for name in names if name.endswith(_SUFFIX))


def read_header(path: Path) -> SegmentHeader:
    """A segment file's header. Raises IntegrityError; FileNotFoundError when the segment was released."""
    with path.open("rb") as file:
        header = parse_segment(file.read(HEADER_BYTES), path)
    if header.base != int(path.stem):
        raise IntegrityError(f"{path} is damaged at offset 0: it has another segment's header; restore the file or {WRITE_OFF}")
    return header


def sync_folder(folder: Path) -> None:
    """Make the folder's entries durable: a file that a crash takes the name of is lost, however well it was synced."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Mark:
    """A position in a small file of its own, which other processes read while it changes.

    It is seen at once through the page cache and never waited for: after a crash of the machine it may be old or gone.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> int | None:
        """The position; None where there is none, or none that is whole."""
        try:
            descriptor = os.open(self._path, os.O_RDONLY)
        except FileNotFoundError:
            return None
        try:
            # A reader may meet a write of these 12 bytes half done; it is over within the next look or two.
            for _ in range(100):
                data = os.pread(descriptor, _MARK.size, 0)
                if len(data) == _MARK.size:
                    position, checksum = _MARK.unpack(data)
                    if checksum == zlib.crc32(data[:8]):
                        return int(position)
            return None
        finally:
            os.close(descriptor)

    def write(self, position: int, *, durable: bool = False) -> None:
        """Set it; `durable` waits for the disk."""
        with self.writing() as writer:
            writer.write(position)
            if durable:
                writer.sync()

    def writing(self) -> MarkWriter:
        """Open it to be set often."""
        return MarkWriter(self._path)


class MarkWriter:
    """An open mark, made if need be. Each time it is set costs one call of the kernel."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)

    def write(self, position: int) -> None:
        data = position.to_bytes(8, "little", signed=True)
        os.pwrite(self._descriptor, _MARK.pack(position, zlib.crc32(data)), 0)

    def sync(self) -> None:
        os.fsync(self._descriptor)

    def close(self) -> None:
        os.close(self._descriptor)

    def __enter__(self) -> MarkWriter:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()
