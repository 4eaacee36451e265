"""What changed between two states of a family's tables, figure by figure, as the query tells figures.

A day's figures are, of each declared metric, the total and each value of each single dimension; not the combinations of
dimensions, which are as many as rows. Money of several currencies is never added up, so where a metric must be kept apart
by a dimension, all of its figures are. A metric that looks at other days (a rolling window, a counter's increase) has none here:
its figures follow from the days that it holds. Nor has one that is put together from several answers (`composed.py`): its parts
have.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from analytics_dagster.metrics.declarations import Aggregation, Catalogue, Family, Metric
from analytics_dagster.metrics.formulas import Conversion, MeasureFigure, Retention, figures
from analytics_dagster.metrics.query import DayReader

if TYPE_CHECKING:
    from analytics_dagster.lake.lake import TenantLake

MOST_VALUES = 1_000
"""A dimension with more values on a day, before or after, is not told value by value on that day."""

# Days whose states are held in memory at once.
_DAYS_AT_ONCE = 92


@dataclass(frozen=True, order=True)
class Figure:
    """Which figure of a day it is. `dimensions` is a JSON object with sorted keys, `{}` for the total; `split_by` names the
    dimension that it is one value of, and is empty for the whole day's (which money still has by currency).
    """

    day: dt.date
    metric: str
    split_by: str
    dimensions: str


@dataclass(frozen=True)
class Restated:
    """A figure that changed; None: there is none."""

    figure: Figure
    old: float | None
    new: float | None

    @property
    def difference(self) -> float | None:
        return None if self.old is None or self.new is None else self.new - self.old

    @property
    def share(self) -> float | None:
        """The difference's size as a share of the old figure's."""
        return abs(self.difference / self.old) if self.difference is not None and self.old else None


def told_metrics(family: Family) -> list[Metric]:
    """The metrics whose figure of a day follows from that day's rows alone."""
    increases = {m.name for m in family.measures if m.aggregation is Aggregation.INCREASE}

    def of_the_day(leaf: MeasureFigure | Conversion | Retention) -> bool:
        return isinstance(leaf, MeasureFigure) and not (leaf.window or leaf.offset or leaf.measure in increases)

    return [m for m in family.metrics if not m.composed and all(map(of_the_day, figures(m.formula)))]


def figures_of_days(tenant: TenantLake, family: Family, days: Collection[dt.date]) -> dict[Figure, float]:
    """All figures of some days, as the tables hold them now. Absent: a figure that cannot be computed."""
    found: dict[Figure, float] = {}
    for some in _portions(days):
        with _reader(tenant, family, some) as reader:
            counts = {d.name: reader.value_counts(family, d.name) for d in family.dimensions}
            found.update(_figures(reader, family, some, [counts]))
    return found


def restated(
    before: TenantLake, after: TenantLake, family: Family, days: Collection[dt.date], redeclared: Collection[dt.date] = ()
) -> list[Restated]:
    """The figures of `days` that are not the same in both, in order.

    Of the days in `redeclared`, whose old state was made by another declaration, what that did not have is not compared: a
    metric without any figure, a dimension without any value.
    """
    changed: list[Restated] = []
    for some in _portions(days):
        with _reader(before, family, some) as old, _reader(after, family, some) as new:
            readers = (old, new)
            counts = [{d.name: reader.value_counts(family, d.name) for d in family.dimensions} for reader in readers]
            was, now = (_figures(reader, family, some, counts) for reader in readers)
        unknown = _unknown(was, counts[0], family, [day for day in some if day in redeclared])
        for figure in sorted(was.keys() | now.keys()):
            if was.get(figure) != now.get(figure) and not unknown(figure):
                changed.append(Restated(figure, was.get(figure), now.get(figure)))
    return changed


def _reader(tenant: TenantLake, family: Family, days: Collection[dt.date]) -> DayReader:
    # Many statements over few rows: more threads take three times as long where others work too.
    return DayReader(tenant, Catalogue((family,)), min(days), max(days), threads=1)


def _portions(days: Collection[dt.date]) -> Iterator[list[dt.date]]:
    """`days` in order, cut so that no portion spans more than _DAYS_AT_ONCE."""
    portion: list[dt.date] = []
    for day in sorted(days):
        if portion and (day - portion[0]).days >= _DAYS_AT_ONCE:
            yield portion
            portion = []
        portion.append(day)
    if portion:
        yield portion


_Counts = Mapping[str, Mapping[dt.date, int]]


def _figures(reader: DayReader, family: Family, days: Iterable[dt.date], counts: Iterable[_Counts]) -> dict[Figure, float]:
    wanted, counted = frozenset(days), list(counts)
    found: dict[Figure, float] = {}
    for apart, metrics in _together(family).items():
        for split in (None, *_splits(family, apart)):
            told = wanted if split is None else {d for d in wanted if all(c[split].get(d, 0) <= MOST_VALUES for c in counted)}
            if not told:
                continue
            by = apart if split is None else (*apart, split)
            for ts, values, row in reader.query_each(metrics, by):
                if ts.date() not in told:
                    continue
                dimensions = json.dumps(dict(zip(by, values, strict=True)), sort_keys=True, ensure_ascii=False)
                for metric, figure in zip(metrics, row, strict=True):
                    if figure is not None:
                        found[Figure(ts.date(), metric.name, split or "", dimensions)] = figure
    return found


def _splits(family: Family, apart: tuple[str, ...]) -> list[str]:
    """The dimensions by which figures are told. Those of people are not: a change of one would tell of single ones."""
    of_people = family.small_cells.dimensions if family.small_cells else ()
    return [d.name for d in family.dimensions if d.name not in (*apart, *of_people)]


def _together(family: Family) -> dict[tuple[str, ...], list[Metric]]:
    """The metrics that are told, by what they must be kept apart by."""
    found: dict[tuple[str, ...], list[Metric]] = {}
    for metric in told_metrics(family):
        found.setdefault(metric.apart_by, []).append(metric)
    return found


@dataclass(frozen=True)
class _Unknown:
    """What the old declaration of some days did not have."""

    metrics: frozenset[tuple[dt.date, str]]
    dimensions: frozenset[tuple[dt.date, str]]

    def __call__(self, figure: Figure) -> bool:
        return (figure.day, figure.metric) in self.metrics or (figure.day, figure.split_by) in self.dimensions


def _unknown(was: Mapping[Figure, float], counts: _Counts, family: Family, redeclared: Collection[dt.date]) -> _Unknown:
    told = {(figure.day, figure.metric) for figure in was}
    filled = {day for day, _ in told} & set(redeclared)
    metrics = {(day, metric.name) for day in filled for metric in family.metrics} - told
    dimensions = {(day, d.name) for day in filled for d in family.dimensions if not counts[d.name].get(day)}
    return _Unknown(frozenset(metrics), frozenset(dimensions))
