"""The audit trail: what was done is there, and whoever tries a lot cannot fill the disk with it."""

from __future__ import annotations

import datetime as dt

from analytics_dagster.clock import ManualClock
from analytics_dagster.lake.database import Database
from analytics_dagster.tenancy.audit import ATTEMPT_SECONDS, COMMAND_LINE, MOST_TARGETS, OTHERS, Audit, Outcome
from analytics_dagster.tenancy.tenants import Tenants, TenantStatus

MINUTE = dt.timedelta(seconds=ATTEMPT_SECONDS)


def test_what_is_done_to_tenants_is_told_in_order(database: Database, clock: ManualClock) -> None:
    tenants = Tenants(database, clock)
    tenants.ensure("acme")
    clock.advance(MINUTE)
    tenants.set_status("acme", TenantStatus.SUSPENDED, actor="ak_12345678")
    tenants.set_status("acme", TenantStatus.SUSPENDED)  # changes nothing, so there is nothing to tell
    tenants.set_status("acme", TenantStatus.REMOVED)
    tenants.ensure("acme", actor="ak_12345678", request_id="r1")
    entries = Audit(database, clock).entries(tenant="acme")
    assert [(e.action, e.actor) for e in entries] == [
        ("tenant.add", COMMAND_LINE),
        ("tenant.suspend", "ak_12345678"),
        ("tenant.remove", COMMAND_LINE),
        ("tenant.restore", "ak_12345678"),
    ]
    assert entries[3].request_id == "r1"
    assert entries[1].at - entries[0].at == MINUTE


def attempt(audit: Audit, target: str, actor: str = "ak_12345678") -> bool:
    return audit.attempt("foreign_tenant", actor, tenant="acme", target=target, detail="POST /api/v1/write", request_id="r1")


def test_equal_attempts_are_one_row_a_minute_with_their_count(database: Database, clock: ManualClock) -> None:
    audit = Audit(database, clock)
    assert [attempt(audit, "globex") for _ in range(1_000)] == [True] + [False] * 999
    assert audit.flush() == 0
    [first] = audit.entries()
    assert (first.outcome, first.count, first.request_id, first.detail) == (Outcome.REFUSED, 1, "r1", "POST /api/v1/write")
    clock.advance(MINUTE)
    assert audit.flush() == 1
    assert [entry.count for entry in audit.entries()] == [1, 999]
    assert attempt(audit, "globex")
    assert sum(entry.count for entry in audit.entries()) == 1_001


def test_the_next_minutes_first_attempt_brings_the_count_of_the_one_before(database: Database, clock: ManualClock) -> None:
    audit = Audit(database, clock)
    for _ in range(5):
        attempt(audit, "globex")
    clock.advance(MINUTE)
    assert attempt(audit, "globex")
    assert [entry.count for entry in audit.entries()] == [1, 4, 1]


def test_somebody_who_tries_every_name_gets_a_bounded_number_of_rows(database: Database, clock: ManualClock) -> None:
    audit = Audit(database, clock)
    for number in range(500):
        attempt(audit, f"tenant-{number}")
    audit.close()
    entries = audit.entries()
    assert len(entries) == MOST_TARGETS + 2
    assert {entry.target for entry in entries[-2:]} == {OTHERS}
    assert sum(entry.count for entry in entries) == 500


def test_what_an_attacker_writes_is_cut(database: Database, clock: ManualClock) -> None:
    audit = Audit(database, clock)
    attempt(audit, "x" * 100_000)
    [entry] = audit.entries()
    assert len(entry.target) == 255


def test_what_is_counted_is_written_when_a_server_ends(database: Database, clock: ManualClock) -> None:
    audit = Audit(database, clock)
    for _ in range(3):
        attempt(audit, "globex")
    assert audit.close() == 1
    assert sum(entry.count for entry in audit.entries()) == 3
    assert audit.close() == 0


def test_the_newest_rows_are_given(database: Database, clock: ManualClock) -> None:
    audit = Audit(database, clock)
    for number in range(5):
        audit.record("quota.set", COMMAND_LINE, tenant="acme", target=str(number))
    assert [entry.target for entry in audit.entries(limit=2)] == ["3", "4"]
    assert audit.entries(tenant="globex") == []
