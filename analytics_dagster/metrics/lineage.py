"""Where a metric's figure comes from: the columns of the source table that its measures read."""

from __future__ import annotations

from dataclasses import replace

from analytics_dagster.lake.schemas import BY_NAME, TableSchema
from analytics_dagster.metrics.declarations import Family, Metric


def source_columns(metric: Metric, family: Family) -> tuple[str, ...]:
    """Columns of the raw table, as `raw/plays.ms_played`, in alphabetical order. The time of the event is always one."""
    source = BY_NAME[family.source]
    read = {"ts"}
    for measure in family.measures_of(metric.formula):
        read.update(columns_read(measure.expr, family))
    return tuple(f"{source.path}.{column}" for column in sorted(read))


def rows_of(family: Family) -> TableSchema:
    """What a family measures: its source table, with the columns of its step where it has one."""
    source = BY_NAME[family.source]
    return source if family.step is None else replace(source, columns=(*source.columns, *family.step.columns))


def columns_read(expr: str, family: Family) -> tuple[str, ...]:
    """The columns of the family's source table that an expression is made from, through the family's step where it has one."""
    from analytics_dagster.metrics.expressions import scalar

    named = scalar(expr, rows_of(family)).columns
    reads = {} if family.step is None else family.step.reads
    return tuple(dict.fromkeys(column for name in named for column in reads.get(name, (name,))))
