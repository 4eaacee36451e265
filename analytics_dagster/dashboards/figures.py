"""A metric in a view: its value over the period beside the comparison, its days, its ranked parts. No HTML and no pictures.

What one figure says about many days depends on the metric: counts, sums, ratios and quantiles are merged over the period; what is
told over a rolling window is told for the last day; what rests on distinct listeners is the mean of the days, because the
listeners of four weeks are another figure than the listeners of a day.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING

import pyarrow as pa

from analytics_dagster.dashboards.view import Days, Filter, Operator, View
from analytics_dagster.insights.numbers import MINOR, change, figure, relative_change
from analytics_dagster.insights.series import Series
from analytics_dagster.metrics.composed import daily, parts_of
from analytics_dagster.metrics.declarations import Aggregation, Catalogue, Direction, Family, Grain, Metric
from analytics_dagster.metrics.formulas import Conversion, MeasureFigure, Ratio, Retention, figures, leaves
from analytics_dagster.metrics.matchers import parse_matcher

if TYPE_CHECKING:
    from analytics_dagster.metrics.query import DayReader

_ADDITIVE = (Aggregation.COUNT, Aggregation.SUM, Aggregation.SUM_BOOLEAN, Aggregation.INCREASE)
Pairs = tuple[tuple[dt.date, float | None], ...]
"""Buckets (their first day) with a figure or, where there is none, None. Every bucket of the range, in order."""


class Basis(StrEnum):
    """What one figure says about many days."""

    TOTAL = "whole period"
    MEAN_OF_DAYS = "mean of days"
    LAST_DAY = "last day"


def basis_of(metric: Metric, catalogue: Catalogue) -> Basis:
    """How a metric's days make one figure."""
    if any(isinstance(leaf, Conversion | Retention) for leaf in figures(metric.formula)):
        return Basis.TOTAL  # over those who began on the days that are known
    if any(leaf.window for leaf in leaves(metric.formula)) or any(map(daily, parts_of(metric.formula))):
        return Basis.LAST_DAY
    measures = [catalogue.measure(leaf.measure) for leaf in leaves(metric.formula)]
    distinct = any(m.aggregation is Aggregation.COUNT_DISTINCT for m in measures)
    return Basis.MEAN_OF_DAYS if distinct else Basis.TOTAL


@dataclass(frozen=True)
class Shown:
    """One series of a metric in the view: conditions that hold it apart (a currency) and those of the filters.

    `name` is what forecasts and anomalies call it. `not_filtered`: filters on dimensions that the metric does not have.
    `others`: filters that would show its other currencies.
    """

    metric: Metric
    name: str
    where: tuple[str, ...] = ()
    filtered: bool = False
    not_filtered: tuple[Filter, ...] = ()
    others: tuple[Filter, ...] = ()

    currency: str | None = None

    @property
    def title(self) -> str:
        name = Series(self.metric.name, "", "", pa.table({})).name
        return f"{name} ({self.currency})" if self.currency else name

    @property
    def unit(self) -> str:
        """The metric's unit; money in minor units names its currency, so that it can be told in whole ones."""
        return f"{MINOR}{self.currency}" if self.currency and self.metric.unit == "minor currency units" else self.metric.unit


@dataclass(frozen=True)
class Value:
    """A figure and what it is compared with; None where there is none. `change` is a share, or a difference for ratios."""

    now: float | None
    before: float | None
    unit: str
    direction: Direction

    @property
    def change(self) -> float | None:
        """None also below zero: a share of -1 says nothing."""
        below = (self.now or 0) < 0 or (self.before or 0) < 0
        return None if below else relative_change(self.now, self.before, self.unit)

    @property
    def words(self) -> str:
        """The change as it is read: `+12 %`, `-1.2 pp`, `new`, `no change`, `from -3`."""
        if self.now is not None and self.before is not None and min(self.now, self.before) < 0:
            return "no change" if self.now == self.before else f"from {figure(self.before, self.unit)}"
        return change(self.now, self.before, self.unit)

    @property
    def good(self) -> bool | None:
        """Whether it moved the good way; None where neither way is good, or nothing to speak of moved."""
        if self.direction is Direction.NEUTRAL or self.now is None or self.before is None or self.words == "no change":
            return None
        return (self.now > self.before) == (self.direction is Direction.DOWN_IS_BAD)


@dataclass(frozen=True)
class Figure:
    """A metric's value with its days, and those of the comparison put under the same places."""

    shown: Shown
    basis: Basis
    value: Value
    days: Pairs
    compared: Pairs


@dataclass(frozen=True)
class Place:
    """One row of a leaderboard. `share` of the total, where parts add up to it. `suppressed`: it rests on too few people.
    `name`: what people call the element, where the catalogue says.
    """

    element: str | None
    value: Value
    share: float | None
    suppressed: bool = False
    name: str | None = None

    @property
    def label(self) -> str:
        """What it is called on a page."""
        return self.name or self.element or "(none)"

    @property
    def told(self) -> str:
        """Its value as it is read."""
        return "suppressed" if self.suppressed else figure(self.value.now, self.value.unit)


@dataclass(frozen=True)
class Leaderboard:
    """The largest values of a dimension. `other` is what the rest adds up to, those that only the comparison had included, so
    that all rows sum to the total; None where parts do not add up (ratios, listeners).
    """

    shown: Shown
    dimension: str
    title: str
    places: tuple[Place, ...]
    other: Place | None
    left_out: int


@dataclass(frozen=True)
class Figures:
    """Answers a view's questions about one tenant from days that are read once. Use within the reader's context.

    `begins`: first day with rows of each aggregate asset. What is compared with days before it is compared with nothing: five
    weeks against the first one would be a rise of 400 %.
    """

    reader: DayReader
    catalogue: Catalogue
    view: View
    days: Days
    compared: Days | None
    begins: Mapping[str, dt.date]
    _kept: dict[tuple[Shown, Grain, dt.date | None, dt.date | None], dict[dt.date, float]] = field(
        default_factory=dict, repr=False, compare=False
    )

    def comparison(self, metric: Metric) -> Days | None:
        """The days that a metric's figure is compared with; None where they begin before its data do."""
        begins = self.begins.get(self.catalogue.family_of(metric).asset)
        at = self.compared.last if self.compared and basis_of(metric, self.catalogue) is Basis.LAST_DAY else None
        first = at or (self.compared.first if self.compared else None)
        return None if first is None or begins is None or first < begins else self.compared

    def shown(self, name: str) -> list[Shown]:
        """The series of a metric: one, or one for each currency, the one with most cells first."""
        metric = self.catalogue.metric(name)
        family = self.catalogue.family_of(metric)
        known = {dimension.name for dimension in self.catalogue.dimensions_of(metric)}
        mine = _allowed([f for f in self.view.filters if f.dimension in known], family)
        foreign = tuple(f for f in self.view.filters if f not in mine)
        where = tuple(f.where() for f in mine)
        if not metric.apart_by:
            return [Shown(metric, metric.name, where, bool(mine), foreign)]
        [apart] = metric.apart_by
        present = self.reader.values(family, apart)
        values = [value for value in present if self._allowed(value, apart, mine)]
        others = tuple(Filter(Operator.IS, apart, (value,)) for value in values)
        # Filters on the currency only pick a series, which has forecasts and verdicts of its own.
        narrowed = any(f.dimension != apart for f in mine)
        return [
            Shown(
                metric,
                metric.name if len(present) == 1 else f'{metric.name}{{{apart}="{pin.values[0]}"}}',
                (*where, pin.where()),
                narrowed,
                foreign,
                tuple(other for other in others if other != pin),
                pin.values[0],
            )
            for pin in others
        ] or [Shown(metric, metric.name, where, bool(mine), foreign)]

    def figure(self, shown: Shown) -> Figure:
        basis = basis_of(shown.metric, self.catalogue)
        days = self.series(shown, self.days)
        compared = self.series(shown, self.compared) if self.compared else ()
        now = self._one(shown, basis, self.days, days)
        earlier = self.comparison(shown.metric)
        before = self._one(shown, basis, earlier, compared) if earlier else None
        return Figure(shown, basis, self._value(shown, now, before), days, compared)

    def series(self, shown: Shown, days: Days) -> Pairs:
        """Every bucket of the days."""
        grain = self.view.grain(self.days)
        if grain is not Grain.DAY and any(leaf.window for leaf in leaves(shown.metric.formula)):
            grain = Grain.DAY
        # A day's figure is the same in any range, so the days of the comparison come along; a week that a range cuts is not.
        asked = (None, None) if grain is Grain.DAY else (days.first, days.last)
        known = self._known(shown, grain, *asked)
        step = dt.timedelta(days=7 if grain is Grain.WEEK else 1)
        at = days.first - dt.timedelta(days=days.first.weekday()) if grain is Grain.WEEK else days.first
        found = []
        while at <= days.last:
            found.append((at, known.get(at)))
            at += step
        return tuple(found)

    def _known(self, shown: Shown, grain: Grain, first: dt.date | None, last: dt.date | None) -> dict[dt.date, float]:
        """Figures by bucket, asked for once; None: from the reader's first day, to its last."""
        key = (shown, grain, first, last)
        if key not in self._kept:
            rows = self.reader.query(shown.metric, (), shown.where, first, last, grain)
            self._kept[key] = dict(zip((ts.date() for ts in rows["ts"].to_pylist()), rows["value"].to_pylist(), strict=True))
        return self._kept[key]

    def leaderboard(self, shown: Shown, dimension: str, top: int, title: str | None) -> Leaderboard:
        """The `top` elements by their figure; of a ratio the `top` largest by its denominator."""
        now = self._parts(shown.metric, shown, dimension, self.days)
        earlier = self.comparison(shown.metric)
        before = self._parts(shown.metric, shown, dimension, earlier) if earlier else {}
        sizes = self._sizes(shown, dimension) or now
        ranked = sorted(now, key=lambda element: (-(sizes.get(element) or 0.0), element is None, element or ""))
        known = [value for value in now.values() if value is not None]
        total = math.fsum(known) if self._adds_up(shown.metric) and len(known) == len(now) else None
        # What was not there yet counts 0 where parts add up, so that it is new; of a ratio there is nothing to compare with.
        absent = 0.0 if earlier and total is not None else None
        places = tuple(
            Place(
                element,
                self._value(shown, value := now[element], before.get(element, absent)),
                value / total if total and value is not None else None,
                value is None,
            )
            for element in ranked[:top]
        )
        rest = ranked[top:]
        gone = [element for element in before if element not in now] if total is not None else []
        other = None
        if (rest or gone) and total is not None:
            summed = math.fsum(now[element] or 0.0 for element in rest)
            then = math.fsum(before.get(element) or 0.0 for element in (*rest, *gone)) if earlier else None
            other = Place(None, self._value(shown, summed, then), summed / total if total else None)
        named = title or f"{shown.title} by {dimension.replace('_', ' ')}"
        return Leaderboard(shown, dimension, named, places, other, len(rest) + len(gone))

    @staticmethod
    def _value(shown: Shown, now: float | None, before: float | None) -> Value:
        return Value(now, before, shown.unit, shown.metric.direction)

    def _one(self, shown: Shown, basis: Basis, days: Days, known: Pairs) -> float | None:
        if basis is Basis.TOTAL:
            rows = self.reader.query(shown.metric, (), shown.where, days.first, days.last, Grain.TOTAL)
            return rows["value"][0].as_py() if rows.num_rows else None
        if basis is Basis.LAST_DAY:
            return known[-1][1] if known else None
        values = [value for _, value in known if value is not None]
        return math.fsum(values) / len(values) if values else None

    def _parts(self, metric: Metric, shown: Shown, dimension: str, days: Days) -> dict[str | None, float | None]:
        """Each element's figure over the days; None where a day is suppressed, so that no mean is of large days alone."""
        basis = basis_of(metric, self.catalogue)
        first = days.last if basis is Basis.LAST_DAY else days.first
        grain = Grain.TOTAL if basis is Basis.TOTAL else Grain.DAY
        rows = self.reader.query(metric, (dimension,), shown.where, first, days.last, grain)
        found: dict[str | None, list[float | None]] = {}
        for element, value in zip(rows[dimension].to_pylist(), rows["value"].to_pylist(), strict=True):
            found.setdefault(element, []).append(value)
        return {element: _mean(values) for element, values in found.items()}

    def _sizes(self, shown: Shown, dimension: str) -> dict[str | None, float | None]:
        """How large each element of a ratio is: its denominator. Nothing for what is no ratio."""
        formula = shown.metric.formula
        if not isinstance(formula, Ratio):
            return {}
        return self._parts(replace(shown.metric, formula=formula.denominator), shown, dimension, self.days)

    def _adds_up(self, metric: Metric) -> bool:
        formula = metric.formula
        if not isinstance(formula, MeasureFigure) or formula.window or formula.percentile or formula.newest:
            return False
        return self.catalogue.family_of(metric).measure(formula.measure).aggregation in _ADDITIVE

    @staticmethod
    def _allowed(value: str, dimension: str, filters: Sequence[Filter]) -> bool:
        given = [parse_matcher(f.where()) for f in filters if f.dimension == dimension]
        return all(matcher.accepts(value) for matcher in given)


def _allowed(filters: list[Filter], family: Family) -> list[Filter]:
    """Those that a question may have which is of people (`small_cells.py`): one value each, and one dimension of people, so that
    a leaderboard may be of another.
    """
    if family.small_cells is None:
        return filters
    plain = [f for f in filters if f.operator is Operator.IS and len(f.values) == 1]
    first = next((f.dimension for f in plain if f.dimension in family.small_cells.dimensions), None)
    return [f for f in plain if f.dimension == first or f.dimension not in family.small_cells.dimensions]


def _mean(values: Sequence[float | None]) -> float | None:
    """None where one of them is."""
    told = [value for value in values if value is not None]
    return math.fsum(told) / len(told) if len(told) == len(values) else None
