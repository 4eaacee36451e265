"""What an Arrow IPC message says of itself, read from its metadata: byte order, and what its compressed buffers inflate to.

Arrow's own reader allocates what a compressed buffer says it needs, and tells nobody beforehand. The few fields needed are read
from the flatbuffer here; Arrow has verified it, and an offset that leads out of it is refused all the same. Format:
https://arrow.apache.org/docs/format/Columnar.html#encapsulated-message-format and Message.fbs, Schema.fbs beside it.
"""

from __future__ import annotations

import struct

import pyarrow as pa

from analytics_dagster.ingest.wire.bodies import UnreadableBodyError

# Places of fields in their tables, from the .fbs files.
_MESSAGE_HEADER = 2
_SCHEMA_ENDIANNESS = 0
_BATCH_BUFFERS, _BATCH_COMPRESSION = 2, 3
_DICTIONARY_BATCH = 1
_LENGTH_OF_PREFIX = 8
_NOT_COMPRESSED = -1


def check_message(metadata: pa.Buffer, body: pa.Buffer | None, kind: str) -> int:
    """How many bytes the message's compressed buffers inflate to, as they say. Raises UnreadableBodyError."""
    data = memoryview(metadata)
    try:
        header = _table(data, _root(data), _MESSAGE_HEADER)
        if header is None:
            return 0
        if kind == "schema":
            _check_byte_order(data, header)
            return 0
        batch = _table(data, header, _DICTIONARY_BATCH) if kind == "dictionary" else header if kind == "record batch" else None
        if batch is None or body is None or _field(data, batch, _BATCH_COMPRESSION) is None:
            return 0
        return _inflated(data, batch, memoryview(body))
    except struct.error:
        raise UnreadableBodyError("the body is not an Arrow IPC stream: a message's metadata leads out of the message") from None


def _check_byte_order(data: memoryview, schema: int) -> None:
    place = _field(data, schema, _SCHEMA_ENDIANNESS)
    if place is not None and _int16(data, place) != 0:
        raise UnreadableBodyError("the Arrow stream is big-endian; send it little-endian")


def _inflated(data: memoryview, batch: int, body: memoryview) -> int:
    place = _field(data, batch, _BATCH_BUFFERS)
    if place is None:
        return 0
    vector = place + _uint32(data, place)
    total = 0
    for number in range(_uint32(data, vector)):
        offset, length = _at(data, "<qq", vector + 4 + 16 * number)
        if length < _LENGTH_OF_PREFIX:
            continue
        (inflated,) = _at(body, "<q", offset)
        if inflated < _NOT_COMPRESSED:
            raise UnreadableBodyError(f"the Arrow stream is damaged: a buffer of {inflated} bytes")
        total += length if inflated == _NOT_COMPRESSED else inflated
    return total


# --- flatbuffers: https://flatbuffers.dev/internals/


def _root(data: memoryview) -> int:
    return _uint32(data, 0)


def _field(data: memoryview, table: int, number: int) -> int | None:
    """Where a table's field is; None when it is not given."""
    (to_vtable,) = _at(data, "<i", table)
    vtable = table - to_vtable
    slot = 4 + 2 * number
    if slot >= _int16(data, vtable):
        return None
    offset = _int16(data, vtable + slot)
    return table + offset if offset else None


def _table(data: memoryview, table: int, number: int) -> int | None:
    place = _field(data, table, number)
    return None if place is None else place + _uint32(data, place)


def _int16(data: memoryview, place: int) -> int:
    return int(_at(data, "<h", place)[0])


def _uint32(data: memoryview, place: int) -> int:
    return int(_at(data, "<I", place)[0])


def _at(data: memoryview, format: str, place: int) -> tuple[int, ...]:
    if place < 0:
        raise struct.error("before the beginning")  # unpack_from would count from the end
    return struct.unpack_from(format, data, place)
