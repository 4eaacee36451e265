"""How an element stands among those alike: a figure in standard deviations from the mean of its peers.

Growth in streams means nothing alone: an artist of ten listeners doubles in a day, one of ten million never. So an element is set
against those of the same *stage*, which have a size with as many digits (policy: 10 to 99 streams, 100 to 999, ...), among all
elements of the tenant on that day: score = (figure - mean) / standard deviation (of a sample), over LEAST_PEERS elements or more.
Soundcharts calls growth above 2 high and above 8 explosive.

The figures are asked for as any others, for all elements; conditions on the dimension pick afterwards, since peers are peers
whoever is asked about.
"""

from __future__ import annotations

import datetime as dt
import math
import statistics
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from analytics_dagster.errors import UserError
from analytics_dagster.lake.schemas import TIMESTAMP
from analytics_dagster.metrics.declarations import Metric
from analytics_dagster.metrics.formulas import Standing
from analytics_dagster.metrics.matchers import Operator, parse_matcher

if TYPE_CHECKING:
    from analytics_dagster.metrics.query import MetricQuery

LEAST_PEERS = 10
"""Of n elements none can be further from their mean than (n - 1) / sqrt(n) deviations: of ten, 2.8."""

Ask = Callable[[Metric, "MetricQuery"], pa.Table]
Key = tuple[dt.datetime, tuple[str | None, ...]]


def standings(ask: Ask, metric: Metric, query: MetricQuery) -> pa.Table:
    """The answer to a question about a metric that is a standing: ts, `by`, value. `ask` answers any other question.

    Raises UserError where the question does not say whose standing it is about, or ranks by it.
    """
    formula = metric.formula
    assert isinstance(formula, Standing)
    matchers = [parse_matcher(text) for text in query.where]
    mine = [m for m in matchers if m.name == formula.dimension]
    if formula.dimension not in query.by and not any(m.operator is Operator.EQUAL for m in mine):
        raise UserError(
            f"metric {metric.name!r} is told of one {formula.dimension} among others; split by {formula.dimension}, "
            f"or pick one with {formula.dimension}=..."
        )
    if query.top is not None:
        raise UserError(f"metric {metric.name!r} has no top: the others together stand nowhere; leave top out")
    where = tuple(text for text, m in zip(query.where, matchers, strict=True) if m.name != formula.dimension)
    others = tuple(name for name in query.by if name != formula.dimension)
    asked = replace(query, by=(*others, formula.dimension), where=where)
    figures, sizes = (_told(ask(replace(metric, formula=of), asked)) for of in (formula.figure, formula.alike))
    scores = _scores({key: (value, sizes[key]) for key, value in figures.items() if sizes.get(key, 0) > 0})
    rows: list[tuple[dt.datetime, dict[str, str | None], float]] = []
    for (ts, (*values, element)), score in scores.items():
        if all(m.accepts(element or "") for m in mine):
            rows.append((ts, dict(zip(asked.by, (*values, element), strict=True)), score))
    rows.sort(key=lambda row: (row[0], [(row[1][name] is not None, row[1][name] or "") for name in query.by]))
    columns: dict[str, Any] = {name: pa.array([row[1][name] for row in rows], pa.string()) for name in query.by}
    return pa.table(
        {
            "ts": pa.array([row[0] for row in rows], TIMESTAMP),
            **columns,
            "value": pa.array([row[2] for row in rows], pa.float64()),
        }
    )


def _told(rows: pa.Table) -> dict[Key, float]:
    return {(ts, tuple(values)): value for ts, *values, value in zip(*(c.to_pylist() for c in rows.columns), strict=True)}


def _scores(elements: dict[Key, tuple[float, float]]) -> dict[Key, float]:
    """The score of each element with a figure and a size above 0, where it has peers enough that are not all alike."""
    stages: dict[tuple[Any, ...], list[float]] = {}
    for (ts, (*others, _)), (figure, size) in elements.items():
        stages.setdefault((ts, *others, stage(size)), []).append(figure)
    found = {}
    for (ts, key), (figure, size) in elements.items():
        peers = stages[(ts, *key[:-1], stage(size))]
        if len(peers) >= LEAST_PEERS and (deviation := statistics.stdev(peers)) > 0:
            found[ts, key] = (figure - statistics.fmean(peers)) / deviation
    return found


def stage(size: float) -> int:
    """The career stage of a size above 0: how often it can be divided by ten. Below 1 all are one."""
    return max(0, math.floor(math.log10(size)))
