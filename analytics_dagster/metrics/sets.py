"""Sets of distinct ids: what of them is stored, how it is made from source rows, and how it is counted ahead.

For each bucket of a grain that is coarser than the family's finest, and each combination of dimensions that occurred, there are
two lists of equal length: the sorted 63-bit hashes of the ids, and of each id in which of the next finer buckets it occurred, a
bit each (24 hours of a day, 60 minutes of an hour). So the finest grain stores no sets: they are read from the next coarser one,
and an id that listens all day is kept once and not once an hour. Hashes are from MD5, since an engine's own hash may change
between its versions. Two of a million different ids share one with a chance of 5e-8.

Merging is the union, which is exact. The day's count of all ids, and of those of each value of each one dimension, is stored
beside the sets (`<family>_counts`), and so are the counts of windows (`windows.py`): most questions are answered by them.

A sketch may replace the lists later: this module, `Family.table` and `states.distinct_figures` are the only code that knows them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pyarrow as pa

from analytics_dagster.lake.compute import identifier as q
from analytics_dagster.lake.compute import literal
from analytics_dagster.metrics.declarations import FINER, Aggregation, Family, Grain, Measure, within

if TYPE_CHECKING:
    import duckdb

    from analytics_dagster.metrics.spark_sql import SparkStates

MICROSECONDS = {Grain.MINUTE: 60_000_000, Grain.HOUR: 3_600_000_000, Grain.DAY: 86_400_000_000}
# Microseconds of the year 1 before 1970, whole days: a remainder of what is not negative is not negative.
_YEAR_ONE = 62_135_596_800_000_000
# Values of one dimension that are counted by the bits of a BIGINT.
_BITS = 63


def sets_of(family: Family) -> tuple[Measure, ...]:
    """The measures that are distinct counts."""
    return tuple(m for m in family.measures if m.aggregation is Aggregation.COUNT_DISTINCT)


def bucket(grain: Grain) -> str:
    """SQL for the start of the bucket that `ts` is in: date_trunc in UTC, without its calendar, which takes ten times as long."""
    return f"make_timestamptz(epoch_us(ts) - {_into(grain)})"


def seen(family: Family, measure: Measure, grain: Grain, relation: str) -> str:
    """A SELECT of every id of the rows in `relation`, once for each bucket and combination of dimensions: `combination` (as
    the function of that name gives it), `given` (the id) and `within` (the bits).
    """
    key = combination(f"epoch_us(ts) - {_into(grain)}", (f"({d.expr})" for d in family.dimensions))
    return _seen(measure, grain, [f"{key} AS combination"], relation)


def seen_plainly(family: Family, measure: Measure, grain: Grain, relation: str) -> str:
    """The same with `start` (microseconds) and the dimensions themselves, for an engine that has not DuckDB's hash."""
    dimensions = (f"({d.expr}) AS {q(d.name)}" for d in family.dimensions)
    return _seen(measure, grain, [f"epoch_us(ts) - {_into(grain)} AS start", *dimensions], relation)


def _seen(measure: Measure, grain: Grain, keys: list[str], relation: str) -> str:
    finer = FINER[grain]
    kind = "INTEGER" if grain is Grain.DAY else "BIGINT"
    bit = f"CAST(1 AS {kind}) << CAST({_into(grain)} // {MICROSECONDS[finer]} AS {kind})"
    columns = ", ".join([*keys, f"CAST(({measure.expr}) AS VARCHAR) AS given"])
    by = ", ".join(str(n + 1) for n in range(len(keys) + 1))
    return f"SELECT {columns}, bit_or({bit}) AS within FROM {relation} WHERE ({measure.expr}) IS NOT NULL GROUP BY {by}"


def combination(start: str, dimensions: Iterable[str]) -> str:
    """SQL for one number for a bucket, which starts at so many microseconds, and all dimensions: DuckDB's hash, to be compared
    within one run and never stored. Grouping by each dimension's text takes twice as long.
    """
    return f"hash({', '.join([start, *dimensions])})"


def hashed(id_: str) -> str:
    """SQL for the stored hash of an id, which is text."""
    return f"CAST(md5_number_lower({id_}) >> 1 AS BIGINT)"


class SetBuilder:
    """Puts a grain's sets beside its other states, span by span, and keeps count. One connection's; its tables are temporary.

    With `spark`, the ids are taken from the source rows there, and put together and counted here.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, family: Family, spark: SparkStates | None = None) -> None:
        self._connection, self._family, self._spark = connection, family, spark
        self._dimensions = [q(d.name) for d in family.dimensions]
        connection.execute(
            "CREATE OR REPLACE TEMP TABLE counted "
            "(ts TIMESTAMPTZ, measure VARCHAR, dimension VARCHAR, value VARCHAR, count BIGINT)"
        )

    def with_sets(self, grain: Grain, states: str, parameters: dict[str, int]) -> str:
        """A SELECT of what `states` selects (a span's rows of the grain), with the sets of the rows in `source`, unsorted."""
        self._execute(f"CREATE OR REPLACE TEMP TABLE cells AS {states}", parameters)
        joins, columns = "", ["cells.*"]
        for n, (measure, query) in enumerate(zip(sets_of(self._family), self._queries(grain), strict=True)):
            self._execute(f"CREATE OR REPLACE TEMP TABLE seen AS {self._seen(query, parameters)}", parameters)
            ids = "seen"
            if grain is Grain.DAY:
                self._count(measure)
                ids = "people"
            distinct = f"SELECT given, {hashed('given')} AS id FROM (SELECT DISTINCT given FROM {ids})"
            self._execute(f"CREATE OR REPLACE TEMP TABLE ids AS {distinct}", {})
            lists = "SELECT combination, list(id) AS ids, list(within) AS within FROM seen JOIN ids USING (given)"
            self._execute(f"CREATE OR REPLACE TEMP TABLE sets{n} AS {lists} GROUP BY combination", {})
            cell = combination("epoch_us(cells.ts)", (f"cells.{name}" for name in self._dimensions))
            joins += f" LEFT JOIN sets{n} ON sets{n}.combination = {cell}"
            columns += [f"sets{n}.ids AS {q(measure.name)}", f"sets{n}.within AS {q(within(measure.name))}"]
        self._connection.execute("DROP TABLE IF EXISTS seen; DROP TABLE IF EXISTS people; DROP TABLE IF EXISTS ids")
        return f"SELECT {', '.join(columns)} FROM cells{joins}"

    def _queries(self, grain: Grain) -> tuple[str, ...]:
        return (self._family.queries.sets if self._spark is None else self._family.queries.plain_sets)[grain]

    def _seen(self, query: str, parameters: dict[str, int]) -> str:
        if self._spark is None:
            return query
        given = {name: value for name, value in parameters.items() if f"${name}" in query}
        self._connection.register("seen_by_spark", self._spark.rows(query, given))
        return f"SELECT {combination('start', self._dimensions)} AS combination, given, within FROM seen_by_spark"

    def _count(self, measure: Measure) -> None:
        """How many ids there are each day, and of each value of each one dimension.

        Each id is looked at once: of a dimension with few values, bits say which of them it occurred with, and few different
        patterns of bits are left to be added up. Counting distinct ids dimension by dimension took four times as long.
        """
        names = self._dimensions
        numbers = "".join(f", dense_rank() OVER (ORDER BY {d} NULLS FIRST) - 1 AS n{n}" for n, d in enumerate(names))
        self._execute(
            f"CREATE OR REPLACE TEMP TABLE numbered AS SELECT {combination('epoch_us(ts)', names)} AS combination, "
            f"{', '.join(['ts', *names])}{numbers} FROM cells",
            {},
        )
        [widths] = self._connection.execute(
            f"SELECT count(*){''.join(f', max(n{n}) + 1' for n in range(len(names)))} FROM numbered"
        ).fetchall()
        few = [n for n, width in enumerate(widths[1:]) if (width or 0) <= _BITS]
        masks = "".join(f", bit_or(CAST(1 AS BIGINT) << n{n}) AS m{n}" for n in few)
        people = f"SELECT ts, given{masks} FROM seen JOIN numbered USING (combination) GROUP BY ts, given"
        self._execute(f"CREATE OR REPLACE TEMP TABLE people AS {people}", {})
        kept = "".join(f", m{n}" for n in few)
        self._execute(
            f"CREATE OR REPLACE TEMP TABLE patterns AS SELECT ts{kept}, count(*) AS n FROM people GROUP BY ts{kept}", {}
        )
        # A day without ids is counted too: so it is known which days were.
        self._keep(
            measure, "NULL", "NULL", "coalesce(sum(n), 0)", "(SELECT DISTINCT ts FROM cells) LEFT JOIN patterns USING (ts)"
        )
        for n, name in enumerate(names):
            values = f"(SELECT DISTINCT n{n}, {name} AS value FROM numbered) AS v"
            if n in few:
                self._keep(
                    measure,
                    literal(self._family.dimensions[n].name),
                    "value",
                    "sum(n)",
                    f"patterns JOIN {values} ON (m{n} >> n{n}) & 1 = 1",
                )
            else:
                rows = f"seen JOIN (SELECT combination, ts, {name} AS value FROM numbered) USING (combination)"
                self._keep(measure, literal(self._family.dimensions[n].name), "value", "count(DISTINCT given)", rows)

    def _keep(self, measure: Measure, dimension: str, value: str, count: str, rows: str) -> None:
        by = "ts, value" if value != "NULL" else "ts"
        self._execute(
            f"INSERT INTO counted SELECT ts, {literal(measure.name)}, {dimension}, {value}, {count} FROM {rows} GROUP BY {by}", {}
        )

    def _execute(self, query: str, parameters: dict[str, int]) -> None:
        given = {name: value for name, value in parameters.items() if f"${name}" in query}
        self._connection.execute(query, given or None)


def in_order(batch: pa.RecordBatch, measures: Iterable[Measure]) -> pa.RecordBatch:
    """The batch with each set sorted. DuckDB's ordered lists take six times as long as this and its unordered ones together."""
    for measure in measures:
        at, beside = (batch.schema.get_field_index(name) for name in (measure.name, within(measure.name)))
        ids, bits = _sorted(batch.column(at), batch.column(beside))
        batch = batch.set_column(at, batch.schema.field(at), ids).set_column(beside, batch.schema.field(beside), bits)
    return batch


def _sorted(ids: pa.ListArray, bits: pa.ListArray) -> tuple[pa.ListArray, pa.ListArray]:
    import numpy as np

    ends = ids.offsets.to_numpy()
    first, offsets = int(ends[0]), ends - ends[0]
    values = ids.values.slice(first, int(offsets[-1])).to_numpy()
    order = np.empty(len(values), np.int64)
    for begin, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        order[begin:end] = np.argsort(values[begin:end]) + begin
    beside = bits.values.slice(bits.offsets[0].as_py(), len(values)).to_numpy()
    absent = ids.is_null()
    made = (
        pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(part[order]), mask=absent) for part in (values, beside)
    )
    given_ids, given_bits = made
    return given_ids, given_bits


def _into(grain: Grain) -> str:
    """SQL for the microseconds between the start of the bucket that `ts` is in and `ts`."""
    return f"(epoch_us(ts) + {_YEAR_ONE}) % {MICROSECONDS[grain]}"
