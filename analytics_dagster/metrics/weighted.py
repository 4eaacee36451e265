"""The step `weighted`: a row of quality/deliveries that stands for many arrivals is measured as many times.

So a quantile of the lag is one of arrivals, while the table has a row for each lag and not one for each arrival.
"""

from __future__ import annotations

from analytics_dagster.lake.compute import identifier as q
from analytics_dagster.lake.schemas import DELIVERIES
from analytics_dagster.metrics.declarations import SourceStep

WEIGHTED = "weighted"


def weighted_step() -> SourceStep:
    """The step: rows of deliveries, each as many times as its `rows` says."""
    columns = ", ".join(q(c.name) for c in DELIVERIES.columns)
    sql = f"SELECT {columns} FROM (SELECT {columns}, unnest(range({q('rows')})) AS _copy FROM source)"
    return SourceStep(sql, (), {}, source=DELIVERIES, in_duckdb=True)
