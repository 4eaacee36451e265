"""What a tenant costs beside its rows: a day of many small tenants against one tenant with as many plays."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.plays import FIRST, STREAM_MS, tenant_of, write
from benchmarks.report import Line

if TYPE_CHECKING:
    from analytics_dagster.lake.lake import TenantLake
    from analytics_dagster.metrics.declarations import Family

TENANTS = 1_000
PLAYS = 10_000
# As many as a step of the graph computes side by side on two cores.
AT_ONCE = 2


def many_tenants() -> Iterator[Line]:
    """The day's tables of TENANTS tenants of PLAYS plays, and of one tenant with all of them; table commits are taken off."""
    from analytics_dagster.metrics.aggregate import aggregate_days
    from analytics_dagster.metrics.load import load_catalogue

    family = load_catalogue().family("listening")
    with tempfile.TemporaryDirectory(prefix="bench-tenants-") as folder:
        lakes = [tenant_of(Path(folder), f"tenant_{n}") for n in range(TENANTS)]
        for lake in lakes:
            write(lake, days=1, per_day=PLAYS, listeners=PLAYS // 2)
        one = [tenant_of(Path(folder), "large")]
        write(one[0], days=1, per_day=TENANTS * PLAYS, listeners=TENANTS * PLAYS // 2)

        def compute(lake: TenantLake) -> None:
            aggregate_days(lake, family, FIRST, FIRST, stream_ms=STREAM_MS)

        large, small = _seconds(compute, one), _seconds(compute, lakes)
        large_commits, small_commits = _commits(family, one), _commits(family, lakes)
    ratio = (small - small_commits) / (large - large_commits)
    figure = f"{small:.0f} s, {small_commits:.0f} of them commits; one tenant {large:.1f} s, {large_commits:.1f}; {ratio:.1f} x"
    yield Line(f"{TENANTS:,} tenants of {PLAYS:,} plays", figure, "at most 3 x one tenant, commits aside")


def _seconds(work: Callable[[TenantLake], None], lakes: Sequence[TenantLake]) -> float:
    began = time.perf_counter()
    with ThreadPoolExecutor(AT_ONCE) as threads:
        list(threads.map(work, lakes))
    return time.perf_counter() - began


def _commits(family: Family, lakes: Sequence[TenantLake]) -> float:
    """Seconds of committing what the tables hold, once more."""
    assert family.counts is not None
    schemas = [*(family.table(grain) for grain in family.grains), family.counts]
    total = 0.0
    for start in range(0, len(lakes), 100):
        held = [[(lake.table(schema), lake.table(schema).read()) for schema in schemas] for lake in lakes[start : start + 100]]
        began = time.perf_counter()
        with ThreadPoolExecutor(AT_ONCE) as threads:
            list(threads.map(lambda tables: [table.overwrite_days(rows, FIRST, FIRST) for table, rows in tables], held))
        total += time.perf_counter() - began
    return total
