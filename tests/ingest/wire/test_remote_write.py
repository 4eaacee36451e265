from __future__ import annotations

import contextlib
import math
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics_dagster.errors import ForeignTenantError
from analytics_dagster.ingest.points import Points, SeriesTable
from analytics_dagster.ingest.wire import refusals as refusals_of_bodies
from analytics_dagster.ingest.wire.bodies import UnreadableBodyError
from analytics_dagster.ingest.wire.remote_write import RemoteWriteReader, RemoteWritten
from tests.ingest.wire.arrivals import LATEST_US, NOW_MS, Row, admission, rows
from tests.ingest.wire.prometheus_messages import write_request

STALE = struct.unpack("<d", struct.pack("<Q", 0x7FF0000000000002))[0]
COUNTER, GAUGE, HISTOGRAM, GAUGE_HISTOGRAM, SUMMARY = 1, 2, 3, 4, 5


def series(name: str | None, *samples: tuple[float, int], **labels: str) -> dict[str, Any]:
    named = {"__name__": name} if name is not None else {}
    return {"labels": dict(sorted({**named, **labels}.items())), "samples": list(samples) or [(1.0, NOW_MS)]}


def written(*made: dict[str, Any], **more: Any) -> RemoteWritten:
    return RemoteWriteReader().read(write_request(*made, **more), admission())


def refusals(*made: dict[str, Any]) -> list[tuple[int, str | None, str]]:
    return [(each.index, each.field, each.reason) for each in written(*made).parsed.refused]


def same(one: RemoteWritten, other: RemoteWritten) -> bool:
    def columns(points: Points) -> list[Any]:
        return [points.series.tolist(), points.ts.tolist(), points.values.tobytes()]

    return (columns(one.parsed.points), one.ignored, [r.index for r in one.parsed.refused]) == (
        columns(other.parsed.points),
        other.ignored,
        [r.index for r in other.parsed.refused],
    )


def test_a_series_becomes_its_points_with_times_in_microseconds() -> None:
    got = written(series("http_requests_total", (3.0, NOW_MS - 15_000), (5.0, NOW_MS), job="api", code="200"))

    labels = {"code": "200", "job": "api"}
    assert rows(got.parsed.points) == [
        Row("acme", "counter", "http_requests_total", labels, (NOW_MS - 15_000) * 1_000, 3.0),
        Row("acme", "counter", "http_requests_total", labels, NOW_MS * 1_000, 5.0),
    ]
    assert got.ignored == 0
    assert got.parsed.refused == []


def test_an_empty_request_is_no_error() -> None:
    assert rows(written().parsed.points) == []


texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)
names = st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True).filter(
    lambda name: not name.startswith("__") and name != "tenant_id"
)
times = st.integers(NOW_MS - 10**10, NOW_MS) | st.sampled_from([1_104_537_600_000, NOW_MS])
figures = st.floats(allow_nan=False, allow_infinity=False) | st.just(0.0)
several_series = st.lists(
    st.tuples(names, st.dictionaries(names, texts, max_size=4), st.lists(st.tuples(figures, times), max_size=5)), max_size=6
)


@given(several_series)
def test_what_the_official_encoder_writes_is_read_back(made: list[Any]) -> None:
    body = write_request(*({"labels": {"__name__": f"m{n}", **ls}, "samples": ss} for n, ls, ss in made))

    got = rows(RemoteWriteReader().read(body, admission()).parsed.points)

    expected = [(f"m{name}", len(labels), ts * 1_000, value) for name, labels, samples in made for value, ts in samples]
    assert [(row.name, len(row.labels), row.ts, row.value) for row in got] == expected
    assert [math.copysign(1, row.value) for row in got] == [math.copysign(1, value) for *_, value in expected]


@given(several_series, st.integers(0, 3))
def test_known_series_give_what_unknown_ones_gave(made: list[Any], changes: int) -> None:
    body = write_request(*({"labels": {"__name__": f"m{n}", **ls}, "samples": ss} for n, ls, ss in made))
    reader, admitted = RemoteWriteReader(), admission()
    first = reader.read(body, admitted)
    for _ in range(changes):
        assert same(reader.read(body, admitted), first)
    assert same(RemoteWriteReader().read(body, admission(table=admitted.table)), first)


@given(several_series, st.data())
def test_damaged_bodies_are_refused_as_unreadable_or_read_alike_with_and_without_memory(
    made: list[Any], data: st.DataObject
) -> None:
    body = bytearray(
        write_request(*({"labels": {"__name__": f"m{n}", **ls}, "samples": ss} for n, ls, ss in made)) or b"\x0a\x00"
    )
    admitted, reader = admission(), RemoteWriteReader()
    reader.read(bytes(body), admitted)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(body) - 1))
        body[at] = data.draw(st.integers(0, 255))
    damaged = bytes(body[: data.draw(st.integers(0, len(body)))])

    def outcome(read: RemoteWriteReader) -> object:
        try:
            return read.read(damaged, admitted)
        except (UnreadableBodyError, ForeignTenantError) as error:
            return type(error)

    one, other = outcome(reader), outcome(RemoteWriteReader())
    assert one == other if not isinstance(one, RemoteWritten) else isinstance(other, RemoteWritten) and same(one, other)


@given(st.binary(max_size=300))
def test_no_bytes_at_all_raise_anything_else(body: bytes) -> None:
    with contextlib.suppress(UnreadableBodyError, ForeignTenantError):
        RemoteWriteReader().read(body, admission())


@pytest.mark.parametrize(
    "body",
    [
        b"\x0a",
        b"\x0a\x05\x0a",
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\x0a\xff\xff\xff\xff\x0f",
        b"\x08\x01\x0b",
        b"\x00",
        b"\x0d\x00",
        b"\x0a\x02\x08\x01",
        b"\x1a\x02\x12\xff",
    ],
    ids=["tag alone", "cut", "overlong", "past the end", "group", "field 0", "cut fixed32", "label as number", "cut metadata"],
)
def test_malformed_protobuf_is_refused(body: bytes) -> None:
    with pytest.raises(UnreadableBodyError, match="protobuf"):
        RemoteWriteReader().read(body, admission())


def test_fields_that_are_not_known_are_skipped() -> None:
    body = write_request(series("up"))
    unknown = b"\x7a\x03abc" + b"\x80\x01\x07" + b"\x89\x01" + bytes(8) + b"\x95\x01" + bytes(4)

    assert [row.name for row in rows(RemoteWriteReader().read(unknown + body + unknown, admission()).parsed.points)] == ["up"]


def test_a_sample_with_its_fields_the_other_way_round_is_the_same_sample() -> None:
    usual = write_request(series("up", (2.5, NOW_MS)))
    at = usual.index(b"\x12\x10\x09")
    sample = usual[at + 2 :]
    turned = usual[: at + 2] + sample[9:] + sample[:9]
    reader, admitted = RemoteWriteReader(), admission()
    reader.read(usual, admitted)

    assert same(reader.read(turned, admitted), reader.read(usual, admitted))


@pytest.mark.parametrize("value", [math.nan, STALE, math.inf, -math.inf], ids=["NaN", "stale", "inf", "-inf"])
def test_what_is_no_figure_is_ignored_and_no_error(value: float) -> None:
    got = written(series("up", (value, NOW_MS), (1.0, NOW_MS), (value, NOW_MS + 1)))

    assert [row.value for row in rows(got.parsed.points)] == [1.0]
    assert got.ignored == 2
    assert got.parsed.refused == []


def test_out_of_order_and_duplicate_samples_are_taken() -> None:
    got = written(series("up", (1.0, NOW_MS), (2.0, NOW_MS - 5_000), (1.0, NOW_MS), (3.0, NOW_MS)))

    assert [row.value for row in rows(got.parsed.points)] == [1.0, 2.0, 1.0, 3.0]


def test_labels_in_any_order_are_one_series() -> None:
    one = {"labels": [("__name__", "up"), ("a", "1"), ("b", "2")], "samples": [(1.0, NOW_MS)]}
    other = {"labels": [("b", "2"), ("a", "1"), ("__name__", "up")], "samples": [(2.0, NOW_MS)]}

    points = written(one, other).parsed.points
    assert points.series.tolist() == [0, 0]


def test_labels_behind_the_samples_count_as_well() -> None:
    before, behind = write_request(series("up", job="api")), b""
    split = before.index(b"\x0a\x0a\x0a\x03job")
    label = before[split : split + 12]
    behind = before[2:split] + before[split + 12 :] + label
    body = b"\x0a" + bytes([len(behind)]) + behind

    assert rows(RemoteWriteReader().read(body, admission()).parsed.points) == rows(
        RemoteWriteReader().read(before, admission()).parsed.points
    )


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        ([("job", "api")], "is missing; every series needs a metric name"),
        ([], "is missing; every series needs a metric name"),
        ([("__name__", "")], "has no name or no value; a label needs both"),
        ([("__name__", "up"), ("", "x")], "has no name or no value; a label needs both"),
        ([("__name__", "up"), ("job", "")], "has no name or no value; a label needs both"),
        ([("__name__", "up"), ("job", "a"), ("job", "b")], "is there twice in one series"),
        ([("__name__", "up\n")], "has a character that cannot be printed"),
        ([("__name__", "up"), ("job", "x" * 2_000)], "is longer than 1024 characters"),
    ],
)
def test_a_series_that_breaks_the_rules_is_refused_with_its_reason(labels: list[tuple[str, str]], reason: str) -> None:
    bad = {"labels": labels, "samples": [(1.0, NOW_MS), (2.0, NOW_MS)]}
    good = series("good", job="api")

    assert [(index, why) for index, _, why in refusals(good, bad, good)] == [(1, reason)]
    assert [row.name for row in rows(written(good, bad, good).parsed.points)] == ["good", "good"]


def test_text_that_is_not_utf_8_is_refused() -> None:
    body = write_request(series("up", job="api")).replace(b"api", b"a\xffi")
    with pytest.raises(UnreadableBodyError, match="UTF-8"):
        RemoteWriteReader().read(body, admission())


def test_names_and_labels_are_brought_into_the_grammar_of_labels() -> None:
    got = rows(
        written(series("resource.cpu usage", **{"job.name": "a\nb", "alertname": "x", "__meta": "y", "0day": "z"})).parsed.points
    )

    assert got[0].name == "resource.cpu usage"
    assert got[0].labels == {"job_name": "a\nb", "exported_alertname": "x", "exported___meta": "y", "key_0day": "z"}


def test_labels_that_become_one_are_joined() -> None:
    assert rows(written(series("up", **{"job.name": "a", "job_name": "b"})).parsed.points)[0].labels == {"job_name": "a;b"}


@pytest.mark.parametrize("ts_ms", [0, -1, NOW_MS * 1_000, LATEST_US // 1_000 + 1, -(2**63), 2**63 - 1, 1_104_537_599_999])
def test_a_time_that_cannot_be_taken_costs_its_own_sample(ts_ms: int) -> None:
    got = written(series("up", (1.0, NOW_MS), (2.0, ts_ms), (3.0, NOW_MS)))

    assert [row.value for row in rows(got.parsed.points)] == [1.0, 3.0]
    assert [(each.index, each.field) for each in got.parsed.refused] == [(1, "timestamp")]
    assert got.parsed.refused[0].original.startswith(b"up{} 2.0 ")


def test_a_tenant_label_names_the_tenant_and_is_taken_out() -> None:
    body = write_request(series("up", job="a", tenant_id="acme"), series("up", tenant_id="other"))
    reader = RemoteWriteReader()

    assert [(row.tenant, row.labels) for row in rows(reader.read(body, admission("acme", "acme", "other")).parsed.points)] == [
        ("acme", {"job": "a"}),
        ("other", {}),
    ]
    with pytest.raises(ForeignTenantError):
        reader.read(body, admission("acme"))


def test_what_is_known_of_one_writer_is_not_used_for_another() -> None:
    body, reader, table = write_request(series("up", job="a")), RemoteWriteReader(), SeriesTable()

    one = rows(reader.read(body, admission("acme", table=table)).parsed.points)
    other = rows(reader.read(body, admission("other", table=table)).parsed.points)

    assert [one[0].tenant, other[0].tenant] == ["acme", "other"]


def test_a_new_series_table_is_noticed() -> None:
    body, reader = write_request(series("up", job="a"), series("down")), RemoteWriteReader()
    first = reader.read(body, admission()).parsed.points
    second = reader.read(body, admission()).parsed.points

    assert first.table is not second.table
    assert rows(first) == rows(second)


def test_a_key_for_several_tenants_must_have_each_series_name_one() -> None:
    got = RemoteWriteReader().read(write_request(series("up", tenant_id="a"), series("up")), admission(None, "a", "b"))

    assert [row.tenant for row in rows(got.parsed.points)] == ["a"]
    assert [each.field for each in got.parsed.refused] == ["tenant_id"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("http_requests_total", "counter"),
        ("x_sum", "counter"),
        ("x_count", "counter"),
        ("x_bucket", "counter"),
        ("x_created", "gauge"),
        ("up", "gauge"),
        ("total", "gauge"),
    ],
)
def test_without_metadata_the_ending_of_a_name_says_its_type(name: str, kind: str) -> None:
    assert rows(written(series(name)).parsed.points)[0].type == kind


@pytest.mark.parametrize(
    ("kind", "family", "types"),
    [
        (COUNTER, "jobs", {"jobs": "counter", "jobs_total": "counter"}),
        (GAUGE, "queue_count", {"queue_count": "gauge"}),
        (GAUGE, "space_total", {"space_total": "gauge"}),
        (HISTOGRAM, "wait", {"wait_bucket": "counter", "wait_sum": "counter", "wait_count": "counter", "wait": "gauge"}),
        (SUMMARY, "rpc", {"rpc": "gauge", "rpc_sum": "counter", "rpc_count": "counter"}),
        (GAUGE_HISTOGRAM, "held", {"held_bucket": "gauge", "held_gsum": "gauge", "held_gcount": "gauge"}),
    ],
)
def test_metadata_says_the_type_in_its_own_request_and_in_later_ones(kind: int, family: str, types: dict[str, str]) -> None:
    metadata = [{"type": kind, "metric_family_name": family, "help": "what it is"}]
    samples = [series(name) for name in types]
    reader, admitted = RemoteWriteReader(), admission()
    reader.read(write_request(*samples), admitted)

    together = reader.read(write_request(*samples, metadata=metadata), admitted)
    later = reader.read(write_request(*samples), admitted)

    assert {row.name: row.type for row in rows(together.parsed.points)} == types
    assert {row.name: row.type for row in rows(later.parsed.points)} == types


def native(**more: Any) -> dict[str, Any]:
    """A histogram of 1, 3 and 4 observations in three buckets, one in the zero bucket."""
    usual = {
        "count_int": 9,
        "sum": 18.4,
        "schema": 1,
        "zero_count_int": 1,
        "timestamp": NOW_MS,
        "positive_spans": [{"offset": 0, "length": 2}, {"offset": 3, "length": 1}],
        "positive_deltas": [1, 2, 1],
    }
    return {**usual, **more}


def of_histogram(histogram: dict[str, Any], name: str = "latency") -> RemoteWritten:
    return written({"labels": {"__name__": name, "job": "api"}, "histograms": [histogram]})


def test_a_native_histogram_becomes_the_count_and_sum_of_a_classic_one() -> None:
    got = of_histogram(native())

    assert [(row.name, row.type, row.value) for row in rows(got.parsed.points)] == [
        ("latency_count", "counter", 9.0),
        ("latency_sum", "counter", 18.4),
    ]
    assert got.histograms == 1


def test_custom_buckets_become_cumulative_buckets() -> None:
    custom = native(
        schema=-53,
        zero_count_int=0,
        count_int=8,
        custom_values=[0.1, 0.5, 1.0, 2.5],
        positive_spans=[{"offset": 0, "length": 1}, {"offset": 1, "length": 2}],
    )
    got = rows(of_histogram(custom).parsed.points)

    assert {row.labels["le"]: row.value for row in got if row.name == "latency_bucket"} == {
        "0.1": 1.0,
        "0.5": 1.0,
        "1": 4.0,
        "2.5": 8.0,
        "+Inf": 8.0,
    }
    assert all(row.labels["job"] == "api" for row in got)


def test_float_histograms_and_gauge_histograms_are_read() -> None:
    floats = {
        "count_float": 2.5,
        "sum": 1.0,
        "zero_count_float": 0.5,
        "timestamp": NOW_MS,
        "reset_hint": 3,
        "negative_spans": [{"offset": 0, "length": 2}],
        "negative_counts": [1.0, 1.0],
    }
    assert [(row.type, row.value) for row in rows(of_histogram(floats).parsed.points)] == [("gauge", 2.5), ("gauge", 1.0)]


@pytest.mark.parametrize(
    "wrong",
    [
        {"count_int": 99},
        {"positive_deltas": [1, 2]},
        {"positive_deltas": [1, -2, 1]},
        {"schema": -53, "custom_values": [1.0]},
        {"schema": -53, "zero_count_int": 0, "count_int": 8, "custom_values": [1.0, 1.0, 2.0, 3.0, 4.0, 5.0]},
        {"positive_spans": [{"offset": 0, "length": 2**31}]},
    ],
)
def test_a_histogram_that_contradicts_itself_is_refused(wrong: dict[str, Any]) -> None:
    got = of_histogram(native(**wrong))

    assert rows(got.parsed.points) == []
    assert [each.field for each in got.parsed.refused] == ["histogram"]


def test_a_stale_histogram_is_ignored() -> None:
    got = of_histogram({"sum": STALE, "timestamp": NOW_MS})
    assert rows(got.parsed.points) == []
    assert got.ignored == 1


@given(st.binary(max_size=120))
def test_no_bytes_in_place_of_a_histogram_raise_anything_else(raw: bytes) -> None:
    inner = b"\x0a\x0d\x0a\x08__name__\x12\x01h" + b"\x22" + bytes([len(raw)]) + raw
    try:
        got = RemoteWriteReader().read(b"\x0a" + bytes([len(inner) & 0x7F | 0x80, len(inner) >> 7]) + inner, admission())
    except UnreadableBodyError:
        return
    assert np.isfinite(got.parsed.points.values).all()


def test_a_body_of_nothing_but_refusals_is_refused_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals_of_bodies, "MOST_REFUSED", 3)
    nameless, late = series(None), series("up", *[(1.0, 0)] * 2)

    assert len(written(nameless, late).parsed.refused) == 3
    for made in ([nameless] * 4, [late, late], [nameless, nameless, late]):
        with pytest.raises(UnreadableBodyError, match="more than 3 rows"):
            written(*made)


@pytest.mark.parametrize("times", [(NOW_MS, NOW_MS), (1_104_537_600_000, NOW_MS)])
def test_samples_of_different_shapes_in_one_series_keep_their_order(times: tuple[int, int]) -> None:
    samples = [(value, times[number % 2]) for number, value in enumerate((0.0, 1.5, 0.0, 0.0, -2.0, -0.0))]
    got = rows(written(series("up", *samples)).parsed.points)

    assert [(row.value, row.ts // 1_000) for row in got] == samples
