"""What callers hand in, made points of this process' series, whole or not at all."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import pyarrow as pa

from analytics_dagster.clock import Clock
from analytics_dagster.engine.metric_rows import MetricRows
from analytics_dagster.engine.refusals import RefusedPointsError
from analytics_dagster.errors import UserError
from analytics_dagster.ingest.points import Admission, Parsed, Points, SeriesTable, WriteScope

if TYPE_CHECKING:
    from analytics_dagster.engine.engine import Recordable

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)
_SMALL_TABLE = 20_000


class RowChecks:
    """Checks and numbers rows. `skew` is how far ahead of `clock` a point may be. Safe in any thread."""

    def __init__(self, clock: Clock, skew: dt.timedelta) -> None:
        self._clock = clock
        self._skew = skew
        self._metrics = MetricRows(SeriesTable())
        # pyarrow imports pandas with the first array that it makes, and pandas threads, which a program that is ending may not:
        # points that wait then would not be written.
        pa.array([])

    def points(self, data: Recordable, scope: WriteScope) -> Points:
        """All of `data`. Raises RefusedPointsError naming what is not allowed, ForeignTenantError for a tenant that is not."""
        now = (self._clock.now() - _EPOCH) // _MICROSECOND
        parsed = self._parsed(data, scope, now)
        if parsed.refused:
            raise RefusedPointsError(parsed.refused, len(parsed.points) + len(parsed.refused))
        return parsed.points

    def _parsed(self, data: Recordable, scope: WriteScope, now: int) -> Parsed:
        latest, rows = now + self._skew // _MICROSECOND, self._rows()
        if is_table(data):
            return self._of_table(data, rows, scope, latest, now)
        if not isinstance(data, Iterable) or isinstance(data, str | bytes | Mapping):
            raise UserError(
                "record_metrics takes AnalyticsMetric objects, a pandas or polars DataFrame or an Arrow table, "
                f"not {type(data).__name__}"
            )
        metrics = data if isinstance(data, list | tuple) else list(data)
        return rows.points(metrics, Admission(rows.table, scope, latest))

    def _of_table(self, data: object, rows: MetricRows, scope: WriteScope, latest: int, now: int) -> Parsed:
        from analytics_dagster.engine.tables import arrow_table, points_of_table

        table = arrow_table(data)
        if table.num_rows <= _SMALL_TABLE:
            with rows.lock:
                return points_of_table(table, Admission(rows.table, scope, latest), now)
        # Numbered by itself first: nobody waits for the lock while three million rows are looked through.
        parsed = points_of_table(table, Admission(SeriesTable(), scope, latest), now)
        return Parsed(rows.renumbered(parsed.points), parsed.refused)

    def _rows(self) -> MetricRows:
        if self._metrics.is_full:
            self._metrics = MetricRows(SeriesTable())
        return self._metrics


def is_table(data: object) -> bool:
    """Whether `data` exports Arrow, as DataFrames and Arrow tables do."""
    return hasattr(data, "__arrow_c_stream__") or hasattr(data, "__arrow_c_array__")
