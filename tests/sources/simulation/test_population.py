"""Who and what is simulated: the same for a seed, growing without changing what came before."""

from __future__ import annotations

import re
from datetime import date, timedelta

import numpy as np
import pytest

from analytics_dagster.errors import UserError
from analytics_dagster.sources.simulation import Parameters, Population, build_population, catalogue, catalogue_changes
from analytics_dagster.sources.simulation.population import DAY_MS
from analytics_dagster.sources.simulation.randomness import stream

from .conftest import FIRST, LAST, world


def test_the_seed_decides_who_listens() -> None:
    again, other = world(0), world(0, seed=43)
    assert catalogue(world(0), LAST) == catalogue(again, LAST)
    assert catalogue(again, LAST)["users"] != catalogue(other, LAST)["users"]


def test_looking_further_ahead_changes_nothing_that_came_before(aurora: Population) -> None:
    near = world(0, through=FIRST + timedelta(days=10))
    day = FIRST + timedelta(days=9)
    assert catalogue(near, day) == catalogue(aurora, day)


def test_streams_differ_by_tenant_purpose_and_day() -> None:
    first = {
        stream(42, tenant, what, which).integers(1 << 62)
        for tenant in ("aurora", "borealis")
        for what in ("day", "listening")
        for which in (-1, 0, 1)
    }
    assert len(first) == 12
    assert stream(42, "aurora", "day", 1).integers(1 << 62) == stream(42, "aurora", "day", 1).integers(1 << 62)


def test_a_career_runs_in_order(aurora: Population) -> None:
    people = aurora.listeners
    assert (people.registered < people.quit).all()
    upgraded = people.upgrade < people.quit
    assert (people.registered[upgraded] < people.upgrade[upgraded]).all()
    assert (people.cancel[upgraded] <= people.quit[upgraded]).all()
    assert (people.upgrade[upgraded] < people.cancel[upgraded]).all()
    back = people.reactivate < people.quit
    assert back.any()
    assert (people.cancel[back] < people.reactivate[back]).all()


def test_listener_ids_are_distinct_and_bots_look_like_people(aurora: Population) -> None:
    ids = aurora.texts.listener_ids.to_pylist()
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch("u[0-9a-f]{8}", one) for one in ids)
    assert (aurora.listeners.bot >= 0).sum() == 3


def test_the_catalogue_of_a_day_knows_only_what_there_is_on_it(aurora: Population) -> None:
    tables = catalogue(aurora, FIRST)
    assert max(tables["tracks"]["released"].to_pylist()) <= FIRST
    assert max(tables["users"]["registered"].to_pylist()) <= FIRST
    later = catalogue(aurora, LAST)
    assert later["tracks"].num_rows > tables["tracks"].num_rows
    assert later["users"].num_rows > tables["users"].num_rows


def test_the_first_catalogue_and_all_changes_give_the_last_catalogue(aurora: Population) -> None:
    until = FIRST + timedelta(days=40)
    newest = {name: {row[0]: row for row in _rows(table)} for name, table in catalogue(aurora, FIRST).items()}
    for offset in range(1, 41):
        day = FIRST + timedelta(days=offset)
        for name, table in catalogue_changes(aurora, day, day).items():
            newest[name].update({row[0]: row for row in _rows(table)})
    for name, table in catalogue(aurora, until).items():
        assert sorted(newest[name].values()) == sorted(_rows(table)), name


def test_isrcs_are_valid_by_form_and_distinct(aurora: Population) -> None:
    codes = catalogue(aurora, LAST)["tracks"]["isrc"].to_pylist()
    assert all(re.fullmatch("[A-Z]{2}[A-Z0-9]{3}[0-9]{7}", code) for code in codes)
    assert len(set(codes)) == len(codes)


def test_releases_come_on_fridays_for_the_most_part_and_in_waves(aurora: Population) -> None:
    music = aurora.music
    released = music.track_released[music.tracks_by_week[0] :]
    weekdays = [aurora.parameters.day(int(number)).weekday() for number in released]
    assert np.mean([weekday == 4 for weekday in weekdays]) > 0.7
    weekly = np.diff(music.tracks_by_week)
    assert weekly[::6].mean() > 2.5 * np.delete(weekly, np.s_[::6]).mean()


def test_a_third_or_so_of_listeners_pay_on_any_day(aurora: Population) -> None:
    for offset in (0, 45, 89):
        tiers = catalogue(aurora, FIRST + timedelta(days=offset))["users"]["tier"].to_pylist()
        assert 0.25 < tiers.count("premium") / len(tiers) < 0.5


def test_listeners_come_from_the_tenants_countries_in_their_time_zones(aurora: Population) -> None:
    people = aurora.listeners
    american = people.utc_offset[people.country == aurora.countries.index("US")]
    assert set(american.tolist()) == {-5, -6, -7, -8}


def test_registrations_are_spread_over_the_days(aurora: Population) -> None:
    joined = aurora.listeners.registered // DAY_MS
    daily = np.bincount(joined[(joined >= 0) & (joined < 90)], minlength=90)
    assert daily.sum() > 50
    assert daily.max() < 10


@pytest.mark.parametrize(("field", "value"), [("users", 0), ("days", 0), ("seed", -1), ("users", 10_000_000)])
def test_a_number_out_of_range_is_refused_by_name(field: str, value: int) -> None:
    numbers = {"seed": 42, "users": 10, "days": 5} | {field: value}
    with pytest.raises(UserError, match=f"{field} {value} is not allowed"):
        Parameters("aurora", 0, numbers["seed"], numbers["users"], FIRST, numbers["days"])


@pytest.mark.parametrize("users", [1, 2, 7])
def test_the_smallest_services_work(users: int) -> None:
    population = build_population(Parameters("aurora", 0, 1, users, FIRST, 30), date(2026, 1, 30))
    assert catalogue(population, FIRST)["users"].num_rows >= users


def _rows(table: object) -> list[tuple[str, ...]]:
    return [tuple(str(value) for value in row.values()) for row in table.to_pylist()]  # type: ignore[attr-defined]
