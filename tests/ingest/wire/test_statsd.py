from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics_dagster.ingest.points import SeriesTable
from analytics_dagster.ingest.wire import statsd
from analytics_dagster.ingest.wire.statsd import StatsdAggregator
from tests.ingest.wire.arrivals import NOW_US, Row, rows

STEP = 10_000_000


def aggregator() -> StatsdAggregator:
    return StatsdAggregator(SeriesTable(), "acme")


def flushed(*datagrams: bytes) -> list[Row]:
    made = aggregator()
    for datagram in datagrams:
        made.feed(datagram)
    assert made.counts.malformed == made.counts.dropped == 0, made.counts.last_reason
    return rows(made.flush(NOW_US))


def test_a_counter_is_cumulative_and_begins_with_a_zero() -> None:
    made = aggregator()
    made.flush(NOW_US)
    made.feed(b"api.requests:3|c\napi.requests:1|c|@0.5")
    first = rows(made.flush(NOW_US + STEP))
    made.feed(b"api.requests:1|c")
    second = rows(made.flush(NOW_US + 2 * STEP))

    name = ("acme", "counter", "api_requests", {})
    assert first == [Row(*name, NOW_US, 0.0), Row(*name, NOW_US + STEP, 5.0)]
    assert second == [Row(*name, NOW_US + 2 * STEP, 6.0)]


def test_what_nothing_happened_to_is_not_repeated() -> None:
    made = aggregator()
    made.feed(b"a:1|c\nb:1|g\nc:x|s\nd:1|ms")
    made.flush(NOW_US)
    assert rows(made.flush(NOW_US + STEP)) == []


def test_a_gauge_is_set_or_moved() -> None:
    assert [row.value for row in flushed(b"level:10|g", b"level:-3|g", b"level:+0.5|g")] == [7.5]


def test_observations_come_one_by_one_and_a_sampled_one_as_often_as_it_stands_for() -> None:
    assert sorted((row.type, row.name, row.value) for row in flushed(b"t:320|ms|@0.5\nh:1:2:3|h\nd:4|d")) == [
        ("histogram", "d", 4.0),
        ("histogram", "h", 1.0),
        ("histogram", "h", 2.0),
        ("histogram", "h", 3.0),
        ("timer", "t", 320.0),
        ("timer", "t", 320.0),
    ]


def test_a_set_is_the_number_of_its_distinct_members() -> None:
    long = b"x" * 1_000
    assert [row.value for row in flushed(b"users:ada|s\nusers:bob|s\nusers:ada|s\nusers:a:b|s\nusers:" + long + b"|s")] == [4.0]


def test_tags_are_labels_in_whatever_order() -> None:
    got = flushed(b"a:1|c|#region:eu,canary,url:http://x|c:container\na:2|c|@1|#url:http://x,region:eu,canary|T1656581400")

    labels = {"region": "eu", "canary": "true", "url": "http://x"}
    assert got == [Row("acme", "counter", "a", labels, NOW_US - 1, 0.0), Row("acme", "counter", "a", labels, NOW_US, 3.0)]


def test_reserved_tags_are_renamed_and_the_listeners_own_tenant_is_taken_out() -> None:
    assert flushed(b"a:1|g|#tenant_id:acme,severity:high,a-b:c")[0].labels == {"exported_severity": "high", "a_b": "c"}


@pytest.mark.parametrize(
    "line",
    [
        b"a", b"a|c", b"a:|c", b":1|c", b"a:1", b"a:1|x", b"a:x|c", b"a:nan|g", b"a:inf|g", b"a:1_0|g", b"a:-1|c",
        b"a:1|c|@0", b"a:1|c|@2", b"a:1|c|@x", b"a:1|ms|@0.0001", b"_e{5,4}:title|text", b"_sc|name|0", b"\xff:1|c",
        b"a:1|c|#\xff:b", b"a:1|g|#tenant_id:other", b"a:1:x|c", b"a:1:x|g", b"...:1|g", b"a:1e308:1e308|c",
        b"a:+1e308:+1e308|g", b"a:1|g|#k:" + b"x" * 2_000,
    ],
)  # fmt: skip
def test_a_line_that_cannot_be_taken_is_counted_with_its_reason_and_changes_nothing(line: bytes) -> None:
    made = aggregator()
    made.feed(b"a:1|g\n" + line + b"\n\n  a:2|g  \r\n")

    assert (made.counts.taken, made.counts.malformed) == (2, 1)
    assert made.counts.last_reason
    assert [row.value for row in rows(made.flush(NOW_US))] == [2.0]


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    for bound in ("MAX_SERIES", "MAX_SET_MEMBERS", "MAX_OBSERVATIONS"):
        monkeypatch.setattr(statsd, bound, 3)
    made = aggregator()
    made.feed(b"\n".join(b"c%d:1|c" % n for n in range(2)) + b"\n" + b"\n".join(b"s:%d|s" % n for n in range(5)))
    made.feed(b"d:1|ms")

    assert (made.counts.taken, made.counts.dropped) == (5, 3)
    assert "3 series" in made.counts.last_reason
    made = aggregator()
    made.feed(b"t:1:2|ms\nt:1:2|ms\nt:1|ms|@0.5\nt:1|ms")
    assert (made.counts.taken, made.counts.dropped) == (2, 2)
    assert len(made.flush(NOW_US)) == 3


def test_a_series_that_fell_silent_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statsd, "MAX_SERIES", 2)
    made = aggregator()
    made.feed(b"a:5|c\nb:1|c")
    made.flush(NOW_US)
    made.feed(b"b:1|c")
    made.flush(NOW_US + 3_600 * 10**6)
    made.feed(b"c:1|c\na:1|c")

    assert made.counts.dropped == 1
    assert [row.name for row in rows(made.flush(NOW_US + 3_601 * 10**6))] == ["c", "c"]


@given(st.lists(st.binary(max_size=60) | st.text("ab:1.|cgmsh@#-+,\n", max_size=40).map(str.encode), max_size=5))
def test_no_datagram_raises_anything(datagrams: list[bytes]) -> None:
    made = aggregator()
    for datagram in datagrams:
        made.feed(datagram)
    rows(made.flush(NOW_US))


names = st.sampled_from(["a", "b.c", "d"])
tags = st.dictionaries(st.sampled_from(["x", "y"]), st.sampled_from(["1", "two"]), max_size=2)


@given(st.lists(st.tuples(names, tags, st.integers(0, 1_000), st.booleans()), max_size=20))
def test_counters_add_up_over_any_flushes(made: list[Any]) -> None:
    held = aggregator()
    expected: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    last: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    for number, (name, labels, value, flush) in enumerate([*made, ("a", {}, 0, True)]):
        tagged = ",".join(f"{key}:{text}" for key, text in labels.items())
        held.feed(f"{name}:{value}|c{'|#' if tagged else ''}{tagged}".encode())
        key = (name.replace(".", "_"), tuple(sorted(labels.items())))
        expected[key] = expected.get(key, 0.0) + value
        if flush:
            last |= {(row.name, tuple(sorted(row.labels.items()))): row.value for row in rows(held.flush(NOW_US + number))}
    assert last == expected
