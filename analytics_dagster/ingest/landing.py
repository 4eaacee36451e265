"""Arrivals: appended to `landing/<table>`, never changed, each key once, and noted by day so that stale days are known.

The order that must hold: under the landing table's lock, first the note in the database, then the Delta commit. Whoever
builds raw takes the same lock to read "newest note" and "files" together, so a crash between the two leaves a day that
is built once too often, never one that is forgotten.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from analytics_dagster.clock import Clock
from analytics_dagster.ingest.lateness import DEFAULTS, Lateness, note_arrival
from analytics_dagster.lake import schemas
from analytics_dagster.lake.compute import connect, identifier, literal
from analytics_dagster.lake.content import row_text
from analytics_dagster.lake.lake import ArrowRows, Lake, Table
from analytics_dagster.lake.schemas import TableSchema

if TYPE_CHECKING:
    import duckdb
    import sqlalchemy as sa

    from analytics_dagster.lake.database import Database

_NOTES_IN_ONE_WRITE = 2_000
_SOURCES_IN_ONE_WRITE = 200

FROM_LOG = "log"
"""Name of the arrival under which the ingest log's days are noted."""


@dataclass(frozen=True)
class Appended:
    kept: int
    duplicate: int


@dataclass(frozen=True)
class Refused:
    """A record that could not be taken. `line` is its first line in `file`, from 1; `original` its bytes as they stand."""

    file: str
    line: int
    field: str | None
    reason: str
    original: bytes


class Landing:
    """The way in for every row, whoever brings it."""

    def __init__(self, lake: Lake, database: Database, clock: Clock, lateness: Mapping[str, Lateness] = DEFAULTS) -> None:
        """`lateness` is how late rows of each event table may come: it says which days are closed when rows arrive."""
        self._lake = lake
        self._database = database
        self._clock = clock
        self._lateness = lateness

    def append(self, tenant: str, table: TableSchema, data: ArrowRows, arrival: str, *, unique: bool = False) -> Appended:
        """Append the rows of `data` (exactly `table`'s columns) that are not there yet.

        A row of a known key with other content is a correction: it is kept, and raw takes the newest of a key.

        `unique=True` is the caller's promise that no key was: it skips looking, and `data` must then be an Arrow table.
        A catalogue row is a duplicate when it equals the newest row of its key; a changed one is kept.
        """
        target = self._lake.tenant(tenant).table(schemas.landing(table))
        if unique and isinstance(data, pa.Table):
            with target.lock():
                self._note(tenant, table, _days_of(data, table), _newest_of(data, table), arrival)
                target.append(_with_arrival(data, arrival, self._clock.now()))
            return Appended(data.num_rows, 0)
        with tempfile.TemporaryDirectory(prefix="landing-") as folder, target.lock():
            return self._append_new(tenant, table, target, data, arrival, Path(folder))

    def complete(self, tenant: str, arrival: str) -> None:
        """Note that all of an arrival is in."""
        self._write_notes([_note_row(tenant, "", None, 0, arrival, self._clock.now())])

    def note_consumed(self, arrived: Iterable[tuple[str, TableSchema, Mapping[dt.date, int], dt.datetime]]) -> None:
        """Note what was landed from the ingest log: rows by day of each tenant and table, and the time of the newest.

        One note for each day, replaced each time: with a round every ten seconds they would be millions. Who reads notes wants
        the newest, and `rows` goes on counting until they were reported.
        """
        now, parts = self._clock.now(), list(arrived)
        newest = [(tenant, table.name, time) for tenant, table, _, time in parts]
        for start in range(0, len(newest), _SOURCES_IN_ONE_WRITE):
            some = newest[start : start + _SOURCES_IN_ONE_WRITE]
            self._database.write(partial(self._note_arrivals, newest=some, now=now))
        rows = [
            _note_row(tenant, table.name, day, number, FROM_LOG, now)
            for tenant, table, days, _ in parts
            for day, number in sorted(days.items())
        ]
        for start in range(0, len(rows), _NOTES_IN_ONE_WRITE):
            chunk = rows[start : start + _NOTES_IN_ONE_WRITE]
            self._database.write(partial(_replace_notes, rows=chunk))

    def quarantine(self, tenant: str, refused: Iterable[Refused], arrival: str, format: str) -> int:
        """Set records aside. The same record of the same file is kept once; returns how many were new."""
        table = self._lake.tenant(tenant).table(schemas.QUARANTINE)
        rows = {_quarantine_id(r): r for r in refused}
        with table.lock():
            known = set(table.read(columns=["quarantine_id"]).column(0).to_pylist())
            new = {key: r for key, r in rows.items() if key not in known}
            if new:
                table.append(_quarantine_rows(new, arrival, format, self._clock.now()))
        return len(new)

    def quarantined(self, tenant: str, limit: int | None = None) -> pa.Table:
        """A tenant's quarantine (the newest `limit` of it), oldest first, in `schemas.QUARANTINE`'s columns."""
        rows = self._lake.tenant(tenant).table(schemas.QUARANTINE).sql()
        if limit is not None:
            rows = f"(SELECT * FROM {rows} ORDER BY arrived_at DESC, file DESC, line DESC LIMIT {int(limit)})"
        with connect() as connection:
            return connection.sql(f"SELECT * FROM {rows} ORDER BY arrived_at, file, line").to_arrow_table()

    def _append_new(
        self, tenant: str, table: TableSchema, target: Table, data: ArrowRows, arrival: str, folder: Path
    ) -> Appended:
        """Stage in a DuckDB file (constant memory), drop what is known, note, commit."""
        with connect(database=str(folder / "staging.duckdb")) as connection:
            incoming = _numbered(data)
            connection.register("incoming", incoming)
            connection.execute("CREATE TABLE staged AS SELECT * FROM incoming")
            connection.unregister("incoming")
            read = _count(connection, "staged")
            if read == 0:
                return Appended(0, 0)
            connection.execute(f"CREATE TABLE kept AS {_new_rows_sql(connection, table, target)}")
            kept = _count(connection, "kept")
            if kept:
                self._note(tenant, table, _staged_days(connection, table), _staged_newest(connection, table), arrival)
                stamp = self._clock.now().isoformat()
                rows = connection.sql(
                    f"SELECT * EXCLUDE (arrival_row), {literal(arrival)} AS arrival, "
                    f"TIMESTAMPTZ {literal(stamp)} AS arrived_at, arrival_row FROM kept ORDER BY arrival_row"
                )
                target.append(rows.to_arrow_reader(65_536))
        return Appended(kept, read - kept)

    def _note(
        self, tenant: str, table: TableSchema, days: dict[dt.date | None, int], newest: dt.datetime | None, arrival: str
    ) -> None:
        now = self._clock.now()
        rows = [_note_row(tenant, table.name, day, number, arrival, now) for day, number in sorted(days.items(), key=str)]
        self._write_notes(rows, [] if newest is None else [(tenant, table.name, newest)])

    def _write_notes(self, rows: list[dict[str, object]], newest: Sequence[tuple[str, str, dt.datetime]] = ()) -> None:
        from analytics_dagster.lake.state_tables import arrivals

        for start in range(0, len(rows), _NOTES_IN_ONE_WRITE):
            chunk = rows[start : start + _NOTES_IN_ONE_WRITE]

            def write(connection: sa.Connection, chunk: list[dict[str, object]] = chunk, first: bool = not start) -> None:
                if first:
                    self._note_arrivals(connection, newest, self._clock.now())
                connection.execute(arrivals.insert(), chunk)

            self._database.write(write)

    def _note_arrivals(self, connection: sa.Connection, newest: Iterable[tuple[str, str, dt.datetime]], now: dt.datetime) -> None:
        for tenant, table, time in newest:
            note_arrival(connection, tenant, table, time, now, self._lateness[table])


def _note_row(tenant: str, table: str, day: dt.date | None, rows: int, arrival: str, now: dt.datetime) -> dict[str, object]:
    return {"tenant": tenant, "table_name": table, "day": day, "rows": rows, "arrival": arrival, "arrived_at": now}


def _replace_notes(connection: sa.Connection, rows: Sequence[dict[str, Any]]) -> None:
    """Put `rows` in the place of the log's notes of the same tenants, tables and days."""
    import sqlalchemy as sa

    from analytics_dagster.ingest.raw import reported_note
    from analytics_dagster.lake.state_tables import arrivals

    query = sa.select(arrivals.c.id, arrivals.c.tenant, arrivals.c.table_name, arrivals.c.day, arrivals.c.rows).where(
        arrivals.c.arrival == FROM_LOG,
        arrivals.c.tenant.in_({row["tenant"] for row in rows}),
        arrivals.c.table_name.in_({row["table_name"] for row in rows}),
        arrivals.c.day.between(min(row["day"] for row in rows), max(row["day"] for row in rows)),
    )
    before = {(old.tenant, old.table_name, old.day): old for old in connection.execute(query)}
    reported = {table: reported_note(connection, table) for table in {old.table_name for old in before.values()}}
    replaced, made = [], []
    for row in rows:
        unreported = 0
        if old := before.get((row["tenant"], row["table_name"], row["day"])):
            replaced.append(old.id)
            unreported = old.rows if old.id > reported[old.table_name] else 0
        made.append({**row, "rows": row["rows"] + unreported})
    # First the new: SQLite gives the highest id + 1, and an id must not come again.
    connection.execute(arrivals.insert(), made)
    connection.execute(arrivals.delete().where(arrivals.c.id.in_(replaced)))


def _numbered(data: ArrowRows) -> pa.RecordBatchReader:
    """The same rows with `arrival_row`, their position."""
    reader = data if isinstance(data, pa.RecordBatchReader) else data.to_reader(max_chunksize=65_536)
    schema = reader.schema.append(pa.field("arrival_row", pa.int64()))

    def batches() -> Iterator[pa.RecordBatch]:
        start = 0
        for batch in reader:
            numbers = pa.array(np.arange(start, start + batch.num_rows))
            yield pa.RecordBatch.from_arrays([*batch.columns, numbers], schema=schema)
            start += batch.num_rows

    return pa.RecordBatchReader.from_batches(schema, batches())


def _new_rows_sql(connection: duckdb.DuckDBPyConnection, table: TableSchema, target: Table) -> str:
    key = identifier(table.key)
    if table.time is None:
        line = row_text(c.name for c in table.columns)
        newest = f"SELECT DISTINCT ON ({key}) * FROM {target.sql()} ORDER BY {key}, arrived_at DESC, arrival_row DESC"
        return (
            # Of a key's several rows in one arrival only the last may land: with two, neither would equal "the newest" when the
            # same file comes again, and each import would add them anew.
            "SELECT * FROM (SELECT * FROM staged QUALIFY row_number() OVER "
            f"(PARTITION BY {key} ORDER BY arrival_row DESC) = 1) s "
            f"WHERE {line} NOT IN (SELECT {line} FROM ({newest}))"
        )
    line = row_text(c.name for c in table.columns)
    [(first, last)] = connection.execute("SELECT min(ts)::DATE, max(ts)::DATE FROM staged").fetchall()
    return (
        "SELECT * FROM (SELECT * FROM staged QUALIFY row_number() OVER "
        f"(PARTITION BY {key}, {line} ORDER BY arrival_row) = 1) s "
        f"WHERE ({key}, {line}) NOT IN (SELECT ({key}, {line}) FROM {target.sql(first, last)})"
    )


def _staged_days(connection: duckdb.DuckDBPyConnection, table: TableSchema) -> dict[dt.date | None, int]:
    if table.time is None:
        return {None: _count(connection, "kept")}
    return dict(connection.execute("SELECT ts::DATE, count(*) FROM kept GROUP BY 1").fetchall())


def _days_of(data: pa.Table, table: TableSchema) -> dict[dt.date | None, int]:
    import pyarrow.compute as pc

    if table.time is None:
        return {None: data.num_rows} if data.num_rows else {}
    counted = pc.value_counts(data.column("ts").cast(pa.date32()))
    return {entry["values"]: entry["counts"] for entry in counted.to_pylist()}


def _newest_of(data: pa.Table, table: TableSchema) -> dt.datetime | None:
    import pyarrow.compute as pc

    newest: dt.datetime | None = None if table.time is None else pc.max(data.column("ts")).as_py()
    return newest


def _staged_newest(connection: duckdb.DuckDBPyConnection, table: TableSchema) -> dt.datetime | None:
    if table.time is None:
        return None
    newest: dt.datetime = connection.execute("SELECT max(ts) FROM kept").fetchall()[0][0]
    return newest.astimezone(dt.UTC)


def _with_arrival(data: pa.Table, arrival: str, now: dt.datetime) -> pa.Table:
    rows = data.num_rows
    return (
        data.append_column("arrival", pa.repeat(pa.scalar(arrival), rows))
        .append_column("arrived_at", pa.repeat(pa.scalar(now, schemas.TIMESTAMP), rows))
        .append_column("arrival_row", pa.array(np.arange(rows)))
    )


def _count(connection: duckdb.DuckDBPyConnection, table: str) -> int:
    return int(connection.execute(f"SELECT count(*) FROM {table}").fetchall()[0][0])


def _quarantine_id(refused: Refused) -> str:
    identity = f"{refused.file}\x1f{refused.line}\x1f".encode() + refused.original
    return hashlib.blake2b(identity, digest_size=16).hexdigest()


def _quarantine_rows(new: dict[str, Refused], arrival: str, format: str, now: dt.datetime) -> pa.Table:
    rows = [
        {
            "quarantine_id": key,
            "file": r.file,
            "line": r.line,
            "field": r.field,
            "reason": r.reason,
            "original": r.original,
            "format": format,
            "arrival": arrival,
            "arrived_at": now,
        }
        for key, r in new.items()
    ]
    return pa.Table.from_pylist(rows, schema=schemas.QUARANTINE.arrow)
