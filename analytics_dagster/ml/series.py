"""A metric's history as numbers on a regular grid: what both the anomaly detector and the forecasts start from.

A bucket that is not there and a value that is null or NaN are the same thing here, *missing*, and stay missing:
neither is ever read as zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from analytics_dagster.errors import UserError
from analytics_dagster.lake.schemas import TIMESTAMP

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MINUTE, HOUR, DAY, WEEK = 60, 3_600, 86_400, 604_800
_MONTH_DAYS = (28, 31)
# A grid with more than this many buckets per point is not a series with gaps but a list of events.
_MOST_BUCKETS_PER_POINT = 4


@dataclass(frozen=True)
class Grid:
    """A history on its grid. `values[slot[i]]` is the i-th given point; slots without a point hold NaN.

    ts: int64 microseconds since 1970 (UTC) of the given points, ascending. step: seconds between slots, None where
    the points are not evenly spaced (then slots simply follow each other).
    """

    ts: NDArray[np.int64]
    slot: NDArray[np.int64]
    values: NDArray[np.float64]
    step: int | None

    @property
    def observed(self) -> int:
        """Points with a value."""
        import numpy as np

        return int(np.isfinite(self.values).sum())

    @property
    def usual_season(self) -> int | None:
        """Slots after which a series of this grain usually repeats: 7 days, 24 hours, a day of finer buckets."""
        if self.step is None:
            return None
        if self.step == DAY:
            return 7
        if self.step == WEEK:
            return 52
        if _MONTH_DAYS[0] * DAY <= self.step <= _MONTH_DAYS[1] * DAY:
            return 12
        if MINUTE <= self.step <= HOUR and DAY % self.step == 0:
            return DAY // self.step
        return None


def grid_of(points: pa.Table) -> Grid:
    """Sort `points` (ts, value) and lay them on their grid.

    ts: any timestamp or date type; without a zone it is UTC. value: any number. Raises UserError when a column is
    missing, has another type, or a time occurs twice.
    """
    import numpy as np

    ts, value = _columns(points)
    order = np.argsort(ts, kind="stable")
    ts, value = ts[order], np.where(np.isfinite(value[order]), value[order], np.nan)
    if len(ts) < 2:
        return Grid(ts, np.zeros(len(ts), dtype=np.int64), value, None)
    apart = np.diff(ts)
    if (apart == 0).any():
        twice = datetime.fromtimestamp(int(ts[1:][apart == 0][0]) / 1e6, UTC)
        raise UserError(f"a series has two points at {twice.isoformat()}; give one value per time")
    step = int(np.median(apart))
    slot = np.round((ts - ts[0]) / step).astype(np.int64)
    regular = (np.abs((ts - ts[0]) - slot * step) <= step * 0.02 + 1).mean() > 0.95 and (np.diff(slot) > 0).all()
    whole = step % 1_000_000 == 0
    if not (regular and whole) or slot[-1] + 1 > _MOST_BUCKETS_PER_POINT * len(ts):
        # Months and the like: evenly counted though not evenly long.
        months = (apart >= _MONTH_DAYS[0] * DAY * 1_000_000).all() and (apart <= _MONTH_DAYS[1] * DAY * 1_000_000).all()
        return Grid(ts, np.arange(len(ts)), value, 30 * DAY if months else None)
    values = np.full(int(slot[-1]) + 1, np.nan)
    values[slot] = value
    return Grid(ts, slot, values, step // 1_000_000)


def _columns(points: pa.Table) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    import numpy as np

    for name in ("ts", "value"):
        if name not in points.column_names:
            raise UserError(f"a series needs the columns ts and value; {name} is missing from {points.column_names}")
    kind = points.schema.field("ts").type
    if not (pa.types.is_timestamp(kind) or pa.types.is_date(kind)):
        raise UserError(f"column ts of a series is {kind}; it must be a timestamp or a date")
    if points["ts"].null_count:
        raise UserError(f"column ts of a series has {points['ts'].null_count} empty cells; every point needs its time")
    value = points.schema.field("value").type
    if not (pa.types.is_integer(value) or pa.types.is_floating(value) or pa.types.is_decimal(value) or pa.types.is_null(value)):
        raise UserError(f"column value of a series is {value}; it must be a number")
    ts = points["ts"].cast(TIMESTAMP if getattr(kind, "tz", None) else pa.timestamp("us")).cast(pa.int64())
    numbers = pc.fill_null(points["value"].cast(pa.float64()), float("nan"))
    return ts.to_numpy().astype(np.int64), numbers.to_numpy().astype(np.float64)


def timestamps(microseconds: NDArray[np.int64]) -> pa.Array:
    """Microseconds since 1970 as the lake's timestamp type."""
    return pa.array(microseconds, type=pa.int64()).cast(pa.timestamp("us")).cast(TIMESTAMP)
