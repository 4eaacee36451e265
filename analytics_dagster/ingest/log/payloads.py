"""What a frame's payload is: points as three columns over the segment's own series numbers, plays as an Arrow stream.

A segment names each series once and its points carry a number, so a point costs 20 bytes and no text is made or compared for
it, neither here nor when it is read: the reader's dictionaries are the segment's series.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from itertools import groupby
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from analytics_dagster.ingest.points import PLAY_ROWS, POINT_ROWS, Plays, Points, SeriesTable
from analytics_dagster.lake.schemas import TIMESTAMP

Int32s = npt.NDArray[np.int32]
# What 32-bit offsets reach.
_MOST_TEXT = 2**31 - 1
_Number = TypeVar("_Number", bound=np.generic)

_SERIES_PARTS = ("tenant", "name", "type", "labels")
_SERIES = pa.schema([pa.field(part, pa.string()) for part in _SERIES_PARTS])
# Filled up with zeros: what follows stays aligned for Arrow.
_ORIGIN_BYTES = 64
_POINTS = pa.schema([pa.field("series", pa.int32()), pa.field("ts", TIMESTAMP), pa.field("value", pa.float64())])


class SeriesNumbers:
    """The writer's side: the numbers that the process' series have in the current segment, and which of them are new there."""

    def __init__(self) -> None:
        # By table: a table that was outgrown and replaced must not be kept alive by the log.
        self._numbers: weakref.WeakKeyDictionary[SeriesTable, Int32s] = weakref.WeakKeyDictionary()
        self._count = 0

    def encode(self, batches: Sequence[Points]) -> tuple[pa.Buffer | None, int, pa.Buffer]:
        """Payload that defines the new series (None without any), their count, and payload of the points, in order."""
        numbers: list[Int32s] = []
        parts: tuple[list[str], ...] = ([], [], [], [])
        for _, group in groupby(batches, key=lambda points: id(points.table)):
            same = list(group)
            numbers.append(self._number(same[0].table, _concatenate([points.series for points in same]), parts))
        points = pa.record_batch(
            [
                pa.array(_concatenate(numbers)),
                pa.array(_concatenate([points.ts for points in batches])).view(TIMESTAMP),
                pa.array(_concatenate([points.values for points in batches])),
            ],
            schema=_POINTS,
        )
        new = len(parts[0])
        if not new:
            return None, 0, points.serialize()
        return (
            pa.record_batch([pa.array(part, pa.string()) for part in parts], schema=_SERIES).serialize(),
            new,
            points.serialize(),
        )

    def _number(self, table: SeriesTable, series: Int32s, parts: tuple[list[str], ...]) -> Int32s:
        known = self._numbers.get(table)
        size = len(table)
        if int(series.min()) < 0 or int(series.max()) >= size:
            raise ValueError(f"points name series {series.min()} to {series.max()}; their table has {size}")
        if known is None or len(known) < size:
            grown = np.full(max(size, 2 * len(known)) if known is not None else size, -1, np.int32)
            if known is not None:
                grown[: len(known)] = known
            self._numbers[table] = known = grown
        found = known[series]
        if int(found.min()) >= 0:
            return found
        new = np.unique(series[found < 0])
        known[new] = np.arange(self._count, self._count + len(new), dtype=np.int32)
        self._count += len(new)
        for kept, column in zip(parts, (table.tenants, table.names, table.types, table.labels), strict=True):
            kept.extend([column[number] for number in new.tolist()])
        return known[series]


def with_origin(origin: str, payload: pa.Buffer) -> pa.Buffer:
    """Payload of points that have an origin. Raises ValueError for one that does not fit."""
    name = origin.encode("ascii")
    if not 0 < len(name) <= _ORIGIN_BYTES:
        raise ValueError(f"the origin {origin!r} has {len(name)} characters, not 1 to {_ORIGIN_BYTES}")
    return pa.py_buffer(name.ljust(_ORIGIN_BYTES, b"\0") + memoryview(payload))


def split_origin(payload: pa.Buffer) -> tuple[str, pa.Buffer]:
    """The origin, and the payload of the points alone."""
    return payload.slice(0, _ORIGIN_BYTES).to_pybytes().rstrip(b"\0").decode("ascii"), payload.slice(_ORIGIN_BYTES)


class SegmentSeries:
    """The reader's side: the series that a segment named up to some offset, each part as codes into its distinct values."""

    def __init__(self) -> None:
        self.loaded_through = 0
        """Offset of the last SERIES frame that is in."""
        self._count = 0
        self._parts = [_Part() for _ in _SERIES_PARTS]

    def add(self, payload: pa.Buffer, frame_start: int) -> None:
        """Take the next SERIES frame."""
        new = pa.ipc.read_record_batch(payload, _SERIES)
        for part, column in zip(self._parts, new.columns, strict=True):
            part.extend(column)
        self._count += new.num_rows
        self.loaded_through = frame_start

    def decode(self, payload: pa.Buffer) -> pa.Table:
        """The rows of a POINTS frame, in POINT_ROWS' columns. Raises ValueError for a series that was not named."""
        points = pa.ipc.read_record_batch(payload, _POINTS)
        series = points.column(0).to_numpy()
        if int(series.max()) >= self._count or int(series.min()) < 0:
            raise ValueError(f"a point is of series {series.max()}, and {self._count} are named")
        return pa.Table.from_arrays(
            [*(part.column(series) for part in self._parts), points.column(1), points.column(2)], schema=POINT_ROWS
        )


class _Part:
    """One of a series' four texts, for all series of a segment: distinct values, and each series' place among them."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}
        self._texts = _Texts()
        self._values = self._texts.array()
        self._codes = np.empty(0, np.int32)
        self._used = 0

    def extend(self, column: pa.StringArray) -> None:
        encoded = column.dictionary_encode()
        distinct = encoded.dictionary.to_pylist()
        unseen = [value for value in distinct if value not in self._places]
        if unseen:
            self._places.update(zip(unseen, range(len(self._places), len(self._places) + len(unseen)), strict=True))
            self._texts.extend(unseen)
            self._values = self._texts.array()
        places = np.fromiter((self._places[value] for value in distinct), np.int32, len(distinct))
        codes = places[encoded.indices.to_numpy()]
        self._codes = _with_room(self._codes, self._used, len(codes))
        self._codes[self._used : self._used + len(codes)] = codes
        self._used += len(codes)

    def column(self, series: Int32s) -> pa.DictionaryArray:
        # Not checked again: every code is below the length of the values by construction.
        return pa.DictionaryArray.from_arrays(pa.array(self._codes[series]), self._values, safe=False)


class _Texts:
    """Texts that only grow, in memory that all arrays of them share: were each a copy, series that come one by one over a
    segment would cost the square of their number for as long as the batches are held.
    """

    def __init__(self) -> None:
        self._count = 0
        self._offsets = np.zeros(1, np.int32)
        self._bytes = np.empty(0, np.uint8)

    def extend(self, texts: list[str]) -> None:
        new = pa.array(texts, pa.string())
        _, offsets, data = new.buffers()
        used = int(self._offsets[self._count])
        ends = np.frombuffer(offsets, np.int32)[1 : len(texts) + 1]
        size = int(ends[-1])
        if used + size > _MOST_TEXT:
            raise ValueError(f"the segment names more than {_MOST_TEXT} bytes of texts")
        self._offsets = _with_room(self._offsets, self._count + 1, len(texts))
        self._bytes = _with_room(self._bytes, used, size)
        self._offsets[self._count + 1 : self._count + 1 + len(texts)] = ends + used
        if size:
            self._bytes[used : used + size] = np.frombuffer(data, np.uint8)[:size]
        self._count += len(texts)

    def array(self) -> pa.StringArray:
        """Those there are now. Later ones are written behind them, so it stays as it is."""
        return pa.StringArray.from_buffers(self._count, pa.py_buffer(self._offsets), pa.py_buffer(self._bytes))


def _with_room(array: npt.NDArray[_Number], used: int, more: int) -> npt.NDArray[_Number]:
    """`array`, or a larger copy of what is used of it."""
    if used + more <= len(array):
        return array
    grown = np.empty(2 * (used + more), array.dtype)
    grown[:used] = array[:used]
    return grown


def encode_plays(batches: Sequence[Plays]) -> pa.Buffer:
    """Payload of plays, in order: an Arrow stream, which carries its own schema and dictionary."""
    rows = pa.concat_tables([plays.rows for plays in batches]).unify_dictionaries().combine_chunks()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    return sink.getvalue()


def decode_plays(payload: pa.Buffer) -> pa.Table:
    """The rows of a PLAYS frame in PLAY_ROWS' columns; one that an older version did not know yet is empty."""
    rows = pa.ipc.open_stream(payload).read_all()
    if rows.schema.equals(PLAY_ROWS):
        return rows
    columns = [
        rows.column(field.name).cast(field.type) if field.name in rows.column_names else pa.nulls(rows.num_rows, field.type)
        for field in PLAY_ROWS
    ]
    return pa.Table.from_arrays(columns, schema=PLAY_ROWS)


def _concatenate(arrays: Sequence[npt.NDArray[_Number]]) -> npt.NDArray[_Number]:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
