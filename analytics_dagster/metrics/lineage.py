"""Where a metric's figure comes from: the columns of the source table that its measures read."""

from __future__ import annotations

from analytics_dagster.lake.schemas import MEASURED
from analytics_dagster.metrics.declarations import Family, Metric


def source_columns(metric: Metric, family: Family) -> tuple[str, ...]:
    """Columns of the raw table, as `raw/plays.ms_played`, in alphabetical order. The time of the event is always one."""
    from analytics_dagster.metrics.expressions import scalar

    source = MEASURED[family.source]
    read = {"ts"}
    for measure in family.measures_of(metric.formula):
        read.update(scalar(measure.expr, source).columns)
    return tuple(f"{source.path}.{column}" for column in sorted(read))
