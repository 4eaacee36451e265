"""A board of the first elements of a dimension: ranks, and others that are merged and not summed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analytics_dagster.errors import UserError
from analytics_dagster.lake.lake import Lake
from analytics_dagster.metrics.declarations import Catalogue
from tests.metrics.conftest import Figures

PLAYS = [
    # day, listener, artist
    ("2026-02-01", "ann", "abba"),
    ("2026-02-01", "bob", "abba"),
    ("2026-02-01", "ann", "cher"),
    ("2026-02-01", "ann", "blur"),
    ("2026-02-02", "bob", "cher"),
    ("2026-02-02", "cem", "cher"),
    ("2026-02-02", "bob", "doors"),
    ("2026-02-02", "bob", None),
]


def _write(figures: Figures, plays: list[tuple[str, str | None, str | None]]) -> Figures:
    rows: list[dict[str, Any]] = [{"ts": f"{day} 10:00", "listener_id": who, "artist_id": artist} for day, who, artist in plays]
    figures.write("plays", rows)
    return figures


def test_elements_are_ranked_over_the_range_and_the_others_are_one(figures: Figures) -> None:
    _write(figures, PLAYS)
    assert figures.ask("artist_streams", by=("artist_id",), top=2) == [
        ("2026-02-01 00:00", "cher", 1, 1),
        ("2026-02-01 00:00", "abba", 2, 2),
        ("2026-02-01 00:00", "Other", None, 1),
        ("2026-02-02 00:00", "cher", 1, 2),
        ("2026-02-02 00:00", "Other", None, 2),
    ]


def test_a_chart_of_a_month_has_one_figure_for_each_element(figures: Figures) -> None:
    _write(figures, PLAYS)
    board = figures.ask("artist_streams", by=("artist_id",), top=3, grain="month")
    assert [row[1:] for row in board] == [("cher", 1, 3), ("abba", 2, 2), ("blur", 3, 1), ("Other", None, 2)]


def test_the_others_listeners_are_counted_once_each(figures: Figures) -> None:
    _write(figures, PLAYS)
    board = figures.ask("artist_listeners", by=("artist_id",), top=1, grain="month")
    # cher: ann, bob, cem. All others: ann and bob, who heard three of them.
    assert [row[1:] for row in board] == [("cher", 1, 3), ("Other", None, 2)]


def test_what_is_told_over_a_window_is_ranked_by_the_newest_figure(figures: Figures) -> None:
    _write(figures, PLAYS)
    board = figures.ask("artist_monthly_listeners", by=("artist_id",), top=1)
    assert [row[1:] for row in board if row[0].startswith("2026-02-02")] == [("cher", 1, 3), ("Other", None, 2)]


def test_rows_without_a_value_are_an_element_and_a_real_other_keeps_its_name(figures: Figures) -> None:
    _write(figures, [("2026-02-01", "ann", None)] * 3 + [("2026-02-01", "ann", "Other")] * 2 + [("2026-02-01", "ann", "abba")])
    board = figures.ask("artist_streams", by=("artist_id",), top=2)
    assert [row[1:] for row in board] == [(None, 1, 3), ("Other", 2, 2), ("(Other)", None, 1)]


def test_a_board_is_split_by_other_dimensions_within_each_element(figures: Figures) -> None:
    rows = [("2026-02-01 10:00", "abba", "SE"), ("2026-02-01 10:00", "abba", "DE"), ("2026-02-01 10:00", "cher", "US")]
    figures.write("plays", [{"ts": ts, "artist_id": artist, "country": country} for ts, artist, country in rows])
    board = figures.ask("artist_streams_by_place", by=("artist_id", "country"), top=1)
    assert [row[1:] for row in board] == [("abba", "DE", 1, 1), ("abba", "SE", 1, 1), ("Other", "US", None, 1)]


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ({"top": 0, "by": ("artist_id",)}, "top 0 is not allowed; give a number from 1 to 1,000"),
        ({"top": 1_001, "by": ("artist_id",)}, "top 1001 is not allowed"),
        ({"top": 3}, "top needs a dimension"),
    ],
)
def test_a_board_that_cannot_be_made_is_refused(figures: Figures, question: dict[str, Any], message: str) -> None:
    _write(figures, PLAYS)
    with pytest.raises(UserError, match=message):
        figures.ask("artist_streams", **question)


DAYS = st.sampled_from(["2026-02-01", "2026-02-02", "2026-02-09"])
PEOPLE = st.sampled_from(["ann", "bob", "cem", None])
ARTISTS = st.sampled_from(["abba", "blur", "cher", "Other", "it's", None])


@settings(max_examples=15)
@given(plays=st.lists(st.tuples(DAYS, PEOPLE, ARTISTS), min_size=1, max_size=30), top=st.integers(1, 7))
def test_the_board_sums_to_the_total_of_each_bucket(
    plays: list[tuple[str, str | None, str | None]], top: int, catalogue: Catalogue, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("board")
    figures = _write(Figures(Lake(str(folder / "lake"), folder / "locks").tenant("acme"), catalogue), plays)
    board = figures.ask("artist_streams", by=("artist_id",), top=top, grain="week")
    totals: dict[str, float] = {}
    for ts, _, _, value in board:
        totals[ts] = totals.get(ts, 0) + value
    assert sorted(totals.items()) == figures.ask("artist_streams", grain="week")
    ranked = [row for row in board if row[2] is not None]
    assert {row[2] for row in ranked} == set(range(1, len({row[1] for row in ranked}) + 1))
