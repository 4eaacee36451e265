from __future__ import annotations

import contextlib
import gzip
import os
import zlib

import cramjam
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from analytics_dagster.ingest.wire.bodies import BodyTooLargeError, UnknownEncodingError, UnreadableBodyError, decoded

LIMIT = 1 << 20


def bare_deflate(data: bytes) -> bytes:
    made = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return made.compress(data) + made.flush()


def zstd_without_size(data: bytes) -> bytes:
    made = zstandard.ZstdCompressor().compressobj()
    return made.compress(data) + made.flush()


def snappy(data: bytes) -> bytes:
    return bytes(cramjam.snappy.compress_raw(data))


ENCODERS = [
    pytest.param("gzip", gzip.compress, id="gzip"),
    pytest.param("x-gzip", gzip.compress, id="x-gzip"),
    pytest.param("zstd", zstandard.compress, id="zstd"),
    pytest.param("zstd", zstd_without_size, id="zstd without size"),
    pytest.param("deflate", zlib.compress, id="deflate"),
    pytest.param("deflate", bare_deflate, id="deflate without header"),
    pytest.param("snappy", snappy, id="snappy"),
    pytest.param("identity", bytes, id="identity"),
]
encoded = pytest.mark.parametrize(("encoding", "encode"), ENCODERS)
compressed = pytest.mark.parametrize(("encoding", "encode"), ENCODERS[:-1])


@encoded
@settings(max_examples=40)
@given(data=st.binary(max_size=2_000), repeat=st.integers(1, 40))
def test_what_was_encoded_is_decoded(encoding, encode, data, repeat):
    assert decoded(encode(data * repeat), encoding, LIMIT) == data * repeat
    assert decoded(encode(data * repeat), encoding.upper(), len(data) * repeat) == data * repeat


@encoded
def test_no_byte_more_than_the_limit_is_taken(encoding, encode):
    data = os.urandom(500) * 100
    assert decoded(encode(data), encoding, len(data)) == data
    with pytest.raises(BodyTooLargeError, match="more than 49,999 bytes after decompression"):
        decoded(encode(data), encoding, len(data) - 1)


@compressed
def test_a_bomb_is_not_inflated(encoding, encode):
    with pytest.raises(BodyTooLargeError):
        decoded(encode(bytes(50_000_000)), encoding, 100_000)


def test_snappys_declared_size_is_judged_before_anything_is_allocated():
    with pytest.raises(BodyTooLargeError):
        decoded(b"\xff\xff\xff\xff\x0f" + b"\0" * 10, "snappy", LIMIT)


@pytest.mark.parametrize(
    ("encoding", "encode"), [("gzip", gzip.compress), ("zstd", zstandard.compress), ("zstd", zstd_without_size)]
)
def test_several_members_or_frames_are_one_body(encoding, encode):
    assert decoded(encode(b"one ") + encode(b"") + encode(b"two"), encoding, LIMIT) == b"one two"


@compressed
def test_a_body_that_is_cut_short_anywhere_is_unreadable(encoding, encode):
    whole = encode(os.urandom(300) + bytes(300))
    for end in range(len(whole)):
        with pytest.raises(UnreadableBodyError):
            decoded(whole[:end], encoding, LIMIT)


@compressed
def test_a_body_that_goes_on_after_its_end_is_unreadable(encoding, encode):
    with pytest.raises(UnreadableBodyError):
        decoded(encode(b"some points") + b"more", encoding, LIMIT)


@compressed
@settings(max_examples=50)
@given(noise=st.binary(max_size=300))
def test_noise_is_unreadable_or_bytes_but_never_another_error(encoding, encode, noise):
    with contextlib.suppress(UnreadableBodyError, BodyTooLargeError):
        assert len(decoded(noise, encoding, 10_000)) <= 10_000


def test_zlib_is_not_taken_for_gzip():
    with pytest.raises(UnreadableBodyError, match="not gzip"):
        decoded(zlib.compress(b"x"), "gzip", LIMIT)


def test_an_unknown_encoding_is_named_with_those_that_are_known():
    with pytest.raises(UnknownEncodingError, match=r"'br' is not known; one of gzip, zstd, deflate, snappy"):
        decoded(b"x", "br", LIMIT)
    with pytest.raises(UnknownEncodingError):
        decoded(b"x", "gzip, zstd", LIMIT)


def test_no_encoding_is_none():
    assert decoded(b"x", None, LIMIT) == decoded(b"x", "", LIMIT) == b"x"
