"""Raw: the deterministic deduplication of landing, a day at a time. Materializing any day at any time gives the same rows."""

from __future__ import annotations

import datetime as dt
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
    """What landed in one table since a note; `newest` is the newest note of all tables then."""

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


REPORTED = "arrivals/reported"
"""Cursor: the newest note whose rows Dagster was told of."""


def reported_note(connection: sa.Connection) -> int:
    """The newest note whose rows were reported, 0 for none."""
    import sqlalchemy as sa

    from analytics_dagster.lake.state_tables import cursors

    return int(connection.execute(sa.select(cursors.c.value).where(cursors.c.name == REPORTED)).scalar() or 0)


def note_reported(database: Database, note: int, now: dt.datetime) -> None:
    """Remember that everything up to `note` was reported."""
    from analytics_dagster.lake.state_tables import cursors

    def write(connection: sa.Connection) -> None:
        values = {"value": str(max(note, reported_note(connection))), "changed_at": now}
        if connection.execute(cursors.update().where(cursors.c.name == REPORTED).values(**values)).rowcount == 0:
            connection.execute(cursors.insert().values(name=REPORTED, **values))

    database.write(write)


def forget_covered_notes(database: Database) -> int:
    """Delete notes that were reported and say nothing that a newer one of the same tenant, table and day does not."""
    import sqlalchemy as sa

    from analytics_dagster.lake.state_tables import arrivals

    newest = sa.select(sa.func.max(arrivals.c.id)).group_by(arrivals.c.tenant, arrivals.c.table_name, arrivals.c.day)

    def write(connection: sa.Connection) -> int:
        covered = arrivals.delete().where(
            arrivals.c.table_name != "", arrivals.c.id <= reported_note(connection), arrivals.c.id.not_in(newest)
        )
        return int(connection.execute(covered).rowcount)

    return database.write(write)


def arrivals_after(database: Database, note: int) -> list[Arrived]:
    """What landed since the arrival note `note`, by table."""
    import sqlalchemy as sa

    from analytics_dagster.lake.state_tables import arrivals

    query = (
        sa.select(arrivals.c.table_name, arrivals.c.tenant, sa.func.sum(arrivals.c.rows), sa.func.max(arrivals.c.id))
        .where(arrivals.c.id > note, arrivals.c.table_name != "")
        .group_by(arrivals.c.table_name, arrivals.c.tenant)
    )
    with database.read() as connection:
        found = connection.execute(query).all()
    return [
        Arrived(
            table,
            int(sum(row[2] for row in found if row[0] == table)),
            tuple(sorted(row[1] for row in found if row[0] == table)),
            int(max(row[3] for row in found)),
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
