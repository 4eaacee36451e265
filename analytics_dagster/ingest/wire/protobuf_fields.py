"""Walking protobuf's wire format by hand, where making an object of every message would be too slow.

Only what a reader asks for is looked into, so nesting is as deep as the reader's own code and no deeper.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from analytics_dagster.ingest.wire.bodies import UnreadableBodyError

VARINT, I64, LEN, I32 = 0, 1, 2, 5
# Ten groups of seven bits hold 64; a longer one is damage, or meant to waste time.
_MOST_VARINT_BYTES = 10
_MASK_64 = (1 << 64) - 1
_DOUBLE = struct.Struct("<d")


def read_varint(body: bytes, at: int, end: int) -> tuple[int, int]:
    """An unsigned varint and the position behind it. Raises UnreadableBodyError."""
    if at < end and body[at] < 0x80:
        return body[at], at + 1
    value = shift = 0
    for position in range(at, min(end, at + _MOST_VARINT_BYTES)):
        byte = body[position]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & _MASK_64, position + 1
        shift += 7
    raise malformed("a number is cut off" if end - at < _MOST_VARINT_BYTES else "a number is longer than 64 bits", at)


def fields(body: bytes, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """The fields of the message at `at` to `end`: number, wire type, and the value.

    A varint's value is the third item; anything else stands in the body from the third to the fourth. Raises
    UnreadableBodyError for what is no message.
    """
    while at < end:
        key, start = read_varint(body, at, end)
        number, wire = key >> 3, key & 7
        if not number or number >= 1 << 29:
            raise malformed(f"field number {number} does not exist", at)
        if wire == VARINT:
            value, at = read_varint(body, start, end)
            yield number, wire, value, at
            continue
        if wire == LEN:
            size, start = read_varint(body, start, end)
            at = start + size
        elif wire in (I64, I32):
            at = start + (8 if wire == I64 else 4)
        else:
            raise malformed(f"wire type {wire} is not used by any message here", at)
        if at > end:
            raise malformed(f"field {number} is cut off", start)
        yield number, wire, start, at


def expect(wire: int, wanted: int, name: str, at: int) -> None:
    """Raises UnreadableBodyError when a field that is known comes as something else."""
    if wire != wanted:
        raise malformed(f"{name} has wire type {wire} instead of {wanted}", at)


def double(body: bytes, at: int) -> float:
    return float(_DOUBLE.unpack_from(body, at)[0])


def signed(value: int) -> int:
    """int32 and int64 as a varint carries them: two's complement in 64 bits."""
    return value - (1 << 64) if value >> 63 else value


def zigzag(value: int) -> int:
    """sint32 and sint64 as a varint carries them."""
    return (value >> 1) ^ -(value & 1)


def text(body: bytes, at: int, end: int, name: str) -> str:
    """Raises UnreadableBodyError for bytes that are no UTF-8."""
    try:
        return body[at:end].decode()
    except UnicodeDecodeError:
        raise malformed(f"{name} is not UTF-8", at) from None


def malformed(what: str, at: int) -> UnreadableBodyError:
    return UnreadableBodyError(f"the body is not the protobuf message that it should be: {what} (byte {at})")
