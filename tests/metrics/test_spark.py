"""One declaration, both engines: the same raw files aggregated by DuckDB and by Spark, and every metric told from both.

Spark starts once, with flags that suit a process which lives for seconds. Without pyspark or Java the module is skipped, and
fails where REQUIRE_SPARK says that both have to be there.
"""

from __future__ import annotations

import datetime as dt
import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from analytics_dagster.lake.compute import ComputeEngine, connect
from analytics_dagster.lake.content import day_contents
from analytics_dagster.lake.lake import Lake, TenantLake
from analytics_dagster.lake.schemas import MEASURED, METRICS, OWN_TABLES, PLAYS, TableSchema
from analytics_dagster.lake.spark import SparkFailedError, what_is_missing
from analytics_dagster.metrics.aggregate import aggregate_days
from analytics_dagster.metrics.ahead import ahead_of
from analytics_dagster.metrics.declarations import Aggregation, Catalogue, Family, Grain, Metric
from analytics_dagster.metrics.formulas import Retention, Standing, summaries
from analytics_dagster.metrics.grains import grains_of
from analytics_dagster.metrics.load import load_catalogue
from analytics_dagster.metrics.plan import longest_window
from analytics_dagster.metrics.query import DayReader, MetricQuery, run_query
from analytics_dagster.metrics.spark_sql import SparkStates
from tests.metrics.odd_rows import DAYS, FIRST, LAST, ROWS, odd_rows

# The first test of the module starts Spark and computes everything.
pytestmark = [pytest.mark.alone, pytest.mark.slow, pytest.mark.timeout(900)]

CATALOGUE: Catalogue = load_catalogue()
# What the platform tells of itself, and of people, DuckDB computes whatever the engine.
TRANSLATED = tuple(
    f for f in CATALOGUE.families if MEASURED[f.source] not in OWN_TABLES and not (f.step is not None and f.step.in_duckdb)
)
STREAM_MS = 30_000
# What the catalogue's own families do not have: whole numbers where they have fractions, casts, quotients, decimals.
KINDS = """
semantic_models:
  - name: kinds
    description: Kinds of measures.
    model: raw/metrics
    owner: tests
    dimensions:
      - {name: kind, expr: "case when type = 'counter' then 'a ' || type else type end", description: A dimension.}
    measures:
      - {name: k_count, agg: count, expr: labels, description: Rows with labels.}
      - {name: k_true, agg: sum_boolean, expr: value / length(labels) > 0.25 or 1 / value > 3, description: Quotients compared.}
      - {name: k_decimals, agg: sum, expr: length(labels) * 0.001, description: A sum of decimals.}
      - {name: k_mean, agg: average, expr: value / 7, description: A mean.}
      - {name: k_max, agg: max, expr: "coalesce(length(labels), -1)", description: A maximum.}
      - {name: k_last, agg: last, expr: "cast(case when abs(value) < 1e15 then value end as bigint)", description: The newest.}
      - {name: k_ids, agg: count_distinct, expr: length(labels), description: Distinct numbers.}
      - {name: k_spread, agg: percentile, expr: length(labels), description: A distribution of whole numbers.}
      - {name: k_rise, agg: increase, expr: length(labels), description: A counter of whole numbers.}
metrics:
  - {name: k_p90, description: x, type: simple, type_params: {measure: k_spread, percentile: 0.9}, unit: x, direction: neutral}
  - {name: k_risen, description: x, type: simple, type_params: {measure: k_rise}, unit: x, direction: neutral}
  - {name: k_mean, description: x, type: simple, type_params: {measure: k_mean}, unit: x, direction: neutral}
"""


class Both:
    """A tenant's lake for each engine, with the same raw rows, aggregated."""

    def __init__(self, folder: Path, kinds: Catalogue) -> None:
        self.lakes = {engine: Lake(str(folder / engine), folder / f"{engine}-locks").tenant("acme") for engine in ComputeEngine}
        self.kinds = kinds
        for source in sorted({family.source for family in (*TRANSLATED, kinds.family("kinds"))}):
            self.write(MEASURED[source], odd_rows(MEASURED[source], 1))
        for family in (*TRANSLATED, kinds.family("kinds")):
            self.aggregate(family, FIRST, LAST)

    def write(self, schema: TableSchema, rows: pa.Table) -> None:
        for lake in self.lakes.values():
            lake.table(schema).overwrite_days(rows, FIRST, LAST)

    def aggregate(self, family: Family, first: dt.date, last: dt.date, **options: Any) -> None:
        for engine, lake in self.lakes.items():
            aggregate_days(lake, family, first, last, stream_ms=STREAM_MS, engine=engine, **options)

    def rows(self, schema: TableSchema) -> list[pa.Table]:
        """Day after day, each day's rows as they lie in the table: files are read in any order."""
        tables = [lake.table(schema).read(FIRST, LAST) for lake in self.lakes.values()]
        days = [[ts.date() for ts in table.column("ts").to_pylist()] for table in tables]
        return [t.take(sorted(range(t.num_rows), key=of.__getitem__)) for t, of in zip(tables, days, strict=True)]

    def states(self, family: Family, grain: Grain) -> list[pa.Table]:
        return self.rows(family.table(grain))

    def figures(self, catalogue: Catalogue, query: MetricQuery) -> list[pa.Table]:
        return [run_query(lake, catalogue, query) for lake in self.lakes.values()]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    missing = what_is_missing()
    if missing and os.environ.get("REQUIRE_SPARK"):
        pytest.fail(f"REQUIRE_SPARK is set: {missing}")
    if missing:
        pytest.skip(missing)
    folder = tmp_path_factory.mktemp("spark")
    (folder / "kinds").mkdir()
    (folder / "kinds" / "kinds.yaml").write_text(KINDS, encoding="utf-8")
    with pytest.MonkeyPatch.context() as environment:
        # One pass of the JVM's compiler and its plainest collector: a third of the time of a process that lives so short.
        environment.setenv("JDK_JAVA_OPTIONS", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -XX:ReservedCodeCacheSize=256m")
        yield Both(folder, load_catalogue(folder / "kinds"))
        from pyspark.sql import SparkSession

        running = SparkSession.getActiveSession()
        assert running is not None
        running.stop()


def _equal(one: pa.Table, other: pa.Table) -> bool:
    """Zeros of either sign are equal, and a state never holds NaN."""
    return one.schema.equals(other.schema) and one.to_pylist() == other.to_pylist()


@pytest.mark.parametrize("family", [*(f.name for f in TRANSLATED), "kinds"])
def test_both_store_equal_rows_in_equal_order(both: Both, family: str) -> None:
    found = both.kinds.family(family) if family == "kinds" else CATALOGUE.family(family)
    for grain in found.grains:
        duckdb, spark = both.states(found, grain)
        assert duckdb.num_rows > len(DAYS)
        assert _equal(duckdb, spark)
    if found.counts is not None:
        duckdb, spark = both.rows(found.counts)
        assert duckdb.num_rows > 0
        assert _equal(duckdb, spark)


def test_publications_see_no_difference(both: Both) -> None:
    day = CATALOGUE.family("listening").table(Grain.DAY)
    duckdb, spark = (day_contents(lake.table(day), FIRST, LAST) for lake in both.lakes.values())
    assert duckdb == spark


def _require_equal_figures(figures: list[pa.Table], integer: bool) -> None:
    duckdb, spark = figures
    assert duckdb.num_rows > 0
    assert spark.drop_columns("value").equals(duckdb.drop_columns("value"))
    pairs = list(zip(spark.column("value").to_pylist(), duckdb.column("value").to_pylist(), strict=True))
    if integer:
        assert [one for one, _ in pairs] == [other for _, other in pairs]
    else:
        assert all(math.isclose(one, other, rel_tol=1e-9) for one, other in pairs)


@pytest.fixture(scope="module")
def readers(both: Both) -> Iterator[list[DayReader]]:
    """What asks each engine's tables by the day and coarser, with their days in memory."""
    with ExitStack() as opened:
        yield [opened.enter_context(DayReader(lake, CATALOGUE, FIRST, LAST, threads=1)) for lake in both.lakes.values()]


def _asked_plain(metric: Metric) -> bool:
    """Whether it is of families that are compared, and can be asked for without a split or by what it is kept apart by."""
    families, known = {metric.family, *metric.others}, {d.name for d in CATALOGUE.dimensions_of(metric)}
    return families <= {f.name for f in TRANSLATED} and set(metric.apart_by) <= known and not isinstance(metric.formula, Standing)


def _splits(metric: Metric) -> list[tuple[str, ...]]:
    """Plain, by each dimension, and by all of them, each with what must be kept apart; retention also by its periods."""
    over = {summary.dimension for summary in summaries(metric.formula)}
    every = [d.name for d in CATALOGUE.dimensions_of(metric) if d.name not in over]
    periods = [("period",)] if isinstance(metric.formula, Retention) and metric.formula.period is not None else []
    asked = [(), *((name,) for name in every), *periods, tuple(every)]
    return list(dict.fromkeys(tuple(dict.fromkeys((*metric.apart_by, *by))) for by in asked))


def _questions(metric: Metric) -> list[MetricQuery]:
    """By the day with every split; by every other grain that it has plain and by all dimensions. Of windows the first 40 days are
    asked for, which hold all that windows differ by and take a third of the time.
    """
    last = FIRST + dt.timedelta(days=39) if longest_window(metric.formula) and not ahead_of(metric.formula) else LAST
    splits, grains = _splits(metric), grains_of(metric, CATALOGUE)
    assert Grain.DAY in grains
    return [
        MetricQuery(metric.name, FIRST, last, grain, by=by)
        for grain in grains
        for by in (splits if grain is Grain.DAY else {splits[0], splits[-1]})
    ]


@pytest.mark.parametrize("metric", [m for m in CATALOGUE.metrics if _asked_plain(m)], ids=lambda m: m.name)
def test_every_metric_of_the_catalogue_is_equal(both: Both, readers: list[DayReader], metric: Metric) -> None:
    lakes = list(both.lakes.values())

    def answers(engine: int) -> list[pa.Table]:
        hours = (Grain.MINUTE, Grain.HOUR)
        return [
            run_query(lakes[engine], CATALOGUE, asked)
            if asked.grain in hours
            else readers[engine].query(metric, asked.by, until=asked.last, grain=Grain(asked.grain))
            for asked in questions
        ]

    questions = _questions(metric)
    with ThreadPoolExecutor(2) as threads:
        for figures in zip(*threads.map(answers, (0, 1)), strict=True):
            _require_equal_figures(list(figures), metric.integer)


@pytest.mark.parametrize("metric", ["k_p90", "k_risen", "k_mean"])
def test_metrics_of_ones_own_are_equal(both: Both, metric: str) -> None:
    for grain in (Grain.HOUR, Grain.DAY):
        query = MetricQuery(metric, FIRST, LAST, grain, by=("kind",))
        _require_equal_figures(both.figures(both.kinds, query), both.kinds.metric(metric).integer)


def test_every_aggregation_is_among_those_that_were_compared(both: Both) -> None:
    families = [*TRANSLATED, both.kinds.family("kinds")]
    assert {m.aggregation for f in families for m in f.measures} == set(Aggregation)


VALUES, SPREAD = ("avg", "sum", "min", "max", "last", "count"), ("p50", "p95", "p99")
RECORDED = {"gauge": VALUES, "timer": (*VALUES, *SPREAD), "counter": ("increase", "sum", "rate", "last", "count")}


@pytest.mark.parametrize(("kind", "aggregate"), [(kind, a) for kind, known in RECORDED.items() for a in known])
def test_recorded_points_are_equal(both: Both, kind: str, aggregate: str) -> None:
    for grain, by in ((Grain.MINUTE, ()), (Grain.DAY, ("host",)), (Grain.MONTH, ())):
        query = MetricQuery(f"some_{kind}", FIRST, LAST, grain, by=by, aggregate=aggregate)
        _require_equal_figures(both.figures(CATALOGUE, query), aggregate == "count")


# Where the engines differ, or might: one column of a query that both answer over the same file.
EXPRESSIONS = (
    "try_cast(value AS DECIMAL(29,9))",
    "try_cast(value * 1e-3 AS DECIMAL(29,9))",
    "cast(case when abs(value) < 1e18 then value end as bigint)",
    "cast(length(labels) / 4 as bigint)",
    "try_cast(length(labels) as decimal(29,9)) + try_cast(value as decimal(29,9))",
    "cast(cast(try_cast(value as decimal(29,9)) as decimal(38,9)) + try_cast(value as decimal(29,9)) as decimal(38,9))",
    "cast(try_cast(value as decimal(29,9)) as double)",
    "value / length(labels)",
    "length(labels) / value",
    "length(labels) / (length(labels) - 2)",
    "length(labels) / 0",
    "nullif(length(labels), 2) * 3 - 7",
    "ceil(case when abs(value) < 1e15 then value end)",
    "floor(case when abs(value) < 1e15 then value end)",
    "abs(value)",
    "ln(case when value > 0 then value end)",
    "value > 0.1",
    "value between 0 and 10",
    "labels || type",
    "labels < 'ä'",
    "starts_with(labels, '{\"h')",
    "labels in ('{}', 'x') is null",
    "labels is distinct from '{}'",
    "coalesce(labels, 'none')",
    "cast(length(labels) as varchar)",
    "cast(value > 1 as varchar)",
    "cast(ts as date)",
    "date_trunc('week', ts)",
    "date_trunc('month', ts)",
    "ts + interval 3 day",
    "ts - date_trunc('day', ts) <= interval 43200 second",
    "ts + to_microseconds(1000 * greatest(length(labels), 3))",
    "epoch_us(ts)",
    "make_timestamptz(epoch_us(ts) - (epoch_us(ts) + 62135596800000000) % 3600000000)",
    "(length(labels) - 9) // 4",
    "(length(labels) - 9) % 4",
    "cast(1 as bigint) << cast(length(labels) + 20 as bigint)",
    "greatest(length(labels), 10, null)",
    "least(value, 1.5)",
    "max(ts) over (partition by type order by ts, point_id rows between unbounded preceding and 1 preceding)",
    "count(labels) over (partition by type order by ts, point_id rows between unbounded preceding and current row)",
    "cast(md5_number_lower(labels) >> 1 as bigint)",
    "lag(value) over (partition by type order by ts, point_id)",
    "lead(labels) over (partition by type order by ts, point_id)",
    "row_number() over (partition by type order by ts, point_id)",
    "sum(cast(9223372036854775807 as hugeint)) over (partition by type) > 9223372036854775807",
    "cast(cast(length(labels) as hugeint) * length(labels) * length(labels) as bigint)",
    "cast(null as varchar)",
)


def test_expressions_mean_the_same(both: Both) -> None:
    raw = both.lakes[ComputeEngine.DUCKDB].table(METRICS)
    columns = ", ".join(f"{expression} AS e{n}" for n, expression in enumerate(EXPRESSIONS))
    query = f"SELECT point_id AS row_id, {columns} FROM source"
    states = SparkStates()
    states.view("source", METRICS, raw.files(), "true")
    spark = states.rows(query, {}).sort_by("row_id")
    with connect() as connection:
        connection.execute(f"CREATE TEMP VIEW source AS {raw.sql()}")
        ours = connection.sql(query).to_arrow_table().sort_by("row_id")
    for n, expression in enumerate(EXPRESSIONS):
        pairs = list(zip(*(table.column(f"e{n}").to_pylist() for table in (ours, spark)), strict=True))
        odd = [pair for pair in pairs if repr(pair[0]) != repr(pair[1]) and not _close(*pair)]
        assert not odd, (expression, odd[:3])


def _close(one: Any, other: Any) -> bool:
    """Zeros are equal whatever their sign; a logarithm may differ in its last digit."""
    floats = isinstance(one, float) and isinstance(other, float)
    return one == other or (floats and math.isclose(one, other, rel_tol=1e-15))


def test_what_does_not_fit_is_an_error_on_both(both: Both) -> None:
    raw, states = both.lakes[ComputeEngine.DUCKDB].table(METRICS), SparkStates()
    states.view("source", METRICS, raw.files(), "true")
    with connect() as connection:
        connection.execute(f"CREATE TEMP VIEW source AS {raw.sql()}")
        for query in (
            "length(labels) * 9223372036854775807",
            "cast(value as bigint)",
            "cast(sum(9223372036854775807) as bigint)",
        ):
            with pytest.raises(duckdb.Error):
                connection.sql(f"SELECT {query} AS v FROM source").fetchall()
            with pytest.raises(SparkFailedError, match=r"OVERFLOW|out of range"):
                states.rows(f"SELECT {query} AS v FROM source", {})


def test_days_that_are_skipped_keep_what_they_had_and_spans_make_no_difference(both: Both) -> None:
    family = CATALOGUE.family("listening")
    before = both.states(family, Grain.HOUR)[1]
    both.write(PLAYS, odd_rows(PLAYS, 2))
    both.aggregate(family, FIRST, LAST, skip=DAYS[1:2], rows_at_once=ROWS // 2)
    duckdb, spark = both.states(family, Grain.HOUR)
    assert _equal(duckdb, spark)
    kept = [[row for row in table.to_pylist() if row["ts"].date() == DAYS[1]] for table in (before, spark)]
    assert kept[0] == kept[1] != []
    assert not _equal(before, spark)


def test_a_day_whose_rows_are_gone_is_emptied(both: Both) -> None:
    family = CATALOGUE.family("system")
    for lake in both.lakes.values():
        lake.table(MEASURED["system_samples"]).overwrite_days(MEASURED["system_samples"].arrow.empty_table(), LAST, LAST)
    both.aggregate(family, LAST, LAST)
    for table in both.states(family, Grain.DAY):
        assert {row["ts"].date() for row in table.to_pylist()} == set(DAYS[:-1])


def test_tenants_that_are_computed_at_once_do_not_see_each_other(both: Both, tmp_path: Path) -> None:
    lake, family = Lake(str(tmp_path / "lake"), tmp_path / "locks"), CATALOGUE.family("ads")
    tenants = [lake.tenant(name) for name in ("acme", "borealis")]
    schema = MEASURED["ad_impressions"]
    for count, tenant in enumerate(tenants, start=1):
        tenant.table(schema).overwrite_days(odd_rows(schema, 3).slice(0, 100 * count), FIRST, LAST)

    def compute(tenant: TenantLake) -> int:
        aggregate_days(tenant, family, FIRST, LAST, stream_ms=STREAM_MS, engine=ComputeEngine.SPARK)
        return sum(row["ad_requests"] for row in tenant.table(family.table("day")).read().to_pylist())

    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(compute, tenants)) == [100, 200]
