"""Which runs follow from what arrived."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics_dagster.ingest.raw import StaleDays
from analytics_dagster.orchestration.planning import ABOUT_RAW, MODEL_ASSETS, MODEL_DAYS, missed_days, plan_runs

FAMILIES = [("plays", "aggregates/listening"), ("api_requests", "aggregates/api")]
DAY = dt.date(2026, 3, 1)
TODAY = DAY + dt.timedelta(days=10_000)


def stale(tenant: str, table: str, *offsets: int, newest: int = 7) -> StaleDays:
    return StaleDays(tenant, table, tuple(DAY + dt.timedelta(days=n) for n in offsets), newest)


def test_nothing_stale_is_no_run() -> None:
    assert plan_runs([], FAMILIES, TODAY) == []


def test_a_run_takes_only_the_tables_that_have_rows_and_what_follows_from_them() -> None:
    [run] = plan_runs([stale("acme", "plays", 0, 1)], FAMILIES, TODAY)
    assert run.assets == ("raw/plays", "aggregates/listening", *ABOUT_RAW, *MODEL_ASSETS)
    assert (run.first, run.last, run.tenants) == (DAY, DAY + dt.timedelta(days=1), ("acme",))


def test_tenants_with_the_same_days_share_a_run() -> None:
    [run] = plan_runs([stale("a", "plays", 0), stale("b", "api_requests", 0)], FAMILIES, TODAY)
    assert run.tenants == ("a", "b")
    assert {"raw/plays", "raw/api_requests", "aggregates/api", "aggregates/listening"} <= set(run.assets)


def test_days_far_apart_are_runs_of_their_own_for_their_own_tenants() -> None:
    old, new = plan_runs([stale("a", "plays", 0), stale("b", "plays", 200)], FAMILIES, TODAY)
    assert (old.tenants, new.tenants) == (("a",), ("b",))


def test_a_long_range_makes_models_of_its_newest_year_only() -> None:
    figures, models = plan_runs([stale("a", "plays", *range(2_000))], FAMILIES, TODAY)
    assert not set(figures.assets) & set(MODEL_ASSETS)
    assert models.assets == MODEL_ASSETS
    assert ((figures.last - figures.first).days, (models.last - models.first).days) == (1_999, MODEL_DAYS - 1)


@given(st.lists(st.integers(0, 900), min_size=1, unique=True))
def test_every_stale_day_is_in_exactly_one_run_of_its_table(offsets: list[int]) -> None:
    asked = stale("a", "plays", *sorted(offsets))
    runs = [run for run in plan_runs([asked], FAMILIES, TODAY) if "raw/plays" in run.assets]
    for day in asked.days:
        assert sum(run.first <= day <= run.last for run in runs) == 1


@pytest.mark.parametrize(
    ("newest", "owed"),
    [
        (None, None),
        (dt.date(2026, 3, 9), (dt.date(2026, 3, 9), dt.date(2026, 3, 9))),
        (dt.date(2026, 3, 8), (dt.date(2026, 3, 9), dt.date(2026, 3, 9))),
        (dt.date(2026, 3, 5), (dt.date(2026, 3, 6), dt.date(2026, 3, 9))),
        (dt.date(2020, 1, 1), (dt.date(2026, 2, 7), dt.date(2026, 3, 9))),
    ],
)
def test_the_daily_schedule_owes_yesterday_and_the_missed_days(newest: dt.date | None, owed: object) -> None:
    assert missed_days(newest, dt.date(2026, 3, 9)) == owed
