"""Figures when they are asked for: merged from stored state over time and dimensions, then computed.

Nothing here reads raw rows, but for recent points that a caller brings along (`fresh.py`). A bucket without rows, or whose
figure cannot be computed (a share of nothing), is absent: gaps stay gaps and are never zeros.
"""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import pyarrow as pa

from analytics_dagster.errors import UserError
from analytics_dagster.lake.compute import connect, identifier
from analytics_dagster.lake.schemas import TIMESTAMP
from analytics_dagster.metrics.ahead import days_after, days_before
from analytics_dagster.metrics.composed import ComposedPlan, Question, daily
from analytics_dagster.metrics.declarations import Aggregation, Catalogue, Family, Grain, Metric
from analytics_dagster.metrics.formulas import Formula, Retention, Standing, leaves
from analytics_dagster.metrics.leaderboard import check_top, leaders
from analytics_dagster.metrics.matchers import Operator
from analytics_dagster.metrics.plan import Plan
from analytics_dagster.metrics.planning import are_complete, beside, composed_of, countable, counted_ahead, plan_of, whole
from analytics_dagster.metrics.ranges import Range, reaching, state_rows
from analytics_dagster.metrics.recorded import RecordedPoints, recorded_points
from analytics_dagster.metrics.retention import PERIOD
from analytics_dagster.metrics.small_cells import answered, of_people
from analytics_dagster.metrics.standing import standings

if TYPE_CHECKING:
    import duckdb

    from analytics_dagster.lake.interruption import Interruption
    from analytics_dagster.lake.lake import TenantLake
    from analytics_dagster.metrics.fresh import Fresh


@dataclass(frozen=True)
class MetricQuery:
    """A question: a metric's name or synonym, or a recorded name; days `first` to `last` (inclusive, UTC; None: all there is).

    `since` and `until` narrow the range to buckets (minutes, hours or days) that begin at or after `since` and before `until`.
    `by` are dimensions (labels, for recorded points), `where` conditions like `country="US"`. Weeks begin on Monday; a week or
    month that the range cuts holds only its days within the range; what is told over a rolling window is, by week, month and in
    total, the figure of the last day. Retention may also be split by `period`. `aggregate` is for recorded points (avg, ...).
    `top` keeps so many elements of the first `by`, the greatest over the range, and merges the others into one
    (`leaderboard.py`).
    """

    metric: str
    first: dt.date | None = None
    last: dt.date | None = None
    grain: Grain | str = Grain.DAY
    by: tuple[str, ...] = ()
    where: tuple[str, ...] = ()
    aggregate: str | None = None
    since: dt.datetime | None = None
    until: dt.datetime | None = None
    top: int | None = None


@dataclass(frozen=True)
class Answer:
    """What was asked for, and its figures as `run_query` gives them."""

    metric: Metric
    figures: pa.Table


def _find(points: RecordedPoints, catalogue: Catalogue, name: str, aggregate: str | None) -> Metric:
    """What a name means for a tenant: a recorded series of that name, else a declared metric or its synonym.

    Raises NotFoundError with the nearest names, UserError for an aggregate where none can be chosen.
    """
    recorded = points.metric(name, aggregate)
    if recorded is not None:
        return recorded
    metric = catalogue.metric(name)
    if aggregate is not None:
        raise UserError(f"metric {metric.name!r} is declared and has one meaning; aggregate is for recorded points")
    return metric


def run_query(tenant: TenantLake, catalogue: Catalogue, query: MetricQuery, fresh: Fresh | None = None) -> pa.Table:
    """Answer a question; with `fresh`, recorded names with every point that was acknowledged before.

    Returns the columns ts (timestamp[us, UTC], start of the bucket), one string column per `by`, value (float64); sorted by
    ts and `by`, nulls first. Counts up to 2^53 are exact. By a dimension of people, before value the column suppressed
    (bool): such a figure is null (`small_cells.py`). With `top` also rank (int64, null for the others), which
    sorts before `by`.

    Raises NotFoundError for an unknown metric, dimension or label, UserError for a bad condition or grain, and when money of
    several currencies would be added up (`Metric.apart_by`).
    """
    return answer_query(tenant, catalogue, query, fresh).figures


def answer_query(
    tenant: TenantLake,
    catalogue: Catalogue,
    query: MetricQuery,
    fresh: Fresh | None = None,
    interruption: Interruption | None = None,
) -> Answer:
    """As `run_query`, with what the name meant. `interruption` lets another thread end it."""
    with recorded_points(tenant, catalogue, fresh, query.metric, interruption) as (points, connection):
        metric = _find(points, catalogue, query.metric, query.aggregate)

        def ask(one: Metric, asked: MetricQuery) -> pa.Table:
            return _answer(connection, counted_ahead(plan_of(tenant, catalogue, one, asked, points), tenant, connection))

        if isinstance(metric.formula, Standing):
            return Answer(metric, standings(ask, metric, query))
        if not metric.composed and of_people(family := catalogue.family_of(metric), query):
            return Answer(metric, answered(ask, family, metric, query, tenant.smallest_cell))
        if metric.composed or query.top is not None:
            planned = composed_of if metric.composed else plan_of
            plan = planned(tenant, catalogue, metric, query, points)
            return Answer(metric, _answer(connection, plan) if query.top is None else _board(connection, plan, query.top))
        # First without its state rows: where all was counted ahead, the sets' table need not be opened.
        declared = catalogue.find(metric.name) is metric
        counted = counted_ahead(plan_of(tenant, catalogue, metric, query, None), tenant, connection) if declared else None
        if counted is None or not counted.counted:
            counted = plan_of(tenant, catalogue, metric, query, points)
        return Answer(metric, _answer(connection, counted))


DayFigures: TypeAlias = tuple[dt.datetime, list[str | None], list[float | None]]
"""A day, the values of what it is split by, and figures of several metrics; None: there is none."""


class DayReader:
    """Answers many questions about a tenant's declared metrics by day: each family's days are read once and kept.

    A page of insights asks about 100 of them; from files each takes 20 ms, from memory 3. A context manager.
    """

    def __init__(
        self,
        tenant: TenantLake,
        catalogue: Catalogue,
        first: dt.date,
        last: dt.date,
        interruption: Interruption | None = None,
        threads: int | None = None,
    ) -> None:
        """`interruption` lets another thread end what is asked within the context."""
        self._tenant, self._catalogue = tenant, catalogue
        self._first, self._last = first, last
        self._range = Range.of_days(first, last)
        self._connection = connect(threads)
        # By table of the connection, how many days it reaches back and ahead.
        self._kept: dict[str, tuple[int, int]] = {}
        self._covering = contextlib.nullcontext() if interruption is None else interruption.covering(self._connection)

    def __enter__(self) -> DayReader:
        self._covering.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._covering.__exit__(None, None, None)
        self._connection.close()

    def query(
        self,
        metric: Metric,
        by: tuple[str, ...] = (),
        where: tuple[str, ...] = (),
        since: dt.date | None = None,
        until: dt.date | None = None,
        grain: Grain = Grain.DAY,
    ) -> pa.Table:
        """As `run_query`, by day or coarser, from `since` (the reader's first day) to `until` (its last day)."""
        asked = MetricQuery(metric.name, since or self._first, until or self._last, grain, by=by, where=where)
        if metric.composed:
            parts = composed_of(self._tenant, self._catalogue, metric, asked, None)
            relations = {leaf: self._rows(leaf, parts.range) for leaf in parts.plans}
            return _answer(self._connection, parts.reading(relations))

        def ask(one: Metric, part: MetricQuery) -> pa.Table:
            counted = self._counted(plan_of(self._tenant, self._catalogue, one, part, None))
            return _answer(self._connection, counted or self._planned(one, part))

        if isinstance(metric.formula, Standing):
            return standings(ask, metric, asked)
        if of_people(family := self._catalogue.family_of(metric), asked):
            return answered(ask, family, metric, asked, self._tenant.smallest_cell)
        return ask(metric, asked)

    def query_each(self, metrics: Sequence[Metric], by: tuple[str, ...]) -> list[DayFigures]:
        """Several metrics of one family by day in one statement, in no order.

        For metrics without windows that are not composed; `by` has all that any of them must be kept apart by.
        """
        asked = MetricQuery(metrics[0].name, self._first, self._last, by=by)
        plan = plan_of(self._tenant, self._catalogue, metrics[0], asked, None)
        sets = any(_reads_sets(plan.family, metric.formula) for metric in metrics)
        plan = plan.reading(self._reaching(plan.family, 0, 0, sets=sets))
        named = {f"figure {n}": metric for n, metric in enumerate(metrics)}
        rows = self._connection.execute(plan.figures(named)).fetchall()
        return [(ts, list(rest[: len(by)]), list(rest[len(by) :])) for ts, *rest in rows]

    def _planned(self, metric: Metric, asked: MetricQuery) -> Plan:
        plan = plan_of(self._tenant, self._catalogue, metric, asked, None)
        return plan.reading(self._reaching_for(plan.family, metric.formula))

    def _counted(self, plan: Plan) -> Plan | None:
        """The plan by what was counted ahead, where that is there for all of its days. Days as they were have none."""
        counted = countable(plan)
        if not counted or not self._tenant.newest:
            return None
        family, (measures, before) = plan.family, beside(plan, counted)
        if any(m.aggregation is Aggregation.COUNT_DISTINCT for m in measures):
            return None
        counts, edges = identifier(f"counts_{family.name}"), identifier(f"whole_{family.name}")
        if counts not in self._kept:
            assert family.counts is not None
            stored = self._tenant.table(family.counts).sql(self._first, self._last)
            self._connection.execute(f"CREATE TABLE {counts} AS FROM {stored}")
            self._connection.execute(f"CREATE TABLE {edges} AS FROM {whole(self._tenant, family)}")
            self._kept[counts] = (0, 0)
        answered = plan.reading(self._reaching(family, before, 0, sets=False)).counting(counts, counted)
        return answered if are_complete(answered, self._connection, lambda: edges) else None

    def values(self, family: Family, dimension: str) -> list[str]:
        """The values of a dimension that occur, the one that occurs in most cells first, equals by name."""
        column = identifier(dimension)
        given = f"{column} IS NOT NULL AND {self._range.condition()}"
        query = (
            f"SELECT {column} FROM {self._reaching(family, 0, 0, sets=False)} WHERE {given} GROUP BY 1 ORDER BY count(*) DESC, 1"
        )
        return [row[0] for row in self._connection.execute(query).fetchall()]

    def value_counts(self, family: Family, dimension: str) -> dict[dt.date, int]:
        """How many values of a dimension each day has, days without rows left out."""
        kept = f"{self._reaching(family, 0, 0, sets=False)} WHERE {self._range.condition()}"
        query = f"SELECT CAST(ts AS DATE) AS day, count(DISTINCT {identifier(dimension)}) FROM {kept} GROUP BY day"
        return dict(self._connection.execute(query).fetchall())

    def _rows(self, part: Question, wanted: Range) -> str:
        """The rows that a part of a composed figure is made from; what goes back to the first day is read from its table."""
        family = self._catalogue.measured_in(next(leaves(part)).measure)
        if not daily(part):
            return self._reaching_for(family, part)
        every = state_rows(self._tenant, family, Grain.DAY, Range(None, wanted.end), family.measures_of(part))
        return f"({every})"

    def _reaching_for(self, family: Family, formula: Formula) -> str:
        return self._reaching(family, days_before(formula), days_after(formula), sets=_reads_sets(family, formula))

    def _reaching(self, family: Family, before: int, after: int, *, sets: bool) -> str:
        """Name of the table that holds the family's days, and at least so many before and after them, with or without sets of
        ids, which are most of what there is to read.
        """
        name = identifier(f"{'sets' if sets else 'days'}_{family.name}")
        kept = self._kept.get(name, (-1, -1))
        if kept[0] < before or kept[1] < after:
            reach = max(kept[0], before), max(kept[1], after)
            measures = [m for m in family.measures if sets or m.aggregation is not Aggregation.COUNT_DISTINCT]
            stored = state_rows(self._tenant, family, Grain.DAY, reaching(self._range, *reach), measures)
            self._connection.execute(f"CREATE OR REPLACE TABLE {name} AS {stored}")
            self._kept[name] = reach
        return name


def _reads_sets(family: Family, formula: Formula) -> bool:
    return any(family.measure(leaf.measure).aggregation is Aggregation.COUNT_DISTINCT for leaf in leaves(formula))


def _answer(connection: duckdb.DuckDBPyConnection, plan: Plan | ComposedPlan[Plan]) -> pa.Table:
    _refuse_mixtures(connection, plan)
    answer = connection.sql(plan.sql(), params=plan.parameters).to_arrow_table()
    strings = [pa.field(name, pa.string()) for name in plan.by]
    return answer.cast(pa.schema([pa.field("ts", TIMESTAMP), *strings, pa.field("value", pa.float64())]))


def _board(connection: duckdb.DuckDBPyConnection, plan: Plan | ComposedPlan[Plan], top: int) -> pa.Table:
    check_top(top, plan.by)
    if plan.by[0] == PERIOD and isinstance(plan.metric.formula, Retention):
        raise UserError(f"top ranks the elements of a dimension, not periods; split by a dimension before {PERIOD!r}")
    _refuse_mixtures(connection, plan)
    first = leaders(connection, plan.over_the_range().sql(), plan.parameters, top)
    return first.ranked(_answer(connection, plan.grouped(first)))


def _refuse_mixtures(connection: duckdb.DuckDBPyConnection, plan: Plan | ComposedPlan[Plan]) -> None:
    for one in [plan] if isinstance(plan, Plan) else plan.plans.values():
        for dimension in one.metric.apart_by:
            _refuse_mixture(connection, one, dimension)


def _refuse_mixture(connection: duckdb.DuckDBPyConnection, plan: Plan, dimension: str) -> None:
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
