"""From a question to its plan: what its names mean, which state rows answer it, and which grain it may have.

Whatever cannot be meant is refused here, by name, before anything is read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from analytics_dagster.errors import NotFoundError, UserError
from analytics_dagster.lake.compute import identifier, literal
from analytics_dagster.metrics.ahead import ahead_of, days_after, days_before, newest_day
from analytics_dagster.metrics.composed import ComposedPlan, Question, daily, parts_of
from analytics_dagster.metrics.declarations import Aggregation, Catalogue, Family, Grain, Measure, Metric, did_you_mean
from analytics_dagster.metrics.formulas import MeasureFigure, Retention, Summary, leaves
from analytics_dagster.metrics.grains import why_not
from analytics_dagster.metrics.matchers import Operator, parse_matcher
from analytics_dagster.metrics.plan import Plan
from analytics_dagster.metrics.ranges import Range, reaching, state_rows
from analytics_dagster.metrics.recorded import FAMILY as RECORDED
from analytics_dagster.metrics.recorded import Recent, RecordedPoints, label_sql
from analytics_dagster.metrics.retention import PERIOD
from analytics_dagster.metrics.windows import is_counted, windows_of

if TYPE_CHECKING:
    import duckdb

    from analytics_dagster.lake.lake import TenantLake
    from analytics_dagster.metrics.query import MetricQuery

_COLUMNS = ("ts", "value")


def plan_of(tenant: TenantLake, catalogue: Catalogue, metric: Metric, query: MetricQuery, points: RecordedPoints | None) -> Plan:
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
    newest = partial(newest_day, tenant, family, wanted)
    by_sql = tuple(expressions[name] for name in split)
    return Plan(metric, family, grain, relation, query.by, by_sql, matchers, tuple(conditions), parameters, wanted, newest)


def counted_ahead(plan: Plan, tenant: TenantLake, connection: duckdb.DuckDBPyConnection) -> Plan:
    """The plan with counts in place of sets, where they answer the same: by day or over a rolling window, and by at most one
    dimension.

    Days of an older version have no counts; where one of them is asked for, the sets are read.
    """
    counted = countable(plan)
    if not counted:
        return plan
    assert plan.family.counts is not None
    table, open_ended = tenant.table(plan.family.counts), plan.range.begin is plan.range.end is None
    counts = table.sql() if open_ended else table.sql(*plan.range.days)
    measures, before = beside(plan, counted)
    rows = f"({state_rows(tenant, plan.family, Grain.DAY, reaching(plan.range, before, 0), measures)})"
    answered = plan.reading(rows).counting(counts, counted)
    return answered if are_complete(answered, connection, partial(whole, tenant, plan.family)) else plan


def beside(plan: Plan, counted: frozenset[MeasureFigure]) -> tuple[list[Measure], int]:
    """What a plan reads of state rows beside what was counted ahead: which measures, and of how many days before its own."""
    rest = [leaf for leaf in leaves(plan.metric.formula) if leaf not in counted]
    before = max(((leaf.window or 1) - 1 + leaf.offset for leaf in rest), default=0)
    return [plan.family.measure(name) for name in dict.fromkeys(leaf.measure for leaf in rest)], before


def whole(tenant: TenantLake, family: Family) -> str:
    """A relation of one row: the oldest and the newest day of a family's table (`oldest`, `newest`)."""
    return f"(SELECT min(ts) AS oldest, max(ts) AS newest FROM {tenant.table(family.table(Grain.DAY)).sql()})"


def countable(plan: Plan) -> frozenset[MeasureFigure]:
    """The distinct counts of a plan that may be counted ahead; none where sets of the same measure are read all the same."""
    pinned = plan.by or not plan.matchers or [(m.operator, m.value > "") for m in plan.matchers] == [(Operator.EQUAL, True)]
    if not pinned or len({*plan.by, *(m.name for m in plan.matchers)}) > 1 or ahead_of(plan.metric.formula):
        return frozenset()  # who went on, and who came back, is told from the sets themselves
    known = windows_of(plan.family)

    def is_there(leaf: MeasureFigure) -> bool:
        by_day = leaf.window is None and plan.grain is Grain.DAY
        return by_day or (leaf.window in known.get(leaf.measure, ()) and is_counted(leaf) and not leaf.offset)

    distinct = [
        leaf
        for leaf in leaves(plan.metric.formula)
        if plan.family.measure(leaf.measure).aggregation is Aggregation.COUNT_DISTINCT
    ]
    read = {leaf.measure for leaf in distinct if not is_there(leaf)}
    return frozenset(leaf for leaf in distinct if leaf.measure not in read)


def are_complete(plan: Plan, connection: duckdb.DuckDBPyConnection, whole: Callable[[], str]) -> bool:
    """Whether every day of the plan's range has the counts that it is answered by. `whole` gives what the function of that name
    does.
    """
    split = min({*plan.by, *(m.name for m in plan.matchers)}, default="")
    return all(_is_complete(plan, leaf, split, connection, whole) for leaf in plan.counted)


def _is_complete(
    plan: Plan, leaf: MeasureFigure, split: str, connection: duckdb.DuckDBPyConnection, whole: Callable[[], str]
) -> bool:
    mine = f"{plan.range.condition()} AND measure = {literal(leaf.measure)} AND coalesce(days, 1) = {leaf.window or 1}"
    in_all = f"FROM {plan.counts} WHERE {mine} AND dimension IS NULL"
    if leaf.window is None:
        days = f"SELECT count(DISTINCT ts) FROM {plan.relation} WHERE {plan.range.condition()}"
        return _yes(connection, f"({days}) = (SELECT count(*) {in_all})")
    # What has too many values to be counted ahead has no row at all, where there is anybody.
    values = f"SELECT ts FROM {plan.counts} WHERE {mine} AND dimension = {literal(split)}"
    split_too = f'NOT EXISTS (SELECT 1 {in_all} AND "count" > 0 AND ts NOT IN ({values}))' if split else "true"
    first, last = plan.range.days
    if _yes(connection, f"(SELECT count(*) {in_all}) = {(last - first).days + 1} AND {split_too}"):
        return True
    # A window has a count on days without rows too. Where one is missing, there may be no such day: that is looked at last, since
    # the oldest and the newest day are in all of a table's files.
    begin, end = f"greatest(oldest::DATE, DATE '{first}')", f"least(newest::DATE, DATE '{last}')"
    days = f"SELECT coalesce(greatest(0, {end} - {begin} + 1), 0) FROM {whole()}"
    return _yes(connection, f"({days}) = (SELECT count(*) {in_all}) AND {split_too}")


def _yes(connection: duckdb.DuckDBPyConnection, condition: str) -> bool:
    [(answer,)] = connection.execute(f"SELECT {condition}").fetchall()
    return bool(answer)


def composed_of(
    tenant: TenantLake, catalogue: Catalogue, metric: Metric, query: MetricQuery, points: RecordedPoints | None
) -> ComposedPlan[Plan]:
    known = [d.name for d in catalogue.dimensions_of(metric)]
    for name in [*query.by, *(parse_matcher(text).name for text in query.where)]:
        if name not in known:
            near, has = did_you_mean(name, known), ", ".join(known) or "none"
            raise NotFoundError(f"metric {metric.name!r} has no dimension {name!r}{near}; it has {has}")
    grain = _grain(query.grain, catalogue.family_of(metric), metric)
    for other in metric.others:
        _grain(grain, catalogue.family(other), metric)
    plans: dict[Question, Plan] = {}
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
        plans[leaf] = plan_of(tenant, catalogue, alone, asked, points)
    wanted = Range.of(query.first, query.last, query.since, query.until)
    return ComposedPlan(metric, catalogue, grain, query.by, plans, wanted)


def _grain(value: Grain | str, family: Family, metric: Metric) -> Grain:
    try:
        grain = Grain(value)
    except ValueError:
        raise UserError(f"grain {value!r} is not known; one of {', '.join(Grain)}") from None
    if refused := why_not(grain, family, metric):
        raise UserError(refused)
    return grain
