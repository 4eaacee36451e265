"""Figures when they are asked for: merged from stored state over time and dimensions, then computed.

Nothing here reads raw rows. A bucket without rows, or whose figure cannot be computed (a share of nothing), is absent: gaps
stay gaps and are never zeros.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pyarrow as pa

from analytics_dagster.errors import NotFoundError, UserError
from analytics_dagster.lake.compute import connect, identifier
from analytics_dagster.lake.schemas import TIMESTAMP
from analytics_dagster.metrics import states
from analytics_dagster.metrics.compile import with_joined
from analytics_dagster.metrics.declarations import (
    Aggregation,
    Catalogue,
    Derived,
    Family,
    Formula,
    Grain,
    Measure,
    MeasureFigure,
    Metric,
    Ratio,
    did_you_mean,
    leaves,
)
from analytics_dagster.metrics.matchers import Matcher, Operator, parse_matcher
from analytics_dagster.metrics.recorded import FAMILY as RECORDED
from analytics_dagster.metrics.recorded import label_sql, recorded_metric, require_labels

if TYPE_CHECKING:
    import duckdb

    from analytics_dagster.lake.lake import TenantLake

# An open end of a range. Delta compares months as text of four-digit years.
_EARLIEST, _LATEST = dt.date(1900, 1, 1), dt.date(9998, 12, 31)
_COLUMNS = ("ts", "value")


@dataclass(frozen=True)
class MetricQuery:
    """A question: a metric's name or synonym, or a recorded name; days `first` to `last` (inclusive, UTC; None: all there is).

    `by` are dimensions (labels, for recorded points), `where` conditions like `country="US"`. Weeks begin on Monday; a week or
    month that the range cuts holds only its days within the range. `aggregate` is for recorded points (avg, p95, ...).
    """

    metric: str
    first: dt.date | None = None
    last: dt.date | None = None
    grain: Grain | str = Grain.DAY
    by: tuple[str, ...] = ()
    where: tuple[str, ...] = ()
    aggregate: str | None = None


def find_metric(tenant: TenantLake, catalogue: Catalogue, name: str, aggregate: str | None = None) -> Metric:
    """What a name means for a tenant: a recorded series of that name, else a declared metric or its synonym.

    Raises NotFoundError with the nearest names, UserError for an aggregate where none can be chosen.
    """
    recorded = recorded_metric(tenant, catalogue, name, aggregate)
    if recorded is not None:
        return recorded
    metric = catalogue.metric(name)
    if aggregate is not None:
        raise UserError(f"metric {metric.name!r} is declared and has one meaning; aggregate is for recorded points")
    return metric


def run_query(tenant: TenantLake, catalogue: Catalogue, query: MetricQuery) -> pa.Table:
    """Answer a question.

    Returns the columns ts (timestamp[us, UTC], start of the bucket), one string column per `by`, value (float64); sorted by
    ts and `by`, nulls first. Counts up to 2^53 are exact.

    Raises NotFoundError for an unknown metric, dimension or label, UserError for a bad condition or grain, and when money of
    several currencies would be added up (`Metric.apart_by`).
    """
    metric = find_metric(tenant, catalogue, query.metric, query.aggregate)
    with connect() as connection:
        return _answer(connection, _plan(tenant, catalogue, metric, query))


class DayReader:
    """Answers many questions about a tenant's declared metrics by day: each family's days are read once and kept.

    A page of insights asks about 100 of them; from files each takes 20 ms, from memory 3. A context manager.
    """

    def __init__(self, tenant: TenantLake, catalogue: Catalogue, first: dt.date, last: dt.date) -> None:
        self._tenant, self._catalogue = tenant, catalogue
        self._first, self._last = first, last
        self._connection = connect()
        self._kept: set[str] = set()

    def __enter__(self) -> DayReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def query(
        self, metric: Metric, by: tuple[str, ...] = (), where: tuple[str, ...] = (), since: dt.date | None = None
    ) -> pa.Table:
        """As `run_query`, from `since` (the reader's first day) to the reader's last day."""
        plan = _plan(self._tenant, self._catalogue, metric, MetricQuery(metric.name, by=by, where=where), stored=False)
        days = f"SELECT * FROM {self.relation(plan.family)}"
        relation = f"({days} WHERE ts >= '{since}T00:00:00Z')" if since else f"({days})"
        return _answer(self._connection, replace(plan, relation=relation))

    def values(self, family: Family, dimension: str) -> list[str]:
        """The values of a dimension that occur, sorted."""
        column = identifier(dimension)
        query = f"SELECT DISTINCT {column} FROM {self.relation(family)} WHERE {column} IS NOT NULL ORDER BY 1"
        return [row[0] for row in self._connection.execute(query).fetchall()]

    def relation(self, family: Family) -> str:
        """Name of the table that holds the family's days."""
        name = identifier(f"days_{family.name}")
        if family.name not in self._kept:
            stored = self._tenant.table(family.table(Grain.DAY)).sql(self._first, self._last)
            self._connection.execute(f"CREATE TABLE {name} AS SELECT * FROM {stored}")
            self._kept.add(family.name)
        return name


def _answer(connection: duckdb.DuckDBPyConnection, plan: _Plan) -> pa.Table:
    for dimension in plan.metric.apart_by:
        _refuse_mixture(connection, plan, dimension)
    answer = connection.sql(plan.sql(), params=plan.parameters).to_arrow_table()
    strings = [pa.field(name, pa.string()) for name in plan.by]
    return answer.cast(pa.schema([pa.field("ts", TIMESTAMP), *strings, pa.field("value", pa.float64())]))


@dataclass(frozen=True)
class _Plan:
    metric: Metric
    family: Family
    grain: Grain
    relation: str
    by: tuple[str, ...]
    by_sql: tuple[str, ...]
    matchers: tuple[Matcher, ...]
    conditions: tuple[str, ...]
    parameters: list[str]

    def sql(self) -> str:
        keys = [f"_k{n}" for n in range(len(self.by))]
        every_key = ", ".join(["ts", *keys])
        measures = {leaf.measure: self.family.measure(leaf.measure) for leaf in leaves(self.metric.formula)}
        parts = {"picked": self._picked(keys, measures), "folded": _folded(every_key, measures)}
        for leaf in dict.fromkeys(leaves(self.metric.formula)):
            measure = measures[leaf.measure]
            if measure.aggregation is Aggregation.COUNT_DISTINCT:
                parts[_alias(leaf)] = states.distinct_figures(measure, every_key, "picked", "figure")
            elif measure.aggregation is Aggregation.PERCENTILE and leaf.percentile is not None:
                parts[_alias(leaf)] = states.percentile_figures(measure, leaf.percentile, every_key, "picked", "figure")
        named = [f"folded.{k} AS {identifier(n)}" for k, n in zip(keys, self.by, strict=True)]
        columns = ["folded.ts AS ts", *named, f"CAST({_figure(self.metric.formula, measures)} AS DOUBLE) AS value"]
        joined = with_joined(parts, "folded", ["ts", *keys], columns)
        order = ", ".join(f"{n + 1} NULLS FIRST" for n in range(len(keys) + 1))
        return f"SELECT * FROM ({joined}) WHERE value IS NOT NULL ORDER BY {order}"

    def _picked(self, keys: list[str], measures: dict[str, Measure]) -> str:
        columns = [
            f"date_trunc('{self.grain}', ts) AS ts",
            *(f"{sql} AS {key}" for key, sql in zip(keys, self.by_sql, strict=True)),
            *(identifier(c.name) for m in measures.values() for c in m.columns),
        ]
        return f"SELECT {', '.join(columns)} FROM {self.relation}{self.filter()}"

    def filter(self, *more: str) -> str:
        conditions = [*self.conditions, *more]
        return f" WHERE {' AND '.join(conditions)}" if conditions else ""


def _plan(tenant: TenantLake, catalogue: Catalogue, metric: Metric, query: MetricQuery, *, stored: bool = True) -> _Plan:
    """`stored=False` leaves the relation to the caller, who has the rows in memory."""
    family = catalogue.family_of(metric)
    grain = _grain(query.grain)
    matchers = tuple(parse_matcher(text) for text in query.where)
    named = [*query.by, *(m.name for m in matchers)]
    for name in query.by:
        if name in _COLUMNS or query.by.count(name) > 1:
            raise UserError(f"cannot split by {name!r}: the answer already has a column of that name")
    conditions, parameters = [], []
    if metric.family == RECORDED and metric.name not in {m.name for m in family.metrics}:
        require_labels(tenant, catalogue, metric.name, named)
        expressions = {name: label_sql(name) for name in named}
        conditions.append("name = ?")
        parameters.append(metric.name)
    else:
        expressions = {d.name: identifier(d.name) for d in family.dimensions}
        for name in named:
            if name not in expressions:
                near = did_you_mean(name, expressions)
                raise NotFoundError(f"metric {metric.name!r} has no dimension {name!r}{near}; it has {', '.join(expressions)}")
    for matcher in matchers:
        condition, parameter = matcher.sql(expressions[matcher.name])
        conditions.append(condition)
        parameters.append(parameter)
    relation = _stored(tenant, family, grain, query) if stored else ""
    by_sql = tuple(expressions[name] for name in query.by)
    return _Plan(metric, family, grain, relation, query.by, by_sql, matchers, tuple(conditions), parameters)


def _stored(tenant: TenantLake, family: Family, grain: Grain, query: MetricQuery) -> str:
    table = tenant.table(family.table(Grain.HOUR if grain is Grain.HOUR else Grain.DAY))
    if query.first is query.last is None:
        return table.sql()
    return table.sql(query.first or _EARLIEST, query.last or _LATEST)


def _grain(value: Grain | str) -> Grain:
    try:
        return Grain(value)
    except ValueError:
        raise UserError(f"grain {value!r} is not known; one of {', '.join(Grain)}") from None


def _folded(keys: str, measures: dict[str, Measure]) -> str:
    """Group the states that fold in one pass; sets and distributions have relations of their own."""
    values = [
        f"{sql} AS {identifier(column.name)}"
        for measure in measures.values()
        if measure.aggregation not in (Aggregation.COUNT_DISTINCT, Aggregation.PERCENTILE)
        for sql, column in zip(states.merge(measure), measure.columns, strict=True)
    ]
    return f"SELECT {', '.join([keys, *values])} FROM picked GROUP BY {keys}"


def _alias(leaf: MeasureFigure) -> str:
    return f"of_{leaf.measure}" if leaf.percentile is None else f"of_{leaf.measure}_{leaf.percentile!r}"


def _figure(formula: Formula, measures: dict[str, Measure]) -> str:
    from analytics_dagster.metrics.expressions import substitute

    match formula:
        case MeasureFigure(measure):
            joined = measures[measure].aggregation in (Aggregation.COUNT_DISTINCT, Aggregation.PERCENTILE)
            return f"{identifier(_alias(formula))}.figure" if joined else states.read(measures[measure])
        case Ratio(numerator, denominator):
            return f"({_figure(numerator, measures)} / nullif({_figure(denominator, measures)}, 0))"
        case Derived(expr, inputs):
            return substitute(expr, {name: _figure(inner, measures) for name, inner in inputs})


def _refuse_mixture(connection: duckdb.DuckDBPyConnection, plan: _Plan, dimension: str) -> None:
    pinned = any(m.name == dimension and m.operator is Operator.EQUAL for m in plan.matchers)
    if dimension in plan.by or pinned:
        return
    columns = [
        identifier(column.name)
        for leaf in leaves(plan.metric.formula)
        if (measure := plan.family.measure(leaf.measure)).apart_by == dimension
        for column in measure.columns
    ]
    counted = plan.filter("(" + " OR ".join(f"{c} <> 0" for c in columns) + ")")
    values = f"coalesce({identifier(dimension)}, 'none given')"
    rows = connection.execute(f"SELECT DISTINCT {values} FROM {plan.relation}{counted} ORDER BY 1", plan.parameters).fetchall()
    if len(rows) > 1:
        present = [row[0] for row in rows]
        raise UserError(
            f"{plan.metric.name!r} of different {dimension} cannot be added up (here: {', '.join(present)}); "
            f"split with --by {dimension}, or pick one with --where '{dimension}=\"{present[0]}\"'"
        )
