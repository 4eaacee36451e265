"""Figures when they are asked for: merged from stored state over time and dimensions, then computed.

Nothing here reads raw rows, but for recent points that a caller brings along (`fresh.py`). A bucket without rows, or whose
figure cannot be computed (a share of nothing), is absent: gaps stay gaps and are never zeros.
"""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

import pyarrow as pa

from analytics_dagster.errors import NotFoundError, UserError
from analytics_dagster.lake.compute import connect, identifier, literal
from analytics_dagster.lake.schemas import TIMESTAMP
from analytics_dagster.metrics import states
from analytics_dagster.metrics.ahead import EVERY, REACHING, Asked, ahead_of, days_after, days_before, newest_day
from analytics_dagster.metrics.compile import with_joined
from analytics_dagster.metrics.composed import ComposedPlan, Question, daily, parts_of
from analytics_dagster.metrics.conversion import conversion_figures
from analytics_dagster.metrics.declarations import (
    Aggregation,
    Catalogue,
    Conversion,
    Derived,
    Family,
    Formula,
    Grain,
    Leaf,
    Measure,
    MeasureFigure,
    Metric,
    PerSecond,
    Ratio,
    Retention,
    Summary,
    did_you_mean,
    figures,
    leaves,
)
from analytics_dagster.metrics.leaderboard import Leaders, check_top, leaders
from analytics_dagster.metrics.matchers import Matcher, Operator, parse_matcher
from analytics_dagster.metrics.ranges import Range, reaching, state_rows
from analytics_dagster.metrics.recorded import FAMILY as RECORDED
from analytics_dagster.metrics.recorded import Recent, RecordedPoints, label_sql, recorded_points
from analytics_dagster.metrics.retention import PERIOD, period_text, retention_figures
from analytics_dagster.metrics.rolling import rolling_figures, span

if TYPE_CHECKING:
    import duckdb

    from analytics_dagster.lake.interruption import Interruption
    from analytics_dagster.lake.lake import TenantLake
    from analytics_dagster.metrics.fresh import Fresh

_COLUMNS = ("ts", "value")
# Sets and distributions, which are read from relations of their own.
_APART = (Aggregation.COUNT_DISTINCT, Aggregation.PERCENTILE)


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
    ts and `by`, nulls first. Counts up to 2^53 are exact. With `top` also rank (int64, null for the others), which
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
        if metric.composed or query.top is not None:
            planned = _compose if metric.composed else _plan
            plan = planned(tenant, catalogue, metric, query, points)
            return Answer(metric, _answer(connection, plan) if query.top is None else _board(connection, plan, query.top))
        counted = _counted(_plan(tenant, catalogue, metric, query, points), tenant, connection)
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
        # By family, how many days its table reaches back and ahead.
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
            parts = _compose(self._tenant, self._catalogue, metric, asked, None)
            relations = {leaf: self._rows(leaf, parts.range) for leaf in parts.plans}
            return _answer(self._connection, parts.reading(relations))
        return _answer(self._connection, self._planned(metric, asked))

    def query_each(self, metrics: Sequence[Metric], by: tuple[str, ...]) -> list[DayFigures]:
        """Several metrics of one family by day in one statement, in no order.

        For metrics without windows that are not composed; `by` has all that any of them must be kept apart by.
        """
        plan = self._planned(metrics[0], MetricQuery(metrics[0].name, self._first, self._last, by=by))
        named = {f"figure {n}": metric for n, metric in enumerate(metrics)}
        rows = self._connection.execute(plan.figures(named)).fetchall()
        return [(ts, list(rest[: len(by)]), list(rest[len(by) :])) for ts, *rest in rows]

    def _planned(self, metric: Metric, asked: MetricQuery) -> _Plan:
        plan = _plan(self._tenant, self._catalogue, metric, asked, None)
        return plan.reading(self._reaching_for(plan.family, metric.formula))

    def values(self, family: Family, dimension: str) -> list[str]:
        """The values of a dimension that occur, the one that occurs in most cells first, equals by name."""
        column = identifier(dimension)
        given = f"{column} IS NOT NULL AND {self._range.condition()}"
        query = f"SELECT {column} FROM {self._reaching(family, 0, 0)} WHERE {given} GROUP BY 1 ORDER BY count(*) DESC, 1"
        return [row[0] for row in self._connection.execute(query).fetchall()]

    def value_counts(self, family: Family, dimension: str) -> dict[dt.date, int]:
        """How many values of a dimension each day has, days without rows left out."""
        kept = f"{self._reaching(family, 0, 0)} WHERE {self._range.condition()}"
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
        return self._reaching(family, days_before(formula), days_after(formula))

    def _reaching(self, family: Family, before: int, after: int) -> str:
        """Name of the table that holds the family's days, and at least so many before and after them."""
        name = identifier(f"days_{family.name}")
        kept = self._kept.get(family.name, (-1, -1))
        if kept[0] < before or kept[1] < after:
            reach = max(kept[0], before), max(kept[1], after)
            stored = state_rows(self._tenant, family, Grain.DAY, reaching(self._range, *reach), family.measures)
            self._connection.execute(f"CREATE OR REPLACE TABLE {name} AS {stored}")
            self._kept[family.name] = reach
        return name


def _answer(connection: duckdb.DuckDBPyConnection, plan: _Plan | ComposedPlan[_Plan]) -> pa.Table:
    _refuse_mixtures(connection, plan)
    answer = connection.sql(plan.sql(), params=plan.parameters).to_arrow_table()
    strings = [pa.field(name, pa.string()) for name in plan.by]
    return answer.cast(pa.schema([pa.field("ts", TIMESTAMP), *strings, pa.field("value", pa.float64())]))


def _board(connection: duckdb.DuckDBPyConnection, plan: _Plan | ComposedPlan[_Plan], top: int) -> pa.Table:
    check_top(top, plan.by)
    if plan.by[0] == PERIOD and isinstance(plan.metric.formula, Retention):
        raise UserError(f"top ranks the elements of a dimension, not periods; split by a dimension before {PERIOD!r}")
    _refuse_mixtures(connection, plan)
    first = leaders(connection, plan.over_the_range().sql(), plan.parameters, top)
    return first.ranked(_answer(connection, plan.grouped(first)))


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
    range: Range
    newest: str
    counts: str = ""
    counted: frozenset[str] = frozenset()
    """Distinct counts that `counts` (rows of `Family.counts`) answers, so that their sets are not read."""

    def over_the_range(self) -> _Plan:
        """One figure for the whole range and each element of the first dimension."""
        return self.at(Grain.TOTAL).by_only([0])

    def by_only(self, places: Sequence[int]) -> _Plan:
        """Split by those of its columns that stand there alone."""
        return replace(self, by=tuple(self.by[n] for n in places), by_sql=tuple(self.by_sql[n] for n in places))

    def at(self, grain: Grain) -> _Plan:
        return replace(self, grain=grain)

    def reading(self, relation: str) -> _Plan:
        """Of the state rows of that relation."""
        return replace(self, relation=relation)

    def grouped(self, first: Leaders) -> _Plan:
        """The first dimension's other elements as one."""
        return replace(self, by_sql=(first.grouped(self.by_sql[0]), *self.by_sql[1:]))

    def sql(self) -> str:
        if PERIOD in self.by:
            keys = [f"_k{n}" for n in range(len(self.by_sql))]
            return self._periods(keys, {m.name: m for m in self.family.measures_of(self.metric.formula)})
        order = ", ".join(f"{n + 1} NULLS FIRST" for n in range(len(self.by) + 1))
        return f"SELECT * FROM ({self.figures({'value': self.metric})}) WHERE value IS NOT NULL ORDER BY {order}"

    def figures(self, metrics: Mapping[str, Metric]) -> str:
        """A SELECT of ts, `by`, and under each name a metric's figure, null where it has none."""
        keys = [f"_k{n}" for n in range(len(self.by_sql))]
        every_key = ", ".join(["ts", *keys])
        formulas = [metric.formula for metric in metrics.values()]
        measures = {m.name: m for formula in formulas for m in self.family.measures_of(formula)}
        every_leaf = list(dict.fromkeys(leaf for formula in formulas for leaf in figures(formula)))
        stored = {name: m for name, m in measures.items() if name not in self.counted}
        parts = {**self._rows(stored), "picked": self._picked(keys, stored)}
        parts |= self._rolling(keys, stored, every_leaf) | self._ahead(keys, stored)
        apart = any(name.startswith("of_") for name in parts)
        parts |= _spined(parts, keys, stored) if apart else {"folded": _folded(every_key, stored)}
        for leaf in every_leaf:
            if not isinstance(leaf, MeasureFigure) or leaf.window is not None:
                continue
            measure = measures[leaf.measure]
            if measure.name in self.counted:
                parts[_alias(leaf)] = self._counts(measure, keys)
            elif measure.aggregation is Aggregation.COUNT_DISTINCT:
                parts[_alias(leaf)] = states.distinct_figures(measure, every_key, "picked", "figure")
            elif measure.aggregation is Aggregation.PERCENTILE and leaf.percentile is not None:
                parts[_alias(leaf)] = states.percentile_figures(measure, leaf.percentile, every_key, "picked", "figure")
        named = [f"folded.{k} AS {identifier(n)}" for k, n in zip(keys, self.by, strict=True)]
        told = [
            f"CAST({self._figure(metric.formula, measures)} AS DOUBLE) AS {identifier(name)}" for name, metric in metrics.items()
        ]
        return with_joined(parts, "folded", ["ts", *keys], ["folded.ts AS ts", *named, *told])

    def _figure(self, formula: Formula, measures: dict[str, Measure]) -> str:
        figure = _figure(formula, measures)
        if self.grain is Grain.TOTAL:
            first, last = self.range.bounds("matching")
            return figure.replace(_BUCKET_SECONDS, f"(epoch({last}) - epoch({first}))")
        return figure.replace(_BUCKET_SECONDS, f"(epoch(folded.ts + INTERVAL 1 {self.grain}) - epoch(folded.ts))")

    def _bucket(self, grain: Grain) -> str:
        return self.range.bounds("matching")[0] if grain is Grain.TOTAL else f"date_trunc('{grain}', ts)"

    def _rows(self, measures: dict[str, Measure]) -> dict[str, str]:
        """The common table `matching`: state rows that meet the conditions, counters joined to the bucket before."""
        parts, relation = {}, f"SELECT * FROM {self.relation}{self.filter()}"
        for measure in measures.values():
            if measure.aggregation is Aggregation.INCREASE:
                parts[f"before_{measure.name}"] = relation
                series = [identifier(d.name) for d in self.family.dimensions]
                relation = states.joined(measure, series, f"before_{measure.name}")
        return {**parts, "matching": relation}

    def _picked(self, keys: list[str], measures: dict[str, Measure]) -> str:
        return f"{self._keyed(self.grain, keys, measures)} WHERE {self.range.condition()}"

    def _keyed(self, grain: Grain, keys: list[str], measures: dict[str, Measure]) -> str:
        columns = [
            f"{self._bucket(grain)} AS ts",
            *(f"{sql} AS {key}" for key, sql in zip(keys, self.by_sql, strict=True)),
            *(identifier(c.name) for m in measures.values() for c in m.columns),
        ]
        return f"SELECT {', '.join(columns)} FROM matching"

    def _counts(self, measure: Measure, keys: list[str]) -> str:
        """Distinct ids as they were counted ahead, under the keys of the answer."""
        names = {*self.by, *(m.name for m in self.matchers)}
        dimension = f"= {literal(names.pop())}" if names else "IS NULL"
        pinned = [f"value = {literal(m.value)}" for m in self.matchers if not self.by]
        where = [f"measure = {literal(measure.name)}", f"dimension {dimension}", '"count" > 0', *pinned]
        values = "".join(f", value AS {key}" for key in keys)
        return f'SELECT ts{values}, CAST("count" AS DOUBLE) AS figure FROM {self.counts} WHERE {" AND ".join(where)}'

    def _rolling(
        self, keys: list[str], measures: dict[str, Measure], every_leaf: Sequence[MeasureFigure | Conversion | Retention]
    ) -> dict[str, str]:
        """The common tables of what is told over a window, and those that they need."""
        rolling = [leaf for leaf in every_leaf if isinstance(leaf, MeasureFigure) and leaf.window]
        if not rolling:
            return {}
        # To the last day of all rows, not of those that match: an artist whom nobody heard today has monthly listeners today.
        parts = {REACHING: self._keyed(Grain.DAY, keys, measures), "days": span(REACHING, self._last_day())}
        by = ", ".join([self._bucket(self.grain), *keys])
        named = ", ".join([f"{self._bucket(self.grain)} AS ts", *keys])
        for leaf in rolling:
            assert leaf.window is not None
            plain = leaf.seen is None and not leaf.offset
            bounded = self.range.days if plain and self.range.begin and self.range.end else None
            rolled = rolling_figures(measures[leaf.measure], leaf.window, keys, REACHING, "days", bounded, leaf.seen)
            if leaf.offset:
                rolled = f"SELECT * REPLACE (ts + INTERVAL {leaf.offset} DAY AS ts) FROM ({rolled})"
                rolled = f"SELECT * FROM ({rolled}) WHERE ts <= (SELECT max(ts) FROM days)"
            told = f"SELECT * FROM ({rolled}) WHERE {self.range.condition()}"
            parts[_alias(leaf)] = f"SELECT {named}, arg_max(figure, ts) AS figure FROM ({told}) GROUP BY {by}"
        return parts

    def _last_day(self) -> str:
        """SQL for the last day of the range that the table has: a segment without rows on it has its windows all the same."""
        end = self.range.end
        return self.newest if end is None else f"least({self.newest}, TIMESTAMPTZ '{end.isoformat()}' - INTERVAL 1 MICROSECOND)"

    def _ahead(self, keys: list[str], measures: dict[str, Measure]) -> dict[str, str]:
        """The common tables of what looks at later days, and those that they need."""
        looking = ahead_of(self.metric.formula)
        if not looking:
            return {}
        parts = {REACHING: self._keyed(Grain.DAY, keys, measures), EVERY: f"SELECT * FROM {self.relation}"}
        asked = Asked(self.grain, self._bucket(self.grain), tuple(keys), self.range, self.newest)
        for leaf in looking:
            match leaf:
                case Conversion(base, converted):
                    parts[_alias(leaf)] = conversion_figures(leaf, measures[base], measures[converted], asked)
                case Retention(measure):
                    parts[_alias(leaf)] = retention_figures(leaf, measures[measure], asked)
        return parts

    def _periods(self, keys: list[str], measures: dict[str, Measure]) -> str:
        """A metric that is retention, in all its periods: ts, what it is split by, value."""
        retention = self.metric.formula
        assert isinstance(retention, Retention)
        asked = Asked(self.grain, self._bucket(self.grain), tuple(keys), self.range, self.newest)
        parts = {
            **self._rows(measures),
            REACHING: self._keyed(Grain.DAY, keys, measures),
            EVERY: f"SELECT * FROM {self.relation}",
            "told": retention_figures(retention, measures[retention.measure], asked, every_period=True),
        }
        named = iter(keys)
        split = [f"{period_text(retention) if name == PERIOD else next(named)} AS {identifier(name)}" for name in self.by]
        with_ = ", ".join(f"{identifier(name)} AS ({sql})" for name, sql in parts.items())
        order = ", ".join(f"{n + 1} NULLS FIRST" for n in range(len(split) + 1))
        return f"WITH {with_} SELECT ts, {', '.join(split)}, figure AS value FROM told ORDER BY {order}"

    def filter(self, *more: str) -> str:
        conditions = [*self.conditions, *more]
        return f" WHERE {' AND '.join(conditions)}" if conditions else ""


def _plan(tenant: TenantLake, catalogue: Catalogue, metric: Metric, query: MetricQuery, points: RecordedPoints | None) -> _Plan:
    """`points` are what the tenant recorded; None leaves the relation to the caller, who has the rows of a declared metric."""
    family = catalogue.family_of(metric)
    recorded = metric.family == RECORDED and metric.name not in {m.name for m in family.metrics}
    grain, wanted = _grain(query.grain, family, metric), Range.of(query.first, query.last, query.since, query.until)
    matchers = tuple(parse_matcher(text) for text in query.where)
    split = tuple(name for name in query.by if name != PERIOD or not isinstance(metric.formula, Retention))
    if split != query.by and isinstance(metric.formula, Retention) and metric.formula.period is None:
        raise UserError(f"metric {metric.name!r} is the size of a cohort, which has no periods")
    named = [*split, *(m.name for m in matchers)]
    for name in query.by:
        if name in _COLUMNS or query.by.count(name) > 1:
            raise UserError(f"cannot split by {name!r}: the answer already has a column of that name")
    conditions, parameters, recent = [], [], Recent()
    if recorded and points is not None:
        points.require_labels(metric.name, named)
        expressions = {name: label_sql(name) for name in named}
        conditions.append("name = ?")
        parameters.append(metric.name)
        recent = points.recent
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
    relation = ""
    if points is not None:
        stored = grain if grain in family.grains else Grain.DAY
        read = reaching(wanted, days_before(metric.formula), days_after(metric.formula))
        relation = f"({state_rows(tenant, family, stored, read, family.measures_of(metric.formula), recent)})"
    newest = newest_day(tenant, family, wanted) if _window(metric.formula) or ahead_of(metric.formula) else ""
    by_sql = tuple(expressions[name] for name in split)
    return _Plan(metric, family, grain, relation, query.by, by_sql, matchers, tuple(conditions), parameters, wanted, newest)


def _counted(plan: _Plan, tenant: TenantLake, connection: duckdb.DuckDBPyConnection) -> _Plan:
    """The plan with counts in place of sets, where they answer the same: by day and at most one dimension.

    Days of an older version have no counts; where one of them is asked for, the sets are read.
    """
    windowed = {leaf.measure for leaf in leaves(plan.metric.formula) if leaf.window}
    measures = plan.family.measures_of(plan.metric.formula)
    sets = {m.name for m in measures if m.aggregation is Aggregation.COUNT_DISTINCT} - windowed
    pinned = plan.by or not plan.matchers or [(m.operator, m.value > "") for m in plan.matchers] == [(Operator.EQUAL, True)]
    if not sets or plan.grain is not Grain.DAY or not pinned or len({*plan.by, *(m.name for m in plan.matchers)}) > 1:
        return plan
    if ahead_of(plan.metric.formula):
        return plan  # who went on, and who came back, is told from the sets themselves
    assert plan.family.counts is not None
    table, open_ended = tenant.table(plan.family.counts), plan.range.begin is plan.range.end is None
    counts = f"(SELECT * FROM {table.sql() if open_ended else table.sql(*plan.range.days)} WHERE {plan.range.condition()})"
    read = reaching(plan.range, days_before(plan.metric.formula), 0)
    rows = f"({state_rows(tenant, plan.family, Grain.DAY, read, [m for m in measures if m.name not in sets])})"
    days = f"SELECT count(DISTINCT ts) FROM {rows} WHERE {plan.range.condition()}"
    total = f"SELECT count(*) FROM {counts} WHERE dimension IS NULL AND measure = {literal(min(sets))}"
    [(complete,)] = connection.execute(f"SELECT ({days}) = ({total})").fetchall()
    return replace(plan, relation=rows, counts=counts, counted=frozenset(sets)) if complete else plan


def _compose(
    tenant: TenantLake, catalogue: Catalogue, metric: Metric, query: MetricQuery, points: RecordedPoints | None
) -> ComposedPlan[_Plan]:
    known = [d.name for d in catalogue.dimensions_of(metric)]
    for name in [*query.by, *(parse_matcher(text).name for text in query.where)]:
        if name not in known:
            near, has = did_you_mean(name, known), ", ".join(known) or "none"
            raise NotFoundError(f"metric {metric.name!r} has no dimension {name!r}{near}; it has {has}")
    grain = _grain(query.grain, catalogue.family_of(metric), metric)
    for other in metric.others:
        _grain(grain, catalogue.family(other), metric)
    plans: dict[Question, _Plan] = {}
    for leaf in parts_of(metric.formula):
        figure = leaf.figure if isinstance(leaf, Summary) else leaf
        measure = catalogue.measure(next(leaves(leaf)).measure)
        apart = (measure.apart_by,) if measure.apart_by else ()
        alone = replace(metric, family=catalogue.measured_in(measure.name).name, formula=figure, apart_by=apart, others=())
        asked = query
        if daily(leaf):
            asked = replace(query, first=None, since=None, grain=Grain.DAY)
        elif isinstance(leaf, Summary) and leaf.dimension is not None:
            if leaf.dimension in query.by:
                raise UserError(f"metric {metric.name!r} is told over {leaf.dimension}; do not split it by that")
            asked = replace(query, by=(*query.by, leaf.dimension))
        plans[leaf] = _plan(tenant, catalogue, alone, asked, points)
    wanted = Range.of(query.first, query.last, query.since, query.until)
    return ComposedPlan(metric, catalogue, grain, query.by, plans, wanted)


def _grain(value: Grain | str, family: Family, metric: Metric) -> Grain:
    try:
        grain = Grain(value)
    except ValueError:
        raise UserError(f"grain {value!r} is not known; one of {', '.join(Grain)}") from None
    if grain is Grain.HOUR and grain not in family.grains:
        raise UserError(f"metric {metric.name!r} is kept by the day; its grain is day, week or month, not {grain}")
    if grain is Grain.MINUTE and grain not in family.grains:
        if Grain.HOUR not in family.grains:
            raise UserError(f"metric {metric.name!r} is kept by the day; its grain is day, week or month, not {grain}")
        raise UserError(f"metric {metric.name!r} is kept by the hour; its semantic model may set time_granularity: minute")
    if any(map(daily, parts_of(metric.formula))) and grain in (Grain.MINUTE, Grain.HOUR):
        raise UserError(f"metric {metric.name!r} is told by the day; its grain is day, week, month or total, not {grain}")
    if window := _window(metric.formula):
        parts = parts_of(metric.formula)
        rolling = all(daily(part) or (isinstance(part, MeasureFigure) and part.window) for part in parts)
        if grain in (Grain.MINUTE, Grain.HOUR) or (grain is not Grain.DAY and not rolling):
            allowed = "day, week, month and total" if rolling else "day"
            raise UserError(f"metric {metric.name!r} is told over {window} days; its grain is {allowed}, not {grain}")
    if grain in (Grain.MINUTE, Grain.HOUR) and ahead_of(metric.formula):
        after = days_after(metric.formula)
        raise UserError(f"metric {metric.name!r} looks {after} days ahead; its grain is day, week, month or total, not {grain}")
    return grain


def _window(formula: Formula) -> int:
    """The longest window that a formula looks at, 0 for none."""
    return max((leaf.window or 0 for leaf in leaves(formula)), default=0)


def _folded(keys: str, measures: dict[str, Measure]) -> str:
    """Group the states that fold in one pass; sets and distributions have relations of their own."""
    values = [
        f"{sql} AS {identifier(column.name)}"
        for measure in measures.values()
        if measure.aggregation not in _APART
        for sql, column in zip(states.merge(measure), measure.columns, strict=True)
    ]
    return f"SELECT {', '.join([keys, *values])} FROM picked GROUP BY {keys}"


def _spined(parts: dict[str, str], keys: list[str], measures: dict[str, Measure]) -> dict[str, str]:
    """The common table `folded` with a row also for buckets that have nothing but a window's figure."""
    every = ["ts", *keys]
    of_windows = [name for name in parts if name.startswith("of_")]
    spine = " UNION ".join(f"SELECT {', '.join(every)} FROM {identifier(name)}" for name in ["picked", *of_windows])
    columns = [c.name for m in measures.values() if m.aggregation not in _APART for c in m.columns]
    same = " AND ".join(f"spine.{key} IS NOT DISTINCT FROM grouped.{key}" for key in every)
    named = ", ".join([*(f"spine.{key}" for key in every), *(f"grouped.{identifier(name)}" for name in columns)])
    return {
        "grouped": _folded(", ".join(every), measures),
        "spine": spine,
        "folded": f"SELECT {named} FROM spine LEFT JOIN grouped ON {same}",
    }


# Stands in a figure for the length of its bucket, which the plan knows.
_BUCKET_SECONDS = "$bucket_seconds"


def _alias(leaf: Leaf) -> str:
    # With what no name can hold, so that it is no other measure's.
    match leaf:
        case MeasureFigure(measure, percentile, _, window, offset, seen):
            told = (percentile, window, offset or None, seen)
            return f"of_{measure}" + "".join(f" {part!r}" for part in told if part is not None)
        case Conversion(base, converted, _, window, rate):
            return f"of_{base} to {converted} {window} {rate}"
        case Retention(measure, period, length, new_after, rate):
            return f"of_{measure} kept {period} {length} {new_after} {rate}"


def _figure(formula: Formula, measures: dict[str, Measure]) -> str:
    from analytics_dagster.metrics.expressions import substitute

    match formula:
        case MeasureFigure(measure, _, newest, window):
            apart = window is not None or measures[measure].aggregation in _APART
            return f"{identifier(_alias(formula))}.figure" if apart else states.read(measures[measure], newest=newest)
        case Conversion() | Retention():
            return f"{identifier(_alias(formula))}.figure"
        case PerSecond(figure):
            return f"({_figure(figure, measures)} / {_BUCKET_SECONDS})"
        case Ratio(numerator, denominator):
            return f"({_figure(numerator, measures)} / nullif({_figure(denominator, measures)}, 0))"
        case Derived(expr, inputs):
            return substitute(expr, {name: _figure(inner, measures) for name, inner in inputs})
        case Summary():
            raise ValueError(f"{formula} is put together from an answer, and is no figure of state")


def _refuse_mixtures(connection: duckdb.DuckDBPyConnection, plan: _Plan | ComposedPlan[_Plan]) -> None:
    for one in [plan] if isinstance(plan, _Plan) else plan.plans.values():
        for dimension in one.metric.apart_by:
            _refuse_mixture(connection, one, dimension)


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
