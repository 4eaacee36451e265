"""The end of a removed tenant: when its grace period is over, all that is stored of it is deleted, but the bill and the trail.

First the way back is closed (status `purging`), then the files go, then the rows, and the registration last. Whatever cuts this
short, the next call goes on from there: a tenant that is still registered is not done.
"""

from __future__ import annotations

import datetime as dt
import logging
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from analytics_dagster.clock import Clock
from analytics_dagster.lake.lake import Lake
from analytics_dagster.tenancy.audit import PLATFORM, Audit
from analytics_dagster.tenancy.quota_gate import QUOTA_FOLDER, SERIES_FOLDER
from analytics_dagster.tenancy.tenants import Tenants

if TYPE_CHECKING:
    import sqlalchemy as sa

    from analytics_dagster.lake.database import Database

KEPT_TABLES = frozenset({"usage", "usage_positions", "audit"})
"""What stays in the database: what is billed and what was done."""

# Folders of the home with one of its own for each tenant, beside the lake's.
TENANT_FOLDERS = (Path("simulated"), Path("held"), Path(QUOTA_FOLDER, SERIES_FOLDER))

# Keeps one transaction under 50 ms.
_ROWS_AT_ONCE = 2_000

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Purge:
    """Deletes what is due in one installation. Nobody may land rows of the log meanwhile."""

    home: Path
    lake: Lake
    database: Database
    tenants: Tenants
    clock: Clock
    grace: dt.timedelta

    def run(self) -> Sequence[str]:
        """Delete the data of every tenant that is due; returns their names."""
        return [tenant for tenant in self.tenants.purge_due(self.grace) if self._purge(tenant)]

    def _purge(self, tenant: str) -> bool:
        if not self.tenants.begin_purge(tenant, self.grace):
            return False
        _log.warning("tenant %s: removed longer ago than the grace period of %s; its data is deleted now", tenant, self.grace)
        self.lake.tenant(tenant).delete()
        for folder in TENANT_FOLDERS:
            with suppress(FileNotFoundError):
                shutil.rmtree(self.home / folder / tenant)
        rows = self._delete_rows(tenant)
        self.database.write(lambda connection: self._finish(connection, tenant, rows))
        _log.warning("tenant %s: its data is gone (tables, and %d rows of the database)", tenant, rows)
        return True

    def _delete_rows(self, tenant: str) -> int:
        from analytics_dagster.lake.state_tables import metadata, tenants

        self.database.write(self._keep_highest_note)
        deleted = 0
        for table in metadata.sorted_tables:
            if "tenant" in table.c and table.name not in KEPT_TABLES and table is not tenants:
                while some := self.database.write(partial(_delete_some, table=table, tenant=tenant)):
                    deleted += some
        return deleted

    def _keep_highest_note(self, connection: sa.Connection) -> None:
        """Put a note of nobody behind those that go: SQLite gives the highest id + 1, and what was told of arrivals is
        remembered by id, so a note that got a deleted one's would never be told.
        """
        from analytics_dagster.lake.state_tables import arrivals

        nobodys = {"tenant": "", "table_name": "", "day": None, "rows": 0, "arrival": "purge"}
        made = connection.execute(arrivals.insert().values(**nobodys, arrived_at=self.clock.now())).inserted_primary_key
        assert made is not None
        connection.execute(arrivals.delete().where(arrivals.c.tenant == "", arrivals.c.id < made[0]))

    def _finish(self, connection: sa.Connection, tenant: str, rows: int) -> None:
        from analytics_dagster.lake.state_tables import tenants

        connection.execute(tenants.delete().where(tenants.c.tenant == tenant))
        detail = f"its tables and {rows} rows of the database"
        Audit(self.database, self.clock).record(
            "tenant.purge", PLATFORM, tenant=tenant, target=tenant, detail=detail, connection=connection
        )


def _delete_some(connection: sa.Connection, table: sa.Table, tenant: str) -> int:
    import sqlalchemy as sa

    from analytics_dagster.lake.state_tables import api_key_tenants, api_keys

    key = sa.tuple_(*table.primary_key.columns)
    some = sa.select(*table.primary_key.columns).where(table.c.tenant == tenant).limit(_ROWS_AT_ONCE)
    if table is not api_key_tenants:
        return connection.execute(table.delete().where(key.in_(some))).rowcount
    mine = list(connection.execute(sa.select(table.c.key_id).where(table.c.tenant == tenant).limit(_ROWS_AT_ONCE)).scalars())
    connection.execute(table.delete().where(table.c.tenant == tenant, table.c.key_id.in_(mine)))
    # A collector's key lives on for its other tenants; one that has none left would be good for nothing.
    others = sa.select(table.c.key_id).where(table.c.key_id.in_(mine))
    gone = sa.and_(api_keys.c.key_id.in_(mine), api_keys.c.key_id.not_in(others), api_keys.c.all_tenants.is_(False))
    connection.execute(api_keys.delete().where(gone))
    return len(mine)
