"""Tenant ids and the register of tenants. An id becomes part of paths, keys and labels, so its grammar is narrow."""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from analytics_dagster.clock import Clock
from analytics_dagster.errors import InvalidNameError, NotFoundError

if TYPE_CHECKING:
    import sqlalchemy as sa

    from analytics_dagster.lake.database import Database

_ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


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


def validate_tenant_id(value: str) -> str:
    """`value` itself. Raises InvalidNameError unless it is lower-case letters, digits, `-` and `_`, 1 to 63 of them."""
    if not _ID.fullmatch(value):
        raise InvalidNameError(
            f"tenant {value!r} is not a tenant id; use 1 to 63 lower-case letters, digits, - and _, beginning with a letter or digit"
        )
    return value


def tenant_id_from(value: str) -> str:
    """An id from any text: lower case, every run of other characters to one `-` (`Studio Brussel` -> `studio-brussel`)."""
    made = re.sub(r"[^a-z0-9_]+", "-", value.lower()).strip("-_")[:63].rstrip("-_")
    if not made:
        raise InvalidNameError(f"no tenant id can be made from {value!r}; it has no letter or digit")
    return made


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

    def list(self) -> list[TenantRecord]:
        """All tenants by name, removed ones too."""
        import sqlalchemy as sa

        from analytics_dagster.lake.state_tables import tenants

        with self._database.read() as connection:
            rows = connection.execute(sa.select(tenants).order_by(tenants.c.tenant)).all()
        return [TenantRecord(row.tenant, TenantStatus(row.status), row.created_at, row.demo) for row in rows]

    def active(self) -> list[str]:
        return [record.tenant for record in self.list() if record.status is TenantStatus.ACTIVE]

    def set_status(self, tenant: str, status: TenantStatus) -> None:
        """Raises NotFoundError for a tenant that is not registered."""
        from analytics_dagster.lake.state_tables import tenants

        def write(connection: sa.Connection) -> int:
            change = tenants.update().where(tenants.c.tenant == tenant).values(status=status, changed_at=self._clock.now())
            return connection.execute(change).rowcount

        if self._database.write(write) == 0:
            raise NotFoundError(f"no tenant {tenant!r}; `analytics tenant list` shows those there are")
