"""Rows as messages: the embedded log's payloads, each message complete in itself and no larger than a broker takes."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Sequence

import pyarrow as pa

from analytics_dagster.ingest.log.interface import PLAYS, POINTS
from analytics_dagster.ingest.log.payloads import (
    SegmentSeries,
    SeriesNumbers,
    decode_plays,
    encode_plays,
    split_origin,
    with_origin,
)
from analytics_dagster.ingest.points import Plays, Points

_POINTS = b"ADP1"
_ORIGINAL_POINTS = b"ADO1"
_PLAYS = b"ADL1"
_SERIES_LENGTH = struct.Struct("<I")
_ALIGNED = 8


def frames(rows: Sequence[Points | Plays], most_bytes: int) -> list[bytes]:
    """Messages that hold all of `rows`, each of at most `most_bytes` unless a single row is larger.

    Points that have an origin are alone in theirs. What is cut is cut alike whenever it comes: the first part keeps the origin
    and the others have one made from it, so that a request that is sent again is the same points again.
    """
    points = [some for some in rows if isinstance(some, Points)]
    plays = [some for some in rows if isinstance(some, Plays)]
    found: list[bytes] = []
    for group in ([some for some in points if some.origin is None], *([some] for some in points if some.origin is not None)):
        if group:
            found += _points_frames(group, most_bytes)
    if plays:
        found += _plays_frames(plays, most_bytes)
    return found


def decode_frame(message: bytes) -> tuple[str, pa.Table, str | None]:
    """Table (POINTS or PLAYS), rows and origin of one message. Raises ValueError for one that is no frame of ours."""
    data = pa.py_buffer(message)
    kind = message[:4]
    try:
        if kind in (_POINTS, _ORIGINAL_POINTS):
            (length,) = _SERIES_LENGTH.unpack_from(message, 4)
            series = SegmentSeries()
            series.add(data.slice(_ALIGNED, length), 1)
            payload, origin = data.slice(_ALIGNED + length), None
            if kind == _ORIGINAL_POINTS:
                origin, payload = split_origin(payload)
            return POINTS, series.decode(payload), origin
        if kind == _PLAYS:
            return PLAYS, decode_plays(data.slice(_ALIGNED)), None
    except (pa.ArrowException, struct.error, IndexError, UnicodeDecodeError, OSError) as error:
        raise ValueError(f"is a damaged frame of the log: {error}") from None
    raise ValueError("is not a frame of the log")


def _points_frames(points: Sequence[Points], most_bytes: int) -> Iterator[bytes]:
    series, _, payload = SeriesNumbers().encode(points)
    assert series is not None  # every frame begins without a series
    origin = points[0].origin
    if origin is not None:
        payload = with_origin(origin, payload)
    if len(series) + len(payload) + _ALIGNED <= most_bytes or sum(map(len, points)) == 1:
        kind = _POINTS if origin is None else _ORIGINAL_POINTS
        yield b"".join([kind, _SERIES_LENGTH.pack(len(series)), series, payload])
        return
    for half in _halves(points):
        yield from _points_frames(half, most_bytes)


def _plays_frames(plays: Sequence[Plays], most_bytes: int) -> Iterator[bytes]:
    payload = encode_plays(plays)
    if len(payload) + _ALIGNED <= most_bytes or sum(map(len, plays)) == 1:
        yield b"".join([_PLAYS, bytes(4), payload])
        return
    rows = pa.concat_tables([some.rows for some in plays])
    middle = rows.num_rows // 2
    # Taken anew, so that each half's dictionaries hold its own texts and no others.
    for half in (rows.slice(0, middle), rows.slice(middle)):
        yield from _plays_frames([Plays(_own_dictionaries(half))], most_bytes)


def _halves(points: Sequence[Points]) -> tuple[Sequence[Points], Sequence[Points]]:
    if len(points) > 1:
        return points[: len(points) // 2], points[len(points) // 2 :]
    (one,) = points
    middle = len(one) // 2
    second = None if one.origin is None else hashlib.blake2b(f"{one.origin}/{middle}".encode(), digest_size=16).hexdigest()
    return [_part(one, slice(None, middle), one.origin)], [_part(one, slice(middle, None), second)]


def _part(points: Points, rows: slice, origin: str | None) -> Points:
    return Points(points.table, points.series[rows], points.ts[rows], points.values[rows], origin)


def _own_dictionaries(rows: pa.Table) -> pa.Table:
    columns = [
        column.cast(column.type.value_type).dictionary_encode().cast(column.type)
        if pa.types.is_dictionary(column.type)
        else column
        for column in rows.columns
    ]
    return pa.Table.from_arrays(columns, schema=rows.schema)
