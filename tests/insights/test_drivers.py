"""Where a change lies: the algebra of parts."""

from __future__ import annotations

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from analytics_dagster.insights.drivers import across, drivers, explain, mix_change, potential, ratio_drivers, surprise

elements = st.sampled_from(["US", "DE", "FR", "SE", "JP", "BR"])
amounts = st.dictionaries(elements, st.integers(0, 1_000_000).map(float), min_size=1)
sides = st.dictionaries(elements, st.tuples(st.floats(0, 1), st.integers(1, 100_000).map(float)), min_size=1)


@given(amounts, amounts)
def test_explanatory_powers_sum_to_one(actual: dict[str, float], expected: dict[str, float]) -> None:
    assume(sum(actual.values()) != sum(expected.values()))
    found = drivers("country", actual, expected)
    assert math.fsum(one.power for one in found) == pytest.approx(1)
    assert {one.element for one in found} == set(actual) | set(expected)


@given(amounts, amounts)
def test_surprise_is_never_negative_and_nothing_without_a_shift(actual: dict[str, float], expected: dict[str, float]) -> None:
    assert all(one.surprise >= -1e-15 for one in drivers("country", actual, expected))
    scaled = {element: 3 * value for element, value in actual.items()}
    assert all(one.surprise == pytest.approx(0, abs=1e-12) for one in drivers("country", scaled, actual))


def test_surprise_is_bounded_by_half_of_ln_2() -> None:
    assert surprise(0, 1) == pytest.approx(0.5 * math.log(2))
    assert surprise(0.3, 0.3) == 0
    assert surprise(0, 0) == 0


def test_totals_that_do_not_differ_have_no_drivers() -> None:
    assert drivers("country", {"US": 5.0}, {"US": 5.0}) == ()
    assert drivers("country", {}, {}) == ()


def test_the_country_that_fell_is_named_and_the_rest_is_not() -> None:
    expected = {"US": 5_000.0, "DE": 3_000.0, "FR": 1_500.0}
    countries = explain("country", drivers("country", {"US": 4_990.0, "DE": 900.0, "FR": 1_520.0}, expected))
    assert [one.element for one in countries.named] == ["DE"]
    tiers = explain("tier", drivers("tier", {"free": 4_440.0, "premium": 2_970.0}, {"free": 5_700.0, "premium": 3_800.0}))
    assert tiers.named == ()
    assert [one.element for one in across([tiers, countries])] == ["DE"]


def test_a_change_that_is_the_same_everywhere_names_nobody() -> None:
    expected = {"US": 5_000.0, "DE": 3_000.0, "FR": 1_500.0}
    account = explain("country", drivers("country", {country: value * 0.5 for country, value in expected.items()}, expected))
    assert (account.named, account.fit) == ((), pytest.approx(1.0))


def test_what_has_a_country_and_a_device_is_told_with_both_best_first() -> None:
    """2,600 plays of a bot farm on top of 9,000: all by the web and nearly all from one country."""
    devices = explain("device", drivers("device", {"web": 3_000.0, "ios": 8_600.0}, {"web": 400.0, "ios": 8_600.0}))
    countries = explain(
        "country",
        drivers("country", {"GB": 4_000.0, "US": 5_100.0, "DE": 2_500.0}, {"GB": 1_500.0, "US": 5_000.0, "DE": 2_500.0}),
    )
    assert [(one.dimension, one.element) for one in across([countries, devices])] == [("device", "web"), ("country", "GB")]


def test_what_is_left_over_is_never_named() -> None:
    found = drivers("artist", {"a": 100.0, "Other": 900.0}, {"a": 100.0, "Other": 300.0})
    assert explain("artist", found, ("Other",)).named == ()


def test_the_potential_score_by_hand() -> None:
    """DE fell by 600, US by 30 and FR rose by 30: of 660 that moved, naming DE leaves 60; saying that all fell alike leaves
    |0.5 - 600/600| of it and more.
    """
    moved, sizes = {"US": -30.0, "DE": -600.0, "FR": 30.0}, {"US": 500.0, "DE": 300.0, "FR": 200.0}
    assert potential(moved, sizes, {"DE"}) == pytest.approx(1 - 60 / 660)
    # All alike: -300, -180, -120; off by 270, 420 and 150.
    assert potential(moved, sizes, set(moved)) == pytest.approx(1 - 840 / 660)
    assert potential(moved, sizes, set()) == 0


@given(sides, sides)
def test_the_parts_of_a_ratio_sum_to_its_difference(
    now: dict[str, tuple[float, float]], then: dict[str, tuple[float, float]]
) -> None:
    change = mix_change("country", now, then)
    found = ratio_drivers("country", now, then)
    assert change is not None
    assert not found or math.fsum(one.power for one in found) == pytest.approx(1, abs=1e-6)
    assert {one.element for one in found} in (set(), set(now) | set(then))


def test_the_source_whose_share_grew_is_named_for_a_ratio() -> None:
    then = {"radio": (0.3, 10.0), "library": (0.1, 90.0)}
    now = {"radio": (0.3, 40.0), "library": (0.1, 60.0)}
    found = explain("source", ratio_drivers("source", now, then))
    # R = 0.12; radio 0.4 * 0.18 - 0.1 * 0.18 = 0.054, library 0.6 * -0.02 - 0.9 * -0.02 = 0.006, together 0.06.
    assert [(one.element, round(one.power, 6), one.shares) for one in found.named] == [("radio", 0.9, (0.4, 0.1))]


@given(sides, sides)
def test_within_mix_and_cross_sum_to_the_total(now: dict[str, tuple[float, float]], then: dict[str, tuple[float, float]]) -> None:
    found = mix_change("country", now, then)
    assert found is not None
    assert found.within + found.mix + found.cross == pytest.approx(found.total, abs=1e-9)
    overall_now = sum(r * w for r, w in now.values()) / sum(w for _, w in now.values())
    overall_then = sum(r * w for r, w in then.values()) / sum(w for _, w in then.values())
    assert found.total == pytest.approx(overall_now - overall_then, abs=1e-9)


@given(sides, st.integers(2, 9))
def test_weights_alone_change_nothing(side: dict[str, tuple[float, float]], factor: int) -> None:
    found = mix_change("country", {e: (r, w * factor) for e, (r, w) in side.items()}, side)
    assert found is not None
    assert (found.within, found.mix, found.cross) == pytest.approx((0, 0, 0), abs=1e-9)


def test_a_shift_of_the_mix_is_not_told_as_a_change_of_the_parts() -> None:
    """Simpson: every country's skip rate falls, and the total rises."""
    then = {"US": (0.50, 1_000.0), "DE": (0.20, 9_000.0)}
    now = {"US": (0.48, 5_000.0), "DE": (0.18, 5_000.0)}
    found = mix_change("country", now, then)
    assert found is not None
    assert found.within < 0 < found.total
    assert found.misleading
    calm = mix_change("country", {"US": (0.6, 1_000.0), "DE": (0.3, 9_000.0)}, then)
    assert calm is not None
    assert not calm.misleading


def test_a_ratio_without_any_weight_has_no_split() -> None:
    assert mix_change("country", {}, {"US": (0.5, 1.0)}) is None
