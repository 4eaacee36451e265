"""How rows came: lags and ages by table and day, from what a landing table holds."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pyarrow as pa
import pytest

from analytics_dagster.ingest.deliveries import deliveries
from analytics_dagster.lake.lake import Lake, TenantLake
from analytics_dagster.lake.schemas import INTERACTIONS, PLAYS, SUBSCRIPTIONS, landing

DAY = dt.date(2026, 1, 31)
NOON = dt.datetime(2026, 1, 31, 12, tzinfo=dt.UTC)
LATER = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)


@pytest.fixture
def lake(tmp_path: Path) -> TenantLake:
    """Plays of noon that came at once, a minute and a day later, and one of the day after; an interaction of weeks before."""
    lake = Lake(str(tmp_path / "lake"), tmp_path / "locks").tenant("acme")
    lags = [(NOON, dt.timedelta(0)), (NOON, dt.timedelta(0)), (NOON, dt.timedelta(minutes=1)), (NOON, dt.timedelta(days=1))]
    arrived = [*lags, (NOON + dt.timedelta(days=1, seconds=3), -dt.timedelta(seconds=3))]
    arrivals = {"arrival": "a", "arrival_row": 0, "format": "test"}
    plays = [{"play_id": f"{n}", "ts": ts, "arrived_at": ts + lag, **arrivals} for n, (ts, lag) in enumerate(arrived)]
    lake.table(landing(PLAYS)).append(pa.Table.from_pylist(plays, schema=landing(PLAYS).arrow))
    before = NOON - dt.timedelta(days=20)
    done = [{"event_id": "1", "ts": before, "listener_id": "ann", "event": "save", "arrived_at": before, **arrivals}]
    lake.table(landing(INTERACTIONS)).append(pa.Table.from_pylist(done, schema=landing(INTERACTIONS).arrow))
    return lake


def _told(
    lake: TenantLake, first: dt.date, last: dt.date, now: dt.datetime = LATER
) -> list[tuple[dt.date, str, int | None, int, int | None]]:
    before = {"interactions": DAY - dt.timedelta(days=20)} if first > DAY - dt.timedelta(days=20) else {}
    made = deliveries(lake, (PLAYS, INTERACTIONS, SUBSCRIPTIONS), first, last, before=before, now=now)
    return [(r["ts"].date(), r["table_name"], r["lag_ms"], r["rows"], r["age_ms"]) for r in made.to_pylist()]


def test_a_day_has_its_lags_with_their_number_and_the_age_of_each_table(lake: TenantLake) -> None:
    day, half_a_day = 86_400_000, 43_200_000
    assert _told(lake, DAY, DAY) == [
        (DAY, "interactions", None, 1, 20 * day + half_a_day),
        (DAY, "plays", None, 1, half_a_day),
        (DAY, "plays", 0, 2, None),
        (DAY, "plays", pytest.approx(60_000, rel=0.001), 1, None),
        (DAY, "plays", pytest.approx(day, rel=0.001), 1, None),
    ]


def test_a_clock_that_runs_ahead_has_no_lag_and_a_silent_table_grows_older(lake: TenantLake) -> None:
    second = DAY + dt.timedelta(days=1)
    told = [row for row in _told(lake, second, second + dt.timedelta(days=1)) if row[1] == "plays"]
    age = 12 * 3_600_000 - 3_000
    assert told == [
        (second, "plays", None, 1, age),
        (second, "plays", 0, 1, None),
        (second + dt.timedelta(days=1), "plays", None, 1, age + 86_400_000),
    ]


def test_a_range_gives_what_its_days_give_one_by_one(lake: TenantLake) -> None:
    days = [DAY, DAY + dt.timedelta(days=1)]
    assert _told(lake, *days) == [*_told(lake, days[0], days[0]), *_told(lake, days[1], days[1])]


def test_a_day_that_is_not_over_is_judged_at_this_moment(lake: TenantLake) -> None:
    now = NOON + dt.timedelta(minutes=5)
    assert (DAY, "plays", None, 1, 300_000) in _told(lake, DAY, DAY, now)
    assert not any(row[4] is not None for row in _told(lake, DAY + dt.timedelta(days=1), DAY + dt.timedelta(days=1), now))
