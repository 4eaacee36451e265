"""Figures that are put together from others: of several families, spread over a dimension, since the beginning, up to a peak."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analytics_dagster.errors import NotFoundError, UserError
from analytics_dagster.lake.lake import Lake
from analytics_dagster.metrics.declarations import Catalogue
from analytics_dagster.metrics.load import load_catalogue
from analytics_dagster.metrics.query import DayReader, MetricQuery, run_query
from tests.metrics.conftest import Figures


def _day(number: int) -> str:
    return f"{dt.date(2026, 2, 1) + dt.timedelta(days=number)}"


def _plays(figures: Figures, *plays: tuple[int, str, str]) -> None:
    rows = [{"ts": f"{_day(n)} 10:00", "listener_id": who, "artist_id": artist, "track_id": artist} for n, who, artist in plays]
    figures.write("plays", rows)


def _done(figures: Figures, *done: tuple[int, str, str, str]) -> None:
    rows = [{"ts": f"{_day(n)} 11:00", "listener_id": who, "event": event, "artist_id": artist} for n, who, event, artist in done]
    figures.write("interactions", rows)


def _of_days(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return [(int(row[0][8:10]) - 1, *row[1:]) for row in rows]


def test_who_was_never_saved_has_a_save_rate_of_zero(figures: Figures) -> None:
    _plays(figures, (0, "ann", "abba"), (0, "bob", "abba"), (0, "ann", "blur"), (1, "ann", "abba"), (2, "ann", "abba"))
    _done(figures, (0, "ann", "save", "abba"), (2, "ann", "share", "abba"))
    assert _of_days(figures.ask("artist_save_rate", by=("artist_id",))) == [
        (0, "abba", 1 / 2),
        (0, "blur", 0),
        (1, "abba", 0),
        (2, "abba", 0),
    ]


def test_where_interactions_were_not_reported_there_is_no_save_rate(figures: Figures) -> None:
    _plays(figures, (0, "ann", "abba"), (1, "ann", "abba"), (2, "ann", "abba"))
    assert figures.ask("artist_save_rate") == []
    _done(figures, (1, "ann", "save", "abba"))
    assert _of_days(figures.ask("artist_save_rate")) == [(1, 1)]


def test_followers_stay_on_days_when_nothing_happens(figures: Figures) -> None:
    _done(
        figures,
        (0, "ann", "follow", "abba"),
        (1, "bob", "follow", "abba"),
        (4, "ann", "unfollow", "abba"),
        (4, "cem", "follow", "blur"),
    )
    assert _of_days(figures.ask("artist_followers", by=("artist_id",))) == [
        (0, "abba", 1),
        (1, "abba", 2),
        (2, "abba", 2),
        (3, "abba", 2),
        (4, "abba", 1),
        (4, "blur", 1),
    ]
    # What came before the range counts.
    assert _of_days(figures.ask("artist_followers", first=dt.date(2026, 2, 4), last=dt.date(2026, 2, 5))) == [(3, 2), (4, 2)]
    assert figures.value("artist_followers", grain="total") == 2
    assert figures.ask("artist_followers", grain="month") == [("2026-02-01 00:00", 2)]
    assert figures.ask("artist_followers", first=dt.date(2026, 2, 3), last=dt.date(2026, 2, 5), by=("artist_id",), top=1) == [
        ("2026-02-03 00:00", "abba", 1, 2),
        ("2026-02-04 00:00", "abba", 1, 2),
        ("2026-02-05 00:00", "abba", 1, 1),
        ("2026-02-05 00:00", "Other", None, 1),
    ]


def test_the_time_to_the_peak_grows_when_a_stronger_day_comes(figures: Figures) -> None:
    _plays(
        figures,
        (0, "ann", "sos"),
        *[(2, "ann", "sos")] * 3,
        *[(3, "ann", "sos")] * 3,
        *[(5, "ann", "sos")] * 4,
        (6, "ann", "sos"),
    )
    assert _of_days(figures.ask("track_time_to_peak", by=("track_id",))) == [
        (0, "sos", 0),
        (2, "sos", 2),
        (3, "sos", 2),  # as strong as day 2, which came first
        (5, "sos", 5),
        (6, "sos", 5),
    ]
    assert figures.value("track_time_to_peak", grain="month") == 5
    assert figures.value("track_time_to_peak", first=dt.date(2026, 2, 7)) == 5


def test_a_concentration_is_told_over_buckets_and_splits(figures: Figures) -> None:
    where = [(0, "abba", "SE"), (0, "abba", "SE"), (0, "abba", "DE"), (1, "abba", "US"), (0, "blur", "GB"), (0, "blur", None)]
    figures.write("plays", [{"ts": f"{_day(n)} 10:00", "artist_id": artist, "country": country} for n, artist, country in where])
    assert _of_days(figures.ask("artist_country_concentration", by=("artist_id",))) == [
        (0, "abba", pytest.approx(5 / 9)),
        (0, "blur", 1),
        (1, "abba", 1),
    ]
    whole = figures.ask("artist_country_concentration", by=("artist_id",), grain="month", top=1)
    assert [row[1:] for row in whole] == [("blur", 1, 1), ("Other", None, pytest.approx(6 / 16))]
    with pytest.raises(UserError, match="is told over country; do not split it by that"):
        figures.ask("artist_country_concentration", by=("country",))


def test_a_ratio_of_two_families_is_split_and_filtered_by_what_both_have(figures: Figures) -> None:
    figures.write(
        "plays", [{"ts": f"{_day(0)} 10:00", "listener_id": who, "country": c} for who, c in (("a", "DE"), ("b", "US"))]
    )
    figures.write("interactions", [{"ts": f"{_day(0)} 23:00", "listener_id": "a", "event": "save", "country": "DE"}])
    assert figures.ask("save_rate", by=("country",)) == [("2026-02-01 00:00", "DE", 1), ("2026-02-01 00:00", "US", 0)]
    assert figures.ask("save_rate", by=("country",), grain="total") == [
        ("2026-02-01 00:00", "DE", 1),
        ("2026-02-01 00:00", "US", 0),
    ]
    assert figures.ask("save_rate", where=('country="DE"',)) == [("2026-02-01 00:00", 1)]
    assert figures.ask("save_rate", by=("country",), top=1) == [
        ("2026-02-01 00:00", "DE", 1, 1),
        ("2026-02-01 00:00", "Other", None, 0),
    ]
    assert figures.ask("save_rate", grain="hour") == []  # nobody listened in the hour in which a saved
    with pytest.raises(NotFoundError, match="'save_rate' has no dimension 'device'; it has country, tier, source"):
        figures.ask("save_rate", by=("device",))


def test_a_formula_over_windows_and_totals_has_no_figure_of_an_hour_and_a_mixed_one_none_of_a_week(figures: Figures) -> None:
    _plays(figures, (0, "ann", "abba"))
    _done(figures, (0, "ann", "follow", "abba"))
    assert figures.value("artist_fan_retention", grain="week") == 1
    for metric, grain in (("artist_followers", "hour"), ("artist_fan_retention", "hour"), ("track_time_to_peak", "minute")):
        with pytest.raises(UserError, match=r"its grain is day, week(,| or) month"):
            figures.ask(metric, grain=grain)


def test_money_of_several_currencies_is_not_put_together_either(declare: Callable[[str], Path], figures: Figures) -> None:
    text = (
        "metrics:\n  - name: revenue_per_listener\n    description: d.\n    unit: cents\n    direction: neutral\n"
        "    type: ratio\n    type_params: {numerator: revenue, denominator: listeners}\n"
    )
    own = Figures(figures.tenant, load_catalogue(declare(text)))
    _plays(own, (0, "ann", "abba"))
    paid = [
        {"ts": f"{_day(0)} 09:00", "listener_id": "ann", "event": "upgrade", "amount_minor": 999, "currency": c}
        for c in ("EUR", "USD")
    ]
    own.write("subscriptions", paid[:1])
    assert own.value("revenue_per_listener") == 999
    own.write("subscriptions", paid)
    with pytest.raises(UserError, match="of different currency cannot be added up"):
        own.value("revenue_per_listener")


AHEAD = """
metrics:
  - name: savers_a_newcomer
    description: Savers over listeners who were new.
    type: ratio
    type_params: {numerator: savers, denominator: new_listeners}
    unit: ratio
    direction: neutral
  - name: newcomers_kept_and_savers
    description: A share that is known a day later, and a count of another family.
    type: derived
    type_params: {expr: day_1_retention * 100 + savers}
    unit: none
    direction: neutral
  - name: savers_and_listeners_before
    description: Of another family, as it was two days before.
    type: derived
    type_params:
      expr: savers * 10 + listeners_before
      metrics: [savers, {name: weekly_active_listeners, offset_window: 2 days, alias: listeners_before}]
    unit: none
    direction: neutral
"""


def test_what_looks_at_other_days_is_put_together_with_another_family(declare: Callable[[str], Path], figures: Figures) -> None:
    own = Figures(figures.tenant, load_catalogue(declare(AHEAD)))
    _plays(own, (0, "ann", "abba"), (0, "bob", "abba"), (1, "ann", "abba"), (2, "cem", "abba"), (3, "cem", "abba"))
    _done(own, (0, "ann", "save", "abba"), (3, "cem", "share", "abba"))
    # Who was new, on the days that have somebody new; nobody saved on the third.
    assert _of_days(own.ask("savers_a_newcomer")) == [(0, 1 / 2), (2, 0)]
    # What is not known yet, or of nobody, is no share of 0.
    assert _of_days(own.ask("newcomers_kept_and_savers")) == [(0, 51), (2, 100)]
    # Before the first day plus two it is not known how many there were.
    assert _of_days(own.ask("savers_and_listeners_before")) == [(2, 2), (3, 2)]
    first, last = dt.date(2026, 2, 1), dt.date(2026, 2, 3)
    with DayReader(own.tenant, own.catalogue, first, last) as reader:
        for name in ("savers_a_newcomer", "newcomers_kept_and_savers", "savers_and_listeners_before"):
            alone = run_query(own.tenant, own.catalogue, MetricQuery(name, first, last))
            assert reader.query(own.catalogue.metric(name)).equals(alone), name


EVENTS = st.tuples(st.integers(0, 9), st.sampled_from(["follow", "unfollow", "save"]), st.sampled_from(["abba", "blur", None]))


@settings(max_examples=15)
@given(done=st.lists(EVENTS, min_size=1, max_size=20))
def test_a_total_is_the_sum_of_all_days_up_to_the_day(
    done: list[tuple[int, str, str | None]], catalogue: Catalogue, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("total")
    figures = Figures(Lake(str(folder / "lake"), folder / "locks").tenant("acme"), catalogue)
    rows = [{"ts": f"{_day(n)} 11:00", "event": event, "artist_id": artist} for n, event, artist in done]
    figures.write("interactions", rows)
    worth = {"follow": 1, "unfollow": -1, "save": 0}
    for day, artist, followers in _of_days(figures.ask("artist_followers", by=("artist_id",))):
        assert followers == sum(worth[event] for n, event, whose in done if whose == artist and n <= day)


def test_a_reader_of_many_questions_gives_the_same(figures: Figures) -> None:
    _plays(figures, (0, "ann", "abba"), (0, "bob", "abba"), (2, "bob", "blur"))
    _done(figures, (0, "ann", "follow", "abba"), (1, "bob", "follow", "abba"), (2, "bob", "save", "blur"))
    first, last = dt.date(2026, 2, 2), dt.date(2026, 2, 3)
    with DayReader(figures.tenant, figures.catalogue, first, last) as reader:
        for name in ("artist_save_rate", "artist_followers", "artist_fan_retention", "artist_country_concentration"):
            metric = figures.catalogue.metric(name)
            alone = run_query(figures.tenant, figures.catalogue, MetricQuery(name, first, last, by=("artist_id",)))
            assert reader.query(metric, ("artist_id",)).equals(alone), name
