"""Sessions: rows of one entity with gaps of at most $session_gap_ms, so that a semantic model measures sessions and not rows.

A gap is from the latest end of the rows before to the beginning of the next, so what plays for long is no gap, and what plays
beside something else makes none. A session is of one day in UTC: it is cut at midnight, as Google's Universal Analytics cut it.
So a day's sessions depend on its own rows only, and a late row changes no other day. It counts in the bucket in which it begins,
with the dimensions of its first row. Rows of nobody are of no session.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import pyarrow as pa

from analytics_dagster.lake.compute import identifier as q
from analytics_dagster.lake.schemas import Column, TableSchema

SESSION_GAP_MS = 30 * 60 * 1000
LENGTH, ROWS = "session_ms", "session_rows"
_OWN = (
    Column(LENGTH, pa.int64(), "Milliseconds from the beginning of the session's first row to the latest end of its rows."),
    Column(ROWS, pa.int64(), "Rows of the session."),
)


@dataclass(frozen=True)
class Sessions:
    """Whose sessions they are and how many milliseconds a row lasts (SQL over the source table, null: no time), and the columns
    of the source table that both read.
    """

    by: str
    lasts_ms: str
    columns: tuple[str, ...]


def session_table(source: TableSchema) -> TableSchema:
    """What snippets over sessions may name: the columns of the first row, and those of the session."""
    return replace(source, columns=source.columns + _OWN)


def source_columns_of(columns: Iterable[str], sessions: Sessions) -> set[str]:
    """The columns of the source table behind columns of a session; every session rests on `Sessions.columns` and ts."""
    own = {column.name for column in _OWN}
    return {name for name in columns if name not in own} | {"ts", *sessions.columns}


def session_rows(sessions: Sessions, source: TableSchema, columns: Iterable[str], relation: str) -> str:
    """A SELECT of the sessions in `relation` (rows of `source`, whole days): ts, those of `columns` that the source has, as the
    first row has them, and the session's own columns.
    """
    known = {column.name for column in source.columns}
    kept = "".join(f", {q(name)}" for name in dict.fromkeys(columns) if name in known and name != "ts")
    lasts = f"to_microseconds(1000 * greatest(coalesce({sessions.lasts_ms}, 0), 0))"
    timed = (
        f"SELECT ts{kept}, {sessions.by} AS _by, {q(source.key)} AS _key, ts + {lasts} AS _until "
        f"FROM {relation} WHERE {sessions.by} IS NOT NULL"
    )
    # All rows are sorted once: how long and how large a session is can be told from its first row and the next session's.
    ends = (
        "max(_until) OVER (day ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS _before, row_number() OVER day AS _row, "
        "max(_until) OVER (day ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING) AS _last, "
        "count(*) OVER (day ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING) AS _rows"
    )
    placed = f"SELECT *, {ends} FROM ({timed}) WINDOW day AS (PARTITION BY _by, CAST(ts AS DATE) ORDER BY ts, _key)"
    begun = f"SELECT * FROM ({placed}) WHERE _before IS NULL OR ts > _before + to_microseconds(1000 * $session_gap_ms)"
    until = "coalesce(lead(_before) OVER day, _last)"
    return (
        f"SELECT ts{kept}, (epoch_us({until}) - epoch_us(ts)) // 1000 AS {LENGTH}, "
        f"coalesce(lead(_row) OVER day, _rows + 1) - _row AS {ROWS} "
        f"FROM ({begun}) WINDOW day AS (PARTITION BY _by, CAST(ts AS DATE) ORDER BY _row)"
    )
