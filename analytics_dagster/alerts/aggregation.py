"""What a rule's `aggregate` does: each series over its window, then across the series within `by`.

Not-a-number spreads through sums and averages, is ignored by min and max, and sorts below everything in quantiles, as
in Prometheus.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from analytics_dagster.alerts.rules import Aggregate, Labels
from analytics_dagster.alerts.state import Sample

_QUANTILES = {Aggregate.P50: 0.5, Aggregate.P95: 0.95, Aggregate.P99: 0.99}


@dataclass(frozen=True, slots=True)
class Points:
    """The points of one series within a rule's window, oldest first; times and values have equal length."""

    labels: Labels
    times: Sequence[datetime]
    values: Sequence[float]


def combine(aggregate: Aggregate, by: Sequence[str], series: Iterable[Points]) -> list[Sample]:
    """One sample for each combination of the labels in `by`. A `count` is the number of points in the window."""
    groups: dict[Labels, list[tuple[datetime, float]]] = {}
    for points in series:
        if not points.values:
            continue
        values = dict(points.labels)
        key = tuple((name, values[name]) for name in sorted(by) if name in values)
        groups.setdefault(key, []).append((points.times[-1], over(aggregate, points.values)))
    return [Sample(key, _across(aggregate, parts)) for key, parts in sorted(groups.items())]


def over(aggregate: Aggregate, values: Sequence[float]) -> float:
    """One series' values, oldest first and not empty, as one figure."""
    if aggregate is Aggregate.SUM:
        return _sum(values)
    if aggregate is Aggregate.AVG:
        return _sum(values) / len(values)
    if aggregate is Aggregate.LAST:
        return values[-1]
    if aggregate is Aggregate.COUNT:
        return float(len(values))
    if aggregate in (Aggregate.MIN, Aggregate.MAX):
        numbers = [value for value in values if not math.isnan(value)]
        choose = min if aggregate is Aggregate.MIN else max
        return choose(numbers) if numbers else math.nan
    return quantile(_QUANTILES[aggregate], values)


def quantile(share: float, values: Sequence[float]) -> float:
    """Linear interpolation between closest ranks (Hyndman and Fan's type 7, as in Prometheus and numpy)."""
    ordered = sorted(values, key=lambda value: -math.inf if math.isnan(value) else value)
    rank = share * (len(ordered) - 1)
    low, high = ordered[math.floor(rank)], ordered[math.ceil(rank)]
    return low if low == high else low * (1 - rank % 1) + high * (rank % 1)


def _across(aggregate: Aggregate, parts: Sequence[tuple[datetime, float]]) -> float:
    if aggregate is Aggregate.COUNT:
        return sum(value for _, value in parts)
    if aggregate is Aggregate.LAST:
        newest = max(time for time, _ in parts)
        return max(value for time, value in parts if time == newest)
    return over(aggregate, [value for _, value in parts])


def _sum(values: Sequence[float]) -> float:
    try:
        return math.fsum(values)
    except (OverflowError, ValueError):  # beyond the largest number, or inf - inf: what IEEE 754 says
        return sum(values)
