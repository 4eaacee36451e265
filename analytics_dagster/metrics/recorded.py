"""Recorded points as metrics: what a client recorded under a name is queried like a declared metric, by its type.

A gauge, histogram or timer gives the mean of its values, a counter (whose points are increments) their sum; an aggregate may be
named instead. Its labels are its dimensions.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import TYPE_CHECKING

from analytics_dagster.errors import NotFoundError, UserError
from analytics_dagster.lake.compute import connect, literal
from analytics_dagster.metrics.declarations import (
    Catalogue,
    Direction,
    Formula,
    Grain,
    MeasureFigure,
    Metric,
    Origin,
    Ratio,
    TimeAxis,
    did_you_mean,
)

if TYPE_CHECKING:
    from analytics_dagster.lake.lake import TenantLake

FAMILY = "points"
DISTRIBUTED = ("histogram", "timer")


class PointAggregate(StrEnum):
    """What to make of the points in a bucket. Percentiles are kept for histograms and timers."""

    AVG = "avg"
    SUM = "sum"
    MIN = "min"
    MAX = "max"
    LAST = "last"
    COUNT = "count"
    P50 = "p50"
    P95 = "p95"
    P99 = "p99"


_MEAN = Ratio(MeasureFigure("points_total"), MeasureFigure("points"))
_FORMULAS: dict[PointAggregate, Formula] = {
    PointAggregate.AVG: _MEAN,
    PointAggregate.SUM: MeasureFigure("points_total"),
    PointAggregate.MIN: MeasureFigure("points_min"),
    PointAggregate.MAX: MeasureFigure("points_max"),
    PointAggregate.LAST: MeasureFigure("points_last"),
    PointAggregate.COUNT: MeasureFigure("points"),
    PointAggregate.P50: MeasureFigure("points_spread", 0.5),
    PointAggregate.P95: MeasureFigure("points_spread", 0.95),
    PointAggregate.P99: MeasureFigure("points_spread", 0.99),
}


def recorded_names(tenant: TenantLake, catalogue: Catalogue) -> dict[str, str]:
    """Every name that the tenant has aggregated points of, with its newest type, sorted by name."""
    return dict(_types(tenant, catalogue, ""))


def recorded_metric(tenant: TenantLake, catalogue: Catalogue, name: str, aggregate: str | None = None) -> Metric | None:
    """The implicit declaration of a recorded name, or None when the tenant has no point of it.

    Raises UserError for an aggregate that is unknown or not kept for that type.
    """
    found = _types(tenant, catalogue, f"WHERE name = {literal(name)}")
    if not found:
        return None
    kind = found[0][1]
    chosen = _aggregate(name, kind, aggregate)
    return Metric(
        name=name,
        family=FAMILY,
        formula=_FORMULAS[chosen],
        description=f"Points recorded as a {kind}; {chosen} of each bucket.",
        unit="",
        direction=Direction.NEUTRAL,
        owner=catalogue.family(FAMILY).owner,
        synonyms=(),
        time=TimeAxis.EVENT,
        kpi=False,
        integer=chosen is PointAggregate.COUNT,
        apart_by=(),
        origin=Origin("recorded points", 0),
    )


def label_sql(name: str) -> str:
    """SQL for a label's value in the points family's tables; null where a series does not have it."""
    path = f'$."{name}"'
    return f"CASE WHEN json_valid(labels) THEN json_extract_string(labels, {literal(path)}) END"


def recorded_labels(tenant: TenantLake, catalogue: Catalogue, name: str) -> tuple[str, ...]:
    """Every label that points of a recorded name have, sorted."""
    # What is no JSON was let in by a source that does not write canonical labels; it counts as no labels.
    labels = f"SELECT labels FROM {_relation(tenant, catalogue)} WHERE name = ? AND json_valid(labels)"
    with connect() as connection:
        rows = connection.execute(f"SELECT DISTINCT unnest(json_keys(labels)) FROM ({labels}) ORDER BY 1", [name]).fetchall()
    return tuple(row[0] for row in rows)


def require_labels(tenant: TenantLake, catalogue: Catalogue, metric: str, labels: Iterable[str]) -> None:
    """Raises NotFoundError for a label that no point of the metric ever had."""
    wanted = list(labels)
    known = recorded_labels(tenant, catalogue, metric) if wanted else ()
    for label in wanted:
        if label not in known:
            has = f"its labels are {', '.join(known)}" if known else "it has no labels"
            raise NotFoundError(f"recorded metric {metric!r} has no label {label!r}{did_you_mean(label, known)}; {has}")


def _aggregate(name: str, kind: str, aggregate: str | None) -> PointAggregate:
    if aggregate is None:
        return PointAggregate.SUM if kind == "counter" else PointAggregate.AVG
    try:
        chosen = PointAggregate(aggregate)
    except ValueError:
        raise UserError(f"aggregate {aggregate!r} is not known; one of {', '.join(PointAggregate)}") from None
    if chosen in (PointAggregate.P50, PointAggregate.P95, PointAggregate.P99) and kind not in DISTRIBUTED:
        raise UserError(f"{name!r} was recorded as a {kind}; percentiles are kept for {' and '.join(DISTRIBUTED)} only")
    return chosen


def _types(tenant: TenantLake, catalogue: Catalogue, where: str) -> list[tuple[str, str]]:
    if not tenant.table(catalogue.family(FAMILY).table(Grain.DAY)).exists():
        return []
    with connect() as connection:
        newest = "max({'ts': ts, 'type': type}).type"
        return connection.execute(
            f"SELECT name, {newest} FROM {_relation(tenant, catalogue)} {where} GROUP BY name ORDER BY name"
        ).fetchall()


def _relation(tenant: TenantLake, catalogue: Catalogue) -> str:
    return tenant.table(catalogue.family(FAMILY).table(Grain.DAY)).sql()
