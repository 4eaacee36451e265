"""What is worth telling about a tenant's day: changes that stand, where they lie, what is missing, ranked.

A finding's score is its impact (share of the metric's total that it touches) times its significance (1 - p); of all the
series judged, only those that Benjamini and Hochberg let stand become findings. QuickInsights (Ding and others, SIGMOD
2019) for the score; Zgraggen and others (CHI 2018) for why so many comparisons must be controlled.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

import pyarrow as pa

from analytics_dagster.insights.cube import Split, Whole, split_of, whole_of
from analytics_dagster.insights.drivers import Driver, MixChange, best_dimension, drivers, mix_change
from analytics_dagster.insights.numbers import relative_change
from analytics_dagster.insights.series import Direction, Series
from analytics_dagster.insights.significance import FALSE_SHARE, HISTORY_DAYS, Judged, believable, judge

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DRIVER_WEEKS = 4
"""Same weekdays whose mean is the expectation of parts: a mean, unlike a median, adds up over the parts."""
LEAST_EXPECTED = 20.0
"""Parts expected to be smaller are not judged by themselves: a handful of plays is always news."""
RECONCILED = 0.01
"""A dimension whose parts differ from the total by more (listeners on two devices) does not add up and has no drivers."""


class Kind(StrEnum):
    """What a finding is about."""

    CHANGE = "change"
    PART = "part"
    ODD = "odd"
    MISSING = "missing"


@dataclass(frozen=True)
class Finding:
    """One thing worth telling. `change` is a share of the expected value, for shares a difference (0.01 is 1 pp).

    z, p: NaN where not judged that way. element: (dimension, element) for a part. bad: whether it goes the declared bad
    way; None where neither way is bad. evenly: dimensions over which the change was spread evenly.
    """

    kind: Kind
    metric: str
    value: float
    expected: float
    change: float | None
    z: float
    p: float
    score: float
    bad: bool | None = None
    element: tuple[str, str] | None = None
    drivers: tuple[Driver, ...] = ()
    evenly: tuple[str, ...] = ()
    mix: MixChange | None = None
    reason: str = ""


@dataclass(frozen=True)
class Day:
    """One metric on the day, beside what it is compared with. NaN where missing. `deviation` is the usual one."""

    metric: str
    value: float
    expected: float
    deviation: float
    week_ago: float
    mean_28: float


@dataclass(frozen=True)
class Found:
    """Findings by rank, the figures of every metric, and how many series were judged."""

    findings: tuple[Finding, ...]
    days: tuple[Day, ...]
    judged: int


def find(day: date, series: Sequence[Series], anomalies: pa.Table | None = None) -> Found:
    """Judge every series and every part of it on `day`.

    anomalies: rows of models/anomaly (ts, metric, anomaly, expected, reason) of that day, or None.
    """
    import numpy as np

    first = day - timedelta(days=HISTORY_DAYS - 1)
    wholes = [whole_of(one, first, day) for one in series]
    splits = [split for one, whole in zip(series, wholes, strict=True) for split in _splits(one, whole, first, day)]
    parts = [(split, i) for split in splits for i in split.judged(LEAST_EXPECTED)]
    columns = [whole.values for whole in wholes] + [split.values[:, i] for split, i in parts]
    if not columns:
        return Found((), (), 0)
    counts = [whole.counts for whole in wholes] + [split.counts for split, _ in parts]
    judged = judge(np.column_stack(columns), np.array(counts))
    stands = believable(judged.p, FALSE_SHARE)
    odd = _odd(day, anomalies)
    findings = [
        _whole_finding(one, whole, judged, i, bool(stands[i]), odd, splits)
        for i, (one, whole) in enumerate(zip(series, wholes, strict=True))
    ]
    told = [finding for finding in findings if finding is not None]
    told += _parts(series, parts, judged, stands, len(wholes), {finding.metric for finding in told})
    days = tuple(_day(whole, judged, i) for i, whole in enumerate(wholes))
    order = {one.metric: place for place, one in enumerate(series)}
    return Found(tuple(sorted(told, key=lambda finding: _rank(finding, order))), days, int(np.isfinite(judged.p).sum()))


def _rank(finding: Finding, order: Mapping[str, int]) -> tuple[float, float, int, str]:
    """By score; scores near 1 tell nothing apart, so the farther from the expectation goes first, then the caller's order."""
    far = 0.0 if math.isnan(finding.z) else abs(finding.z)
    return (-round(finding.score, 2), -round(far), order[finding.metric], str(finding.element))


def _whole_finding(
    one: Series, whole: Whole, judged: Judged, at: int, stands: bool, odd: Mapping[str, str], splits: Sequence[Split]
) -> Finding | None:
    value, expected = float(whole.values[-1]), float(judged.expected[at])
    if math.isnan(value):
        if math.isnan(expected):
            return None
        return Finding(Kind.MISSING, one.metric, value, expected, None, math.nan, math.nan, 1.0, bad=True)
    if not stands and one.metric not in odd:
        return None
    z, p = float(judged.z[at]), float(judged.p[at])
    expected = expected if math.isfinite(expected) else whole.week_ago
    mine = [split for split in splits if split.metric == one.metric]
    named, evenly, mix = _where(mine, value - expected)
    return Finding(
        Kind.CHANGE if stands else Kind.ODD,
        one.metric,
        value,
        expected,
        relative_change(value, expected, one.unit),
        z,
        p,
        1 - p if math.isfinite(p) else 0.5,
        _bad(one.direction, value - expected),
        drivers=named,
        evenly=evenly,
        mix=mix,
        reason=odd.get(one.metric, ""),
    )


def _parts(
    series: Sequence[Series],
    parts: Sequence[tuple[Split, int]],
    judged: Judged,
    stands: NDArray[np.bool_],
    offset: int,
    told: set[str],
) -> list[Finding]:
    """The best standing part of each metric that is not told as a whole already (there it is among the drivers)."""
    by_metric = {one.metric: one for one in series}
    best: dict[str, Finding] = {}
    for at, (split, i) in enumerate(parts, start=offset):
        if not stands[at] or split.metric in told:
            continue
        one, value, expected, p = (
            by_metric[split.metric],
            float(split.values[-1, i]),
            float(judged.expected[at]),
            float(judged.p[at]),
        )
        finding = Finding(
            Kind.PART,
            split.metric,
            value,
            expected,
            relative_change(value, expected, one.unit),
            float(judged.z[at]),
            p,
            split.share(i) * (1 - p),
            _bad(one.direction, value - expected),
            element=(split.dimension, split.elements[i]),
        )
        if split.metric not in best or (finding.score, abs(finding.z)) > (best[split.metric].score, abs(best[split.metric].z)):
            best[split.metric] = finding
    return list(best.values())


def _where(splits: Sequence[Split], difference: float) -> tuple[tuple[Driver, ...], tuple[str, ...], MixChange | None]:
    """Named drivers, the dimensions over which it was even, and for a ratio the split into movement and mix."""
    ratios = [split for split in splits if split.weights is not None]
    if ratios:
        changed = [
            found for split in ratios if (found := mix_change(split.dimension, *split.ratio_sides(DRIVER_WEEKS))) is not None
        ]
        return (), (), max(changed, key=lambda change: abs(change.mix), default=None)
    candidates: list[tuple[Driver, ...]] = []
    evenly: list[str] = []
    for split in splits:
        now, then = split.sides(DRIVER_WEEKS)
        if (math.fsum(now.values()) - math.fsum(then.values())) * difference <= 0:
            continue
        moved = drivers(split.dimension, now, then)
        candidates.append(moved)
        evenly += [] if best_dimension([moved]) else [split.dimension]
    named = best_dimension(candidates)
    return named, () if named else tuple(sorted(evenly)), None


def _splits(one: Series, whole: Whole, first: date, day: date) -> list[Split]:
    """The dimensions of a series that can be reasoned about: ratios with weights, and parts that add up to the total."""
    found = [split_of(one, dimension, table, whole, first, day) for dimension, table in sorted(one.by.items())]
    return [split for split in found if split is not None and (split.weights is not None or split.reconciles(RECONCILED))]


def _bad(direction: str, difference: float) -> bool | None:
    if direction == Direction.NEUTRAL or difference == 0:
        return None
    return (difference > 0) == (direction == Direction.UP_IS_BAD)


def _odd(day: date, anomalies: pa.Table | None) -> dict[str, str]:
    if anomalies is None:
        return {}
    rows = anomalies.select(["ts", "metric", "anomaly", "reason"]).to_pylist()
    return {row["metric"]: row["reason"] or "" for row in rows if row["anomaly"] and row["ts"].date() == day}


def _day(whole: Whole, judged: Judged, at: int) -> Day:
    return Day(
        whole.metric,
        float(whole.values[-1]),
        float(judged.expected[at]),
        float(judged.deviation[at]),
        whole.week_ago,
        whole.mean_28,
    )
