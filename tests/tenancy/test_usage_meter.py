"""The meter: every row of the log is billed once, however the consumer is killed and its rounds are cut."""

from __future__ import annotations

import datetime as dt
from collections import Counter

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analytics_dagster.clock import ManualClock
from analytics_dagster.lake.database import Database
from analytics_dagster.lake.state_tables import usage as usage_table
from analytics_dagster.lake.state_tables import usage_positions
from analytics_dagster.tenancy.usage import Arrived, DayUsage, Usage

TODAY = dt.date(2026, 3, 10)


def count(database: Database, clock: ManualClock, source: str, *arrived: Arrived) -> int:
    meter = Usage(database, clock)
    return database.write(lambda connection: meter.count(connection, source, arrived, clock.now()))


def test_points_and_plays_are_counted_by_tenant_and_day_of_arrival(database: Database, clock: ManualClock) -> None:
    count(database, clock, "log/server-0", Arrived("acme", "metrics", 1, 100), Arrived("globex", "metrics", 1, 7))
    count(database, clock, "log/server-0", Arrived("acme", "plays", 2, 3), Arrived("acme", "metrics", 3, 50))
    clock.advance(dt.timedelta(days=1))
    count(database, clock, "log/local-0", Arrived("acme", "metrics", 1, 5))
    meter = Usage(database, clock)
    assert meter.days("acme") == [
        DayUsage("acme", TODAY, 150, 3, 0, None),
        DayUsage("acme", TODAY + dt.timedelta(days=1), 5, 0, 0, None),
    ]
    assert meter.days("acme", last=TODAY) == meter.days("acme")[:1]
    assert meter.days("acme", first=TODAY + dt.timedelta(days=1)) == meter.days("acme")[1:]
    assert [day.points for day in meter.days("globex")] == [7]


def test_what_is_read_again_after_a_crash_is_not_billed_again(database: Database, clock: ManualClock) -> None:
    first = [Arrived("acme", "metrics", position, 10) for position in (1, 2)]
    assert count(database, clock, "log/server-0", *first) == 20
    more = [*first, Arrived("acme", "metrics", 3, 10)]
    assert count(database, clock, "log/server-0", *more) == 10
    assert count(database, clock, "log/server-0", *more) == 0
    assert [day.points for day in Usage(database, clock).days("acme")] == [30]


def test_a_transaction_that_fails_bills_nothing(database: Database, clock: ManualClock) -> None:
    meter = Usage(database, clock)

    def killed(connection: sa.Connection) -> None:
        meter.count(connection, "log/server-0", [Arrived("acme", "metrics", 1, 10)], clock.now())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        database.write(killed)
    assert meter.days("acme") == []
    assert count(database, clock, "log/server-0", Arrived("acme", "metrics", 1, 10)) == 10


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=25)
@given(
    batches=st.lists(
        st.tuples(st.sampled_from(["acme", "globex"]), st.sampled_from(["metrics", "plays"]), st.integers(1, 50)), max_size=12
    ),
    ends=st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=6),
)
def test_any_rounds_that_overlap_bill_each_batch_once(
    database: Database, clock: ManualClock, batches: list[tuple[str, str, int]], ends: list[tuple[int, int]]
) -> None:
    def empty(connection: sa.Connection) -> None:
        connection.execute(usage_table.delete())
        connection.execute(usage_positions.delete())

    database.write(empty)
    log = [Arrived(tenant, table, position, rows) for position, (tenant, table, rows) in enumerate(batches, start=1)]
    reached = 0
    for begin, end in [*ends, (0, len(log))]:  # a round begins at or before what was reached, and ends where it likes
        count(database, clock, "log/server-0", *log[min(begin, reached) : end])
        reached = max(reached, end)
    wanted: Counter[tuple[str, str]] = Counter()
    for entry in log:
        wanted[entry.tenant, entry.table] += entry.rows
    meter = Usage(database, clock)
    for tenant in ("acme", "globex"):
        days = meter.days(tenant)
        assert sum(day.points for day in days) == wanted[tenant, "metrics"]
        assert sum(day.plays for day in days) == wanted[tenant, "plays"]


def test_requests_are_counted_in_memory_and_written_together(database: Database, clock: ManualClock) -> None:
    meter = Usage(database, clock)
    for _ in range(5):
        meter.note_request("acme")
    assert meter.days("acme") == []
    meter.flush()
    meter.flush()
    meter.note_request("acme", 2)
    meter.flush()
    assert [day.requests for day in meter.days("acme")] == [7]


def test_requests_wait_for_a_database_that_is_away(database: Database, clock: ManualClock) -> None:
    meter = Usage(database, clock)
    meter.note_request("acme")
    database.write(lambda c: c.execute(sa.text("ALTER TABLE usage RENAME TO elsewhere")))
    with pytest.raises(sa.exc.DBAPIError):
        meter.flush()
    database.write(lambda c: c.execute(sa.text("ALTER TABLE elsewhere RENAME TO usage")))
    meter.flush()
    assert [day.requests for day in meter.days("acme")] == [1]


def test_the_size_of_a_day_is_the_one_measured_last(database: Database, clock: ManualClock) -> None:
    meter = Usage(database, clock)
    meter.set_stored_bytes({"acme": 10, "globex": 20})
    count(database, clock, "log/server-0", Arrived("acme", "metrics", 1, 100))
    meter.set_stored_bytes({"acme": 30})
    assert meter.days("acme") == [DayUsage("acme", TODAY, 100, 0, 0, 30)]
    assert [day.stored_bytes for day in meter.days("globex")] == [20]
