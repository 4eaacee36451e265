"""The register of what is published: versions rise only when something changed."""

from __future__ import annotations

import datetime as dt

import pytest

from analytics_dagster.clock import ManualClock
from analytics_dagster.lake.content import DayContent
from analytics_dagster.lake.database import Database
from analytics_dagster.lake.publications import Publication, Publications, Status

DAY = dt.date(2026, 3, 1)


@pytest.fixture
def publications(database: Database, clock: ManualClock) -> Publications:
    return Publications(database, clock)


def published(hash_: str = "h1", day: dt.date = DAY, tenant: str = "acme", status: Status = Status.PUBLISHED) -> Publication:
    return Publication(tenant, "raw/plays", DayContent(day, 3, hash_), status)


def test_the_same_content_again_is_no_new_version_but_the_run_that_made_it_is_named(publications: Publications) -> None:
    assert publications.record([published()], "run-1") == 1
    [before] = publications.of(tenant="acme")
    assert publications.record([published()], "run-2") == 0
    [after] = publications.of(tenant="acme")
    assert (after.version, after.sequence, after.run_id) == (before.version, before.sequence, "run-2")


@pytest.mark.parametrize("changed", [published("h2"), published(status=Status.GATED)], ids=["content", "gate"])
def test_a_change_raises_version_and_sequence(publications: Publications, changed: Publication) -> None:
    publications.record([published()], "run-1")
    [before] = publications.of()
    assert publications.record([changed], "run-2") == 1
    [after] = publications.of(after_sequence=before.sequence)
    assert after.version == before.version + 1


def test_many_days_are_written_in_chunks_and_all_arrive(publications: Publications) -> None:
    days = [DAY + dt.timedelta(days=n) for n in range(2_345)]
    assert publications.record([published(day=day) for day in days], "run") == 2_345
    found = publications.of(tenant="acme", first=days[10], last=days[19])
    assert [p.day for p in found] == days[10:20]
    assert len({p.sequence for p in publications.of()}) == 2_345


def test_the_newest_day_is_the_newest_with_rows(publications: Publications) -> None:
    empty = Publication("acme", "raw/plays", DayContent(DAY + dt.timedelta(days=1), 0, "e"))
    publications.record([published(), empty], "run")
    assert publications.newest_day("acme", "raw/plays") == DAY
    assert publications.newest_day("acme", "raw/metrics") is None
