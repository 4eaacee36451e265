"""The register of tenants in the operational database."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from analytics_dagster.clock import Clock
from analytics_dagster.errors import NotFoundError
from analytics_dagster.tenant_ids import tenant_id_from, validate_tenant_id

if TYPE_CHECKING:
    import sqlalchemy as sa

    from analytics_dagster.lake.database import Database

__all__ = ["TenantRecord", "TenantStatus", "Tenants", "tenant_id_from", "validate_tenant_id"]


class TenantStatus(StrEnum):
    ACTIVE = "active"
    SUSPENDED = "suspended"
    """Its data stays; nothing is imported, materialized or alerted on."""
    REMOVED = "removed"


@dataclass(frozen=True)
class TenantRecord:
    tenant: str
    status: TenantStatus
    created_at: dt.datetime
    demo: bool


class Tenants:
    """The register in the operational database."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def ensure(self, tenant: str, *, demo: bool = False) -> bool:
        """Register `tenant` unless it is known. True when it was not. A removed tenant comes back as active."""
        import sqlalchemy as sa

        from analytics_dagster.lake.state_tables import tenants

        name, now = validate_tenant_id(tenant), self._clock.now()

        def write(connection: sa.Connection) -> bool:
            found = connection.execute(sa.select(tenants.c.status).where(tenants.c.tenant == name)).scalar()
            if found is None:
                values = {"tenant": name, "status": TenantStatus.ACTIVE, "created_at": now, "changed_at": now, "demo": demo}
                connection.execute(tenants.insert().values(values))
            elif found == TenantStatus.REMOVED:
                connection.execute(
                    tenants.update().where(tenants.c.tenant == name).values(status=TenantStatus.ACTIVE, changed_at=now)
                )
            return found is None

        with self._database.read() as connection:
            known = connection.execute(sa.select(tenants.c.status).where(tenants.c.tenant == name)).scalar()
        if known is not None and known != TenantStatus.REMOVED:
            return False
        return self._database.write(write)

    def records(self) -> Sequence[TenantRecord]:
        """All tenants by name, removed ones too."""
        import sqlalchemy as sa

        from analytics_dagster.lake.state_tables import tenants

        with self._database.read() as connection:
            rows = connection.execute(sa.select(tenants).order_by(tenants.c.tenant)).all()
        return [TenantRecord(row.tenant, TenantStatus(row.status), row.created_at, row.demo) for row in rows]

    def active(self) -> Sequence[str]:
        return [record.tenant for record in self.records() if record.status is TenantStatus.ACTIVE]

    def set_status(self, tenant: str, status: TenantStatus) -> None:
        """Raises NotFoundError for a tenant that is not registered."""
        from analytics_dagster.lake.state_tables import tenants

        def write(connection: sa.Connection) -> int:
            change = tenants.update().where(tenants.c.tenant == tenant).values(status=status, changed_at=self._clock.now())
            return connection.execute(change).rowcount

        if self._database.write(write) == 0:
            raise NotFoundError(f"no tenant {tenant!r}; `analytics tenant list` shows those there are")
