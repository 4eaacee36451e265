"""Incidents: placed where they teach something, and visible in the data where their labels say."""

from __future__ import annotations

import csv
import json
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics_dagster.sources.simulation import (
    Incident,
    IncidentKind,
    Parameters,
    Population,
    build_population,
    plan_incidents,
    simulate_day,
)
from analytics_dagster.sources.simulation.incidents import COLUMNS, PLANNED, write_incidents
from analytics_dagster.sources.simulation.listening import farmed_artist, removed_playlist, viral_track

from .conftest import FIRST, LAST, incident, world


def _parameters(ordinal: int = 0, days: int = 90, seed: int = 42) -> Parameters:
    return Parameters(("aurora", "borealis", "cascade")[ordinal], ordinal, seed, 1_000, FIRST, days)


@given(seed=st.integers(0, 2**32 - 1), days=st.integers(1, 400), ordinal=st.integers(0, 2))
def test_incidents_never_touch_one_another_the_first_days_or_the_last_three(seed: int, days: int, ordinal: int) -> None:
    parameters = _parameters(ordinal, days, seed)
    planned = plan_incidents(parameters)
    assert list(planned) == sorted(planned, key=lambda one: one.start)
    for one in planned:
        assert one.start < one.end
        assert parameters.day_number(one.first) >= 2
        # A late batch, at most two days late, has come by then too; a very short simulation has no room for three days.
        assert one.end <= datetime(LAST.year, 1, 1, tzinfo=UTC) + timedelta(days=max(days - 3, 3))
    for earlier, later in pairwise(planned):
        assert earlier.end <= datetime.combine(later.first, datetime.min.time(), UTC)


@pytest.mark.parametrize(("days", "kinds"), [(1, 0), (4, 0), (5, 1), (7, 1), (14, 3), (20, 5), (90, 5)])
def test_a_longer_simulation_has_more_kinds_of_incidents(days: int, kinds: int) -> None:
    assert len({one.kind for one in plan_incidents(_parameters(days=days))}) == kinds


def test_two_years_have_every_kind_in_each_quarter() -> None:
    planned = plan_incidents(_parameters(days=730))
    assert Counter(one.kind for one in planned) == dict.fromkeys(PLANNED, 8)
    assert len({one.incident for one in planned}) == len(planned)


def test_tenants_with_few_days_show_different_kinds() -> None:
    assert len({plan_incidents(_parameters(ordinal, 7))[0].kind for ordinal in range(3)}) == 3


def test_an_outage_fails_requests_slows_them_and_stops_plays(aurora: Population) -> None:
    outage = incident(aurora, IncidentKind.OUTAGE)
    tables, before = simulate_day(aurora, outage.first), simulate_day(aurora, outage.first - timedelta(days=7))
    during = _between(tables["api_requests"], outage.start, outage.end)
    assert _error_ratio(during) == pytest.approx(outage.number("error_ratio"), abs=0.08)
    assert _error_ratio(tables["api_requests"]) > 0.05  # so that a rule on the daily figure sees it
    rest = _between(tables["api_requests"], datetime.combine(outage.first, datetime.min.time(), UTC), outage.start)
    assert _error_ratio(rest) < 0.02
    assert np.median(during["latency_us"].to_numpy()) > 3 * np.median(rest["latency_us"].to_numpy())
    week = timedelta(days=7)
    usual = _between(before["plays"], outage.start - week, outage.end - week).num_rows
    assert _between(tables["plays"], outage.start, outage.end).num_rows < 0.4 * usual
    cpu = _between(tables["system_samples"], outage.start, outage.end)
    assert pc.min(cpu.filter(pc.equal(cpu["host"], "db-1"))["cpu_percent"]).as_py() > 90
    engaged = tables["metrics"].filter(pc.equal(tables["metrics"]["name"], "user_engagement_rate"))
    assert pc.min(engaged["value"]).as_py() < 0.6


def test_a_bot_farm_streams_one_artist_round_the_clock(aurora: Population) -> None:
    farm = incident(aurora, IncidentKind.BOT_FARM)
    bots = np.flatnonzero(aurora.listeners.bot >= 0)
    ids = aurora.texts.listener_ids.take(pa.array(bots))
    day = farm.first + timedelta(days=1)
    plays = simulate_day(aurora, day)["plays"]
    theirs = plays.filter(pc.is_in(plays["listener_id"], ids))
    assert theirs.num_rows > 2_000 * farm.number("bots")
    assert 31_000 <= pc.min(theirs["ms_played"]).as_py() <= pc.max(theirs["ms_played"]).as_py() <= 35_000
    assert set(theirs["artist_id"].to_pylist()) == {f"art{farmed_artist(aurora, farm):06d}"}
    assert set(theirs["country"].to_pylist()) == {farm.parameters["country"]}
    assert set(pc.hour(theirs["ts"]).to_pylist()) == set(range(24))
    for quiet in (farm.first - timedelta(days=1), farm.end.date()):
        heard = simulate_day(aurora, quiet)["plays"]["listener_id"]
        assert not pc.any(pc.is_in(heard, ids)).as_py()


def test_bots_register_before_and_are_closed_after(aurora: Population) -> None:
    farm = incident(aurora, IncidentKind.BOT_FARM)
    ids = set(aurora.texts.listener_ids.take(pa.array(np.flatnonzero(aurora.listeners.bot >= 0))).to_pylist())
    joined = simulate_day(aurora, farm.first - timedelta(days=1))["subscriptions"].to_pylist()
    assert ids <= {row["listener_id"] for row in joined if row["event"] == "signup"}


def test_a_viral_hit_rises_and_falls(aurora: Population) -> None:
    hit = incident(aurora, IncidentKind.VIRAL_HIT)
    track = f"trk{viral_track(aurora, hit):06d}"
    days = [hit.first + timedelta(days=n) for n in range(-3, 12)]
    share = {}
    for day in days:
        tables = simulate_day(aurora, day)
        share[day] = np.mean([one == track for one in tables["plays"]["track_id"].to_pylist()])
    middle = hit.first + (hit.end - hit.start) // 2
    assert max(share, key=lambda day: share[day]) - middle <= timedelta(days=1)
    assert share[middle] > 20 * max(share[hit.first - timedelta(days=n)] for n in (1, 2, 3))
    usual, viral = (_shares(simulate_day(aurora, day)) for day in (hit.first - timedelta(days=2), middle))
    assert viral > 1.5 * usual


def test_a_late_batch_comes_in_a_later_arrival_with_its_own_time(aurora: Population) -> None:
    late = incident(aurora, IncidentKind.LATE_BATCH)
    on_time = simulate_day(aurora, late.first)["plays"]
    delivered = simulate_day(aurora, late.first + timedelta(days=int(late.number("delay_days"))))["plays"]
    own_day = pc.equal(delivered["ts"].cast(pa.date32()), late.first)
    batch = delivered.filter(own_day)
    share = batch.num_rows / (batch.num_rows + on_time.num_rows)
    assert share == pytest.approx(late.number("listeners"), abs=0.08)
    assert set(batch["listener_id"].to_pylist()).isdisjoint(on_time["listener_id"].to_pylist())
    assert set(batch["play_id"].to_pylist()).isdisjoint(on_time["play_id"].to_pylist())
    assert delivered.filter(pc.invert(own_day)).num_rows > batch.num_rows


def test_the_first_tenants_broken_client_is_severe_and_the_others_mild(aurora: Population, borealis: Population) -> None:
    severe, mild = (incident(one, IncidentKind.BROKEN_CLIENT) for one in (aurora, borealis))
    plays = simulate_day(aurora, severe.first)["plays"]
    assert plays["listener_id"].null_count / plays.num_rows > 0.10
    nulls = plays.filter(pc.is_null(plays["listener_id"]))
    assert set(nulls["device"].to_pylist()) == {"android"}
    assert nulls["ms_played"].null_count == nulls["track_id"].null_count == nulls.num_rows
    assert nulls["play_id"].null_count == nulls["ts"].null_count == 0
    milder = simulate_day(borealis, mild.first)["plays"]
    assert 0.005 < milder["listener_id"].null_count / milder.num_rows < 0.045


def test_other_days_lack_no_listener_track_or_duration(aurora: Population) -> None:
    broken = incident(aurora, IncidentKind.BROKEN_CLIENT).first
    for day in (broken - timedelta(days=1), broken + timedelta(days=1)):
        plays = simulate_day(aurora, day)["plays"]
        assert all(plays[name].null_count == 0 for name in ("listener_id", "track_id", "ms_played"))


def test_days_after_the_planned_ones_are_ordinary() -> None:
    population = world(0, through=date(2026, 5, 30))
    assert max(one.end for one in population.incidents).date() < LAST
    status = simulate_day(population, date(2026, 5, 30))["api_requests"]["status"].to_numpy()
    assert np.mean(status >= 500) < 0.02


def test_the_ground_truth_can_be_read_back(tmp_path: Path, aurora: Population) -> None:
    path = write_incidents(tmp_path, "aurora", aurora.incidents)
    assert path == tmp_path / "simulated" / "aurora" / "incidents.csv"
    with path.open(encoding="utf-8", newline="") as text:
        rows = list(csv.DictReader(text))
    assert tuple(rows[0]) == COLUMNS
    assert [row["kind"] for row in rows] == [one.kind.value for one in aurora.incidents]
    assert [datetime.fromisoformat(row["start"]) for row in rows] == [one.start for one in aurora.incidents]
    assert [json.loads(row["parameters"]) for row in rows] == [one.parameters for one in aurora.incidents]


def _between(table: pa.Table, start: datetime, end: datetime) -> pa.Table:
    return table.filter(pc.and_(pc.greater_equal(table["ts"], start), pc.less(table["ts"], end)))


def _error_ratio(requests: pa.Table) -> float:
    return float(np.mean(requests["status"].to_numpy() >= 500))


def _shares(tables: dict[str, pa.Table]) -> int:
    return int(pc.sum(pc.equal(tables["metrics"]["name"], "shares")).as_py())


def _given(kind: IncidentKind, **parameters: str | int | float) -> tuple[Population, dict[str, pa.Table], dict[str, pa.Table]]:
    """A world with one incident of a week, its second day, and the same day of the world without it."""
    named = Parameters("aurora", 0, 42, 600, FIRST, 30)
    start = datetime(2026, 1, 10, tzinfo=UTC)
    label = Incident("aurora", "given", kind, start, start + timedelta(days=7), "", parameters)
    with_it, without = build_population(named, date(2026, 1, 30), [label]), build_population(named, date(2026, 1, 30), [])
    return with_it, simulate_day(with_it, date(2026, 1, 11)), simulate_day(without, date(2026, 1, 11))


def test_incidents_that_are_given_stand_in_for_the_planned_ones() -> None:
    world, _, _ = _given(IncidentKind.PLAYLIST_REMOVAL, rank=1)
    assert [one.incident for one in world.incidents] == ["given"]


def test_nobody_plays_a_removed_playlist_and_the_others_go_on() -> None:
    world, during, before = _given(IncidentKind.PLAYLIST_REMOVAL, rank=1)
    removed = world.texts.playlist_ids[removed_playlist(world, world.incidents[0])].as_py()
    listed = Counter(before["plays"]["playlist_id"].to_pylist())
    assert listed[removed] > 50
    # All other plays of the day are the same, but those that the removed ones pushed aside.
    assert Counter(during["plays"]["playlist_id"].to_pylist())[removed] == 0
    assert during["plays"].num_rows == pytest.approx(before["plays"].num_rows - listed[removed], rel=0.05)


def test_a_shift_of_the_mix_moves_plays_between_sources_and_no_source_is_skipped_more() -> None:
    _, during, before = _given(IncidentKind.MIX_SHIFT, dimension="source", element="radio", factor=4.0)
    shares, skips = {}, {}
    for name, tables in (("during", during), ("before", before)):
        radio = tables["plays"].filter(pc.equal(tables["plays"]["source"], "radio"))
        shares[name] = radio.num_rows / tables["plays"].num_rows
        skips[name] = pc.mean(radio["skipped"].cast(pa.int8())).as_py()
    assert shares["during"] > 2 * shares["before"]
    assert skips["during"] == pytest.approx(skips["before"], abs=0.06)
    assert during["plays"].num_rows == pytest.approx(before["plays"].num_rows, rel=0.1)


def test_a_shift_towards_free_listeners_brings_more_of_them_and_as_many_payers() -> None:
    _, during, before = _given(IncidentKind.MIX_SHIFT, dimension="tier", element="free", factor=1.6)
    free, paying = (
        [pc.sum(pc.equal(tables["plays"]["tier"], tier)).as_py() for tables in (during, before)] for tier in ("free", "premium")
    )
    assert free[0] > 1.25 * free[1]
    assert paying[0] == pytest.approx(paying[1], rel=0.25)
