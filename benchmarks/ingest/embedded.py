"""What needs no server: data frames recorded in this process, and the log's way into Delta tables."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from benchmarks.ingest import rows
from benchmarks.report import Line

if TYPE_CHECKING:
    from analytics_dagster.ingest.points import Points

FRAME_POINTS = 2_000_000
DICTS_POINTS = 500_000
DELTA_POINTS = 5_000_000
TENANTS = 50
ROUNDS = 3


def dataframes() -> Iterator[Line]:
    """`record_metrics(DataFrame)`: label columns, then a column of dicts; durable when it returns."""
    from analytics_dagster import LocalEngine

    with tempfile.TemporaryDirectory(prefix="bench-frame-") as folder, LocalEngine(Path(folder) / "home") as engine:
        for what, frame, target in (
            ("record_metrics(DataFrame), label columns", _frame(FRAME_POINTS), "at least 3,000,000/s"),
            ("record_metrics(DataFrame), a column of dicts", _frame_of_dicts(DICTS_POINTS), "at least 800,000/s"),
        ):
            rates = []
            for _ in range(ROUNDS + 1):
                began = time.perf_counter()
                engine.record_metrics_sync(frame)
                rates.append(len(frame) / (time.perf_counter() - began))
            yield Line(what, f"{statistics.median(rates[1:]):,.0f} points/s", target)


def log_to_delta() -> Iterator[Line]:
    """A log of 50 tenants' points into their landing tables."""
    from analytics_dagster.clock import SystemClock
    from analytics_dagster.ingest.consume import consume
    from analytics_dagster.ingest.log.open import open_log
    from analytics_dagster.installation import open_installation
    from analytics_dagster.settings import Settings

    with tempfile.TemporaryDirectory(prefix="bench-delta-") as folder:
        settings = Settings.from_environment(Path(folder) / "home")
        installation = open_installation(settings, create=True)
        log = open_log(settings, SystemClock(), "local")
        for batch in _points_of_tenants(installation.tenants.ensure):
            log.append(batch).result()
        log.close()
        began, taken = time.perf_counter(), 0
        while True:
            consumed = consume(installation)
            taken += consumed.points
            if not consumed.more:
                break
        seconds = time.perf_counter() - began
        if taken != DELTA_POINTS:
            raise RuntimeError(f"{taken:,} of {DELTA_POINTS:,} points were consumed")
        installation.database.dispose()
    yield Line(f"log to Delta, {TENANTS} tenants", f"{taken / seconds:,.0f} points/s", "at least 500,000/s")


def _points_of_tenants(register: Callable[[str], object]) -> Iterator[Points]:
    from analytics_dagster.ingest.points import Points, SeriesTable, canonical_labels

    table = SeriesTable()
    tenants = [f"tenant-{n}" for n in range(TENANTS)]
    for tenant in tenants:
        register(tenant)
    per_tenant = rows.SERIES // TENANTS
    for number in range(rows.SERIES):
        tenant = tenants[number // per_tenant]
        table.number(tenant, "gauge", rows.name(number), canonical_labels(rows.labels(number)))
    start = int(time.time() * 1e6) - DELTA_POINTS // rows.SERIES * 1_000_000
    for begin in range(0, DELTA_POINTS, 100_000):
        numbers = np.arange(begin, begin + 100_000)
        series = (numbers % rows.SERIES).astype(np.int32)
        yield Points(table, series, start + numbers // rows.SERIES * 1_000_000, numbers / 7)


def _frame(count: int) -> pd.DataFrame:
    return (
        rows.table(rows.Rows("tenant_123", int(time.time() * 1_000) - 400_000, count)).to_pandas().assign(tenant_id="tenant_123")
    )


def _frame_of_dicts(count: int) -> pd.DataFrame:
    frame = _frame(count)
    labels = [{"region": r, "user_tier": t} for r, t in zip(frame["region"], frame["user_tier"], strict=True)]
    return frame.drop(columns=["region", "user_tier"]).assign(labels=labels)
