"""Measures a table: one row per tenant and day, one fact per check, nothing where the day cannot be judged.

`queries.py` writes the SQL; this module runs it and adds what is not in the table: which hours are over, what is usual on
that weekday. Whether a fact is good is not decided here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from statistics import median
from typing import TYPE_CHECKING

from analytics_dagster.lake.compute import literal
from analytics_dagster.lake.lake import TenantLake
from analytics_dagster.lake.schemas import landing
from analytics_dagster.quality import queries
from analytics_dagster.quality.results import ROW_MEASURES, Expectation, Measure, Suite

if TYPE_CHECKING:
    import duckdb

History = Callable[[str, date], Sequence[int]]
"""(tenant, day) -> row counts of the same weekday in the four weeks before, as far as known."""

_WEEKS = 4
# One known week is no notion of what is usual.
_KNOWN_WEEKS = 2
_HOURS = 24

_Facts = dict[date, float | None]


@dataclass(frozen=True)
class ProfileRow:
    """What was measured of one tenant's day. `facts` is by check name; a check that cannot judge the day has none."""

    tenant: str
    day: date
    rows: int
    facts: Mapping[str, float]


@dataclass(frozen=True)
class _Scan:
    """One tenant's range of days, open for measuring."""

    connection: duckdb.DuckDBPyConnection
    tenant: str
    raw: str
    arrivals: str | None
    key: str
    days: tuple[date, ...]
    rows: Mapping[date, int]
    heard: Mapping[date, int | None]
    """Whole hours, as far as they are over, that have a row."""
    history: History | None
    now: datetime

    def facts(self, sql: str) -> _Facts:
        return dict(self.connection.execute(sql).fetchall())


def prepare(connection: duckdb.DuckDBPyConnection, now: datetime | None) -> None:
    """Make the present available to checks as `getvariable('now')`. Where it is unknown no row is in the future."""
    # Parquet's min and max leave NaN out, and DuckDB 2.0 believes them: `isnan(x)` becomes false and the row is lost
    # (duckdb/duckdb#25521). `queries.failing` holds the other half of the remedy.
    connection.execute("SET disabled_optimizers = 'statistics_propagation'")
    value = "NULL" if now is None else literal(now.astimezone(UTC).isoformat())
    connection.execute(f"SET VARIABLE now = {value}::TIMESTAMPTZ")


def profile(
    connection: duckdb.DuckDBPyConnection,
    suite: Suite,
    tenant: TenantLake,
    first: date,
    last: date,
    *,
    history: History | None,
    now: datetime,
) -> list[ProfileRow]:
    """Measure one tenant's days `first` to `last` (inclusive, UTC), in order.

    A tenant that never had data in this table gives no rows. Else each day has one, and a day without raw rows has facts
    only where a missing row is one (volume, arrivals not processed).
    """
    table, arrived = tenant.table(suite.table), tenant.table(landing(suite.table))
    has_arrivals = arrived.exists()
    if not has_arrivals and not table.exists():
        return []
    prepare(connection, now)
    raw = table.sql(first, last)
    counted = connection.execute(queries.rows_per_day(raw)).fetchall()
    scan = _Scan(
        connection,
        tenant.tenant,
        raw,
        arrived.sql(first, last) if has_arrivals else None,
        suite.table.key,
        tuple(first + timedelta(days=n) for n in range((last - first).days + 1)),
        {day: rows for day, rows, _ in counted},
        {day: heard for day, _, heard in counted},
        history,
        now,
    )
    measured = _row_facts(scan, [check for check in suite.checks if check.measure in ROW_MEASURES])
    measured |= {check.name: _facts(scan, check) for check in suite.checks if check.measure not in ROW_MEASURES}
    return [ProfileRow(scan.tenant, day, scan.rows.get(day, 0), _known(measured, day)) for day in scan.days]


def _known(measured: Mapping[str, _Facts], day: date) -> dict[str, float]:
    return {name: float(value) for name, facts in measured.items() if (value := facts.get(day)) is not None}


def _row_facts(scan: _Scan, checks: Sequence[Expectation]) -> dict[str, _Facts]:
    """All measures over single rows, in one scan of the table."""
    if not checks or not scan.rows:
        return {}
    found = scan.connection.execute(queries.row_facts(checks, scan.raw)).fetchall()
    return {check.name: {values[0]: values[n] for values in found} for n, check in enumerate(checks, start=1)}


def _facts(scan: _Scan, check: Expectation) -> _Facts:
    match check.measure:
        case Measure.VOLUME_RATIO:
            return {day: _volume(scan, check, day) for day in scan.days}
        case Measure.SILENT_HOURS:
            return {day: _silence(scan, check, day) for day in scan.days}
        case Measure.UNPROCESSED:
            return _unprocessed(scan)
        case _:
            return scan.facts(queries.group_facts(check, scan.raw)) if scan.rows else {}


def _unprocessed(scan: _Scan) -> _Facts:
    """Keys that landed and are not in raw, of each day with arrivals. Counting keys costs, so only where rows differ."""
    if scan.arrivals is None:
        return {}
    arrived = scan.facts(queries.rows_arrived(scan.arrivals))
    if any(int(rows or 0) > scan.rows.get(day, 0) for day, rows in arrived.items()):
        arrived = scan.facts(queries.keys_arrived(scan.arrivals, scan.key))
    return {day: max(0, int(keys or 0) - scan.rows.get(day, 0)) for day, keys in arrived.items()}


def _volume(scan: _Scan, check: Expectation, day: date) -> float | None:
    """Rows against the usual of that weekday; nothing before the day is over, or where the usual is unknown or tiny."""
    if _end(day) > scan.now:
        return None
    usual = _usual(scan, day)
    if usual is None or usual < check.at_least_rows:
        return None
    return scan.rows.get(day, 0) / usual


def _usual(scan: _Scan, day: date) -> float | None:
    known = list(scan.history(scan.tenant, day)) if scan.history else []
    if not known and scan.rows:
        # A first range over many weeks is its own history. Days before the tenant's first row are not empty: they are not.
        begin = min(scan.rows)
        before = [day - timedelta(weeks=n) for n in range(1, _WEEKS + 1)]
        known = [scan.rows.get(earlier, 0) for earlier in before if earlier >= begin]
    return median(known) if len(known) >= _KNOWN_WEEKS else None


def _silence(scan: _Scan, check: Expectation, day: date) -> float | None:
    if scan.rows.get(day, 0) < check.at_least_rows:
        return None
    begin = datetime(day.year, day.month, day.day, tzinfo=UTC)
    over = min(_HOURS, int((scan.now - begin).total_seconds() // 3600))
    return over - (scan.heard.get(day) or 0) if over > 0 else None


def _end(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(days=1)
