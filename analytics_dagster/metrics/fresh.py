"""Figures that hold every acknowledged point: for days whose tables lag behind, the points themselves.

Points go from the log to landing, to raw, to the aggregate tables. A day is *stale* when something of it is not in the tables
yet. Its points are what landing has of it and what the log's tail has, each once by its id, as raw would have them.

The order of reading makes this exact while everything moves on: first up to where the log is consumed, then the tail behind
that, then which days are stale, then landing, and last (by the caller) the tables. The consumer lands rows, notes their days and
then remembers how far it came. So a row is in the tail, or its day was noted before the tail was read; and whoever
publishes a day writes its tables before. A row that is seen in both places counts once.
"""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from analytics_dagster.ingest.identity import SERIES_ID_SQL, point_id_sql
from analytics_dagster.ingest.log.interface import LogSource
from analytics_dagster.ingest.positions import positions
from analytics_dagster.lake.compute import connect, literal
from analytics_dagster.lake.interruption import Interruption
from analytics_dagster.lake.opened import OpenedTable
from analytics_dagster.lake.publications import Status
from analytics_dagster.lake.schemas import METRICS, Layer, landing
from analytics_dagster.metrics.recorded import FAMILY, Recent
from analytics_dagster.metrics.tail import TailCache

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from analytics_dagster.installation import Installation
    from analytics_dagster.lake.database import Database
    from analytics_dagster.lake.lake import TenantLake

# A server answers from one engine, beside everything else that it does in a gigabyte.
_MEMORY_LIMIT = "400MB"
_RAW, _FIGURES = METRICS.path, f"{Layer.AGGREGATES}/{FAMILY}"
_POINT = ("ts", "name", "type", "value", "labels")
# A series' part of the id is made once a series: for each row it takes longer than everything else.
_SERIES = ("type", "name", "labels")
_TAIL_POINTS = (
    f"SELECT {point_id_sql('series_id')} AS point_id, {', '.join(_POINT)} FROM tail_rows JOIN "
    f"(SELECT {', '.join(f'{c} AS series_{c}' for c in _SERIES)}, {SERIES_ID_SQL} AS series_id "
    f"FROM (SELECT DISTINCT {', '.join(_SERIES)} FROM tail_rows)) "
    f"ON {' AND '.join(f'{c} IS NOT DISTINCT FROM series_{c}' for c in _SERIES)}"
)


class Fresh:
    """Recent points of an installation's tenants. Make one for a process and keep it; safe to use from several threads."""

    def __init__(self, installation: Installation, sources: Callable[[], Sequence[LogSource]] | None = None) -> None:
        """`sources` lists what the log consists of now; by default what the installation's settings say."""
        self._database = installation.database
        self._tail = TailCache(sources or _sources_of(installation))
        self._stale = _StaleDays(installation.database)
        self._landings: dict[str, OpenedTable] = {}
        self._engine: duckdb.DuckDBPyConnection | None = None
        self._lock = threading.Lock()

    @contextmanager
    def recent(
        self, tenant: TenantLake, name: str | None, interruption: Interruption | None = None
    ) -> Iterator[tuple[Recent, duckdb.DuckDBPyConnection]]:
        """A tenant's recent points of a name, and a connection that they can be read by until the context is left.

        Without a name: one row for each name and type, with its newest time and nothing else. `interruption` ends what is read
        within the context, and what is read here. Raises RetryableError while the log's consumer is too far behind.
        """
        interruption = interruption or Interruption()
        connection = self._connection()
        try:
            with interruption.covering(connection):
                yield self._gather(connection, tenant, name, interruption), connection
        finally:
            connection.close()

    def close(self) -> None:
        """Let go of the engine's memory."""
        with self._lock:
            if self._engine is not None:
                self._engine.close()
                self._engine = None

    def _gather(
        self, connection: duckdb.DuckDBPyConnection, tenant: TenantLake, name: str | None, interruption: Interruption
    ) -> Recent:
        consumed = {source: known.position for source, known in positions(self._database).items()}
        tail = self._tail.find(tenant.tenant, name, consumed, interruption.check)
        interruption.check()
        stale, closed = self._stale.of(tenant.tenant)
        days = (stale | _days_of(tail)) - closed
        if not days:
            return Recent()
        connection.register("tail_rows", tail)
        table = self._landing(tenant)
        try:
            relation = _arrived(connection, table, days, name)
        except _gone():
            table.forget()
            relation = _arrived(connection, table, days, name)
        return Recent(frozenset(days), relation)

    def _landing(self, tenant: TenantLake) -> OpenedTable:
        with self._lock:
            return self._landings.setdefault(tenant.tenant, OpenedTable(tenant.table(landing(METRICS))))

    def _connection(self) -> duckdb.DuckDBPyConnection:
        """One of its own for each question: one engine, whose memory is bounded as a whole and which remembers files' footers."""
        with self._lock:
            if self._engine is None:
                self._engine = connect(memory_limit=_MEMORY_LIMIT)
                self._engine.execute("SET parquet_metadata_cache = true")
            connection = self._engine.cursor()
        connection.execute("SET TimeZone = 'UTC'")
        return connection


class _StaleDays:
    """Which days of a tenant's points are not in the published figures. Notes of arrivals are read once and kept."""

    # PostgreSQL may commit a note after one with a higher id: those just below the newest are looked at again.
    _LOOK_AGAIN = 1_000

    def __init__(self, database: Database) -> None:
        self._database = database
        self._noted: dict[str, dict[dt.date, int]] = {}
        self._lock = threading.Lock()

    def of(self, tenant: str) -> tuple[set[dt.date], set[dt.date]]:
        """Days that have something which the figures lack, and days whose gate is closed: those keep the figures they had."""
        noted = self._notes(tenant)
        stale, closed = set(noted), set()
        for day, status, raw_input, current in self._published(tenant):
            if status == Status.GATED:
                closed.add(day)
            elif current and raw_input >= noted.get(day, 0):
                stale.discard(day)
        return stale, closed

    def _notes(self, tenant: str) -> dict[dt.date, int]:
        """The newest note of each day."""
        import sqlalchemy as sa

        from analytics_dagster.lake.state_tables import arrivals

        with self._lock:
            known = dict(self._noted.get(tenant, {}))
        query = sa.select(arrivals.c.day, sa.func.max(arrivals.c.id)).group_by(arrivals.c.day)
        query = query.where(arrivals.c.table_name == METRICS.name, arrivals.c.day.is_not(None))
        if known:
            # Not by the index on tenants, which leads to all notes there ever were: by the id, to the newest.
            recent = arrivals.c.id > max(known.values()) - self._LOOK_AGAIN
            query = query.where(recent, arrivals.c.tenant.concat("") == tenant)
        else:
            query = query.where(arrivals.c.tenant == tenant)
        with self._database.read() as connection:
            known.update({day: max(newest, known.get(day, 0)) for day, newest in connection.execute(query)})
        with self._lock:
            self._noted[tenant] = known
        return known

    def _published(self, tenant: str) -> list[tuple[dt.date, str, int, bool]]:
        """Of each published raw day: its status, its newest note, and whether figures were made from it as it is."""
        import sqlalchemy as sa

        from analytics_dagster.lake.state_tables import publications

        raw, figure = publications.alias("raw"), publications.alias("figure")
        same_day = sa.and_(figure.c.tenant == raw.c.tenant, figure.c.day == raw.c.day, figure.c.asset == _FIGURES)
        query = (
            sa.select(raw.c.day, raw.c.status, raw.c.input_id, sa.func.coalesce(figure.c.input_id, -1) >= raw.c.sequence)
            .outerjoin_from(raw, figure, same_day)
            .where(raw.c.tenant == tenant, raw.c.asset == _RAW)
        )
        with self._database.read() as connection:
            return [(day, status, newest, bool(current)) for day, status, newest, current in connection.execute(query)]


def _sources_of(installation: Installation) -> Callable[[], Sequence[LogSource]]:
    from analytics_dagster.ingest.log.open import open_sources

    return lambda: open_sources(installation.settings, installation.clock)


def _days_of(rows: pa.Table) -> set[dt.date]:
    import pyarrow as pa
    import pyarrow.compute as pc

    return set(pc.unique(rows.column("ts").cast(pa.date32())).to_pylist())


def _gone() -> tuple[type[Exception], ...]:
    """What reading raises when the files of an open version were deleted: a tenant's data, or by a vacuum of long ago."""
    import duckdb
    from deltalake.exceptions import DeltaError

    return DeltaError, duckdb.IOException, duckdb.HTTPException


def _arrived(connection: duckdb.DuckDBPyConnection, table: OpenedTable, days: Collection[dt.date], name: str | None) -> str:
    """Bring in what landing and the tail have of `days`; returns a relation of each point once, the newest of an id as in raw."""
    landed = table.sql((min(days), max(days)), None if name is None else f"name = {literal(name)}")
    among = ", ".join(f"DATE '{day}'" for day in sorted(days))
    columns = ", ".join(["point_id", *_POINT, "arrived_at", "arrival", "arrival_row"])
    rows = (
        f"SELECT {columns} FROM {landed} WHERE CAST(ts AS DATE) IN ({among}) "
        f"UNION ALL BY NAME SELECT * FROM ({_TAIL_POINTS}) WHERE CAST(ts AS DATE) IN ({among})"
    )
    if name is None:
        newest = "max(ts) AS ts, name, type, NULL::DOUBLE AS value, NULL::VARCHAR AS labels"
        connection.execute(f"CREATE OR REPLACE TEMP TABLE arrived AS SELECT {newest} FROM ({rows}) GROUP BY name, type")
        return "arrived"
    connection.execute(f"CREATE OR REPLACE TEMP TABLE arrived AS {rows}")
    # Landing drops what it has, so repeats are rare, and looking for one is faster than sorting them out.
    if not connection.execute("SELECT 1 FROM arrived GROUP BY hash(point_id) HAVING count(*) > 1 LIMIT 1").fetchall():
        return "arrived"
    newest = "arrived_at DESC NULLS LAST, arrival DESC, arrival_row DESC"
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE once AS SELECT {', '.join(_POINT)} FROM arrived "
        f"QUALIFY row_number() OVER (PARTITION BY point_id, ts::DATE ORDER BY {newest}) = 1"
    )
    return "once"
