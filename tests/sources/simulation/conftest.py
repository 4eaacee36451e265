"""Simulated worlds for the tests of this room: small, and built once."""

from __future__ import annotations

from datetime import date

import pytest

from analytics_dagster.sources.simulation import Incident, IncidentKind, Parameters, Population, build_population

FIRST = date(2026, 1, 1)
LAST = date(2026, 3, 31)


def world(ordinal: int = 0, users: int = 600, days: int = 90, seed: int = 42, through: date = LAST) -> Population:
    names = ("aurora", "borealis", "cascade")
    return build_population(Parameters(names[ordinal], ordinal, seed, users, FIRST, days), through)


def incident(population: Population, kind: IncidentKind) -> Incident:
    return next(one for one in population.incidents if one.kind is kind)


@pytest.fixture(scope="session")
def aurora() -> Population:
    return world(0)


@pytest.fixture(scope="session")
def borealis() -> Population:
    return world(1)
