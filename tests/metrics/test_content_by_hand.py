"""Figures of artists and tracks against examples that were computed by hand."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import pytest

from analytics_dagster.errors import UserError
from tests.metrics.content_by_hand import DAY, INTERACTIONS, OF_ABBA, OF_KRAFTWERK, PLAYS, TOTAL, TOTAL_ROLLING

if TYPE_CHECKING:
    from tests.metrics.conftest import Figures


@pytest.fixture
def content(figures: Figures) -> Figures:
    figures.write("plays", [{"ts": f"{DAY} 10:00", **play} for play in PLAYS])
    figures.write("interactions", [{"ts": f"{DAY} 11:00", **done} for done in INTERACTIONS])
    return figures


def test_every_metric_of_content_gives_what_was_computed_by_hand(content: Figures) -> None:
    by_hand = TOTAL | TOTAL_ROLLING
    assert {name: content.value(name) for name in by_hand} == {n: pytest.approx(v, rel=1e-12) for n, v in by_hand.items()}


@pytest.mark.parametrize(("artist", "by_hand"), [("abba", OF_ABBA), ("kraftwerk", OF_KRAFTWERK)])
def test_each_artist_has_figures_of_its_own(content: Figures, artist: str, by_hand: dict[str, float]) -> None:
    given = {name: content.value(name, where=(f'artist_id="{artist}"',)) for name in by_hand}
    assert given == {name: pytest.approx(value, rel=1e-12) for name, value in by_hand.items()}


def test_streams_are_told_by_country_and_by_part_of_the_world(content: Figures) -> None:
    day = f"{DAY} 00:00"
    assert content.ask("artist_streams_by_place", by=("country",)) == [(day, "DE", 1), (day, "SE", 2), (day, "US", 2)]
    assert content.ask("artist_streams_by_place", by=("region",)) == [(day, "Europe", 3), (day, "Northern America", 2)]


def test_figures_of_content_are_kept_by_the_day(content: Figures) -> None:
    for grain in ("hour", "minute"):
        with pytest.raises(UserError, match="'track_streams' is kept by the day; its grain is day, week or month"):
            content.ask("track_streams", grain=grain)
    assert content.ask("track_streams", grain="month") == [("2026-01-01 00:00", 5)]


def test_an_artist_whom_nobody_heard_today_has_monthly_listeners_today(figures: Figures) -> None:
    for day, artist in (("2026-02-01", "abba"), ("2026-02-10", "kraftwerk")):
        figures.write("plays", [{"ts": f"{day} 10:00", "artist_id": artist, "listener_id": "ann"}])
    today = dt.date(2026, 2, 10)
    asked = {"first": today, "last": today, "where": ('artist_id="abba"',)}
    assert figures.ask("artist_monthly_listeners", **asked) == [("2026-02-10 00:00", 1)]
    assert figures.ask("artist_listeners", **asked) == []


def test_growth_sets_four_weeks_against_the_nine_before(figures: Figures) -> None:
    first = dt.date(2026, 1, 5)
    # Thirteen weeks: 9 with two streams each, then 4 with three each.
    days = [first + dt.timedelta(weeks=week) for week in range(13) for _ in range(3 if week >= 9 else 2)]
    figures.write("plays", [{"ts": f"{day} 10:00", "artist_id": "abba", "listener_id": "ann"} for day in days])
    last = first + dt.timedelta(weeks=13, days=-1)
    # On the last day the windows hold whole weeks: 12 streams in 28 days, 18 in the 63 before.
    figures.write("plays", [{"ts": f"{last} 10:00", "artist_id": "kraftwerk", "listener_id": "ann"}])
    [(_, growth)] = figures.ask("artist_growth", first=last, last=last, where=('artist_id="abba"',))
    assert growth == pytest.approx((12 / 4) / (18 / 9) - 1)
    # Who was not streamed before has no growth.
    assert figures.ask("artist_growth", first=last, last=last, where=('artist_id="kraftwerk"',)) == []


def test_an_audience_falls_into_segments_by_how_often_it_chose_the_artist(figures: Figures) -> None:
    last = dt.date(2026, 6, 30)
    chosen = {
        "sue": range(10),
        "max": range(0, 27, 3),
        "mia": (0, 5, 27),
        "lea": (0, 1),
        "leo": (27,),
        "old": (28, 29, 30),
        "new": (),
    }
    plays = [(last - dt.timedelta(days=ago), who, "library") for who, days in chosen.items() for ago in days]
    # Twice on a day is one day, and what radio plays is not chosen.
    plays += [
        (last, "lea", "artist"),
        *((last - dt.timedelta(days=ago), who, "radio") for who in ("new", "leo") for ago in range(12)),
    ]
    rows = [
        {"ts": f"{day} 10:00", "listener_id": who, "source": source, "artist_id": "abba"} for day, who, source in sorted(plays)
    ]
    figures.write("plays", rows)
    by_hand = {
        "artist_super_listeners": 1,  # sue, on 10 days
        "artist_moderate_listeners": 2,  # max on 9, mia on 3
        "artist_light_listeners": 2,  # lea on 2, leo on 1
        "artist_monthly_active_listeners": 5,
        "artist_previously_active_listeners": 1,  # old
        "artist_programmed_listeners": 1,  # new
        "artist_audience": 7,
    }
    asked = {"first": last, "last": last, "where": ('artist_id="abba"',)}
    assert {name: figures.ask(name, **asked)[0][1] for name in by_hand} == by_hand
