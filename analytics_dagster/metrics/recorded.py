"""Recorded points as metrics: what a client recorded under a name is queried like a declared metric, by its type.

A gauge, histogram or timer gives the mean of its values, a counter its increase; an aggregate may be named instead. Its labels
are its dimensions. What is stored is the family `points`; points that are newer come from `fresh.py` as `Recent` ones.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from analytics_dagster.errors import NotFoundError, UserError
from analytics_dagster.lake.compute import connect, literal
from analytics_dagster.lake.interruption import Interruption
from analytics_dagster.metrics.declarations import Catalogue, Direction, Grain, Metric, Origin, TimeAxis, did_you_mean
from analytics_dagster.metrics.formulas import Formula, MeasureFigure, PerSecond, Ratio

if TYPE_CHECKING:
    import duckdb

    from analytics_dagster.lake.lake import TenantLake
    from analytics_dagster.metrics.fresh import Fresh

FAMILY = "points"
DISTRIBUTED = ("histogram", "timer")


class PointAggregate(StrEnum):
    """What to make of the points in a bucket. Percentiles are kept for histograms and timers; increase and rate (increase per
    second of the bucket) are of counters, which have no mean and no extremes. Of a counter, sum is the increase: what is added
    up over its series.
    """

    AVG = "avg"
    SUM = "sum"
    MIN = "min"
    MAX = "max"
    LAST = "last"
    COUNT = "count"
    INCREASE = "increase"
    RATE = "rate"
    P50 = "p50"
    P95 = "p95"
    P99 = "p99"


_VALUES: Mapping[PointAggregate, Formula] = {
    PointAggregate.AVG: Ratio(MeasureFigure("points_total"), MeasureFigure("points")),
    PointAggregate.SUM: MeasureFigure("points_total"),
    PointAggregate.MIN: MeasureFigure("points_min"),
    PointAggregate.MAX: MeasureFigure("points_max"),
    PointAggregate.LAST: MeasureFigure("points_last"),
    PointAggregate.COUNT: MeasureFigure("points"),
}
_SPREAD: Mapping[PointAggregate, Formula] = {
    PointAggregate.P50: MeasureFigure("points_spread", 0.5),
    PointAggregate.P95: MeasureFigure("points_spread", 0.95),
    PointAggregate.P99: MeasureFigure("points_spread", 0.99),
}
_COUNTER: Mapping[PointAggregate, Formula] = {
    PointAggregate.INCREASE: MeasureFigure("points_increase"),
    PointAggregate.SUM: MeasureFigure("points_increase"),
    PointAggregate.RATE: PerSecond(MeasureFigure("points_increase")),
    PointAggregate.LAST: MeasureFigure("points_increase", newest=True),
    PointAggregate.COUNT: MeasureFigure("points"),
}


@dataclass(frozen=True)
class Recent:
    """Points of `days` (UTC), all there are: stored figures of these days are not to be read.

    `relation` is a table or parenthesised SELECT with ts, name, type, value and labels.
    """

    days: frozenset[dt.date] = frozenset()
    relation: str = ""


class RecordedPoints:
    """What a tenant recorded: its stored points and the recent ones, over one connection."""

    def __init__(self, tenant: TenantLake, catalogue: Catalogue, connection: duckdb.DuckDBPyConnection, recent: Recent) -> None:
        self._family = catalogue.family(FAMILY)
        self._stored = tenant.table(self._family.table(Grain.DAY)).sql()
        self.connection = connection
        self.recent = recent

    def types(self, name: str | None = None) -> dict[str, str]:
        """Every name (or this one, if it is there) with its newest type, sorted by name."""
        where = "" if name is None else f"WHERE name = {literal(name)}"
        rows = self.connection.execute(
            f"SELECT name, max({{'ts': ts, 'type': type}}).type FROM ({self._all('name, ts, type', where)}) "
            "GROUP BY name ORDER BY name"
        ).fetchall()
        return dict(rows)

    def metric(self, name: str, aggregate: str | None = None) -> Metric | None:
        """See `recorded_metric`."""
        kind = self.types(name).get(name)
        return None if kind is None else _metric(name, kind, aggregate, self._family.owner)

    def labels(self, name: str) -> tuple[str, ...]:
        """Every label that points of a recorded name have, sorted."""
        # What is no JSON was let in by a source that does not write canonical labels; it counts as no labels.
        labels = self._all("labels", f"WHERE name = {literal(name)} AND json_valid(labels)")
        rows = self.connection.execute(
            f"SELECT DISTINCT unnest(json_keys(labels)) FROM (SELECT DISTINCT labels FROM ({labels})) ORDER BY 1"
        ).fetchall()
        return tuple(row[0] for row in rows)

    def require_labels(self, metric: str, labels: Iterable[str]) -> None:
        """Raises NotFoundError for a label that no point of the metric ever had."""
        wanted = list(labels)
        known = self.labels(metric) if wanted else ()
        for label in wanted:
            if label not in known:
                has = f"its labels are {', '.join(known)}" if known else "it has no labels"
                raise NotFoundError(f"recorded metric {metric!r} has no label {label!r}{did_you_mean(label, known)}; {has}")

    def _all(self, columns: str, where: str) -> str:
        stored = f"SELECT {columns} FROM {self._stored} {where}"
        return f"{stored} UNION ALL SELECT {columns} FROM {self.recent.relation} {where}" if self.recent.relation else stored


@contextmanager
def recorded_points(
    tenant: TenantLake,
    catalogue: Catalogue,
    fresh: Fresh | None = None,
    name: str | None = None,
    interruption: Interruption | None = None,
) -> Iterator[tuple[RecordedPoints, duckdb.DuckDBPyConnection]]:
    """What a tenant recorded, and the connection it is read by. With `fresh`, recent points of `name` (None: of all) too.

    `interruption` ends what is read within the context.
    """
    interruption = interruption or Interruption()
    if fresh is None:
        with connect() as connection, interruption.covering(connection):
            yield RecordedPoints(tenant, catalogue, connection, Recent()), connection
    else:
        with fresh.recent(tenant, name, interruption) as (recent, connection):
            yield RecordedPoints(tenant, catalogue, connection, recent), connection


def recorded_names(tenant: TenantLake, catalogue: Catalogue, fresh: Fresh | None = None) -> dict[str, str]:
    """Every name that the tenant has points of, with its newest type, sorted by name."""
    with recorded_points(tenant, catalogue, fresh) as (points, _):
        return points.types()


def recorded_metric(
    tenant: TenantLake, catalogue: Catalogue, name: str, aggregate: str | None = None, fresh: Fresh | None = None
) -> Metric | None:
    """The implicit declaration of a recorded name, or None when the tenant has no point of it.

    Raises UserError for an aggregate that is unknown or not kept for that type.
    """
    with recorded_points(tenant, catalogue, fresh, name) as (points, _):
        return points.metric(name, aggregate)


def recorded_metrics(tenant: TenantLake, catalogue: Catalogue, fresh: Fresh | None = None) -> list[Metric]:
    """The implicit declarations of all recorded names, sorted by name."""
    owner = catalogue.family(FAMILY).owner
    return [_metric(name, kind, None, owner) for name, kind in recorded_names(tenant, catalogue, fresh).items()]


def label_sql(name: str) -> str:
    """SQL for a label's value in the points family's tables; null where a series does not have it."""
    path = f'$."{name}"'
    return f"CASE WHEN json_valid(labels) THEN json_extract_string(labels, {literal(path)}) END"


def _metric(name: str, kind: str, aggregate: str | None, owner: str) -> Metric:
    chosen, formula = _aggregate(name, kind, aggregate)
    return Metric(
        name=name,
        family=FAMILY,
        formula=formula,
        description=f"Points recorded as a {kind}; {chosen} of each bucket.",
        unit="",
        direction=Direction.NEUTRAL,
        owner=owner,
        synonyms=(),
        time=TimeAxis.EVENT,
        kpi=False,
        integer=chosen is PointAggregate.COUNT,
        apart_by=(),
        origin=Origin("recorded points", 0),
    )


def _aggregate(name: str, kind: str, aggregate: str | None) -> tuple[PointAggregate, Formula]:
    counter = kind == "counter"
    if aggregate is None:
        chosen = PointAggregate.INCREASE if counter else PointAggregate.AVG
    else:
        try:
            chosen = PointAggregate(aggregate)
        except ValueError:
            raise UserError(f"aggregate {aggregate!r} is not known; one of {', '.join(PointAggregate)}") from None
    known = _COUNTER if counter else {**_VALUES, **_SPREAD} if kind in DISTRIBUTED else _VALUES
    if chosen in known:
        return chosen, known[chosen]
    if counter:
        reason = f"of a counter there are {', '.join(_COUNTER)}"
    elif chosen in _SPREAD:
        reason = f"percentiles are kept for {' and '.join(DISTRIBUTED)} only"
    else:
        reason = f"{chosen} is of counters only"
    raise UserError(f"{name!r} was recorded as a {kind}; {reason}")
