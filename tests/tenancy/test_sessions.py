"""Sessions: a cookie's secret kept as a hash, as good as the key or person behind it, over by age, idleness or signing out."""

from __future__ import annotations

import datetime as dt

import pytest
import sqlalchemy as sa
from tenancy.requests_for_tests import Stopwatch

from analytics_dagster.clock import ManualClock
from analytics_dagster.errors import NotFoundError, PermissionDeniedError
from analytics_dagster.lake.database import Database
from analytics_dagster.lake.state_tables import sessions
from analytics_dagster.tenancy.keys import REMEMBERED_SECONDS, KeyRefusedError, Keys
from analytics_dagster.tenancy.roles import Role
from analytics_dagster.tenancy.sessions import Person, SessionRefusedError, Sessions
from analytics_dagster.tenancy.tenants import Tenants, TenantStatus
from analytics_dagster.tenancy.tickets import LIFETIME, TicketKind, Tickets

HOUR = dt.timedelta(hours=1)


def process(database: Database, clock: ManualClock, stopwatch: Stopwatch) -> tuple[Keys, Sessions]:
    """What one process has of its own: nothing that it remembers is another's."""
    keys = Keys(database, clock, stopwatch)
    return keys, Sessions(database, clock, keys, lifetime=12 * HOUR, idle=2 * HOUR, monotonic=stopwatch)


@pytest.fixture
def here(database: Database, clock: ManualClock, stopwatch: Stopwatch, tenants: Tenants) -> tuple[Keys, Sessions]:
    return process(database, clock, stopwatch)


def person(*tenants: str, role: Role = Role.VIEWER) -> Person:
    return Person("https://id.example", "u-1", "Ada", role, frozenset(tenants) if tenants else None)


def refused(opened: Sessions, secret: str) -> bool:
    try:
        opened.authenticate(secret)
    except SessionRefusedError:
        return True
    return False


def test_a_session_is_its_keys_holder_and_only_its_hash_is_stored(here: tuple[Keys, Sessions], database: Database) -> None:
    keys, opened = here
    made = keys.create(Role.ANALYST, ["acme"], name="Ada")
    begun = opened.begin(made.secret)
    assert begun.session.principal == keys.authenticate(made.secret) == opened.authenticate(begun.secret).principal
    assert len(begun.secret) == 43  # 256 bits in base 64
    with database.read() as connection:
        [row] = connection.execute(sa.select(sessions)).all()
    stored = " ".join(str(value) for value in row)
    assert begun.secret not in stored
    assert made.secret not in stored
    assert begun.session.csrf not in stored


def test_each_session_has_a_secret_and_a_token_of_its_own(here: tuple[Keys, Sessions]) -> None:
    keys, opened = here
    key = keys.create(Role.VIEWER, ["acme"]).secret
    one, other = opened.begin(key), opened.begin(key)
    assert one.secret != other.secret
    assert one.session.accepts(opened.authenticate(one.secret).csrf)
    assert not one.session.accepts(other.session.csrf)
    assert not one.session.accepts("")
    assert not one.session.accepts("ü")


def test_a_wrong_key_and_one_that_only_sends_begin_nothing(here: tuple[Keys, Sessions]) -> None:
    keys, opened = here
    with pytest.raises(KeyRefusedError):
        opened.begin("ak_nonsense")
    with pytest.raises(PermissionDeniedError, match="only sends data"):
        opened.begin(keys.create(Role.INGEST, ["acme"]).secret)
    assert refused(opened, "nonsense")
    assert refused(opened, "x" * 5_000)
    assert opened.list() == []


def test_a_revoked_key_ends_its_sessions_within_five_seconds_in_another_process(
    here: tuple[Keys, Sessions], database: Database, clock: ManualClock, stopwatch: Stopwatch
) -> None:
    keys, opened = here
    _, elsewhere = process(database, clock, stopwatch)
    made = keys.create(Role.VIEWER, ["acme"])
    secret = opened.begin(made.secret).secret
    assert elsewhere.authenticate(secret).principal.sole_tenant == "acme"
    keys.revoke(made.record.key_id)
    with pytest.raises(KeyRefusedError):
        opened.authenticate(secret)
    stopwatch.advance(REMEMBERED_SECONDS)
    with pytest.raises(KeyRefusedError):
        elsewhere.authenticate(secret)


def test_signing_out_counts_here_at_once_and_elsewhere_within_five_seconds(
    here: tuple[Keys, Sessions], database: Database, clock: ManualClock, stopwatch: Stopwatch
) -> None:
    keys, opened = here
    _, elsewhere = process(database, clock, stopwatch)
    key = keys.create(Role.VIEWER, ["acme"]).secret
    secret, kept = opened.begin(key).secret, opened.begin(key).secret
    elsewhere.authenticate(secret)
    opened.end(secret)
    assert refused(opened, secret)
    assert not refused(elsewhere, secret)
    stopwatch.advance(REMEMBERED_SECONDS)
    assert refused(elsewhere, secret)
    assert not refused(opened, kept)
    opened.end(secret)  # again is no error


def test_a_session_is_over_at_its_age_however_busy_and_sooner_when_nobody_uses_it(
    here: tuple[Keys, Sessions], clock: ManualClock
) -> None:
    keys, opened = here
    key = keys.create(Role.VIEWER, ["acme"]).secret
    busy, idle = opened.begin(key).secret, opened.begin(key).secret
    for _ in range(11):
        clock.advance(HOUR)
        assert not refused(opened, busy)
    assert refused(opened, idle)
    clock.advance(HOUR - dt.timedelta(seconds=1))
    assert not refused(opened, busy)
    clock.advance(dt.timedelta(seconds=1))
    assert refused(opened, busy)


def test_use_in_one_process_keeps_a_session_open_in_another(
    here: tuple[Keys, Sessions], database: Database, clock: ManualClock, stopwatch: Stopwatch
) -> None:
    keys, opened = here
    _, elsewhere = process(database, clock, stopwatch)
    secret = opened.begin(keys.create(Role.VIEWER, ["acme"]).secret).secret
    elsewhere.authenticate(secret)
    clock.advance(1.5 * HOUR)
    opened.authenticate(secret)
    assert opened.flush_last_used() == 1
    assert opened.flush_last_used() == 0
    clock.advance(HOUR)
    stopwatch.advance(REMEMBERED_SECONDS)
    assert not refused(elsewhere, secret)


def test_rows_of_sessions_that_are_over_are_forgotten_and_the_others_listed(
    here: tuple[Keys, Sessions], clock: ManualClock
) -> None:
    keys, opened = here
    made = keys.create(Role.VIEWER, ["acme"], name="Ada")
    ended, idle = opened.begin(made.secret), opened.begin(made.secret)
    opened.end(ended.secret)
    clock.advance(2 * HOUR)
    used = opened.begin_of_person(person("acme"))
    assert [(r.session_id, r.who, r.name) for r in opened.list()] == [
        (used.session.session_id, used.session.principal.key_id, "Ada")
    ]
    assert opened.forget_old() == 2
    assert refused(opened, idle.secret)
    opened.revoke(used.session.session_id)
    assert refused(opened, used.secret)
    with pytest.raises(NotFoundError, match="no session"):
        opened.revoke(used.session.session_id)


def test_a_persons_session_has_the_tenants_of_the_mapping_that_are_active(
    here: tuple[Keys, Sessions], tenants: Tenants, stopwatch: Stopwatch
) -> None:
    _, opened = here
    begun = opened.begin_of_person(person("acme", "globex", "nobody"))
    principal = begun.session.principal
    assert (principal.role, principal.tenants, principal.name) == (Role.VIEWER, {"acme", "globex"}, "Ada")
    assert principal.key_id.startswith("oidc_")
    assert len(principal.key_id) <= 16
    tenants.set_status("acme", TenantStatus.SUSPENDED)
    stopwatch.advance(REMEMBERED_SECONDS)
    assert opened.authenticate(begun.secret).principal.tenants == {"globex"}
    with pytest.raises(PermissionDeniedError, match="none of the tenants"):
        opened.begin_of_person(person("nobody"))
    everywhere = opened.begin_of_person(person(role=Role.PLATFORM_ADMIN))
    assert everywhere.session.principal.tenants is None


def test_a_person_without_tenants_is_not_one_of_every_tenant(here: tuple[Keys, Sessions]) -> None:
    _, opened = here
    with pytest.raises(PermissionDeniedError):
        opened.begin_of_person(Person("https://id.example", "u-2", "Bob", Role.VIEWER, frozenset()))


# --- tickets


def test_a_ticket_is_taken_once_and_by_its_kind(database: Database, clock: ManualClock) -> None:
    tickets = Tickets(database, clock)
    secret = tickets.issue(TicketKind.ONCE, {"key_id": "ak_1"})
    assert tickets.take(TicketKind.OIDC, secret) is None
    assert Tickets(database, clock).take(TicketKind.ONCE, secret) == {"key_id": "ak_1"}
    assert tickets.take(TicketKind.ONCE, secret) is None
    assert tickets.take(TicketKind.ONCE, "x" * 5_000) is None


def test_a_ticket_is_over_after_minutes(database: Database, clock: ManualClock) -> None:
    tickets = Tickets(database, clock)
    secret, other = tickets.issue(TicketKind.ONCE, {}), tickets.issue(TicketKind.ONCE, {})
    clock.advance(LIFETIME - dt.timedelta(seconds=1))
    assert tickets.take(TicketKind.ONCE, secret) == {}
    clock.advance(dt.timedelta(seconds=1))
    assert tickets.take(TicketKind.ONCE, other) is None


def test_when_too_many_tickets_are_open_the_oldest_is_given_up(database: Database, clock: ManualClock) -> None:
    tickets = Tickets(database, clock, most_open=3)
    other = tickets.issue(TicketKind.ONCE, {})
    secrets = []
    for number in range(5):
        clock.advance(dt.timedelta(seconds=1))
        secrets.append(tickets.issue(TicketKind.OIDC, {"number": str(number)}))
    taken = [tickets.take(TicketKind.OIDC, secret) for secret in secrets]
    assert taken == [None, None, {"number": "2"}, {"number": "3"}, {"number": "4"}]
    assert tickets.take(TicketKind.ONCE, other) == {}
