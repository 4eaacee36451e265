"""Where a metric's figure comes from: the columns of the source table that its measures read."""

from __future__ import annotations

from analytics_dagster.lake.schemas import BY_NAME
from analytics_dagster.metrics.declarations import Catalogue, Metric, leaves


def source_columns(metric: Metric, catalogue: Catalogue) -> tuple[str, ...]:
    """Columns of the raw tables, as `raw/plays.ms_played`, in alphabetical order. The time of the event is always one."""
    from analytics_dagster.metrics.expressions import scalar

    read: set[str] = set()
    for name in dict.fromkeys(leaf.measure for leaf in leaves(metric.formula)):
        source = BY_NAME[catalogue.measured_in(name).source]
        columns = ("ts", *scalar(catalogue.measure(name).expr, source).columns)
        read.update(f"{source.path}.{column}" for column in columns)
    return tuple(sorted(read))
