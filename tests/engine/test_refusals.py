"""What may not be recorded is named: index, field, value and reason; and nothing of its call is kept."""

from __future__ import annotations

import asyncio
import datetime as dt
import math
import pickle
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analytics_dagster import AnalyticsMetric, LocalEngine, MetricType, RefusedPointsError
from analytics_dagster.engine.metric_rows import MetricRows, moment_us
from analytics_dagster.errors import UserError
from analytics_dagster.ingest.log.interface import Batch
from analytics_dagster.ingest.points import Admission, SeriesTable, WriteScope

Logged = Callable[[], list[dict[str, Any]]]
NOW = dt.datetime(2026, 3, 10, 5, 0, tzinfo=dt.UTC)

BAD: dict[str, tuple[dict[str, Any], str, str]] = {
    "a NaN": ({"value": math.nan}, "value", "not a finite number"),
    "an infinity": ({"value": -math.inf}, "value", "not a finite number"),
    "a number past all floats": ({"value": 10**400}, "value", "not a finite number"),
    "text for a number": ({"value": "1.5"}, "value", "not a number"),
    "a truth for a number": ({"value": True}, "value", "not a number"),
    "no number": ({"value": None}, "value", "not a number"),
    "an empty name": ({"name": ""}, "name", "empty"),
    "a blank name": ({"name": "  "}, "name", "empty"),
    "a name that is no text": ({"name": 7}, "name", "not text"),
    "a long name": ({"name": "n" * 256}, "name", "longer than 255"),
    "a name with a line break": ({"name": "a\nb"}, "name", "cannot be printed"),
    "a label key with a space": ({"labels": {"a b": "c"}}, "labels", "not a label name"),
    "a label key that begins with a digit": ({"labels": {"1a": "c"}}, "labels", "not a label name"),
    "a label key that is no text": ({"labels": {1: "c"}}, "labels", "not a label name"),
    "a reserved label": ({"labels": {"severity": "c"}}, "labels", "reserved"),
    "a label that begins with __": ({"labels": {"__a": "c"}}, "labels", "reserved"),
    "a long label value": ({"labels": {"a": "c" * 1_025}}, "labels.a", "longer than 1024"),
    "a label value that is no text": ({"labels": {"a": 1.5}}, "labels.a", "not text"),
    "a label value of half a character": ({"labels": {"a": "\ud800"}}, "labels", "surrogate"),
    "too many labels": ({"labels": {f"l{n}": "x" for n in range(65)}}, "labels", "more than 64"),
    "labels that are no mapping": ({"labels": ["a"]}, "labels", "not a mapping"),
    "a type that is none": ({"metric_type": "speed"}, "metric_type", "not known"),
    "a type that is no text": ({"metric_type": ["gauge"]}, "metric_type", "not known"),
    "a tenant that is no text": ({"tenant_id": 7}, "tenant_id", "not text"),
    "a time too far ahead": ({"timestamp": dt.datetime(2026, 3, 10, 6, 10, 1, tzinfo=dt.UTC)}, "timestamp", "in the future"),
    "a time before all tables": ({"timestamp": dt.datetime(2004, 12, 31, tzinfo=dt.UTC)}, "timestamp", "first day"),
    "a time that is a number": ({"timestamp": 1_773_000_000}, "timestamp", "not a datetime"),
    "pandas' NaT": ({"timestamp": pd.NaT}, "timestamp", "not a datetime"),
    "a time before all time": ({"timestamp": dt.datetime(1, 1, 1)}, "timestamp", ""),
}


@pytest.fixture
def engine(one_engine: LocalEngine) -> LocalEngine:
    return one_engine


@pytest.fixture
def logged(logged_now: Callable[[], list[Batch]]) -> Logged:
    return lambda: [row for batch in logged_now() for row in batch.rows.to_pylist()]


def _metric(**changes: Any) -> AnalyticsMetric:
    return AnalyticsMetric(**{"name": "cpu", "value": 1.0, "timestamp": NOW, **changes})


@pytest.mark.parametrize("what", BAD)
def test_it_is_refused_by_name_and_nothing_of_its_call_is_recorded(engine: LocalEngine, logged: Logged, what: str) -> None:
    changes, field, reason = BAD[what]
    bad = _metric(**changes)
    for call in ([bad], [_metric(value=n) for n in range(50)] + [bad]):
        with pytest.raises(RefusedPointsError) as error:
            engine.record_metrics_sync(call)
        [row] = error.value.refused
        assert (row.index, row.field, error.value.count) == (len(call) - 1, field, 1)
        assert reason in row.reason
        assert f"point {len(call) - 1}: {field}" in str(error.value)
    assert logged() == []


def test_the_first_hundred_are_named_and_all_are_counted(engine: LocalEngine) -> None:
    metrics = [_metric(value=math.nan if n % 2 else 1.0) for n in range(20_000)]
    with pytest.raises(RefusedPointsError, match=r"10,000 of 20,000 points refused, nothing was recorded") as error:
        asyncio.run(engine.record_metrics(metrics))
    assert [row.index for row in error.value.refused] == list(range(1, 201, 2))
    assert str(error.value).endswith("and 9,900 more")
    again = pickle.loads(pickle.dumps(error.value))
    assert (str(again), again.count, again.refused) == (str(error.value), 10_000, error.value.refused)


def test_what_is_no_metric_is_refused(engine: LocalEngine) -> None:
    with pytest.raises(RefusedPointsError, match="point 0: point 'cpu' is not an AnalyticsMetric"):
        engine.record_metrics_sync(["cpu"])  # type: ignore[list-item]
    for nothing in (7, "cpu", {"name": "cpu"}):
        with pytest.raises(UserError, match="takes AnalyticsMetric objects"):
            engine.record_metrics_sync(nothing)  # type: ignore[arg-type]


def test_a_time_as_far_ahead_as_is_allowed_is_taken(engine: LocalEngine) -> None:
    engine.record_metric_sync(_metric(timestamp=dt.datetime(2026, 3, 10, 6, 10, tzinfo=dt.UTC)))


@pytest.mark.parametrize("value", [1, np.float32(1), np.int16(1), np.float64(1), Decimal(1)])
def test_numbers_of_any_kind_are_numbers(engine: LocalEngine, logged: Logged, value: Any) -> None:
    engine.record_metrics_sync([_metric(value=value)] * 20)
    assert {row["value"] for row in logged()} == {1.0}


def test_labels_that_are_equal_to_python_stay_apart(engine: LocalEngine, logged: Logged) -> None:
    some = [_metric(labels={"a": value}) for value in ("1", 1, True, "true", 0, False)]
    engine.record_metrics_sync(some * 5)
    engine.record_metrics_sync(some)
    assert [row["labels"] for row in logged()[-6:]] == [
        '{"a":"1"}',
        '{"a":"1"}',
        '{"a":"true"}',
        '{"a":"true"}',
        '{"a":"0"}',
        '{"a":"false"}',
    ]


def test_types_are_known_in_any_case(engine: LocalEngine, logged: Logged) -> None:
    engine.record_metrics_sync([_metric(metric_type=kind) for kind in (MetricType.COUNTER, "counter", "Counter", "COUNTER")])
    assert {row["type"] for row in logged()} == {"counter"}


@settings(max_examples=40)
@given(
    st.lists(
        st.builds(
            AnalyticsMetric,
            name=st.sampled_from(["cpu", "", "ram"]),
            value=st.one_of(st.floats(), st.integers(-5, 5), st.just(None)),
            timestamp=st.datetimes(
                dt.datetime(2004, 12, 25), dt.datetime(2026, 3, 12), timezones=st.sampled_from([dt.UTC, None])
            ),
            tenant_id=st.sampled_from([None, "acme"]),
            metric_type=st.sampled_from(["gauge", "Timer", "?"]),
            labels=st.dictionaries(st.sampled_from(["a", "b", "c d"]), st.sampled_from(["x", "y", 1, True]), max_size=2),
        ),
        min_size=9,
        max_size=30,
    )
)
def test_metrics_as_columns_are_the_metrics_one_by_one(metrics: list[AnalyticsMetric]) -> None:
    latest = 1_773_122_400_000_000
    seen: list[tuple[str, list[Any], list[Any]]] = []
    for size in (len(metrics), 1):
        rows = MetricRows(SeriesTable())
        admission = Admission(rows.table, WriteScope("default", frozenset({"acme"})), latest)
        points, refused = [], []
        for start in range(0, len(metrics), size):
            parsed = rows.points(metrics[start : start + size], admission)
            points += [
                (rows.table.tenants[n], rows.table.types[n], rows.table.names[n], rows.table.labels[n], ts, value)
                for n, ts, value in zip(parsed.points.series, parsed.points.ts, parsed.points.values, strict=True)
            ]
            refused += [(start + row.index, row.field, row.reason) for row in parsed.refused]
        seen.append(("", points, refused))
    assert seen[0] == seen[1]


@given(st.datetimes(dt.datetime(2005, 1, 2), dt.datetime(2200, 1, 1), timezones=st.sampled_from([None, dt.UTC])))
def test_a_moment_is_exact_to_the_microsecond(moment: dt.datetime) -> None:
    since = moment.astimezone(dt.UTC) - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    assert moment_us(moment) == since // dt.timedelta(microseconds=1)


def test_homes_are_untouched_by_a_refusal(home: Path) -> None:
    """The home is opened before rows are looked at, but holds no point."""
    with LocalEngine(home) as engine, pytest.raises(RefusedPointsError):
        engine.record_metric_sync(_metric(name=""))
