"""A monotonic clock that moves when told to, and the points of a request, by tenant and labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from analytics_dagster.ingest.points import Points, SeriesTable, canonical_labels


class Stopwatch:
    """A monotonic clock in seconds."""

    def __init__(self) -> None:
        self.seconds = 1_000.0

    def __call__(self) -> float:
        return self.seconds

    def advance(self, seconds: float) -> None:
        self.seconds += seconds


def points(table: SeriesTable, tenant: str, labels: Sequence[Mapping[str, str]], name: str = "requests") -> Points:
    """One point of each series."""
    series = [table.number(tenant, "gauge", name, canonical_labels(one)) for one in labels]
    return Points(table, np.array(series, np.int32), np.zeros(len(series), np.int64), np.zeros(len(series)))


def joined(*parts: Points) -> Points:
    """All of them as one request's."""
    return Points(
        parts[0].table,
        np.concatenate([p.series for p in parts]),
        np.concatenate([p.ts for p in parts]),
        np.concatenate([p.values for p in parts]),
    )
