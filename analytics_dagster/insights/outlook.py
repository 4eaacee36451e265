"""What comes next in words, and how last week's forecast did."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import pyarrow as pa
import pyarrow.compute as pc

from analytics_dagster.insights.claims import escaped, weekday
from analytics_dagster.insights.numbers import change, figure
from analytics_dagster.insights.series import Series

WEEK = 7
_LEAST_COMPARED = 4
"""Days of a week that must have come in before a forecast of it is held to account."""


@dataclass(frozen=True)
class _Forecast:
    day: date
    made_on: date
    yhat: float
    low: float | None
    high: float | None


def forecast_lines(day: date, series: Sequence[Series], forecasts: pa.Table | None) -> tuple[str, ...]:
    """One line per metric that has a forecast made on `day` (rows of forecasts/kpi; older ones are held to account)."""
    if forecasts is None or not len(forecasts):
        return ()
    lines = []
    for one in series:
        mine = _forecasts(forecasts, one.metric, day)
        made = sorted((row for row in mine if row.made_on == day and row.day > day), key=lambda row: row.day)
        if made:
            lines.append(_line(day, one, made, mine))
    return tuple(lines)


def last_week_off(day: date, series: Series, forecasts: pa.Table) -> float | None:
    """Mean absolute error of the week up to `day` as it was forecast a week before, as a share of its mean value.

    Of the forecasts made at least a week before, the newest is held to account. None when too little can be compared.
    """
    return _off(day, series, _forecasts(forecasts, series.metric, day))


def _off(day: date, series: Series, rows: Sequence[_Forecast]) -> float | None:
    newest = max((row.made_on for row in rows if row.made_on <= day - timedelta(days=WEEK)), default=None)
    values = _values(series)
    pairs = [
        (row.yhat, values[row.day])
        for row in rows
        if row.made_on == newest and day - timedelta(days=WEEK) < row.day <= day and row.day in values
    ]
    size = math.fsum(abs(value) for _, value in pairs)
    if len(pairs) < _LEAST_COMPARED or size == 0:
        return None
    return math.fsum(abs(value - yhat) for yhat, value in pairs) / size


def _line(day: date, one: Series, made: Sequence[_Forecast], rows: Sequence[_Forecast]) -> str:
    first, unit = made[0], one.unit
    between = f" (95 %: {figure(first.low, unit)} to {figure(first.high, unit)})" if first.low is not None else ""
    text = f"**{escaped(one.name)}**: {weekday(first.day)} about {figure(first.yhat, unit)}{between}"
    ahead = [row.yhat for row in made[:WEEK]]
    past = [value for then, value in _values(one).items() if day - timedelta(days=WEEK) < then <= day]
    if len(ahead) == WEEK and len(past) == WEEK:
        mean = math.fsum(ahead) / WEEK
        text += f"; next 7 days {figure(mean, unit)} a day ({change(mean, math.fsum(past) / WEEK, unit)} on the last 7)"
    off = _off(day, one, rows)
    return text + (f"; last week's forecast was off by {off * 100:.2g} %" if off is not None else "")


def _forecasts(table: pa.Table, metric: str, day: date) -> list[_Forecast]:
    """The metric's forecasts that were known on `day`."""
    known = pc.and_(pc.equal(table["metric"], metric), pc.less_equal(table["made_on"], pa.scalar(day, pa.date32())))
    rows = table.filter(known).select(["ts", "made_on", "yhat", "lo_95", "hi_95"]).to_pylist()
    return [
        _Forecast(row["ts"].date(), row["made_on"], row["yhat"], row["lo_95"], row["hi_95"])
        for row in rows
        if row["yhat"] is not None
    ]


def _values(series: Series) -> dict[date, float]:
    pairs = zip(series.daily["ts"].to_pylist(), series.daily["value"].to_pylist(), strict=True)
    return {ts.date(): value for ts, value in pairs if value is not None and math.isfinite(value)}
