"""The register of tenants in the operational database, and a short memory of it for processes that answer requests."""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING

from analytics_dagster.clock import Clock
from analytics_dagster.errors import BusyError, NotFoundError, UserError
from analytics_dagster.tenancy.audit import COMMAND_LINE, Audit
from analytics_dagster.tenant_ids import tenant_id_from, validate_tenant_id

if TYPE_CHECKING:
    import sqlalchemy as sa

    from analytics_dagster.lake.database import Database

__all__ = ["TenantRecord", "TenantStatus", "TenantStatuses", "Tenants", "tenant_id_from", "validate_tenant_id"]

DEFAULT_TENANTS = ("default", "tenant_123")
"""Registered wherever points are taken: what a first call without a word about tenants writes for."""

# Less than the 5 s in which a change must reach every process, so that a slow look-up still ends in time.
_REMEMBERED_SECONDS = 4.0


class TenantStatus(StrEnum):
    ACTIVE = "active"
    SUSPENDED = "suspended"
    """Its data stays; nothing is imported, materialized or alerted on, and its keys do not work."""
    REMOVED = "removed"
    """As suspended, and its data is deleted when the grace period is over."""
    PURGING = "purging"
    """Its data is being deleted. There is no way back from here; afterwards the tenant is not registered any more."""


@dataclass(frozen=True)
class TenantRecord:
    tenant: str
    status: TenantStatus
    created_at: dt.datetime
    demo: bool
    changed_at: dt.datetime

    @property
    def removed_at(self) -> dt.datetime | None:
        """When it was removed, for one that is."""
        return self.changed_at if self.status is TenantStatus.REMOVED else None


@dataclass(frozen=True)
class _Asked:
    """By whom, for the audit trail."""

    actor: str = COMMAND_LINE
    request_id: str | None = None


class Tenants:
    """The register in the operational database."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._audit = Audit(database, clock)

    def ensure(self, tenant: str, *, demo: bool = False, actor: str = COMMAND_LINE, request_id: str | None = None) -> bool:
        """Register `tenant` unless it is known. True when it was not. A removed tenant comes back as active.

        Raises BusyError for one whose data is being deleted.
        """
        name = validate_tenant_id(tenant)
        known = self._status(name)
        if known is not None and known is not TenantStatus.REMOVED and known is not TenantStatus.PURGING:
            return False
        by = _Asked(actor, request_id)
        return self._database.write(lambda connection: self._register(connection, name, demo, by, bring_back=True))

    def register_defaults(self) -> None:
        """Register DEFAULT_TENANTS unless they are known; one that was suspended or removed stays so."""
        known = {record.tenant for record in self.records()}
        for name in DEFAULT_TENANTS:
            if name not in known:
                self._database.write(partial(self._register, name=name, demo=False, by=_Asked(), bring_back=False))

    def records(self) -> Sequence[TenantRecord]:
        """All tenants by name, removed ones too."""
        import sqlalchemy as sa

        from analytics_dagster.lake.state_tables import tenants

        with self._database.read() as connection:
            rows = connection.execute(sa.select(tenants).order_by(tenants.c.tenant)).all()
        return [TenantRecord(row.tenant, TenantStatus(row.status), row.created_at, row.demo, row.changed_at) for row in rows]

    def active(self) -> Sequence[str]:
        return [record.tenant for record in self.records() if record.status is TenantStatus.ACTIVE]

    def set_status(self, tenant: str, status: TenantStatus, *, actor: str = COMMAND_LINE) -> TenantRecord:
        """Suspend, remove or bring back a tenant. Removing it again does not lengthen its grace period.

        Raises NotFoundError for a tenant that is not registered, BusyError for one whose data is being deleted, UserError for
        suspending a removed one, which would keep its data for ever without saying so.
        """
        import sqlalchemy as sa

        from analytics_dagster.lake.state_tables import tenants

        def write(connection: sa.Connection) -> None:
            found = connection.execute(sa.select(tenants.c.status).where(tenants.c.tenant == tenant)).scalar()
            if found is None:
                raise NotFoundError(f"no tenant {tenant!r}; `analytics tenant list` shows those there are")
            _refuse_purging(tenant, found)
            if found == status:
                return
            if found == TenantStatus.REMOVED and status is TenantStatus.SUSPENDED:
                raise UserError(f"tenant {tenant} is removed; `analytics tenant add {tenant}` brings it back first")
            _change(connection, tenant, status, self._clock.now())
            self._audit.record(f"tenant.{_VERB[status]}", actor, tenant=tenant, target=tenant, connection=connection)

        self._database.write(write)
        return next(record for record in self.records() if record.tenant == tenant)

    def purge_due(self, grace: dt.timedelta) -> Sequence[str]:
        """Tenants whose data is to be deleted: removed for longer than `grace`, and those where deleting was cut short."""
        now = self._clock.now()
        due = [record for record in self.records() if record.removed_at is not None and now - record.removed_at >= grace]
        return [r.tenant for r in due] + [r.tenant for r in self.records() if r.status is TenantStatus.PURGING]

    def begin_purge(self, tenant: str, grace: dt.timedelta) -> bool:
        """Take the way back from a tenant that is due. False when it was brought back in the meantime."""
        import sqlalchemy as sa

        from analytics_dagster.lake.state_tables import tenants

        latest = self._clock.now() - grace

        def write(connection: sa.Connection) -> bool:
            due = sa.and_(tenants.c.status == TenantStatus.REMOVED, tenants.c.changed_at <= latest)
            mine = sa.and_(tenants.c.tenant == tenant, sa.or_(due, tenants.c.status == TenantStatus.PURGING))
            return connection.execute(tenants.update().where(mine).values(status=TenantStatus.PURGING)).rowcount == 1

        return self._database.write(write)

    def _status(self, tenant: str) -> TenantStatus | None:
        import sqlalchemy as sa

        from analytics_dagster.lake.state_tables import tenants

        with self._database.read() as connection:
            found = connection.execute(sa.select(tenants.c.status).where(tenants.c.tenant == tenant)).scalar()
        return None if found is None else TenantStatus(found)

    def _register(self, connection: sa.Connection, name: str, demo: bool, by: _Asked, bring_back: bool) -> bool:
        import sqlalchemy as sa

        from analytics_dagster.lake.state_tables import tenants

        now = self._clock.now()
        found = connection.execute(sa.select(tenants.c.status).where(tenants.c.tenant == name)).scalar()
        if found is None:
            values = {"tenant": name, "status": TenantStatus.ACTIVE, "created_at": now, "changed_at": now, "demo": demo}
            connection.execute(tenants.insert().values(values))
            self._note("tenant.add", name, by, connection)
        elif bring_back:
            _refuse_purging(name, found)
            if found == TenantStatus.REMOVED:
                _change(connection, name, TenantStatus.ACTIVE, now)
                self._note("tenant.restore", name, by, connection)
        return found is None

    def _note(self, action: str, name: str, by: _Asked, connection: sa.Connection) -> None:
        self._audit.record(action, by.actor, tenant=name, target=name, request_id=by.request_id, connection=connection)


class TenantStatuses:
    """Every tenant's status, at most 5 s old: what a process that answers requests goes by. Safe to call from any thread."""

    def __init__(self, tenants: Tenants, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._tenants = tenants
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._until = float("-inf")
        self._known: Mapping[str, TenantStatus] = {}
        self._active: frozenset[str] = frozenset()

    def active(self) -> frozenset[str]:
        """The tenants that `'*'` stands for."""
        self._refresh()
        return self._active

    def status(self, tenant: str) -> TenantStatus | None:
        """None for a tenant that is not registered."""
        self._refresh()
        return self._known.get(tenant)

    def _refresh(self) -> None:
        if self._monotonic() < self._until:
            return
        with self._lock:
            began = self._monotonic()
            if began < self._until:
                return
            self._known = {record.tenant: record.status for record in self._tenants.records()}
            self._active = frozenset(name for name, status in self._known.items() if status is TenantStatus.ACTIVE)
            self._until = began + _REMEMBERED_SECONDS


_VERB = {TenantStatus.ACTIVE: "restore", TenantStatus.SUSPENDED: "suspend", TenantStatus.REMOVED: "remove"}


def _change(connection: sa.Connection, tenant: str, status: TenantStatus, now: dt.datetime) -> None:
    from analytics_dagster.lake.state_tables import tenants

    connection.execute(tenants.update().where(tenants.c.tenant == tenant).values(status=status, changed_at=now))


def _refuse_purging(tenant: str, status: str) -> None:
    if status == TenantStatus.PURGING:
        raise BusyError(f"the data of tenant {tenant} is being deleted; when that is done, `analytics tenant add` begins it anew")
