"""DataFrames and Arrow tables: each way of saying the same rows records the same points."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from analytics_dagster import AnalyticsMetric, LocalEngine, RefusedPointsError
from analytics_dagster.engine import portions
from analytics_dagster.errors import NotFoundError, UserError
from analytics_dagster.ingest.log.interface import Batch

Logged = Callable[[], list[dict[str, Any]]]
NOW = dt.datetime(2026, 3, 10, 5, 0, tzinfo=dt.UTC)
ROWS = [
    {
        "name": f"m{n % 3}",
        "value": n / 2,
        "timestamp": NOW - dt.timedelta(microseconds=n),
        "tenant_id": ("default", "tenant_123")[n % 2],
        "metric_type": ("gauge", "timer")[n % 2],
        "labels": {"region": f"r{n % 4}"} | ({"host": f"h{n % 5}"} if n % 2 else {}),
    }
    for n in range(200)
]
EXPECTED = [
    (
        row["tenant_id"],
        row["name"],
        row["metric_type"],
        json.dumps(row["labels"], sort_keys=True, separators=(",", ":")),
        row["timestamp"],
        row["value"],
    )
    for row in ROWS
]
FLAT = [{**row, "host": None, **row["labels"]} for row in ROWS]
for _row in FLAT:
    del _row["labels"]
MAPS = pa.Table.from_pylist([{**row, "labels": None} for row in ROWS]).set_column(
    5, "labels", pa.array([list(row["labels"].items()) for row in ROWS], pa.map_(pa.string(), pa.string()))
)
TABLES: dict[str, Callable[[], Any]] = {
    "objects": lambda: [AnalyticsMetric(**row) for row in ROWS],
    "pandas with dicts": lambda: pd.DataFrame(ROWS),
    "pandas with label columns": lambda: pd.DataFrame(FLAT),
    "pandas with objects": lambda: pd.DataFrame(FLAT).astype(object),
    "pandas with nanoseconds": lambda: pd.DataFrame(FLAT).assign(timestamp=lambda d: d.timestamp.astype("datetime64[ns, UTC]")),
    "pandas with categories": lambda: pd.DataFrame(FLAT).astype({"name": "category", "region": "category", "host": "category"}),
    "pandas with Arrow's types": lambda: pd.DataFrame(FLAT).convert_dtypes(dtype_backend="pyarrow"),
    "pandas with another index": lambda: pd.DataFrame(ROWS).set_index(pd.Index(range(500, 700))),
    "polars with structs": lambda: pl.DataFrame(ROWS),
    "polars with label columns": lambda: pl.DataFrame(FLAT),
    "polars with categories": lambda: pl.DataFrame(FLAT).with_columns(pl.col("region").cast(pl.Categorical)),
    "polars in chunks": lambda: pl.concat([pl.DataFrame(FLAT[:50]), pl.DataFrame(FLAT[50:])], rechunk=False, how="diagonal"),
    "an Arrow table with maps": lambda: MAPS,
    "an Arrow table with structs": lambda: pl.DataFrame(ROWS).to_arrow(),
    "an Arrow record batch": lambda: pa.RecordBatch.from_pylist(FLAT),
    "an Arrow reader": lambda: pa.Table.from_pylist(FLAT).to_reader(max_chunksize=33),
}


@pytest.fixture
def engine(one_engine: LocalEngine) -> LocalEngine:
    return one_engine


@pytest.fixture
def logged(logged_now: Callable[[], list[Batch]]) -> Logged:
    return lambda: [row for batch in logged_now() for row in batch.rows.to_pylist()]


@pytest.mark.parametrize("kind", TABLES)
def test_equal_rows_are_equal_points_whatever_holds_them(engine: LocalEngine, logged: Logged, kind: str) -> None:
    assert asyncio.run(engine.record_metrics(TABLES[kind]())) == len(ROWS)
    found = [(r["tenant"], r["name"], r["type"], r["labels"], r["ts"], r["value"]) for r in logged()]
    assert found == EXPECTED


def test_only_name_and_value_are_needed(engine: LocalEngine, logged: Logged) -> None:
    engine.record_metrics_sync(pd.DataFrame({"name": ["a", "b"], "value": [1, 2]}))
    now = dt.datetime(2026, 3, 10, 6, 0, tzinfo=dt.UTC)
    assert [(r["tenant"], r["name"], r["type"], r["labels"], r["ts"], r["value"]) for r in logged()] == [
        ("default", "a", "gauge", "{}", now, 1.0),
        ("default", "b", "gauge", "{}", now, 2.0),
    ]


def test_a_missing_cell_is_no_label_and_a_missing_time_is_now(engine: LocalEngine, logged: Logged) -> None:
    frame = pd.DataFrame({"name": "a", "value": [1.0, 2.0, 3.0], "labels": [{"x": "y"}, None, float("nan")]})
    frame["timestamp"] = [NOW, None, pd.NaT]
    frame["zone"] = ["z", None, None]
    engine.record_metrics_sync(frame)
    now = dt.datetime(2026, 3, 10, 6, 0, tzinfo=dt.UTC)
    assert [(r["labels"], r["ts"]) for r in logged()] == [('{"x":"y","zone":"z"}', NOW), ("{}", now), ("{}", now)]


def test_rows_that_are_refused_are_named_by_their_index(engine: LocalEngine, logged: Logged) -> None:
    frame = pd.DataFrame(
        {
            "name": ["a", "", "a", "a", "a", "a"],
            "value": [1.0, 1.0, np.nan, np.inf, 1.0, 1.0],
            "timestamp": [NOW] * 4 + [NOW + dt.timedelta(days=1), NOW],
            "labels": [{}, {}, {}, {}, {}, {"a b": "c"}],
        }
    )
    with pytest.raises(RefusedPointsError, match="5 of 6 points refused, nothing was recorded") as error:
        engine.record_metrics_sync(frame)
    assert [(row.index, row.field) for row in error.value.refused] == [
        (1, "name"),
        (2, "value"),
        (3, "value"),
        (4, "timestamp"),
        (5, "labels"),
    ]
    assert logged() == []


@pytest.mark.parametrize("labels", [7, ["a"], "text", {"a": 1.5}, {"a": {"b": "c"}}, {1: "x"}, {"a": "\ud800"}, object()])
def test_labels_that_are_none_are_refused(engine: LocalEngine, logged: Logged, labels: Any) -> None:
    frame = pd.DataFrame({"name": ["a", "a"], "value": [1.0, 2.0], "labels": [{"ok": "x"}, labels]})
    with pytest.raises(RefusedPointsError) as error:
        engine.record_metrics_sync(frame)
    assert [row.index for row in error.value.refused] == [1]
    assert logged() == []


def test_dicts_that_are_equal_to_python_stay_apart(engine: LocalEngine, logged: Logged) -> None:
    labels = [{"a": "1"}, {"a": 1}, {"a": True}, {"a": "true"}]
    engine.record_metrics_sync(pd.DataFrame({"name": "a", "value": 1.0, "labels": labels}))
    assert [row["labels"] for row in logged()] == ['{"a":"1"}', '{"a":"1"}', '{"a":"true"}', '{"a":"true"}']


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        (pd.DataFrame({"name": ["a"]}), "'value' is missing"),
        (pd.DataFrame({"name": ["a"], "value": [1.0], 7: ["x"]}), "not named by a text"),
        (pd.DataFrame({"name": ["a"], "value": ["x"]}), "value"),
        (pd.DataFrame([["a", 1.0, "x", "y"]], columns=["name", "value", "zone", "zone"]), "twice"),
        (pd.DataFrame({"name": ["a", "b"], "value": [1.0, 2.0], "mixed": ["x", 1]}), "several kinds"),
        (pa.table({"name": ["a"], "value": [1.0], "load": [1.5]}), "a label is text"),
    ],
)
def test_a_table_that_cannot_be_points_is_refused_as_a_whole(engine: LocalEngine, table: Any, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        engine.record_metrics_sync(table)


def test_an_unknown_tenant_in_a_table_is_refused(engine: LocalEngine) -> None:
    with pytest.raises(NotFoundError, match="no tenant 'acme'"):
        engine.record_metrics_sync(pl.DataFrame({"name": ["a"], "value": [1.0], "tenant_id": ["acme"]}))


def test_a_table_too_large_for_one_commit_goes_in_portions(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch, logged_now: Callable[[], list[Batch]]
) -> None:
    monkeypatch.setattr(portions, "PORTION_POINTS", 7_000)
    monkeypatch.setattr("analytics_dagster.ingest.log.embedded._MAX_COMMIT_ROWS", 7_000)
    frame = pl.DataFrame({"name": ["a"] * 50_000, "value": np.arange(50_000.0), "timestamp": [NOW] * 50_000})
    assert engine.record_metrics_sync(frame) == 50_000
    assert [batch.rows.num_rows for batch in logged_now()] == [7_000] * 7 + [1_000]
    assert [v for batch in logged_now() for v in batch.rows.column("value").to_pylist()] == list(range(50_000))


# --- local time


@pytest.fixture(params=["Europe/Brussels", "America/St_Johns", "Australia/Lord_Howe", "Asia/Kolkata", "UTC"])
def zone(request: pytest.FixtureRequest) -> Iterator[str]:
    """This machine, moved there."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = request.param
    time.tzset()
    yield request.param
    if before is None:
        del os.environ["TZ"]
    else:
        os.environ["TZ"] = before
    time.tzset()


# Around every change of 2025 in those zones, with the hours that come twice and those that do not exist.
WALLS = [
    dt.datetime(2025, month, day) + dt.timedelta(minutes=minutes, microseconds=1)
    for month, day in ((3, 9), (3, 30), (4, 6), (7, 1), (10, 5), (10, 26), (11, 2))
    for minutes in range(0, 240, 10)
]


def _utc(wall: dt.datetime) -> dt.datetime:
    """By PEP 495: an hour that does not exist is read with the offset before it (fold=0)."""
    return dt.datetime.fromtimestamp(wall.timestamp(), dt.UTC)


def test_a_column_without_a_zone_is_local_time_as_python_has_it(engine: LocalEngine, logged: Logged, zone: str) -> None:
    for unit in ("s", "ms", "us", "ns"):
        walls = [wall.replace(microsecond=0) for wall in WALLS] if unit in ("s", "ms") else WALLS
        frame = pd.DataFrame({"name": "a", "value": 1.0, "timestamp": pd.Series(walls).astype(f"datetime64[{unit}]")})
        engine.record_metrics_sync(frame)
        assert [row["ts"] for row in logged()][-len(walls) :] == [_utc(wall) for wall in walls]


def test_every_way_reads_local_time_alike(engine: LocalEngine, logged: Logged, zone: str) -> None:
    expected = [_utc(wall) for wall in WALLS]
    plain = {"name": ["a"] * len(WALLS), "value": [1.0] * len(WALLS)}
    for data in (
        [AnalyticsMetric("a", 1.0, wall) for wall in WALLS],
        [AnalyticsMetric("a", 1.0, pd.Timestamp(wall)) for wall in WALLS],
        pl.DataFrame({**plain, "timestamp": WALLS}),
        pa.table({**plain, "timestamp": pa.array(WALLS, pa.timestamp("us"))}),
        pd.DataFrame({**plain, "timestamp": pd.Series(WALLS, dtype=object)}),
    ):
        engine.record_metrics_sync(data)
        assert [row["ts"] for row in logged()][-len(WALLS) :] == expected
    for wall in WALLS[:5]:
        engine.record_metric_sync(AnalyticsMetric("a", 1.0, wall))
    assert [row["ts"] for row in logged()][-5:] == expected[:5]


def test_the_second_of_two_equal_hours_can_be_meant(engine: LocalEngine, logged: Logged, zone: str) -> None:
    walls = [wall.replace(fold=1) for wall in WALLS]
    engine.record_metrics_sync([AnalyticsMetric("a", 1.0, wall) for wall in walls])
    assert [row["ts"] for row in logged()] == [_utc(wall) for wall in walls]
