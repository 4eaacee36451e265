"""Accuracy and drift of the models, against figures that were computed by hand."""

from __future__ import annotations

import datetime as dt
import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics_dagster.insights.series import Series
from analytics_dagster.ml.forecast import FORECASTS
from analytics_dagster.ml.scores import kolmogorov_smirnov, model_scores, stability_index

DAY = dt.date(2026, 1, 31)


def _at(day: dt.date) -> dt.datetime:
    return dt.datetime.combine(day, dt.time(), dt.UTC)


def _series(values: dict[dt.date, float | None]) -> Series:
    days = pa.table(
        {"ts": pa.array(map(_at, values), pa.timestamp("us", "UTC")), "value": pa.array(values.values(), pa.float64())}
    )
    return Series("plays", "plays", "down_is_bad", days)


def _forecasts(*made: tuple[dt.date, dt.date, float, float | None, float | None]) -> pa.Table:
    rows = [
        {"ts": _at(day), "metric": "plays", "made_on": on, "yhat": yhat, "lo_95": low, "hi_95": high, "model": "mean"}
        for day, on, yhat, low, high in made
    ]
    return pa.Table.from_pylist(rows, schema=FORECASTS.arrow)


def test_each_forecast_of_a_day_stands_beside_what_came() -> None:
    forecasts = _forecasts(
        (DAY, DAY - dt.timedelta(days=1), 90.0, 80.0, 100.0),
        (DAY, DAY - dt.timedelta(days=9), 120.0, 101.0, 140.0),
        (DAY, DAY - dt.timedelta(days=2), 99.0, None, None),
        (DAY, DAY, 100.0, 99.0, 101.0),  # knew the day already: no forecast
        (DAY + dt.timedelta(days=1), DAY, 100.0, 90.0, 110.0),  # not known yet
    )
    rows = model_scores([_series({DAY: 100.0})], forecasts, DAY, DAY + dt.timedelta(days=1)).to_pylist()
    assert [(r["horizon"], r["actual"], r["yhat"], r["within_band"]) for r in rows] == [
        (1, 100.0, 90.0, True),
        (2, 100.0, 99.0, None),
        (9, 100.0, 120.0, False),
    ]


def test_drift_sets_four_weeks_against_the_twelve_before() -> None:
    history = {DAY - dt.timedelta(days=n): 1000.0 + n % 7 for n in range(112)}
    [row] = model_scores([_series(history)], _forecasts(), DAY, DAY).to_pylist()
    assert (row["psi"], row["ks"]) == (pytest.approx(0, abs=0.02), pytest.approx(0, abs=1e-9))
    fallen = {day: value / 2 if (DAY - day).days < 28 else value for day, value in history.items()}
    [row] = model_scores([_series(fallen)], _forecasts(), DAY, DAY).to_pylist()
    assert row["ks"] == 1
    assert row["psi"] > 2


def test_of_a_short_history_no_drift_is_told() -> None:
    history = {DAY - dt.timedelta(days=n): 1000.0 for n in range(28 + 41)}
    assert model_scores([_series(history)], _forecasts(), DAY, DAY).num_rows == 0
    history = {DAY - dt.timedelta(days=n): 1000.0 for n in range(28 + 42)}
    assert model_scores([_series(history)], _forecasts(), DAY, DAY).num_rows == 1


def test_the_stability_index_is_what_was_computed_by_hand() -> None:
    before, newest = np.arange(8.0), np.array([0.0, 1.0, 6.0, 7.0])
    # Two of eight in each bin, half a day added: 2.5 of 10. Then 2, 0, 0, 2 of four: 2.5, 0.5, 0.5, 2.5 of 6.
    expected = 2 * (2.5 / 6 - 0.25) * math.log(2.5 / 6 / 0.25) + 2 * (0.5 / 6 - 0.25) * math.log(0.5 / 6 / 0.25)
    assert stability_index(before, newest) == pytest.approx(expected)


def test_the_distance_of_two_samples_is_what_was_computed_by_hand() -> None:
    # At 2: three of four are not above it, and one of four.
    assert kolmogorov_smirnov(np.array([0.0, 1.0, 2.0, 9.0]), np.array([2.0, 3.0, 9.0, 9.0])) == 0.5


@given(st.lists(st.floats(-1e6, 1e6), min_size=5, max_size=60), st.lists(st.floats(-1e6, 1e6), min_size=5, max_size=60))
def test_drift_is_within_its_bounds_and_none_against_itself(one: list[float], other: list[float]) -> None:
    before, newest = np.array(one), np.array(other)
    assert stability_index(before, newest) >= 0
    assert stability_index(before, before) == pytest.approx(0)
    assert 0 <= kolmogorov_smirnov(before, newest) <= 1
    assert kolmogorov_smirnov(before, before) == 0
