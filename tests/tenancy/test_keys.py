"""Keys: shown once, kept as a hash, good until they expire, are revoked or lose their tenants, within 5 seconds everywhere."""

from __future__ import annotations

import datetime as dt
import hashlib
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa
from tenancy.requests_for_tests import Stopwatch

from analytics_dagster.clock import ManualClock
from analytics_dagster.errors import NotFoundError, PermissionDeniedError, UserError
from analytics_dagster.lake.database import Database
from analytics_dagster.lake.state_tables import api_key_tenants, api_keys
from analytics_dagster.tenancy.audit import Audit
from analytics_dagster.tenancy.key_text import new_secret
from analytics_dagster.tenancy.keys import KeyRefusedError, Keys, Principal
from analytics_dagster.tenancy.roles import Permission, Role
from analytics_dagster.tenancy.tenants import Tenants, TenantStatus


@pytest.fixture
def keys(database: Database, clock: ManualClock, stopwatch: Stopwatch, tenants: Tenants) -> Keys:
    return Keys(database, clock, stopwatch)


def refused(keys: Keys, secret: str) -> KeyRefusedError:
    with pytest.raises(KeyRefusedError) as raised:
        keys.authenticate(secret)
    return raised.value


def test_a_key_says_who_is_asking(keys: Keys) -> None:
    made = keys.create(Role.INGEST, ["acme"], name="billing service")
    assert keys.authenticate(made.secret) == Principal(
        made.record.key_id, Role.INGEST, frozenset({"acme"}), name="billing service"
    )
    assert keys.authenticate(made.secret).sole_tenant == "acme"


def test_the_database_holds_nothing_of_a_keys_text_but_its_hash_and_first_characters(keys: Keys, database: Database) -> None:
    made = keys.create(Role.VIEWER, ["acme"])
    with database.read() as connection:
        [row] = connection.execute(sa.select(api_keys)).all()
    assert row.digest == hashlib.sha256(made.secret.encode()).hexdigest()
    stored = " ".join(str(value) for value in row)
    assert made.secret[len(row.key_id) :] not in stored


def test_a_mistyped_key_is_refused_before_anything_is_looked_up(tmp_path: Path, clock: ManualClock) -> None:
    empty = Database(f"sqlite:///{tmp_path / 'without-tables.db'}")
    keys, secret = Keys(empty, clock), new_secret()
    with pytest.raises(sa.exc.OperationalError):  # what looking up does here
        keys.authenticate(secret)
    typo = secret[:10] + ("a" if secret[10] != "a" else "b") + secret[11:]
    assert refused(keys, typo).reason == "malformed"
    empty.dispose()


def test_an_answer_does_not_tell_unknown_from_revoked_or_expired_and_the_reason_does(
    keys: Keys, clock: ManualClock, stopwatch: Stopwatch
) -> None:
    expiring = keys.create(Role.VIEWER, ["acme"], expires_at=clock.now() + dt.timedelta(minutes=1))
    revoked = keys.create(Role.VIEWER, ["acme"])
    assert keys.revoke(revoked.record.key_id)
    clock.advance(dt.timedelta(minutes=1))
    errors = [refused(keys, secret) for secret in (new_secret(), revoked.secret, expiring.secret)]
    assert [error.reason for error in errors] == ["unknown", "revoked", "expired"]
    assert len({str(error) for error in errors}) == 1


def test_a_key_with_a_known_beginning_and_other_bits_is_unknown(keys: Keys, database: Database) -> None:
    made, other = keys.create(Role.VIEWER, ["acme"]), new_secret()
    renamed = api_keys.update().where(api_keys.c.key_id == made.record.key_id).values(key_id=other[:11])
    database.write(lambda c: c.execute(renamed))
    assert refused(keys, other).reason == "unknown"


def test_an_expiry_counts_at_once_though_the_key_is_remembered(keys: Keys, clock: ManualClock) -> None:
    made = keys.create(Role.VIEWER, ["acme"], expires_at=clock.now() + dt.timedelta(minutes=1))
    keys.authenticate(made.secret)
    clock.advance(dt.timedelta(minutes=1))
    assert refused(keys, made.secret).reason == "expired"


def test_a_revocation_reaches_another_process_within_five_seconds(
    keys: Keys, database: Database, clock: ManualClock, stopwatch: Stopwatch
) -> None:
    elsewhere = Keys(database, clock, stopwatch)
    made = keys.create(Role.VIEWER, ["acme"])
    elsewhere.authenticate(made.secret)
    assert keys.revoke(made.record.key_id)
    assert refused(keys, made.secret).reason == "revoked"
    elsewhere.authenticate(made.secret)
    stopwatch.advance(5)
    assert refused(elsewhere, made.secret).reason == "revoked"


def test_a_clock_that_is_stepped_back_does_not_lengthen_what_is_remembered(
    keys: Keys, database: Database, clock: ManualClock, stopwatch: Stopwatch
) -> None:
    elsewhere = Keys(database, clock, stopwatch)
    made = keys.create(Role.VIEWER, ["acme"])
    elsewhere.authenticate(made.secret)
    keys.revoke(made.record.key_id)
    clock.advance(-dt.timedelta(days=1))
    stopwatch.advance(5)
    assert refused(elsewhere, made.secret).reason == "revoked"


def test_the_keys_of_a_suspended_tenant_stop_and_say_why_and_come_back_with_it(
    keys: Keys, tenants: Tenants, stopwatch: Stopwatch
) -> None:
    made = keys.create(Role.VIEWER, ["acme"])
    keys.authenticate(made.secret)
    for status in (TenantStatus.SUSPENDED, TenantStatus.REMOVED):
        tenants.set_status("acme", status)
        stopwatch.advance(5)
        with pytest.raises(PermissionDeniedError, match=f"tenant acme is {status}"):
            keys.authenticate(made.secret)
    tenants.set_status("acme", TenantStatus.ACTIVE)
    stopwatch.advance(5)
    assert keys.authenticate(made.secret).tenants == {"acme"}


def test_a_collectors_key_loses_only_the_suspended_tenant(keys: Keys, tenants: Tenants, stopwatch: Stopwatch) -> None:
    made = keys.create(Role.INGEST, ["acme", "globex"])
    assert keys.authenticate(made.secret).tenants == {"acme", "globex"}
    assert keys.authenticate(made.secret).sole_tenant is None
    tenants.set_status("acme", TenantStatus.SUSPENDED)
    stopwatch.advance(5)
    assert keys.authenticate(made.secret).tenants == {"globex"}


def test_a_key_for_every_tenant_names_none(keys: Keys) -> None:
    for role in (Role.INGEST, Role.PLATFORM_ADMIN):
        assert keys.authenticate(keys.create(role, None).secret).tenants is None


@pytest.mark.parametrize(
    ("role", "wanted", "said"),
    [
        (Role.VIEWER, None, "for one tenant; name it"),
        (Role.TENANT_ADMIN, ["acme", "globex"], "for one tenant, not 2"),
        (Role.PLATFORM_ADMIN, ["acme"], "for every tenant; leave the tenants out"),
        (Role.INGEST, [], "needs a tenant"),
    ],
)
def test_combinations_that_no_key_may_have_are_refused(keys: Keys, role: Role, wanted: list[str] | None, said: str) -> None:
    with pytest.raises(UserError, match=said):
        keys.create(role, wanted)
    assert keys.list() == []


def test_an_unknown_or_removed_tenant_is_refused_and_never_created(keys: Keys, tenants: Tenants) -> None:
    tenants.set_status("globex", TenantStatus.REMOVED)
    for name in ("nobody", "globex"):
        with pytest.raises(NotFoundError, match=f"no tenant '{name}'"):
            keys.create(Role.INGEST, ["acme", name])
    assert keys.list() == []
    assert tenants.active() == ["acme"]


def test_a_key_that_would_be_expired_already_is_refused(keys: Keys, clock: ManualClock) -> None:
    with pytest.raises(UserError, match="which is past"):
        keys.create(Role.VIEWER, ["acme"], expires_at=clock.now())


def test_no_key_mints_above_itself_and_none_mints_a_collectors(keys: Keys) -> None:
    admin = keys.authenticate(keys.create(Role.TENANT_ADMIN, ["acme"]).secret)
    made = keys.create(Role.VIEWER, ["acme"], minted_by=admin)
    assert made.record.created_by == admin.key_id
    for role, wanted in ((Role.VIEWER, ["globex"]), (Role.PLATFORM_ADMIN, None), (Role.INGEST, None)):
        with pytest.raises(PermissionDeniedError):
            keys.create(role, wanted, minted_by=admin)
    platform = keys.authenticate(keys.create(Role.PLATFORM_ADMIN, None).secret)
    for collector in (None, ["acme", "globex"]):
        with pytest.raises(PermissionDeniedError, match="on the command line only"):
            keys.create(Role.INGEST, collector, minted_by=platform)
    viewer = keys.authenticate(keys.create(Role.VIEWER, ["acme"]).secret)
    with pytest.raises(PermissionDeniedError):
        keys.create(Role.VIEWER, ["acme"], minted_by=viewer)


def test_a_tenants_admin_revokes_its_own_keys_and_does_not_learn_of_others(keys: Keys) -> None:
    admin = keys.authenticate(keys.create(Role.TENANT_ADMIN, ["acme"]).secret)
    mine, other = keys.create(Role.VIEWER, ["acme"]), keys.create(Role.VIEWER, ["globex"])
    assert keys.revoke(mine.record.key_id, actor=admin)
    assert not keys.revoke(mine.record.key_id, actor=admin)
    with pytest.raises(NotFoundError) as foreign:
        keys.revoke(other.record.key_id, actor=admin)
    with pytest.raises(NotFoundError) as none:
        keys.revoke("ak_00000000", actor=admin)
    assert str(foreign.value).replace(other.record.key_id, "ak_00000000") == str(none.value)


def test_a_role_says_what_is_missing(keys: Keys) -> None:
    principal = keys.authenticate(keys.create(Role.VIEWER, ["acme"]).secret)
    principal.require(Permission.FIGURES_READ)
    with pytest.raises(PermissionDeniedError, match=r"role viewer may not do this; it takes metrics:write"):
        principal.require(Permission.METRICS_WRITE)
    assert principal.reaches("acme")
    assert not principal.reaches("globex")


def test_last_use_is_written_at_most_once_a_minute_and_never_by_asking(keys: Keys, clock: ManualClock) -> None:
    made = keys.create(Role.VIEWER, ["acme"])
    assert keys.flush_last_used() == 0
    first = clock.now()
    keys.authenticate(made.secret)
    assert keys.list()[0].last_used_at is None
    assert keys.flush_last_used() == 1
    clock.advance(dt.timedelta(seconds=30))
    keys.authenticate(made.secret)
    assert keys.flush_last_used() == 0
    assert keys.list()[0].last_used_at == first
    later = clock.advance(dt.timedelta(seconds=30))
    keys.authenticate(made.secret)
    assert keys.flush_last_used() == 1
    assert keys.list()[0].last_used_at == later


def test_a_process_that_is_behind_does_not_take_back_a_later_use(
    keys: Keys, database: Database, clock: ManualClock, stopwatch: Stopwatch
) -> None:
    elsewhere = Keys(database, clock, stopwatch)
    made = keys.create(Role.VIEWER, ["acme"])
    elsewhere.authenticate(made.secret)
    later = clock.advance(dt.timedelta(minutes=5))
    keys.authenticate(made.secret)
    keys.flush_last_used()
    elsewhere.flush_last_used()
    assert keys.list()[0].last_used_at == later


def test_keys_that_are_made_up_do_not_fill_the_memory(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analytics_dagster.tenancy.keys._MOST_REMEMBERED", 10)
    made = keys.create(Role.VIEWER, ["acme"])
    for _ in range(30):
        refused(keys, new_secret())
    keys.authenticate(made.secret)
    assert len(keys._found) == 10


def test_many_threads_may_ask_at_once(keys: Keys) -> None:
    secrets = [keys.create(Role.VIEWER, ["acme"]).secret for _ in range(4)]
    seen: list[str] = []

    def ask() -> None:
        seen.extend(keys.authenticate(secret).key_id for secret in secrets * 20)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seen) == sorted(secret[:11] for secret in secrets * 80)


def test_what_is_done_to_keys_is_in_the_audit_trail(keys: Keys, database: Database, clock: ManualClock) -> None:
    admin = keys.authenticate(keys.create(Role.TENANT_ADMIN, ["acme"]).secret)
    made = keys.create(Role.VIEWER, ["acme"], minted_by=admin)
    keys.revoke(made.record.key_id, actor=admin)
    with pytest.raises(NotFoundError):
        keys.create(Role.INGEST, ["nobody"])
    entries = [e for e in Audit(database, clock).entries(tenant="acme") if e.actor == admin.key_id]
    assert [(e.action, e.target) for e in entries] == [
        ("key.create", made.record.key_id),
        ("key.revoke", made.record.key_id),
    ]
    assert entries[0].detail == "role viewer, tenants acme"


def test_a_key_whose_tenants_are_all_gone_says_so(keys: Keys, database: Database, stopwatch: Stopwatch) -> None:
    made = keys.create(Role.INGEST, ["acme"])
    database.write(lambda c: c.execute(api_key_tenants.delete()))
    with pytest.raises(PermissionDeniedError, match="tenants of this key are gone"):
        keys.authenticate(made.secret)
