"""A tenant's KPIs as series: what models, forecasts and insights read. Money of several currencies is several series."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from analytics_dagster.insights.series import Series
from analytics_dagster.metrics.declarations import Catalogue, Metric
from analytics_dagster.metrics.formulas import Ratio

if TYPE_CHECKING:
    import pyarrow as pa

    from analytics_dagster.metrics.query import DayReader


def kpi_series(
    reader: DayReader, catalogue: Catalogue, *, split_from: dt.date | None = None, only: Collection[str] | None = None
) -> list[Series]:
    """One series for each KPI that has a value in the reader's days; split by its dimensions from `split_from` on.

    `only` names the metrics that are wanted. A split is computed when somebody looks at it, while the reader is open.
    """
    found = []
    for metric in catalogue.metrics:
        if metric.kpi and (only is None or metric.name in only):
            for name, where in _apart(reader, catalogue, metric):
                daily = reader.query(metric, where=where)
                if daily.num_rows:
                    by = _Splits(reader, catalogue, metric, where, split_from) if split_from else {}
                    found.append(Series(name, metric.unit, metric.direction.value, daily, by))
    return found


class _Splits(Mapping[str, "pa.Table"]):
    """Dimension -> the series split by it, computed at first use."""

    def __init__(self, reader: DayReader, catalogue: Catalogue, metric: Metric, where: tuple[str, ...], since: dt.date) -> None:
        self._reader, self._metric, self._where, self._since = reader, metric, where, since
        self._denominator = _denominator(metric)
        self._made: dict[str, pa.Table] = {}
        pinned = {condition.partition("=")[0] for condition in where}
        self._names = [d.name for d in catalogue.family_of(metric).dimensions if d.name not in pinned]

    def __getitem__(self, dimension: str) -> pa.Table:
        if dimension not in self._names:
            raise KeyError(dimension)
        if dimension not in self._made:
            self._made[dimension] = self._weighted(dimension, self._parts(self._metric, dimension))
        return self._made[dimension]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def _parts(self, metric: Metric, dimension: str) -> pa.Table:
        return self._reader.query(metric, (dimension,), self._where, self._since)

    def _weighted(self, dimension: str, parts: pa.Table) -> pa.Table:
        """A ratio's parts with their denominators, without which they cannot be weighed against each other."""
        if self._denominator is None:
            return parts
        weights = self._parts(self._denominator, dimension).rename_columns(["ts", dimension, "weight"])
        joined = parts.join(weights, keys=["ts", dimension], join_type="left outer")
        return joined.sort_by([("ts", "ascending"), (dimension, "ascending")])


def _denominator(metric: Metric) -> Metric | None:
    """What a ratio is divided by, as a metric of its own; it need not be declared as one."""
    return replace(metric, formula=metric.formula.denominator) if isinstance(metric.formula, Ratio) else None


def _apart(reader: DayReader, catalogue: Catalogue, metric: Metric) -> list[tuple[str, tuple[str, ...]]]:
    """Names and conditions of the series that a metric is: one, or one for each currency that occurs."""
    if not metric.apart_by:
        return [(metric.name, ())]
    [dimension] = metric.apart_by
    values = sorted(reader.values(catalogue.family_of(metric), dimension))
    if len(values) <= 1:
        return [(metric.name, ())]
    return [(f'{metric.name}{{{dimension}="{value}"}}', (f'{dimension}="{value}"',)) for value in values]
