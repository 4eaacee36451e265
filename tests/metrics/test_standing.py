"""Growth in standard deviations of artists at the same career stage."""

from __future__ import annotations

import datetime as dt
import statistics
from collections.abc import Callable
from pathlib import Path

import pytest

from analytics_dagster.errors import DeclarationError, UserError
from analytics_dagster.metrics.load import load_catalogue
from analytics_dagster.metrics.query import DayReader
from analytics_dagster.metrics.standing import LEAST_PEERS, stage
from tests.metrics.conftest import Figures

LAST = dt.date(2026, 3, 31)
EARLY, LATE = LAST - dt.timedelta(days=60), LAST
# Streams in the nine weeks before the last four, and in these: ten small artists (10 to 99 streams of 13 weeks) and one large.
SMALL = {f"small-{n}": (9, 4 + n) for n in range(LEAST_PEERS)}
LARGE = {"large": (180, 800)}
# (late / 4) / (early / 9) - 1: of the small ones 4 / 4 - 1 = 0, 5 / 4 - 1 = 0.25, ..., 13 / 4 - 1 = 2.25.
GROWTH = [n / 4 for n in range(LEAST_PEERS)]
DEVIATION = statistics.stdev(GROWTH)


@pytest.fixture
def artists(figures: Figures) -> Figures:
    figures.write(
        "plays",
        [
            {"ts": f"{day} 10:00", "artist_id": artist, "listener_id": "ann"}
            for artist, streams in (SMALL | LARGE).items()
            for day, count in zip((EARLY, LATE), streams, strict=True)
            for _ in range(count)
        ],
        only="artists",
    )
    return figures


def test_growth_is_told_in_deviations_from_the_mean_of_artists_of_the_same_size(artists: Figures) -> None:
    told = artists.ask("artist_growth_score", first=LAST, last=LAST, by=("artist_id",))
    # The mean is 1.125, the deviation 0.757: from -1.486 to 1.486. The large one stands alone, and nothing is said of it.
    assert told == [(f"{LAST} 00:00", f"small-{n}", pytest.approx((n / 4 - 1.125) / DEVIATION)) for n in range(LEAST_PEERS)]
    assert told[-1][-1] == pytest.approx(1.486, abs=0.001)


def test_a_condition_picks_an_artist_and_does_not_change_its_peers(artists: Figures) -> None:
    [(_, score)] = artists.ask("growth_score", first=LAST, last=LAST, where=('artist_id="small-9"',))
    assert score == pytest.approx(1.486, abs=0.001)
    some = artists.ask("growth_score", first=LAST, last=LAST, by=("artist_id",), where=('artist_id=~"small-[89]"',))
    assert [(artist, pytest.approx(value)) for _, artist, value in some][1] == ("small-9", score)
    with DayReader(artists.tenant, artists.catalogue, LAST, LAST) as reader:
        read = reader.query(artists.catalogue.metric("growth_score"), ("artist_id",))
    assert read["value"].to_pylist()[-1] == pytest.approx(score)


def test_with_fewer_peers_nothing_is_told(figures: Figures) -> None:
    plays = [
        {"ts": f"{day} 10:00", "artist_id": f"a{n}"}
        for n in range(LEAST_PEERS - 1)
        for day, count in ((EARLY, 9), (LATE, 4 + n))
        for _ in range(count)
    ]
    figures.write("plays", plays, only="artists")
    assert figures.ask("growth_score", first=LAST, last=LAST, by=("artist_id",)) == []


def test_a_question_must_say_whose_standing_it_is_about(artists: Figures) -> None:
    with pytest.raises(UserError, match="split by artist_id, or pick one with artist_id="):
        artists.ask("growth_score", first=LAST, last=LAST)
    with pytest.raises(UserError, match="has no top"):
        artists.ask("growth_score", first=LAST, last=LAST, by=("artist_id",), top=3)


@pytest.mark.parametrize(("size", "digits"), [(0.5, 0), (1, 0), (9.99, 0), (10, 1), (99, 1), (100, 2), (1e6, 6)])
def test_a_stage_is_how_many_digits_a_size_has(size: float, digits: int) -> None:
    assert stage(size) == digits


OWN = """
metrics:
  - name: own
    description: Own.
    type: standing
    type_params: {{metric: {metric}, alike: {alike}, dimension: {dimension}}}
    unit: standard deviations
    direction: neutral
"""


@pytest.mark.parametrize(
    ("metric", "alike", "dimension", "said"),
    [
        ("artist_growth", "artist_followers", "artist_id", "a standing, which reads one semantic model's own figures"),
        ("artist_growth_score", "artist_monthly_streams", "artist_id", "is a standing, which is no part of another"),
        (
            "artist_growth",
            "artist_monthly_streams",
            "artist",
            "no dimension 'artist' in the semantic model 'artists'; did you mean",
        ),
        (
            "artist_grwth",
            "artist_monthly_streams",
            "artist_id",
            "no metric or measure 'artist_grwth'; did you mean 'artist_growth'",
        ),
    ],
)
def test_a_declaration_that_cannot_be_is_refused(
    declare: Callable[[str], Path], metric: str, alike: str, dimension: str, said: str
) -> None:
    with pytest.raises(DeclarationError, match=said):
        load_catalogue(declare(OWN.format(metric=metric, alike=alike, dimension=dimension)))
