"""Raw: the deterministic deduplication of landing, a day at a time. Materializing any day at any time gives the same rows."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from analytics_dagster.lake.compute import connect, identifier
from analytics_dagster.lake.lake import TenantLake
from analytics_dagster.lake.schemas import TableSchema, landing

if TYPE_CHECKING:
    import sqlalchemy as sa

    from analytics_dagster.lake.database import Database


@dataclass(frozen=True)
class StaleDays:
    """Days of one table that have arrivals which no publication contains; `newest` is the arrivals' newest id."""

    tenant: str
    table: str
    days: tuple[dt.date, ...]
    newest: int


@dataclass(frozen=True)
class Arrived:
    """What landed in one table since a note; `newest` is the table's newest note then."""

    table: str
    rows: int
    tenants: tuple[str, ...]
    newest: int


def build_raw_days(tenant: TenantLake, table: TableSchema, first: dt.date, last: dt.date, database: Database) -> int:
    """Rebuild the days `first` to `last` of `table` in one commit. Returns the newest arrival note they contain.

    A key is looked for within its own day, so that a day's rows do not depend on which other days are rebuilt with it.
    """
    source = tenant.table(landing(table))
    with source.lock():
        newest = newest_note(database, tenant.tenant, table.name)
        rows = source.sql(first, last)
    columns = ", ".join(identifier(c.name) for c in table.columns)
    key = identifier(table.key)
    once = f"""
        SELECT {columns} FROM {rows}
        QUALIFY row_number() OVER (PARTITION BY {key}, ts::DATE ORDER BY arrived_at DESC, arrival DESC, arrival_row DESC) = 1
    """
    with connect() as connection:
        # Landing drops what it has, so repeats are rare, and looking for one is five times as fast as sorting them out.
        repeats = f"SELECT 1 FROM {rows} GROUP BY {key}, ts::DATE HAVING count(*) > 1 LIMIT 1"
        query = once if connection.execute(repeats).fetchall() else f"SELECT {columns} FROM {rows}"
        tenant.table(table).overwrite_days(connection.sql(query).to_arrow_reader(65_536), first, last)
    return newest


def build_catalogue(tenant: TenantLake, table: TableSchema) -> None:
    """Rebuild a catalogue table: the newest row of each key."""
    source = tenant.table(landing(table))
    columns = ", ".join(identifier(c.name) for c in table.columns)
    query = f"""
        SELECT {columns} FROM {source.sql()}
        QUALIFY row_number() OVER (
            PARTITION BY {identifier(table.key)} ORDER BY arrived_at DESC, arrival DESC, arrival_row DESC) = 1
        ORDER BY {identifier(table.key)}
    """
    with connect() as connection:
        tenant.table(table).overwrite(connection.sql(query).to_arrow_reader(65_536))


def newest_note(database: Database, tenant: str, table: str) -> int:
    """Newest id in `arrivals` for this table, 0 for none."""
    import sqlalchemy as sa

    from analytics_dagster.lake.state_tables import arrivals

    query = sa.select(sa.func.max(arrivals.c.id)).where(arrivals.c.tenant == tenant, arrivals.c.table_name == table)
    with database.read() as connection:
        return int(connection.execute(query).scalar() or 0)


def take_unreported(database: Database, now: dt.datetime, tables: Sequence[str] = (), since: int = 0) -> list[Arrived]:
    """What landed since it was last taken, by table (`tables`, or all), each row once whoever asks: the sensor that tells Dagster
    of arrivals, or the step that consumes the log.

    `since` is the note to begin at in a database where nothing was taken yet.
    """

    def take(connection: sa.Connection) -> list[Arrived]:
        from analytics_dagster.lake.state_tables import cursors

        found = [a for a in _arrived(connection, _reported(connection), since) if not tables or a.table in tables]
        for arrived in found:
            mine, values = cursors.c.name == _REPORTED + arrived.table, {"value": str(arrived.newest), "changed_at": now}
            if connection.execute(cursors.update().where(mine).values(**values)).rowcount == 0:
                connection.execute(cursors.insert().values(name=_REPORTED + arrived.table, **values))
        return found

    # Looked for outside a transaction first: most ticks find nothing, and need not wait for who writes.
    with database.read() as connection:
        if not _arrived(connection, _reported(connection), since):
            return []
    return database.write(take)


def reported_note(connection: sa.Connection, table: str) -> int:
    """The newest note of `table` that was taken, 0 for none."""
    return _reported(connection).get(table, 0)


def forget_covered_notes(database: Database) -> int:
    """Delete notes that were reported and say nothing that a newer one of the same tenant, table and day does not."""
    import sqlalchemy as sa

    from analytics_dagster.lake.state_tables import arrivals

    newest = sa.select(sa.func.max(arrivals.c.id)).group_by(arrivals.c.tenant, arrivals.c.table_name, arrivals.c.day)

    def forget(connection: sa.Connection) -> int:
        deleted = 0
        for table, reported in _reported(connection).items():
            covered = sa.and_(arrivals.c.table_name == table, arrivals.c.id <= reported, arrivals.c.id.not_in(newest))
            deleted += connection.execute(arrivals.delete().where(covered)).rowcount
        return deleted

    return database.write(forget)


# One cursor for each table: the newest note of it whose rows were reported.
_REPORTED = "reported/"


def _reported(connection: sa.Connection) -> dict[str, int]:
    import sqlalchemy as sa

    from analytics_dagster.lake.state_tables import cursors

    query = sa.select(cursors.c.name, cursors.c.value).where(cursors.c.name.startswith(_REPORTED, autoescape=True))
    return {name.removeprefix(_REPORTED): int(value) for name, value in connection.execute(query)}


def _arrived(connection: sa.Connection, after: Mapping[str, int], otherwise: int) -> list[Arrived]:
    import sqlalchemy as sa

    from analytics_dagster.lake.state_tables import arrivals

    query = (
        sa.select(arrivals.c.table_name, arrivals.c.tenant, sa.func.sum(arrivals.c.rows), sa.func.max(arrivals.c.id))
        .where(arrivals.c.table_name != "", arrivals.c.id > min([otherwise, *after.values()]))
        .where(*(sa.or_(arrivals.c.table_name != table, arrivals.c.id > note) for table, note in after.items()))
        .where(sa.or_(arrivals.c.table_name.in_(after), arrivals.c.id > otherwise))
        .group_by(arrivals.c.table_name, arrivals.c.tenant)
    )
    found = connection.execute(query).all()
    return [
        Arrived(
            table,
            int(sum(row[2] for row in found if row[0] == table)),
            tuple(sorted(row[1] for row in found if row[0] == table)),
            int(max(row[3] for row in found if row[0] == table)),
        )
        for table in sorted({row[0] for row in found})
    ]


def first_arrival(database: Database, tenant: str, table: str) -> dt.date | None:
    """First day that any arrival of this table has, None for a table without."""
    import sqlalchemy as sa

    from analytics_dagster.lake.state_tables import arrivals

    query = sa.select(sa.func.min(arrivals.c.day)).where(arrivals.c.tenant == tenant, arrivals.c.table_name == table)
    with database.read() as connection:
        return connection.execute(query).scalar()


def stale_days(database: Database, tenants: tuple[str, ...] | None = None) -> list[StaleDays]:
    """For each tenant and event table, the days that have arrivals newer than what `raw/<table>` published."""
    import sqlalchemy as sa

    from analytics_dagster.lake.state_tables import arrivals, publications

    noted = (
        sa.select(arrivals.c.tenant, arrivals.c.table_name, arrivals.c.day, sa.func.max(arrivals.c.id).label("newest"))
        .where(arrivals.c.day.is_not(None))
        .group_by(arrivals.c.tenant, arrivals.c.table_name, arrivals.c.day)
        .subquery()
    )
    published = publications.alias()
    query = (
        sa.select(noted)
        .outerjoin(
            published,
            sa.and_(
                published.c.tenant == noted.c.tenant,
                published.c.asset == sa.literal("raw/") + noted.c.table_name,
                published.c.day == noted.c.day,
            ),
        )
        .where(sa.or_(published.c.day.is_(None), published.c.input_id < noted.c.newest))
        .order_by(noted.c.tenant, noted.c.table_name, noted.c.day)
    )
    if tenants is not None:
        query = query.where(noted.c.tenant.in_(tenants))
    found: dict[tuple[str, str], tuple[list[dt.date], int]] = {}
    with database.read() as connection:
        for tenant, table, day, newest in connection.execute(query):
            days, highest = found.get((tenant, table), ([], 0))
            days.append(day)
            found[tenant, table] = (days, max(highest, newest))
    return [StaleDays(tenant, table, tuple(days), newest) for (tenant, table), (days, newest) in found.items()]
