"""How the models do, day by day: forecasts beside what came, and drift of what the models learn from.

Accuracy is told of each forecast that was made for a day, by how far it looked ahead. *Drift* compares a series' newest 28 days
with the 84 before them: four weeks against twelve, so that each has every weekday as often. The population stability index is
sum((p - q) ln(p / q)) over bins that hold a quarter of the days before each (Siddiqi, "Credit Risk Scorecards", 2006: above
0.25 the population is another); half a day is added to each bin, so that an empty one gives no infinity. Of days that do not
differ it is 0.14 on average, since 28 days are few. The Kolmogorov-Smirnov statistic is the largest distance between the two
distribution functions; above 0.30 such samples differ at the 5 % level.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from analytics_dagster.lake.schemas import MODEL_SCORES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from analytics_dagster.ml.kpis import Kpi

NEWEST_DAYS, DAYS_BEFORE = 28, 84
HISTORY_DAYS = NEWEST_DAYS + DAYS_BEFORE - 1
"""Days before the first one in question that a caller should read."""
_BINS = 4
# With fewer days that have a value, nothing is said.
_LEAST = 0.5


def model_scores(series: Sequence[Kpi], forecasts: pa.Table, first: dt.date, last: dt.date) -> pa.Table:
    """Rows of MODEL_SCORES for the days `first` to `last` (inclusive). `series` are the KPIs with their history, `forecasts` rows
    of FORECASTS for those days. A day without a figure has none.
    """
    made: dict[tuple[str, dt.date], list[dict[str, Any]]] = {}
    for row in forecasts.to_pylist():
        made.setdefault((row["metric"], row["ts"].date()), []).append(row)
    rows: list[dict[str, Any]] = []
    for one in series:
        days = (ts.date() for ts in one.daily["ts"].to_pylist())
        known = {
            day: v for day, v in zip(days, one.daily["value"].to_pylist(), strict=True) if v is not None and math.isfinite(v)
        }
        for day in sorted(day for day in known if first <= day <= last):
            common = {"ts": dt.datetime.combine(day, dt.time(), dt.UTC), "figure": one.metric}
            rows += ({**common, **score} for score in _accuracy(known[day], day, made.get((one.metric, day), [])))
            if (drift := _drift(known, day)) is not None:
                rows.append({**common, "psi": drift[0], "ks": drift[1]})
    rows.sort(key=lambda row: (row["ts"], row["figure"], row.get("horizon", 0)))
    return pa.Table.from_pylist(rows, schema=MODEL_SCORES.arrow)


def _accuracy(actual: float, day: dt.date, made: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for row in made:
        if row["made_on"] < day and row["yhat"] is not None:
            low, high = row["lo_95"], row["hi_95"]
            within = None if low is None or high is None else low <= actual <= high
            yield {"horizon": (day - row["made_on"]).days, "actual": actual, "yhat": row["yhat"], "within_band": within}


def _drift(known: dict[dt.date, float], day: dt.date) -> tuple[float, float] | None:
    import numpy as np

    def of(begin: int, end: int) -> NDArray[np.float64]:
        return np.array([known[d] for n in range(begin, end) if (d := day - dt.timedelta(days=n)) in known])

    newest, before = of(0, NEWEST_DAYS), of(NEWEST_DAYS, NEWEST_DAYS + DAYS_BEFORE)
    if len(newest) < NEWEST_DAYS * _LEAST or len(before) < DAYS_BEFORE * _LEAST:
        return None
    return stability_index(before, newest), kolmogorov_smirnov(before, newest)


def stability_index(before: NDArray[np.float64], newest: NDArray[np.float64]) -> float:
    """The population stability index of `newest` against `before`; see the module."""
    import numpy as np

    edges = np.quantile(before, [n / _BINS for n in range(1, _BINS)])
    # A value on an edge belongs to the bin above it, in both samples.
    shares = []
    for values in (before, newest):
        counts = np.bincount(np.searchsorted(edges, values, side="right"), minlength=_BINS)
        shares.append((counts + 0.5) / (len(values) + 0.5 * _BINS))
    expected, seen = shares
    return float(np.sum((seen - expected) * np.log(seen / expected)))


def kolmogorov_smirnov(before: NDArray[np.float64], newest: NDArray[np.float64]) -> float:
    """The largest distance between the two samples' distribution functions, 0 to 1."""
    import numpy as np

    at = np.concatenate([before, newest])
    sides = (np.searchsorted(np.sort(values), at, side="right") / len(values) for values in (before, newest))
    one, other = sides
    return float(np.max(np.abs(one - other)))
