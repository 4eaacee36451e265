"""How unusual a day is, and which of many to believe."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics_dagster.insights.significance import Scale, believable, judge

WEEK = np.array([1.0, 0.95, 1.0, 1.05, 1.2, 1.4, 1.3])


def quiet(width: int, seed: int = 0, days: int = 147) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return 1_000 * WEEK[np.arange(days) % 7][:, None] * (1 + 0.05 * rng.normal(size=(days, width)))


def test_of_640_quiet_series_hardly_one_is_believed() -> None:
    false = [int(believable(judge(quiet(640, seed), [Scale.PLAIN] * 640).p).sum()) for seed in range(10)]
    assert np.mean(false) <= 1.0
    # Without the procedure this many would have been told a day.
    assert (judge(quiet(640), [Scale.PLAIN] * 640).p < 0.05).sum() > 10


def test_of_640_series_the_ten_that_moved_are_found_and_a_tenth_of_what_is_told_is_chance() -> None:
    chance, false = [], []
    for seed in range(40):
        values = quiet(640, seed)
        values[-1, :10] *= 0.6
        stands = believable(judge(values, [Scale.PLAIN] * 640).p)
        assert stands[:10].all()
        chance.append(stands[10:].sum() / stands.sum())
        false.append(int(stands[10:].sum()))
    assert false[0] <= 2
    # A tenth, within the error of so few days.
    assert np.mean(chance) <= 0.1 + 2 * np.std(chance) / np.sqrt(len(chance))


def test_a_restless_series_has_to_move_more() -> None:
    rng = np.random.default_rng(1)
    values = 1_000 * np.exp(np.column_stack([0.02, 0.4]) * rng.normal(size=(147, 2)))
    values[-1] = 1_400
    z = judge(values, [Scale.PLAIN] * 2).z
    assert z[0] > 8
    assert z[1] < 3


def test_missing_days_are_neither_judged_nor_taken_for_a_weekend() -> None:
    values = np.tile([100.0, 100, 100, 100, 100, 900, 900], 21)[:, None] + np.random.default_rng(1).normal(0, 3, (147, 1))
    values[-6:-3] = np.nan
    assert abs(judge(values, [Scale.PLAIN] * 1).z[0]) < 4
    values[-1] = np.nan
    assert np.isnan(judge(values, [Scale.PLAIN] * 1).p[0])


@given(st.lists(st.one_of(st.floats(0, 1), st.just(float("nan"))), max_size=50))
def test_what_is_believed_is_always_the_smallest(p: list[float]) -> None:
    values = np.array(p, dtype=float)
    stands = believable(values)
    assert not stands[~np.isfinite(values)].any()
    if stands.any():
        assert values[stands].max() <= np.min(values[np.isfinite(values) & ~stands], initial=2.0)
        assert values[stands].max() <= 0.1


def test_the_procedure_is_benjamini_and_hochbergs() -> None:
    # Their own example (1995, section 4.2) at 0.05: the four smallest stand.
    p = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1.0]
    assert believable(np.array(p), 0.05).sum() == 4


def test_counts_need_more_than_a_handful() -> None:
    values = np.zeros((147, 1))
    values[-1] = 3
    assert judge(values, [Scale.COUNT] * 1).p[0] > 0.005
    assert judge(values, [Scale.PLAIN] * 1).p[0] == pytest.approx(0, abs=1e-6)


def test_an_incident_of_the_past_does_not_hide_one_of_today() -> None:
    values = quiet(50)
    values[-1] *= 0.7
    calm = judge(values, [Scale.PLAIN] * 50).z
    values[-40:-36] *= 4
    after = judge(values, [Scale.PLAIN] * 50).z
    assert np.median(calm) < -4
    assert np.median(after) < 0.9 * np.median(calm)


def test_a_series_that_is_mostly_nothing_is_not_odd_when_it_is_something() -> None:
    rng = np.random.default_rng(5)
    values = (rng.random((147, 1)) < 0.15).astype(float) * rng.integers(5, 9, (147, 1))
    values[-1] = 7
    assert judge(values, [Scale.COUNT] * 1).p[0] > 0.01
