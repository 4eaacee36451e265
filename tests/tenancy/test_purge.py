"""The end of a removed tenant: all of it goes after the grace period, nothing of anybody else, whatever is killed in between."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from analytics_dagster.clock import ManualClock
from analytics_dagster.errors import BusyError, UserError
from analytics_dagster.lake.database import Database
from analytics_dagster.lake.lake import Lake
from analytics_dagster.lake.state_tables import UtcDateTime, metadata
from analytics_dagster.tenancy.audit import PLATFORM, Audit
from analytics_dagster.tenancy.keys import Keys
from analytics_dagster.tenancy.purge import KEPT_TABLES, TENANT_FOLDERS, Purge
from analytics_dagster.tenancy.roles import Role
from analytics_dagster.tenancy.tenants import DEFAULT_TENANTS, Tenants, TenantStatus

GRACE = dt.timedelta(days=30)
OF_TENANTS = [table for table in metadata.sorted_tables if "tenant" in table.c]


def some_value(column: sa.Column[Any], tenant: str, number: int) -> object:
    """A value that fits the column; another one for each number where it is part of a key."""
    if column.name == "tenant":
        return tenant
    if isinstance(column.type, UtcDateTime):
        return dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    match column.type.python_type:
        case kind if kind is str:
            return f"{tenant}-{number}"[: getattr(column.type, "length", None)]
        case kind if kind is dt.date:
            return dt.date(2026, 1, 1) + dt.timedelta(days=number)
        case kind:
            return kind(number)


class Place:
    """An installation's parts with rows of acme and globex in every table and folder that has a tenant's."""

    def __init__(self, home: Path, database: Database, clock: ManualClock, tenants: Tenants) -> None:
        self.home, self.database, self.clock, self.tenants = home, database, clock, tenants
        self.lake = Lake(str(home / "lake"), home / "locks")
        self.keys = Keys(database, clock)
        for tenant in ("acme", "globex"):
            for folder in (Path("lake"), Path("locks"), *TENANT_FOLDERS):
                (home / folder / tenant / "raw").mkdir(parents=True)
                (home / folder / tenant / "raw" / "file").write_text(tenant)
            for table in OF_TENANTS:
                if table.name not in ("tenants", "api_key_tenants", "audit"):
                    self.fill(table, tenant)
            self.keys.create(Role.VIEWER, [tenant], name=f"of {tenant}")
        self.collector = self.keys.create(Role.INGEST, ["acme", "globex"])
        self.every = self.keys.create(Role.INGEST, None)

    def fill(self, table: sa.Table, tenant: str, rows: int = 3) -> None:
        columns = [column for column in table.c if not (column.primary_key and column.autoincrement is True)]
        rows = 1 if [c.name for c in table.primary_key.columns] == ["tenant"] else rows
        values = [{c.name: some_value(c, tenant, number) for c in columns} for number in range(1, 1 + rows)]
        self.database.write(lambda connection: connection.execute(table.insert(), values))

    def purge(self) -> list[str]:
        return list(Purge(self.home, self.lake, self.database, self.tenants, self.clock, GRACE).run())

    def rows(self, tenant: str) -> dict[str, int]:
        def count(table: sa.Table) -> int:
            return int(connection.execute(sa.select(sa.func.count()).where(table.c.tenant == tenant)).scalar_one())

        with self.database.read() as connection:
            return {table.name: count(table) for table in OF_TENANTS}

    def folders(self, tenant: str) -> list[Path]:
        return sorted(path.relative_to(self.home) for path in self.home.rglob(tenant))

    def check_gone(self) -> None:
        """Nothing is left of acme but the bill and the trail; all of globex is."""
        left = {name for name, number in self.rows("acme").items() if number}
        assert left == KEPT_TABLES
        assert self.folders("acme") == []
        assert self.folders("globex") == self.folders_before
        assert self.rows("globex") == self.rows_before
        by_name = {(r.name, r.tenants) for r in self.keys.list()}
        assert by_name == {("of globex", ("globex",)), ("", ("globex",)), ("", None)}

    def remember(self) -> None:
        self.rows_before, self.folders_before = self.rows("globex"), self.folders("globex")


@pytest.fixture
def place(tmp_path: Path, database: Database, clock: ManualClock, tenants: Tenants) -> Place:
    made = Place(tmp_path / "home", database, clock, tenants)
    made.remember()
    return made


def test_a_removed_tenants_data_goes_after_the_grace_period_and_not_before(place: Place) -> None:
    place.tenants.set_status("acme", TenantStatus.REMOVED)
    before = place.rows("acme")
    place.clock.advance(GRACE - dt.timedelta(seconds=1))
    assert place.purge() == []
    assert place.rows("acme") == before
    place.clock.advance(dt.timedelta(seconds=1))
    assert place.purge() == ["acme"]
    place.check_gone()
    assert place.purge() == []


def test_the_log_and_the_trail_say_so(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    place.tenants.set_status("acme", TenantStatus.REMOVED)
    place.clock.advance(GRACE)
    place.purge()
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == ["tenant acme", "tenant acme"]
    assert "its data is gone" in caplog.text
    [entry] = [e for e in Audit(place.database, place.clock).entries(tenant="acme") if e.action == "tenant.purge"]
    assert entry.actor == PLATFORM


def test_removing_again_does_not_lengthen_the_grace_period(place: Place) -> None:
    place.tenants.set_status("acme", TenantStatus.REMOVED)
    place.clock.advance(GRACE)
    place.tenants.set_status("acme", TenantStatus.REMOVED)
    assert place.purge() == ["acme"]


def test_a_tenant_that_was_brought_back_in_time_keeps_everything(place: Place) -> None:
    before = place.rows("acme")
    place.tenants.set_status("acme", TenantStatus.REMOVED)
    place.clock.advance(GRACE - dt.timedelta(seconds=1))
    assert not place.tenants.ensure("acme")
    place.clock.advance(GRACE)
    assert place.purge() == []
    assert {**place.rows("acme"), "audit": 0} == {**before, "audit": 0}


def test_a_suspended_tenant_is_never_deleted(place: Place) -> None:
    place.tenants.set_status("acme", TenantStatus.SUSPENDED)
    place.clock.advance(10 * GRACE)
    assert place.purge() == []


def test_a_removed_tenant_is_brought_back_before_it_is_suspended(place: Place) -> None:
    place.tenants.set_status("acme", TenantStatus.REMOVED)
    with pytest.raises(UserError, match="brings it back first"):
        place.tenants.set_status("acme", TenantStatus.SUSPENDED)


class KilledError(Exception):
    """Stands for SIGKILL: nothing after it is done."""


def kill_at(monkeypatch: pytest.MonkeyPatch, step: int) -> Callable[[], int]:
    """Raise at the `step`th of the deletions of a purge. Gives how many there were."""
    import shutil

    done = iter(range(10_000))
    count = 0

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def instead(*arguments: Any, **named: Any) -> Any:
            nonlocal count
            count = next(done) + 1
            if count == step:
                raise KilledError
            return real(*arguments, **named)

        return instead

    monkeypatch.setattr(shutil, "rmtree", counted(shutil.rmtree))
    monkeypatch.setattr(Database, "write", counted(Database.write))
    return lambda: count


def steps() -> Iterator[int]:
    """One for each table, twice where it has rows, and for each folder; and some beyond them."""
    yield from range(1, 3 * len(OF_TENANTS) + len(TENANT_FOLDERS) + 3, 3)


def test_the_id_of_a_deleted_note_does_not_come_again(place: Place) -> None:
    place.fill(metadata.tables["arrivals"], "acme")
    with place.database.read() as connection:
        newest = connection.execute(sa.select(sa.func.max(metadata.tables["arrivals"].c.id))).scalar_one()
    place.tenants.set_status("acme", TenantStatus.REMOVED)
    place.clock.advance(GRACE)
    assert place.purge() == ["acme"]
    place.fill(metadata.tables["arrivals"], "globex")
    with place.database.read() as connection:
        assert connection.execute(sa.select(sa.func.max(metadata.tables["arrivals"].c.id))).scalar_one() > newest


def test_a_purge_that_is_killed_anywhere_goes_on_where_it_was(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.tenants.set_status("acme", TenantStatus.REMOVED)
    place.clock.advance(GRACE)
    killed = 0
    for step in steps():
        with monkeypatch.context() as patched:
            kill_at(patched, step)
            try:
                place.purge()
            except KilledError:
                killed += 1
            else:
                break
        status = {record.tenant: record.status for record in place.tenants.records()}
        assert status["acme"] in (TenantStatus.REMOVED, TenantStatus.PURGING)
    assert killed > 3
    place.purge()
    place.check_gone()


def test_there_is_no_way_back_once_the_deletion_has_begun(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.tenants.set_status("acme", TenantStatus.REMOVED)
    place.clock.advance(GRACE)
    with monkeypatch.context() as patched:
        kill_at(patched, 2)
        with pytest.raises(KilledError):
            place.purge()
    for bring_back in (
        lambda: place.tenants.ensure("acme"),
        lambda: place.tenants.set_status("acme", TenantStatus.ACTIVE),
        lambda: place.tenants.set_status("acme", TenantStatus.REMOVED),
    ):
        with pytest.raises(BusyError, match="is being deleted"):
            bring_back()
    assert place.tenants.active() == ["globex"]
    assert place.purge() == ["acme"]
    assert place.tenants.ensure("acme")


def test_a_tenant_that_comes_back_while_others_are_deleted_is_left_alone(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.tenants.set_status("acme", TenantStatus.REMOVED)
    place.clock.advance(GRACE)
    due = place.tenants.purge_due(GRACE)
    place.tenants.ensure("acme")
    monkeypatch.setattr(place.tenants, "purge_due", lambda grace: due)
    assert place.purge() == []
    assert place.folders("acme") != []


def test_many_rows_go_in_short_transactions(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analytics_dagster.tenancy.purge._ROWS_AT_ONCE", 7)
    arrivals = metadata.tables["arrivals"]
    place.fill(arrivals, "acme", rows=50)
    for number in range(10):
        place.keys.create(Role.VIEWER, ["acme"], name=str(number))
    place.tenants.set_status("acme", TenantStatus.REMOVED)
    place.clock.advance(GRACE)
    place.purge()
    place.check_gone()


def test_the_default_tenants_are_registered_once_and_stay_as_they_were_left(place: Place) -> None:
    place.tenants.register_defaults()
    assert set(DEFAULT_TENANTS) == {"default", "tenant_123"}
    assert place.tenants.active() == ["acme", "default", "globex", "tenant_123"]
    place.tenants.set_status("default", TenantStatus.REMOVED)
    place.tenants.register_defaults()
    assert place.tenants.active() == ["acme", "globex", "tenant_123"]
