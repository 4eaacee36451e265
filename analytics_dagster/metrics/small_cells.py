"""Figures that would tell of single people are suppressed: those split by what people are that rest on too few of them.

A question is *of people* where it splits or filters by a dimension in `Family.small_cells`. Its *table* is, for each bucket and
each value of its other dimensions (one artist), the number of distinct people in each cell of those dimensions. Four rules:

1. A cell of fewer than `TenantLake.smallest_cell` people is suppressed.
2. The total is told to whoever does not split. So among cells that add up to something which is told, those suppressed are at
   least two and have that many people together, or the next smallest is suppressed as well (complementary suppression).
3. With two such dimensions the sums of rows and columns are told too. What is suppressed there is suppressed in each of its
   cells, those that nobody is in as well, and no cell may be the only way between a row and a column of suppressed cells: it
   would follow from the sums of the others (Gusfield, "A graph theoretic approach to statistical data security", 1988).
4. Where all people of a table together are too few, nothing is said of its cells, not even which ones there are.

All tables are made without the conditions on such dimensions, which only pick cells afterwards: so no question gets around the
rules by asking for everything and for everything but one. For the same reason such a question compares with = alone, names two
such dimensions at most, and has no `top`. Not held: who asks about many days may set them against each other. Distinct people do
not add up over days, so that gives no cell, but it is why measures other than distinct counts should not be declared here.
"""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pyarrow as pa

from analytics_dagster.errors import UserError
from analytics_dagster.lake.schemas import TIMESTAMP
from analytics_dagster.metrics.declarations import Aggregation, Family, Metric, did_you_mean
from analytics_dagster.metrics.formulas import Conversion, MeasureFigure, Retention, Standing, figures, leaves
from analytics_dagster.metrics.matchers import Matcher, Operator, parse_matcher

if TYPE_CHECKING:
    from analytics_dagster.metrics.query import MetricQuery

SUPPRESSED = "suppressed"
"""The column of an answer that says which figures are suppressed: their value is null."""
MOST_DIMENSIONS = 2

Cell = tuple[str, ...]
"""Values of the dimensions that are of people; an unknown one is empty, as conditions take it."""
Group = tuple[dt.datetime, Cell]
"""A bucket and the values of the other dimensions."""
People = Mapping[Group, Mapping[Cell, float]]
Ask = Callable[[Metric, "MetricQuery"], pa.Table]


def of_people(family: Family, query: MetricQuery) -> tuple[str, ...]:
    """The dimensions of people that a question splits or filters by; none: it is answered as any other."""
    if family.small_cells is None:
        return ()
    named = {*query.by, *(parse_matcher(text).name for text in query.where)}
    return tuple(d for d in family.small_cells.dimensions if d in named)


def answered(ask: Ask, family: Family, metric: Metric, query: MetricQuery, smallest: int) -> pa.Table:
    """The answer to a question that is of people: ts, `by`, suppressed (bool), value (null where suppressed), in their order.

    `ask` answers any other question. Of a table with too few people there is one row, whose columns of people say so.
    Raises UserError for a question that would get around suppression.
    """
    dimensions, matchers = of_people(family, query), [parse_matcher(text) for text in query.where]
    _refuse(metric, query, dimensions, matchers)
    others = tuple(dict.fromkeys(name for name in query.by if name not in dimensions))
    where = tuple(text for text, m in zip(query.where, matchers, strict=True) if m.name not in dimensions)
    table = _Tables(ask, family, metric, replace(query, where=where, by=others), others)
    told, picked = table.told(dimensions), {m.name: m.value for m in matchers if m.name in dimensions}
    if len({(m.name, m.value) for m in matchers if m.name in dimensions}) > len(picked):
        return _table([], query.by)  # one dimension cannot be two values at once
    hidden = table.suppressed(dimensions, smallest)
    rows = []
    for group in sorted({*told, *hidden}, key=lambda g: (g[0], g[1])):
        if hidden.get(group, frozenset()) is None:
            rows.append(_row(group, others, dict.fromkeys(dimensions, f"(fewer than {smallest})"), query.by, None))
            continue
        cells = told.get(group, {})
        for cell in sorted({*cells, *(hidden.get(group) or ())}):
            named = dict(zip(dimensions, cell, strict=True))
            if all(named[name] == value for name, value in picked.items()):
                value = None if cell in (hidden.get(group) or ()) else cells.get(cell)
                rows.append(_row(group, others, {n: v or None for n, v in named.items()}, query.by, value))
    return _table(rows, query.by)


def _refuse(metric: Metric, query: MetricQuery, dimensions: Collection[str], matchers: Iterable[Matcher]) -> None:
    said = f"metric {metric.name!r} by {' and '.join(dimensions)} is of people:"
    if len(dimensions) > MOST_DIMENSIONS:
        raise UserError(f"{said} its cells would be too small; split and filter by {MOST_DIMENSIONS} of them at most")
    for matcher in matchers:
        if matcher.operator is not Operator.EQUAL:
            raise UserError(
                f"{said} a condition with {matcher.operator} would let small cells be had by subtraction; "
                f"write {matcher.name}=..."
            )
    if query.top is not None:
        raise UserError(f"{said} the others of a board would let small cells be had by subtraction; leave top out")


@dataclass(frozen=True)
class _Tables:
    """The tables of one question: what it asks for, and how many people are in each cell."""

    ask: Ask
    family: Family
    metric: Metric
    query: MetricQuery
    others: tuple[str, ...]

    def told(self, dimensions: tuple[str, ...]) -> People:
        return self._cells(self.metric, dimensions)

    def suppressed(self, dimensions: tuple[str, ...], smallest: int) -> dict[Group, frozenset[Cell] | None]:
        """Suppressed cells of each table; None: all of it."""
        totals, alone = self.people(()), [self.people((name,)) for name in dimensions]
        pairs = self.people(dimensions) if len(dimensions) > 1 else {}
        found: dict[Group, frozenset[Cell] | None] = {}
        for group in {*totals, *self.told(dimensions)}:
            if totals.get(group, {}).get((), 0) < smallest:
                found[group] = None
                continue
            lines = [counts.get(group, {}) for counts in alone]
            found[group] = in_row(lines[0], smallest) if len(lines) == 1 else in_table(lines, pairs.get(group, {}), smallest)
        return found

    def people(self, dimensions: tuple[str, ...]) -> People:
        """Distinct people in each cell, of several windows of a formula those of the one with fewest."""
        assert self.family.small_cells is not None
        each = [
            self._cells(
                replace(self.metric, formula=MeasureFigure(self.family.small_cells.people, window=w, offset=o)), dimensions
            )
            for w, o in dict.fromkeys((leaf.window, leaf.offset) for leaf in leaves(self.metric.formula))
        ]
        groups = {group for counts in each for group in counts}
        return {
            group: {
                cell: min(counts.get(group, {}).get(cell, 0) for counts in each)
                for cell in {cell for counts in each for cell in counts.get(group, {})}
            }
            for group in groups
        }

    def _cells(self, metric: Metric, dimensions: tuple[str, ...]) -> dict[Group, dict[Cell, float]]:
        rows = self.ask(metric, replace(self.query, metric=metric.name, by=(*self.others, *dimensions)))
        columns = [column.to_pylist() for column in rows.columns]
        found: dict[Group, dict[Cell, float]] = {}
        for ts, *values, value in zip(*columns, strict=True):
            named = tuple(text or "" for text in values)
            cells = found.setdefault((ts, named[: len(self.others)]), {})
            # What is not known comes as null and, from some sources, as empty text: a condition takes both for one.
            cells[named[len(self.others) :]] = cells.get(named[len(self.others) :], 0) + value
        return found


def in_row(people: Mapping[Cell, float], smallest: int, also: Collection[Cell] = ()) -> frozenset[Cell]:
    """What to suppress among cells that add up to a total which is told. `also` is suppressed in any case."""
    hidden = {cell for cell, n in people.items() if 0 < n < smallest} | set(also)
    shown = sorted((n, cell) for cell, n in people.items() if cell not in hidden)
    while hidden and shown and (len(hidden) < 2 or sum(people.get(cell, 0) for cell in hidden) < smallest):
        hidden.add(shown.pop(0)[1])
    return frozenset(hidden)


def in_table(sides: list[Mapping[Cell, float]], people: Mapping[Cell, float], smallest: int) -> frozenset[Cell]:
    """What to suppress in a table of two dimensions, of whose values `sides` has the people."""
    rows, columns = (in_row(side, smallest) for side in sides)
    # A cell that nobody is in is missing from the answer, which tells that it is 0: suppressed where that would tell another.
    people = {(*a, *b): people.get((*a, *b), 0) for a in sides[0] for b in sides[1]}
    hidden = {cell for cell, n in people.items() if 0 < n < smallest or cell[:1] in rows or cell[1:] in columns}
    while True:
        before = len(hidden)
        for place, value in [*((0, a) for (a,) in sides[0]), *((1, b) for (b,) in sides[1])]:
            line = {cell: n for cell, n in people.items() if cell[place] == value}
            hidden |= in_row(line, smallest, {cell for cell in hidden if cell[place] == value})
        if len(hidden) == before and (alone := _told_by_others(hidden)):
            near = sorted((n, c) for c, n in people.items() if c not in hidden and (c[0] == alone[0] or c[1] == alone[1]))
            hidden |= {cell for _, cell in near[:1]}
        if len(hidden) == before:
            return frozenset(hidden)


def _told_by_others(hidden: Collection[Cell]) -> Cell | None:
    """A suppressed cell that is a bridge of the graph whose ends are rows and columns and whose edges are such cells."""
    return next((cell for cell in sorted(hidden) if not _joined(cell, [other for other in hidden if other != cell])), None)


def _joined(cell: Cell, others: list[Cell]) -> bool:
    """Whether a way leads from the cell's row to its column through other cells."""
    reached, waiting = {(0, cell[0])}, [(0, cell[0])]
    while waiting:
        side, value = waiting.pop()
        ends = {(1 - side, other[1 - side]) for other in others if other[side] == value} - reached
        reached |= ends
        waiting += ends
    return (1, cell[1]) in reached


Row = tuple[dt.datetime, dict[str, str | None], bool, float | None]


def _row(group: Group, others: tuple[str, ...], cell: Mapping[str, str | None], by: tuple[str, ...], value: float | None) -> Row:
    values = {**{name: text or None for name, text in zip(others, group[1], strict=True)}, **cell}
    return group[0], {name: values[name] for name in by}, value is None, value


def _table(rows: list[Row], by: tuple[str, ...]) -> pa.Table:
    ordered = sorted(rows, key=lambda row: (row[0], [(row[1][name] is not None, row[1][name] or "") for name in by]))
    columns = {
        "ts": pa.array([row[0] for row in ordered], TIMESTAMP),
        **{name: pa.array([row[1][name] for row in ordered], pa.string()) for name in by},
        SUPPRESSED: pa.array([row[2] for row in ordered], pa.bool_()),
        "value": pa.array([row[3] for row in ordered], pa.float64()),
    }
    return pa.table(columns)


def faults_of_family(family: Family) -> Iterator[str]:
    """What is wrong with a declaration of small cells, or with there being none."""
    step, cells = family.step, family.small_cells
    of_step = {c.name for c in step.columns} if step and step.beside else set()
    guarded = () if cells is None else cells.dimensions
    if cells is not None:
        counted = {m.name for m in family.measures if m.aggregation is Aggregation.COUNT_DISTINCT}
        if cells.people not in counted:
            near = did_you_mean(cells.people, counted)
            yield f"people is to be a measure with agg: count_distinct, which {cells.people!r} is not{near}"
        known = [d.name for d in family.dimensions]
        yield from (
            f"no dimension {name!r} in this semantic model{did_you_mean(name, known)}" for name in guarded if name not in known
        )
    for dimension in family.dimensions:
        if dimension.name not in guarded and any(f'"{name}"' in dimension.expr for name in of_step):
            named = f"small_cells: {{people: ..., dimensions: [{dimension.name}]}}"
            yield f"dimension {dimension.name!r} is of people; name it in {named}"
    for measure in family.measures:
        if of_step and measure.of_step:
            yield f"measure {measure.name!r} reads what people are, which no rule would suppress; make that a dimension"


def faults_of_metric(metrics: Iterable[Metric], families: Mapping[str, Family]) -> Iterator[tuple[Metric, str]]:
    """Metrics over small cells that could not be suppressed, and why."""
    for metric in metrics:
        if not any(families[name].small_cells for name in itertools.chain([metric.family], metric.others)):
            continue
        if metric.composed:
            yield (
                metric,
                "is put together from several answers, which small_cells do not allow; name measures of one semantic model",
            )
        elif any(isinstance(leaf, Conversion | Retention) for leaf in figures(metric.formula)):
            yield metric, "looks at later days, which small_cells do not allow; use simple, cumulative, ratio or derived"
        elif isinstance(metric.formula, Standing):
            yield metric, "sets elements side by side, which tells the small ones by the others; small_cells do not allow it"
        elif any(leaf.seen for leaf in leaves(metric.formula)):
            yield metric, "counts people by the days on which they came, who may be few; small_cells do not allow seen_on"
        elif metric.kpi:
            yield metric, "is of people, and small_cells allow no KPI, whose parts are looked at one by one; remove kpi"
