from __future__ import annotations

import random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analytics_dagster.errors import ForeignTenantError
from analytics_dagster.ingest.points import Parsed
from analytics_dagster.ingest.wire import arrow_points
from analytics_dagster.ingest.wire.arrow_points import parse_arrow
from analytics_dagster.ingest.wire.bodies import BodyTooLargeError, UnreadableBodyError
from analytics_dagster.ingest.wire.json_points import parse_json, parse_ndjson
from tests.ingest.wire.arrivals import NOW_US, admission, rows
from tests.ingest.wire.native_rows import batches, json_labels, refusals, stream, table
from tests.ingest.wire.test_json_points import body

COMPRESSIONS = [None, "zstd", "lz4"]


def parsed(raw: bytes, **more: Any) -> Parsed:
    return parse_arrow(raw, admission("acme", "acme", "beta"), NOW_US, **more)


def small(**columns: Any) -> pa.Table:
    return pa.table({"name": ["a", "b", "a"], "value": [1.0, 2.0, 3.0], **columns})


@settings(max_examples=40)
@given(written=batches, chunk=st.integers(1, 20), compression=st.sampled_from(COMPRESSIONS))
def test_rows_come_back_from_a_stream_as_they_were_written(written, chunk, compression):
    found = parsed(stream(table(written, labels=json_labels(written)), chunk=chunk, compression=compression))
    assert not found.refused
    assert rows(found.points) == [row.as_row() for row in written]


@settings(max_examples=40)
@given(written=batches)
def test_all_native_formats_say_the_same_of_the_same_rows(written):
    as_json = [row.as_json() for row in written]
    who = admission("acme", "acme", "beta")
    found = [
        parse_json(body(as_json), who, NOW_US).points,
        parse_ndjson(b"\n".join(map(body, as_json)), who, NOW_US).points,
        parse_arrow(stream(table(written, labels=json_labels(written))), who, NOW_US).points,
    ]
    for other in found[1:]:
        assert other.series.tolist() == found[0].series.tolist()
        assert other.ts.tolist() == found[0].ts.tolist()
        assert other.values.tobytes() == found[0].values.tobytes()


def test_batches_with_dictionaries_of_their_own_are_one_body():
    first = small(region=pa.array(["x", "y", None]).dictionary_encode())
    other = small(region=pa.array(["y", "z", "x"]).dictionary_encode())
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, first.schema) as writer:
        writer.write_table(first)
        writer.write_table(other)
    found = parsed(bytes(sink.getvalue()))
    assert [row.labels.get("region") for row in rows(found.points)] == ["x", "y", None, "y", "z", "x"]


def test_refused_rows_are_counted_through_all_batches():
    found = parsed(
        stream(pa.table({"name": ["a"] * 10, "value": [float("nan") if i in (3, 7) else 1.0 for i in range(10)]}), chunk=2)
    )
    assert refusals(found) == [(i, "value", "nan", "is not a finite number") for i in (3, 7)]
    assert len(found.points) == 8


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "not an Arrow IPC stream"),
        (b"[]", "not an Arrow IPC stream"),
        (b"\xff\xff\xff\xff\x00\x00\x00\x00", "not an Arrow IPC stream"),
        (b"ARROW1\0\0", "is an Arrow file"),
        (stream(small())[:-200], "not an Arrow IPC stream, or is damaged"),
    ],
)
def test_a_body_that_is_no_stream_is_unreadable(raw, message):
    with pytest.raises(UnreadableBodyError, match=message):
        parsed(raw)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"score": [1.5, 2.5, 3.5]}, "column 'score' would be a label, but is of type double"),
        ({"timestamp": pa.array([1, 2, 3], pa.timestamp("us"))}, "column 'timestamp' has no time zone"),
        ({"timestamp": pa.array([1, 2, 3], pa.date32())}, "column 'timestamp' is of type date32"),
        ({"deep": [[[1]], [[2]], [[3]]]}, "column 'deep' would be a label"),
        ({"labels": pa.array([[("a", 1)], None, None], pa.map_(pa.string(), pa.int64()))}, "must be a map of texts"),
        ({"labels": [{"a": {"b": 1}}, None, None]}, r"column 'labels.a' would be a label"),
        ({"metric_type": ["gauge"] * 3, "type": ["gauge"] * 3}, "stands beside 'metric_type'"),
        ({f"l{i}": ["x"] * 3 for i in range(65)}, "65 columns are labels; at most 64"),
        ({"tenant_id": [1, 2, 3]}, "column 'tenant_id' is of type int64; it must be text"),
    ],
)
def test_columns_that_cannot_be_points_are_named(columns, message):
    with pytest.raises(UnreadableBodyError, match=message):
        parsed(stream(small(**columns)))


@pytest.mark.parametrize("missing", ["name", "value"])
def test_a_missing_column_is_named(missing):
    with pytest.raises(UnreadableBodyError, match=f"column '{missing}' is missing"):
        parsed(stream(small().drop_columns([missing])))


def test_a_column_that_is_there_twice_is_named():
    twice = pa.Table.from_arrays(
        [pa.array(["a"]), pa.array([1.0]), pa.array(["x"]), pa.array(["y"])], names=["name", "value", "k", "k"]
    )
    with pytest.raises(UnreadableBodyError, match="column 'k' is there twice"):
        parsed(stream(twice))


@pytest.mark.parametrize("compression", ["zstd", "lz4"])
def test_compressed_buffers_inflate_to_the_limit_and_no_further(compression):
    zeros = pa.table({"name": pa.array(["a"] * 100_000).dictionary_encode(), "value": np.zeros(100_000)})
    raw = stream(zeros, compression=compression)
    assert len(raw) < 50_000
    assert len(parsed(raw, limit=1_300_000).points) == 100_000
    with pytest.raises(BodyTooLargeError):
        parsed(raw, limit=1_000_000)


def test_a_buffer_that_only_says_that_it_is_huge_is_refused_before_it_is_allocated():
    raw = bytearray(stream(small(), compression="zstd"))
    true_size = (24).to_bytes(8, "little")
    at = raw.rindex(true_size)
    raw[at : at + 8] = (1 << 45).to_bytes(8, "little")
    with pytest.raises(BodyTooLargeError):
        parsed(bytes(raw))


def test_a_body_of_too_many_rows_or_batches_is_too_large(monkeypatch):
    monkeypatch.setattr(arrow_points, "MAX_ROWS", 2)
    with pytest.raises(BodyTooLargeError, match="more than 2 rows"):
        parsed(stream(small()))
    monkeypatch.setattr(arrow_points, "MAX_MESSAGES", 3)
    with pytest.raises(BodyTooLargeError, match="more than 3 batches"):
        parsed(stream(small(), chunk=1))


def test_a_big_endian_stream_is_refused():
    raw = stream(small())
    schema = pa.ipc.MessageReader.open_stream(pa.BufferReader(raw)).read_next_message()
    metadata = schema.metadata.to_pybytes()
    for at in range(len(metadata) - 1):
        # The field is left out when it is 0, as here; so any change that gives the message one is looked for.
        changed = bytearray(metadata)
        changed[at : at + 2] = (4).to_bytes(2, "little")
        try:
            parsed(raw.replace(metadata, bytes(changed)))
        except UnreadableBodyError as error:
            if "big-endian" in str(error):
                return
        except (BodyTooLargeError, ForeignTenantError):
            continue
    pytest.fail("no single change of this stream's metadata makes it big-endian")


BODIES = [
    stream(made, chunk=2, compression=compression)
    for compression in COMPRESSIONS
    for made in (
        small(
            region=pa.array(["x", "y", None]).dictionary_encode(),
            timestamp=pa.array([NOW_US, None, NOW_US], pa.timestamp("us", "UTC")),
        ),
        small(labels=pa.array([[("k", "v")], [("k", "w"), ("l", None)], None], pa.map_(pa.string(), pa.string()))),
        small(
            labels=[{"a": "x", "b": 1}, None, {"a": None, "b": 2}],
            timestamp=["2026-03-01T12:00:00Z", None, "2026-03-01T12:00:00Z"],
        ),
        small(
            labels=pa.array(['{"a":"b"}', None, "{}"], pa.string_view()), tenant_id=["acme", None, "beta"], ok=[True, None, False]
        ),
    )
]
NASTY = [
    b"\xff\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\0\0\0\x80",
    b"\0\0\0\0",
    b"\xff" * 8,
    b"\xff" * 7 + b"\x7f",
    (1 << 40).to_bytes(8, "little"),
]


@pytest.mark.parametrize("seed", range(8))
def test_a_damaged_stream_gives_only_the_documented_errors_and_never_ends_the_process(seed):
    rng = random.Random(seed)
    for _ in range(250):
        raw = bytearray(rng.choice(BODIES))
        for _ in range(rng.choice([1, 1, 2, 8])):
            at = rng.randrange(len(raw))
            match rng.randrange(4):
                case 0:
                    raw[at] ^= 1 << rng.randrange(8)
                case 1:
                    nasty = rng.choice(NASTY)
                    raw[at : at + len(nasty)] = nasty
                case 2:
                    del raw[at : at + rng.randrange(1, 9)]
                case 3:
                    raw[at:at] = raw[rng.randrange(len(raw)) :][: rng.randrange(9)]
        try:
            found = parsed(bytes(raw))
        except (UnreadableBodyError, BodyTooLargeError, ForeignTenantError):
            continue
        assert all(refusal.reason for refusal in found.refused)
        rows(found.points)
