"""Sets of distinct ids: what is stored of them, that what is counted ahead is their count, and that both outlive merging."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analytics_dagster.lake.compute import connect
from analytics_dagster.lake.lake import TenantLake
from analytics_dagster.metrics.aggregate import aggregate_days
from analytics_dagster.metrics.declarations import Family, Grain
from analytics_dagster.metrics.load import load_catalogue
from analytics_dagster.metrics.sets import SetBuilder, in_order
from analytics_dagster.metrics.states import distinct_figures

if TYPE_CHECKING:
    import duckdb

    from tests.metrics.conftest import Figures

OWN = """
semantic_models:
  - name: own
    description: Ids.
    model: raw/metrics
    owner: tests
    defaults: {time_granularity: GRAIN}
    dimensions:
      - {name: name, description: A dimension.}
      - {name: type, description: Another.}
    measures:
      - {name: rows, agg: count, expr: point_id, description: Rows.}
      - {name: ids, agg: count_distinct, expr: labels, description: Distinct labels.}
metrics:
  - {name: own_ids, description: x, type: simple, type_params: {measure: ids}, unit: x, direction: neutral}
"""
Row = tuple[dt.datetime, str | None, str | None, str | None]

# Days before 1970 too: their microseconds are negative.
START = dt.datetime(1969, 12, 30, tzinfo=dt.UTC)
rows = st.lists(
    st.tuples(
        st.integers(0, 4 * 24 * 3600 - 1).map(lambda s: START + dt.timedelta(seconds=s)),
        st.sampled_from([None, "", "a", "b"]),
        st.sampled_from([None, "x"]),
        st.sampled_from([None, "", "l1", "l22", "l333", "ü"]),
    ),
    max_size=40,
)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Family:
    folder = tmp_path_factory.mktemp("own")
    (folder / "own.yaml").write_text(OWN.replace("GRAIN", "hour"), encoding="utf-8")
    return load_catalogue(folder).family("own")


@pytest.fixture(scope="module")
def engine() -> Any:
    with connect(threads=1) as connection:
        yield connection


def _built(engine: duckdb.DuckDBPyConnection, family: Family, given_rows: Sequence[Row]) -> pa.Table:
    """The days' rows with their sets, left as the table `days`; what was counted is in the table `counted`."""
    columns = list(zip(*given_rows, strict=True)) if given_rows else [[]] * 4
    made = {n: pa.array(c, pa.string()) for n, c in zip(("name", "type", "labels"), columns[1:], strict=True)}
    point_id = pa.array([str(n) for n in range(len(given_rows))], pa.string())
    engine.register("source", pa.table({"ts": pa.array(columns[0], pa.timestamp("us", tz="UTC")), **made, "point_id": point_id}))
    engine.execute(f"CREATE OR REPLACE TEMP TABLE finer AS {family.queries.build}")
    query = SetBuilder(engine, family).with_sets(Grain.DAY, family.queries.merges[Grain.DAY], {})
    batches = engine.sql(query).to_arrow_table().to_batches()
    schema = family.table(Grain.DAY).arrow
    cast = (pa.RecordBatch.from_arrays([b.column(f.name).cast(f.type) for f in schema], schema=schema) for b in batches)
    table = pa.Table.from_batches([in_order(batch, family.measures[1:]) for batch in cast], schema)
    engine.register("days", table)
    return table


def _hash(id_: str) -> int:
    return int.from_bytes(hashlib.md5(id_.encode()).digest()[8:], "little") >> 1


def _by_hand(given_rows: Sequence[Row], key: Callable[[Row], tuple[Any, ...]]) -> dict[tuple[Any, ...], set[str]]:
    groups: dict[tuple[Any, ...], set[str]] = defaultdict(set)
    for row in given_rows:
        if row[3] is not None:
            groups[key(row)].add(row[3])
    return groups


def _day(row: Row) -> dt.datetime:
    return row[0].replace(hour=0, minute=0, second=0)


@settings(max_examples=50)
@given(given_rows=rows)
def test_a_day_keeps_the_sorted_hashes_of_its_ids_and_a_bit_for_each_hour(
    engine: duckdb.DuckDBPyConnection, own: Family, given_rows: list[Row]
) -> None:
    made = {(r["ts"], r["name"], r["type"]): (r["ids"], r["ids_within"]) for r in _built(engine, own, given_rows).to_pylist()}
    expected: dict[tuple[Any, ...], dict[int, int]] = {(_day(r), r[1], r[2]): {} for r in given_rows}
    for row in given_rows:
        if row[3] is not None:
            bits = expected[_day(row), row[1], row[2]]
            bits[_hash(row[3])] = bits.get(_hash(row[3]), 0) | 1 << row[0].hour
    lists = {key: tuple(map(list, zip(*sorted(bits.items()), strict=True))) or (None, None) for key, bits in expected.items()}
    assert made == lists


@settings(max_examples=50)
@given(given_rows=rows)
def test_merging_sets_over_time_and_dimensions_counts_what_one_pass_counts(
    engine: duckdb.DuckDBPyConnection, own: Family, given_rows: list[Row]
) -> None:
    _built(engine, own, given_rows)
    engine.execute("CREATE OR REPLACE TEMP TABLE months AS SELECT date_trunc('month', ts) AS ts, type, ids FROM days")
    figures = engine.sql(distinct_figures(own.measures[1], "ts, type", "months", "figure")).fetchall()
    by_hand = _by_hand(given_rows, lambda r: (_day(r).replace(day=1), r[2]))
    assert {(ts, kind): count for ts, kind, count in figures} == {key: len(ids) for key, ids in by_hand.items()}


@settings(max_examples=50)
@given(given_rows=rows)
def test_what_is_counted_ahead_is_the_count_of_the_sets(
    engine: duckdb.DuckDBPyConnection, own: Family, given_rows: list[Row]
) -> None:
    _built(engine, own, given_rows)
    counted = {(ts, d, v): n for ts, _, d, v, n in engine.execute("SELECT * FROM counted").fetchall()}
    expected: dict[tuple[Any, ...], int] = {(_day(r), None, None): 0 for r in given_rows}
    expected |= {(*key, None, None): len(ids) for key, ids in _by_hand(given_rows, lambda r: (_day(r),)).items()}
    for at, dimension in ((1, "name"), (2, "type")):
        groups = _by_hand(given_rows, lambda r, at=at: (_day(r), r[at]))
        expected |= {(day, dimension, value): len(ids) for (day, value), ids in groups.items()}
    assert counted == expected


def test_a_dimension_of_many_values_is_counted_too(engine: duckdb.DuckDBPyConnection, own: Family) -> None:
    """More values than an integer has bits."""
    _built(engine, own, [(START, f"n{i % 70}", "x", f"l{i % 100}") for i in range(700)])
    counts = dict(engine.execute("SELECT value, count FROM counted WHERE dimension = 'name'").fetchall())
    assert counts == {f"n{n}": 10 for n in range(70)}
    assert engine.execute("SELECT count FROM counted WHERE dimension IS NULL").fetchall() == [(100,)]


def _point(time: str, labels: str | None, name: str = "n") -> dict[str, Any]:
    return {"ts": time, "name": name, "type": "gauge", "value": 1.0, "labels": labels}


POINTS = [
    _point("2026-01-30 10:05", "ann"),
    _point("2026-01-30 10:05", "ann", "other"),
    _point("2026-01-30 10:59", "bob"),
    _point("2026-01-30 23:00", "ann"),
    _point("2026-01-31 00:00", "ann"),
    _point("2026-01-31 00:01", None),
]


@pytest.mark.parametrize("finest", ["minute", "hour"])
def test_the_finest_grain_is_read_from_the_sets_above_it(figures: Figures, declare: Callable[[str], Path], finest: str) -> None:
    figures.catalogue = load_catalogue(declare(OWN.replace("GRAIN", finest)))
    figures.write("metrics", POINTS)
    hours = [("2026-01-30 10:00", 2.0), ("2026-01-30 23:00", 1.0), ("2026-01-31 00:00", 1.0)]
    assert figures.ask("own_ids", grain="hour") == hours
    assert figures.ask("own_ids", grain="hour", where=('name="other"',)) == [("2026-01-30 10:00", 1.0)]
    assert figures.ask("own_ids", grain="hour", until=dt.datetime(2026, 1, 30, 23, tzinfo=dt.UTC)) == hours[:1]
    if finest == "minute":
        minutes = [("2026-01-30 10:05", 1.0), ("2026-01-30 10:59", 1.0), *hours[1:]]
        assert figures.ask("own_ids", grain="minute") == minutes


QUESTIONS: list[dict[str, Any]] = [
    {},
    {"by": ("name",)},
    {"by": ("name", "type")},
    {"by": ("name",), "where": ('name=~"o.*"',)},
    {"where": ('name="other"',)},
    {"where": ('name="nobody"',)},
    {"where": ('name!="other"',)},
    {"where": ('name=""',)},
    {"by": ("type",), "where": ('name="n"',)},
    {"first": dt.date(2026, 1, 31)},
    {"grain": "month"},
]


def _without_counts(lake: TenantLake, family: Family) -> None:
    assert family.counts is not None
    lake.table(family.counts).overwrite(family.counts.arrow.empty_table())


def test_counts_say_what_the_sets_say_and_days_that_have_none_are_read_from_the_sets(
    figures: Figures, declare: Callable[[str], Path]
) -> None:
    figures.catalogue = load_catalogue(declare(OWN.replace("GRAIN", "hour")))
    figures.write("metrics", [*POINTS, _point("2026-01-31 09:00", "carl", "")])
    by_counts = [figures.ask("own_ids", **question) for question in QUESTIONS]
    assert by_counts[0] == [("2026-01-30 00:00", 2.0), ("2026-01-31 00:00", 2.0)]
    family = figures.catalogue.family("own")
    _without_counts(figures.tenant, family)
    assert [figures.ask("own_ids", **question) for question in QUESTIONS] == by_counts
    one = dt.date(2026, 1, 31)
    aggregate_days(figures.tenant, family, one, one, stream_ms=30_000)
    assert [figures.ask("own_ids", **question) for question in QUESTIONS] == by_counts


def test_skipped_days_keep_their_counts(figures: Figures, declare: Callable[[str], Path]) -> None:
    figures.catalogue = load_catalogue(declare(OWN.replace("GRAIN", "hour")))
    figures.write("metrics", POINTS)
    figures.write("metrics", [_point("2026-01-30 10:00", "a"), _point("2026-01-31 10:00", "b")], skip=[dt.date(2026, 1, 30)])
    assert figures.ask("own_ids") == [("2026-01-30 00:00", 2.0), ("2026-01-31 00:00", 1.0)]
