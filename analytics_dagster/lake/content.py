"""What a table holds for a day, as a hash that does not depend on the order of rows or on how files are cut."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from analytics_dagster.lake.compute import identifier, session
from analytics_dagster.lake.lake import Table

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class DayContent:
    day: dt.date
    rows: int
    content_hash: str


EMPTY_HASH = hashlib.sha256(b"0:0").hexdigest()[:32]


def days_between(first: dt.date, last: dt.date) -> list[dt.date]:
    """All days, both ends included."""
    return [first + dt.timedelta(days=n) for n in range((last - first).days + 1)]


def row_text(columns: Iterable[str]) -> str:
    """SQL for one row as text in which no two different rows are alike (unit separators, a mark for null)."""
    parts = (f"coalesce({identifier(c)}::VARCHAR, chr(24))" for c in columns)
    return "concat_ws(chr(31), " + ", ".join(parts) + ")"


def day_contents(table: Table, first: dt.date, last: dt.date) -> dict[dt.date, DayContent]:
    """Rows and hash of each day from `first` to `last`; days without rows are included.

    The hash is over the sum of half of each row's MD5: commutative, and unlike an exclusive or it does not lose pairs of
    equal rows. DuckDB's own hash() may change between versions, MD5 does not; both halves would cost twice the time.
    """
    digest = row_text(c.name for c in table.schema.columns)
    query = f"""
        SELECT day, count(*), sum(md5_number_lower(line))::VARCHAR
        FROM (SELECT ts::DATE AS day, {digest} AS line FROM {table.sql(first, last)})
        GROUP BY day
    """
    with session() as connection:
        found = {row[0]: _content(*row) for row in connection.execute(query).fetchall()}
    return {day: found.get(day, DayContent(day, 0, EMPTY_HASH)) for day in days_between(first, last)}


def rows_content(day: dt.date, rows: pa.Table) -> DayContent:
    """The same hash over rows in memory, for what is published under a day that is not the rows' own `ts`."""
    digest = row_text(rows.schema.names)
    query = f"""
        SELECT count(*), coalesce(sum(md5_number_lower(line)), 0)::VARCHAR
        FROM (SELECT {digest} AS line FROM rows)
    """
    with session() as connection:
        connection.register("rows", rows)
        [(count, total)] = connection.execute(query).fetchall()
    return _content(day, count, total)


def _content(day: dt.date, rows: int, total: str) -> DayContent:
    return DayContent(day, rows, hashlib.sha256(f"{rows}:{total}".encode()).hexdigest()[:32])
