"""Every declared check passes on good rows, and fails on rows broken in exactly its way: that tenant, that day, no other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from analytics_dagster.lake import schemas
from analytics_dagster.lake.schemas import EVENT_TABLES, TableSchema
from analytics_dagster.quality.suites import load_suites, suite_of
from analytics_dagster.quality.validate import failing_rows

if TYPE_CHECKING:
    from conftest import Warehouse

Row = dict[str, Any]
NOW = datetime(2026, 3, 20, 12, tzinfo=UTC)
ROWS = 2_400
MONDAY = date(2026, 3, 2)
TUESDAY, WEDNESDAY = MONDAY + timedelta(days=1), MONDAY + timedelta(days=2)
WEEK = (MONDAY, TUESDAY, WEDNESDAY)


def some(share: float, **values: Any) -> Callable[[list[Row]], list[Row]]:
    """Set these values in that share of a day's rows, evenly spread."""
    every = round(1 / share)
    return lambda rows: [row | values if n % every == 0 else row for n, row in enumerate(rows)]


def first(**values: Any) -> Callable[[list[Row]], list[Row]]:
    return lambda rows: [rows[0] | values, *rows[1:]]


def without_hour(rows: list[Row]) -> list[Row]:
    """Noon is silent; its rows come at one."""
    return [row | {"ts": row["ts"] + timedelta(hours=1)} if row["ts"].hour == 12 else row for row in rows]


def told_twice(key: str) -> Callable[[list[Row]], list[Row]]:
    return lambda rows: [rows[0] | {key: rows[1][key]}, *rows[1:]]


def one_bot(rows: list[Row]) -> list[Row]:
    """One account with 200 plays of 10 minutes: over a day, but under a tenth of the plays."""
    bot = {"listener_id": "bot", "ms_played": 600_000, "track_ms": 700_000}
    return [row | bot if n < 200 else row for n, row in enumerate(rows)]


@dataclass(frozen=True)
class Case:
    table: TableSchema
    check: str
    broken: Callable[[list[Row]], list[Row]]
    bad_rows: int | None
    """Rows that `failing_rows` must show without a limit; None for measures that have none."""
    also: frozenset[str] = frozenset()


OVER_A_DAY = frozenset({"listening_is_human"})
SAMPLED_TWICE = frozenset({"a_machine_is_sampled_once_at_a_time"})
CASES = [
    Case(schemas.PLAYS, "rows_arrived", lambda rows: rows[::3], None),
    Case(schemas.PLAYS, "every_hour_has_plays", without_hour, None),
    Case(schemas.PLAYS, "keys_are_unique", told_twice("play_id"), 2),
    Case(schemas.PLAYS, "listener_is_known", some(0.1, listener_id=None), 240, frozenset({"listener_is_seldom_missing"})),
    Case(schemas.PLAYS, "listener_is_seldom_missing", some(0.02, listener_id=""), 48),
    Case(schemas.PLAYS, "track_is_known", some(0.1, track_id=None), 240),
    Case(schemas.PLAYS, "played_time_is_known", some(0.1, ms_played=None), 240),
    Case(schemas.PLAYS, "played_time_is_possible", some(0.02, ms_played=-1), 48),
    Case(schemas.PLAYS, "played_time_is_possible", some(0.02, ms_played=90_000_001, track_ms=None), 48, OVER_A_DAY),
    Case(schemas.PLAYS, "played_time_is_possible", some(0.02, ms_played=361_000), 48),
    Case(schemas.PLAYS, "codes_are_known", some(0.02, tier="gold"), 48),
    Case(schemas.PLAYS, "codes_are_known", some(0.02, end_reason="bored"), 48),
    Case(schemas.PLAYS, "codes_are_known", some(0.02, country="Belgium"), 48),
    Case(schemas.PLAYS, "listening_is_human", one_bot, 200),
    Case(schemas.PLAYS, "no_listener_dominates", some(0.2, listener_id="bot"), 480),
    Case(schemas.METRICS, "rows_arrived", lambda rows: rows[::3], None),
    Case(schemas.METRICS, "keys_are_unique", told_twice("point_id"), 2),
    Case(schemas.METRICS, "value_is_a_number", some(0.02, value=None), 48),
    Case(schemas.METRICS, "value_is_a_number", some(0.02, value=float("nan")), 48),
    Case(schemas.METRICS, "type_is_known", some(0.02, type="guage"), 48),
    Case(schemas.METRICS, "times_and_counts_are_not_negative", first(type="timer", value=-1.0), 1),
    Case(schemas.METRICS, "labels_are_an_object", first(labels='["a"]'), 1),
    Case(schemas.METRICS, "labels_are_an_object", first(labels="{a: 1"), 1),
    Case(schemas.SUBSCRIPTIONS, "rows_arrived", lambda rows: rows[::4], None),
    Case(schemas.SUBSCRIPTIONS, "keys_are_unique", told_twice("event_id"), 2),
    Case(schemas.SUBSCRIPTIONS, "listener_is_known", some(0.02, listener_id=""), 48),
    Case(schemas.SUBSCRIPTIONS, "event_is_known", some(0.02, event="pause"), 48),
    Case(schemas.SUBSCRIPTIONS, "tiers_are_known", some(0.02, to_tier="gold"), 48),
    Case(schemas.SUBSCRIPTIONS, "money_is_not_negative", first(amount_minor=-999), 1),
    Case(schemas.SUBSCRIPTIONS, "recurring_revenue_moves_with_the_event", some(0.02, event="cancel", mrr_change_minor=999), 48),
    Case(schemas.SUBSCRIPTIONS, "money_has_a_currency", first(currency=None), 1),
    Case(schemas.AD_IMPRESSIONS, "rows_arrived", lambda rows: rows[::3], None),
    Case(schemas.AD_IMPRESSIONS, "keys_are_unique", told_twice("event_id"), 2),
    Case(schemas.AD_IMPRESSIONS, "filling_is_known", some(0.02, filled=None), 48),
    Case(schemas.AD_IMPRESSIONS, "revenue_is_not_negative", first(revenue_micros=-1), 1),
    Case(schemas.AD_IMPRESSIONS, "only_filled_requests_earn", some(0.02, filled=False, revenue_micros=1), 48),
    Case(schemas.AD_IMPRESSIONS, "revenue_is_plausible", some(0.02, filled=True, revenue_micros=1_000_000), 48),
    Case(schemas.AD_IMPRESSIONS, "money_has_a_currency", first(currency="euro"), 1),
    Case(schemas.API_REQUESTS, "rows_arrived", lambda rows: rows[::3], None),
    Case(schemas.API_REQUESTS, "every_hour_has_requests", without_hour, None),
    Case(schemas.API_REQUESTS, "keys_are_unique", told_twice("request_id"), 2),
    Case(schemas.API_REQUESTS, "status_is_possible", some(0.02, status=0), 48),
    Case(schemas.API_REQUESTS, "status_is_known", some(0.1, status=None), 240),
    Case(schemas.API_REQUESTS, "latency_is_possible", some(0.02, latency_us=-5), 48),
    Case(schemas.API_REQUESTS, "endpoint_has_no_ids", some(0.02, endpoint="/artists/48213"), 48),
    Case(schemas.SYSTEM_SAMPLES, "rows_arrived", lambda rows: rows[::2], None),
    Case(schemas.SYSTEM_SAMPLES, "every_hour_has_samples", without_hour, None, SAMPLED_TWICE),
    Case(schemas.SYSTEM_SAMPLES, "keys_are_unique", told_twice("sample_id"), 2),
    Case(schemas.SYSTEM_SAMPLES, "processor_use_is_known", some(0.1, cpu_percent=None), 240),
    Case(schemas.SYSTEM_SAMPLES, "percentages_are_possible", some(0.02, cpu_percent=180.0), 48),
    Case(schemas.SYSTEM_SAMPLES, "percentages_are_possible", some(0.02, disk_percent=float("nan")), 48),
    Case(schemas.SYSTEM_SAMPLES, "percentages_are_possible", some(0.02, memory_percent=-1.0), 48),
    Case(schemas.SYSTEM_SAMPLES, "counts_are_possible", first(cache_misses=-1), 1),
    Case(schemas.SYSTEM_SAMPLES, "counts_are_possible", first(db_queries=2, db_time_us=5, db_slowest_us=9), 1),
    Case(schemas.SYSTEM_SAMPLES, "traffic_is_not_negative", first(network_bytes=-1), 1),
    Case(schemas.INTERACTIONS, "rows_arrived", lambda rows: rows[::4], None),
    Case(schemas.INTERACTIONS, "keys_are_unique", told_twice("event_id"), 2),
    Case(schemas.INTERACTIONS, "listener_is_known", some(0.1, listener_id=""), 240),
    Case(schemas.INTERACTIONS, "event_is_known", some(0.02, event="like"), 48),
    Case(schemas.INTERACTIONS, "content_is_named", some(0.02, track_id=None, artist_id=None), 48),
    Case(schemas.INTERACTIONS, "codes_are_known", some(0.02, country="Belgium"), 48),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.table.name}-{case.check}")
def test_a_check_fails_for_the_tenant_and_day_that_are_broken_and_no_other(case: Case, warehouse: Warehouse) -> None:
    for tenant in ("good", "bad"):
        for day in WEEK:
            rows = warehouse.good(case.table, day)
            warehouse.put(tenant, case.table, case.broken(rows) if (tenant, day) == ("bad", TUESDAY) else rows)

    outcomes = warehouse.judge(case.table, MONDAY, WEDNESDAY)

    failed = {(o.tenant, o.day, o.check) for o in outcomes if not o.passed}
    assert failed == {("bad", TUESDAY, name) for name in {case.check, *case.also}}
    rows = failing_rows(warehouse.tenant("bad"), case.table, case.check, TUESDAY, limit=ROWS)
    assert rows.schema.names == case.table.arrow.names
    assert rows.num_rows == (case.bad_rows or 0)


@pytest.mark.parametrize("table", EVENT_TABLES, ids=lambda table: table.name)
def test_rows_after_the_present_close_only_the_days_they_are_on(table: TableSchema, warehouse: Warehouse) -> None:
    yesterday, today = NOW.date() - timedelta(days=1), NOW.date()
    warehouse.put("acme", table, warehouse.good(table, yesterday) + warehouse.good(table, today))

    outcomes = warehouse.judge(table, yesterday, today)

    assert {(o.day, o.check) for o in outcomes if not o.passed} == {(today, "time_is_not_in_the_future")}
    rows = failing_rows(warehouse.tenant("acme"), table, "time_is_not_in_the_future", today, now=NOW)
    assert rows.num_rows == 20
    assert min(rows["ts"].to_pylist()) > NOW + timedelta(minutes=5)


@pytest.mark.parametrize("table", EVENT_TABLES, ids=lambda table: table.name)
def test_arrivals_that_raw_does_not_hold_are_told_and_shown(table: TableSchema, warehouse: Warehouse) -> None:
    rows = warehouse.good(table, MONDAY)
    warehouse.land("acme", table, rows)
    warehouse.put("acme", table, rows[3:])

    outcomes = warehouse.judge(table, MONDAY, TUESDAY, history=None)

    assert [(o.day, o.check, o.observed) for o in outcomes if not o.passed] == [(MONDAY, "raw_holds_every_arrival", 3.0)]
    shown = failing_rows(warehouse.tenant("acme"), table, "raw_holds_every_arrival", MONDAY)
    assert shown.equals(warehouse.arrow(table, rows[:3]))


def test_an_arrival_that_came_twice_is_not_missing(warehouse: Warehouse) -> None:
    rows = warehouse.good(schemas.PLAYS, MONDAY, 100)
    warehouse.land("acme", schemas.PLAYS, [*rows, *rows[:10]])
    warehouse.put("acme", schemas.PLAYS, rows)
    outcomes = warehouse.judge(schemas.PLAYS, MONDAY, MONDAY, history=None)
    assert [(o.passed, o.observed) for o in outcomes if o.check == "raw_holds_every_arrival"] == [(True, 0.0)]


@pytest.mark.parametrize("table", EVENT_TABLES, ids=lambda table: table.name)
def test_every_declared_check_is_tried_here(table: TableSchema) -> None:
    tried = {case.check for case in CASES if case.table is table}
    tried |= {"time_is_not_in_the_future", "raw_holds_every_arrival", "a_machine_is_sampled_once_at_a_time"}
    assert {check.name for check in suite_of(table).checks} <= tried


def test_every_event_table_has_a_suite_whose_checks_say_what_they_mean_and_what_to_do() -> None:
    suites = load_suites()
    assert list(suites) == [table.name for table in EVENT_TABLES]
    for suite in suites.values():
        for check in suite.checks:
            assert check.description.endswith("."), check.where
            assert check.remedy.endswith("."), check.where
