"""What somebody looks at: period, comparison, filters, chosen metric. The URL is the state, all of it.

`?period=28d&compare=previous&f=is,country,DE,FR` is read into a `View` and written back with defaults left out, so that one view
has one address, Back undoes a filter, and a link shows its receiver the same. Commas, `:` and `/` stay readable (as in
Plausible's addresses); a comma within a value is %2C.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeVar
from urllib.parse import quote, unquote_plus

from analytics_dagster.errors import UserError
from analytics_dagster.metrics.declarations import Grain

MOST_FILTERS = 16
MOST_VALUES = 50
"""Values of one filter; more make addresses that mail programs cut (3,700 characters)."""
_MOST_DAYS_DRAWN = 400
_ONE_DAY = dt.timedelta(days=1)

Choice = TypeVar("Choice", bound=StrEnum)

_DAYS = {"day": 1, "7d": 7, "28d": 28, "91d": 91, "364d": 364}


class Period(StrEnum):
    """How much is looked at, up to and with the last day. Whole weeks, so that periods compare weekday by weekday."""

    DAY = "day"
    WEEK = "7d"
    FOUR_WEEKS = "28d"
    QUARTER = "91d"
    YEAR = "364d"
    MONTH_TO_DATE = "month"
    YEAR_TO_DATE = "year"
    CUSTOM = "custom"


PERIOD_NAMES: Mapping[Period, str] = {
    Period.DAY: "Day",
    Period.WEEK: "7 days",
    Period.FOUR_WEEKS: "28 days",
    Period.QUARTER: "91 days",
    Period.YEAR: "364 days",
    Period.MONTH_TO_DATE: "Month to date",
    Period.YEAR_TO_DATE: "Year to date",
}
"""What the page offers; a custom period is written in its form."""


class Compare(StrEnum):
    """What the period is compared with."""

    PREVIOUS = "previous"
    YEAR = "year"
    OFF = "off"


class Operator(StrEnum):
    """How a filter compares. `matches` is a regular expression (RE2) that the whole value must match."""

    IS = "is"
    IS_NOT = "is_not"
    MATCHES = "matches"
    MATCHES_NOT = "matches_not"


_WORDS = {Operator.IS: "is", Operator.IS_NOT: "is not", Operator.MATCHES: "matches", Operator.MATCHES_NOT: "does not match"}


@dataclass(frozen=True)
class Filter:
    """A condition on a dimension. Several values: any of them (`is`), none of them (`is_not`). "" is: no value."""

    operator: Operator
    dimension: str
    values: tuple[str, ...]

    def where(self) -> str:
        """The condition as the query language writes it, `country=~"DE|FR"`."""
        if len(self.values) == 1 and self.operator in (Operator.IS, Operator.IS_NOT):
            return f'{self.dimension}{"=" if self.operator is Operator.IS else "!="}"{_quoted(self.values[0])}"'
        literal = self.operator in (Operator.IS, Operator.IS_NOT)
        pattern = "|".join(_escaped(value) if literal else f"(?:{value})" for value in self.values)
        sign = "=~" if self.operator in (Operator.IS, Operator.MATCHES) else "!~"
        return f'{self.dimension}{sign}"{_quoted(pattern)}"'

    @property
    def text(self) -> str:
        """As it stands in an address: `is,country,DE,FR`."""
        return ",".join([self.operator, *(_encoded(part) for part in (self.dimension, *self.values))])

    def __str__(self) -> str:
        return f"{self.dimension} {_WORDS[self.operator]} {' or '.join(value or '(none)' for value in self.values)}"


@dataclass(frozen=True)
class Days:
    """Consecutive days, both included (UTC)."""

    first: dt.date
    last: dt.date

    def __len__(self) -> int:
        return (self.last - self.first).days + 1

    def __contains__(self, day: dt.date) -> bool:
        return self.first <= day <= self.last

    def __str__(self) -> str:
        return f"{self.first}..{self.last}"


_YEARS = Days(dt.date(1900, 1, 1), dt.date(9998, 12, 31))
"""Days that a view may name: of these one may look back and ahead without leaving the calendar."""


@dataclass(frozen=True)
class View:
    """What one address asks for. `last`: None for the newest day there is. `metric`: the main chart's, None for the board's."""

    period: Period = Period.FOUR_WEEKS
    first: dt.date | None = None
    last: dt.date | None = None
    compare: Compare | Days = Compare.PREVIOUS
    filters: tuple[Filter, ...] = ()
    metric: str | None = None

    def days(self, newest: dt.date) -> Days:
        """The period's days, where `newest` is the newest day with figures."""
        last = self.last or newest
        match self.period:
            case Period.CUSTOM:
                return Days(self.first or last, last)
            case Period.MONTH_TO_DATE:
                return Days(last.replace(day=1), last)
            case Period.YEAR_TO_DATE:
                return Days(last.replace(month=1, day=1), last)
            case _:
                return Days(last - (_DAYS[self.period] - 1) * _ONE_DAY, last)

    def compared(self, days: Days) -> Days | None:
        """The days that `days` are compared with: equally many before them; 364 days earlier (equal weekdays); or those named."""
        if isinstance(self.compare, Days):
            return self.compare
        if self.compare is Compare.OFF:
            return None
        back = (364 if self.compare is Compare.YEAR else len(days)) * _ONE_DAY
        if self.compare is Compare.PREVIOUS and self.period is Period.DAY:
            back = 7 * _ONE_DAY  # a day against the same weekday: Monday is no Sunday
        return Days(days.first - back, days.last - back)

    def grain(self, days: Days) -> Grain:
        """The length of a chart's buckets."""
        return Grain.DAY if len(days) <= _MOST_DAYS_DRAWN else Grain.WEEK

    # --- the address

    def query(self) -> str:
        """The address' query string, `?` included; empty for the view that everybody gets."""
        parts = []
        if self.period is not Period.FOUR_WEEKS:
            parts.append(f"period={self.period}")
        if self.period is Period.CUSTOM and self.first:
            parts.append(f"from={self.first}")
        if self.last:
            parts.append(f"to={self.last}")
        if self.compare != Compare.PREVIOUS:
            parts.append(f"compare={self.compare}")
        parts += [f"f={f.text}" for f in self.filters]
        if self.metric:
            parts.append(f"metric={_encoded(self.metric)}")
        return f"?{'&'.join(parts)}" if parts else ""

    def with_filter(self, dimension: str, value: str) -> View:
        """Only this value of the dimension; what was said of the dimension before is forgotten."""
        kept = tuple(f for f in self.filters if f.dimension != dimension)
        return replace(self, filters=(*kept, Filter(Operator.IS, dimension, (value,))))

    def without(self, unwanted: Filter) -> View:
        return replace(self, filters=tuple(f for f in self.filters if f != unwanted))

    def over(self, period: Period) -> View:
        """The same up to the same day."""
        return replace(self, period=period, first=None)

    def against(self, compare: Compare) -> View:
        return replace(self, compare=compare)

    def showing(self, metric: str) -> View:
        return replace(self, metric=metric)


_PARAMETERS = ("period", "from", "to", "compare", "f", "metric")
_FORM = ("dimension", "operator", "value")
"""What the page's form for one more filter sends; `View.query` writes it as `f`."""


def parse_view(query: str) -> View:
    """Read an address' query string (without `?`). Raises UserError naming the parameter, its value and what would do."""
    given: dict[str, list[str]] = {}
    for part in query.split("&"):
        name, _, value = part.partition("=")
        if part:
            given.setdefault(unquote_plus(name), []).append(value)
    unknown = sorted(set(given) - {*_PARAMETERS, *_FORM})
    if unknown:
        raise UserError(f"unknown parameter {unknown[0]!r}; there are {', '.join(_PARAMETERS)}")
    one = {name: unquote_plus(values[-1]) for name, values in given.items()}
    first, last = _day("from", one.get("from")), _day("to", one.get("to"))
    # A form sends its dates whatever else it says: dates without a period are a custom one.
    period = _choice("period", one.get("period") or ("custom" if first else Period.FOUR_WEEKS), Period)
    if period is not Period.CUSTOM:
        first = None
    elif first is None:
        raise UserError("period=custom needs from, a day like 2026-01-31")
    elif last is not None and first > last:
        raise UserError(f"from={first} is after to={last}")
    filters = tuple(dict.fromkeys(_filter(text) for text in given.get("f", []) if text))
    if one.get("dimension"):
        added = Filter(_choice("operator", one.get("operator") or "is", Operator), one["dimension"], (one.get("value", ""),))
        filters = (*(f for f in filters if f.dimension != added.dimension), added)
    if len(filters) > MOST_FILTERS:
        raise UserError(f"{len(filters)} filters are given, {MOST_FILTERS} are allowed")
    return View(period, first, last, _comparison(one.get("compare") or "previous"), filters, one.get("metric") or None)


def _comparison(text: str) -> Compare | Days:
    first, dots, last = text.partition("..")
    if not dots:
        return _choice("compare", text, Compare)
    begin, end = _day("compare", first), _day("compare", last)
    if begin is None or end is None or begin > end:
        raise UserError(f"compare={text!r} is not a range of days; write 2025-12-01..2025-12-28")
    return Days(begin, end)


def _filter(text: str) -> Filter:
    """`is,country,DE,FR`, still encoded: a comma within a value is %2C."""
    if "," not in text:
        text = unquote_plus(text)  # from a form's hidden field, which the browser encoded once more
    parts = [unquote_plus(part) for part in text.split(",")]
    if len(parts) < 3 or not parts[1]:
        raise UserError(f"f={unquote_plus(text)!r} is not a filter; write f=is,country,DE")
    if len(parts) - 2 > MOST_VALUES:
        raise UserError(f"the filter on {parts[1]!r} has {len(parts) - 2} values, {MOST_VALUES} are allowed")
    return Filter(_choice("f", parts[0], Operator), parts[1], tuple(dict.fromkeys(parts[2:])))


def _day(name: str, text: str | None) -> dt.date | None:
    if not text:
        return None
    try:
        day = dt.date.fromisoformat(text)
    except ValueError:
        raise UserError(f"{name}={text!r} is not a day; write it like 2026-01-31") from None
    if day not in _YEARS:
        raise UserError(f"{name}={text!r} is too far away; write a day from {_YEARS.first} to {_YEARS.last}")
    return day


def _choice(name: str, text: str, among: type[Choice]) -> Choice:
    try:
        return among(text)
    except ValueError:
        raise UserError(f"{name}={text!r} is not known; one of {', '.join(among)}") from None


def _encoded(text: str) -> str:
    return quote(text, safe=":/ ").replace(" ", "+")


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


_SPECIAL = frozenset(r"\.+*?()|[]{}^$")


def _escaped(text: str) -> str:
    return "".join(f"\\{character}" if character in _SPECIAL else character for character in text)
