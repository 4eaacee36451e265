"""Series in evaluation time, held in memory, as a rule reads them: the value at a tick, or the points of a window.

A value stays visible while it is less than five minutes old, unless a stale mark ends it (Prometheus's look-back).
Windows are open on the left and closed on the right, as in Prometheus 3.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from datetime import datetime, timedelta

from analytics_dagster.alerts.aggregation import Points, combine
from analytics_dagster.alerts.queries import Query
from analytics_dagster.alerts.rules import Labels, Rule
from analytics_dagster.alerts.state import Sample

LOOK_BACK = timedelta(minutes=5)


class Series:
    """One series: times rise; a value of None is a stale mark."""

    def __init__(self, labels: Labels) -> None:
        self.labels = labels
        self._times: list[datetime] = []
        self._values: list[float | None] = []

    def append(self, at: datetime, value: float | None) -> None:
        if self._times and at <= self._times[-1]:
            raise ValueError(f"{dict(self.labels)} has a point at {at} already")
        self._times.append(at)
        self._values.append(value)

    def at(self, time: datetime) -> tuple[datetime, float] | None:
        """Newest point at or before `time`, if it is still visible."""
        position = bisect_right(self._times, time) - 1
        if position < 0 or time - self._times[position] >= LOOK_BACK:
            return None
        value = self._values[position]
        return None if value is None else (self._times[position], value)

    def within(self, after: datetime, until: datetime) -> tuple[list[datetime], list[float]]:
        """Points in (after, until], without stale marks."""
        first, last = bisect_right(self._times, after), bisect_right(self._times, until)
        pairs = [(self._times[i], value) for i in range(first, last) if (value := self._values[i]) is not None]
        return [time for time, _ in pairs], [value for _, value in pairs]


class SeriesStore:
    """The series of one tenant by metric name and labels."""

    def __init__(self) -> None:
        self._metrics: dict[str, dict[Labels, Series]] = {}

    def series(self, metric: str, labels: Labels) -> Series:
        """The series, made when it is not there."""
        by_labels = self._metrics.setdefault(metric, {})
        if labels not in by_labels:
            by_labels[labels] = Series(labels)
        return by_labels[labels]

    def metrics(self) -> set[str]:
        return set(self._metrics)

    def select(self, query: Query) -> Iterator[Series]:
        for series in self._metrics.get(query.metric, {}).values():
            if query.matches(dict(series.labels)):
                yield series

    def samples(self, rule: Rule, at: datetime) -> list[Sample]:
        """What `rule` sees at a tick."""
        if rule.aggregate is None:
            seen = ((series.labels, series.at(at)) for series in self.select(rule.query))
            return [Sample(labels, point[1]) for labels, point in seen if point is not None]
        return combine(rule.aggregate, rule.by, self._points(rule, at))

    def _points(self, rule: Rule, at: datetime) -> Iterator[Points]:
        for series in self.select(rule.query):
            if rule.window is not None:
                yield Points(series.labels, *series.within(at - rule.window, at))
                continue
            point = series.at(at)
            if point is not None:
                yield Points(series.labels, [point[0]], [point[1]])
