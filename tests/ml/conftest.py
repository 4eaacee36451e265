"""Series to judge and forecast, seeded."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from analytics_dagster.lake.schemas import TIMESTAMP

WEEK = np.array([1.0, 0.95, 1.0, 1.05, 1.2, 1.4, 1.3])

Points = Callable[..., pa.Table]
Weekly = Callable[..., np.ndarray]


@pytest.fixture(scope="session")
def points() -> Points:
    """Values to a table of ts and value, a day (or `step`) apart from `first` on."""

    def table(values: object, first: date = date(2026, 1, 1), step: timedelta = timedelta(days=1)) -> pa.Table:
        numbers = np.asarray(values, dtype=float)
        start = datetime(first.year, first.month, first.day, tzinfo=UTC)
        return pa.table({"ts": pa.array([start + step * i for i in range(len(numbers))], TIMESTAMP), "value": numbers})

    return table


@pytest.fixture(scope="session")
def weekly() -> Weekly:
    """A KPI with a week in it and 5 % noise."""

    def values(days: int = 90, level: float = 10_000, noise: float = 0.05, seed: int = 7) -> np.ndarray:
        return level * WEEK[np.arange(days) % 7] * (1 + noise * np.random.default_rng(seed).normal(size=days))

    return values
