"""From raw rows to a family's aggregate tables: the finest grain in one fused query, coarser ones merged from the one before."""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from analytics_dagster.lake.compute import ComputeEngine, identifier, session
from analytics_dagster.lake.schemas import MEASURED, TableSchema
from analytics_dagster.metrics.compile import FINER, SOURCE
from analytics_dagster.metrics.declarations import Family, Grain
from analytics_dagster.metrics.sessions import SESSION_GAP_MS
from analytics_dagster.metrics.sets import SetBuilder, in_order, sets_of
from analytics_dagster.metrics.windows import to_count, window_counts

if TYPE_CHECKING:
    import duckdb

    from analytics_dagster.lake.lake import Table, TenantLake
    from analytics_dagster.metrics.spark_sql import SparkStates

# Source rows that one query groups: with it, 73 days of 10,000,000 plays peak at 920 MB for the whole process, sets included.
ROWS_AT_ONCE = 2_000_000
_BATCH_ROWS = 16_384

Span = tuple[dt.datetime, dt.datetime]
"""From a time to a later one, which is not in it (UTC)."""


def aggregate_days(
    tenant: TenantLake,
    family: Family,
    first: dt.date,
    last: dt.date,
    *,
    stream_ms: int,
    session_gap_ms: int = SESSION_GAP_MS,
    skip: Collection[dt.date] = (),
    rows_at_once: int = ROWS_AT_ONCE,
    engine: ComputeEngine = ComputeEngine.DUCKDB,
) -> None:
    """Compute the family's tables (`<family>_hour`, `<family>_day`, ..., `<family>_counts`) for the days `first` to `last`
    (inclusive, UTC), each in one commit.

    Reads raw/<source>. The same rows give the same sorted rows. Days in `skip` keep what they had. `stream_ms` is the length
    from which a play counts as a stream, `session_gap_ms` the longest gap within a session. A process killed between two commits
    leaves days that the next run mends. A tenant that never had such rows gets no tables. Every `engine` gives the same rows;
    Spark raises UserError where it is not installed or a declaration has no form for it.
    """
    raw, tables = tenant.table(MEASURED[family.source]), [tenant.table(family.table(grain)) for grain in family.grains]
    if not raw.exists() and not tables[-1].exists():
        return
    skipped = frozenset(day for day in skip if first <= day <= last)
    spark = _spark() if engine is ComputeEngine.SPARK and not (family.step and family.step.in_duckdb) else None
    # Without fractions there is no NaN, for which an optimizer is off that saves half of the grouping.
    with session(fractions=any(pa.types.is_floating(column.type) for column in raw.schema.columns)) as connection:
        for name, table in (family.step.beside if family.step else {}).items():
            connection.execute(f"CREATE TEMP VIEW {identifier(name)} AS SELECT * FROM {tenant.table(table).sql()}")
        days = _Days(connection, family, first, last, skipped, spark)
        spans = days.spans(raw, rows_at_once, Grain.HOUR if family.grains[0] is Grain.MINUTE else Grain.DAY)
        known = {"stream_ms": stream_ms, "session_gap_ms": session_gap_ms}
        parameters = {name: known[name] for name in family.queries.parameters}
        days.write(tables[0], days.built(raw, tables[0], spans, parameters))
        sources = {SOURCE: raw} if sets_of(family) else {}
        for finer, coarser, grain in zip(tables, tables[1:], family.grains[1:], strict=False):
            if grain is Grain.DAY:
                spans = days.whole(spans)
            days.write(coarser, days.rows({FINER: finer, **sources}, coarser, spans, days.merged(grain, parameters)))
        if family.counts is not None:
            days.write_counts(tables[-1], tenant.table(family.counts))


def _spark() -> SparkStates:
    from analytics_dagster.metrics.spark_sql import SparkStates

    return SparkStates()


@dataclass(frozen=True)
class _Content:
    """The rows of a table that a view stands for: files that may hold them, the span, and the condition on a row."""

    table: Table
    files: list[str]
    span: Span
    condition: str


class _Days:
    """The days of one call: what is read for them, span by span, and what is written. `spark`: where queries run, if not here."""

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        family: Family,
        first: dt.date,
        last: dt.date,
        skipped: frozenset[dt.date],
        spark: SparkStates | None,
    ) -> None:
        self._connection, self._family, self._spark = connection, family, spark
        self._first, self._last = first, last
        self._skipped = ", ".join(f"DATE '{day}'" for day in sorted(skipped))
        self._measures = sets_of(family)
        self._sets = SetBuilder(connection, family, spark) if self._measures else None

    def spans(self, raw: Table, rows_at_once: int, unit: Grain) -> list[Span]:
        """Consecutive spans of whole days or hours over all days, of at most `rows_at_once` rows unless one unit has more."""
        begin, end = _midnight(self._first), _midnight(self._last + dt.timedelta(days=1))
        if unit is Grain.DAY and self._first == self._last:
            return [(begin, end)]
        counts = self._connection.execute(
            f"SELECT date_trunc('{unit}', ts)::TIMESTAMPTZ AS start, count(*) FROM {raw.sql(self._first, self._last)} "
            "GROUP BY start ORDER BY start"
        ).fetchall()
        spans: list[Span] = []
        held = 0
        for start, rows in counts:
            if held and held + rows > rows_at_once:
                spans.append((begin, start))
                begin, held = start, 0
            held += rows
        return [*spans, (begin, end)]

    def whole(self, spans: list[Span]) -> list[Span]:
        """`spans` of whole days: those that cut a day are put together."""
        cuts = [start for start, _ in spans if start.time() == dt.time()]
        return list(itertools.pairwise([*cuts, spans[-1][1]]))

    def built(self, raw: Table, target: Table, spans: list[Span], parameters: dict[str, int]) -> Iterator[pa.RecordBatch]:
        """The finest grain's rows, with sets where it is the only one."""
        build, sets, [finest, *_] = self._family.queries.build, self._sets, self._family.grains
        made = self.made(build, parameters)
        if sets is None or finest not in self._family.set_grains:
            return self.rows({SOURCE: raw}, target, spans, made, parameters)
        return self.rows({SOURCE: raw}, target, spans, lambda: sets.with_sets(finest, made(), parameters))

    def made(self, query: str, parameters: dict[str, int]) -> Callable[[], str]:
        """What is to be run here for a query over the views; Spark's rows are handed over when it is asked for."""

        def on_spark(spark: SparkStates) -> str:
            self._connection.register("made_by_spark", spark.rows(query, parameters))
            return "SELECT * FROM made_by_spark"

        spark = self._spark
        return (lambda: query) if spark is None else (lambda: on_spark(spark))

    def merged(self, grain: Grain, parameters: dict[str, int]) -> Callable[[], str]:
        """What is to be run over the rows in FINER and, where sets are kept, in SOURCE."""
        made, sets = self.made(self._family.queries.merges[grain], {}), self._sets
        return made if sets is None else (lambda: sets.with_sets(grain, made(), parameters))

    def rows(
        self,
        views: dict[str, Table],
        target: Table,
        spans: list[Span],
        query: Callable[[], str],
        parameters: dict[str, int] | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """What `query` makes of the tables in `views`, sorted; `target` keeps what it has on skipped days."""
        keep = f" AND CAST(ts AS DATE) NOT IN ({self._skipped})" if self._skipped else ""
        # Made before the first row is asked for: Delta cannot be opened from within a Delta write.
        steps = []
        for span in spans:
            contents = {
                name: _Content(table, table.files(*_days_of(span)), span, _inside(span) + keep) for name, table in views.items()
            }
            rows = f"{target.sql(*_days_of(span))} WHERE {_inside(span)}" if keep else ""
            steps.append((contents, self._kept(rows, " AND", target.schema) if keep else ""))
        given = (parameters or {}) if self._spark is None else {}
        return self._run(steps, query, given, target.schema)

    def _kept(self, rows: str, joined_by: str, table: TableSchema) -> str:
        """What is added to a query for the skipped days among `rows`."""
        return f" UNION ALL SELECT {_columns(table)} FROM {rows}{joined_by} CAST(ts AS DATE) IN ({self._skipped})"

    def _run(
        self,
        steps: list[tuple[dict[str, _Content], str]],
        query: Callable[[], str],
        parameters: dict[str, int],
        table: TableSchema,
    ) -> Iterator[pa.RecordBatch]:
        """Run the query over each step's own content of the views. Steps are in order of time, so all rows come sorted."""
        for contents, kept in steps:
            for name, content in contents.items():
                self._show(name, content)
            made = f"SELECT {_columns(table)} FROM ({query()}){kept}"
            result = self._connection.sql(f"SELECT * FROM ({made}) ORDER BY {_order(self._family, table)}", params=parameters)
            yield from result.to_arrow_reader(_BATCH_ROWS)

    def _show(self, name: str, content: _Content) -> None:
        """Make a view of the content, where queries run."""
        table, files = content.table, content.files
        if self._spark is not None:
            self._spark.view(name, table.schema, files, content.condition)
        else:
            rows = table.sql_of(files, *_days_of(content.span), content.condition)
            self._connection.execute(f"CREATE OR REPLACE TEMP VIEW {name} AS SELECT * FROM {rows}")

    def write_counts(self, days: Table, table: Table) -> None:
        """Replace in the table of distinct counts the days by what was counted meanwhile, and the windows that hold them by what
        the family's table of days now says.
        """
        counting = to_count(self._connection, self._family, days, table, self._first, self._last)
        made = list(window_counts(self._connection, self._family, days, counting.days))
        self._connection.register("windows", pa.Table.from_batches(made, table.schema.arrow))
        others = f"NOT (ts::DATE BETWEEN DATE '{self._first}' AND DATE '{self._last}')"
        if self._skipped:
            others += f" OR ts::DATE IN ({self._skipped})"
        stays = f"CASE WHEN coalesce(days, 1) = 1 THEN {others} ELSE {counting.stays()} END"
        kept = f"SELECT * FROM {table.sql(counting.first, counting.last)} WHERE {stays}"
        every = f"SELECT *, 1 AS days FROM counted UNION ALL BY NAME SELECT * FROM windows UNION ALL BY NAME {kept}"
        order = "ts, measure, days NULLS FIRST, dimension NULLS FIRST, value NULLS FIRST"
        rows = self._connection.sql(f"SELECT {_columns(table.schema)} FROM ({every}) ORDER BY {order}")
        self.write(table, iter(rows.to_arrow_reader(_BATCH_ROWS)), counting.first, counting.last)

    def write(
        self, table: Table, batches: Iterator[pa.RecordBatch], first: dt.date | None = None, last: dt.date | None = None
    ) -> None:
        """Replace these days of the table (None: those of the call) in one commit. DuckDB names the inner fields of lists its own
        way, hence the cast.
        """
        target = table.schema.arrow
        sets = [measure for measure in self._measures if measure.name in target.names]
        cast = (pa.RecordBatch.from_arrays([b.column(f.name).cast(f.type) for f in target], schema=target) for b in batches)
        cast = (in_order(batch, sets) for batch in cast)
        table.overwrite_days(pa.RecordBatchReader.from_batches(target, cast), first or self._first, last or self._last)


def _inside(span: Span) -> str:
    """A condition that DuckDB and Spark read alike."""
    begin, end = span
    return f"ts >= '{begin.isoformat()}' AND ts < '{end.isoformat()}'"


def _days_of(span: Span) -> tuple[dt.date, dt.date]:
    begin, end = span
    return begin.date(), (end - dt.timedelta(microseconds=1)).date()


def _columns(table: TableSchema) -> str:
    return ", ".join(identifier(column.name) for column in table.columns)


def _order(family: Family, table: TableSchema) -> str:
    """By time; minutes by series first within their span: a series' rows side by side are a third as large, and found faster."""
    dimensions = [f"{identifier(d.name)} NULLS FIRST" for d in family.dimensions]
    minutes = table.name == f"{family.name}_{Grain.MINUTE}"
    return ", ".join([*dimensions, "ts"] if minutes else ["ts", *dimensions])


def _midnight(day: dt.date) -> dt.datetime:
    return dt.datetime.combine(day, dt.time(), dt.UTC)
