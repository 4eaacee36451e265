"""Who came back: against a plain recomputation, and at the edges of cohorts and periods."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analytics_dagster.errors import DeclarationError, NotFoundError, UserError
from analytics_dagster.lake.lake import Lake
from analytics_dagster.metrics.declarations import Catalogue
from analytics_dagster.metrics.load import load_catalogue

if TYPE_CHECKING:
    from tests.metrics.conftest import Figures

FIRST = dt.date(2026, 1, 1)


def play(day: int, listener: str | None, country: str | None = "DE") -> dict[str, Any]:
    """A stream on the n-th day."""
    at = FIRST + dt.timedelta(days=day)
    return {"ts": f"{at} 10:00", "listener_id": listener, "country": country, "ms_played": 60_000}


def at(day: int) -> str:
    return f"{FIRST + dt.timedelta(days=day)} 00:00"


def test_of_those_who_came_on_a_day_the_share_that_was_there_a_day_later(figures: Figures) -> None:
    figures.write("plays", [play(0, "ann"), play(0, "bob"), play(1, "ann"), play(1, "cem"), play(2, "bob"), play(2, None)])
    assert figures.ask("new_listeners") == [(at(0), 2), (at(1), 1)]
    assert figures.ask("day_1_retention") == [(at(0), 1 / 2), (at(1), 0.0)]


def test_a_period_is_told_when_its_last_day_is_there(figures: Figures) -> None:
    figures.write("plays", [play(0, "ann"), play(28, "ann"), play(33, "bob")])
    assert figures.ask("week_4_retention") == []
    figures.write("plays", [play(34, "bob")])
    assert figures.ask("week_4_retention") == [(at(0), 1.0)]


def test_who_was_away_for_more_than_90_days_is_new_again(figures: Figures) -> None:
    figures.write("plays", [play(0, "ann"), play(90, "ann"), play(181, "ann"), play(182, "ann")])
    assert figures.ask("new_listeners") == [(at(0), 1), (at(181), 1)]
    day = FIRST + dt.timedelta(days=90)
    assert figures.ask("new_listeners", first=day, last=day) == []
    assert figures.ask("day_1_retention")[-1] == (at(181), 1.0)


def test_splits_and_conditions_are_about_the_first_day(figures: Figures) -> None:
    plays = [play(0, "ann", "DE"), play(0, "ann", None), play(1, "ann", "US"), play(0, "bob", "US"), play(2, "bob", "DE")]
    figures.write("plays", plays)
    assert figures.ask("day_1_retention", by=("country",)) == [(at(0), None, 1.0), (at(0), "DE", 1.0), (at(0), "US", 0.0)]
    assert figures.ask("day_1_retention", where=('country="DE"',)) == [(at(0), 1.0)]
    # Bob was new on the first day, in the US: in Germany he never is.
    assert figures.ask("new_listeners", where=('country="DE"',)) == [(at(0), 1)]


def test_split_by_period_it_is_the_triangle_of_cohorts(figures: Figures) -> None:
    # Thursday, the first of January; the next week begins with the n-th day 4.
    plays = [play(0, "ann"), play(2, "bob"), play(4, "cem"), play(8, "ann"), play(12, "cem"), play(16, "bob"), play(26, "cem")]
    figures.write("plays", plays)
    told = figures.ask("week_4_retention", by=("period",), grain="week")
    # Weeks are each listener's own: bob's week 1 is the days 9 to 15, cem's is 11 to 17.
    assert told == [
        ("2025-12-29 00:00", "0", 1.0),
        ("2025-12-29 00:00", "1", 1 / 2),
        ("2025-12-29 00:00", "2", 1 / 2),
        ("2026-01-05 00:00", "0", 1.0),
        ("2026-01-05 00:00", "1", 1.0),
    ]
    by_both = figures.ask("cohort_retention", by=("country", "period"), grain="month", last=FIRST)
    assert by_both == [(at(0), "DE", "00", 1.0), (at(0), "DE", "01", 1.0), (at(0), "DE", "02", 0.0)]


def test_in_total_the_days_count_whose_period_is_over(figures: Figures) -> None:
    figures.write("plays", [play(0, "ann"), play(0, "bob"), play(1, "ann"), play(1, "cem"), play(2, "dan")])
    assert figures.ask("new_listeners", grain="total") == [(at(0), 4)]
    assert figures.ask("day_1_retention", grain="total") == [(at(0), 1 / 3)]
    assert figures.ask("day_1_retention", grain="week") == []


def test_what_has_no_periods_is_not_split_by_them(figures: Figures) -> None:
    figures.write("plays", [play(0, "ann")])
    with pytest.raises(UserError, match="'new_listeners' is the size of a cohort, which has no periods"):
        figures.ask("new_listeners", by=("period",))
    with pytest.raises(NotFoundError, match="has no dimension 'period'"):
        figures.ask("streams", by=("period",))
    with pytest.raises(UserError, match="its grain is day, week, month or total, not hour"):
        figures.ask("day_1_retention", grain="hour")


def test_elements_are_ranked_in_the_triangle_and_periods_are_not(figures: Figures) -> None:
    figures.write("plays", [play(0, "ann"), play(0, "bob", "US"), play(1, "ann"), play(2, "dan", "FR")])
    told = figures.ask("day_1_retention", by=("country", "period"), top=1, last=FIRST)
    assert told == [
        (at(0), "DE", "0", 1, 1.0),
        (at(0), "DE", "1", 1, 1.0),
        (at(0), "Other", "0", None, 1.0),
        (at(0), "Other", "1", None, 0.0),
    ]
    with pytest.raises(UserError, match="top ranks the elements of a dimension, not periods; split by a dimension before"):
        figures.ask("day_1_retention", by=("period", "country"), top=1)


PLAYS = st.lists(
    st.tuples(st.integers(0, 40), st.sampled_from(["ann", "bob", "cem", None]), st.sampled_from(["DE", "US", None])),
    min_size=1,
    max_size=30,
)
OWN = """
metrics:
  - name: own
    description: Own.
    type: retention
    type_params:
      measure: listeners
      retention_type_params: {period: 3, window: 4 days, new_after: 9 days, calculation: retained}
    unit: listeners
    direction: neutral
"""


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(played=PLAYS, asked=st.integers(0, 30))
def test_triangles_are_what_looking_up_each_listener_gives(
    played: list[tuple[int, str | None, str | None]], asked: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    from tests.metrics.conftest import Figures

    root = tmp_path_factory.mktemp("lake")
    (root / "own.yaml").write_text(OWN, encoding="utf-8")
    figures = Figures(Lake(str(root / "lake"), root / "locks").tenant("acme"), load_catalogue(root))
    figures.write("plays", [play(*one) for one in sorted(played, key=lambda one: one[0])])
    there = {(day, who) for day, who, _ in played}
    last = max(day for day, _ in there)
    expected: dict[tuple[str, str | None, str], float] = {}
    for day, who, country in {one for one in played if one[1] is not None}:
        if any((earlier, who) in there for earlier in range(day - 9, day)):
            continue
        for period in range(4):
            days = range(day + period * 4, day + period * 4 + 4)
            if days[-1] <= last:
                key = (at(day), country, str(period))
                expected[key] = expected.get(key, 0) + any((later, who) in there for later in days)
    told = {(ts, country, period): value for ts, country, period, value in figures.ask("own", by=("country", "period"))}
    assert told == expected
    # A question about some days only gives what the one about all of them gives for these.
    some = figures.ask("own", by=("country",), first=FIRST + dt.timedelta(days=asked))
    third = [(ts, country, value) for (ts, country, period), value in told.items() if period == "3" and ts >= at(asked)]
    assert sorted(some, key=str) == sorted(third, key=str)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("measure: listeners", "measure: plays", r"measure 'plays' is count, which keeps no ids"),
        ("period: 3, ", "", r"own.yaml:\d+: calculation retained of a cohort: add period"),
        ("retained", "cohort_size", r"own.yaml:\d+: calculation cohort_size of a cohort: remove period"),
        ("period: 3", "period: 0", r"own.yaml:\d+: period 0: "),
        ("9 days", "a month", r"own.yaml:\d+: new_after 'a month'"),
    ],
)
def test_a_declaration_that_makes_no_sense_is_refused_with_its_place(
    declare: Callable[[str], Path], old: str, new: str, message: str
) -> None:
    with pytest.raises(DeclarationError, match=message):
        load_catalogue(declare(OWN.replace(old, new)))


def test_new_and_returning_listeners_are_told_in_every_day_of_the_catalogue(figures: Figures, catalogue: Catalogue) -> None:
    figures.write("plays", [play(0, "ann"), play(1, "ann"), play(1, "bob")])
    assert figures.ask("new_listeners") == [(at(0), 1), (at(1), 1)]
    assert catalogue.metric("new_listeners").integer
    assert catalogue.metric("cohort_retention").type == "retention"
