"""What comes next: forecasts of KPIs by the mean of Prophet and exponential smoothing, and how good they were.

Prophet gives trend and calendar, its last residual is carried on (first-order autoregression), and smoothing gives the
level on which the series stands. Nothing is sampled: intervals come from formulas and from measured errors, so that the
same history gives the same forecast to the bit. Histories of less than two weeks are not worth Prophet; `model` says
which method made a row.

References: Taylor and Letham, "Forecasting at scale" (2018); Hyndman and Koehler, "Another look at measures of forecast
accuracy" (2006) for MASE and sMAPE.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Literal

import pyarrow as pa

from analytics_dagster.errors import UserError
from analytics_dagster.lake.schemas import TIMESTAMP, Column, Layer, PartitionBy, TableSchema
from analytics_dagster.ml.series import DAY, HOUR, Grid, grid_of, timestamps
from analytics_dagster.ml.smoothing import Outlook, smooth

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Grain = Literal["day", "hour"]
_STEP: dict[str, int] = {"day": DAY, "hour": HOUR}
_SEASON = {"day": 7, "hour": 24}

LONGEST_HISTORY = {"day": 3 * 365, "hour": 12 * 7 * 24}
"""Newest buckets that are learnt from: three years of days, twelve weeks of hours. Older ones cost time and say little."""
PROPHET_NEEDS = timedelta(days=14)
"""Two whole weeks: with less there is no weekday to learn."""
_YEARLY_NEEDS = timedelta(days=730)
_Z95 = 1.959964
_ODD = 6.0

FORECAST = pa.schema(
    [
        pa.field("ts", TIMESTAMP),
        pa.field("yhat", pa.float64()),
        pa.field("lo_95", pa.float64()),
        pa.field("hi_95", pa.float64()),
        pa.field("model", pa.string()),
    ]
)

FORECASTS = TableSchema(
    Layer.FORECASTS,
    "kpi",
    "Forecasts of each KPI, with the day on which they were made: old ones stay, so that they can be held to account.",
    (
        Column("ts", TIMESTAMP, "Start of the bucket that is forecast (UTC).", required=True),
        Column("metric", pa.string(), "Declared metric.", required=True),
        Column("made_on", pa.date32(), "Newest day that the forecast knew.", required=True),
        Column("yhat", pa.float64(), "Forecast."),
        Column("lo_95", pa.float64(), "Lower end of the 95 % interval; empty where the history is too short to say."),
        Column("hi_95", pa.float64(), "Upper end of the 95 % interval; empty where the history is too short to say."),
        Column("model", pa.string(), "Method: prophet+smoothing, smoothing, mean or last value.", required=True),
    ),
    key="ts",
    partition_by=PartitionBy.MONTH,
)


@dataclass(frozen=True)
class Accuracy:
    """How a forecast did on buckets it had not seen. mase below 1: better than repeating the last season was on the
    history. smape: 0 to 2 (times 100 for percent). coverage: share of buckets within the 95 % interval.
    """

    mase: float
    smape: float
    coverage: float


@dataclass(frozen=True)
class Bounds:
    """Values that a metric can take."""

    least: float | None = None
    most: float | None = None


def bounds_of(unit: str, values: NDArray[np.float64]) -> Bounds:
    """What the unit allows: shares are within 0 and 1, percents within 0 and 100, and what never was negative stays so.

    A bound that the history itself breaks is none (a ratio of two counts may well be above 1).
    """
    import numpy as np

    seen = values[np.isfinite(values)]
    most = {"ratio": 1.0, "percent": 100.0}.get(unit)
    return Bounds(
        0.0 if len(seen) and (seen >= 0).all() else None,
        most if most is not None and len(seen) and (seen <= most).all() else None,
    )


def forecast(
    history: pa.Table,
    *,
    horizon: int,
    grain: Grain,
    now: datetime,
    seed: int,
    unit: str = "",
    fitted: str | None = None,
) -> pa.Table:
    """Forecast the `horizon` buckets after the newest whole one.

    history: ts (timestamp or date, start of the bucket, UTC), value (null and NaN are missing). Buckets that are not over
    at `now` are left out, on both ends of the question. unit: the metric's declared unit, for its bounds. fitted: what
    `fit_prophet` gave, to save the fit.

    Returns FORECAST's columns; no rows without a single value. Raises UserError for a bad argument or another grain.
    """
    if horizon < 1:
        raise UserError(f"horizon {horizon} is not allowed; give the number of buckets to look ahead, 1 or more")
    import numpy as np

    grid = _whole_buckets(history, grain, now)
    if not grid.observed:
        return FORECAST.empty_table()
    cleaned = without_odd(grid.values, _SEASON[grain])
    last = int(grid.ts[0]) + (len(grid.values) - 1) * _STEP[grain] * 1_000_000
    ahead = last + np.arange(1, horizon + 1) * _STEP[grain] * 1_000_000
    outlook, model = _short(grid, cleaned, grain, horizon)
    if model == "smoothing" and _earns_prophet(grid, grain):
        from analytics_dagster.ml.prophet import predict

        fitted = fitted or _fit(grid, cleaned, grain, seed)
        outlook, model = _mean_of(outlook, predict(fitted, _slots(grid, grain), cleaned, ahead)), "prophet+smoothing"
    return _table(ahead, outlook, bounds_of(unit, grid.values), model)


def fit_prophet(history: pa.Table, *, grain: Grain, now: datetime, seed: int) -> str | None:
    """Fit Prophet and give it as its own JSON; None where the history is not worth it (less than two weeks)."""
    grid = _whole_buckets(history, grain, now)
    return _fit(grid, without_odd(grid.values, _SEASON[grain]), grain, seed) if _earns_prophet(grid, grain) else None


def backtest(
    history: pa.Table, horizon: int, *, grain: Grain = "day", seed: int = 0, unit: str = "", folds: int = 1
) -> Accuracy | None:
    """Forecast the last `horizon` buckets from those before them, `folds` times going back, and compare.

    None when fewer than two weeks would be left to learn from.
    """
    import numpy as np

    grid = grid_of(history)
    apart = timedelta(seconds=_STEP[grain] * horizon)
    end = datetime.fromtimestamp(int(grid.ts[-1]) / 1e6, UTC) + timedelta(seconds=_STEP[grain]) if len(grid.ts) else None
    found: list[Accuracy] = []
    for fold in range(folds):
        if end is None:
            break
        cut = end - apart * (fold + 1)
        known = grid.ts < cut.timestamp() * 1e6
        if known.sum() < PROPHET_NEEDS // timedelta(seconds=_STEP[grain]):
            break
        past = pa.table({"ts": timestamps(grid.ts[known]), "value": grid.values[grid.slot[known]]})
        made = forecast(past, horizon=horizon, grain=grain, now=cut, seed=seed, unit=unit)
        actual = dict(zip(grid.ts.tolist(), grid.values[grid.slot].tolist(), strict=True))
        found.append(accuracy(np.asarray(past["value"]), _actuals(made, actual), made, _SEASON[grain]))
    if not found:
        return None
    return Accuracy(*(float(np.mean([getattr(one, name) for one in found])) for name in ("mase", "smape", "coverage")))


def accuracy(known: NDArray[np.float64], actual: NDArray[np.float64], made: pa.Table, season: int) -> Accuracy:
    """Compare forecasts (FORECAST columns) with what came (NaN where nothing did). `known` scales MASE."""
    import numpy as np

    yhat, lo, hi = (np.asarray(made[name].to_numpy(), dtype=float) for name in ("yhat", "lo_95", "hi_95"))
    here = np.isfinite(actual)
    step = season if len(known) > season else 1
    scale = float(np.nanmean(np.abs(known[step:] - known[:-step]))) if len(known) > step else math.nan
    off = np.abs(actual - yhat)[here]
    size = (np.abs(actual) + np.abs(yhat))[here]
    smape = float(np.mean(np.divide(2 * off, size, out=np.zeros_like(off), where=size > 0))) if len(off) else math.nan
    inside = ((actual >= lo) & (actual <= hi))[here]
    mase = float(np.mean(off)) / scale if len(off) and scale > 0 else (0.0 if len(off) and not off.any() else math.nan)
    return Accuracy(mase, smape, float(np.mean(inside)) if len(off) else math.nan)


def without_odd(values: NDArray[np.float64], season: int) -> NDArray[np.float64]:
    """The history with its oddest points missing: one viral day must not bend the trend."""
    import numpy as np

    from analytics_dagster.ml.expectation import expectation

    if np.isfinite(values).sum() < 2 * season:
        return values
    expected = expectation(values, season)
    off = np.abs(values - expected.expected) / expected.spread
    return np.where(off > _ODD, np.nan, values)


def _actuals(made: pa.Table, actual: dict[int, float]) -> NDArray[np.float64]:
    import numpy as np

    return np.array([actual.get(ts, math.nan) for ts in made["ts"].cast(pa.int64()).to_pylist()])


def _whole_buckets(history: pa.Table, grain: Grain, now: datetime) -> Grid:
    """The newest part of the history, on a grid of the grain, without buckets that are not over."""
    import numpy as np

    if grain not in _STEP:
        raise UserError(f"grain {grain!r} is not forecast; give day or hour")
    if now.tzinfo is None:
        raise UserError("now has no time zone; give an aware datetime")
    step = _STEP[grain] * 1_000_000
    given = grid_of(history)
    ts, values = given.ts, given.values[given.slot]
    over = (ts + step <= int(now.timestamp() * 1e6)) & np.isfinite(values)
    ts, values = ts[over], values[over]
    if not len(ts):
        return Grid(ts, np.zeros(0, dtype=np.int64), np.zeros(0), _STEP[grain])
    recent = ts > ts[-1] - LONGEST_HISTORY[grain] * step
    ts, values = ts[recent], values[recent]
    slot, beside = np.divmod(ts - ts[0], step)
    if beside.any():
        odd = datetime.fromtimestamp(int(ts[beside > 0][0]) / 1e6, UTC).isoformat()
        raise UserError(f"{odd} is not the start of a {grain} as the series counts them; forecast needs one point per {grain}")
    filled = np.full(int(slot[-1]) + 1, np.nan)
    filled[slot] = values
    return Grid(ts, slot, filled, _STEP[grain])


def _earns_prophet(grid: Grid, grain: Grain) -> bool:
    span = timedelta(seconds=len(grid.values) * _STEP[grain])
    return span >= PROPHET_NEEDS and grid.observed * 2 >= PROPHET_NEEDS // timedelta(seconds=_STEP[grain])


def _short(grid: Grid, cleaned: NDArray[np.float64], grain: Grain, horizon: int) -> tuple[Outlook, str]:
    """Smoothing, or with less than a season the mean, or with one value that value."""
    import numpy as np

    if grid.observed == 1:
        return smooth(cleaned, grid.values, None, horizon), "last value"
    if grid.observed < _SEASON[grain]:
        seen = grid.values[np.isfinite(grid.values)]
        # The mean is itself uncertain: a new value strays by the spread of both (Student's t would be wider yet for n < 7).
        spread = float(np.std(seen, ddof=1)) * math.sqrt(1 + 1 / len(seen))
        return Outlook(np.full(horizon, seen.mean()), np.full(horizon, spread)), "mean"
    return smooth(cleaned, grid.values, _SEASON[grain], horizon), "smoothing"


def _mean_of(one: Outlook, other: Outlook) -> Outlook:
    """Mean of both, with the wider deviation: their errors are too alike to cancel out."""
    import numpy as np

    return Outlook((one.middle + other.middle) / 2, np.fmax(one.deviation, other.deviation))


def _fit(grid: Grid, cleaned: NDArray[np.float64], grain: Grain, seed: int) -> str:
    from analytics_dagster.ml.prophet import fit

    span = timedelta(seconds=len(grid.values) * _STEP[grain])
    return fit(_slots(grid, grain), cleaned, hourly=grain == "hour", yearly=span >= _YEARLY_NEEDS, seed=seed)


def _slots(grid: Grid, grain: Grain) -> NDArray[np.int64]:
    import numpy as np

    return int(grid.ts[0]) + np.arange(len(grid.values), dtype=np.int64) * _STEP[grain] * 1_000_000


def _table(ahead: NDArray[np.int64], outlook: Outlook, bounds: Bounds, model: str) -> pa.Table:
    import numpy as np

    low = -np.inf if bounds.least is None else bounds.least
    high = np.inf if bounds.most is None else bounds.most
    around = _Z95 * outlook.deviation
    columns = [np.clip(outlook.middle + shift, low, high) for shift in (0.0, -around, around)]
    return pa.Table.from_arrays(
        [timestamps(ahead), *(pa.array(c, pa.float64(), from_pandas=True) for c in columns), pa.array([model] * len(ahead))],
        schema=FORECAST,
    )
