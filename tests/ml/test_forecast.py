"""Forecasts of daily and hourly KPIs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from analytics_dagster.errors import UserError
from analytics_dagster.ml.forecast import FORECAST, Bounds, accuracy, backtest, bounds_of, fit_prophet, forecast

Points = Callable[..., pa.Table]
Weekly = Callable[..., np.ndarray]
LATER = datetime(2099, 1, 1, tzinfo=UTC)


def made(history: pa.Table, horizon: int = 24, **changed: object) -> pa.Table:
    return forecast(history, **{"horizon": horizon, "grain": "day", "now": LATER, "seed": 0, **changed})  # type: ignore[arg-type]


def test_the_week_goes_on(points: Points, weekly: Weekly) -> None:
    values = weekly(111, noise=0.03)
    table = made(points(values[:90]), horizon=21)
    assert table.schema.equals(FORECAST)
    off = np.abs(table["yhat"].to_numpy() - values[90:111]) / values[90:111]
    assert off.mean() < 0.05
    assert table["ts"][0].as_py() == datetime(2026, 4, 1, tzinfo=UTC)
    assert set(table["model"].to_pylist()) == {"prophet+smoothing"}


def test_a_trend_goes_on(points: Points, weekly: Weekly) -> None:
    values = weekly(120, noise=0.02) * np.linspace(1, 2, 120)
    table = made(points(values[:106]), horizon=14)
    # Smoothing knows no trend, so half of a fortnight's growth is missing at most.
    assert np.abs(table["yhat"].to_numpy() / values[106:] - 1).mean() < 0.06


def test_intervals_hold_what_they_promise(points: Points, weekly: Weekly) -> None:
    inside = []
    for seed in range(12):
        values = weekly(104, seed=seed)
        table = made(points(values[:90]), horizon=14)
        inside.append(((values[90:] >= table["lo_95"].to_numpy()) & (values[90:] <= table["hi_95"].to_numpy())).mean())
    assert 0.9 <= np.mean(inside) <= 1.0


def test_intervals_grow_for_a_series_that_wanders(points: Points) -> None:
    values = 10_000 + np.cumsum(np.random.default_rng(4).normal(0, 100, 200))
    table = made(points(values))
    width = table["hi_95"].to_numpy() - table["lo_95"].to_numpy()
    assert width[-1] > 1.5 * width[0]


def test_the_same_history_gives_the_same_forecast_to_the_bit(points: Points, weekly: Weekly) -> None:
    assert made(points(weekly())).equals(made(points(weekly())))


def test_a_stored_fit_gives_the_forecast_of_a_new_one(points: Points, weekly: Weekly) -> None:
    history = points(weekly())
    fitted = fit_prophet(history, grain="day", now=LATER, seed=0)
    assert made(history, fitted=fitted).equals(made(history))


@pytest.mark.parametrize(
    ("days", "model"), [(1, "last value"), (3, "mean"), (10, "smoothing"), (13, "smoothing"), (14, "prophet+smoothing")]
)
def test_short_histories_get_what_they_are_worth(points: Points, weekly: Weekly, days: int, model: str) -> None:
    table = made(points(weekly(days)))
    assert set(table["model"].to_pylist()) == {model}
    assert len(table) == 24
    assert np.isfinite(table["yhat"].to_numpy()).all()
    assert table["lo_95"].null_count == (24 if days == 1 else 0)


def test_nothing_is_forecast_from_nothing(points: Points) -> None:
    assert made(points([])).equals(FORECAST.empty_table())
    assert len(made(points([float("nan")] * 30))) == 0


def test_counts_are_never_negative(points: Points) -> None:
    values = np.maximum(0, 200 - 3 * np.arange(80)) + np.random.default_rng(5).poisson(3, 80)
    table = made(points(values), horizon=60, unit="plays")
    assert min(table["lo_95"].to_pylist()) >= 0
    assert min(table["yhat"].to_pylist()) >= 0


def test_shares_stay_between_0_and_1(points: Points) -> None:
    values = np.clip(0.97 + 0.02 * np.random.default_rng(6).normal(size=90), 0, 1)
    table = made(points(values), unit="ratio")
    assert max(table["hi_95"].to_pylist()) <= 1
    percent = made(points(values * 100), unit="percent")
    assert max(percent["hi_95"].to_pylist()) <= 100


def test_a_bound_that_the_history_breaks_is_none() -> None:
    assert bounds_of("ratio", np.array([0.2, 1.4])) == Bounds(0.0, None)
    assert bounds_of("", np.array([-1.0, 2.0])) == Bounds(None, None)
    assert bounds_of("plays", np.array([0.0, np.nan])) == Bounds(0.0, None)


def test_a_constant_series_stays_constant(points: Points) -> None:
    for value in (0.0, 45.0):
        assert np.allclose(made(points([value] * 60))["yhat"].to_numpy(), value, atol=1e-6 + value * 1e-3)


def test_missing_days_are_no_zeros(points: Points, weekly: Weekly) -> None:
    values = weekly(90)
    whole = made(points(values))["yhat"].to_numpy()
    values[30:40] = np.nan
    holed = made(points(values).filter(pa.array([i not in (60, 61) for i in range(90)])))["yhat"].to_numpy()
    assert np.abs(holed / whole - 1).max() < 0.06


def test_one_viral_day_does_not_bend_the_forecast(points: Points, weekly: Weekly) -> None:
    values = weekly(90)
    calm = made(points(values))["yhat"].to_numpy()
    values[85] *= 20
    assert np.abs(made(points(values))["yhat"].to_numpy() / calm - 1).max() < 0.05


def test_a_day_that_is_not_over_is_not_learnt_from(points: Points, weekly: Weekly) -> None:
    values = weekly(90)
    noon = datetime(2026, 3, 31, 12, tzinfo=UTC)
    table = made(points(values), now=noon)
    assert table["ts"][0].as_py() == datetime(2026, 3, 31, tzinfo=UTC)
    assert table.equals(made(points(values[:89])))


def test_hours_are_forecast_with_their_day(points: Points) -> None:
    hours = np.arange(24 * 22)
    values = 1_000 + 800 * np.sin(2 * np.pi * hours / 24) + np.random.default_rng(2).normal(0, 20, len(hours))
    history = points(values[: 24 * 21], step=timedelta(hours=1))
    table = made(history, grain="hour")
    assert np.abs(table["yhat"].to_numpy() - values[24 * 21 :]).mean() < 60
    assert table["ts"][1].as_py() - table["ts"][0].as_py() == timedelta(hours=1)


def test_fifteen_years_are_forecast_from_the_newest_three(points: Points, weekly: Weekly) -> None:
    values = weekly(5_479)
    first = date(2026, 1, 1) + timedelta(days=5_479 - 1_095)
    assert made(points(values)).equals(made(points(values[-1_095:], first=first)))


def test_wrong_questions_are_refused(points: Points) -> None:
    with pytest.raises(UserError, match="horizon 0"):
        made(points([1.0] * 30), horizon=0)
    with pytest.raises(UserError, match="grain 'week'"):
        made(points([1.0] * 30), grain="week")
    with pytest.raises(UserError, match="time zone"):
        made(points([1.0] * 30), now=datetime(2026, 1, 1))
    with pytest.raises(UserError, match="not the start of a day"):
        made(points([1.0] * 30, step=timedelta(hours=30)))


def test_nothing_is_printed_and_nothing_is_warned_of(
    points: Points, weekly: Weekly, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        made(points(weekly()))
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")
    assert caplog.records == []


def test_a_backtest_tells_how_good_forecasts_were(points: Points, weekly: Weekly) -> None:
    good = backtest(points(weekly(noise=0.02)), 14)
    assert good is not None
    assert good.mase < 1
    assert good.smape < 0.05
    assert good.coverage > 0.8
    assert backtest(points(weekly(20)), 14) is None


def test_accuracy_is_computed_as_defined(points: Points) -> None:
    known = np.array([1.0, 2, 3, 4])
    table = pa.table({"yhat": [5.0, 6.0], "lo_95": [4.0, 5.9], "hi_95": [6.0, 6.1]})
    found = accuracy(known, np.array([5.0, 8.0]), table, season=1)
    assert found.mase == pytest.approx(1.0)  # mean error 1 over mean step 1
    assert found.smape == pytest.approx((0 + 2 * 2 / 14) / 2)
    assert found.coverage == 0.5
