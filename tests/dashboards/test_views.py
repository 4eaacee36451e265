"""An address is a view: what is written is read back, and what cannot be meant is refused by name."""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import replace
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics_dagster.dashboards.view import Compare, Days, Filter, Operator, Period, View, parse_view
from analytics_dagster.errors import UserError
from analytics_dagster.metrics.matchers import parse_matcher

DAY = dt.date(2026, 11, 26)
days = st.dates(dt.date(2005, 1, 1), dt.date(2100, 1, 1))
names = st.from_regex(r"[a-z][a-z0-9_]{0,20}", fullmatch=True)
filters = st.builds(
    Filter, st.sampled_from(Operator), names, st.lists(st.text(max_size=12), min_size=1, max_size=4, unique=True).map(tuple)
)
ranges = st.tuples(days, days).map(lambda pair: Days(min(pair), max(pair)))


@st.composite
def views(draw: st.DrawFn) -> View:
    period = draw(st.sampled_from(Period))
    last = draw(st.none() | days)
    first = draw(days) if period is Period.CUSTOM else None
    if first and last and first > last:
        first, last = last, first
    compare = draw(st.sampled_from(Compare) | ranges)
    chosen = tuple(dict.fromkeys(draw(st.lists(filters, max_size=3))))
    return View(period, first, last, compare, chosen, draw(st.none() | names))


@given(views())
def test_what_an_address_says_is_read_back_and_is_written_the_same(view: View) -> None:
    address = view.query()
    assert parse_view(address.removeprefix("?")) == view
    assert parse_view(address.removeprefix("?")).query() == address
    assert address.isascii()
    assert " " not in address


@given(filters, st.text(max_size=12))
def test_a_filter_means_the_same_in_the_query_language(chosen: Filter, value: str) -> None:
    if chosen.operator in (Operator.MATCHES, Operator.MATCHES_NOT):
        return
    accepted = parse_matcher(chosen.where()).accepts(value)
    assert accepted == ((value in chosen.values) == (chosen.operator is Operator.IS))
    for one in chosen.values:
        assert parse_matcher(chosen.where()).accepts(one) == (chosen.operator is Operator.IS)


def test_the_view_that_everybody_gets_has_an_address_without_parameters() -> None:
    assert View().query() == ""
    assert parse_view("") == View()
    assert parse_view("period=28d&compare=previous&metric=").query() == ""


def test_addresses_stay_readable() -> None:
    view = View(filters=(Filter(Operator.IS, "country", ("DE", "FR")), Filter(Operator.IS_NOT, "endpoint", ("/play", "a,b c"))))
    assert view.query() == "?f=is,country,DE,FR&f=is_not,endpoint,/play,a%2Cb+c"


def test_a_hidden_field_that_the_browser_encoded_once_more_means_the_same() -> None:
    view = View(filters=(Filter(Operator.IS, "country", ("DE", "a,b")),))
    assert parse_view(f"f={quote(view.filters[0].text, safe='')}") == view


def test_the_form_for_one_more_filter_takes_the_place_of_the_one_on_its_dimension() -> None:
    view = parse_view("f=is,country,DE&f=is,tier,free&dimension=country&operator=is_not&value=FR")
    assert view.query() == "?f=is,tier,free&f=is_not,country,FR"
    assert parse_view("dimension=country&value=").filters == (Filter(Operator.IS, "country", ("",)),)


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("perod=7d", "unknown parameter 'perod'; there are period, from, to, compare, f, metric"),
        ("period=8d", "period='8d' is not known; one of day, 7d"),
        ("to=yesterday", "to='yesterday' is not a day; write it like 2026-01-31"),
        ("to=9999-12-31", "to='9999-12-31' is too far away; write a day from 1900-01-01 to 9998-12-31"),
        ("from=0001-01-01&to=2026-01-01", "from='0001-01-01' is too far away"),
        ("period=custom", "period=custom needs from"),
        ("from=2026-02-01&to=2026-01-01", "from=2026-02-01 is after to=2026-01-01"),
        ("compare=2026-02-01..2026-01-01", "is not a range of days"),
        ("f=is,country", "f='is,country' is not a filter; write f=is,country,DE"),
        ("f=isnt,country,DE", "f='isnt' is not known; one of is, is_not"),
        ("&".join(f"f=is,d{n},x" for n in range(17)), "17 filters are given, 16 are allowed"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(query: str, said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        parse_view(query)


@pytest.mark.parametrize(
    ("view", "shown", "compared"),
    [
        (View(), ("2026-10-30", "2026-11-26"), ("2026-10-02", "2026-10-29")),
        (View(Period.DAY), ("2026-11-26", "2026-11-26"), ("2026-11-19", "2026-11-19")),
        (View(Period.WEEK, compare=Compare.YEAR), ("2026-11-20", "2026-11-26"), ("2025-11-21", "2025-11-27")),
        (View(Period.MONTH_TO_DATE), ("2026-11-01", "2026-11-26"), ("2026-10-06", "2026-10-31")),
        (View(Period.YEAR_TO_DATE, compare=Compare.OFF), ("2026-01-01", "2026-11-26"), None),
        (View(last=dt.date(2026, 3, 1)), ("2026-02-02", "2026-03-01"), ("2026-01-05", "2026-02-01")),
        (View(Period.CUSTOM, dt.date(2026, 11, 1)), ("2026-11-01", "2026-11-26"), ("2026-10-06", "2026-10-31")),
    ],
)
def test_periods_and_what_they_are_compared_with(view: View, shown: tuple[str, str], compared: tuple[str, str] | None) -> None:
    days = view.days(DAY)
    assert (str(days.first), str(days.last)) == shown
    found = view.compared(days)
    assert (None if found is None else (str(found.first), str(found.last))) == compared


@given(st.sampled_from([Period.DAY, Period.WEEK, Period.FOUR_WEEKS, Period.QUARTER, Period.YEAR]), days, st.sampled_from(Compare))
def test_whole_weeks_are_compared_weekday_by_weekday(period: Period, last: dt.date, compare: Compare) -> None:
    view = View(period, last=last, compare=compare)
    shown = view.days(DAY)
    compared = view.compared(shown)
    if compared is not None:
        assert len(compared) == len(shown)
        assert compared.first.weekday() == shown.first.weekday()
        assert compared.last < shown.last


def test_a_view_moves_without_losing_what_it_had() -> None:
    view = parse_view("period=7d&to=2026-11-20&f=is,country,DE&metric=plays")
    assert view.over(Period.QUARTER).query() == "?period=91d&to=2026-11-20&f=is,country,DE&metric=plays"
    assert view.with_filter("country", "FR").query() == "?period=7d&to=2026-11-20&f=is,country,FR&metric=plays"
    assert view.without(view.filters[0]).query() == "?period=7d&to=2026-11-20&metric=plays"
    assert view.against(Compare.OFF).query() == "?period=7d&to=2026-11-20&compare=off&f=is,country,DE&metric=plays"
    assert replace(view.showing("streams"), filters=()).query() == "?period=7d&to=2026-11-20&metric=streams"
