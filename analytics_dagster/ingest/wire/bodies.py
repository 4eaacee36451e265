"""Request bodies as they travel: content encodings undone, never further than the limit on decompressed bytes.

What a body says about its own size is only believed when it is too much: everything else is measured while it is inflated,
so that a few kilobytes cannot fill the memory.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import cramjam
import pyarrow as pa

from analytics_dagster.errors import UserError

# First read of an inflated body: most telemetry compresses to a tenth or less, and a second read costs a copy.
_EXPECTED_RATIO = 24
_SMALLEST_READ = 1 << 16


class UnreadableBodyError(UserError):
    """The body as a whole is not what its headers say: not JSON, not Arrow, not gzip; nothing in it can be taken."""


class BodyTooLargeError(UserError):
    """The body is larger than ANALYTICS_MAX_BODY_BYTES once it is decompressed, or holds too many rows."""

    def __init__(self, limit: int, what: str = "bytes after decompression") -> None:
        super().__init__(f"the body has more than {limit:,} {what}; send it as several requests")
        self.limit = limit


class UnknownEncodingError(UserError):
    """The Content-Encoding is not one that is understood."""

    def __init__(self, encoding: str) -> None:
        super().__init__(f"Content-Encoding {encoding!r} is not known; one of {', '.join(ENCODINGS)}, or none")
        self.encoding = encoding


def decoded(body: bytes, encoding: str | None, limit: int) -> bytes:
    """`body` with its Content-Encoding undone.

    gzip and zstd may come in several members or frames, without their sizes; deflate with or without its zlib header; snappy is
    the block format. Raises BodyTooLargeError when there is more than `limit` bytes, UnreadableBodyError when the body is not of
    this encoding, is cut short or goes on after its end, and UnknownEncodingError.
    """
    name = (encoding or "identity").strip().lower()
    decode = _DECODERS.get(name)
    if decode is None:
        raise UnknownEncodingError(name)
    return decode(body, limit)


def _identity(body: bytes, limit: int) -> bytes:
    if len(body) > limit:
        raise BodyTooLargeError(limit)
    return body


def _gzip(body: bytes, limit: int) -> bytes:
    # Arrow's reader also takes a zlib stream for gzip; whoever says gzip means gzip.
    if body and not body.startswith(b"\x1f\x8b"):
        raise UnreadableBodyError("the body is not gzip: it does not begin with 1f 8b")
    return _inflated(body, "gzip", limit)


def _zstd(body: bytes, limit: int) -> bytes:
    return _inflated(body, "zstd", limit)


def _inflated(body: bytes, codec: str, limit: int) -> bytes:
    if not body:
        raise UnreadableBodyError(f"the body is not {codec}: it is empty")
    parts: list[bytes] = []
    left = limit + 1
    size = max(_SMALLEST_READ, len(body) * _EXPECTED_RATIO)
    try:
        with pa.CompressedInputStream(pa.BufferReader(body), codec) as stream:
            while left > 0 and (part := stream.read(min(size, left))):
                parts.append(part)
                left -= len(part)
    except OSError as error:
        raise UnreadableBodyError(f"the body is not {codec}, or is cut short: {error}") from None
    if left <= 0:
        raise BodyTooLargeError(limit)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _deflate(body: bytes, limit: int) -> bytes:
    # RFC 9110 says zlib's format; old clients send the bare stream. The first two bytes of zlib's are a multiple of 31.
    is_zlib = len(body) >= 2 and body[0] & 0x0F == 8 and int.from_bytes(body[:2], "big") % 31 == 0
    inflate = zlib.decompressobj(zlib.MAX_WBITS if is_zlib else -zlib.MAX_WBITS)
    try:
        data = inflate.decompress(body, limit + 1)
    except zlib.error as error:
        raise UnreadableBodyError(f"the body is not deflate: {error}") from None
    if len(data) > limit:
        raise BodyTooLargeError(limit)
    if not inflate.eof:
        raise UnreadableBodyError("the body is not deflate, or is cut short")
    if inflate.unused_data:
        raise UnreadableBodyError(f"the body goes on for {len(inflate.unused_data)} bytes after its deflate stream has ended")
    return data


def _snappy(body: bytes, limit: int) -> bytes:
    try:
        if cramjam.snappy.decompress_raw_len(body) > limit:
            raise BodyTooLargeError(limit)
        return bytes(cramjam.snappy.decompress_raw(body))
    except cramjam.DecompressionError as error:
        raise UnreadableBodyError(f"the body is not snappy's block format: {error}") from None


_DECODERS: dict[str, Callable[[bytes, int], bytes]] = {
    "identity": _identity,
    "gzip": _gzip,
    "x-gzip": _gzip,
    "zstd": _zstd,
    "deflate": _deflate,
    "snappy": _snappy,
}
ENCODINGS = ("gzip", "zstd", "deflate", "snappy")
