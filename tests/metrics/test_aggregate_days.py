"""From raw to stored aggregates: repeated, in parts, with days kept back, for tenants that have nothing."""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from analytics_dagster.lake.content import day_contents
from analytics_dagster.lake.schemas import PLAYS
from analytics_dagster.metrics.aggregate import aggregate_days
from analytics_dagster.metrics.load import load_catalogue

if TYPE_CHECKING:
    from tests.metrics.conftest import Figures

FIRST, LAST = dt.date(2026, 1, 30), dt.date(2026, 2, 2)
DAYS = [FIRST + dt.timedelta(days=n) for n in range((LAST - FIRST).days + 1)]


def _plays(seed: int, count: int = 200) -> list[dict[str, Any]]:
    chance = random.Random(seed)
    return [
        {
            "ts": f"{chance.choice(DAYS)} {chance.randrange(24):02}:{chance.randrange(60):02}",
            "listener_id": f"l{chance.randrange(20)}",
            "country": chance.choice(["DE", "US", None]),
            "tier": chance.choice(["free", "premium", None]),
            "ms_played": chance.choice([None, 1_000, 40_000, 200_000]),
            "track_ms": chance.choice([None, 200_000]),
        }
        for _ in range(count)
    ]


def _aggregate(figures: Figures, first: dt.date, last: dt.date, **options: Any) -> None:
    family = figures.catalogue.family("listening")
    aggregate_days(figures.tenant, family, first, last, **{"stream_ms": 30_000, **options})


def _hashes(figures: Figures, grain: str) -> dict[dt.date, str]:
    table = figures.tenant.table(figures.catalogue.family("listening").table(grain))
    return {day: content.content_hash for day, content in day_contents(table, FIRST, LAST).items()}


def _state(figures: Figures) -> dict[str, list[dict[str, Any]]]:
    return {grain: sorted(figures.rows("listening", grain), key=repr) for grain in ("hour", "day")}


@pytest.fixture
def listening(figures: Figures) -> Figures:
    figures.write("plays", _plays(1))
    return figures


def test_aggregating_again_gives_equal_rows_and_equal_hashes(listening: Figures) -> None:
    before = _state(listening), _hashes(listening, "hour"), _hashes(listening, "day")
    _aggregate(listening, FIRST, LAST)
    assert (_state(listening), _hashes(listening, "hour"), _hashes(listening, "day")) == before


def test_day_by_day_across_a_month_gives_what_one_range_gives(listening: Figures) -> None:
    at_once = _state(listening)
    for grain in ("hour", "day"):
        table = listening.tenant.table(listening.catalogue.family("listening").table(grain))
        table.overwrite(table.schema.arrow.empty_table())
    for day in reversed(DAYS):
        _aggregate(listening, day, day)
    assert _state(listening) == at_once


@pytest.mark.parametrize("rows_at_once", [1, 60, 10**9])
def test_a_range_cut_into_several_queries_gives_the_same_in_one_commit(listening: Figures, rows_at_once: int) -> None:
    at_once = _state(listening)
    tables = [listening.tenant.table(listening.catalogue.family("listening").table(grain)) for grain in ("hour", "day")]
    versions = [table.version() or 0 for table in tables]
    _aggregate(listening, FIRST, LAST, rows_at_once=rows_at_once)
    assert _state(listening) == at_once
    assert [table.version() for table in tables] == [version + 1 for version in versions]


@pytest.mark.parametrize("month", [1, 2])
def test_rows_of_a_month_lie_sorted_in_the_table(listening: Figures, month: int) -> None:
    rows = [row for row in listening.rows("listening", "day") if row["ts"].month == month]
    keys = [(r["ts"], *((r[d] is not None, r[d] or "") for d in ("country", "tier", "source", "device", "format"))) for r in rows]
    assert keys == sorted(keys)
    assert len(set(keys)) == len(keys)


def test_a_late_play_changes_only_its_own_day(listening: Figures) -> None:
    before = _hashes(listening, "day")
    late = _plays(1)[0]
    day = dt.date.fromisoformat(late["ts"][:10])
    listening.write("plays", [*_plays(1), {**late, "listener_id": "late"}])
    after = _hashes(listening, "day")
    assert {d for d in DAYS if before[d] != after[d]} == {day}


def test_skipped_days_keep_what_they_had(listening: Figures) -> None:
    before, hours_before = _hashes(listening, "day"), _hashes(listening, "hour")
    listening.write("plays", _plays(2), skip=DAYS[1:3])
    after, hours_after = _hashes(listening, "day"), _hashes(listening, "hour")
    assert [before[d] == after[d] for d in DAYS] == [False, True, True, False]
    assert [hours_before[d] == hours_after[d] for d in DAYS] == [False, True, True, False]


def test_a_day_whose_rows_are_gone_is_emptied(listening: Figures) -> None:
    raw = listening.tenant.table(PLAYS)
    raw.overwrite_days(PLAYS.arrow.empty_table(), DAYS[1], DAYS[1])
    _aggregate(listening, DAYS[1], DAYS[1])
    assert {row["ts"].date() for row in listening.rows("listening", "day")} == set(DAYS) - {DAYS[1]}


def test_the_stream_threshold_is_the_one_that_is_given(listening: Figures) -> None:
    assert listening.ask("streams", grain="month") != []
    _aggregate(listening, FIRST, LAST, stream_ms=1)
    plays = {r[0]: r[1] for r in listening.ask("plays")}
    assert {r[0]: r[1] for r in listening.ask("streams")} == plays


def test_a_tenant_that_never_had_such_rows_gets_no_tables(figures: Figures) -> None:
    _aggregate(figures, FIRST, LAST)
    assert not figures.tenant.table(figures.catalogue.family("listening").table("day")).exists()


def test_rows_at_the_edges_of_a_day_stay_in_it(figures: Figures) -> None:
    figures.write("plays", [{"ts": "2026-01-31 00:00:00"}, {"ts": "2026-01-31 23:59:59.999999"}])
    assert figures.ask("plays", grain="hour") == [("2026-01-31 00:00", 1.0), ("2026-01-31 23:00", 1.0)]
    assert figures.ask("plays") == [("2026-01-31 00:00", 2.0)]


def test_values_that_are_not_finite_are_not_measured_whatever_parquet_says_about_them(figures: Figures) -> None:
    """Parquet's minimum and maximum leave NaN out, and DuckDB simplifies comparisons by them."""
    odd = (1.0, float("nan"), float("inf"), 1e25, None)
    figures.write("metrics", [{"ts": "2026-01-31 10:00", "name": "t", "type": "timer", "value": v} for v in odd])
    assert [figures.value("t", aggregate=a) for a in ("count", "sum", "min", "max", "last")] == [1.0] * 5
    assert figures.value("t", aggregate="p99") == pytest.approx(1, rel=0.0101)


OWN = """
semantic_models:
  - name: own
    description: Plays by tier.
    model: raw/plays
    owner: me
    dimensions:
      - {name: tier, description: Tier.}
    measures:
      - {name: own_plays, agg: count, expr: play_id, description: Plays.}
metrics:
  - {name: own_plays, description: x, type: simple, type_params: {measure: own_plays}, unit: plays, direction: neutral}
"""
LATER = """      - {name: own_listeners, agg: count_distinct, expr: listener_id, description: Listeners.}
      - {name: own_length, agg: average, expr: ms_played / 1000, description: Seconds.}
metrics:
  - {name: own_listeners, description: x, type: simple, type_params: {measure: own_listeners}, unit: x, direction: neutral}
  - {name: own_length, description: x, type: simple, type_params: {measure: own_length}, unit: s, direction: neutral}
"""


def test_a_measure_that_is_declared_later_is_absent_until_its_days_are_aggregated_again(
    figures: Figures, declare: Callable[[str], Path]
) -> None:
    day = {"listener_id": "l", "ms_played": 1500}
    figures.catalogue = load_catalogue(declare(OWN))
    before = figures.catalogue.family("own").version
    figures.write("plays", [{"ts": "2026-01-30 10:00", **day}, {"ts": "2026-01-31 10:00", **day}])
    figures.catalogue = load_catalogue(declare(OWN.replace("metrics:\n", LATER)))
    assert figures.catalogue.family("own").version != before
    assert figures.ask("own_listeners") == []
    aggregate_days(figures.tenant, figures.catalogue.family("own"), DAYS[1], DAYS[1], stream_ms=30_000)
    assert figures.ask("own_listeners", by=("tier",)) == [("2026-01-31 00:00", None, 1.0)]
    assert figures.ask("own_length") == [("2026-01-31 00:00", 1.5)]
    assert figures.ask("own_plays", grain="month") == [("2026-01-01 00:00", 2.0)]
    figures.catalogue = load_catalogue(declare(OWN))
    aggregate_days(figures.tenant, figures.catalogue.family("own"), DAYS[0], DAYS[1], stream_ms=30_000)
    assert figures.ask("own_plays", grain="month") == [("2026-01-01 00:00", 2.0)]
