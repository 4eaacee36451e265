"""Figures that are put together from others once those are there: of several families, over a dimension, since the beginning.

Each part of such a formula is a question of its own to one family, and is answered as SQL by the plan that answers it alone; here
the parts are joined by time and dimension values. A count that one family has no row for is 0 on days between that family's first
and last one, and missing outside of them: who was never saved has a save rate of 0, but not where saves were never reported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, Protocol, Self, TypeVar

from analytics_dagster.lake.compute import identifier as q
from analytics_dagster.metrics.compile import with_joined
from analytics_dagster.metrics.declarations import Catalogue, Grain, Metric
from analytics_dagster.metrics.formulas import (
    Conversion,
    Derived,
    Formula,
    Leaf,
    MeasureFigure,
    PerSecond,
    Ratio,
    Retention,
    Standing,
    Summary,
    SummaryKind,
    leaves,
)
from analytics_dagster.metrics.leaderboard import Leaders
from analytics_dagster.metrics.ranges import Range

Question = Leaf | Summary


@dataclass(frozen=True)
class Part:
    """One leaf of a formula with the SQL of its figures: columns ts, those it is split by, for a concentration its dimension, and
    value. `relation` has all rows that its family has in the days that are read; `counts`: nothing counted is 0.
    """

    leaf: Question
    sql: str
    relation: str
    counts: bool


@dataclass(frozen=True)
class Frame:
    """What all parts are told for: `by` are the columns of the split, `condition` the range as SQL on `ts`. `whole` is the start
    of the one bucket as SQL, where the whole range is one.
    """

    by: tuple[str, ...]
    grain: Grain
    condition: str
    whole: str | None = None

    def bucket(self, ts: str) -> str:
        """SQL: the bucket of a time."""
        return self.whole or f"date_trunc('{self.grain}', {ts})"

    @property
    def keys(self) -> list[str]:
        return [f"_k{n}" for n in range(len(self.by))]


class Plan(Protocol):
    """What answers one leaf alone (`plan.py`)."""

    @property
    def metric(self) -> Metric: ...
    @property
    def grain(self) -> Grain: ...
    @property
    def by(self) -> tuple[str, ...]: ...
    @property
    def relation(self) -> str: ...
    @property
    def parameters(self) -> list[str]: ...
    def sql(self) -> str: ...
    def at(self, grain: Grain) -> Self: ...
    def by_only(self, places: Sequence[int]) -> Self: ...
    def grouped(self, first: Leaders) -> Self: ...
    def reading(self, relation: str) -> Self: ...


P = TypeVar("P", bound=Plan)


@dataclass(frozen=True)
class ComposedPlan(Generic[P]):
    """A plan for each leaf of a formula; a concentration's is split by its dimension too, behind `by`."""

    metric: Metric
    catalogue: Catalogue
    grain: Grain
    by: tuple[str, ...]
    plans: Mapping[Question, P]
    range: Range

    @property
    def parameters(self) -> list[str]:
        """Of all plans, in the order of their SQL."""
        return [parameter for plan in self.plans.values() for parameter in plan.parameters]

    def over_the_range(self) -> ComposedPlan[P]:
        """One figure for the whole range and each element of the first dimension."""
        plans = {
            leaf: plan.at(plan.grain if daily(leaf) else Grain.TOTAL).by_only([0, *range(len(self.by), len(plan.by))])
            for leaf, plan in self.plans.items()
        }
        return replace(self, grain=Grain.TOTAL, by=self.by[:1], plans=plans)

    def grouped(self, first: Leaders) -> ComposedPlan[P]:
        """The first dimension's other elements as one."""
        return replace(self, plans={leaf: plan.grouped(first) for leaf, plan in self.plans.items()})

    def reading(self, relations: Mapping[Question, str]) -> ComposedPlan[P]:
        """Each leaf of the state rows of its relation."""
        return replace(self, plans={leaf: plan.reading(relations[leaf]) for leaf, plan in self.plans.items()})

    def _counts(self, leaf: Question) -> bool:
        """What looks ahead is absent while it is not known, which is not 0."""
        ahead = isinstance(leaf, Conversion | Retention)
        return not ahead and self.catalogue.measure(next(leaves(leaf)).measure).integer

    def sql(self) -> str:
        parts = [Part(leaf, plan.sql(), plan.relation, self._counts(leaf)) for leaf, plan in self.plans.items()]
        whole = None
        if self.grain is Grain.TOTAL:
            every = " UNION ALL ".join(
                f"SELECT ts FROM {relation}" for relation in dict.fromkeys(part.relation for part in parts)
            )
            whole, _ = self.range.bounds(f"({every})")
        return composed_sql(self.metric.formula, parts, Frame(self.by, self.grain, self.range.condition(), whole))


def parts_of(formula: Formula) -> tuple[Question, ...]:
    """The leaves that are questions of their own, each once, in reading order."""
    match formula:
        case MeasureFigure() | Conversion() | Retention() | Summary():
            return (formula,)
        case PerSecond(figure):
            return parts_of(figure)
        case Ratio(one, other) | Standing(one, other):
            return tuple(dict.fromkeys((*parts_of(one), *parts_of(other))))
        case Derived(_, inputs):
            return tuple(dict.fromkeys(leaf for _, inner in inputs for leaf in parts_of(inner)))


def daily(leaf: Question) -> bool:
    """Whether a leaf is made from all days since the first: it is asked for by day, whatever the answer's buckets are."""
    return isinstance(leaf, Summary) and leaf.kind is not SummaryKind.CONCENTRATION


def composed_sql(formula: Formula, parts: Sequence[Part], frame: Frame) -> str:
    """A SELECT of ts, the columns of the split and value, sorted by them, nulls first; without rows that have no value."""
    keys = frame.keys
    named = {part.leaf: f"of_{n}" for n, part in enumerate(parts)}
    tables = {named[part.leaf]: _told(part, frame) for part in parts}
    every = ", ".join(["ts", *keys])
    tables["spine"] = " UNION ".join(f"SELECT {every} FROM {name}" for name in named.values())
    figures = {part.leaf: _filled(part, f"{named[part.leaf]}.figure", frame) for part in parts}
    value = f"CAST({_figure(formula, figures, frame)} AS DOUBLE) AS value"
    columns = ["spine.ts AS ts", *(f"spine.{k} AS {q(n)}" for k, n in zip(keys, frame.by, strict=True)), value]
    joined = with_joined(tables, "spine", ["ts", *keys], columns)
    order = ", ".join(f"{n + 1} NULLS FIRST" for n in range(len(keys) + 1))
    return f"SELECT * FROM ({joined}) WHERE value IS NOT NULL ORDER BY {order}"


def _told(part: Part, frame: Frame) -> str:
    """The part's figures under the columns ts, the frame's keys and figure."""
    renamed = "".join(f", {q(name)} AS {key}" for name, key in zip(frame.by, frame.keys, strict=True))
    rows = f"SELECT ts{renamed}, value FROM ({part.sql})"
    match part.leaf:
        case MeasureFigure() | Conversion() | Retention():
            return f"SELECT {frame.whole or 'ts'} AS ts{renamed}, value AS figure FROM ({part.sql})"
        case Summary(SummaryKind.CONCENTRATION, _, dimension):
            rows = f"SELECT {frame.whole or 'ts'} AS ts{renamed}, value FROM ({part.sql}) WHERE {q(str(dimension))} IS NOT NULL"
            by = ", ".join(["ts", *frame.keys])
            return f"SELECT {by}, sum(value * value) / nullif(sum(value) * sum(value), 0) AS figure FROM ({rows}) GROUP BY {by}"
        case Summary(SummaryKind.TOTAL):
            return _last_of_each(_running(rows, part.relation, frame), frame)
        case Summary(SummaryKind.TIME_TO_PEAK):
            return _last_of_each(_to_peak(rows, frame), frame)
        case _:
            raise ValueError(f"{part.leaf} is no part of a formula")


def _running(rows: str, relation: str, frame: Frame) -> str:
    """The sum up to each day, from an element's first day to the last day that the family has."""
    apart = "".join(f", {key}" for key in frame.keys)
    partition = f"PARTITION BY {', '.join(frame.keys)} " if frame.keys else ""
    last = f"(SELECT max(ts) FROM {relation})"
    elements = f"SELECT min(ts) AS begin{apart} FROM seen {f'GROUP BY {apart[2:]}' if apart else 'HAVING count(*) > 0'}"
    days = f"SELECT unnest(generate_series(begin, {last}, INTERVAL 1 DAY)) AS ts{apart}, 0 AS value FROM ({elements})"
    every = f"SELECT ts{apart}, value FROM seen UNION ALL {days}"
    by_day = f"SELECT ts{apart}, sum(value) AS value FROM ({every}) GROUP BY ts{apart}"
    return f"WITH seen AS ({rows}) SELECT ts{apart}, sum(value) OVER ({partition}ORDER BY ts) AS figure FROM ({by_day})"


def _to_peak(rows: str, frame: Frame) -> str:
    """Days from an element's first one to its strongest one so far, the first of equal ones."""
    apart = "".join(f", {key}" for key in frame.keys)
    over = f"OVER ({f'PARTITION BY {apart[2:]} ' if apart else ''}ORDER BY ts)"
    peak = f"arg_max(ts, {{'value': value, 'sooner': -epoch_us(ts)}}) {over}"
    return f"SELECT ts{apart}, date_diff('day', min(ts) {over}, {peak}) AS figure FROM ({rows}) WHERE value > 0"


def _last_of_each(days: str, frame: Frame) -> str:
    """By bucket of the answer, the figure of its last day within the range."""
    apart = "".join(f", {key}" for key in frame.keys)
    told = f"SELECT * FROM ({days}) WHERE {frame.condition}"
    bucket = frame.bucket("ts")
    return f"SELECT {bucket} AS ts{apart}, arg_max(figure, ts) AS figure FROM ({told}) GROUP BY {bucket}{apart}"


def _filled(part: Part, figure: str, frame: Frame) -> str:
    if not part.counts:
        return figure
    begin, end = (f"(SELECT {edge}(ts) FROM {part.relation})" for edge in ("min", "max"))
    if isinstance(part.leaf, MeasureFigure) and part.leaf.offset:
        # What is told as it was some days before is not known so many days longer.
        begin = f"({begin} + INTERVAL {part.leaf.offset} DAY)"
    inside = f"spine.ts >= {frame.bucket(begin)} AND spine.ts <= {end}"
    if frame.whole:
        inside = f"{begin} IS NOT NULL"
    return f"(CASE WHEN {figure} IS NULL AND {inside} THEN 0 ELSE {figure} END)"


def _figure(formula: Formula, figures: Mapping[Question, str], frame: Frame) -> str:
    from analytics_dagster.metrics.expressions import substitute

    match formula:
        case MeasureFigure() | Conversion() | Retention() | Summary():
            return figures[formula]
        case PerSecond() | Standing():
            raise ValueError(f"{formula} is one family's, and is not put together")
        case Ratio(numerator, denominator):
            return f"({_figure(numerator, figures, frame)} / nullif({_figure(denominator, figures, frame)}, 0))"
        case Derived(expr, inputs):
            return substitute(expr, {name: _figure(part, figures, frame) for name, part in inputs})
