"""A catalogue of metrics in memory: what the YAML says, resolved and checked, and the tables that follow from it.

A *family* is one source table with its dimensions and measures (MetricFlow calls it a semantic model). A *measure* is what
is aggregated and kept as mergeable state; a *metric* is a figure computed from merged measures when it is asked for, so an
average is never averaged. Files are read and checked in `load.py`; formulas are in `formulas.py`, SQL in `compile.py`, `plan.py`.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING

import pyarrow as pa

from analytics_dagster.errors import NotFoundError
from analytics_dagster.lake.schemas import MEASURED, PLAYS, TIMESTAMP, Column, Layer, PartitionBy, TableSchema
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
    SummaryKind,
    leaves,
    summaries,
)
from analytics_dagster.metrics.sessions import Sessions, session_table

if TYPE_CHECKING:
    from analytics_dagster.metrics.compile import FamilyQueries
    from analytics_dagster.metrics.counting.policies import Counting


class Grain(StrEnum):
    """Length of a bucket. Hours and days are stored, minutes too or days alone by families that say so (`time_granularity`);
    weeks (ISO, from Monday) and months are merged from days, and so is `total`, one bucket for the whole range that is asked for.
    """

    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    TOTAL = "total"


HOURS_AND_DAYS = (Grain.HOUR, Grain.DAY)
FROM_MINUTES = (Grain.MINUTE, *HOURS_AND_DAYS)
FINER = {Grain.HOUR: Grain.MINUTE, Grain.DAY: Grain.HOUR}
"""The parts of a bucket that a set says of each id which of them it was in."""
DAYS_ONLY = (Grain.DAY,)


class Aggregation(StrEnum):
    """How a measure is built and merged. Named as in MetricFlow; `last` and `increase` are ours."""

    COUNT = "count"
    SUM = "sum"
    SUM_BOOLEAN = "sum_boolean"
    AVERAGE = "average"
    MIN = "min"
    MAX = "max"
    LAST = "last"
    COUNT_DISTINCT = "count_distinct"
    PERCENTILE = "percentile"
    INCREASE = "increase"
    """How much a cumulative counter rose, by each series (all dimensions), added over series. `states.py` says how."""


class Direction(StrEnum):
    """Which movement of a metric is bad news."""

    UP_IS_BAD = "up_is_bad"
    DOWN_IS_BAD = "down_is_bad"
    NEUTRAL = "neutral"


class TimeAxis(StrEnum):
    """Whether a rule on the metric is judged on materialized buckets or on live values."""

    EVENT = "event"
    EVALUATION = "evaluation"


@dataclass(frozen=True)
class Origin:
    """Where something was declared."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True)
class Entity:
    """What a row is about (a listener, a play), and the SQL of its key."""

    name: str
    type: str
    expr: str
    description: str


@dataclass(frozen=True)
class Dimension:
    """What figures can be split and filtered by. `expr` is SQL over the source table; its type is always text."""

    name: str
    expr: str
    description: str


@dataclass(frozen=True)
class StateColumn:
    """One column of a family's tables that holds (part of) a measure's mergeable state."""

    name: str
    type: pa.DataType
    description: str


@dataclass(frozen=True)
class SourceStep:
    """What is worked out of source rows before they are measured, from other rows of their day too.

    `sql` is a SELECT over `source` of whole days with the source table's columns and `columns`; `reads` says which columns of the
    source table each of those is made from. `beside` are catalogue tables of the tenant that it reads too, by the name of the
    relation.
    """

    sql: str
    columns: tuple[Column, ...]
    # A dict has no hash, and what a catalogue gives is kept by the catalogue (boards).
    reads: Mapping[str, tuple[str, ...]] = field(hash=False)
    beside: Mapping[str, TableSchema] = field(default_factory=dict, hash=False)
    source: TableSchema = PLAYS
    in_duckdb: bool = False
    """Computed by DuckDB whatever the engine: its SQL has no form that is known to give the same elsewhere."""


@dataclass(frozen=True)
class SmallCells:
    """What keeps figures from telling of single people: split by one of `dimensions`, a figure is told only where the distinct
    count `people` says that it rests on enough of them (`small_cells.py`).
    """

    people: str
    dimensions: tuple[str, ...]


@dataclass(frozen=True)
class Measure:
    """What is aggregated from source rows. `columns` hold its state, in the order that `states.py` fixes.

    `apart_by` names a dimension whose values must never be merged with each other (money of two currencies); `of_step` says that
    its expression reads columns of the family's step.
    """

    name: str
    aggregation: Aggregation
    expr: str
    description: str
    columns: tuple[StateColumn, ...]
    apart_by: str | None
    origin: Origin
    of_step: bool = False

    @property
    def integer(self) -> bool:
        """Whether its figure is always a whole number."""
        if self.aggregation in (Aggregation.COUNT, Aggregation.SUM_BOOLEAN, Aggregation.COUNT_DISTINCT):
            return True
        whole = (Aggregation.SUM, Aggregation.MIN, Aggregation.MAX, Aggregation.LAST, Aggregation.INCREASE)
        return self.aggregation in whole and pa.types.is_integer(self.columns[-1].type)


def always_whole(formula: Formula, first: Measure) -> bool:
    """Whether a figure is always a whole number; `first` is the first measure that it reads."""
    match formula:
        case MeasureFigure():
            return first.integer
        case Conversion() | Retention():
            return not formula.rate
        case _:
            return False


def within(measure: str) -> str:
    """Name of the column that says when within its bucket each id of a distinct count occurs."""
    return f"{measure}_within"


@dataclass(frozen=True)
class Metric:
    """A figure with a name. `kpi` metrics are forecast, watched for anomalies and pictured without being asked for.

    `apart_by` are dimensions that a query must split by, or pin to one value, where more than one value is present. `others` are
    the families that it reads beside `family`; it has those dimensions that all of them have.
    """

    name: str
    family: str
    formula: Formula
    description: str
    unit: str
    direction: Direction
    owner: str
    synonyms: tuple[str, ...]
    time: TimeAxis
    kpi: bool
    integer: bool
    apart_by: tuple[str, ...]
    origin: Origin
    others: tuple[str, ...] = ()

    @property
    def composed(self) -> bool:
        """Whether its parts are questions of their own (`composed.py`)."""
        return bool(self.others) or any(summaries(self.formula))

    @property
    def type(self) -> str:
        """MetricFlow's name for its kind: simple, cumulative, conversion, ratio or derived; retention, rate, standing,
        concentration and time_to_peak are ours.
        """
        match self.formula:
            case Summary(kind):
                return "cumulative" if kind is SummaryKind.TOTAL else kind.value
            case MeasureFigure(window=int()):
                return "cumulative"
            case Conversion():
                return "conversion"
            case Retention():
                return "retention"
            case MeasureFigure():
                return "simple"
            case PerSecond():
                return "rate"
            case Standing():
                return "standing"
            case Ratio():
                return "ratio"
            case Derived():
                return "derived"


@dataclass(frozen=True)
class Family:
    """One source table, what can be measured over it, and the aggregate tables that hold the measures.

    `grains` are those that have a table, the finest first; each is merged from the one before it. With a `step`, dimensions and
    measures are of its rows.
    """

    name: str
    description: str
    source: str
    owner: str
    entities: tuple[Entity, ...]
    dimensions: tuple[Dimension, ...]
    measures: tuple[Measure, ...]
    metrics: tuple[Metric, ...]
    origin: Origin
    grains: tuple[Grain, ...] = HOURS_AND_DAYS
    sessions: Sessions | None = None
    """What makes sessions of the source rows, where it is sessions that are measured."""
    step: SourceStep | None = None
    """What adds columns to the source rows, where they are judged before they are measured."""
    small_cells: SmallCells | None = None
    """Which dimensions are of people, where some are."""
    own: bool = False
    """Declared by a tenant for itself, who may change it at any time: what is stored is of one version of it."""

    @property
    def rows(self) -> TableSchema:
        """What expressions are over: the source table, with the columns of its step where it has one, or sessions of its rows."""
        source = MEASURED[self.source]
        if self.sessions:
            return session_table(source)
        return source if self.step is None else replace(source, columns=(*source.columns, *self.step.columns))

    @property
    def asset(self) -> str:
        """`aggregates/listening`: the Dagster asset and the name in `publications`."""
        return f"{Layer.AGGREGATES}/{self.name}"

    def measure(self, name: str) -> Measure:
        return next(m for m in self.measures if m.name == name)

    def measures_of(self, formula: Formula) -> tuple[Measure, ...]:
        """The measures that a formula reads, each once, in reading order."""
        return tuple(self.measure(name) for name in dict.fromkeys(leaf.measure for leaf in leaves(formula)))

    def table(self, grain: Grain | str) -> TableSchema:
        """The stored table of a grain: `ts` (start of the bucket), the dimensions, the state of every measure.

        One row per bucket and combination of dimension values that occurred.
        """
        stored = Grain(grain)
        if stored not in self.grains:
            kept = " and ".join(f"{g}s" for g in self.grains)
            raise ValueError(
                f"{self.name} has no table of grain {stored}: {kept} are kept, weeks and months are merged from days"
            )
        columns = (
            Column("ts", TIMESTAMP, f"Start of the {stored} (UTC, event time).", required=True),
            *(Column(d.name, pa.string(), d.description) for d in self.dimensions),
            *(Column(s.name, s.type, s.description) for m in self.measures for s in self._stored(m, stored)),
        )
        return TableSchema(
            Layer.AGGREGATES,
            f"{self._stored_as}_{stored}",
            f"{self.description} Mergeable state by {stored} and dimensions; metrics are computed from it when asked for.",
            columns,
            key="ts",
            # A day of minutes is as large as a day of raw rows, and is overwritten whole.
            partition_by=PartitionBy.DAY if stored is Grain.MINUTE else PartitionBy.MONTH,
        )

    @property
    def set_grains(self) -> tuple[Grain, ...]:
        """The grains whose tables hold sets of distinct ids: all but the finest, whose sets are read from the next; of a family
        with one grain, that one.
        """
        return self.grains[1:] or self.grains

    @property
    def counts(self) -> TableSchema | None:
        """The stored table of distinct counts by day and of rolling windows, in all and for each value of each one dimension;
        None where there are none.

        A count cannot be merged; it spares reading sets where it is what was asked for.
        """
        if all(m.aggregation is not Aggregation.COUNT_DISTINCT for m in self.measures):
            return None
        columns = (
            Column("ts", TIMESTAMP, "Start of the day (UTC, event time).", required=True),
            Column("measure", pa.string(), "The measure that is counted.", required=True),
            Column("dimension", pa.string(), "The dimension that the count is split by; none: the count of all."),
            Column("value", pa.string(), "The dimension's value."),
            # A description that differs from the stored one is refused by Delta: that of `count` is older than `days`.
            Column("count", pa.int64(), "Distinct ids of the day."),
            Column("days", pa.int64(), "How many days, of which ts is the last, the ids are of; none: the day alone."),
        )
        return TableSchema(
            Layer.AGGREGATES,
            f"{self._stored_as}_counts",
            f"{self.description} Distinct counts of each day and window, in all and by each one dimension.",
            columns,
            key="ts",
            partition_by=PartitionBy.MONTH,
        )

    def _stored(self, measure: Measure, grain: Grain) -> tuple[StateColumn, ...]:
        """A measure's columns in the table of a grain. Sets are in the coarser ones, and say when within the bucket."""
        if measure.aggregation is not Aggregation.COUNT_DISTINCT:
            return measure.columns
        if grain not in self.set_grains:
            return ()
        finer = FINER[grain]
        kind = pa.int32() if grain is Grain.DAY else pa.int64()
        said = f"{measure.description} Of each hash, the {finer}s of the {grain} that it occurs in, a bit each, the first lowest."
        return (*measure.columns, StateColumn(within(measure.name), pa.list_(kind), said))

    @property
    def _stored_as(self) -> str:
        """What its tables' names begin with. Another version of an own family has other tables, so that figures of one meaning
        are never told under another, and columns may change their types.
        """
        return f"{self.name}_{self.version}" if self.own else self.name

    @cached_property
    def version(self) -> str:
        """Changes when what is stored would: stored days of another version are to be materialized again."""
        compiled = self.queries
        written = [compiled.build, *compiled.merges.values(), *(sql for each in compiled.sets.values() for sql in each)]
        return hashlib.sha256("\n".join(written).encode()).hexdigest()[:12]

    @cached_property
    def queries(self) -> FamilyQueries:
        """The family's SQL, compiled at first use and kept with this object."""
        from analytics_dagster.metrics.compile import compile_family

        return compile_family(self)


@dataclass(frozen=True)
class Catalogue:
    """All declared families and metrics."""

    families: tuple[Family, ...]
    counting: Counting | None = None
    """The counting policies, where it was loaded from files."""

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return tuple(m for f in self.families for m in f.metrics)

    @cached_property
    def _by_name(self) -> dict[str, Metric]:
        synonyms = {s: m for m in self.metrics for s in m.synonyms}
        return synonyms | {m.name: m for m in self.metrics}

    def find(self, name: str) -> Metric | None:
        """The metric of this name or synonym, or None."""
        return self._by_name.get(name)

    def metric(self, name: str) -> Metric:
        """The metric of this name or synonym. Raises NotFoundError with the nearest names."""
        found = self.find(name)
        if found is None:
            raise NotFoundError(f"no metric {name!r}{did_you_mean(name, self._by_name)}; `analytics metrics list` shows all")
        return found

    def family(self, name: str) -> Family:
        """Raises NotFoundError with the nearest names."""
        for family in self.families:
            if family.name == name:
                return family
        raise NotFoundError(f"no metric family {name!r}{did_you_mean(name, [f.name for f in self.families])}")

    def family_of(self, metric: Metric) -> Family:
        return self.family(metric.family)

    @cached_property
    def _measured_in(self) -> dict[str, Family]:
        return {m.name: f for f in self.families for m in f.measures}

    def measured_in(self, measure: str) -> Family:
        """The family that a measure belongs to."""
        return self._measured_in[measure]

    def measure(self, name: str) -> Measure:
        return self.measured_in(name).measure(name)

    def version_of(self, metric: Metric) -> str:
        """Changes when the metric's figures could: with its formula, its measures and what these are measured over."""
        written = [repr(metric.formula)]
        for name in sorted({leaf.measure for leaf in leaves(metric.formula)}):
            family, measure = self.measured_in(name), self.measure(name)
            over = "" if family.step is None else family.step.sql
            written.append(f"{family.source}|{family.sessions}|{over}|{name}|{measure.aggregation}|{measure.expr}")
        return hashlib.sha256("\n".join(written).encode()).hexdigest()[:12]

    def dimensions_of(self, metric: Metric) -> tuple[Dimension, ...]:
        """What a metric can be split and filtered by: the dimensions that all families have which it reads."""
        others = [{d.name for d in self.family(name).dimensions} for name in metric.others]
        return tuple(d for d in self.family_of(metric).dimensions if all(d.name in names for names in others))


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'plays'?` or nothing, to be put behind what was not found."""
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
