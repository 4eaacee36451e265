"""The algebra of measures: the state that each aggregation keeps, and DuckDB SQL that builds, merges and reads it.

Everything else treats a state as opaque columns. Merging is associative and commutative and exact, so hours merge to days,
days to months, and cells over dimensions, in any order, to what one pass over all rows would give:

- counts and sums of integers are int64. Sums of fractions are DECIMAL(38,9), since the sum of doubles depends on the order
  of rows. A fraction that is not finite, or not below 1e20 in size, is not measured by any aggregation of numbers.
- distinct counts keep sets of hashes, which `sets.py` makes.
- distributions keep counts in buckets of equal relative width, as DDSketch does (Masson, Rim, Lee: DDSketch, VLDB 2019):
  bucket i holds (g^(i-1), g^i] with g = (1 + a) / (1 - a), read as 2 g^i / (g + 1), at most a = 1 % off the exact
  nearest-rank quantile. Values of 0 or less share one bucket, read as 0.
- `last` keeps the newest time and its value (the greatest of the values at that time).
- `increase` is of a cumulative counter, whose series are the combinations of all dimensions. A bucket keeps its first and its
  last sample and how much the counter rose between them; a sample below the one before means that it began again at 0, so
  its own value is the increase (as Prometheus counts it). What it rose from one bucket's last sample to the next one's
  first belongs to the later bucket: `joined` adds it, within one coarser bucket when states are merged, and over all buckets
  when a figure is read. So a stored day depends on its own samples only. Samples further apart than LOOK_BACK are not
  joined, and the first sample of a series counts 0: where it began is not known.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Sequence

import pyarrow as pa

from analytics_dagster.lake.compute import identifier as q
from analytics_dagster.lake.schemas import TIMESTAMP
from analytics_dagster.metrics.declarations import Aggregation, Measure, StateColumn

RELATIVE_ERROR = 0.01
GAMMA = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
ZERO_BUCKET = -(2**31)
EXACT_DECIMAL = pa.decimal128(38, 9)
LOOK_BACK = dt.timedelta(days=8)
"""How far apart two samples of a counter may be to be joined: a weekly job that is late by hours is still one counter."""
# Holds what is below 1e20 in size; a billion such values cannot overflow the sum's DECIMAL(38,9).
ONE_FRACTION = "DECIMAL(29,9)"

HASHES = pa.list_(pa.int64())
BUCKETS = pa.list_(pa.struct([pa.field("bucket", pa.int32()), pa.field("count", pa.int64())]))


def accepts(aggregation: Aggregation, kind: pa.DataType) -> bool:
    """Whether an aggregation can take values of a type."""
    match aggregation:
        case Aggregation.COUNT | Aggregation.COUNT_DISTINCT:
            return True
        case Aggregation.SUM_BOOLEAN:
            return bool(pa.types.is_boolean(kind))
        case _:
            return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def state_columns(name: str, aggregation: Aggregation, value: pa.DataType, description: str) -> tuple[StateColumn, ...]:
    """The columns of a measure whose expression has the Arrow type `value`."""
    exact = pa.int64() if pa.types.is_integer(value) else EXACT_DECIMAL
    match aggregation:
        case Aggregation.COUNT | Aggregation.SUM_BOOLEAN:
            return (StateColumn(name, pa.int64(), description),)
        case Aggregation.SUM:
            return (StateColumn(name, exact, description),)
        case Aggregation.AVERAGE:
            return (
                StateColumn(f"{name}_sum", exact, f"{description} Sum of the values."),
                StateColumn(f"{name}_count", pa.int64(), f"{description} Number of values."),
            )
        case Aggregation.MIN | Aggregation.MAX:
            return (StateColumn(name, value, description),)
        case Aggregation.LAST:
            return (
                StateColumn(f"{name}_at", TIMESTAMP, f"{description} Time of the newest value."),
                StateColumn(name, value, description),
            )
        case Aggregation.COUNT_DISTINCT:
            return (StateColumn(name, HASHES, f"{description} Sorted 63-bit hashes."),)
        case Aggregation.PERCENTILE:
            return (StateColumn(name, BUCKETS, f"{description} Counts by log bucket of relative error 1 %."),)
        case Aggregation.INCREASE:
            return (
                StateColumn(f"{name}_first_at", TIMESTAMP, f"{description} Time of the first sample, where it is not the last."),
                StateColumn(f"{name}_first", value, f"{description} The first sample, where it is not the last."),
                StateColumn(f"{name}_last_at", TIMESTAMP, f"{description} Time of the last sample."),
                StateColumn(f"{name}_last", value, f"{description} The last sample."),
                StateColumn(name, exact, f"{description} From the first to the last sample."),
            )


def build(measure: Measure) -> list[str]:
    """Aggregate expressions over source rows, one per state column. An `increase` needs the rows that `stepped` gives;
    sets are not made by one expression but by `sets.py`.
    """
    expr = f"({measure.expr})"
    match measure.aggregation:
        case Aggregation.COUNT:
            return [f"count({expr})"]
        case Aggregation.SUM_BOOLEAN:
            return [f"count(CASE WHEN {expr} THEN 1 END)"]
        case Aggregation.SUM:
            return [_exact_sum(_exact(expr, measure.columns[0].type), measure.columns[0].type)]
        case Aggregation.AVERAGE:
            value = _exact(expr, measure.columns[0].type)
            return [_exact_sum(value, measure.columns[0].type), f"count({value})"]
        case Aggregation.MIN:
            return [f"min({_measured(expr, measure.columns[0].type)})"]
        case Aggregation.MAX:
            return [f"max({_measured(expr, measure.columns[0].type)})"]
        case Aggregation.LAST:
            value = _measured(expr, measure.columns[1].type)
            newest = f"max({{'at': ts, 'value': {value}}}) FILTER (WHERE {value} IS NOT NULL)"
            return [f"({newest}).at", f"({newest}).value"]
        case Aggregation.COUNT_DISTINCT:
            raise ValueError(f"measure {measure.name}: sets are made by sets.py")
        case Aggregation.PERCENTILE:
            return [_build_buckets(expr)]
        case Aggregation.INCREASE:
            return _build_increase(measure)


def merge(measure: Measure) -> list[str]:
    """Aggregate expressions over state rows, one per state column. Distributions are merged by `merged_buckets` instead, sets by
    `distinct_figures` where they are counted, and an `increase` over rows that `joined` gives.
    """
    columns = [q(c.name) for c in measure.columns]
    match measure.aggregation:
        case Aggregation.COUNT | Aggregation.SUM_BOOLEAN | Aggregation.SUM | Aggregation.AVERAGE:
            return [_exact_sum(name, c.type) for name, c in zip(columns, measure.columns, strict=True)]
        case Aggregation.MIN:
            return [f"min({columns[0]})"]
        case Aggregation.MAX:
            return [f"max({columns[0]})"]
        case Aggregation.LAST:
            newest = f"max({{'at': {columns[0]}, 'value': {columns[1]}}}) FILTER (WHERE {columns[0]} IS NOT NULL)"
            return [f"({newest}).at", f"({newest}).value"]
        case Aggregation.COUNT_DISTINCT:
            raise ValueError(f"measure {measure.name}: sets are merged where they are counted")
        case Aggregation.PERCENTILE:
            raise ValueError(f"measure {measure.name}: distributions are merged by merged_buckets")
        case Aggregation.INCREASE:
            first_at, first, last_at, last, total = columns
            ends = _ends(f"coalesce({first_at}, {last_at})", f"coalesce({first}, {last})", last_at, last)
            return [*ends, _exact_sum(total, measure.columns[-1].type)]


def read(measure: Measure, *, newest: bool = False) -> str:
    """SQL for the figure of a measure's merged state (`newest`: the last sample of an increase), as DOUBLE. Sets and
    distributions have `distinct_figures` and `percentile_figures`, which spill to disk where lists would not.
    """
    first = q(measure.columns[0].name)
    match measure.aggregation:
        case Aggregation.AVERAGE:
            return f"(CAST({first} AS DOUBLE) / nullif({q(measure.columns[1].name)}, 0))"
        case Aggregation.LAST:
            return f"CAST({q(measure.columns[1].name)} AS DOUBLE)"
        case Aggregation.INCREASE:
            return f"CAST({q(measure.columns[3 if newest else 4].name)} AS DOUBLE)"
        case Aggregation.COUNT_DISTINCT | Aggregation.PERCENTILE:
            raise ValueError(f"measure {measure.name}: its figure is read from its own relation")
        case _:
            return f"CAST({first} AS DOUBLE)"


def stepped(measure: Measure, keys: Sequence[str], relation: str) -> str:
    """A SELECT of `relation`'s source rows and, among those with equal `keys` in order of time, how much each rose from the one
    before (`<measure>_step`) and whether it is the first (`_begins`) or the last (`_ends`).
    """
    expr, exact = f"({measure.expr})", _exact(f"({measure.expr})", measure.columns[-1].type)
    window = f"OVER (PARTITION BY {', '.join(keys)} ORDER BY ts, {exact}, {expr})"
    before, behind = f"lag({exact}) {window}", f"lead(ts) {window}"
    step = f"CASE WHEN {exact} >= {before} THEN {exact} - {before} WHEN {before} IS NOT NULL THEN {exact} END"
    names = [q(f"{measure.name}_{part}") for part in ("step", "begins", "ends")]
    made = ", ".join(
        f"{sql} AS {name}" for sql, name in zip((step, f"{before} IS NULL", f"{behind} IS NULL"), names, strict=True)
    )
    # Only samples go through the window, which sorts: gauges and the like pass by it.
    return (
        f"SELECT *, {made} FROM {relation} WHERE {exact} IS NOT NULL "
        f"UNION ALL SELECT *, {', '.join(f'NULL AS {name}' for name in names)} FROM {relation} WHERE {exact} IS NULL"
    )


def joined(measure: Measure, keys: Sequence[str], relation: str) -> str:
    """A SELECT of `relation`'s state rows in which the increase has grown by what lies between a bucket and the one before.

    `keys` are all dimensions, and the coarser bucket where states are merged into one.
    """
    first_at, first, last_at, last, total = (q(c.name) for c in measure.columns)
    kind = measure.columns[-1].type
    begin = _exact(f"coalesce({first}, {last})", kind)
    window = f"OVER (PARTITION BY {', '.join(keys)} ORDER BY ts)"
    end, end_at = _exact(f"lag({last}) {window}", kind), f"lag({last_at}) {window}"
    near = f"coalesce({first_at}, {last_at}) - {end_at} <= INTERVAL {int(LOOK_BACK.total_seconds())} SECOND"
    step = f"CASE WHEN {end_at} IS NULL OR NOT {near} THEN 0 WHEN {begin} >= {end} THEN {begin} - {end} ELSE {begin} END"
    sql_type = "BIGINT" if pa.types.is_integer(kind) else "DECIMAL(38,9)"
    return (
        f"SELECT * REPLACE (CAST({total} + {step} AS {sql_type}) AS {total}) FROM {relation} WHERE {last_at} IS NOT NULL "
        f"UNION ALL SELECT * FROM {relation} WHERE {last_at} IS NULL"
    )


def merged_buckets(measure: Measure, keys: str, relation: str) -> str:
    """A SELECT of `keys` (a list of columns) and the merged distribution under the state column's name."""
    name = q(measure.columns[0].name)
    return (
        f"SELECT {keys}, list({{'bucket': bucket, 'count': n}} ORDER BY bucket) AS {name} "
        f"FROM ({_bucket_counts(name, keys, relation)}) GROUP BY {keys}"
    )


def distinct_figures(measure: Measure, keys: str, relation: str, alias: str) -> str:
    """A SELECT of `keys` and the distinct count under `alias`."""
    values = f"SELECT DISTINCT {keys}, unnest({q(measure.columns[0].name)}) AS id_hash FROM {relation}"
    return f"SELECT {keys}, CAST(count(*) AS DOUBLE) AS {q(alias)} FROM ({values}) GROUP BY {keys}"


def percentile_figures(measure: Measure, percentile: float, keys: str, relation: str, alias: str) -> str:
    """A SELECT of `keys` and the nearest-rank quantile under `alias`, within RELATIVE_ERROR."""
    counts = _bucket_counts(q(measure.columns[0].name), keys, relation)
    ranked = (
        f"SELECT {keys}, bucket, sum(n) OVER (PARTITION BY {keys} ORDER BY bucket) AS up_to, "
        f"sum(n) OVER (PARTITION BY {keys}) AS total FROM ({counts})"
    )
    reached = f"min(bucket) FILTER (WHERE up_to >= ceil({percentile!r} * total))"
    middle = f"CASE WHEN {reached} = {ZERO_BUCKET} THEN 0.0 ELSE {2 / (GAMMA + 1)!r} * pow({GAMMA!r}, {reached}) END"
    return f"SELECT {keys}, {middle} AS {q(alias)} FROM ({ranked}) GROUP BY {keys}"


def _measured(expr: str, state: pa.DataType) -> str:
    # By TRY_CAST and not by a comparison: Parquet's statistics leave NaN out, and DuckDB folds `x < 1e20` to true by them.
    return expr if pa.types.is_integer(state) else f"CASE WHEN TRY_CAST({expr} AS {ONE_FRACTION}) IS NOT NULL THEN {expr} END"


def _exact(expr: str, state: pa.DataType) -> str:
    if pa.types.is_integer(state):
        return f"CAST({expr} AS BIGINT)"
    return f"TRY_CAST({expr} AS {ONE_FRACTION})"


def _exact_sum(value: str, state: pa.DataType) -> str:
    # DuckDB's sum of BIGINT is HUGEINT: casting back raises instead of wrapping round.
    return f"CAST(sum({value}) AS {'BIGINT' if pa.types.is_integer(state) else 'DECIMAL(38,9)'})"


def _build_increase(measure: Measure) -> list[str]:
    step, begins, ends = (q(f"{measure.name}_{part}") for part in ("step", "begins", "ends"))
    first_at, first = (f"max({value}) FILTER (WHERE {begins})" for value in ("ts", f"({measure.expr})"))
    last_at, last = (f"max({value}) FILTER (WHERE {ends})" for value in ("ts", f"({measure.expr})"))
    apart = f"{first_at} <> {last_at} OR {first} <> {last}"
    total = f"CASE WHEN {last_at} IS NOT NULL THEN coalesce({_exact_sum(step, measure.columns[-1].type)}, 0) END"
    return [f"CASE WHEN {apart} THEN {first_at} END", f"CASE WHEN {apart} THEN {first} END", last_at, last, total]


def _ends(first_at: str, first: str, last_at: str, last: str) -> list[str]:
    """The first and the last sample of a group: (time, value) of each, the first null where it is the last."""
    oldest = f"min({{'at': {first_at}, 'value': {first}}}) FILTER (WHERE {first} IS NOT NULL)"
    newest = f"max({{'at': {last_at}, 'value': {last}}}) FILTER (WHERE {last} IS NOT NULL)"
    apart = f"nullif({oldest}, {newest})"
    return [f"({apart}).at", f"({apart}).value", f"({newest}).at", f"({newest}).value"]


def _build_buckets(expr: str) -> str:
    index = f"CAST(ceil(ln({expr}) / {math.log(GAMMA)!r}) AS INTEGER)"
    measured = f"TRY_CAST({expr} AS {ONE_FRACTION}) IS NOT NULL"
    bucket = f"CASE WHEN {measured} THEN CASE WHEN {expr} <= 0 THEN {ZERO_BUCKET} ELSE {index} END END"
    entries = f"map_entries(histogram({bucket}))"
    return f"list_transform({entries}, lambda e: {{'bucket': e.key, 'count': CAST(e.value AS BIGINT)}})"


def _bucket_counts(state: str, keys: str, relation: str) -> str:
    entries = f"SELECT {keys}, unnest({state}) AS entry FROM {relation}"
    return (
        f"SELECT {keys}, entry.bucket AS bucket, CAST(sum(entry.count) AS BIGINT) AS n FROM ({entries}) "
        f"GROUP BY {keys}, entry.bucket"
    )
