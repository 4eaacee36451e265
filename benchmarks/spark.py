"""`make bench-metrics` and `make bench-spark`: one day's tables of plays by DuckDB and by Spark, and that they are equal."""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from analytics_dagster.lake.compute import ComputeEngine
from benchmarks.plays import FIRST, STREAM_MS, tenant_of, write
from benchmarks.report import Line

if TYPE_CHECKING:
    import pyarrow as pa

    from analytics_dagster.lake.lake import TenantLake
    from analytics_dagster.metrics.declarations import Family

ROUNDS = 3
PLAYS, LISTENERS = 200_000, 40_000
# Measures and sets; sessions cut from plays; plays judged by the counting policies.
FAMILIES = ("listening", "sessions", "counting")


def both_engines() -> Iterator[Line]:
    """A day of 200,000 plays by up to 40,000 listeners. What Spark takes to start is told apart.

    Where Spark is not installed, one line says what is missing.
    """
    from analytics_dagster.lake.spark import open_spark, what_is_missing
    from analytics_dagster.metrics.load import load_catalogue

    missing = what_is_missing()
    if missing:
        yield Line("Spark beside DuckDB", f"not measured: {missing}", "equal tables")
        return
    began = time.perf_counter()
    open_spark()
    yield Line("starting Spark, once for each process", f"{time.perf_counter() - began:.1f} s", "-")
    with tempfile.TemporaryDirectory(prefix="bench-spark-") as folder:
        tenant = tenant_of(Path(folder))
        write(tenant, days=1, per_day=PLAYS, listeners=LISTENERS)
        for name in FAMILIES:
            yield _beside(tenant, load_catalogue().family(name))


def _beside(tenant: TenantLake, family: Family) -> Line:
    """Both engines' time for a family's tables. Raises RuntimeError where a row differs."""
    seconds: dict[ComputeEngine, float] = {}
    tables: dict[ComputeEngine, list[pa.Table]] = {}
    for engine in ComputeEngine:
        seconds[engine], tables[engine] = _measured(tenant, family, engine)
    duckdb, spark = (tables[engine] for engine in ComputeEngine)
    if not all(one.equals(other) for one, other in zip(duckdb, spark, strict=True)):
        raise RuntimeError(f"the engines' tables of {family.name} differ")
    rows, ratio = sum(table.num_rows for table in duckdb), seconds[ComputeEngine.SPARK] / seconds[ComputeEngine.DUCKDB]
    measured = f"{seconds[ComputeEngine.SPARK]:.1f} s; DuckDB {seconds[ComputeEngine.DUCKDB]:.1f} s: {ratio:.1f} x"
    return Line(f"{family.name}: a day of {PLAYS:,} plays on Spark", f"{measured}; {rows:,} rows equal", "equal tables")


def _measured(tenant: TenantLake, family: Family, engine: ComputeEngine) -> tuple[float, list[pa.Table]]:
    """Median seconds of ROUNDS rounds after one that warms up, and the family's tables."""
    from analytics_dagster.metrics.aggregate import aggregate_days

    times = []
    for _ in range(ROUNDS + 1):
        began = time.perf_counter()
        aggregate_days(tenant, family, FIRST, FIRST, stream_ms=STREAM_MS, engine=engine)
        times.append(time.perf_counter() - began)
    schemas = [family.table(grain) for grain in family.grains] + ([family.counts] if family.counts else [])
    return statistics.median(times[1:]), [tenant.table(schema).read(FIRST, FIRST) for schema in schemas]


def main() -> int:
    for line in both_engines():
        print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
