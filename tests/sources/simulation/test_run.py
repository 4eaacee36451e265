"""Simulating into an installation: nothing twice, nothing missing, whatever the order and whoever was killed."""

from __future__ import annotations

import dataclasses
import datetime as dt
from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics_dagster.clock import ManualClock
from analytics_dagster.errors import IntegrityError, NotFoundError, UserError
from analytics_dagster.ingest.landing import Landing
from analytics_dagster.installation import Installation, open_installation
from analytics_dagster.lake import schemas
from analytics_dagster.settings import Settings
from analytics_dagster.sources.simulation import (
    IncidentKind,
    SimulationPlan,
    build_population,
    load_parameters,
    simulate,
    simulate_through,
    simulated_tenants,
)
from analytics_dagster.sources.simulation.parameters import save_parameters
from analytics_dagster.sources.simulation.run import arrival_days

UNTIL = date(2026, 3, 9)
SMALL = SimulationPlan(tenants=2, users=60, days=24, seed=5, until=UNTIL)


def test_a_plan_is_simulated_and_labelled(installation: Installation) -> None:
    seen: list[tuple[str, float]] = []
    report = simulate(installation, SMALL, lambda what, share: seen.append((what, share)))
    assert [one.tenant for one in report.tenants] == ["aurora", "borealis"]
    assert all((one.days, one.first, one.last) == (24, UNTIL - timedelta(days=23), UNTIL) for one in report.tenants)
    assert all(one.rows["plays"] > 5_000 for one in report.tenants)
    assert [record.demo for record in installation.tenants.records()] == [True, True]
    assert seen[-1] == (f"borealis {UNTIL}", 1.0)
    assert [share for _, share in seen] == sorted(share for _, share in seen)
    assert (installation.settings.analytics_home / "simulated" / "aurora" / "incidents.csv").exists()
    for name, rows in report.tenants[0].rows.items():
        assert _landed(installation, "aurora", name).num_rows == rows, name


def test_simulating_again_adds_nothing(installation: Installation) -> None:
    simulate(installation, SMALL)
    again = simulate(installation, SMALL)
    assert again.plays == 0
    assert all(one.days == 0 and not one.rows for one in again.tenants)


def test_day_by_day_gives_what_a_range_gives(tmp_path: Path, clock: ManualClock) -> None:
    at_once, daily = (_fresh(tmp_path / name, clock) for name in ("at-once", "daily"))
    plan = SimulationPlan(tenants=1, users=60, days=24, seed=5, until=UNTIL)
    simulate(at_once, plan)
    # The planned days decide where incidents lie, so the daily one is given the same plan, and then days one at a time.
    save_parameters(daily.settings.analytics_home, plan.parameters(0))
    for offset in range(24):
        simulate_through(daily, "aurora", UNTIL - timedelta(days=23 - offset))
    for table in schemas.EVENT_TABLES:
        assert _rows(at_once, table.name) == _rows(daily, table.name), table.name
    for table in schemas.CATALOGUE_TABLES:
        assert _newest(at_once, table) == _newest(daily, table), table.name
    at_once.database.dispose()
    daily.database.dispose()


def test_the_demo_goes_on_from_where_it_stands(installation: Installation, clock: ManualClock) -> None:
    simulate(installation, SMALL)
    clock.advance(timedelta(days=2))
    report = simulate_through(installation, "borealis", UNTIL + timedelta(days=2))
    [one] = report.tenants
    assert (one.days, one.first, one.last, one.incidents) == (2, UNTIL + timedelta(days=1), UNTIL + timedelta(days=2), 0)
    assert _landed(installation, "borealis", "plays").num_rows > one.rows["plays"]


def test_the_same_command_some_days_later_fills_the_gap(installation: Installation, clock: ManualClock) -> None:
    simulate(installation, SMALL)
    clock.advance(timedelta(days=40))
    later = SimulationPlan(tenants=1, users=60, days=3, seed=5, until=UNTIL + timedelta(days=40))
    assert simulate(installation, later).tenants[0].days == 40


def test_a_longer_simulation_of_the_same_tenant_adds_the_days_before(installation: Installation) -> None:
    simulate(installation, SMALL)
    tracks = _newest(installation, schemas.TRACKS)
    longer = SimulationPlan(tenants=1, users=60, days=30, seed=5, until=UNTIL)
    [one] = simulate(installation, longer).tenants
    assert (one.days, one.first) == (6, UNTIL - timedelta(days=29))
    assert _newest(installation, schemas.TRACKS) == tracks


def test_a_late_batch_lies_in_a_later_arrival(installation: Installation) -> None:
    simulate(installation, SMALL)
    parameters = load_parameters(installation.settings.analytics_home, "aurora")
    assert parameters is not None
    late = next(one for one in build_population(parameters, UNTIL).incidents if one.kind is IncidentKind.LATE_BATCH)
    plays = _landed(installation, "aurora", "plays")
    of_the_day = plays.filter(pc.equal(plays["ts"].cast(pa.date32()), late.first))
    arrivals = sorted(set(of_the_day["arrival"].to_pylist()))
    assert len(arrivals) == 2
    days = [date.fromisoformat(name.removeprefix("simulate-5-")) for name in arrivals]
    assert days[0] < late.first + timedelta(days=int(late.number("delay_days"))) <= days[1]


class _DiesAfter(Landing):
    """A landing whose process is killed after some commits: the rows are in, and nothing that should follow happens."""

    def __init__(self, installation: Installation, commits: int) -> None:
        super().__init__(installation.lake, installation.database, installation.clock)
        self.left = commits

    def append(self, *arguments: object, **options: object) -> object:  # type: ignore[override]
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        return super().append(*arguments, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("commits", [1, 4, 9, 13])
def test_a_killed_simulation_goes_on_without_duplicates(
    installation: Installation, tmp_path: Path, clock: ManualClock, commits: int
) -> None:
    whole = _fresh(tmp_path / "whole", clock)
    plan = SimulationPlan(tenants=1, users=40, days=12, seed=5, until=UNTIL)
    simulate(whole, plan)
    dying = dataclasses.replace(installation, landing=_DiesAfter(installation, commits))
    with pytest.raises(KeyboardInterrupt):
        simulate(dying, plan)
    simulate(installation, plan)
    for table in schemas.EVENT_TABLES:
        landed = _landed(installation, "aurora", table.name)
        assert pc.count_distinct(landed[table.key]).as_py() == landed.num_rows, table.name
        assert _rows(installation, table.name) == _rows(whole, table.name), table.name
    whole.database.dispose()


@pytest.mark.parametrize(
    ("change", "message"), [({"seed": 6}, "give --seed 5, or another --home"), ({"users": 61}, "with users 60")]
)
def test_another_seed_or_size_for_a_simulated_tenant_is_refused(
    installation: Installation, change: dict[str, int], message: str
) -> None:
    simulate(installation, SMALL)
    other = SimulationPlan(**{"tenants": 2, "users": 60, "days": 24, "seed": 5, "until": UNTIL} | change)
    with pytest.raises(UserError, match=message):
        simulate(installation, other)


def test_a_tenant_with_real_data_is_left_alone(installation: Installation) -> None:
    installation.tenants.ensure("aurora")
    with pytest.raises(UserError, match="holds data that was not simulated"):
        simulate(installation, SMALL)


def test_days_that_are_not_over_or_before_the_first_are_refused(installation: Installation) -> None:
    with pytest.raises(UserError, match="2026-03-10 is not over yet"):
        simulate(installation, SimulationPlan(until=date(2026, 3, 10)))
    with pytest.raises(UserError, match="before 2005-01-01, the first day"):
        simulate(installation, SimulationPlan(until=date(2005, 1, 10)))


def test_going_on_with_an_unknown_tenant_is_refused(installation: Installation) -> None:
    with pytest.raises(NotFoundError, match="zephyr was not simulated here"):
        simulate_through(installation, "zephyr", UNTIL)


def test_damaged_parameters_are_reported_and_not_replaced(installation: Installation) -> None:
    simulate(installation, SimulationPlan(tenants=1, users=5, days=2, until=UNTIL))
    home = installation.settings.analytics_home
    assert [one.tenant for one in simulated_tenants(home)] == ["aurora"]
    path = home / "simulated" / "aurora" / "parameters.json"
    path.write_text("{", encoding="utf-8")
    with pytest.raises(IntegrityError, match=r"parameters\.json is damaged"):
        simulate_through(installation, "aurora", UNTIL)


@given(
    numbers=st.sets(st.integers(0, 120)),
    apart=st.frozensets(st.integers(0, 120), max_size=4),
    plays=st.integers(1, 3_000_000),
)
def test_arrivals_hold_every_missing_day_once(numbers: set[int], apart: frozenset[int], plays: int) -> None:
    start = date(2026, 1, 1)
    missing = [start + timedelta(days=n) for n in sorted(numbers)]
    separate = frozenset(start + timedelta(days=n) for n in apart)
    groups = arrival_days(missing, separate, plays)
    assert [day for group in groups for day in group] == missing
    for group in groups:
        assert (group[-1] - group[0]).days == len(group) - 1
        assert len({(day.year, day.month) for day in group}) == 1
        assert len(group) == 1 or len(group) * plays <= 1_000_000
        assert separate.isdisjoint(group[1:])


def _fresh(home: Path, clock: ManualClock) -> Installation:
    return open_installation(Settings.from_environment(home), clock, create=True)


def _landed(installation: Installation, tenant: str, table: str) -> pa.Table:
    return installation.lake.tenant(tenant).table(schemas.landing(schemas.BY_NAME[table])).read()


def _rows(installation: Installation, table: str, tenant: str = "aurora") -> list[dict[str, object]]:
    schema = schemas.BY_NAME[table]
    landed = _landed(installation, tenant, table).select(schema.arrow.names)
    return landed.sort_by(schema.key).to_pylist()


def _newest(installation: Installation, schema: schemas.TableSchema, tenant: str = "aurora") -> dict[object, dict[str, object]]:
    landed = _landed(installation, tenant, schema.name).sort_by([("arrived_at", "ascending"), ("arrival", "ascending")])
    assert isinstance(landed["arrived_at"][0].as_py(), dt.datetime)
    return {row[schema.key]: {name: row[name] for name in schema.arrow.names} for row in landed.to_pylist()}
