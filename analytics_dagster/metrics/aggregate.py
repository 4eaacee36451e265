"""From raw rows to a family's aggregate tables: hours in one fused query, days merged from the hours just written."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

import pyarrow as pa

from analytics_dagster.lake.compute import connect, identifier
from analytics_dagster.lake.schemas import BY_NAME, TableSchema
from analytics_dagster.metrics.compile import HOURS, SOURCE
from analytics_dagster.metrics.declarations import Family, Grain

if TYPE_CHECKING:
    import duckdb

    from analytics_dagster.lake.lake import Table, TenantLake

# Source rows that one query groups: with it, 90 days of 10,000,000 plays peak at 780 MB for the whole process, sets included.
ROWS_AT_ONCE = 2_000_000
_BATCH_ROWS = 16_384

Span = tuple[dt.date, dt.date]


def aggregate_days(
    tenant: TenantLake,
    family: Family,
    first: dt.date,
    last: dt.date,
    *,
    stream_ms: int,
    skip: Collection[dt.date] = (),
    rows_at_once: int = ROWS_AT_ONCE,
) -> None:
    """Compute `<family>_hour` and `<family>_day` for the days `first` to `last` (inclusive, UTC), in one commit each.

    Reads raw/<source>. The same rows give the same sorted rows. Days in `skip` keep what they had. `stream_ms` is the length
    from which a play counts as a stream. A process killed between both commits leaves days that the next run mends. A tenant
    that never had such rows gets no tables.
    """
    raw, hours, days = (tenant.table(s) for s in (BY_NAME[family.source], family.table(Grain.HOUR), family.table(Grain.DAY)))
    if not raw.exists() and not hours.exists():
        return
    skipped = frozenset(day for day in skip if first <= day <= last)
    with connect() as connection:
        spans = _spans(connection, raw, first, last, rows_at_once)
        hour_rows = _hour_rows(connection, family, raw, hours, spans, skipped, stream_ms)
        hours.overwrite_days(_reader(hours.schema, hour_rows), first, last)
        days.overwrite_days(_reader(days.schema, _day_rows(connection, family, hours, spans)), first, last)


def _spans(connection: duckdb.DuckDBPyConnection, raw: Table, first: dt.date, last: dt.date, rows_at_once: int) -> list[Span]:
    """Consecutive ranges of whole days, of at most `rows_at_once` rows unless one day has more, that cover `first` to `last`."""
    if first == last:
        return [(first, last)]
    counts = connection.execute(
        f"SELECT CAST(ts AS DATE) AS day, count(*) FROM {raw.sql(first, last)} GROUP BY day ORDER BY day"
    ).fetchall()
    spans: list[Span] = []
    begin, held = first, 0
    for day, rows in counts:
        if held and held + rows > rows_at_once:
            spans.append((begin, day - dt.timedelta(days=1)))
            begin, held = day, 0
        held += rows
    return [*spans, (begin, last)]


def _hour_rows(
    connection: duckdb.DuckDBPyConnection,
    family: Family,
    raw: Table,
    hours: Table,
    spans: list[Span],
    skipped: frozenset[dt.date],
    stream_ms: int,
) -> Iterator[pa.RecordBatch]:
    days = ", ".join(f"DATE '{day}'" for day in sorted(skipped))
    keep = f" WHERE CAST(ts AS DATE) NOT IN ({days})" if skipped else ""
    columns = ", ".join(identifier(c.name) for c in hours.schema.columns)
    # Made before the first row is asked for: Delta cannot be opened from within a Delta write.
    steps = []
    for span in spans:
        query = family.queries.build
        if skipped:
            query = f"{query} UNION ALL SELECT {columns} FROM {hours.sql(*span)} WHERE CAST(ts AS DATE) IN ({days})"
        steps.append((f"SELECT * FROM {raw.sql(*span)}{keep}", query))
    return _rows(connection, family, SOURCE, steps, dict.fromkeys(family.queries.parameters, stream_ms))


def _day_rows(connection: duckdb.DuckDBPyConnection, family: Family, hours: Table, spans: list[Span]) -> Iterator[pa.RecordBatch]:
    # Skipped days are merged again too: their hours did not change, so neither do their days.
    steps = [(f"SELECT * FROM {hours.sql(*span)}", family.queries.merge) for span in spans]
    return _rows(connection, family, HOURS, steps, {})


def _rows(
    connection: duckdb.DuckDBPyConnection, family: Family, view: str, steps: list[tuple[str, str]], parameters: dict[str, int]
) -> Iterator[pa.RecordBatch]:
    """Run each query over its own content of `view`. Steps are in order of time, so all rows come sorted."""
    order = ", ".join(["ts", *(f"{identifier(d.name)} NULLS FIRST" for d in family.dimensions)])
    for content, query in steps:
        connection.execute(f"CREATE OR REPLACE TEMP VIEW {view} AS {content}")
        result = connection.sql(f"SELECT * FROM ({query}) ORDER BY {order}", params=parameters)
        yield from result.to_arrow_reader(_BATCH_ROWS)


def _reader(schema: TableSchema, batches: Iterator[pa.RecordBatch]) -> pa.RecordBatchReader:
    """`batches` in the table's own types (DuckDB names the inner fields of lists its own way)."""
    target = schema.arrow
    cast = (pa.RecordBatch.from_arrays([b.column(f.name).cast(f.type) for f in target], schema=target) for b in batches)
    return pa.RecordBatchReader.from_batches(target, cast)
