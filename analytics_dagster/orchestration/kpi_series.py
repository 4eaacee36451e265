"""A tenant's KPIs as series: what models, forecasts and insights read. Money of several currencies is several series."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from analytics_dagster.insights.series import Series
from analytics_dagster.metrics.declarations import Catalogue, Metric

if TYPE_CHECKING:
    import pyarrow as pa

    from analytics_dagster.lake.lake import TenantLake


def kpi_series(lake: TenantLake, catalogue: Catalogue, first: dt.date, last: dt.date, split_from: dt.date | None) -> list[Series]:
    """One series for each KPI that has a value within `first` to `last`, by day; split by its dimensions from `split_from` on.

    A split is read when somebody looks at it, because only what moved is explained.
    """
    found = []
    for metric in catalogue.metrics:
        if metric.kpi and lake.table(catalogue.family_of(metric).table("day")).exists():
            for name, where in _apart(lake, catalogue, metric, first, last):
                daily = _query(lake, catalogue, metric, first, last, (), where)
                if daily.num_rows:
                    by = _Splits(lake, catalogue, metric, (split_from, last), where) if split_from else {}
                    found.append(Series(name, metric.unit, metric.direction.value, daily, by))
    return found


class _Splits(Mapping[str, "pa.Table"]):
    """Dimension -> the series split by it, queried at first use."""

    def __init__(
        self, lake: TenantLake, catalogue: Catalogue, metric: Metric, days: tuple[dt.date, dt.date], where: tuple[str, ...]
    ) -> None:
        self._lake, self._catalogue, self._metric, self._days, self._where = lake, catalogue, metric, days, where
        self._read: dict[str, pa.Table] = {}
        pinned = {condition.partition("=")[0] for condition in where}
        self._names = [d.name for d in catalogue.family_of(metric).dimensions if d.name not in pinned]

    def __getitem__(self, dimension: str) -> pa.Table:
        if dimension not in self._names:
            raise KeyError(dimension)
        if dimension not in self._read:
            first, last = self._days
            self._read[dimension] = self._weighted(
                dimension, _query(self._lake, self._catalogue, self._metric, first, last, (dimension,), self._where)
            )
        return self._read[dimension]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def _weighted(self, dimension: str, parts: pa.Table) -> pa.Table:
        """A ratio's parts with their denominators, without which they cannot be weighed against each other."""
        denominator = _denominator(self._catalogue, self._metric)
        if denominator is None:
            return parts
        first, last = self._days
        weights = _query(self._lake, self._catalogue, denominator, first, last, (dimension,), self._where)
        joined = parts.join(weights.rename_columns(["ts", dimension, "weight"]), keys=["ts", dimension], join_type="left outer")
        return joined.sort_by([("ts", "ascending"), (dimension, "ascending")])


def _denominator(catalogue: Catalogue, metric: Metric) -> Metric | None:
    """The declared metric that is this ratio's denominator, if there is one."""
    from analytics_dagster.metrics.declarations import Ratio

    if not isinstance(metric.formula, Ratio):
        return None
    family = catalogue.family_of(metric)
    return next((m for m in family.metrics if m.formula == metric.formula.denominator), None)


def _apart(
    lake: TenantLake, catalogue: Catalogue, metric: Metric, first: dt.date, last: dt.date
) -> list[tuple[str, tuple[str, ...]]]:
    """Names and conditions of the series that a metric is: one, or one for each currency that occurs."""
    if not metric.apart_by:
        return [(metric.name, ())]
    from analytics_dagster.lake.compute import connect, identifier

    [dimension] = metric.apart_by
    table = lake.table(catalogue.family_of(metric).table("day"))
    column = identifier(dimension)
    with connect() as connection:
        query = f"SELECT DISTINCT {column} FROM {table.sql(first, last)} WHERE {column} IS NOT NULL ORDER BY 1"
        values = [row[0] for row in connection.execute(query).fetchall()]
    if len(values) <= 1:
        return [(metric.name, ())]
    return [(f'{metric.name}{{{dimension}="{value}"}}', (f'{dimension}="{value}"',)) for value in values]


def _query(
    lake: TenantLake,
    catalogue: Catalogue,
    metric: Metric,
    first: dt.date,
    last: dt.date,
    by: tuple[str, ...],
    where: tuple[str, ...],
) -> pa.Table:
    from analytics_dagster.metrics.query import MetricQuery, run_query

    return run_query(lake, catalogue, MetricQuery(metric.name, first, last, by=by, where=where))
