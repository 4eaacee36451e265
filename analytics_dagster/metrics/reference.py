"""docs/reference/metrics.md, made from the catalogue: `python -m analytics_dagster.metrics.reference` prints it."""

from __future__ import annotations

from collections.abc import Iterator

from analytics_dagster.lake.schemas import MEASURED
from analytics_dagster.metrics.additivity import additivity
from analytics_dagster.metrics.declarations import Catalogue, Direction, Family, Metric
from analytics_dagster.metrics.formulas import (
    Conversion,
    Derived,
    Formula,
    MeasureFigure,
    PerSecond,
    Ratio,
    Retention,
    SeenOn,
    Standing,
    Summary,
)
from analytics_dagster.metrics.grains import grains_of
from analytics_dagster.metrics.load import load_catalogue

_DIRECTIONS = {Direction.UP_IS_BAD: "up", Direction.DOWN_IS_BAD: "down", Direction.NEUTRAL: "neither"}

_HEAD = """# Metrics

<!-- Generated from analytics_dagster/metrics/catalogue by `python -m analytics_dagster.metrics.reference`. -->

Every metric of the built-in catalogue, by the table it is computed from. `analytics query NAME --tenant T` prints its
figures, `--by` splits them by a dimension and `--where` keeps some; a synonym may stand for a name anywhere. Tables hold
mergeable state (counts, sums, extremes, sets, distributions) by hour and by day; a figure is computed from merged state when
it is asked for, so an average is never averaged. A bucket without rows, or without a figure (a share of nothing), is absent.
`$stream_ms` is ANALYTICS_STREAM_SECONDS in milliseconds.

*Additivity* says what may be done with figures that were taken elsewhere: only those of class `sum` may be added up; all others
(`ratio`, `distinct`, `cumulative`, ...) are merged from state, so what is wanted over more is to be asked for over more.
*Bad* is the direction that is bad news. *KPI* metrics are forecast, watched for anomalies and pictured without being asked for.
[Declare a metric](../how-to/declare-a-metric.md) says how to add one.
"""

_TAIL = """## Recorded points

A name that clients recorded points under is queried like a metric, before any declared one of that name. Its labels are its
dimensions, its grains begin with the minute, and its figures hold every acknowledged point
([points and rollups](../explanation/points-and-rollups.md)). A value that is not finite, or not below 1e20 in size, is not
measured.

| recorded as | without `--aggregate` | `--aggregate` |
|---|---|---|
| gauge | `avg` | `avg`, `sum`, `min`, `max`, `last`, `count` |
| counter | `increase` | `increase`, `sum` (the same: what is added up over series), `rate`, `last`, `count` |
| histogram, timer | `avg` | `avg`, `sum`, `min`, `max`, `last`, `count`, `p50`, `p95`, `p99` |
"""


def reference(catalogue: Catalogue) -> str:
    """The page, in Markdown."""
    return "\n".join([_HEAD, *(line for family in catalogue.families for line in _family(family, catalogue)), _TAIL])


def formula_text(formula: Formula, family: Family | Catalogue) -> str:
    """How a figure is computed from measures, for people: `count_if(ended) / count(ms_played)` and the like."""
    match formula:
        case MeasureFigure(measure, percentile, newest, window, offset, seen):
            if window is not None:
                on = "" if seen is None else f", seen on {_days(seen)}"
                ago = f", {offset} days before" if offset else ""
                return f"{family.measure(measure).aggregation}({measure}) over {window} days{on}{ago}"
            which = "" if percentile is None else f"{percentile:g} "
            return f"{which}{'last' if newest else family.measure(measure).aggregation}({measure})"
        case Standing(figure, alike, dimension):
            peers = f"those of as many digits in {formula_text(alike, family)}"
            return f"standard deviations of ({formula_text(figure, family)}) from the mean of {peers}, by {dimension}"
        case Summary(kind, figure, dimension):
            return f"{kind} of {formula_text(figure, family)}{f' over {dimension}' if dimension else ''}"
        case Conversion(base, converted, entity, window, rate):
            share = f" / {base}" if rate else ""
            return f"{entity}s of {base} with {converted} within {window} days{share}"
        case Retention(measure, period, length, new_after, rate):
            cohort = f"new in {measure} (not there for {new_after} days)"
            if period is None:
                return cohort
            when = f"day {period}" if length == 1 else f"days {period * length} to {(period + 1) * length - 1}"
            return f"of those {cohort}, {'the share' if rate else 'those'} there on {when} after"
        case PerSecond(figure):
            return f"{formula_text(figure, family)} / seconds"
        case Ratio(numerator, denominator):
            return f"{_part(numerator, family)} / {_part(denominator, family)}"
        case Derived(expr, inputs):
            named = "; ".join(f"{name} = {formula_text(inner, family)}" for name, inner in inputs)
            return f"{expr} where {named}"


def _days(seen: SeenOn) -> str:
    if seen.most is None:
        return f"{seen.least} or more"
    return str(seen.least) if seen.most == seen.least else f"{seen.least} to {seen.most}"


def _part(formula: Formula, family: Family | Catalogue) -> str:
    text = formula_text(formula, family)
    return text if isinstance(formula, MeasureFigure) else f"({text})"


def _family(family: Family, catalogue: Catalogue) -> Iterator[str]:
    yield f"## {family.name}\n"
    *finer, day = (f"`{family.asset}_{grain}`" for grain in family.grains)
    tables = f"{', '.join(finer)} and {day}" if finer else day
    source = MEASURED[family.source].path
    of = f"sessions of `{source}`" if family.sessions else f"`{source}`"
    yield f"{family.description} From {of} into {tables}. Owner: {family.owner}.\n"
    yield "| dimension | |\n|---|---|"
    yield from (f"| `{d.name}` | {d.description} |" for d in family.dimensions)
    yield "\n| measure | aggregation of | |\n|---|---|---|"
    for measure in family.measures:
        of = measure.expr.replace("|", "\\|")
        yield f"| `{measure.name}` | {measure.aggregation}: `{of}` | {measure.description} |"
    yield ""
    for metric in family.metrics:
        yield from _metric(metric, catalogue)


def _metric(metric: Metric, catalogue: Catalogue) -> Iterator[str]:
    yield f"### {metric.name}\n"
    yield f"{metric.description}\n"
    bad, kpi = _DIRECTIONS[metric.direction], "yes" if metric.kpi else "no"
    facts = [
        f"- {metric.type}: `{formula_text(metric.formula, catalogue)}`",
        f"- unit: {metric.unit}; bad: {bad}; KPI: {kpi}; owner: {metric.owner}",
        f"- additivity: {additivity(metric, catalogue)}; grains: {', '.join(grains_of(metric, catalogue))}",
    ]
    if metric.others:
        shared = ", ".join(f"`{d.name}`" for d in catalogue.dimensions_of(metric)) or "nothing"
        facts.append(f"- also from {', '.join(f'`{name}`' for name in metric.others)}; split by: {shared}")
    if metric.synonyms:
        facts.append(f"- synonyms: {', '.join(f'`{s}`' for s in metric.synonyms)}")
    facts += [f"- never added up over `{d}`: with more than one present, split by it or pick one" for d in metric.apart_by]
    yield "\n".join(facts) + "\n"


if __name__ == "__main__":
    print(reference(load_catalogue()), end="")
