"""Which points of a series are odd."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analytics_dagster.errors import UserError
from analytics_dagster.ml.anomaly import VERDICT, detect, fit, score

Points = Callable[..., pa.Table]
Weekly = Callable[..., np.ndarray]


def odd_at(verdicts: pa.Table) -> list[int]:
    return np.flatnonzero(np.asarray(verdicts["anomaly"])).tolist()


def judged(points: pa.Table, **changed: object) -> pa.Table:
    return detect(points, **{"contamination": 0.1, "seed": 0, **changed})  # type: ignore[arg-type]


def test_a_quiet_week_has_no_anomalies(points: Points, weekly: Weekly) -> None:
    assert odd_at(judged(points(weekly()))) == []


@pytest.mark.parametrize("day", [3, 20, 60, 89])
@pytest.mark.parametrize("factor", [0.0, 0.4, 2.5, 50.0])
def test_a_spike_or_an_outage_is_found_wherever_it_lies(points: Points, weekly: Weekly, day: int, factor: float) -> None:
    values = weekly()
    values[day] *= factor
    verdicts = judged(points(values))
    assert odd_at(verdicts) == [day]
    row = verdicts.slice(day, 1).to_pylist()[0]
    assert row["score"] >= 0.5
    assert not row["lo"] <= row["value"] <= row["hi"]
    assert ("above" if factor > 1 else "below") in row["reason"]


def test_a_weekend_is_not_odd_because_it_differs_from_the_week(points: Points) -> None:
    values = np.tile([100.0, 100, 100, 100, 100, 900, 900], 12) + np.random.default_rng(1).normal(0, 3, 84)
    assert odd_at(judged(points(values))) == []


def test_the_wrong_weekday_is_odd_although_its_value_is_usual(points: Points) -> None:
    values = np.tile([100.0, 100, 100, 100, 100, 900, 900], 12) + np.random.default_rng(1).normal(0, 3, 84)
    values[70] = 900.0
    assert odd_at(judged(points(values))) == [70]


def test_a_growing_series_is_not_odd(points: Points, weekly: Weekly) -> None:
    assert odd_at(judged(points(weekly(180) * np.linspace(1, 4, 180)))) == []


def test_a_new_level_is_odd_at_first_and_then_usual(points: Points, weekly: Weekly) -> None:
    values = weekly(120)
    values[60:] *= 2
    found = odd_at(judged(points(values)))
    assert found[0] == 60
    assert found[-1] < 67


def test_what_happens_every_month_is_a_habit_after_three_times(points: Points, weekly: Weekly) -> None:
    values = weekly(240)
    values[29::30] *= 3
    verdicts = judged(points(values))
    assert not set(odd_at(verdicts)) & set(range(119, 240, 30))
    assert "occasions" in verdicts.slice(209, 1).to_pylist()[0]["reason"]


def test_a_short_history_gives_no_verdict_and_says_so(points: Points) -> None:
    verdicts = judged(points([10.0] * 8 + [1e9]))
    assert odd_at(verdicts) == []
    assert set(verdicts["reason"].to_pylist()) == {"not enough history: 9 of 14 points"}
    assert verdicts["score"].null_count == 9


def test_missing_values_do_not_count_as_history(points: Points) -> None:
    verdicts = judged(points([10.0] * 13 + [float("nan")] * 5))
    assert verdicts["reason"][0].as_py() == "not enough history: 13 of 14 points"


def test_an_empty_series_gives_an_empty_table(points: Points) -> None:
    assert judged(points([])).schema.equals(VERDICT)


@pytest.mark.parametrize("value", [0.0, 45.0, -3.0, 1e12])
def test_a_constant_series_has_no_anomalies(points: Points, value: float) -> None:
    verdicts = judged(points([value] * 90))
    assert odd_at(verdicts) == []
    assert np.asarray(verdicts["score"]).max() == 0


def test_a_constant_series_that_moves_once_is_odd_once(points: Points) -> None:
    values = np.full(90, 45.0)
    values[50] = 90.0
    assert odd_at(judged(points(values))) == [50]


def test_one_huge_spike_does_not_hide_a_second_one(points: Points, weekly: Weekly) -> None:
    values = weekly()
    values[50], values[70] = 1e15, 0.0
    assert odd_at(judged(points(values))) == [50, 70]


def test_a_few_plays_more_than_none_are_no_news(points: Points) -> None:
    values = np.zeros(90)
    values[[20, 40, 55, 80]] = [2, 3, 1, 4]
    assert odd_at(judged(points(values))) == []


def test_gaps_and_nan_stay_missing_and_are_never_odd(points: Points, weekly: Weekly) -> None:
    values = weekly()
    values[[10, 11, 12, 40]] = [np.nan, np.inf, -np.inf, np.nan]
    table = points(values)
    table = table.filter(pa.array([i not in range(30, 35) for i in range(90)]))
    verdicts = judged(table)
    assert len(verdicts) == 85
    assert odd_at(verdicts) == []
    rows = verdicts.to_pylist()
    assert [rows[i]["reason"] for i in (10, 11, 12)] == ["no value"] * 3
    assert rows[10]["value"] is None
    assert rows[10]["score"] is None


def test_the_season_survives_a_gap_because_weekdays_are_counted_by_the_calendar(points: Points) -> None:
    values = np.tile([100.0, 100, 100, 100, 100, 900, 900], 12) + np.random.default_rng(1).normal(0, 3, 84)
    table = points(values).filter(pa.array([i not in (30, 31, 32) for i in range(84)]))
    assert odd_at(judged(table)) == []


def test_an_hourly_series_is_judged_by_its_hour_of_the_day(points: Points) -> None:
    hours = np.arange(24 * 21)
    values = 1_000 + 800 * np.sin(2 * np.pi * hours / 24) + np.random.default_rng(2).normal(0, 20, len(hours))
    values[400] = 1_000.0 + 800 * np.sin(2 * np.pi * 412 / 24)  # the right value at the wrong hour
    assert odd_at(judged(points(values, step=timedelta(hours=1)))) == [400]


def test_a_verdict_does_not_change_when_later_days_arrive(points: Points, weekly: Weekly) -> None:
    values = weekly(200)
    values[[90, 120]] *= [0.3, 3]
    model = fit(points(values[:150]), contamination=0.1, seed=0)
    early, late = score(points(values[:150]), model), score(points(values), model)
    assert early.equals(late.slice(0, 150))


def test_the_same_series_gives_the_same_verdicts(points: Points, weekly: Weekly) -> None:
    values = weekly()
    values[40] *= 1.3
    assert judged(points(values)).equals(judged(points(values)))


def test_the_order_of_the_points_does_not_matter(points: Points, weekly: Weekly) -> None:
    table = points(weekly())
    shuffled = table.take(pa.array(np.random.default_rng(3).permutation(90)))
    assert judged(shuffled).equals(judged(table))


@settings(max_examples=15)
@given(
    st.lists(st.one_of(st.floats(-1e9, 1e9), st.just(float("nan")), st.integers(0, 50).map(float)), min_size=0, max_size=60),
    st.floats(0.01, 0.4),
)
def test_any_series_gets_one_honest_row_per_point(points: Points, values: list[float], contamination: float) -> None:
    verdicts = judged(points(values), contamination=contamination)
    assert verdicts.schema.equals(VERDICT)
    assert len(verdicts) == len(values)
    for row in verdicts.to_pylist():
        if row["score"] is not None:
            assert 0 <= row["score"] <= 1
            assert row["anomaly"] == (row["score"] >= 0.5)
            assert row["lo"] <= row["expected"] <= row["hi"] or row["expected"] < 0 <= row["lo"]
        else:
            assert not row["anomaly"]


@pytest.mark.parametrize("contamination", [0.0, 0.5, -1.0])
def test_a_contamination_that_makes_no_sense_is_refused(points: Points, contamination: float) -> None:
    with pytest.raises(UserError, match="contamination"):
        judged(points([1.0] * 20), contamination=contamination)


def test_a_table_that_is_no_series_is_refused(points: Points) -> None:
    with pytest.raises(UserError, match="value is missing"):
        judged(points([1.0]).drop_columns(["value"]))
    with pytest.raises(UserError, match="two points at 2026-01-01"):
        judged(pa.concat_tables([points([1.0, 2.0]), points([3.0])]))
    with pytest.raises(UserError, match="must be a number"):
        judged(pa.table({"ts": points([1.0])["ts"], "value": ["1"]}))


@pytest.mark.alone
def test_fifteen_years_of_days_take_less_than_two_seconds(points: Points, weekly: Weekly) -> None:
    table = points(weekly(5_479))
    judged(points(weekly()))  # imports
    begin = time.process_time()
    judged(table)
    assert time.process_time() - begin < 2
