"""A counter's increase: by hand, and the same whatever the buckets, the grain, the range and the order of merging."""

from __future__ import annotations

import datetime as dt
import itertools
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analytics_dagster.errors import UserError
from analytics_dagster.lake.compute import connect
from analytics_dagster.metrics.compile import FINER, build_at
from analytics_dagster.metrics.declarations import Catalogue
from analytics_dagster.metrics.states import LOOK_BACK, joined

if TYPE_CHECKING:
    import duckdb

    from tests.metrics.conftest import Figures

Sample = tuple[dt.datetime, str, float]
START = dt.datetime(2026, 1, 30, tzinfo=dt.UTC)


def increase(samples: Sequence[Sample], since: dt.datetime | None = None, until: dt.datetime | None = None) -> float:
    """Over the sorted samples of each series: how much each rose from the one before, if that one is near enough."""
    total = 0.0
    for _, series in itertools.groupby(sorted(samples, key=lambda s: (s[1], s[0], s[2])), key=lambda s: s[1]):
        for (before_at, _, before), (at, _, value) in itertools.pairwise(series):
            inside = (since is None or at >= since) and (until is None or at < until)
            if inside and at - before_at <= LOOK_BACK:
                total += value - before if value >= before else value
    return total


def _write(figures: Figures, *samples: tuple[str, float] | tuple[str, float, str]) -> None:
    rows = [
        {"ts": s[0], "name": "sent", "type": "counter", "value": s[1], "labels": s[2] if len(s) == 3 else "{}"} for s in samples
    ]
    figures.write("metrics", rows)


def test_the_increase_is_counted_between_samples_and_the_first_one_counts_nothing(figures: Figures) -> None:
    _write(figures, ("2026-01-31 10:00:10", 100.0), ("2026-01-31 10:00:40", 130.0), ("2026-01-31 10:01:10", 150.0))
    assert figures.ask("sent", grain="minute") == [("2026-01-31 10:00", 30.0), ("2026-01-31 10:01", 20.0)]
    assert figures.ask("sent", grain="hour") == [("2026-01-31 10:00", 50.0)]
    assert figures.value("sent") == 50


def test_a_lower_sample_means_that_the_counter_began_again_at_0(figures: Figures) -> None:
    _write(figures, *((f"2026-01-31 10:00:{n:02}", value) for n, value in enumerate([90, 100, 3, 5, 5, 1])))
    assert figures.value("sent") == 10 + 3 + 2 + 0 + 1
    assert figures.value("sent", grain="minute") == 16


def test_what_lies_between_two_days_belongs_to_the_later_one_also_when_only_that_is_asked_for(figures: Figures) -> None:
    _write(figures, ("2026-01-30 23:59", 10.0), ("2026-01-31 00:01", 17.0), ("2026-02-01 12:00", 2.0))
    days = [("2026-01-30 00:00", 0.0), ("2026-01-31 00:00", 7.0), ("2026-02-01 00:00", 2.0)]
    assert figures.ask("sent") == days
    for day, figure in zip((30, 31), days, strict=False):
        asked = dt.date(2026, 1, day)
        for grain in ("minute", "hour", "day"):
            assert sum(row[-1] for row in figures.ask("sent", first=asked, last=asked, grain=grain)) == figure[1]
    assert figures.ask("sent", grain="month") == [("2026-01-01 00:00", 7.0), ("2026-02-01 00:00", 2.0)]


def test_samples_further_apart_than_the_look_back_are_not_joined(figures: Figures) -> None:
    _write(
        figures, ("2026-01-01 12:00", 10.0), ("2026-01-09 12:00", 17.0), ("2026-01-17 12:01", 30.0), ("2026-01-17 13:00", 31.0)
    )
    assert figures.ask("sent") == [("2026-01-01 00:00", 0.0), ("2026-01-09 00:00", 7.0), ("2026-01-17 00:00", 1.0)]
    last = dt.date(2026, 1, 17)
    assert figures.ask("sent", first=last) == [("2026-01-17 00:00", 1.0)]
    assert figures.value("sent", first=dt.date(2026, 1, 9), last=dt.date(2026, 1, 9), grain="minute") == 7


def test_series_are_counted_each_on_its_own_and_then_added_up(figures: Figures) -> None:
    a, b = '{"host":"a","zone":"x"}', '{"host":"b","zone":"x"}'
    _write(figures, *((f"2026-01-31 10:0{n}", v, s) for n, (v, s) in enumerate([(100.0, a), (5.0, b), (110.0, a), (9.0, b)])))
    assert figures.value("sent") == 14
    assert figures.ask("sent", by=("host",)) == [("2026-01-31 00:00", "a", 10.0), ("2026-01-31 00:00", "b", 4.0)]
    assert figures.ask("sent", by=("zone",)) == [("2026-01-31 00:00", "x", 14.0)]
    assert figures.value("sent", where=('host="b"',)) == 4


def test_aggregates_of_a_counter(figures: Figures) -> None:
    _write(figures, ("2026-01-31 10:00", 100.0), ("2026-01-31 10:30", 460.0))
    asked = {None: 360.0, "increase": 360.0, "sum": 360.0, "rate": 0.1, "last": 460.0, "count": 2.0}
    assert {name: figures.value("sent", aggregate=name, grain="hour") for name in asked} == asked
    assert figures.value("sent", aggregate="rate") == 360 / 86_400
    assert figures.value("sent", aggregate="rate", grain="month") == pytest.approx(360 / 86_400 / 31)
    for name in ("avg", "min", "max", "p95"):
        with pytest.raises(UserError, match="'sent' was recorded as a counter; of a counter there are increase, sum, rate"):
            figures.value("sent", aggregate=name)


def test_increase_and_rate_are_of_counters_only(figures: Figures) -> None:
    figures.write("metrics", [{"ts": "2026-01-31 10:00", "name": "depth", "type": "gauge", "value": 1.0}])
    for name in ("increase", "rate"):
        with pytest.raises(UserError, match=f"'depth' was recorded as a gauge; {name} is of counters only"):
            figures.value("depth", aggregate=name)


def test_what_is_not_measured_is_passed_over(figures: Figures) -> None:
    values = [1.0, float("nan"), 4.0, None, 1e25, 6.0]
    rows = [{"ts": f"2026-01-31 10:0{n}", "name": "sent", "type": "counter", "value": v} for n, v in enumerate(values)]
    figures.write("metrics", rows)
    assert figures.value("sent") == 5
    assert sum(row[-1] for row in figures.ask("sent", grain="minute")) == 5


def test_fractions_add_up_exactly(figures: Figures) -> None:
    _write(figures, *((f"2026-01-31 {n:02}:00", round(n * 0.1, 1)) for n in range(24)))
    assert figures.value("sent") == 2.3


def test_a_late_sample_changes_the_stored_row_of_its_own_day_only(figures: Figures) -> None:
    samples = [("2026-01-30 12:00", 10.0), ("2026-01-31 12:00", 20.0), ("2026-02-01 12:00", 30.0)]
    _write(figures, *samples)
    before = {row["ts"]: row for row in figures.rows("points", "day")}
    _write(figures, *samples, ("2026-01-31 18:00", 28.0))
    after = {row["ts"]: row for row in figures.rows("points", "day")}
    assert [ts.day for ts in before if before[ts] != after[ts]] == [31]
    assert [row[-1] for row in figures.ask("sent")] == [0.0, 18.0, 2.0]


@pytest.mark.parametrize("seed", range(3))
def test_any_range_at_any_grain_gives_what_its_samples_rose(figures: Figures, seed: int) -> None:
    chance = random.Random(seed)
    moments = sorted(START + dt.timedelta(seconds=chance.randrange(4 * 86_400)) for _ in range(120))
    samples = [(ts, chance.choice("ab"), float(chance.randrange(50))) for ts in moments]
    _write(figures, *((f"{ts:%Y-%m-%d %H:%M:%S}", value, f'{{"host":"{host}"}}') for ts, host, value in samples))
    for grain, step in (("minute", 60), ("hour", 3600), ("day", 86_400)):
        for _ in range(3):
            ends = sorted(chance.randrange(4 * 86_400 // step + 1) for _ in range(2))
            since, until = (START + dt.timedelta(seconds=step * end) for end in ends)
            answer = figures.ask("sent", grain=grain, since=since, until=until)
            assert sum(row[-1] for row in answer) == increase(samples, since, until)


def test_a_range_of_times_takes_the_buckets_that_begin_in_it(figures: Figures) -> None:
    rows = [{"ts": f"2026-01-31 10:{m:02}:30", "name": "depth", "type": "gauge", "value": float(m)} for m in range(5)]
    figures.write("metrics", rows)
    ten = dt.datetime(2026, 1, 31, 10, tzinfo=dt.UTC)
    minutes = figures.ask("depth", grain="minute", since=ten + dt.timedelta(minutes=1), until=ten + dt.timedelta(minutes=3))
    assert minutes == [("2026-01-31 10:01", 1.0), ("2026-01-31 10:02", 2.0)]
    zone = dt.timezone(dt.timedelta(hours=2))
    assert figures.ask("depth", grain="minute", since=(ten + dt.timedelta(minutes=4)).astimezone(zone))[0][1] == 4
    assert figures.ask("depth", since=ten) == []
    assert figures.ask("depth", first=ten.date(), until=ten) == [("2026-01-31 00:00", 2.0)]
    assert figures.ask("depth", since=ten, until=ten, grain="minute") == []
    with pytest.raises(UserError, match="since 2026-01-31T10:00:00 has no time zone"):
        figures.ask("depth", since=ten.replace(tzinfo=None))


def test_minutes_are_refused_where_they_are_not_kept(figures: Figures) -> None:
    figures.write("plays", [{"ts": "2026-01-31 10:00"}])
    with pytest.raises(
        UserError, match="metric 'plays' is kept by the hour; its semantic model may set time_granularity: minute"
    ):
        figures.ask("plays", grain="minute")


@pytest.fixture(scope="module")
def engine() -> Any:
    with connect(threads=1) as connection:
        yield connection


moments = st.integers(0, 20 * 86_400 - 1).map(lambda s: START + dt.timedelta(seconds=s))
counted = st.lists(st.tuples(moments, st.sampled_from("ab"), st.integers(0, 99).map(float)), max_size=40)


@settings(max_examples=20)
@given(samples=counted)
def test_every_grain_and_every_way_of_merging_gives_the_increase_of_the_raw_samples(
    engine: duckdb.DuckDBPyConnection, catalogue: Catalogue, samples: list[Sample]
) -> None:
    family = catalogue.family("points")
    measure = family.measure("points_increase")
    _source(engine, samples)

    def total(table: str) -> float:
        rose = f"SELECT sum(points_increase) FROM ({joined(measure, ['name', 'type', 'labels'], table)})"
        return float(engine.execute(rose).fetchall()[0][0] or 0)

    for grain in family.grains:
        engine.execute(f"CREATE OR REPLACE TEMP TABLE {grain}s AS {build_at(family, grain, family.measures)}")
        assert total(f"{grain}s") == increase(samples)
    for finer, (coarser, query) in zip(family.grains, family.queries.merges.items(), strict=False):
        engine.execute(f"CREATE OR REPLACE TEMP VIEW {FINER} AS SELECT * FROM {finer}s")
        columns = ", ".join(c.name for c in family.table(coarser).columns)
        merged, built = (
            engine.sql(f"SELECT {columns} FROM ({sql}) ORDER BY ALL").fetchall() for sql in (query, f"SELECT * FROM {coarser}s")
        )
        assert merged == built


def _source(engine: duckdb.DuckDBPyConnection, samples: Sequence[Sample]) -> None:
    rows = pa.table(
        {
            "ts": pa.array([s[0] for s in samples], pa.timestamp("us", tz="UTC")),
            "name": pa.array(["sent"] * len(samples)),
            "type": pa.array(["counter"] * len(samples)),
            "labels": pa.array([s[1] for s in samples], pa.string()),
            "value": pa.array([s[2] for s in samples], pa.float64()),
        }
    )
    engine.register("source", rows)
