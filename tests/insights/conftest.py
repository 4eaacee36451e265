"""A small service's KPIs, seeded: plays by country and tier that add up, and an error ratio with its weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from analytics_dagster.insights.series import Series
from analytics_dagster.lake.schemas import TIMESTAMP

DAYS = 150
LAST = date(2026, 6, 16)  # a Tuesday
WEEK = np.array([1.0, 0.95, 1.0, 1.05, 1.2, 1.4, 1.3])
COUNTRIES = {"US": 5_000.0, "DE": 3_000.0, "FR": 1_500.0, "SE": 500.0}
TIERS = {"free": 0.6, "premium": 0.4}

Service = Callable[..., list[Series]]


def stamps(days: int) -> pa.Array:
    last = datetime(LAST.year, LAST.month, LAST.day, tzinfo=UTC)
    return pa.array([last - timedelta(days=days - 1 - i) for i in range(days)], TIMESTAMP)


def long(dimension: str, columns: Mapping[str, np.ndarray], weights: Mapping[str, np.ndarray] | None = None) -> pa.Table:
    """Days x elements to one row each."""
    parts = []
    for element, values in columns.items():
        cells = {"ts": stamps(len(values)), dimension: pa.array([element] * len(values)), "value": pa.array(values, pa.float64())}
        if weights is not None:
            cells["weight"] = pa.array(weights[element], pa.float64())
        parts.append(pa.table(cells))
    return pa.concat_tables(parts)


def plays(rng: np.random.Generator, factor: Mapping[tuple[int, str], float], days: int = DAYS, scale: float = 1.0) -> Series:
    """Plays by country and tier. `factor`: (day from the end, country or '*') -> what the day's plays are multiplied by."""
    countries = {}
    for country, level in COUNTRIES.items():
        mean = scale * level * WEEK[np.arange(days) % 7]
        for (back, where), by in factor.items():
            if where in (country, "*"):
                mean[days - 1 - back] *= by
        countries[country] = rng.poisson(mean * (1 + 0.03 * rng.normal(size=days)).clip(0)).astype(float)
    total = sum(countries.values(), np.zeros(days))
    free = np.round(total * TIERS["free"])
    daily = pa.table({"ts": stamps(days), "value": total})
    by = {"country": long("country", countries), "tier": long("tier", {"free": free, "premium": total - free})}
    return Series("plays", "plays", "down_is_bad", daily, by)


@pytest.fixture(scope="session")
def service() -> Service:
    """KPIs of a tenant up to Tuesday, 16 June 2026."""

    def made(seed: int = 1, factor: Mapping[tuple[int, str], float] | None = None, days: int = DAYS) -> list[Series]:
        rng = np.random.default_rng(seed)
        first = plays(rng, factor or {}, days)
        errors = {e: 0.01 + 0.001 * rng.normal(size=days) for e in ("/play", "/search")}
        requests = {e: np.full(days, 10_000.0) for e in errors}
        ratio = sum(errors[e] * requests[e] for e in errors) / 20_000
        return [
            first,
            Series(
                "streams",
                "streams",
                "down_is_bad",
                pa.table({"ts": stamps(days), "value": np.floor(first.daily["value"].to_numpy() * 0.8)}),
            ),
            Series(
                "api_error_ratio",
                "ratio",
                "up_is_bad",
                pa.table({"ts": stamps(days), "value": ratio}),
                {"endpoint": long("endpoint", errors, requests)},
            ),
        ]

    return made
