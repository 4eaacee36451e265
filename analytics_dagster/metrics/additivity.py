"""How the figures of a metric may be put together: by adding them, or only by merging what they were made of.

Every figure comes from merged state, so a query is always right; who takes figures elsewhere must know which may be added.
"""

from __future__ import annotations

from enum import StrEnum

import sqlglot
from sqlglot import expressions as exp

from analytics_dagster.metrics.declarations import Aggregation, Catalogue, Metric
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
)


class Additivity(StrEnum):
    """The class of a metric. Only `sum` may be added up, and only over dimensions that the metric is not held apart by."""

    SUM = "sum"
    MIN = "min"
    MAX = "max"
    LAST = "last"
    RATIO = "ratio"
    """Of sums: parts are added, then divided."""
    DISTINCT = "distinct"
    DISTRIBUTION = "distribution"
    """A quantile: counts by size of value are added, then it is read off."""
    CUMULATIVE = "cumulative"
    """Over a window or from the first day on: no two days are apart."""
    CONVERSION = "conversion"
    RETENTION = "retention"
    DERIVED = "derived"
    """Other arithmetic over figures, each put together in its own way first."""
    CONCENTRATION = "concentration"
    TIME_TO_PEAK = "time_to_peak"


_OF_MEASURE = {
    Aggregation.COUNT: Additivity.SUM,
    Aggregation.SUM: Additivity.SUM,
    Aggregation.SUM_BOOLEAN: Additivity.SUM,
    Aggregation.INCREASE: Additivity.SUM,
    Aggregation.AVERAGE: Additivity.RATIO,
    Aggregation.MIN: Additivity.MIN,
    Aggregation.MAX: Additivity.MAX,
    Aggregation.LAST: Additivity.LAST,
    Aggregation.COUNT_DISTINCT: Additivity.DISTINCT,
    Aggregation.PERCENTILE: Additivity.DISTRIBUTION,
}
_OF_SUMMARY = {
    SummaryKind.TOTAL: Additivity.CUMULATIVE,
    SummaryKind.CONCENTRATION: Additivity.CONCENTRATION,
    SummaryKind.TIME_TO_PEAK: Additivity.TIME_TO_PEAK,
}


def additivity(metric: Metric, catalogue: Catalogue) -> Additivity:
    """The additivity class of a metric, which follows from its formula."""
    return _class(metric.formula, catalogue)


def _class(formula: Formula, catalogue: Catalogue) -> Additivity:
    match formula:
        case MeasureFigure(window=int()):
            return Additivity.CUMULATIVE
        case MeasureFigure(newest=True):
            return Additivity.LAST
        case MeasureFigure(measure):
            return _OF_MEASURE[catalogue.measure(measure).aggregation]
        case Summary(kind):
            return _OF_SUMMARY[kind]
        case Conversion():
            return Additivity.CONVERSION
        case Retention():
            return Additivity.RETENTION
        case Standing():
            return Additivity.DERIVED
        case PerSecond() | Ratio():
            return Additivity.RATIO
        case Derived(expr, inputs):
            sums = all(_class(inner, catalogue) is Additivity.SUM for _, inner in inputs)
            return Additivity.SUM if sums and _linear(sqlglot.parse_one(expr, dialect="duckdb")) else Additivity.DERIVED


def _linear(node: exp.Expr) -> bool:
    """Whether an expression is a sum of figures, each times a constant: its values over parts then add up to that over all."""
    match node:
        case exp.Column():
            return True
        case exp.Paren() | exp.Neg():
            return _linear(node.this)
        case exp.Add() | exp.Sub():
            return _linear(node.left) and _linear(node.right)
        case exp.Mul():
            return (_linear(node.left) and _constant(node.right)) or (_constant(node.left) and _linear(node.right))
        case exp.Div():
            return _linear(node.left) and _constant(node.right)
        case _:
            return False


def _constant(node: exp.Expr) -> bool:
    return node.find(exp.Column) is None
