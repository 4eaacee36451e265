"""Figures over a rolling window: against a plain recomputation, and at the edges where windows go wrong."""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analytics_dagster.errors import DeclarationError, UserError
from analytics_dagster.lake.lake import Lake
from analytics_dagster.metrics.declarations import Catalogue
from analytics_dagster.metrics.load import load_catalogue
from analytics_dagster.metrics.query import DayReader

if TYPE_CHECKING:
    from tests.metrics.conftest import Figures

FIRST = dt.date(2026, 1, 1)


def play(day: int, listener: str | None, country: str | None = "DE") -> dict[str, Any]:
    """A stream on the n-th day."""
    at = FIRST + dt.timedelta(days=day)
    return {"ts": f"{at} 10:00", "listener_id": listener, "country": country, "ms_played": 60_000}


def at(day: int) -> str:
    return f"{FIRST + dt.timedelta(days=day)} 00:00"


def test_a_listener_counts_for_the_28_days_that_begin_with_a_play(figures: Figures) -> None:
    figures.write("plays", [play(0, "ann"), play(1, "bob"), play(29, "cem")])
    told = dict(figures.ask("monthly_active_listeners"))
    assert [told[at(day)] for day in (0, 1, 27, 28)] == [1, 2, 2, 1]
    # Bob's last day was the 28th; the days without any play have a figure too, and nothing is told behind the last play.
    assert told[at(29)] == 1
    assert len(told) == 30


def test_a_question_about_one_day_looks_at_the_days_before_it(figures: Figures) -> None:
    figures.write("plays", [play(0, "ann"), play(5, "bob"), play(20, "bob")])
    day = FIRST + dt.timedelta(days=20)
    assert figures.value("mau", first=day, last=day) == 2
    assert figures.value("wau", first=day, last=day) == 1
    assert figures.value("stickiness", first=day, last=day) == 0.5


def test_a_window_without_anybody_has_no_figure(figures: Figures) -> None:
    figures.write("plays", [play(0, "ann"), play(10, "ann")])
    assert [ts for ts, _ in figures.ask("wau")] == [at(day) for day in (*range(7), 10)]


def test_each_country_has_its_own_window_and_a_listener_may_be_in_two(figures: Figures) -> None:
    figures.write("plays", [play(0, "ann", "DE"), play(1, "ann", "US"), play(1, "bob", None)])
    told = figures.ask("mau", by=("country",))
    assert told == [(at(0), "DE", 1), (at(1), None, 1), (at(1), "DE", 1), (at(1), "US", 1)]
    assert figures.ask("mau", where=('country="US"',)) == [(at(1), 1)]


def test_a_week_and_a_month_tell_what_their_last_day_tells(figures: Figures) -> None:
    figures.write("plays", [play(0, "ann"), play(3, "bob"), play(30, "bob"), play(31, "cem")])
    by_day = dict(figures.ask("mau"))
    assert figures.ask("mau", grain="month") == [(at(0), by_day[at(30)]), (at(31), by_day[at(31)])]
    assert figures.ask("mau", grain="week")[0] == ("2025-12-29 00:00", by_day[at(3)])


@pytest.mark.parametrize(("metric", "grain"), [("mau", "hour"), ("stickiness", "hour"), ("stickiness", "month")])
def test_a_grain_that_a_window_has_no_meaning_for_is_refused(figures: Figures, metric: str, grain: str) -> None:
    figures.write("plays", [play(0, "ann")])
    with pytest.raises(UserError, match="is told over 28 days; its grain is"):
        figures.ask(metric, grain=grain)


def test_money_over_a_window_is_never_added_over_currencies(figures: Figures) -> None:
    def paid(day: int, listener: str, amount: int, currency: str) -> dict[str, Any]:
        ts = f"{FIRST + dt.timedelta(days=day)} 09:00"
        return {"ts": ts, "listener_id": listener, "event": "renewal", "amount_minor": amount, "currency": currency}

    figures.write("subscriptions", [paid(0, "ann", 999, "EUR"), paid(3, "ann", 1, "EUR"), paid(3, "bob", 500, "USD")])
    with pytest.raises(UserError, match="cannot be added up"):
        figures.ask("monthly_revenue")
    assert figures.ask("monthly_revenue", by=("currency",))[-2:] == [(at(3), "EUR", 1_000), (at(3), "USD", 500)]
    assert figures.value("arppu", first=FIRST, last=FIRST, where=('currency="EUR"',)) == 999


def test_the_reader_of_many_days_reads_back_as_far_as_a_window_asks(figures: Figures) -> None:
    figures.write("plays", [play(0, "ann", "US"), play(20, "bob", "DE")])
    day, family = FIRST + dt.timedelta(days=20), figures.catalogue.family("listening")
    with DayReader(figures.tenant, figures.catalogue, day, day) as reader:
        told = {name: reader.query(figures.catalogue.metric(name)) for name in ("dau", "wau", "mau", "stickiness", "streams")}
        assert {name: answer.column("value").to_pylist() for name, answer in told.items()} == {
            "dau": [1.0],
            "wau": [1.0],
            "mau": [2.0],
            "stickiness": [0.5],
            "streams": [1.0],
        }
        assert reader.values(family, "country") == ["DE"]


def test_a_segment_without_rows_on_the_last_day_has_its_window_all_the_same(figures: Figures) -> None:
    figures.write("plays", [play(0, "ann", "IS"), play(1, "bob", "DE"), play(3, "bob", "DE")])
    for last in (2, 3):
        day = FIRST + dt.timedelta(days=last)
        assert figures.ask("wau", where=('country="IS"',), first=day, last=day) == [(at(last), 1)]


def test_a_late_play_changes_every_window_that_holds_its_day(figures: Figures) -> None:
    figures.write("plays", [play(0, "ann")])
    figures.write("plays", [play(30, "ann")])
    figures.write("plays", [play(2, "bob")])
    told = dict(figures.ask("mau"))
    assert [told[at(day)] for day in (1, 2, 27, 28, 29, 30)] == [1, 2, 2, 1, 1, 1]


PLAYS = st.lists(
    st.tuples(st.integers(0, 45), st.sampled_from(["ann", "bob", "cem", None]), st.sampled_from(["DE", "US", None])),
    min_size=1,
    max_size=25,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(played=PLAYS)
def test_windows_are_what_counting_each_day_anew_gives(
    played: list[tuple[int, str | None, str | None]], tmp_path_factory: pytest.TempPathFactory, catalogue: Catalogue
) -> None:
    from tests.metrics.conftest import Figures

    root = tmp_path_factory.mktemp("lake")
    figures = Figures(Lake(str(root / "lake"), root / "locks").tenant("acme"), catalogue)
    figures.write("plays", [play(*one) for one in sorted(played, key=lambda one: one[0])])
    days = range(min(d for d, _, _ in played), max(d for d, _, _ in played) + 1)
    listeners: dict[tuple[str, str | None], int] = {}
    streams: dict[str, int] = {}
    for day in days:
        inside = [one for one in played if day - 28 < one[0] <= day]
        if inside:
            streams[at(day)] = len(inside)
        for country in {one[2] for one in inside}:
            count = len({who for _, who, where in inside if where == country and who is not None})
            if count:
                listeners[at(day), country] = count
    assert {(ts, country): value for ts, country, value in figures.ask("mau", by=("country",))} == listeners
    # Bounded, windows are told by another query than all there is.
    ends = [dt.date.fromisoformat(at(d)[:10]) for d in (days[0], days[len(days) // 2], days[-1])]
    for first, last in itertools.combinations_with_replacement(ends, 2):
        bounded = figures.ask("mau", by=("country",), first=first, last=last)
        inside_range = {k: v for k, v in listeners.items() if str(first) <= k[0][:10] <= str(last)}
        assert {(ts, country): value for ts, country, value in bounded} == inside_range
    assert dict(figures.ask("monthly_streams")) == streams


def test_measures_may_be_named_like_columns_and_like_windows(declare: Callable[[str], Path], tmp_path: Path) -> None:
    from tests.metrics.conftest import Figures

    text = """
semantic_models:
  - name: names
    description: Names that are near others.
    model: raw/plays
    owner: me
    dimensions: [{name: country, description: Country.}]
    measures:
      - {name: listener, agg: count_distinct, expr: listener_id, description: Listeners.}
      - {name: listener_28, agg: count_distinct, expr: country, description: Countries.}
metrics:
  - name: share
    description: Countries for each listener of 28 days.
    type: ratio
    type_params: {numerator: listener_28, denominator: listener_of_28}
    unit: ratio
    direction: neutral
  - name: listener_of_28
    description: Listeners of 28 days.
    type: cumulative
    type_params: {measure: listener, cumulative_type_params: {window: 4 weeks}}
    unit: listeners
    direction: neutral
"""
    own = load_catalogue(declare(text))
    figures = Figures(Lake(str(tmp_path / "lake"), tmp_path / "locks").tenant("acme"), own)
    figures.write("plays", [play(0, "ann"), play(0, "bob"), play(1, "ann", "US"), play(1, None)])
    assert figures.ask("listener_of_28") == [(at(0), 2), (at(1), 2)]
    assert figures.ask("share") == [(at(0), 0.5), (at(1), 1.0)]


def test_a_measure_that_has_no_window_is_refused_with_file_and_line(declare: Callable[[str], Path]) -> None:
    text = """
metrics:
  - name: rolling_latency
    description: Latency over a week.
    type: cumulative
    type_params: {measure: api_latency_ms, cumulative_type_params: {window: 7 days}}
    unit: ms
    direction: up_is_bad
"""
    with pytest.raises(DeclarationError, match=r"own.yaml:6: measure 'api_latency_ms' is percentile, which has no figure"):
        load_catalogue(declare(text))
    with pytest.raises(DeclarationError, match=r"own.yaml:6: window '1 month'"):
        load_catalogue(declare(text.replace("7 days", "1 month").replace("api_latency_ms", "api_requests")))


SEEN = """
metrics:
  - name: regulars
    description: Listeners on two or three days of five.
    type: cumulative
    type_params: {measure: listeners, cumulative_type_params: {window: 5 days}, seen_on: {at_least: 2, at_most: 3}}
    unit: listeners
    direction: neutral
"""


@settings(max_examples=20)
@given(plays=st.lists(st.tuples(st.integers(0, 14), st.sampled_from(["ann", "bob", "cem"])), min_size=1, max_size=30))
def test_who_counts_by_the_days_on_which_he_came_is_counted_on_those_days(
    plays: list[tuple[int, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    from tests.metrics.conftest import Figures

    folder = tmp_path_factory.mktemp("seen")
    (folder / "own.yaml").write_text(SEEN, encoding="utf-8")
    figures = Figures(Lake(str(folder / "lake"), folder / "locks").tenant("acme"), load_catalogue(folder))
    figures.write("plays", [play(day, who) for day, who in plays])
    days = range(min(day for day, _ in plays), max(day for day, _ in plays) + 1)
    expected = []
    for day in days:
        inside = {who: len({d for d, w in plays if w == who and day - 5 < d <= day}) for _, who in plays}
        regulars = sum(1 for n in inside.values() if 2 <= n <= 3)
        expected += [(at(day), regulars)] if regulars else []
    assert figures.ask("regulars") == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("measure: listeners", "measure: streams"), "seen_on is for count_distinct"),
        (("at_most: 3", "at_most: 1"), "at_most 1 below at_least 2; nobody can be both"),
        (("cumulative_type_params: {window: 5 days}, ", ""), "seen_on counts days of a window; add cumulative_type_params"),
    ],
)
def test_days_that_cannot_be_counted_are_refused(change: tuple[str, str], message: str, declare: Callable[[str], Path]) -> None:
    with pytest.raises(DeclarationError, match=message):
        load_catalogue(declare(SEEN.replace(*change)))


def test_who_came_on_so_many_days_is_told_as_it_was_some_days_before_too(declare: Callable[[str], Path], tmp_path: Path) -> None:
    from tests.metrics.conftest import Figures

    before = """
  - name: regulars_then
    description: The same, two days before.
    type: derived
    type_params: {expr: earlier, metrics: [{name: regulars, offset_window: 2 days, alias: earlier}]}
    unit: listeners
    direction: neutral
"""
    own = load_catalogue(declare(SEEN.rstrip("\n") + before))
    figures = Figures(Lake(str(tmp_path / "lake"), tmp_path / "locks").tenant("acme"), own)
    figures.write("plays", [play(0, "ann"), play(1, "ann"), play(8, "bob")])
    assert figures.ask("regulars") == [(at(day), 1) for day in range(1, 5)]
    assert figures.ask("regulars_then") == [(at(day), 1) for day in range(3, 7)]


GROWTH = """
metrics:
  - name: growth
    description: Listeners of seven days against those of the seven before.
    type: derived
    type_params:
      expr: weekly_active_listeners / week_before
      metrics: [weekly_active_listeners, {name: weekly_active_listeners, offset_window: 1 week, alias: week_before}]
    unit: ratio
    direction: down_is_bad
"""


def test_a_formula_may_look_at_a_window_as_it_was_some_days_before(declare: Callable[[str], Path], tmp_path: Path) -> None:
    from tests.metrics.conftest import Figures

    own = load_catalogue(declare(GROWTH))
    figures = Figures(Lake(str(tmp_path / "lake"), tmp_path / "locks").tenant("acme"), own)
    figures.write("plays", [play(0, "ann"), play(6, "ann"), play(7, "bob"), play(7, "cem"), play(15, "ann")])
    # Day 7 has ann, bob and cem within its week, and had ann a week before; day 14 has nobody; day 15 has ann, of three on day 8.
    told = dict(figures.ask("growth"))
    assert (told[at(7)], told[at(13)], told[at(15)]) == (3 / 1, 2 / 1, 1 / 3)
    assert at(6) not in told
    assert at(14) not in told
    day = FIRST + dt.timedelta(days=15)
    assert figures.value("growth", first=day, last=day) == 1 / 3


def test_only_what_has_a_window_is_looked_at_as_it_was(declare: Callable[[str], Path]) -> None:
    text = GROWTH.replace("{name: weekly_active_listeners", "{name: daily_active_listeners")
    with pytest.raises(DeclarationError, match="offset_window is for a cumulative metric, which 'daily_active_listeners' is not"):
        load_catalogue(declare(text))
    with pytest.raises(DeclarationError, match="expr names weekly_active_listeners, week_before, but metrics lists"):
        load_catalogue(declare(GROWTH.replace("[weekly_active_listeners, ", "[")))
