"""Figures as people read them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics_dagster.insights.numbers import change, compact, exact, figure, relative_change


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"), (7, "7"), (999, "999"), (1_000, "1k"), (1_234, "1.2k"), (1_999, "1.9k"), (12_345, "12.3k"), (999_999, "999k"),
        (3_456_789, "3.4M"), (2_000_000_000, "2B"), (-1_999, "-1.9k"), (4.56, "4.5"), (0.5, "0.5"), (0.0123, "0.0123"),
        (None, "-"), (math.nan, "-"), (math.inf, "-"),
    ],
)  # fmt: skip
def test_large_numbers_are_short_and_floored(value: float | None, shown: str) -> None:
    assert compact(value) == shown


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (0.0423, "ratio", "4.2 %"), (1.0, "ratio", "100 %"), (0.9999, "ratio", "99.9 %"), (0.00123, "ratio", "0.12 %"),
        (0.0, "ratio", "0 %"), (37.25, "percent", "37.2 %"), (42, "s", "42 s"), (90, "s", "1.5 min"), (7_200, "s", "2 h"),
        (7_200_000, "s", "2k h"), (230, "ms", "230 ms"), (1_250, "ms", "1.2 s"), (1_500, "us", "1.5 ms"),
        (2_500_000, "bytes", "2.5 MB"), (512, "bytes", "512 B"), (1_234, "plays", "1.2k"), (None, "ratio", "-"),
        (-0.02, "ratio", "-2 %"),
    ],
)  # fmt: skip
def test_a_figure_is_shown_in_its_unit(value: float | None, unit: str, shown: str) -> None:
    assert figure(value, unit) == shown


@pytest.mark.parametrize(
    ("now", "before", "unit", "shown"),
    [
        (112, 100, "plays", "+12 %"), (50, 100, "plays", "-50 %"), (101.5, 100, "plays", "+1.5 %"), (5, 0, "plays", "new"),
        (0, 0, "plays", "no change"), (100, 100, "plays", "no change"), (100.01, 100, "plays", "no change"),
        (0, 5, "plays", "-100 %"),
        (0.034, 0.012, "ratio", "+2.2 pp"), (34.5, 40, "percent", "-5.5 pp"), (0.01, 0.0, "ratio", "+1 pp"),
        (None, 5, "plays", "-"), (5, None, "plays", "-"), (math.nan, 5, "plays", "-"), (5_000, 100, "plays", "+4,900 %"),
    ],
)  # fmt: skip
def test_changes_are_percent_for_amounts_and_points_for_shares(now: float, before: float, unit: str, shown: str) -> None:
    assert change(now, before, unit) == shown


def test_a_relative_change_is_a_number() -> None:
    assert relative_change(150, 100) == 0.5
    assert relative_change(34.5, 40, "percent") == pytest.approx(-0.055)
    assert relative_change(5, 0) is None


def test_exact_figures_keep_their_digits() -> None:
    assert (exact(1_234_567.0), exact(0.012345), exact(None)) == ("1,234,567", "0.012345", "-")


@given(st.floats(0, 1e14))
def test_a_short_figure_never_promises_more_than_there_is(value: float) -> None:
    shown = compact(value)
    size = {"k": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}.get(shown[-1], 1)
    number = float(shown.rstrip("kMBT")) * size
    assert number <= value * (1 + 1e-9) + 1e-9
    assert number >= value * 0.9 - 1e-4
