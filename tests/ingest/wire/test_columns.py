from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analytics_dagster.errors import ForeignTenantError
from analytics_dagster.ingest.points import Parsed, SeriesTable
from analytics_dagster.ingest.wire.columns import ColumnsError, points_from_table
from analytics_dagster.ingest.wire.dict_labels import labels_of_dicts
from tests.ingest.wire.arrivals import LATEST_US, NOW_US, admission, rows
from tests.ingest.wire.native_rows import Written, batches, json_labels, label_keys, label_values, refusals, table


def parsed(made: pa.Table, **more: Any) -> Parsed:
    return points_from_table(made, admission("acme", "acme", "beta"), NOW_US, **more)


def labels_of(made: pa.Table) -> list[dict[str, str]]:
    found = parsed(made)
    assert not found.refused
    return [row.labels for row in rows(found.points)]


def small(**columns: Any) -> pa.Table:
    count = len(next(iter(columns.values()))) if columns else 3
    return pa.table({"name": ["a"] * count, "value": [1.0] * count} | columns)


def text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


# --- labels, however they are written


def as_map(written: list[Written]) -> pa.Array:
    return pa.array([[(k, text(v)) for k, v in row.labels.items()] for row in written], pa.map_(pa.string(), pa.string()))


def as_dictionary(written: list[Written]) -> pa.Array:
    return json_labels(written).dictionary_encode()


def as_dicts(written: list[Written]) -> pa.Array:
    return labels_of_dicts([row.labels for row in written])


@pytest.mark.parametrize("write", [json_labels, as_map, as_dictionary, as_dicts])
@settings(max_examples=40)
@given(written=batches)
def test_labels_in_one_column_come_back_as_they_were_written(write, written):
    found = parsed(table(written, labels=write(written)))
    assert not found.refused
    assert rows(found.points) == [row.as_row() for row in written]


label_tables = st.dictionaries(
    label_keys, st.lists(st.one_of(st.none(), label_values), min_size=5, max_size=5), max_size=4
).filter(lambda columns: not columns.keys() & {"name", "value", "timestamp", "type", "metric_type", "labels"})


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())])
@settings(max_examples=40)
@given(columns=label_tables)
def test_each_further_column_is_a_label(kind, columns):
    expected = [{key: values[i] for key, values in columns.items() if values[i]} for i in range(5)]
    arrays = {key: pa.array(values, kind) for key, values in columns.items()}
    assert labels_of(pa.table({"name": ["a"] * 5, "value": [1.0] * 5, **arrays})) == expected
    if columns:
        struct = pa.StructArray.from_arrays(list(arrays.values()), names=list(arrays))
        assert labels_of(small(labels=struct)) == expected


def test_numbers_and_truths_are_labels_by_their_text_and_never_mixed_up():
    made = small(code=pa.array([1, None, 3], pa.uint8()), ok=[True, False, None], first=["1", "true", None], nothing=pa.nulls(3))
    assert labels_of(made) == [{"code": "1", "ok": "true", "first": "1"}, {"ok": "false", "first": "true"}, {"code": "3"}]


def test_a_struct_that_is_null_has_no_labels_and_columns_beside_it_are_labels_too():
    made = small(labels=pa.array([{"a": "x"}, None, {"a": None}]), b=["1", "2", "3"])
    assert labels_of(made) == [{"a": "x", "b": "1"}, {"b": "2"}, {"b": "3"}]


def test_a_dictionary_that_holds_null_or_a_text_twice_is_read_by_its_texts():
    made = pa.DictionaryArray.from_arrays(pa.array([0, 1, 2, None]), pa.array(["x", None, "x"]))
    found = parsed(small(k=made))
    assert [row.labels for row in rows(found.points)] == [{"k": "x"}, {}, {"k": "x"}, {}]
    assert len(found.points.table) == 2


def test_batches_whose_dictionaries_are_many_small_ones_are_one_table():
    chunks = [
        pa.DictionaryArray.from_arrays(pa.array(range(100), pa.int8()), [f"{part}-{i}" for i in range(100)]) for part in "abcd"
    ]
    made = small(k=pa.chunked_array(chunks))
    assert [found["k"] for found in labels_of(made)] == [f"{part}-{i}" for part in "abcd" for i in range(100)]


@settings(max_examples=30)
@given(written=batches, start=st.integers(0, 20), count=st.integers(0, 20))
def test_a_slice_of_a_table_is_its_rows(written, start, count):
    for write in (json_labels, as_map, as_dictionary):
        found = parsed(table(written, labels=write(written)).slice(start, count))
        assert rows(found.points) == [row.as_row() for row in written[start : start + count]]


def test_more_combinations_than_fit_a_number_are_told_apart():
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 1_000, (64, 500))
    made = small(**{f"l{i}": pa.array([f"v{code}" for code in column]) for i, column in enumerate(codes)})
    assert labels_of(made) == [{f"l{i}": f"v{codes[i, row]}" for i in range(64)} for row in range(500)]


def test_a_row_of_a_map_with_too_many_labels_is_refused_and_no_other():
    made = pa.array([[("a", "x")], [(f"l{i}", "x") for i in range(100_000)], []], pa.map_(pa.string(), pa.string()))
    found = parsed(small(labels=made))
    assert refusals(found) == [(1, "labels", "65", "are more than 64")]
    assert [row.labels for row in rows(found.points)] == [{"a": "x"}, {}]


def test_a_table_of_a_great_many_columns_is_refused_at_once():
    many = pa.schema([("name", pa.string()), ("value", pa.float64()), *((f"l{i}", pa.string()) for i in range(5_000))])
    with pytest.raises(ColumnsError, match="5000 columns are labels; at most 64"):
        parsed(many.empty_table())
    with pytest.raises(ColumnsError, match="column 'name' is missing"):
        parsed(pa.schema([(f"l{i}", pa.null()) for i in range(5_000)]).empty_table())


def test_a_field_of_a_struct_and_a_column_of_its_name_in_full_are_one_label_twice():
    with pytest.raises(ColumnsError, match=r"column 'labels.a' is there twice"):
        parsed(small(**{"labels": [{"a": "x"}] * 3, "labels.a": ["y"] * 3}))
    assert labels_of(small(**{"labels.a": ["x", None, "y"]})) == [{"a": "x"}, {}, {"a": "y"}]


def test_a_label_that_comes_twice_refuses_its_row():
    made = small(k=["x", None, "y"], labels=['{"k": "z"}', '{"k": "z"}', "{}"])
    assert refusals(parsed(made)) == [(0, "labels", "k", "is given twice, by a column and in labels")]
    twice = small(labels=pa.array([[("a", "1"), ("a", "2")], [("a", "1")], []], pa.map_(pa.string(), pa.string())))
    assert refusals(parsed(twice)) == [(0, "labels", "a", "is given twice")]


# --- columns of dicts


@given(dicts=st.lists(st.dictionaries(label_keys, label_values, max_size=3), max_size=30))
def test_dicts_are_their_json(dicts):
    assert [json.loads(found) for found in labels_of_dicts(dicts).to_pylist()] == dicts


@pytest.mark.parametrize(
    "bad",
    [
        {"a": dt.date(2026, 1, 1)},
        {"a": Decimal("1.5")},
        {"a": 1.5},
        {"a": float("nan")},
        {"a": None},
        {"a": b"x"},
        {"a": ["x"]},
        {None: "x"},
        {1: "x"},
        {True: "x"},
        {"a": "\ud800"},
        {"a": 2**70, "b": 1.5},
        ["a"],
        "a",
        "\ud800",
        7,
    ],
)
def test_a_dict_that_is_no_labels_refuses_its_row_and_no_other(bad):
    found = parsed(small(labels=labels_of_dicts([{"a": "x"}, bad, {"a": 1}])))
    assert [refusal.index for refusal in found.refused] == [1]
    assert found.refused[0].field is not None
    assert found.refused[0].field.startswith("labels")
    assert [row.labels for row in rows(found.points)] == [{"a": "x"}, {"a": "1"}]


def test_no_dict_is_no_labels_and_numpys_values_are_pythons():
    given_dicts = [None, '{"a": "x"}', float("nan"), {}, {"a": np.int64(5), "b": np.bool_(True), "c": np.str_("x")}, {"a": 2**70}]
    expected = [{}, {"a": "x"}, {}, {}, {"a": "5", "b": "true", "c": "x"}, {"a": str(2**70)}]
    found = parsed(small(labels=labels_of_dicts(given_dicts)))
    assert [row.labels for row in rows(found.points)] == expected[: len(found.points)]
    assert {refusal.index for refusal in found.refused} <= {5}


# --- times


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "+05:30"])
def test_a_time_of_any_unit_and_zone_is_its_instant(unit, zone):
    second = NOW_US - 60_000_000
    made = pa.array([second, None, second], pa.timestamp("us", "UTC")).cast(pa.timestamp(unit, zone))
    assert parsed(small(timestamp=made)).points.ts.tolist() == [second, NOW_US, second]


def test_nanoseconds_are_cut():
    made = pa.array([(NOW_US - 5) * 1_000 + 999], pa.timestamp("ns", "UTC"))
    assert parsed(small(timestamp=made)).points.ts.tolist() == [NOW_US - 5]


def test_a_naive_time_needs_to_be_told_whose_it_is():
    made = small(timestamp=pa.array([dt.datetime(2026, 1, 1, 12), None, dt.datetime(2025, 7, 1, 12)], pa.timestamp("ms")))
    expected = [dt.datetime(2026, 1, 1, 11, tzinfo=dt.UTC), None, dt.datetime(2025, 7, 1, 10, tzinfo=dt.UTC)]
    found = parsed(made, naive_zone="Europe/Berlin")
    assert found.points.ts.tolist() == [int(time.timestamp()) * 1_000_000 if time else NOW_US for time in expected]
    with pytest.raises(ColumnsError, match="column 'timestamp' has no time zone"):
        parsed(made)


@pytest.mark.parametrize(
    "made",
    [
        pa.array([NOW_US // 1_000_000] * 3, pa.int64()),
        pa.array([NOW_US // 1_000] * 3, pa.uint64()),
        pa.array([NOW_US] * 3, pa.int64()),
        pa.array([NOW_US / 1e6] * 3, pa.float64()),
        pa.array(["2026-03-01T12:00:00Z"] * 3),
        pa.array(["2026-03-01T12:00:00Z", "2026-03-01T13:00:00+01:00", None]).dictionary_encode(),
        pa.nulls(3),
    ],
)
def test_times_may_be_numbers_or_texts_as_in_json(made):
    assert parsed(small(timestamp=made)).points.ts.tolist() == [NOW_US] * 3


FAR = [2**63 - 1, -(2**63), LATEST_US + 1, 0]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_times_outside_of_all_that_is_kept_are_refused_row_by_row(unit):
    made = small(timestamp=pa.array([*FAR[:2], 0], pa.int64()).cast(pa.timestamp(unit, "UTC"), safe=False))
    found = parsed(made)
    assert [(refusal.index, refusal.field) for refusal in found.refused] == [(0, "timestamp"), (1, "timestamp"), (2, "timestamp")]
    assert all(refusal.original for refusal in found.refused)


@pytest.mark.parametrize(
    ("made", "reasons"),
    [
        (pa.array([2**64 - 1, 5, NOW_US], pa.uint64()), {0: "is in the future", 1: "is before 2005-01-01"}),
        (pa.array([float("nan"), float("inf"), NOW_US * 1.0]), {0: "is not a finite number", 1: "is not a finite number"}),
        (pa.array(["soon", "2026-03-01T12:00:00", "2026-03-01T12:00:00Z"]), {0: "is not a time", 1: "has no time zone"}),
        (
            pa.array(["soon", "2026-03-01T12:00:00", "2026-03-01T12:00:00Z"]).dictionary_encode(),
            {0: "is not a time", 1: "has no"},
        ),
    ],
)
def test_times_that_are_none_are_refused_with_their_reason(made, reasons):
    found = parsed(small(timestamp=made))
    assert {refusal.index for refusal in found.refused} == set(reasons)
    for refusal in found.refused:
        assert refusal.field == "timestamp"
        assert refusal.reason.startswith(reasons[refusal.index])


# --- values, names, types, tenants


@pytest.mark.parametrize("kind", [pa.int8(), pa.uint64(), pa.int64(), pa.float16(), pa.float32(), pa.float64()])
def test_any_number_is_a_value(kind):
    made = pa.table({"name": ["a"] * 3, "value": pa.array([1, 2, None], kind)})
    found = parsed(made)
    assert found.points.values.tolist() == [1.0, 2.0]
    assert refusals(found) == [(2, "value", "", "is missing; every point needs a number")]


def test_each_bad_row_is_named_with_its_index_and_reason_and_the_rest_is_kept():
    made = pa.table(
        {
            "name": ["a", None, "", "a", "a", "a", "a", "a"],
            "value": [1.0, 1.0, 1.0, float("inf"), None, 1.0, 1.0, 2.0],
            "metric_type": ["GAUGE", None, None, None, None, "summary", None, "counter"],
            "k-1": pa.array([None] * 6 + ["x", None], pa.string()),
        }
    )
    found = parsed(made)
    assert refusals(found) == [
        (1, "name", "", "is missing; every point needs a metric name"),
        (2, "name", "", "is empty; every point needs a metric name"),
        (3, "value", "inf", "is not a finite number"),
        (4, "value", "", "is missing; every point needs a number"),
        (5, "metric_type", "summary", "is not known; one of gauge, counter, histogram, timer"),
        (6, "labels", "k-1", "is not a label name; use letters, digits and _, beginning with a letter or _"),
    ]
    assert [(row.type, row.value) for row in rows(found.points)] == [("gauge", 1.0), ("counter", 2.0)]
    assert json.loads(found.refused[5].original) == {"name": "a", "value": 1.0, "metric_type": None, "k-1": "x"}
    assert [refusal.index for refusal in found.refused[2:4]] == [3, 4]


def test_refusals_are_made_only_when_they_are_looked_at():
    found = parsed(pa.table({"name": ["a"] * 1_000_000, "value": np.full(1_000_000, np.nan)}))
    assert len(found.refused) == 1_000_000
    assert found.refused[999_999].index == 999_999


def test_a_tenant_is_taken_from_its_column_or_the_labels_and_a_foreign_one_ends_it_all():
    made = small(tenant_id=["acme", None, "beta"], labels=["{}", '{"tenant_id": "beta"}', '{"tenant_id": "beta"}'])
    assert [row.tenant for row in rows(parsed(made).points)] == ["acme", "beta", "beta"]
    for foreign in (small(tenant_id=["acme", "other", None]), small(labels=["{}", '{"tenant_id": "other"}', "{}"])):
        with pytest.raises(ForeignTenantError, match="other"):
            parsed(foreign)


def test_what_was_read_before_changes_nothing():
    known = SeriesTable()
    for _ in range(3):
        made = small(k=["x", "y", "x"], tenant_id=["acme", "beta", None])
        found = points_from_table(made, admission("acme", "acme", "beta", table=known), NOW_US)
        assert found.points.series.tolist() == [0, 1, 0]
        # Another writer may not name what this one may.
        with pytest.raises(ForeignTenantError):
            points_from_table(made, admission("acme", table=known), NOW_US)
    assert len(known) == 2


texts = st.lists(st.sampled_from(["a", "b", None]), min_size=1, max_size=3)


@settings(max_examples=40)
@given(st.lists(texts, min_size=1, max_size=20), st.sampled_from([pa.string(), pa.dictionary(pa.int32(), pa.string())]))
def test_tables_that_nearly_repeat_each_other_are_told_apart(columns, kind):
    known = SeriesTable()
    for values in columns:
        for name in ("name", "k", "l", "tenant_id", "metric_type", "labels"):
            of_name = {
                "tenant_id": {"a": "acme", "b": "beta"},
                "metric_type": {"a": "gauge", "b": "timer"},
                "labels": {"a": "{}", "b": '{"k": "a"}'},
            }.get(name, {"a": "a", "b": "b"})
            made = small(**{"name": ["a"] * len(values), name: pa.array([of_name.get(value or "") for value in values], kind)})
            found = points_from_table(made, admission("acme", "acme", "beta", table=known), NOW_US)
            fresh = parsed(made)
            assert rows(found.points) == rows(fresh.points)
            assert refusals(found) == refusals(fresh)


def test_a_repeated_table_is_still_refused_to_whom_it_is_foreign():
    known = SeriesTable()
    made = small(tenant_id=["acme"] * 3, k=["x", "y", "z"])
    for _ in range(3):
        assert len(points_from_table(made, admission("acme", table=known), NOW_US).points) == 3
    with pytest.raises(ForeignTenantError):
        points_from_table(made, admission("beta", table=known), NOW_US)


def test_an_empty_table_holds_nothing():
    assert len(parsed(pa.table({"name": pa.array([], pa.string()), "value": pa.array([], pa.float64())})).points) == 0


# --- tables of others


def test_a_pandas_frame_becomes_points():
    frame = pd.DataFrame(
        {
            "name": ["a", "b"],
            "value": [1, 2],
            "timestamp": pd.to_datetime(["2026-03-01T11:00:00Z", "2026-03-01T11:30:00Z"]),
            "region": pd.Categorical(["x", None]),
        }
    )
    found = rows(parsed(pa.Table.from_pandas(frame, preserve_index=False)).points)
    assert [(row.name, row.labels, row.ts) for row in found] == [
        ("a", {"region": "x"}, NOW_US - 3_600 * 10**6),
        ("b", {}, NOW_US - 1_800 * 10**6),
    ]


def test_a_polars_frame_becomes_points():
    times = pl.Series([dt.datetime(2026, 3, 1, 11, tzinfo=dt.UTC)] * 2)
    made = {
        "name": ["a", "b"],
        "value": [1.5, 2.5],
        "timestamp": times,
        "region": pl.Series(["x", None], dtype=pl.Categorical),
        "n": [1, 2],
    }
    found = rows(parsed(pl.DataFrame(made).to_arrow()).points)
    assert [row.labels for row in found] == [{"region": "x", "n": "1"}, {"n": "2"}]
