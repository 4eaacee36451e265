"""From a figure back to the raw rows behind it: the rows of each measure that its formula reads, under the figure's conditions.

A figure of one count has exactly as many rows as it says. Of any other the parts are told apart (numerator, denominator, an
earlier window), because a row that is in one of them need not be in the other. Rows are read from the raw tables as they stand,
never from stored figures: where the two differ, the figures have yet to be computed anew.
"""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pyarrow as pa

from analytics_dagster.errors import NotFoundError, UserError
from analytics_dagster.lake.compute import connect, identifier
from analytics_dagster.lake.schemas import MEASURED
from analytics_dagster.metrics.compile import SOURCE, rows_of
from analytics_dagster.metrics.composed import daily
from analytics_dagster.metrics.declarations import Aggregation, Catalogue, Family, Grain, Measure, Metric, did_you_mean
from analytics_dagster.metrics.formulas import (
    Conversion,
    Derived,
    Formula,
    MeasureFigure,
    PerSecond,
    Ratio,
    Retention,
    Standing,
    Summary,
)
from analytics_dagster.metrics.matchers import Matcher, parse_matcher
from analytics_dagster.metrics.plan import longest_window
from analytics_dagster.metrics.query import MetricQuery, answer_query
from analytics_dagster.metrics.ranges import Range
from analytics_dagster.metrics.recorded import FAMILY as RECORDED
from analytics_dagster.metrics.recorded import label_sql, recorded_metric

if TYPE_CHECKING:
    from analytics_dagster.lake.interruption import Interruption
    from analytics_dagster.lake.lake import TenantLake

MOST_ROWS = 20_000
"""Rows of one answer; the next ones begin behind them."""
_ONE_DAY = dt.timedelta(days=1)
# A server answers beside everything else that it does in a gigabyte.
_MEMORY_LIMIT = "400MB"


@dataclass(frozen=True)
class Part:
    """The rows of one measure that a figure reads. `role`: what they are in the formula. `before` and `after`: by how many days
    their range begins before and ends after the one that is asked for (None: it begins with the first day there is).
    """

    name: str
    role: str
    measure: Measure
    family: Family
    before: int | None = 0
    after: int = 0

    def range(self, asked: Range) -> Range:
        """The times of its rows."""
        begin = None if asked.begin is None or self.before is None else asked.begin - self.before * _ONE_DAY
        return Range(begin, None if asked.end is None else asked.end + self.after * _ONE_DAY)

    @property
    def words(self) -> str:
        """Which rows they are."""
        what = "sessions" if self.family.sessions else f"rows of {MEASURED[self.family.source].path}"
        condition = "is true" if self.measure.aggregation is Aggregation.SUM_BOOLEAN else "is there"
        days = ""
        if self.before is None:
            days = ", from the first day on"
        elif self.before or self.after:
            days = f", from {_days(-self.before)}the first day to {_days(self.after)}the last"
        return f"{self.role}: {what} in which {self.measure.expr} {condition}{days}"


@dataclass(frozen=True)
class Rows:
    """Rows `offset` and on of `total` behind a figure, by time, in the raw table's columns. `figure`: the metric's value over the
    whole range; `counted`: it must be equal to `total`.
    """

    metric: Metric
    parts: tuple[Part, ...]
    part: Part
    range: Range
    table: pa.Table
    total: int
    offset: int
    figure: float | None
    counted: bool

    @property
    def next_offset(self) -> int | None:
        """Where the rows begin that are not here; None after the last."""
        behind = self.offset + self.table.num_rows
        return behind if behind < self.total else None


def parts_of_metric(catalogue: Catalogue, metric: Metric) -> tuple[Part, ...]:
    """The parts that a metric's figure is made from, each once, in reading order. Their names are those of the measures, with a
    number behind where one measure is read over several ranges.
    """
    found: dict[tuple[str, int | None, int], Part] = {}
    for role, measure, before, after in _read(metric.formula, "counted" if counts_rows(catalogue, metric) else "read"):
        if (measure, before, after) not in found:
            taken = sum(part.measure.name == measure for part in found.values())
            name = f"{measure}-{taken + 1}" if taken else measure
            family = catalogue.measured_in(measure)
            found[measure, before, after] = Part(name, role, family.measure(measure), family, before, after)
    return tuple(found.values())


def counts_rows(catalogue: Catalogue, metric: Metric) -> bool:
    """Whether the metric's figure is a number of rows."""
    formula = metric.formula
    if not isinstance(formula, MeasureFigure) or formula.window or formula.percentile or formula.newest:
        return False
    return catalogue.measure(formula.measure).aggregation in (Aggregation.COUNT, Aggregation.SUM_BOOLEAN)


def read_rows(
    tenant: TenantLake,
    catalogue: Catalogue,
    query: MetricQuery,
    *,
    parameters: Mapping[str, int],
    of: str | None = None,
    offset: int = 0,
    limit: int = 100,
    interruption: Interruption | None = None,
) -> Rows:
    """The rows behind what `query` asks for (its grain and split are passed over). `of` names a part, by default the first one.
    `parameters`: what declarations may name, `expressions.PARAMETERS`.

    Raises NotFoundError for an unknown metric, dimension or part, UserError as the query does.
    """
    metric = recorded_metric(tenant, catalogue, query.metric, query.aggregate) or catalogue.metric(query.metric)
    parts = parts_of_metric(catalogue, metric)
    part = next((one for one in parts if of in (None, one.name)), None)
    if part is None:
        names = [one.name for one in parts]
        raise NotFoundError(f"metric {metric.name!r} has no rows {of!r}{did_you_mean(of or '', names)}; of {', '.join(names)}")
    if part.family.small_cells is not None:
        raise UserError(f"the rows behind {metric.name!r} are not shown: they would tell what single people are")
    # The query says first what is wrong with a condition or a range.
    figure = _figure(tenant, catalogue, metric, query, interruption)
    wanted = part.range(Range.of(query.first, query.last, query.since, query.until))
    select, values = _select(tenant, metric, part, wanted, [parse_matcher(text) for text in query.where])
    bound = {**values, **{name: value for name, value in parameters.items() if f"${name}" in select}}
    schema = part.family.rows if part.family.sessions else MEASURED[part.family.source]
    columns = ", ".join(identifier(column.name) for column in schema.columns)
    page = f"SELECT {columns} FROM ({select}) ORDER BY ts, {identifier(schema.key)} LIMIT {int(limit)} OFFSET {int(offset)}"
    with connect(memory_limit=_MEMORY_LIMIT) as connection:
        covering = contextlib.nullcontext() if interruption is None else interruption.covering(connection)
        with covering:
            [(total,)] = connection.execute(f"SELECT count(*) FROM ({select})", bound).fetchall()
            table = connection.sql(page, params=bound).to_arrow_table()
    counted = counts_rows(catalogue, metric)
    return Rows(metric, parts, part, wanted, table.cast(schema.arrow), total, offset, figure, counted)


def _figure(
    tenant: TenantLake, catalogue: Catalogue, metric: Metric, query: MetricQuery, interruption: Interruption | None
) -> float | None:
    """What the query tells for the whole range; of what is told over a window, for the last day."""
    one_day = query.first is not None and query.first == query.last
    asked = replace(query, by=(), top=None, grain=Grain.DAY if one_day else Grain.TOTAL)
    if longest_window(metric.formula):
        if query.last is None:
            raise UserError(f"metric {metric.name!r} is told over days before its own; say to which day (to)")
        asked = replace(asked, first=query.last, grain=Grain.DAY)
    rows = answer_query(tenant, catalogue, asked, None, interruption).figures
    found: float | None = rows["value"][0].as_py() if rows.num_rows == 1 else None
    return found


def _select(tenant: TenantLake, metric: Metric, part: Part, wanted: Range, matchers: list[Matcher]) -> tuple[str, dict[str, str]]:
    """A SELECT of the part's rows and what its parameters stand for."""
    family, source = part.family, tenant.table(MEASURED[part.family.source])
    # Whole days: what a row is worth may follow from the other rows of its day (sessions, counting policies).
    whole = source.sql() if wanted.begin is wanted.end is None else source.sql(*wanted.days)
    recorded = metric.family == RECORDED and metric.name not in {m.name for m in family.metrics}
    expressions = {dimension.name: dimension.expr for dimension in family.dimensions}
    values = {f"where_{n}": matcher.value for n, matcher in enumerate(matchers)}
    conditions = [wanted.condition(), '"_read"']
    if recorded:
        expressions = {matcher.name: label_sql(matcher.name) for matcher in matchers}
        values["where_name"] = metric.name
        conditions.append("name = $where_name")
    added = []
    for n, matcher in enumerate(matchers):
        added.append(f"({expressions[matcher.name]}) AS _where_{n}")
        condition, _ = matcher.sql(f"_where_{n}")
        conditions.append(condition.replace("?", f"$where_{n}"))
    present = "" if part.measure.aggregation is Aggregation.SUM_BOOLEAN else " IS NOT NULL"
    columns = ", ".join(["*", *added, f'({part.measure.expr}){present} AS "_read"'])
    beside = family.step.beside if family.step else {}
    more = "".join(f", {identifier(name)} AS (SELECT * FROM {tenant.table(table).sql()})" for name, table in beside.items())
    rows = f"WITH {SOURCE} AS (SELECT * FROM {whole}){more} SELECT {columns} FROM {rows_of(family)}"
    return f"SELECT * FROM ({rows}) WHERE {' AND '.join(conditions)}", values


def _read(formula: Formula, role: str) -> Iterator[tuple[str, str, int | None, int]]:
    """Role, measure and reach in days of what a formula reads, in reading order."""
    match formula:
        case MeasureFigure(measure, _, _, window, offset):
            yield role, measure, (window or 1) - 1 + offset, -offset
        case Conversion(base, converted, _, window):
            yield f"{role}, who began", base, 0, 0
            yield f"{role}, who went on", converted, 0, window - 1
        case Retention(measure, period, length):
            yield f"{role}, who came", measure, 0, 0
            if period is not None:
                yield f"{role}, who came back", measure, -period * length, (period + 1) * length - 1
        case Summary(_, figure):
            yield role, figure.measure, None if daily(formula) else 0, 0
        case PerSecond(figure):
            yield from _read(figure, role)
        case Standing(figure, alike):
            yield from _read(figure, role)
            yield from _read(alike, "alike")
        case Ratio(numerator, denominator):
            yield from _read(numerator, "numerator")
            yield from _read(denominator, "denominator")
        case Derived(_, inputs):
            for name, inner in inputs:
                yield from _read(inner, name)


def _days(number: int) -> str:
    if number == 0:
        return ""
    return f"{abs(number)} day{'s' if abs(number) > 1 else ''} {'after' if number > 0 else 'before'} "
