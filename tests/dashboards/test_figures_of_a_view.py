"""What a view says of a metric, by hand: one figure for many days, ranked parts, currencies, comparisons."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analytics_dagster.dashboards.figures import Basis, Figure, Figures
from analytics_dagster.dashboards.view import View, parse_view
from analytics_dagster.metrics.query import DayReader

if TYPE_CHECKING:
    from tests.metrics.conftest import Figures as Lake

LAST = dt.date(2026, 3, 15)
FIRST = LAST - dt.timedelta(days=13)
ASSETS = ("aggregates/listening", "aggregates/subscriptions", "aggregates/api")


def play(day: dt.date, listener: str, country: str | None = "DE", ms: int = 60_000, source: str = "playlist") -> dict[str, Any]:
    return {"ts": f"{day} 10:00", "listener_id": listener, "country": country, "ms_played": ms, "source": source}


def back(days: int) -> dt.date:
    return LAST - dt.timedelta(days=days)


@contextmanager
def looking(lake: Lake, query: str = "", begins: dt.date = FIRST) -> Iterator[Figures]:
    view: View = parse_view(query)
    days = view.days(LAST)
    compared = view.compared(days)
    first = min(days.first, compared.first) if compared else days.first
    with DayReader(lake.tenant, lake.catalogue, first, days.last) as reader:
        yield Figures(reader, lake.catalogue, view, days, compared, dict.fromkeys(ASSETS, begins))


def figure(figures: Figures, metric: str) -> Figure:
    return figures.figure(figures.shown(metric)[0])


def test_counts_and_ratios_are_merged_and_listeners_are_the_mean_of_the_days(figures: Lake) -> None:
    figures.write(
        "plays",
        [play(back(1), "ann"), play(back(1), "bob", ms=1_000), play(LAST, "ann"), play(LAST, "ann"), play(back(8), "cem")],
    )
    with looking(figures, "period=7d") as seen:
        plays, skips, listeners = (figure(seen, name) for name in ("plays", "skip_rate", "daily_active_listeners"))
        monthly = figure(seen, "monthly_active_listeners")
    assert (plays.basis, plays.value.now, plays.value.before, plays.value.words) == (Basis.TOTAL, 4, 1, "+300 %")
    # One of four, and not the mean of a half and nothing.
    assert (skips.value.now, skips.value.good) == (0.25, False)
    assert (listeners.basis, listeners.value.now) == (Basis.MEAN_OF_DAYS, 1.5)
    assert (monthly.basis, monthly.value.now) == (Basis.LAST_DAY, 3)
    assert [value for _, value in plays.days] == [None, None, None, None, None, 2, 2]
    assert len(plays.compared) == len(plays.days) == 7


def test_a_rate_is_never_the_mean_of_rates_of_its_days(figures: Lake) -> None:
    figures.write("plays", [play(back(1), "ann", ms=1_000), *(play(LAST, f"l{n}") for n in range(9))])
    with looking(figures, "period=7d&compare=off") as seen:
        assert figure(seen, "skip_rate").value.now == pytest.approx(0.1)


def test_what_begins_before_the_first_data_is_compared_with_nothing(figures: Lake) -> None:
    figures.write("plays", [play(back(7), "ann"), play(LAST, "ann")])
    with looking(figures, "period=7d", begins=back(7)) as seen:
        found, board = figure(seen, "plays"), seen.leaderboard(seen.shown("plays")[0], "country", 3, None)
    assert (found.value.now, found.value.before, found.value.words, found.value.good) == (1, None, "-", None)
    assert board.places[0].value.before is None


def test_filters_apply_where_the_metric_has_the_dimension_and_are_named_where_it_has_not(figures: Lake) -> None:
    figures.write("plays", [play(LAST, "ann"), play(LAST, "bob", "FR"), play(LAST, "cem", None)])
    with looking(figures, "period=day&f=is,country,FR,&f=is,endpoint,/play") as seen:
        [shown] = seen.shown("plays")
        assert seen.figure(shown).value.now == 2
    assert shown.filtered
    assert [f.dimension for f in shown.not_filtered] == ["endpoint"]


def test_money_is_told_by_currency_the_one_that_occurs_most_first(figures: Lake) -> None:
    paid = [("EUR", 999, "DE"), ("EUR", 499, "FR"), ("JPY", 980, "JP")]
    common = {"ts": f"{LAST} 09:00", "event": "renew"}
    rows = [
        {**common, "listener_id": f"l{n}", "amount_minor": minor, "currency": currency, "country": country}
        for n, (currency, minor, country) in enumerate(paid)
    ]
    figures.write("subscriptions", rows)
    with looking(figures, "period=day") as seen:
        euro, yen = seen.shown("revenue")
        assert (seen.figure(euro).value.now, seen.figure(yen).value.now) == (1_498, 980)
        assert (euro.title, euro.unit, euro.name) == ("Revenue (EUR)", "minor EUR", 'revenue{currency="EUR"}')
        assert [other.values for other in euro.others] == [("JPY",)]
        assert seen.leaderboard(euro, "country", 5, None).title == "Revenue (EUR) by country"
    with looking(figures, "period=day&f=is,currency,JPY") as seen:
        [only] = seen.shown("revenue")
        assert seen.figure(only).value.now == 980
        assert not only.filtered  # a currency picks a series, which has a forecast of its own


def test_a_ratio_is_ranked_by_how_much_there_is_of_each_part(figures: Lake) -> None:
    figures.write("plays", [play(LAST, f"l{n}", "DE", 1_000 if n else 60_000) for n in range(3)] + [play(LAST, "x", "FR", 1_000)])
    with looking(figures, "period=day") as seen:
        board = seen.leaderboard(seen.shown("skip_rate")[0], "country", 1, None)
    assert [(place.element, place.value.now) for place in board.places] == [("DE", pytest.approx(2 / 3))]
    assert (board.other, board.left_out, board.places[0].share) == (None, 1, None)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=15)
@given(st.lists(st.tuples(st.sampled_from(["DE", "FR", "US", None]), st.integers(0, 13)), max_size=30), st.integers(1, 4))
def test_rows_of_a_leaderboard_and_the_rest_sum_to_the_total(
    figures: Lake, cells: list[tuple[str | None, int]], top: int
) -> None:
    cells = [*cells, ("US", 0), ("US", 13)]  # both ends, so that every day of the example before is written anew
    figures.write("plays", [play(back(ago), "ann", country) for country, ago in cells])
    with looking(figures, "period=7d") as seen:
        [shown] = seen.shown("plays")
        total, board = seen.figure(shown).value, seen.leaderboard(shown, "country", top, None)
    rows = [*board.places, *([board.other] if board.other else [])]
    assert sum(row.value.now or 0 for row in rows) == total.now == sum(ago < 7 for _, ago in cells)
    assert sum(row.value.before or 0 for row in rows) == total.before == sum(ago >= 7 for _, ago in cells)
    assert sum(row.share or 0 for row in rows) == pytest.approx(1)
    assert len(board.places) + board.left_out == len({country for country, _ in cells})


def test_weeks_begin_on_monday_where_days_would_be_too_many(figures: Lake) -> None:
    figures.write("plays", [play(LAST, "ann"), play(back(6), "ann")])
    with looking(figures, "from=2024-01-01&compare=off") as seen:
        days = figure(seen, "plays").days
    assert days[0][0] == dt.date(2024, 1, 1)
    assert all(day.weekday() == 0 for day, _ in days)
    assert days[-1] == (dt.date(2026, 3, 9), 2)


def test_figures_of_people_are_suppressed_and_filters_that_would_tell_them_are_left_out(figures: Lake) -> None:
    plays = [
        play(LAST, f"{country}-{n}", country) for country, count in (("DE", 30), ("US", 12), ("FR", 3)) for n in range(count)
    ]
    figures.write("plays", plays, only="audience")

    def places(query: str) -> tuple[list[tuple[str | None, float | None, str]], list[str]]:
        with looking(figures, query) as seen:
            shown = seen.shown("monthly_audience_listeners")[0]
            board = seen.leaderboard(shown, "country", 10, None)
        left_out = [f.dimension for f in shown.not_filtered]
        return [(p.element, p.value.now, p.told) for p in board.places], left_out

    every = [("DE", 30.0, "30"), ("FR", None, "suppressed"), ("US", None, "suppressed")]
    assert places("") == (every, [])
    assert places("f=is,country,DE") == (every[:1], [])
    # Two countries together, less what is told of one of them, would be the other.
    assert places("f=is,country,FR,US") == (every, ["country"])
    assert places("f=is_not,country,DE") == (every, ["country"])
    # Of nobody anything is known: all are in one cell of the gender.
    assert places("f=is,gender,&f=is,age_band,18-24")[1] == ["age_band"]
