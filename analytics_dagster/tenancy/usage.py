"""What each tenant used, by day of arrival (UTC), for billing.

Points and plays are exact: they are counted from the log as it is consumed, in the consumer's own transaction, and each batch of
a source once. Requests are counted in memory and added every few seconds, so a killed server forgets the last few. What comes
by `analytics import` and from the simulation is not counted: nobody sent it.
"""

from __future__ import annotations

import datetime as dt
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from analytics_dagster.clock import Clock

if TYPE_CHECKING:
    import sqlalchemy as sa

    from analytics_dagster.lake.database import Database

POINTS_TABLE = "metrics"
PLAYS_TABLE = "plays"
_COLUMN = {POINTS_TABLE: "points", PLAYS_TABLE: "plays"}


@dataclass(frozen=True)
class Arrived:
    """Rows of one tenant in one batch of a log's source. `table` is `metrics` or `plays`."""

    tenant: str
    table: str
    position: int
    rows: int


@dataclass(frozen=True)
class DayUsage:
    tenant: str
    day: dt.date
    points: int
    plays: int
    requests: int
    stored_bytes: int | None


class Usage:
    """The meter in the operational database. Safe to call from any thread."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._lock = threading.Lock()
        self._requests: Counter[str] = Counter()

    def count(self, connection: sa.Connection, source: str, arrived: Iterable[Arrived], at: dt.datetime) -> int:
        """Add what a consumer read from `source`, in its own transaction. Returns the rows that were counted.

        One entry for each tenant and batch, whatever range of batches is read together: an entry at or below the position
        that this tenant, source and table are counted through was counted before, and is passed over.
        """
        listed = list(arrived)
        counted = _counted_through(connection, source, {a.tenant for a in listed})
        rows: Counter[tuple[str, str]] = Counter()
        through: dict[tuple[str, str], int] = {}
        for entry in listed:
            key = (entry.tenant, entry.table)
            if entry.position > counted.get(key, -1):
                rows[key] += entry.rows
                through[key] = max(through.get(key, 0), entry.position)
        if not through:
            return 0
        _set_counted_through(connection, source, through)
        by_tenant: dict[str, dict[str, int]] = {}
        for (tenant, table), number in rows.items():
            by_tenant.setdefault(tenant, {})[_COLUMN[table]] = number
        _add(connection, at.astimezone(dt.UTC).date(), by_tenant)
        return sum(rows.values())

    def note_request(self, tenant: str, number: int = 1) -> None:
        """Count a request, in memory."""
        with self._lock:
            self._requests[tenant] += number

    def flush(self) -> None:
        """Write the requests counted since. A server calls this every few seconds, and when it ends."""
        with self._lock:
            requests, self._requests = self._requests, Counter()
        if not requests:
            return
        day = self._clock.now().date()
        by_tenant = {tenant: {"requests": number} for tenant, number in requests.items()}
        try:
            self._database.write(lambda connection: _add(connection, day, by_tenant))
        except BaseException:
            with self._lock:  # kept for the next time, whatever went wrong
                self._requests.update(requests)
            raise

    def set_stored_bytes(self, stored: Mapping[str, int]) -> None:
        """Note how large tenants' tables are today."""
        from analytics_dagster.lake.state_tables import usage

        day = self._clock.now().date()

        def write(connection: sa.Connection) -> None:
            for tenant, size in sorted(stored.items()):
                mine = (usage.c.tenant == tenant, usage.c.day == day)
                if connection.execute(usage.update().where(*mine).values(stored_bytes=size)).rowcount == 0:
                    _add(connection, day, {tenant: {"stored_bytes": size}})

        if stored:
            self._database.write(write)

    def days(self, tenant: str, first: dt.date | None = None, last: dt.date | None = None) -> Sequence[DayUsage]:
        """A tenant's days with usage, oldest first; `first` and `last` are both included."""
        import sqlalchemy as sa

        from analytics_dagster.lake.state_tables import usage

        query = sa.select(usage).where(usage.c.tenant == tenant).order_by(usage.c.day)
        if first is not None:
            query = query.where(usage.c.day >= first)
        if last is not None:
            query = query.where(usage.c.day <= last)
        with self._database.read() as connection:
            return [DayUsage(**row._mapping) for row in connection.execute(query)]


def _counted_through(connection: sa.Connection, source: str, tenants: set[str]) -> dict[tuple[str, str], int]:
    import sqlalchemy as sa

    from analytics_dagster.lake.state_tables import usage_positions as table

    query = sa.select(table.c.tenant, table.c.table_name, table.c.position).where(table.c.source == source)
    return {(t, name): p for t, name, p in connection.execute(query.where(table.c.tenant.in_(tenants)))}


def _set_counted_through(connection: sa.Connection, source: str, through: Mapping[tuple[str, str], int]) -> None:
    from analytics_dagster.lake.state_tables import usage_positions as table

    rows = [{"tenant": t, "source": source, "table_name": name, "position": p} for (t, name), p in sorted(through.items())]
    insert = _insert(connection, table)
    changes = {"position": insert.excluded.position}
    connection.execute(insert.on_conflict_do_update(index_elements=["tenant", "source", "table_name"], set_=changes), rows)


def _add(connection: sa.Connection, day: dt.date, by_tenant: Mapping[str, Mapping[str, int]]) -> None:
    import sqlalchemy as sa

    from analytics_dagster.lake.state_tables import usage as table

    zeros = {"points": 0, "plays": 0, "requests": 0, "stored_bytes": None}
    rows = [{"tenant": tenant, "day": day, **zeros, **numbers} for tenant, numbers in sorted(by_tenant.items())]
    insert = _insert(connection, table)
    changes: dict[str, Any] = {name: table.c[name] + insert.excluded[name] for name in ("points", "plays", "requests")}
    changes["stored_bytes"] = sa.func.coalesce(insert.excluded.stored_bytes, table.c.stored_bytes)
    connection.execute(insert.on_conflict_do_update(index_elements=["tenant", "day"], set_=changes), rows)


def _insert(connection: sa.Connection, table: sa.Table) -> Any:
    from sqlalchemy.dialects import postgresql, sqlite

    return (postgresql if connection.dialect.name == "postgresql" else sqlite).insert(table)
