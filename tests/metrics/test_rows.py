"""From a figure to the raw rows behind it: as many as a count says, and the right ones of everything else."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analytics_dagster.errors import NotFoundError, UserError
from analytics_dagster.metrics.query import MetricQuery
from analytics_dagster.metrics.ranges import Range
from analytics_dagster.metrics.rows import Rows, read_rows
from analytics_dagster.metrics.sessions import SESSION_GAP_MS

if TYPE_CHECKING:
    from metrics.conftest import Figures

DAY = dt.date(2026, 3, 15)
DAY_BEGINS = dt.datetime(2026, 3, 15, tzinfo=dt.UTC)
PARAMETERS = {"stream_ms": 30_000, "session_gap_ms": SESSION_GAP_MS}


def play(name: str, back: int = 0, listener: str | None = "ann", ms: int | None = 60_000, **more: Any) -> dict[str, Any]:
    ts = f"{DAY - dt.timedelta(days=back)} 10:00"
    return {"play_id": name, "ts": ts, "listener_id": listener, "ms_played": ms, "country": "DE", **more}


def rows(figures: Figures, metric: str, of: str | None = None, offset: int = 0, limit: int = 100, **question: Any) -> Rows:
    asked = MetricQuery(metric, **{"first": DAY, "last": DAY, **question})
    return read_rows(figures.tenant, figures.catalogue, asked, parameters=PARAMETERS, of=of, offset=offset, limit=limit)


def names(found: Rows) -> list[str]:
    return [row["play_id"] for row in found.table.to_pylist()]


def test_a_count_has_as_many_rows_as_it_says_and_they_are_those_that_count(figures: Figures) -> None:
    figures.write("plays", [play("a"), play("b", ms=1_000), play("c", country="FR"), play("d", back=1)])
    streams = rows(figures, "streams", where=('country="DE"',))
    assert (names(streams), streams.total, streams.figure, streams.counted) == (["a"], 1, 1.0, True)
    assert rows(figures, "plays").table.schema.names[:3] == ["play_id", "ts", "listener_id"]


def test_a_ratio_has_rows_of_its_numerator_and_of_its_denominator(figures: Figures) -> None:
    figures.write("plays", [play("a"), play("b", ms=1_000), play("c", ms=2_000, country=None)])
    skips = rows(figures, "skip_rate")
    assert [part.role for part in skips.parts] == ["numerator", "denominator"]
    assert (names(skips), skips.counted) == (["b", "c"], False)
    assert names(rows(figures, "skip_rate", of=skips.parts[1].name)) == ["a", "b", "c"]
    assert names(rows(figures, "skip_rate", where=('country=""',))) == ["c"]
    with pytest.raises(NotFoundError, match="has no rows 'nobody'"):
        rows(figures, "skip_rate", of="nobody")


@pytest.mark.parametrize("metric", ["plays", "weekly_active_listeners"])
def test_a_range_may_reach_to_both_ends_of_the_calendar(figures: Figures, metric: str) -> None:
    figures.write("plays", [play("a"), play("b", back=3)])
    ends = {"first": dt.date.min, "last": dt.date.max}
    assert names(rows(figures, metric, **ends)) == ["b", "a"]
    until = dt.datetime.max.replace(tzinfo=dt.UTC)
    assert names(rows(figures, "plays", first=None, last=None, since=DAY_BEGINS, until=until)) == ["a"]
    assert figures.ask("plays", **ends) == figures.ask("plays")
    latest = dt.datetime(9998, 12, 31, tzinfo=dt.UTC)
    assert Range.of_days(dt.date.max, dt.date.max) == Range(latest, latest)


def test_a_rolling_figure_has_the_rows_of_its_whole_window(figures: Figures) -> None:
    figures.write("plays", [play("old", back=7), play("first", back=6), play("last", listener="bob")])
    weekly = rows(figures, "weekly_active_listeners")
    assert (names(weekly), weekly.figure) == (["first", "last"], 2.0)
    assert "from 6 days before the first day to the last" in weekly.part.words
    with pytest.raises(UserError, match="say to which day"):
        rows(figures, "weekly_active_listeners", last=None)


def test_sessions_are_their_own_rows(figures: Figures) -> None:
    figures.write("plays", [play("a"), play("b", ts=f"{DAY} 10:05"), play("c", ts=f"{DAY} 18:00"), play("d", listener=None)])
    sessions = rows(figures, "sessions")
    assert (names(sessions), sessions.total, sessions.figure) == (["a", "c"], 2, 2.0)
    assert [row["session_rows"] for row in sessions.table.to_pylist()] == [2, 1]


def test_recorded_points_are_the_rows_of_their_name(figures: Figures) -> None:
    def point(name: str, value: float, host: str) -> dict[str, Any]:
        return {"ts": f"{DAY} 10:00", "name": name, "type": "gauge", "value": value, "labels": f'{{"host":"{host}"}}'}

    figures.write("metrics", [point("load", 1, "a"), point("load", 3, "b"), point("other", 5, "a")])
    load = rows(figures, "load", where=('host="b"',))
    assert ([row["value"] for row in load.table.to_pylist()], load.figure) == ([3.0], 3.0)


def test_many_rows_come_in_portions_that_say_where_the_next_begins(figures: Figures) -> None:
    figures.write("plays", [play(f"p{n}") for n in range(5)])
    first = rows(figures, "plays", limit=2)
    assert (names(first), first.total, first.next_offset) == (["p0", "p1"], 5, 2)
    last = rows(figures, "plays", limit=2, offset=4)
    assert (names(last), last.next_offset) == (["p4"], None)


def test_what_the_query_refuses_is_refused(figures: Figures) -> None:
    figures.write("plays", [play("a")])
    with pytest.raises(NotFoundError, match="has no dimension 'contry'; did you mean 'country'"):
        rows(figures, "streams", where=('contry="DE"',))


PLAYS = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from([None, 1_000, 30_000, 90_000]), st.sampled_from(["DE", "FR", None]))
)


@given(plays=PLAYS, country=st.sampled_from(["DE", "FR", ""]))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_counts_and_rows_agree_whatever_was_played(figures: Figures, plays: list[tuple[Any, ...]], country: str) -> None:
    written = [play(f"p{n}", back, ms=ms, country=where) for n, (back, ms, where) in enumerate(plays)]
    figures.write("plays", [play("anchor", 2, country="XX"), play("end", country="XX"), *written], only="listening")
    for metric in ("plays", "streams"):
        found = rows(figures, metric, first=DAY - dt.timedelta(days=2), where=(f'country="{country}"',))
        assert found.total == (found.figure or 0)


def test_figures_that_small_cells_guard_lead_to_no_rows(figures: Figures) -> None:
    figures.write("plays", [play("a")])
    guarded = next(m for f in figures.catalogue.families if f.small_cells is not None for m in f.metrics if not m.composed)
    with pytest.raises(UserError, match="would tell what single people are"):
        rows(figures, guarded.name)
