"""How rows came: the lag from an event to its arrival, and how old a table's newest event was when a day ended.

Both are told by event time and from landing, so that a day gives the same whenever it is asked for; rows that come later are
lags of their own day, and make its newest event newer.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from analytics_dagster.lake.compute import connect
from analytics_dagster.lake.schemas import DELIVERIES, TableSchema, landing

if TYPE_CHECKING:
    import duckdb

    from analytics_dagster.lake.lake import TenantLake

# Lags are rounded to this much of themselves, so that a day has hundreds of rows and not one for each arrival.
_ROUNDED = 1.001
_ONE_DAY = dt.timedelta(days=1)


def deliveries(
    lake: TenantLake,
    tables: Iterable[TableSchema],
    first: dt.date,
    last: dt.date,
    *,
    before: Mapping[str, dt.date],
    now: dt.datetime,
) -> pa.Table:
    """Rows of DELIVERIES for the days `first` to `last` (inclusive, UTC) of the raw tables that ever had a row, by day and table.

    `before` names the newest day before `first` on which a table has rows; a table that has none, and none since, has no age.
    """
    rows: list[dict[str, Any]] = []
    with connect() as connection:
        for table in tables:
            if lake.table(landing(table)).exists():
                rows += _lags(connection, lake, table, first, last)
                rows += _ages(connection, lake, table, first, last, before.get(table.name), now)
    rows.sort(key=lambda row: (row["ts"], row["table_name"], row.get("lag_ms", -1)))
    return pa.Table.from_pylist(rows, schema=DELIVERIES.arrow)


def _lags(
    connection: duckdb.DuckDBPyConnection, lake: TenantLake, table: TableSchema, first: dt.date, last: dt.date
) -> Iterator[dict[str, Any]]:
    # A clock that runs ahead has no lag below 0.
    lag = "greatest(epoch_ms(arrived_at) - epoch_ms(ts), 0)"
    rounded = f"CAST(round(pow({_ROUNDED}, round(ln({lag} + 1) / ln({_ROUNDED}))) - 1) AS BIGINT)"
    query = f"SELECT CAST(ts AS DATE), {rounded}, count(*) FROM {lake.table(landing(table)).sql(first, last)} GROUP BY 1, 2"
    for day, lag_ms, count in connection.execute(query).fetchall():
        yield {"ts": _midnight(day), "table_name": table.name, "lag_ms": lag_ms, "rows": count}


def _ages(
    connection: duckdb.DuckDBPyConnection,
    lake: TenantLake,
    table: TableSchema,
    first: dt.date,
    last: dt.date,
    before: dt.date | None,
    now: dt.datetime,
) -> Iterator[dict[str, Any]]:
    arrived = lake.table(landing(table))
    newest_of: dict[dt.date, dt.datetime] = {}
    for begin, end in [(first, last), *([(before, before)] if before else [])]:
        query = f"SELECT CAST(ts AS DATE), max(ts) FROM {arrived.sql(begin, end)} GROUP BY 1"
        newest_of.update(connection.execute(query).fetchall())
    newest = newest_of.get(before) if before else None
    for day in (first + n * _ONE_DAY for n in range((last - first).days + 1)):
        newest = newest_of.get(day, newest)
        end = min(_midnight(day + _ONE_DAY), now)
        if newest is not None and end >= _midnight(day):
            age = max(end - newest, dt.timedelta(0))
            yield {"ts": _midnight(day), "table_name": table.name, "rows": 1, "age_ms": age // dt.timedelta(milliseconds=1)}


def _midnight(day: dt.date) -> dt.datetime:
    return dt.datetime.combine(day, dt.time(), dt.UTC)
