"""Where a metric's figure comes from: the columns of the source table that its measures read."""

from __future__ import annotations

from collections.abc import Iterable

from analytics_dagster.lake.schemas import MEASURED
from analytics_dagster.metrics.declarations import Catalogue, Family, Metric
from analytics_dagster.metrics.formulas import leaves
from analytics_dagster.metrics.sessions import source_columns_of


def source_columns(metric: Metric, catalogue: Catalogue) -> tuple[str, ...]:
    """Columns of the raw tables, as `raw/plays.ms_played`, in alphabetical order. The time of the event is always one."""
    read: set[str] = set()
    for name in dict.fromkeys(leaf.measure for leaf in leaves(metric.formula)):
        family = catalogue.measured_in(name)
        columns = ("ts", *columns_read(family.measure(name).expr, family))
        read.update(f"{MEASURED[family.source].path}.{column}" for column in columns)
    return tuple(sorted(read))


def columns_read(snippet: str, family: Family) -> tuple[str, ...]:
    """The columns of the raw table that one of a family's expressions is made from, in alphabetical order: through its sessions
    or its step where it has one.
    """
    from analytics_dagster.metrics.expressions import scalar

    named: Iterable[str] = scalar(snippet, family.rows).columns
    if family.sessions:
        named = source_columns_of(named, family.sessions)
    reads = {} if family.step is None else family.step.reads
    return tuple(sorted({column for name in named for column in reads.get(name, (name,))}))
