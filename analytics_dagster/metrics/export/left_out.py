"""What of a catalogue a format cannot say, and how that is told: in comments for people, in the document for programs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from analytics_dagster.metrics.declarations import Aggregation, Dimension, Family, Measure, Metric
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
    figures,
    leaves,
)

_WITHOUT_COUNTERPART = {
    Aggregation.LAST: "the newest value is no aggregation there",
    Aggregation.INCREASE: "the rise of a counter is no aggregation there",
}
_OF_PEOPLE = "it is of people, and that small cells are suppressed cannot be said there"
_OF_STEP = "what it counts is worked out of more than one row, which no expression over one row has"


@dataclass(frozen=True)
class LeftOut:
    """A measure or metric that is not exported, and why."""

    kind: str
    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}: {self.reason}"


def told_dimensions(family: Family) -> tuple[Dimension, ...]:
    """The dimensions that are exported: not those of people, since no format says that small cells are suppressed."""
    hidden = family.small_cells.dimensions if family.small_cells else ()
    return tuple(d for d in family.dimensions if d.name not in hidden)


def dimensions_left_out(family: Family) -> list[LeftOut]:
    """The others."""
    told = told_dimensions(family)
    return [LeftOut("dimension", f"{family.name}.{d.name}", _OF_PEOPLE) for d in family.dimensions if d not in told]


def measure_without_counterpart(measure: Measure) -> LeftOut | None:
    """Why a measure cannot be exported in any format, or None where it can."""
    reason = _OF_STEP if measure.of_step else _WITHOUT_COUNTERPART.get(measure.aggregation)
    return LeftOut("measure", measure.name, reason) if reason else None


def metric_without_counterpart(metric: Metric, family: Family) -> LeftOut | None:
    """Why a metric cannot be exported in any format, or None where it can."""
    reason = (
        "it is made from several answers, which are put together here" if metric.composed else _reason(metric.formula, family)
    )
    return LeftOut("metric", metric.name, reason) if reason else None


def _reason(formula: Formula, family: Family) -> str | None:
    for measure in family.measures_of(formula):
        if told := measure_without_counterpart(measure):
            return f"it reads the measure {measure.name}, and {told.reason}"
    if any(leaf.newest for leaf in leaves(formula)):
        return "the newest value is no aggregation there"
    if any(leaf.seen for leaf in leaves(formula)):
        return "on how many days an id was seen is not counted there"
    if any(isinstance(leaf, Retention) for leaf in figures(formula)):
        return "who came back is no type of metric there"
    if isinstance(formula, Standing):
        return "how one stands among others has no expression there"
    if _per_second(formula):
        return "the seconds of a bucket are not known there"
    return None


def _per_second(formula: Formula) -> bool:
    match formula:
        case PerSecond() | Standing():
            return True
        case MeasureFigure() | Conversion() | Retention() | Summary():
            return False
        case Ratio(numerator, denominator):
            return _per_second(numerator) or _per_second(denominator)
        case Derived(_, inputs):
            return any(_per_second(inner) for _, inner in inputs)


def facts(metric: Metric) -> dict[str, Any]:
    """What the catalogue says of a metric beyond its formula, for the place that a format has for other vendors' keys."""
    said: dict[str, Any] = {
        "unit": metric.unit,
        "direction": metric.direction.value,
        "owner": metric.owner,
        "kpi": metric.kpi,
        "synonyms": list(metric.synonyms),
        "never_added_over": list(metric.apart_by),
    }
    return {key: value for key, value in said.items() if value != []}


def text(document: Mapping[str, Any], head: Iterable[str], left_out: Iterable[LeftOut]) -> str:
    """A document as YAML behind comment lines: what it is, and what is not in it."""
    import yaml

    comments = "".join(f"# {line}\n" for line in (*head, *_told(left_out)))
    return comments + yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=130)


def _told(left_out: Iterable[LeftOut]) -> Iterator[str]:
    lines = [f"- {part}" for part in left_out]
    if lines:
        yield "Left out:"
        yield from lines
