"""Arrivals: appended once, noted by day, rebuilt into raw whatever the order in which they came."""

from __future__ import annotations

import datetime as dt

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rows import plays

from analytics_dagster.clock import ManualClock
from analytics_dagster.ingest.landing import Appended, Refused
from analytics_dagster.ingest.raw import build_catalogue, build_raw_days, first_arrival, stale_days
from analytics_dagster.installation import Installation, open_installation
from analytics_dagster.lake.content import day_contents
from analytics_dagster.lake.publications import Publication
from analytics_dagster.lake.schemas import PLAYS, QUARANTINE, USERS, landing
from analytics_dagster.settings import Settings

NOON = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
DAY = NOON.date()
NEXT = NOON + dt.timedelta(days=1)


def test_the_same_rows_again_are_duplicates_and_nothing_is_added(installation: Installation) -> None:
    rows = plays(("a", NOON), ("b", NOON), ("a", NOON))
    assert installation.landing.append("acme", PLAYS, rows, "first") == Appended(2, 1)
    assert installation.landing.append("acme", PLAYS, rows, "second") == Appended(0, 3)
    assert installation.lake.tenant("acme").table(landing(PLAYS)).read().num_rows == 2


def test_equal_ids_of_two_tenants_are_two_plays(installation: Installation) -> None:
    for tenant in ("acme", "other"):
        assert installation.landing.append(tenant, PLAYS, plays(("a", NOON)), "x") == Appended(1, 0)


def test_an_arrival_makes_its_days_stale_until_they_are_published(installation: Installation) -> None:
    installation.landing.append("acme", PLAYS, plays(("a", NOON), ("b", NEXT)), "x")
    [stale] = stale_days(installation.database)
    assert (stale.tenant, stale.table, stale.days) == ("acme", "plays", (DAY, NEXT.date()))
    noted = build_raw_days(installation.lake.tenant("acme"), PLAYS, DAY, DAY, installation.database)
    content = day_contents(installation.lake.tenant("acme").table(PLAYS), DAY, DAY)[DAY]
    installation.publications.record([Publication("acme", "raw/plays", content, input_id=noted)], "run")
    [stale] = stale_days(installation.database)
    assert stale.days == (NEXT.date(),)


def test_a_late_row_makes_only_its_own_day_stale_again(installation: Installation) -> None:
    installation.landing.append("acme", PLAYS, plays(("a", NOON), ("b", NEXT)), "x")
    lake = installation.lake.tenant("acme")
    noted = build_raw_days(lake, PLAYS, DAY, NEXT.date(), installation.database)
    contents = day_contents(lake.table(PLAYS), DAY, NEXT.date()).values()
    installation.publications.record([Publication("acme", "raw/plays", c, input_id=noted) for c in contents], "run")
    assert stale_days(installation.database) == []
    installation.landing.append("acme", PLAYS, plays(("late", NOON)), "y")
    [stale] = stale_days(installation.database)
    assert stale.days == (DAY,)


def test_duplicates_alone_make_nothing_stale(installation: Installation) -> None:
    installation.landing.append("acme", PLAYS, plays(("a", NOON)), "x")
    newest = stale_days(installation.database)[0].newest
    installation.landing.append("acme", PLAYS, plays(("a", NOON)), "y")
    assert stale_days(installation.database)[0].newest == newest


def test_of_several_arrivals_of_one_play_raw_keeps_the_newest(installation: Installation, clock: ManualClock) -> None:
    installation.landing.append("acme", PLAYS, plays(("a", NOON, "first")), "x", unique=True)
    clock.advance(dt.timedelta(seconds=1))
    installation.landing.append("acme", PLAYS, plays(("a", NOON, "second")), "y", unique=True)
    lake = installation.lake.tenant("acme")
    build_raw_days(lake, PLAYS, DAY, DAY, installation.database)
    assert lake.table(PLAYS).read(columns=["track"]).column(0).to_pylist() == ["second"]


def test_a_catalogue_row_that_changed_is_kept_and_one_that_did_not_is_a_duplicate(
    installation: Installation, clock: ManualClock
) -> None:
    def users(age: int) -> pa.Table:
        return pa.Table.from_pylist([{"user_id": "u", "age": age, "format": "test"}], schema=USERS.arrow)

    assert installation.landing.append("acme", USERS, users(30), "a") == Appended(1, 0)
    assert installation.landing.append("acme", USERS, users(30), "b") == Appended(0, 1)
    clock.advance(dt.timedelta(days=1))
    assert installation.landing.append("acme", USERS, users(31), "c") == Appended(1, 0)
    build_catalogue(installation.lake.tenant("acme"), USERS)
    assert installation.lake.tenant("acme").table(USERS).read(columns=["age"]).column(0).to_pylist() == [31]


def test_a_refused_record_is_kept_once_with_its_bytes(installation: Installation) -> None:
    refused = Refused("plays.csv", 7, "played_at", "'soon' is no time; write 2026-01-31T12:00:00Z", b"\xff,soon\r")
    assert installation.landing.quarantine("acme", [refused, refused], "x", "radio-log") == 1
    assert installation.landing.quarantine("acme", [refused], "y", "radio-log") == 0
    [row] = installation.landing.quarantined("acme").to_pylist()
    assert (row["file"], row["line"], row["field"], row["original"]) == ("plays.csv", 7, "played_at", b"\xff,soon\r")


def test_the_newest_of_the_quarantine_come_oldest_first(installation: Installation, clock: ManualClock) -> None:
    assert installation.landing.quarantined("acme", 2).num_rows == 0
    for name, line in (("a.csv", 9), ("b.csv", 2), ("b.csv", 1)):
        installation.landing.quarantine("acme", [Refused(name, line, None, "is no record", b"?")], "x", "plays")
        clock.advance(dt.timedelta(seconds=line == 9))
    newest = installation.landing.quarantined("acme", 2)
    assert newest.schema == QUARANTINE.arrow
    assert [(row["file"], row["line"]) for row in newest.to_pylist()] == [("b.csv", 1), ("b.csv", 2)]
    assert installation.landing.quarantined("acme").column("line").to_pylist() == [9, 1, 2]


def test_first_arrival_is_none_for_a_table_without_any(installation: Installation) -> None:
    assert first_arrival(installation.database, "acme", "plays") is None


ARRIVAL = st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 2)), min_size=1, max_size=6)


@settings(max_examples=15)
@given(arrivals=st.lists(ARRIVAL, min_size=1, max_size=4), order=st.randoms(use_true_random=False))
def test_any_cut_and_order_of_arrivals_gives_the_same_raw_days(arrivals, order, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Ids fix the content (a play's id contains its time), so what raw holds is the set of plays that ever arrived."""

    def raw_of(batches: list[list[tuple[str, int]]]) -> dict[dt.date, str]:
        home = tmp_path_factory.mktemp("home") / ".analytics"
        opened = open_installation(Settings.from_environment(home), ManualClock(NOON), create=True)
        for number, batch in enumerate(batches):
            rows = plays(*((f"{name}{day}", NOON + dt.timedelta(days=day)) for name, day in batch))
            opened.landing.append("acme", PLAYS, rows, f"arrival-{number}")
        lake, last = opened.lake.tenant("acme"), DAY + dt.timedelta(days=2)
        build_raw_days(lake, PLAYS, DAY, last, opened.database)
        opened.database.dispose()
        return {day: content.content_hash for day, content in day_contents(lake.table(PLAYS), DAY, last).items()}

    shuffled = [row for batch in arrivals for row in batch]
    order.shuffle(shuffled)
    assert raw_of(arrivals) == raw_of([shuffled])


def test_a_key_that_comes_again_on_another_day_gives_the_same_days_however_they_are_rebuilt(installation: Installation) -> None:
    installation.landing.append("acme", PLAYS, plays(("a", NOON)), "x")
    installation.landing.append("acme", PLAYS, plays(("a", NEXT), ("b", NEXT)), "y")
    lake = installation.lake.tenant("acme")
    build_raw_days(lake, PLAYS, DAY, NEXT.date(), installation.database)
    together = day_contents(lake.table(PLAYS), DAY, NEXT.date())
    for day in (NEXT.date(), DAY):
        build_raw_days(lake, PLAYS, day, day, installation.database)
    assert day_contents(lake.table(PLAYS), DAY, NEXT.date()) == together


def test_a_corrected_row_replaces_the_broken_one_and_the_broken_file_again_changes_nothing(
    installation: Installation, clock: ManualClock
) -> None:
    broken, repaired = plays(("a", NOON, "?"), ("b", NOON)), plays(("a", NOON, "song"), ("b", NOON))
    installation.landing.append("acme", PLAYS, broken, "x")
    clock.advance(dt.timedelta(hours=1))
    assert installation.landing.append("acme", PLAYS, repaired, "y") == Appended(1, 1)
    clock.advance(dt.timedelta(hours=1))
    assert installation.landing.append("acme", PLAYS, broken, "z") == Appended(0, 2)
    lake = installation.lake.tenant("acme")
    build_raw_days(lake, PLAYS, DAY, DAY, installation.database)
    assert lake.table(PLAYS).read(columns=["track"]).column(0).to_pylist() == ["song", "song"]
