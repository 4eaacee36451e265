"""What a question is as SQL: state rows merged over time and dimensions to figures. Made by `planning.py`, run by `query.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from analytics_dagster.lake.compute import identifier, literal
from analytics_dagster.metrics import states
from analytics_dagster.metrics.ahead import EVERY, REACHING, Asked, ahead_of
from analytics_dagster.metrics.compile import with_joined
from analytics_dagster.metrics.conversion import conversion_figures
from analytics_dagster.metrics.declarations import Aggregation, Family, Grain, Measure, Metric
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
    figures,
    leaves,
)
from analytics_dagster.metrics.leaderboard import Leaders
from analytics_dagster.metrics.matchers import Matcher
from analytics_dagster.metrics.ranges import Range
from analytics_dagster.metrics.retention import PERIOD, period_text, retention_figures
from analytics_dagster.metrics.rolling import rolling_figures, span

if TYPE_CHECKING:
    pass

# Sets and distributions, which are read from relations of their own.
_APART = (Aggregation.COUNT_DISTINCT, Aggregation.PERCENTILE)
# Stands in a figure for the length of its bucket, which the plan knows.
_BUCKET_SECONDS = "$bucket_seconds"


@dataclass(frozen=True)
class Plan:
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
    newest: Callable[[], str]
    """Gives SQL for the newest day that the family has. Few plans need it, and its table must be opened for it."""
    counts: str = ""
    counted: frozenset[MeasureFigure] = frozenset()
    """Distinct counts that `counts` (rows of `Family.counts`) answers, so that their sets are not read."""

    def over_the_range(self) -> Plan:
        """One figure for the whole range and each element of the first dimension."""
        return self.at(Grain.TOTAL).by_only([0])

    def by_only(self, places: Sequence[int]) -> Plan:
        """Split by those of its columns that stand there alone."""
        return replace(self, by=tuple(self.by[n] for n in places), by_sql=tuple(self.by_sql[n] for n in places))

    def at(self, grain: Grain) -> Plan:
        return replace(self, grain=grain)

    def reading(self, relation: str) -> Plan:
        """Of the state rows of that relation."""
        return replace(self, relation=relation)

    def counting(self, counts: str, counted: frozenset[MeasureFigure]) -> Plan:
        """Those figures by rows of `Family.counts`."""
        return replace(self, counts=counts, counted=counted)

    def grouped(self, first: Leaders) -> Plan:
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
        counted = {leaf.measure for leaf in self.counted}
        stored = {name: m for name, m in measures.items() if name not in counted}
        parts = {**self._rows(stored), "picked": self._picked(keys, stored)}
        parts |= self._rolling(keys, stored, every_leaf) | self._ahead(keys, stored)
        apart = any(name.startswith("of_") for name in parts)
        parts |= _spined(parts, keys, stored) if apart else {"folded": _folded(every_key, stored)}
        for leaf in every_leaf:
            if not isinstance(leaf, MeasureFigure) or leaf.window is not None:
                continue
            measure = measures[leaf.measure]
            if leaf in self.counted:
                parts[_alias(leaf)] = f"{self._counts(leaf, keys)} AND {self.range.condition()}"
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

    def _counts(self, leaf: MeasureFigure, keys: list[str]) -> str:
        """Distinct ids as they were counted ahead, under the keys of the answer."""
        names = {*self.by, *(m.name for m in self.matchers)}
        dimension = f"= {literal(names.pop())}" if names else "IS NULL"
        pinned = [f"value = {literal(m.value)}" for m in self.matchers if not self.by]
        days = f"coalesce(days, 1) = {leaf.window or 1}"
        where = [f"measure = {literal(leaf.measure)}", days, f"dimension {dimension}", '"count" > 0', *pinned]
        values = "".join(f", value AS {key}" for key in keys)
        return f'SELECT ts{values}, CAST("count" AS DOUBLE) AS figure FROM {self.counts} WHERE {" AND ".join(where)}'

    def _rolling(
        self, keys: list[str], measures: dict[str, Measure], every_leaf: Sequence[MeasureFigure | Conversion | Retention]
    ) -> dict[str, str]:
        """The common tables of what is told over a window, and those that they need."""
        rolling = [leaf for leaf in every_leaf if isinstance(leaf, MeasureFigure) and leaf.window]
        if not rolling:
            return {}
        parts = {}
        if not self.counted.issuperset(rolling):
            # To the last day of all rows, not of those that match: an artist whom nobody heard today has monthly listeners today.
            parts = {REACHING: self._keyed(Grain.DAY, keys, measures), "days": span(REACHING, self._last_day())}
        by = ", ".join([self._bucket(self.grain), *keys])
        named = ", ".join([f"{self._bucket(self.grain)} AS ts", *keys])
        for leaf in rolling:
            assert leaf.window is not None
            if leaf in self.counted:
                rolled = self._counts(leaf, keys)
            else:
                plain = leaf.seen is None and not leaf.offset
                bounded = self.range.days if plain and self.range.begin and self.range.end else None
                measure = self.family.measure(leaf.measure)
                rolled = rolling_figures(measure, leaf.window, keys, REACHING, "days", bounded, leaf.seen)
            if leaf.offset:
                rolled = f"SELECT * REPLACE (ts + INTERVAL {leaf.offset} DAY AS ts) FROM ({rolled})"
                rolled = f"SELECT * FROM ({rolled}) WHERE ts <= (SELECT max(ts) FROM days)"
            told = f"SELECT * FROM ({rolled}) WHERE {self.range.condition()}"
            parts[_alias(leaf)] = f"SELECT {named}, arg_max(figure, ts) AS figure FROM ({told}) GROUP BY {by}"
        return parts

    def _last_day(self) -> str:
        """SQL for the last day of the range that the table has: a segment without rows on it has its windows all the same."""
        end, newest = self.range.end, self.newest()
        return newest if end is None else f"least({newest}, TIMESTAMPTZ '{end.isoformat()}' - INTERVAL 1 MICROSECOND)"

    def _ahead(self, keys: list[str], measures: dict[str, Measure]) -> dict[str, str]:
        """The common tables of what looks at later days, and those that they need."""
        looking = ahead_of(self.metric.formula)
        if not looking:
            return {}
        parts = {REACHING: self._keyed(Grain.DAY, keys, measures), EVERY: f"SELECT * FROM {self.relation}"}
        asked = Asked(self.grain, self._bucket(self.grain), tuple(keys), self.range, self.newest())
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
        asked = Asked(self.grain, self._bucket(self.grain), tuple(keys), self.range, self.newest())
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
        case Summary() | Standing():
            raise ValueError(f"{formula} is put together from an answer, and is no figure of state")


def longest_window(formula: Formula) -> int:
    """The longest window that a formula looks at, 0 for none."""
    return max((leaf.window or 0 for leaf in leaves(formula)), default=0)
