"""AnalyticsMetric objects to points: as columns where all is plain, one at a time to say what is wrong.

What was checked once is known by its series' number, so a million points of known series cost a dictionary look-up each.
"""

from __future__ import annotations

import datetime as dt
import math
import threading
from collections.abc import Mapping, Sequence
from decimal import Decimal

import numpy as np
import numpy.typing as npt

from analytics_dagster.engine.metric import AnalyticsMetric
from analytics_dagster.ingest.points import (
    EARLIEST_US,
    MAX_SERIES_KEPT,
    Admission,
    Parsed,
    Points,
    RefusedValueError,
    RowRefusal,
    SeriesTable,
    canonical_labels,
    check_name,
    check_time,
    check_type,
)

# Types that numpy reads as the number they are; anything else (text, None, True) is looked at by itself.
_PLAIN_NUMBERS = frozenset({float, int, np.float64, np.float32, np.int64, np.int32})
_NUMBERS = (int, float, Decimal, np.integer, np.floating)
_SECOND_US = 1_000_000
_PORTION = 8_192
# Arrays cost more than they save below this.
_FEW = 8

_SeriesKey = tuple[object, ...]


class MetricRows:
    """Makes points of metrics, remembering the series it checked. Safe in any thread."""

    def __init__(self, table: SeriesTable) -> None:
        self.table = table
        self.lock = threading.Lock()
        self._known: dict[_SeriesKey, int] = {}

    @property
    def is_full(self) -> bool:
        """Whether to begin again: the table is full, or there are as many spellings, as of labels that come in any order."""
        return self.table.is_full or len(self._known) > MAX_SERIES_KEPT

    def points(self, metrics: Sequence[AnalyticsMetric], admission: Admission) -> Parsed:
        """Points of all metrics, or the refusals of those that are not allowed; ForeignTenantError for a tenant that is not."""
        parts, refused = [], []
        # In portions: the keys of one die before the garbage collector comes to look through those of a million.
        for start in range(0, len(metrics), _PORTION):
            some = metrics[start : start + _PORTION]
            with self.lock:
                columns = self._columns(some, admission) if len(some) > _FEW else None
                if columns is None:
                    columns, bad = self._one_by_one(some, start, admission)
                    refused += bad
                parts.append(columns)
        return Parsed(joined(self.table, parts), refused)

    def renumbered(self, points: Points) -> Points:
        """The same points of the series of this table, so that the log names each series once and not with every call."""
        other = points.table
        with self.lock:
            numbers = [
                self.table.number(*parts) for parts in zip(other.tenants, other.types, other.names, other.labels, strict=True)
            ]
        return Points(self.table, np.array(numbers, np.int32)[points.series], points.ts, points.values)

    def _columns(self, metrics: Sequence[AnalyticsMetric], admission: Admission) -> Points | None:
        """All as columns; None when anything needs a look by itself."""
        try:
            values, times = [m.value for m in metrics], [m.timestamp for m in metrics]
            if not _PLAIN_NUMBERS.issuperset(map(type, values)) or not {dt.datetime}.issuperset(map(type, times)):
                return None
            numbers, ts = np.array(values, np.float64), _micros(times)
            if not np.isfinite(numbers).all() or ts.min() < EARLIEST_US or ts.max() > admission.latest_us:
                return None
            resolve, known = admission.scope.resolve, self._known
            tenants = {tenant: resolve(_tenant(tenant)) for tenant in {m.tenant_id for m in metrics}}
            series = [
                known.get((tenants[m.tenant_id], m.metric_type, m.name, *m.labels, *m.labels.values()), -1) for m in metrics
            ]
            for row in (row for row, found in enumerate(series) if found < 0):
                series[row] = self._number(tenants[metrics[row].tenant_id], metrics[row])
        except (RefusedValueError, AttributeError, TypeError, ValueError, OverflowError):
            return None
        return Points(self.table, np.array(series, np.int32), ts, numbers)

    def _one_by_one(
        self, metrics: Sequence[AnalyticsMetric], first: int, admission: Admission
    ) -> tuple[Points, list[RowRefusal]]:
        series, ts, values = [], [], []
        refused: list[RowRefusal] = []
        for index, metric in enumerate(metrics, start=first):
            try:
                if not isinstance(metric, AnalyticsMetric):
                    raise RefusedValueError("point", metric, "is not an AnalyticsMetric")
                tenant = admission.scope.resolve(_tenant(metric.tenant_id))
                number = self._number(tenant, metric)
                moment, value = check_time(moment_us(metric.timestamp), admission.latest_us), _value(metric.value)
            except RefusedValueError as error:
                refused.append(RowRefusal(index, error.field, error.value, error.reason))
                continue
            series.append(number)
            ts.append(moment)
            values.append(value)
        return Points(self.table, np.array(series, np.int32), np.array(ts, np.int64), np.array(values, np.float64)), refused

    def _number(self, tenant: str, metric: AnalyticsMetric) -> int:
        labels = metric.labels
        if not isinstance(labels, Mapping):
            raise RefusedValueError("labels", labels, "are not a mapping of names to values")
        # True, 1 and 1.0 are one key to a dictionary and three labels to us, so only those of texts are remembered.
        key = None
        if all(isinstance(value, str) for value in labels.values()) and isinstance(metric.metric_type, str):
            key = (tenant, metric.metric_type, metric.name, *labels, *labels.values())
            found = self._known.get(key)
            if found is not None:
                return found
        number = self.table.number(tenant, check_type(metric.metric_type), check_name(metric.name), canonical_labels(labels))
        if key is not None:
            self._known[key] = number
        return number


def joined(table: SeriesTable, parts: Sequence[Points]) -> Points:
    """Points of one table, one after the other."""
    if len(parts) == 1:
        return parts[0]
    return Points(
        table,
        np.concatenate([np.empty(0, np.int32), *(part.series for part in parts)]),
        np.concatenate([np.empty(0, np.int64), *(part.ts for part in parts)]),
        np.concatenate([np.empty(0, np.float64), *(part.values for part in parts)]),
    )


def _micros(times: Sequence[dt.datetime]) -> npt.NDArray[np.int64]:
    """Exact microseconds since 1970: `timestamp()` is a double, good to the microsecond only until 2041."""
    seconds = np.array([moment.timestamp() for moment in times], np.float64)
    fractions = np.array([moment.microsecond for moment in times], np.int64)
    whole = np.rint(seconds - fractions / _SECOND_US)
    return whole.astype(np.int64) * _SECOND_US + fractions


def moment_us(value: object) -> int:
    """Exact microseconds since 1970 of a datetime; one without a zone is this machine's. Raises RefusedValueError."""
    if not isinstance(value, dt.datetime) or value != value:  # pandas' NaT is a datetime, and differs from itself
        raise RefusedValueError("timestamp", value, "is not a datetime")
    # A subclass may read a time without zone its own way (pandas: as UTC); here it is local time.
    plain = dt.datetime.combine(
        dt.date(value.year, value.month, value.day),
        dt.time(value.hour, value.minute, value.second, value.microsecond, value.tzinfo, fold=value.fold),
    )
    try:
        return round(plain.timestamp() - plain.microsecond / _SECOND_US) * _SECOND_US + plain.microsecond
    except (OverflowError, ValueError):
        raise RefusedValueError("timestamp", value, "is outside of what this machine's clock can hold") from None


def _value(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, _NUMBERS):
        raise RefusedValueError("value", value, "is not a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise RefusedValueError("value", value, "is not a finite number")
    return number


def _tenant(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise RefusedValueError("tenant_id", value, "is not text")
