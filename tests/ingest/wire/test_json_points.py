from __future__ import annotations

import gc
import json
import random
import weakref
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analytics_dagster.errors import ForeignTenantError
from analytics_dagster.ingest.points import MAX_LABELS, Parsed, SeriesTable
from analytics_dagster.ingest.wire import json_points, series_cache
from analytics_dagster.ingest.wire.bodies import BodyTooLargeError, UnreadableBodyError
from analytics_dagster.ingest.wire.json_points import parse_json, parse_ndjson
from analytics_dagster.ingest.wire.series_cache import Repeats, SeriesCache
from tests.ingest.wire.arrivals import LATEST_US, NOW_US, admission, rows
from tests.ingest.wire.native_rows import Written, batches, iso, refusals, rows_written

POINT = {
    "name": "user_engagement_rate",
    "value": 0.85,
    "timestamp": "2026-03-01T11:59:00.123456Z",
    "tenant_id": "acme",
    "metric_type": "gauge",
    "labels": {"region": "us-east", "user_tier": "premium"},
}
TS = NOW_US - 60_000_000 + 123_456


def body(value: Any) -> bytes:
    return json.dumps(value).encode()


def parsed(value: Any, **more: Any) -> Parsed:
    return parse_json(body(value), admission("acme", "acme", "beta"), NOW_US)


def the_refusal(row: Any) -> tuple[str | None, str, str]:
    """Why a row is refused: the same alone, in an array between good rows, and on a line."""
    raw = row if isinstance(row, bytes) else body(row)
    good = body(POINT)
    alone = parse_json(b"[" + raw + b"]", admission("acme", "acme", "beta"), NOW_US)
    between = parse_json(b"[" + good + b"," + raw + b" ,\n" + good + b"]", admission("acme", "acme", "beta"), NOW_US)
    line = parse_ndjson(good + b"\n" + raw + b"\n" + good, admission("acme", "acme", "beta"), NOW_US)
    assert [len(found.points) for found in (alone, between, line)] == [0, 2, 2]
    assert [[each.index for each in found.refused] for found in (alone, between, line)] == [[0], [1], [1]]
    whys = {(r.field, r.value, r.reason) for found in (alone, between, line) for r in found.refused}
    assert len(whys) == 1
    originals = {json.dumps(json.loads(r.original)) for found in (alone, between, line) for r in found.refused}
    assert originals == {json.dumps(json.loads(raw))}
    return whys.pop()


# --- good rows


@settings(max_examples=50)
@given(written=batches)
def test_rows_come_back_from_an_array_as_they_were_written(written):
    found = parsed([row.as_json() for row in written])
    assert not found.refused
    assert rows(found.points) == [row.as_row() for row in written]


@settings(max_examples=50)
@given(written=batches, ending=st.sampled_from(["", "\n", "\r\n", "\n\n"]))
def test_rows_come_back_from_lines_as_they_were_written(written, ending):
    lines = "\n".join(json.dumps(row.as_json(), ensure_ascii=False) for row in written) + ending
    found = parse_ndjson(lines.encode(), admission("acme", "acme", "beta"), NOW_US)
    assert not found.refused
    assert rows(found.points) == [row.as_row() for row in written]


@given(row=rows_written)
def test_one_object_is_an_array_of_one(row):
    assert rows(parsed(row.as_json()).points) == rows(parsed([row.as_json()]).points) == [row.as_row()]


@settings(max_examples=50)
@given(written=batches, seed=st.integers(0, 1_000))
def test_the_order_of_fields_and_labels_and_the_spaces_between_do_not_matter(written, seed):
    shuffled = []
    for row in written:
        fields = [(key, dict(_shuffled(v.items(), seed)) if isinstance(v, dict) else v) for key, v in row.as_json().items()]
        shuffled.append(dict(_shuffled(fields, seed)))
    found = parse_json(json.dumps(shuffled, indent=seed % 3).encode(), admission("acme", "acme", "beta"), NOW_US)
    assert rows(found.points) == [row.as_row() for row in written]


@settings(max_examples=50)
@given(written=batches)
def test_what_was_read_before_changes_nothing(written):
    table = SeriesTable()
    text = body([row.as_json() for row in written])
    first, *others = (parse_json(text, admission("acme", "acme", "beta", table=table), NOW_US) for _ in range(4))
    assert [rows(other.points) for other in others] == [rows(first.points)] * 3
    assert len(table) == len(set(first.points.series.tolist()))


def test_the_body_of_the_first_example_is_taken_as_it_stands():
    found = parsed(POINT)
    [row] = rows(found.points)
    assert row == ("acme", "gauge", "user_engagement_rate", {"region": "us-east", "user_tier": "premium"}, TS, 0.85)


def test_a_point_without_a_time_is_of_its_arrival():
    assert rows(parsed({"name": "a", "value": 1}).points)[0].ts == NOW_US
    assert rows(parsed([{"name": "a", "value": 1, "timestamp": None}] * 20).points)[19].ts == NOW_US


@pytest.mark.parametrize(
    "timestamp",
    [
        "2026-03-01T11:59:00.123456Z",
        "2026-03-01T11:59:00.123456999Z",
        "2026-03-01 13:59:00.123456+02:00",
        "2026-03-01t11:59:00.123456z",
        TS,
        TS * 1_000 + 999,
        TS / 1e6,
    ],
)
@pytest.mark.parametrize("count", [1, 40])
def test_times_are_understood_however_they_are_written(timestamp, count):
    assert {row.ts for row in rows(parsed([POINT | {"timestamp": timestamp}] * count).points)} == {TS}


def test_bodies_of_mixed_times_are_understood():
    given_times = ["2026-03-01T11:59:00.123456Z", TS, TS * 1_000, None, TS / 1e6]
    found = parsed([POINT | {"timestamp": given_times[i % 5]} for i in range(50)])
    assert [row.ts for row in rows(found.points)] == [NOW_US if i % 5 == 3 else TS for i in range(50)]


@pytest.mark.parametrize("kind", ["counter", "COUNTER", "Counter", "cOUNTER"])
@pytest.mark.parametrize("field", ["metric_type", "type"])
def test_the_type_is_taken_in_any_case_and_by_its_short_name(kind, field):
    assert {row.type for row in rows(parsed([{"name": "a", "value": 1, field: kind}] * 3).points)} == {"counter"}


def test_a_body_may_mix_both_names_of_the_type():
    found = parsed([{"name": "a", "value": 1, "type": "timer"}, {"name": "a", "value": 1, "metric_type": "timer"}])
    assert [row.type for row in rows(found.points)] == ["timer", "timer"]


@pytest.mark.parametrize(
    ("number", "value"), [("5", 5.0), ("-0.0", 0.0), ("9007199254740993", 9007199254740992.0), ("1e300", 1e300)]
)
def test_any_finite_number_is_a_value(number, value):
    [row] = rows(parse_json(b'{"name": "a", "value": %s}' % number.encode(), admission(), NOW_US).points)
    assert row.value == value


def test_an_empty_array_holds_nothing_and_is_no_mistake():
    found = parsed([])
    assert len(found.points) == len(found.refused) == 0


# --- refusals


@pytest.mark.parametrize(
    ("change", "field", "value", "reason"),
    [
        ({"name": None}, "name", "", "is missing; every point needs a metric name"),
        ({"name": ""}, "name", "", "is empty; every point needs a metric name"),
        ({"name": 7}, "name", "7", "is not text"),
        ({"name": "n" * 256}, "name", "n" * 200 + "...", "is longer than 255 characters"),
        ({"name": "a\tb"}, "name", "'a\\tb'", "has a character that cannot be printed"),
        ({"value": None}, "value", "", "is missing; every point needs a number"),
        ({"value": "0.85"}, "value", "0.85", "is text; write a number without quotes"),
        ({"value": "NaN"}, "value", "NaN", "is not a finite number"),
        ({"value": "-Infinity"}, "value", "-Infinity", "is not a finite number"),
        ({"value": True}, "value", "true", "is not a number"),
        ({"value": [1]}, "value", "[1]", "is not a number"),
        ({"value": {}}, "value", "{}", "is not a number"),
        ({"timestamp": True}, "timestamp", "true", "is not a time; write ISO 8601 or a number of seconds"),
        ({"timestamp": "2026-03-01T11:59:00"}, "timestamp", "2026-03-01T11:59:00", "has no time zone; end it with Z"),
        ({"timestamp": "soon"}, "timestamp", "soon", "is not a time; write ISO 8601"),
        ({"timestamp": 10**30}, "timestamp", f"{10**27} µs", "is in the future"),
        ({"timestamp": iso(LATEST_US + 1)}, "timestamp", iso(LATEST_US + 1), "is in the future; at most"),
        ({"timestamp": "2004-12-31T23:59:59Z"}, "timestamp", "2004-12-31T23:59:59+00:00", "is before 2005-01-01"),
        ({"timestamp": -5}, "timestamp", "1969-12-31T23:59:55+00:00", "is before 2005-01-01"),
        ({"metric_type": "summary"}, "metric_type", "summary", "is not known; one of gauge, counter, histogram, timer"),
        ({"metric_type": 3}, "metric_type", "3", "is not known"),
        ({"type": "gauge"}, "type", '"gauge"', "stands beside metric_type"),
        ({"tenant_id": 5}, "tenant_id", "5", "is not text"),
        ({"unit": "ms"}, "unit", '"ms"', "is not a field of a point; they are name, value, timestamp,"),
        ({"labels": []}, "labels", "[]", "are not an object"),
        ({"labels": "a"}, "labels", '"a"', "are not an object"),
        ({"labels": {"1a": "x"}}, "labels", "1a", "is not a label name"),
        ({"labels": {"severity": "x"}}, "labels", "severity", "is a reserved label"),
        ({"labels": {"__name__": "x"}}, "labels", "__name__", "is a reserved label"),
        ({"labels": {"a": 1.5}}, "labels.a", "1.5", "is not text, a whole number or true or false"),
        ({"labels": {"a": None}}, "labels.a", "None", "is not text, a whole number or true or false"),
        ({"labels": {"a": {"b": "c"}}}, "labels.a", "{'b': 'c'}", "is not text, a whole number or true or false"),
        ({"labels": {"a": "x" * 1_025}}, "labels.a", "x" * 200 + "...", "is longer than 1024 characters"),
        ({"labels": {f"a{i}": "x" for i in range(MAX_LABELS + 1)}}, "labels", "65", "are more than 64"),
        ({"labels": {"tenant_id": 3}}, "labels.tenant_id", "3", "is not text"),
        ({"labels": {"tenant_id": "beta"}}, "labels.tenant_id", "beta", "is not the tenant_id that the row has beside"),
    ],
)
def test_a_bad_row_is_refused_by_field_value_and_reason(change, field, value, reason):
    found = the_refusal(POINT | change)
    assert found[:2] == (field, value)
    assert found[2].startswith(reason)


@pytest.mark.parametrize("field", ["name", "value"])
def test_a_row_without_a_required_field_is_refused(field):
    assert the_refusal({key: value for key, value in POINT.items() if key != field})[:2] == (field, "")


@pytest.mark.parametrize(
    ("raw", "field", "value", "reason"),
    [
        (b'{"name": "a", "value": 1e999}', "value", "1e999", "is not a finite number"),
        (b'{"name": "a", "value": 1, "labels": {"a": "x", "a": "y"}}', "labels", "a", "is given twice"),
        (b"7", None, "7", "is not a JSON object"),
        (b'["name"]', None, '["name"]', "is not a JSON object"),
        (b"null", None, "null", "is not a JSON object"),
    ],
)
def test_a_bad_row_that_python_would_not_write_is_refused(raw, field, value, reason):
    assert the_refusal(raw) == (field, value, reason)


def test_the_longest_labels_that_may_be_are_read_and_larger_ones_are_not():
    longest = {f"l{i:02}".ljust(128, "_"): "\U0001f3b5" * 1_024 for i in range(MAX_LABELS)}
    assert rows(parsed(POINT | {"labels": longest}).points)[0].labels == longest
    field, _, reason = the_refusal(POINT | {"labels": {f"l{i}": "x" * 20 for i in range(50_000)}})
    assert (field, reason) == ("labels", "are larger than 64 labels can be")


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_are_none_are_refused_by_name_though_they_are_no_json(constant):
    bad = b'{"name": "a", "value": %s}' % constant.encode()
    for found in (
        parse_json(b"[" + body(POINT) + b", " + bad + b" , " + body(POINT) + b" ]", admission(), NOW_US),
        parse_ndjson(body(POINT) + b"\n" + bad + b"\n" + body(POINT), admission(), NOW_US),
    ):
        assert refusals(found) == [(1, "value", constant, "is not a finite number")]
        assert len(found.points) == 2
        assert found.refused[0].original == bad
    assert refusals(parse_json(bad, admission(), NOW_US)) == [(0, "value", constant, "is not a finite number")]


def test_a_text_that_is_not_utf8_refuses_its_row():
    for bad in (b'{"name": "\xff", "value": 1}', b'{"name": "a", "value": 1, "labels": {"a": "\xff"}}'):
        found = parse_json(b"[" + body(POINT) + b"," + bad + b"]", admission(), NOW_US)
        assert [(each.index, each.original) for each in found.refused] == [(1, bad)]
        assert "UTF-8" in found.refused[0].reason


MISTAKES: list[dict[str, Any]] = [
    {"value": "x"},
    {"name": ""},
    {"timestamp": "x"},
    {"labels": {"a-b": "c"}},
    {"more": 1},
    {"type": 1},
]


@settings(max_examples=50)
@given(st.lists(st.one_of(rows_written, st.sampled_from(MISTAKES)), max_size=40))
def test_of_a_mixed_body_the_good_rows_are_kept_and_each_bad_one_is_named_in_order(mixed):
    good = [row for row in mixed if isinstance(row, Written)]
    bad = [index for index, row in enumerate(mixed) if not isinstance(row, Written)]
    written = [row.as_json() if isinstance(row, Written) else POINT | row for row in mixed]
    lines = b"\n".join(map(body, written)) or b"[]"
    for found in (parsed(written), parse_ndjson(lines, admission("acme", "acme", "beta"), NOW_US) if mixed else parsed([])):
        assert rows(found.points) == [row.as_row() for row in good]
        assert [refusal.index for refusal in found.refused] == bad
        assert [json.loads(refusal.original) for refusal in found.refused] == [written[index] for index in bad]


# --- tenants


@pytest.mark.parametrize(
    "row",
    [
        {"tenant_id": "other"},
        {"tenant_id": "other", "value": "not even a number"},
        {"labels": {"tenant_id": "other"}},
        {"labels": {"tenant_id": "other"}, "unit": "ms"},
    ],
)
def test_a_foreign_tenant_ends_the_whole_body_whatever_else_is_wrong(row):
    for at in (0, 1, 2):
        written = [POINT, POINT | {"value": "x"}]
        written.insert(at, POINT | row)
        with pytest.raises(ForeignTenantError, match="other"):
            parsed(written)
        with pytest.raises(ForeignTenantError, match="other"):
            parse_ndjson(b"\n".join(map(body, written)), admission(), NOW_US)


@pytest.mark.parametrize("other", [{"tenant_id": "beta"}, {"tenant_id": ""}, {"tenant_id": "beta", "type": "counter"}])
def test_a_row_that_does_not_name_the_writers_own_tenant_is_read_all_the_same(other):
    own = [
        {"name": "a", "value": 1},
        {"name": "a", "value": 1, "tenant_id": "acme"},
        {"name": "a", "value": 1, "tenant_id": None},
    ]
    found = parse_json(body([*own, {"name": "a", "value": 1} | other]), admission("acme", "acme", "beta"), NOW_US)
    assert [row.tenant for row in rows(found.points)] == ["acme"] * 3 + [other["tenant_id"] or "acme"]


def test_a_tenant_in_the_labels_is_taken_out_of_them():
    unnamed = {"name": "a", "value": 1}
    found = parsed([unnamed | {"labels": {"tenant_id": tenant, "k": "v"}} for tenant in ("acme", "beta", "")])
    assert [(row.tenant, row.labels) for row in rows(found.points)] == [
        (tenant, {"k": "v"}) for tenant in ("acme", "beta", "acme")
    ]


def test_what_one_writer_may_name_is_not_remembered_for_another():
    table = SeriesTable()
    text = body([{"name": "a", "value": 1, "labels": {"tenant_id": "beta"}}])
    for _ in range(2):
        assert rows(parse_json(text, admission("acme", "acme", "beta", table=table), NOW_US).points)[0].tenant == "beta"
        with pytest.raises(ForeignTenantError):
            parse_json(text, admission("acme", table=table), NOW_US)


def test_a_writer_for_several_tenants_must_name_one_in_each_row():
    written = [
        {"name": "a", "value": 1},
        {"name": "a", "value": 1, "tenant_id": "acme"},
        {"name": "a", "value": 1, "tenant_id": ""},
    ]
    for _ in range(2):
        found = parse_json(body(written), admission(None, "acme", "beta"), NOW_US)
        assert [row.tenant for row in rows(found.points)] == ["acme"]
        assert [(r.index, r.field) for r in found.refused] == [(0, "tenant_id"), (2, "tenant_id")]
        assert {r.reason for r in found.refused} == {"names no tenant; this key may write for several, so each row names one"}


# --- bodies that are no points at all


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "the body is empty"),
        (b"  \n", "the body is empty"),
        (b"name,value\n", "not JSON: expected an object or an array of objects at byte 0"),
        (b'[{"name": "a", "value": 1},\n {"name": b}]', r"at byte 38 \(line 2, column 11\)"),
        (b'[{"name": "a", "value": 1}', "ends in the middle, after 26 bytes"),
        (b'[{"name": "a", "value": 1}] x', "trailing characters at byte 29"),
        (b'{"name": "a", "value": 1}{"name": "a", "value": 1}', "trailing characters"),
        (b"[" * 100_000, "nested too deeply"),
        (b'[{"name": "a", "value": 1, "labels": ' + b"[" * 100_000 + b"]" * 100_000 + b"}]", "nested too deeply"),
        (b'[{"name": "a", "value": NaN},, {"name": "a"}]', "not JSON"),
    ],
)
def test_a_body_that_is_not_json_is_unreadable_and_says_where(text, message):
    with pytest.raises(UnreadableBodyError, match=message):
        parse_json(text, admission(), NOW_US)


@pytest.mark.parametrize("text", [b"", b"\n\n", b"name,value\na,1\n", b"{\n", b"\x00\xff"])
def test_lines_of_which_none_is_json_are_unreadable(text):
    with pytest.raises(UnreadableBodyError):
        parse_ndjson(text, admission(), NOW_US)


def test_a_line_that_is_not_json_is_a_bad_row():
    found = parse_ndjson(body(POINT) + b"\n{broken\n\n" + body(POINT), admission(), NOW_US)
    assert [(r.index, r.field, r.value, r.original) for r in found.refused] == [(1, None, "{broken", b"{broken")]
    assert len(found.points) == 2


def test_two_objects_on_a_line_are_not_two_rows():
    found = parse_ndjson(body(POINT) + body(POINT) + b"\n" + body(POINT), admission(), NOW_US)
    assert [r.index for r in found.refused] == [0]
    assert len(found.points) == 1


@pytest.mark.parametrize("counted_from", [0, 1 << 20])
def test_a_body_of_too_many_rows_is_too_large(monkeypatch, counted_from):
    monkeypatch.setattr(json_points, "MAX_ROWS", 10)
    monkeypatch.setattr(json_points, "_COUNTED_FROM", counted_from)
    written = [{"name": "a", "value": 1}] * 30
    with pytest.raises(BodyTooLargeError, match="more than 10 rows"):
        parsed(written)
    with pytest.raises(BodyTooLargeError, match="more than 10 rows"):
        parse_ndjson(b"\n".join(map(body, written)), admission(), NOW_US)
    for elements in (11, 200):
        with pytest.raises(BodyTooLargeError, match="more than 10 rows"):
            parsed([1] * elements)
    assert len(parsed(written[:10]).points) == 10


@given(seed=st.integers(0, 10_000))
def test_damaged_bodies_give_only_the_documented_errors(seed):
    rng = random.Random(seed)
    text = bytearray(body([POINT, POINT | {"timestamp": TS}, POINT | {"value": "x"}]))
    for _ in range(rng.randrange(1, 6)):
        text[rng.randrange(len(text))] = rng.randrange(256)
    for parse in (parse_json, parse_ndjson):
        try:
            found = parse(bytes(text), admission(), NOW_US)
        except (UnreadableBodyError, ForeignTenantError):
            continue
        assert all(refusal.reason for refusal in found.refused)
        rows(found.points)


# --- memory


def test_the_cache_forgets_before_it_outgrows_its_bound():
    cache = SeriesCache(max_bytes=10_000)
    for number in range(1_000):
        labels, name = b'{"k": "%d"}' % number, f"name{number % 7}"
        cache.keep("acme", "gauge", name, labels, number)
        assert cache.names("acme", "gauge")[name][labels] == number
        cache.keep_columns(("k",), ("acme", None, name, str(number)), number)
        assert cache.columns(("k",))["acme", None, name, str(number)] == number
        assert cache.bytes_kept <= 10_000
    assert len(cache.columns(("k",))) < 100


def test_points_are_the_same_while_the_cache_forgets(monkeypatch):
    table = SeriesTable()
    monkeypatch.setitem(series_cache._CACHES, table, SeriesCache(max_bytes=2_000))
    written = [POINT | {"labels": {"k": str(number % 50)}} for number in range(200)]
    for _ in range(3):
        found = parse_json(body(written), admission(table=table), NOW_US)
        assert [row.labels["k"] for row in rows(found.points)] == [str(number % 50) for number in range(200)]
    assert len(table) == 50


@settings(max_examples=50)
@given(st.lists(st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=3), min_size=1, max_size=30))
def test_bodies_that_nearly_repeat_each_other_are_told_apart(bodies):
    table = SeriesTable()
    for named in bodies:
        for field in ("name", "tenant_id", "metric_type", "region"):
            texts = (
                {"a": "acme", "b": "beta", "c": "gamma"} if field == "tenant_id" else {"a": "gauge", "b": "timer", "c": "counter"}
            )
            changes = [{field: texts[each]} if field != "region" else {"labels": {"region": each}} for each in named]
            found = parse_json(
                body([POINT | change for change in changes]), admission("acme", *texts.values(), table=table), NOW_US
            )
            fresh = parse_json(body([POINT | change for change in changes]), admission("acme", *texts.values()), NOW_US)
            assert rows(found.points) == rows(fresh.points)


def test_a_repeated_body_is_still_refused_to_whom_it_is_foreign():
    table = SeriesTable()
    for _ in range(3):
        assert len(parse_json(body([POINT] * 3), admission("acme", table=table), NOW_US).points) == 3
    with pytest.raises(ForeignTenantError):
        parse_json(body([POINT] * 3), admission("beta", table=table), NOW_US)


def test_repeats_are_bounded_and_not_looked_for_when_there_are_none():
    repeats = Repeats(max_bytes=10_000)
    tried = 0
    for number in range(10_000):
        if repeats.are_likely():
            tried += 1
            assert repeats.find((number,)) is None
            repeats.keep((number,), 1_000, np.zeros(1, np.int32))
            assert len(repeats._known) <= 10
    assert 500 < tried < 2_000
    repeats.keep(("too large",), 10_000, np.zeros(1, np.int32))
    assert repeats.find(("too large",)) is None
    # One repeat, and they are likely again.
    repeats.keep(("again",), 1_000, np.zeros(1, np.int32))
    assert repeats.find(("again",)) is not None
    assert repeats.are_likely()


def test_the_cache_goes_with_its_table():
    table = SeriesTable()
    found = parse_json(body(POINT), admission(table=table), NOW_US)
    cache = weakref.ref(series_cache.cache_of(table))
    assert cache() is not None
    del table, found
    gc.collect()
    assert cache() is None


def _shuffled(items: Any, seed: int) -> list[Any]:
    found = list(items)
    random.Random(seed).shuffle(found)
    return found
