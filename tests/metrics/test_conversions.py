"""Who went on from one event to another: against a plain recomputation, and where windows begin and end."""

from __future__ import annotations

import datetime as dt
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
LAST_DAY = 70


def happened(day: int, listener: str, event: str, country: str | None = "DE", channel: str = "web") -> dict[str, Any]:
    """An event on the n-th day."""
    ts = f"{FIRST + dt.timedelta(days=day)} 09:00"
    tier = {"to_tier": "premium"} if event == "upgrade" else {}
    return {"ts": ts, "listener_id": listener, "event": event, "country": country, "channel": channel, **tier}


def at(day: int) -> str:
    return f"{FIRST + dt.timedelta(days=day)} 00:00"


def some_event_on(day: int) -> dict[str, Any]:
    """What makes a day there without being any event that counts."""
    return happened(day, "nobody", "renewal")


def test_who_becomes_premium_on_the_last_day_of_the_window_converted(figures: Figures) -> None:
    events = [happened(0, who, "trial") for who in ("same", "last", "late", "never")]
    events += [happened(0, "same", "upgrade"), happened(29, "last", "upgrade"), happened(30, "late", "upgrade")]
    figures.write("subscriptions", events)
    assert figures.ask("trial_conversion") == [(at(0), 2 / 4)]


def test_a_figure_is_told_only_when_its_window_is_over(figures: Figures) -> None:
    figures.write("subscriptions", [happened(0, "ann", "trial"), happened(0, "ann", "upgrade"), some_event_on(28)])
    assert figures.ask("trial_conversion") == []
    figures.write("subscriptions", [some_event_on(29)])
    assert figures.ask("trial_conversion") == [(at(0), 1.0)]


def test_nobody_who_converted_is_a_zero_and_nobody_who_began_is_no_figure(figures: Figures) -> None:
    figures.write("subscriptions", [happened(0, "ann", "trial"), happened(1, "bob", "upgrade"), some_event_on(40)])
    assert figures.ask("trial_conversion") == [(at(0), 0.0)]


def test_an_upgrade_before_the_signup_is_no_conversion(figures: Figures) -> None:
    figures.write("subscriptions", [happened(0, "ann", "upgrade"), happened(1, "ann", "signup"), some_event_on(40)])
    assert figures.ask("free_to_premium_conversion") == [(at(1), 0.0)]


def test_each_day_of_beginning_stands_alone(figures: Figures) -> None:
    events = [happened(0, "ann", "signup"), happened(5, "ann", "signup"), happened(6, "ann", "upgrade"), some_event_on(60)]
    figures.write("subscriptions", events)
    assert figures.ask("free_to_premium_conversion") == [(at(0), 1.0), (at(5), 1.0)]
    assert figures.ask("conversions_within_28_days") == [(at(0), 1.0), (at(5), 1.0)]
    # In the month she is one listener.
    assert figures.ask("conversions_within_28_days", grain="month") == [(at(0), 1.0)]


def test_splits_and_conditions_are_about_where_it_began(figures: Figures) -> None:
    events = [
        happened(0, "ann", "trial", "DE", "web"),
        happened(3, "ann", "upgrade", "US", "ios"),
        happened(0, "bob", "trial", None, "web"),
        happened(0, "cem", "trial", "US", "ios"),
        some_event_on(40),
    ]
    figures.write("subscriptions", events)
    assert figures.ask("trial_conversion", by=("country",)) == [(at(0), None, 0.0), (at(0), "DE", 1.0), (at(0), "US", 0.0)]
    assert figures.ask("trial_conversion", where=('channel="web"',)) == [(at(0), 1 / 2)]


def test_a_question_about_few_days_looks_at_the_days_after_them(figures: Figures) -> None:
    figures.write("subscriptions", [happened(0, "ann", "trial"), happened(20, "ann", "upgrade"), some_event_on(40)])
    assert figures.ask("trial_conversion", first=FIRST, last=FIRST) == [(at(0), 1.0)]
    with DayReader(figures.tenant, figures.catalogue, FIRST, FIRST) as reader:
        trials = reader.query(figures.catalogue.metric("trials"))
        told = reader.query(figures.catalogue.metric("trial_conversion"))
    assert (trials.column("value").to_pylist(), told.column("value").to_pylist()) == ([1.0], [1.0])


def test_a_week_waits_for_the_window_of_its_last_day(figures: Figures) -> None:
    # The first of January 2026 is a Thursday: its week ends with the n-th day 3.
    events = [happened(0, "ann", "signup"), happened(1, "bob", "signup"), happened(9, "bob", "upgrade")]
    figures.write("subscriptions", [*events, some_event_on(29)])
    assert figures.ask("free_to_premium_conversion", grain="week") == []
    assert figures.ask("free_to_premium_conversion", grain="week", last=FIRST + dt.timedelta(days=1)) == [
        ("2025-12-29 00:00", 0.5)
    ]
    figures.write("subscriptions", [some_event_on(30)])
    assert figures.ask("free_to_premium_conversion", grain="week") == [("2025-12-29 00:00", 0.5)]


def test_in_total_the_days_count_whose_windows_are_over(figures: Figures) -> None:
    events = [
        happened(0, "ann", "trial"),
        happened(1, "bob", "trial"),
        happened(2, "bob", "upgrade"),
        happened(9, "cem", "trial"),
    ]
    figures.write("subscriptions", [*events, some_event_on(30)])
    assert figures.ask("trial_conversion", grain="total") == [(at(0), 1 / 2)]
    day = FIRST + dt.timedelta(days=1)
    assert figures.ask("trial_conversion", grain="total", first=day, last=day) == [(at(1), 1.0)]


def test_an_hour_is_refused(figures: Figures) -> None:
    figures.write("subscriptions", [happened(0, "ann", "trial")])
    with pytest.raises(
        UserError, match="'trial_conversion' looks 29 days ahead; its grain is day, week, month or total, not hour"
    ):
        figures.ask("trial_conversion", grain="hour")


EVENTS = st.lists(
    st.tuples(
        st.integers(0, LAST_DAY),
        st.sampled_from(["ann", "bob", "cem"]),
        st.sampled_from(["trial", "upgrade"]),
        st.sampled_from(["DE", "US", None]),
    ),
    max_size=25,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=EVENTS)
def test_conversions_are_what_looking_up_each_listener_gives(
    events: list[tuple[int, str, str, str | None]], tmp_path_factory: pytest.TempPathFactory, catalogue: Catalogue
) -> None:
    from tests.metrics.conftest import Figures

    root = tmp_path_factory.mktemp("lake")
    figures = Figures(Lake(str(root / "lake"), root / "locks").tenant("acme"), catalogue)
    rows = [happened(day, who, event, country) for day, who, event, country in sorted(events, key=lambda one: one[0])]
    figures.write("subscriptions", [*rows, some_event_on(LAST_DAY)])
    expected: dict[tuple[str, str | None], float] = {}
    for day in range(LAST_DAY - 28):
        for country in ("DE", "US", None):
            began = {who for on, who, event, where in events if (on, event, where) == (day, "trial", country)}
            went = {w for w in began if any(day <= on < day + 30 and (who, e) == (w, "upgrade") for on, who, e, _ in events)}
            if began:
                expected[at(day), country] = len(went) / len(began)
    told = figures.ask("trial_conversion", by=("country",))
    assert {(ts, country): value for ts, country, value in told} == pytest.approx(expected)


OWN = """
metrics:
  - name: own
    description: Own.
    type: conversion
    type_params:
      conversion_type_params:
        base_measure: {name: listeners_on_trial}
        conversion_measure: {name: listeners_converted}
        entity: listener
        window: 2 weeks
    unit: ratio
    direction: neutral
  - name: more
    description: A formula over it.
    type: derived
    type_params: {expr: own * 100 + 0 * trials}
    unit: percent
    direction: neutral
"""


def test_a_conversion_may_be_part_of_a_formula(declare: Callable[[str], Path], tmp_path: Path) -> None:
    from tests.metrics.conftest import Figures

    catalogue = load_catalogue(declare(OWN))
    figures = Figures(Lake(str(tmp_path / "lake"), tmp_path / "locks").tenant("acme"), catalogue)
    figures.write("subscriptions", [happened(0, "ann", "trial"), happened(13, "ann", "upgrade"), happened(0, "bob", "trial")])
    assert figures.ask("more") == [(at(0), 50.0)]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("listeners_on_trial", "trials", r"own.yaml:7: measure 'trials' is sum_boolean, which keeps no ids; name one with"),
        ("listeners_on_trial", "listeners_on_trail", r"own.yaml:7: no measure 'listeners_on_trail'; did you mean"),
        ("entity: listener", "entity: listner", r"subscriptions has no entity 'listner'; did you mean 'listener'"),
        ("entity: listener", "entity: subscription_event", r"in which there is no subscription_event"),
        ("2 weeks", "1 month", r"own.yaml:\d+: window '1 month'"),
        (
            "{name: listeners_converted}",
            "{name: listeners}",
            r"metric 'own' mixes the semantic models listening and subscriptions",
        ),
    ],
)
def test_a_declaration_that_makes_no_sense_is_refused_with_its_place(
    declare: Callable[[str], Path], old: str, new: str, message: str
) -> None:
    with pytest.raises(DeclarationError, match=message):
        load_catalogue(declare(OWN.replace(old, new)))
