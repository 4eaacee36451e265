"""What is worth telling about a tenant's day: changes that stand, where they lie, what is missing, ranked.

A finding's score is its impact (share of the metric's total that it touches) times its significance (1 - p); of all the
series judged, only those that Benjamini and Hochberg let stand become findings. QuickInsights (Ding and others, SIGMOD
2019) for the score; Zgraggen and others (CHI 2018) for why so many comparisons must be controlled.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

import pyarrow as pa

from analytics_dagster.insights.cube import OTHER, Split, Whole, split_of, whole_of
from analytics_dagster.insights.drivers import Driver, MixChange, across, drivers, explain, mix_change, ratio_drivers
from analytics_dagster.insights.numbers import relative_change
from analytics_dagster.insights.series import Direction, Series
from analytics_dagster.insights.significance import FALSE_SHARE, HISTORY_DAYS, LEAST_REPLAYED, Judged, believable, judge

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DRIVER_WEEKS = 4
"""Same weekdays whose mean is the expectation of parts: a mean, unlike a median, adds up over the parts."""
LEAST_EXPECTED = 20.0
"""Parts expected to be smaller are not judged by themselves: a handful of plays is always news."""
SURE, SURE_OF_PART = 3.5, 4.0
"""A ratio is told as moved when it is so many usual deviations off without its mix, a part of one when it is SURE_OF_PART: both
may have a mix over what no dimension shows."""
SAME_STORY = 0.8
"""Correlation of two series' past deviations from which they are told as one."""
LEAST_OF_RATIO = 200.0
"""A ratio of fewer is not judged by itself: plays come by the session, so that so many are the word of two dozen people."""
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
    way; None where neither way is bad. evenly: dimensions over which the change was spread evenly. also: metrics that tell the
    same story.
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
    also: tuple[str, ...] = ()


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
    parts = [(split, i) for split in splits for i in split.judged(LEAST_EXPECTED if split.weights is None else LEAST_OF_RATIO)]
    columns = [whole.values for whole in wholes] + [split.values[:, i] for split, i in parts]
    if not columns:
        return Found((), (), 0)
    scales = [whole.scale for whole in wholes] + [split.scale for split, _ in parts]
    least = [math.nan] * len(wholes) + [split.least_deviation(i) for split, i in parts]
    judged = judge(np.column_stack(columns), scales, np.array(least))
    # Two families of hypotheses: few totals, which matter most, must not drown among hundreds of parts.
    totals, single = judged.p[: len(wholes)], judged.p[len(wholes) :]
    stands = np.concatenate([believable(totals, FALSE_SHARE), believable(single, FALSE_SHARE)])
    odd = _odd(day, anomalies)
    told = [
        (finding, i)
        for i, (one, whole) in enumerate(zip(series, wholes, strict=True))
        if (finding := _whole_finding(one, whole, judged, i, bool(stands[i]), odd, splits)) is not None
    ]
    told += _parts(series, parts, judged, stands, len(wholes), {finding.metric for finding, _ in told}, splits)
    days = tuple(_day(whole, judged, i) for i, whole in enumerate(wholes))
    order = {one.metric: place for place, one in enumerate(series)}
    merged = together(told, judged, order)
    return Found(tuple(sorted(merged, key=lambda finding: _rank(finding, order))), days, int(np.isfinite(judged.p).sum()))


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
    if stands and mix is not None and not mix.misleading and abs(z) * min(1.0, abs(mix.beside)) < SURE:
        return None
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
    splits: Sequence[Split],
) -> list[tuple[Finding, int]]:
    """The standing parts of metrics that are not told as a whole already (there they are among the drivers)."""
    by_metric = {one.metric: one for one in series}
    found = []
    for at, (split, i) in enumerate(parts, start=offset):
        if not stands[at] or split.metric in told:
            continue
        one, value, expected = by_metric[split.metric], float(split.values[-1, i]), float(judged.expected[at])
        p, z = float(judged.p[at]), float(judged.z[at])
        if split.weights is not None and abs(z * (1 - _mix_elsewhere(split, splits, value - expected))) < SURE_OF_PART:
            continue
        finding = Finding(
            Kind.PART,
            split.metric,
            value,
            expected,
            relative_change(value, expected, one.unit),
            z,
            p,
            split.share(i) * (1 - p),
            _bad(one.direction, value - expected),
            element=(split.dimension, split.elements[i]),
        )
        found.append((finding, at))
    return found


def _mix_elsewhere(part: Split, splits: Sequence[Split], difference: float) -> float:
    """The share of a ratio part's difference that a shift of the mix over another dimension makes up: every part shows it."""
    if part.weights is None or difference == 0:
        return 0.0
    others = [split for split in splits if split.metric == part.metric and split.dimension != part.dimension]
    changes = [mix_change(split.dimension, *split.ratio_sides(DRIVER_WEEKS)) for split in others]
    shares = [one.mix / difference for one in changes if one is not None and one.misleading]
    return min(1.0, max(0.0, *shares)) if shares else 0.0


def together(told: Sequence[tuple[Finding, int]], judged: Judged, order: Mapping[str, int]) -> list[Finding]:
    """One finding for metrics that tell the same story: about the same element, or whose days of the past went hand in hand.

    Plays, streams and time listened are nearly one figure; told three times they would hide what else there is. The one that
    says where stands for the others, which are named in `also`.
    """
    best = sorted(told, key=lambda pair: (not (pair[0].drivers or pair[0].element), *_rank(pair[0], order)))
    kept: list[tuple[Finding, int]] = []
    beside: dict[int, list[str]] = {}
    for finding, at in best:
        story = next((other for one, other in kept if _same_story(one, other, finding, at, judged)), None)
        if story is None:
            kept.append((finding, at))
            beside[at] = []
        else:
            beside[story].append(finding.metric)
    return [replace(one, also=tuple(sorted({*beside[at]} - {one.metric}, key=lambda metric: order[metric]))) for one, at in kept]


def _same_story(one: Finding, at: int, other: Finding, also: int, judged: Judged) -> bool:
    if Kind.MISSING in (one.kind, other.kind) or math.isnan(one.z) or math.isnan(other.z):
        return False
    sides = math.copysign(1.0, one.z) * math.copysign(1.0, other.z)
    if one.element is not None and one.element == other.element and sides > 0:
        return True
    return (one.element is None) == (other.element is None) and sides * _correlation(
        judged.residuals[:, (at, also)]
    ) >= SAME_STORY


def _correlation(pair: NDArray[np.float64]) -> float:
    import numpy as np

    known = pair[np.isfinite(pair).all(axis=1)]
    if len(known) < LEAST_REPLAYED or not (known.std(axis=0) > 0).all():
        return 0.0
    first, second = (known - known.mean(axis=0)).T
    return float((first * second).sum() / np.sqrt((first**2).sum() * (second**2).sum()))


def _where(splits: Sequence[Split], difference: float) -> tuple[tuple[Driver, ...], tuple[str, ...], MixChange | None]:
    """Named drivers, the dimensions over which it was even, and for a ratio the split into movement and mix."""
    ratios = [split for split in splits if split.weights is not None and len(split.elements) > 1]
    if ratios:
        return _where_of_ratio(ratios, difference)
    accounts, evenly = [], []
    for split in splits:
        now, then = split.sides(DRIVER_WEEKS)
        if (math.fsum(now.values()) - math.fsum(then.values())) * difference <= 0:
            continue
        account = explain(split.dimension, drivers(split.dimension, now, then), (OTHER,))
        accounts.append(account)
        evenly += [] if account.named else [split.dimension]
    named = across(accounts)
    return named, () if named else tuple(sorted(evenly)), None


def _where_of_ratio(splits: Sequence[Split], difference: float) -> tuple[tuple[Driver, ...], tuple[str, ...], MixChange | None]:
    """Where one dimension's mix outweighs movement, it alone is told: in all others its shift looks like movement (Simpson)."""
    changes, accounts = {}, {}
    for split in splits:
        sides = split.ratio_sides(DRIVER_WEEKS)
        change = mix_change(split.dimension, *sides)
        if change is not None and change.total * difference > 0:
            changes[split.dimension] = change
            accounts[split.dimension] = explain(split.dimension, ratio_drivers(split.dimension, *sides), (OTHER,))
    mix = max(changes.values(), key=lambda change: abs(change.mix), default=None)
    if mix is not None and mix.misleading:
        return accounts[mix.dimension].named, (), mix
    named = across(list(accounts.values()))
    return named, (), changes[named[0].dimension] if named else mix


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
