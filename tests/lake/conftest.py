"""Small real tables for the lake's tests."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pyarrow as pa
import pytest

from analytics_dagster.lake.lake import Lake
from analytics_dagster.lake.schemas import SYSTEM_SAMPLES


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake"), tmp_path / "locks")


def samples(first: dt.date, days: int, a_day: int = 24, cpu: float = 10.0) -> pa.Table:
    """`a_day` rows of system_samples on each of `days` days."""
    start = dt.datetime(first.year, first.month, first.day, tzinfo=dt.UTC)
    rows = [
        {
            "sample_id": f"{start + dt.timedelta(days=day)}-{n}",
            "ts": start + dt.timedelta(days=day, minutes=n * (1440 // a_day)),
            "host": "web-1",
            "cpu_percent": cpu,
            "network_bytes": n,
            "format": "test",
        }
        for day in range(days)
        for n in range(a_day)
    ]
    return pa.Table.from_pylist(rows, schema=SYSTEM_SAMPLES.arrow)


@pytest.fixture
def make_samples():  # noqa: ANN201  # a fixture that gives the function above
    return samples
