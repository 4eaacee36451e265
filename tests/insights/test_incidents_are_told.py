"""Incidents as they look in a cube: what is told first, where it lies, and that a shift of the mix is never told as movement.

The cubes are made here, with sessions instead of single plays, so that they stray as plays do; `benchmarks/insights.py` measures
the same on the simulated service.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from insights.conftest import LAST, WEEK, long, stamps

from analytics_dagster.insights.claims import where
from analytics_dagster.insights.findings import Finding, Kind, find
from analytics_dagster.insights.series import Series

DAYS = 150
SOURCES = {"playlist": 0.4, "library": 0.25, "radio": 0.2, "search": 0.15}
SKIPS = {"playlist": 0.20, "library": 0.10, "radio": 0.35, "search": 0.22}
COUNTRIES = {"US": 0.5, "GB": 0.2, "DE": 0.2, "IE": 0.1}
PER_DAY = 1_500

Cube = np.ndarray
"""Sessions by day, source and country."""


def sessions(seed: int) -> Cube:
    rng = np.random.default_rng(seed)
    shares = np.array(list(SOURCES.values()))[:, None] * np.array(list(COUNTRIES.values()))
    level = PER_DAY * WEEK[np.arange(DAYS) % 7] * rng.lognormal(0, 0.015, DAYS)
    return rng.poisson(level[:, None, None] * shares).astype(float)


def service(seed: int, change: Callable[[Cube], None] | None = None, skips: Mapping[str, float] | None = None) -> list[Series]:
    """Plays and skip rate by source and country. change: alters the last day. skips: other skip rates on the last day."""
    rng = np.random.default_rng([seed, 1])
    opened = sessions(seed)
    if change is not None:
        change(opened)
    plays = rng.poisson(opened * 8.0).astype(float)
    rate = np.broadcast_to(np.array(list(SKIPS.values()))[None, :, None], plays.shape).copy()
    if skips:
        rate[-1] = np.array([skips.get(source, SKIPS[source]) for source in SOURCES])[:, None]
    skipped = rng.binomial(plays.astype(int), rate).astype(float)
    by = {"source": (2, tuple(SOURCES)), "country": (1, tuple(COUNTRIES))}
    parts = {name: (plays.sum(axis=axis), skipped.sum(axis=axis), elements) for name, (axis, elements) in by.items()}

    def columns(values: np.ndarray, elements: tuple[str, ...]) -> dict[str, np.ndarray]:
        return {element: values[:, i] for i, element in enumerate(elements)}

    total, whole = plays.sum(axis=(1, 2)), skipped.sum(axis=(1, 2))
    return [
        Series(
            "plays",
            "plays",
            "down_is_bad",
            pa.table({"ts": stamps(DAYS), "value": total}),
            {name: long(name, columns(n, elements)) for name, (n, _, elements) in parts.items()},
        ),
        Series(
            "skip_rate",
            "ratio",
            "up_is_bad",
            pa.table({"ts": stamps(DAYS), "value": whole / total}),
            {name: long(name, columns(s / n, elements), columns(n, elements)) for name, (n, s, elements) in parts.items()},
        ),
    ]


def told(
    seed: int, change: Callable[[Cube], None] | None = None, skips: Mapping[str, float] | None = None
) -> tuple[Finding, ...]:
    return find(LAST, service(seed, change, skips)).findings


def named(finding: Finding) -> list[tuple[str, str]]:
    return [finding.element] if finding.element else [(one.dimension, one.element) for one in finding.drivers]


def farm(cube: Cube) -> None:
    """Bots in Ireland who play by search."""
    cube[-1, 3, 3] += 400


def outage(cube: Cube) -> None:
    cube[-1] = np.round(cube[-1] * 0.8)


def removed(cube: Cube) -> None:
    cube[-1, 0] = np.round(cube[-1, 0] * 0.5)


def shifted(cube: Cube, factor: float = 3.0) -> None:
    """As many sessions as before, more of them from the radio."""
    before = cube[-1].sum(axis=0)
    cube[-1, 2] *= factor
    cube[-1] = np.round(cube[-1] * before / cube[-1].sum(axis=0))


@pytest.mark.parametrize("seed", range(4))
def test_a_farm_is_told_first_with_its_source_and_its_country(seed: int) -> None:
    first = told(seed, farm)[0]
    assert (first.kind, first.metric, first.bad) == (Kind.CHANGE, "plays", False)
    assert set(named(first)) == {("source", "search"), ("country", "IE")}


@pytest.mark.parametrize("seed", range(4))
def test_plays_that_are_missing_everywhere_name_nobody(seed: int) -> None:
    first = told(seed, outage)[0]
    assert (first.kind, first.metric, first.bad, named(first)) == (Kind.CHANGE, "plays", True, [])
    assert first.evenly == ("country", "source")


@pytest.mark.parametrize("seed", range(4))
def test_what_is_no_longer_offered_is_told_with_its_source(seed: int) -> None:
    first = next(one for one in told(seed, removed) if one.metric == "plays")
    assert named(first) == [("source", "playlist")]


@pytest.mark.parametrize("seed", range(4))
def test_a_shift_of_the_mix_is_told_as_one_and_by_the_dimension_that_shifted(seed: int) -> None:
    ratio = next(one for one in told(seed, shifted) if one.metric == "skip_rate")
    assert ratio.mix is not None
    assert (ratio.mix.dimension, ratio.mix.misleading) == ("source", True)
    assert named(ratio)[0] == ("source", "radio")
    series = {one.metric: one for one in service(seed, shifted)}
    assert "mostly another mix" in where(ratio, series)


@pytest.mark.parametrize("seed", range(4))
def test_a_source_that_is_skipped_more_is_told_as_movement(seed: int) -> None:
    ratio = next(one for one in told(seed, skips={"radio": 0.55}) if one.metric == "skip_rate")
    assert ratio.mix is not None
    assert not ratio.mix.misleading
    assert named(ratio)[0] == ("source", "radio")


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 10_000), st.floats(0.3, 5.0), st.integers(0, 3))
def test_a_shift_of_the_mix_is_never_told_as_movement_of_the_parts(seed: int, factor: float, source: int) -> None:
    """Nobody skips more than before, whichever source draws how many sessions."""

    def shift(cube: Cube) -> None:
        before = cube[-1].sum(axis=0)
        cube[-1, source] *= factor
        cube[-1] = np.round(cube[-1] * before / cube[-1].sum(axis=0))

    series = {one.metric: one for one in service(seed, shift)}
    for finding in told(seed, shift):
        text = where(finding, series)
        assert "caus" not in text
        if finding.metric == "skip_rate" and abs(factor - 1) > 0.5:
            assert finding.mix is not None
            assert finding.mix.misleading
            assert "mostly another mix" in text


@pytest.mark.parametrize("seed", range(6))
def test_of_a_quiet_day_nothing_is_told(seed: int) -> None:
    assert told(seed) == ()
