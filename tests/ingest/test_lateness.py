"""When a day is closed: by the watermark, by silence, by what was known before rows came; and what the settings say."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rows import plays

from analytics_dagster.clock import ManualClock
from analytics_dagster.errors import SettingsError
from analytics_dagster.ingest.landing import Landing
from analytics_dagster.ingest.lateness import (
    DEFAULTS,
    Lateness,
    Seen,
    after_arrival,
    closed_through,
    lateness_of,
    seen_of,
    watermark,
)
from analytics_dagster.installation import Installation
from analytics_dagster.lake.database import Database
from analytics_dagster.lake.lake import Lake
from analytics_dagster.lake.schemas import EVENT_TABLES, METRICS, PLAYS
from analytics_dagster.settings import Settings

HOUR, DAY = dt.timedelta(hours=1), dt.timedelta(days=1)
SIX_HOURS = Lateness(6 * HOUR, 2 * DAY)


def at(day: int, hour: int = 0) -> dt.datetime:
    return dt.datetime(2026, 3, day, hour, tzinfo=dt.UTC)


def test_a_day_is_closed_once_the_newest_event_is_the_allowed_lateness_behind_its_end() -> None:
    for hour, closed in ((5, dt.date(2026, 3, 8)), (6, dt.date(2026, 3, 9))):
        seen = Seen(at(10, hour), at(10, 7))
        assert watermark(seen, SIX_HOURS, at(10, 7)) == at(10, hour) - 6 * HOUR
        assert closed_through(seen, SIX_HOURS, at(10, 7)) == closed


def test_a_source_that_falls_silent_closes_its_days_by_the_clock_after_the_idle_timeout() -> None:
    seen = Seen(at(10, 1), at(10, 2))
    assert closed_through(seen, SIX_HOURS, at(12, 1)) == dt.date(2026, 3, 8)
    assert closed_through(seen, SIX_HOURS, at(12, 2)) == dt.date(2026, 3, 9)
    assert closed_through(seen, SIX_HOURS, at(13, 2)) == dt.date(2026, 3, 10)


def test_an_event_from_the_future_closes_no_day_that_has_not_been() -> None:
    assert closed_through(Seen(at(20), at(10)), SIX_HOURS, at(10, 7)) == dt.date(2026, 3, 9)


def test_what_is_closed_is_told_by_what_was_known_before_the_rows_came() -> None:
    seen = after_arrival(None, at(8, 12), SIX_HOURS, at(8, 13))
    assert seen.closed_through is None
    # One file with rows of the ninth and tenth, and late ones of the eighth: the eighth was open when they came.
    seen = after_arrival(seen, at(10, 12), SIX_HOURS, at(10, 13))
    assert seen == Seen(at(10, 12), at(10, 13), dt.date(2026, 3, 7))
    assert after_arrival(seen, at(8, 1), SIX_HOURS, at(10, 14)) == Seen(at(10, 12), at(10, 14), dt.date(2026, 3, 9))


@given(st.lists(st.tuples(st.integers(-300, 300), st.integers(0, 100), st.integers(0, 100)), min_size=2, max_size=12))
def test_what_was_closed_stays_closed_whatever_comes(arrivals: list[tuple[int, int, int]]) -> None:
    now, seen, closed = at(10), None, []
    for event_hour, pause, looked_after in arrivals:
        now += pause * HOUR
        seen = after_arrival(seen, at(10) + event_hour * HOUR, SIX_HOURS, now)
        closed.append(seen.closed_through or dt.date.min)
        now += looked_after * HOUR
        closed.append(max(closed[-1], closed_through(seen, SIX_HOURS, now) or dt.date.min))
    assert closed == sorted(closed)


def test_landing_keeps_how_far_each_source_came(database: Database, clock: ManualClock, tmp_path) -> None:
    landing = Landing(Lake(str(tmp_path / "lake"), tmp_path / "locks"), database, clock, {**DEFAULTS, "plays": SIX_HOURS})
    assert seen_of(database, "acme", "plays") is None
    landing.append("acme", PLAYS, plays(("a", at(9, 3)), ("b", at(9, 20))), "one")
    assert seen_of(database, "acme", "plays") == Seen(at(9, 20), clock.now())
    clock.advance(HOUR)
    landing.append("acme", PLAYS, plays(("c", at(7))), "two", unique=True)
    assert seen_of(database, "acme", "plays") == Seen(at(9, 20), clock.now(), dt.date(2026, 3, 8))
    clock.advance(HOUR)
    landing.append("acme", PLAYS, plays(("c", at(7))), "two again")
    assert seen_of(database, "acme", "plays") == Seen(at(9, 20), clock.now() - HOUR, dt.date(2026, 3, 8))
    assert seen_of(database, "other", "plays") is None
    landing.note_consumed([("acme", METRICS, {at(9).date(): 5}, at(9, 23))])
    assert seen_of(database, "acme", "metrics") == Seen(at(9, 23), clock.now())


def test_every_event_table_has_a_default() -> None:
    assert set(DEFAULTS) == {table.name for table in EVENT_TABLES}


def test_the_settings_change_the_lateness_of_the_tables_they_name(home, monkeypatch) -> None:
    monkeypatch.setenv("ANALYTICS_LATENESS", "plays=7d, metrics = 90s")
    monkeypatch.setenv("ANALYTICS_IDLE_TIMEOUT", "3600")
    given = lateness_of(Settings.from_environment(home))
    assert given["plays"] == Lateness(7 * DAY, HOUR)
    assert given["metrics"] == Lateness(dt.timedelta(seconds=90), HOUR)
    assert given["subscriptions"] == Lateness(DAY, HOUR)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("songs=1d", "'songs=1d' names no event table; write table=duration with one of ad_impressions, api_requests"),
        ("plays", "'plays' names no event table"),
        ("plays=soon", "'plays=soon' has no duration; write 30m, 12h or 7d behind the ="),
        ("plays=9999d", "'plays=9999d' is more than 3650d"),
    ],
)
def test_a_lateness_that_cannot_be_is_refused(home, monkeypatch, value: str, said: str) -> None:
    monkeypatch.setenv("ANALYTICS_LATENESS", value)
    with pytest.raises(SettingsError, match="ANALYTICS_LATENESS") as raised:
        lateness_of(Settings.from_environment(home))
    assert said in str(raised.value)


def test_an_installation_lands_by_its_settings(home, monkeypatch, clock: ManualClock) -> None:
    from analytics_dagster.installation import open_installation

    monkeypatch.setenv("ANALYTICS_LATENESS", "plays=1h")
    opened: Installation = open_installation(Settings.from_environment(home), clock, create=True)
    for name in ("a", "b"):
        opened.landing.append("acme", PLAYS, plays((name, at(10, 2))), name)
    seen = seen_of(opened.database, "acme", "plays")
    opened.database.dispose()
    assert seen is not None
    assert seen.closed_through == dt.date(2026, 3, 9)
