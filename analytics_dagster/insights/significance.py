"""How unusual each of many series was on one day, and which of them to believe.

Every series is compared with the same weekday of its last eight weeks, brought to its present level; the distance is
measured in the series' own past distances (its history is replayed), so that a restless series has to move more. Of many
series a few always look odd by chance: Benjamini and Hochberg's procedure (1995) bounds the share of false findings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FALSE_SHARE = 0.1
"""Expected share of false findings among all, at most."""
WEEKS = 8
LEAST_WEEKS = 3
"""Same weekdays that an expectation needs."""
REPLAYED_DAYS = 84
LEAST_REPLAYED = 14
"""Past days with an expectation that a verdict needs: six weeks of history in all."""
HISTORY_DAYS = REPLAYED_DAYS + 7 * WEEKS + 8
# 1 / 0.6745 and 1.6449: a standard deviation in terms of the median absolute deviation and of the 90 % quantile.
_MAD, _Q90 = 1.4826, 1.6449
FREEDOM = 28.0
"""Degrees of Student's t. The deviation is a robust estimate of REPLAYED_DAYS days (the median of absolute distances tells as
much as the standard deviation of 0.37 times as many; Rousseeuw and Croux, 1993), and what is expected is one, too: with so many
degrees a tenth of what is told of 640 series of which ten moved is chance (300 days).
"""
_RELATIVE_FLOOR = 0.005
_WILD, _WEEKS_AROUND = 8.0, 4
_SHIFTED_DAYS = 3
"""Days of the last seven that, all to one side, make a new level."""


class Scale(Enum):
    """How a figure strays: a count by its root at least, an amount with its size, a share or latency as it does."""

    COUNT = "count"
    AMOUNT = "amount"
    PLAIN = "plain"


@dataclass(frozen=True)
class Judged:
    """One row per series: what the day was expected to be, its usual deviation, z and p (NaN where not judged).

    residuals: days x series, how far the days before were from what was expected of them, wild days NaN; on the scale of the
    square root for counts and amounts.
    """

    expected: NDArray[np.float64]
    deviation: NDArray[np.float64]
    z: NDArray[np.float64]
    p: NDArray[np.float64]
    residuals: NDArray[np.float64]


def judge(values: NDArray[np.float64], scales: Sequence[Scale], least: NDArray[np.float64] | None = None) -> Judged:
    """Judge the last row of `values` (days x series, consecutive days, NaN missing).

    scales: what kind of figure each series is. least: the deviation that chance alone gives each series on the judged day (a
    share of so many plays), in its own unit; NaN where unknown. Days before the last HISTORY_DAYS do not matter and are
    best left out.
    """
    import numpy as np
    from scipy.special import stdtr  # type: ignore[import-untyped]

    rooted = np.array([scale is not Scale.PLAIN for scale in scales])
    counts = np.array([scale is Scale.COUNT for scale in scales])
    # A count strays with its size, and cannot fall below 0: on the scale of its square root both are gone (Anscombe, 1948).
    shift = np.where(counts, 0.375, 0.0)
    level = np.where(rooted, np.sqrt(np.maximum(values, 0.0) + shift), values)
    calm, shifted = _without_wild_days(level)
    expected = _expectations(level, calm, shifted)
    residuals = (calm - expected)[:-1][-REPLAYED_DAYS:]
    past = np.abs(residuals)
    judged = np.isfinite(past).sum(axis=0) >= LEAST_REPLAYED
    deviation = np.full(values.shape[1], np.nan)
    if judged.any():
        half, most = np.nanquantile(past[:, judged], [0.5, 0.9], axis=0)
        deviation[judged] = np.fmax(_MAD * half, most / _Q90)
    # The square root of a Poisson count strays by a half, whatever its size.
    floor = np.where(rooted, _RELATIVE_FLOOR / 2, _RELATIVE_FLOOR) * np.abs(expected[-1])
    floor = np.where(counts, np.fmax(floor, 0.5), floor)
    floor = floor if least is None else np.fmax(floor, np.where(rooted, np.nan, least))
    deviation = np.where(judged, np.fmax(deviation, np.fmax(floor, 1e-9)), np.nan)
    z = (level[-1] - expected[-1]) / deviation
    p = np.where(np.isfinite(z), 2 * stdtr(FREEDOM, -np.abs(np.nan_to_num(z))), np.nan)
    usual = np.where(rooted, np.maximum(np.maximum(expected[-1], 0.0) ** 2 - shift, 0.0), expected[-1])
    return Judged(usual, np.where(rooted, 2 * np.maximum(expected[-1], 0.5) * deviation, deviation), z, p, residuals)


def believable(p: NDArray[np.float64], share: float = FALSE_SHARE) -> NDArray[np.bool_]:
    """Which p-values stand, by Benjamini and Hochberg at the given share; NaN never does."""
    import numpy as np

    tested = np.isfinite(p)
    ordered = np.sort(p[tested])
    if not len(ordered):
        return np.zeros(len(p), dtype=bool)
    passed = np.flatnonzero(ordered <= share * np.arange(1, len(ordered) + 1) / len(ordered))
    return np.asarray(tested & (p <= (ordered[passed[-1]] if len(passed) else -1.0)))


def _without_wild_days(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Past days far outside missing: an incident must neither become the expectation nor hide the next one. And on which
    days most of the week before was far outside: that is how the series is now, and no news any more.

    Far is judged by the same weekday of four weeks on both sides, which an incident of some days does not reach, and by
    the median of the distances, since their 90 % quantile may be made of the very days that are looked for.
    """
    import numpy as np

    days, width = values.shape
    around = np.full((days, width, 2 * _WEEKS_AROUND), np.nan)
    for week in range(1, _WEEKS_AROUND + 1):
        if 7 * week < days:
            around[7 * week :, :, week - 1] = values[: -7 * week]
            around[: -7 * week, :, _WEEKS_AROUND + week - 1] = values[7 * week :]
    off = values - _median(around, least=LEAST_WEEKS)
    off[-1] = np.nan
    limit = np.fmax(np.nan_to_num(_WILD * _MAD * _median(np.abs(off).T, least=LEAST_REPLAYED), nan=np.inf), 1e-9)
    wild = np.abs(off) > limit
    # What happens on more than a tenth of the days is how the series is (signups: mostly none, at times one).
    wild &= wild.sum(axis=0) <= FALSE_SHARE * np.isfinite(off).sum(axis=0)
    shifted = np.zeros(values.shape, dtype=bool)
    # Half as far counts for this: a release fades, and its later days are of the same story.
    far = np.where(np.abs(off) > limit / 2, np.sign(np.nan_to_num(off)), 0.0)
    for day in range(7, days):
        shifted[day] = np.abs(far[day - 7 : day].sum(axis=0)) >= _SHIFTED_DAYS
    return np.where(wild, np.nan, values), shifted


def _of_late(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The median of the three days before each day, as they were."""
    import numpy as np
    from numpy.lib.stride_tricks import sliding_window_view

    late = np.full(values.shape, np.nan)
    if len(values) > 3:
        late[3:] = _median(sliding_window_view(values, 3, axis=0)[:-1], least=1)
    return late


def _expectations(values: NDArray[np.float64], calm: NDArray[np.float64], shifted: NDArray[np.bool_]) -> NDArray[np.float64]:
    """For each day: this weekday's usual distance from the week before it, on top of the week before this day.

    Where the level has shifted there are two, the one before and the one of late; the nearer counts, so that neither staying
    there nor coming back is news.
    """
    import numpy as np
    from numpy.lib.stride_tricks import sliding_window_view

    days, width = calm.shape
    level = np.full((days, width), np.nan)
    # A missing day counts as its weekday before, or a week without its working days would look like a weekend.
    filled = calm.copy()
    for day in range(7, days):
        filled[day] = np.where(np.isfinite(filled[day]), filled[day], filled[day - 7])
    if days > 7:
        level[7:] = _median(sliding_window_view(filled, 7, axis=0)[:-1], least=4)
    away = np.full((days, width, WEEKS), np.nan)
    for week in range(1, WEEKS + 1):
        if 7 * week < days:
            away[7 * week :, :, week - 1] = (calm - level)[: -7 * week]
    usual = _median(away, least=LEAST_WEEKS)
    before, late = level + usual, _of_late(values) + usual
    nearer = shifted & (np.abs(values - late) < np.abs(values - before))
    return np.asarray(np.where(nearer, late, before))


def _median(values: NDArray[np.float64], least: int) -> NDArray[np.float64]:
    """Median over the last axis of what is there; NaN with fewer than `least`. (nanmedian takes ten times as long.)"""
    import numpy as np

    there = np.isfinite(values).sum(axis=-1)
    ordered = np.sort(values, axis=-1)  # NaN come last
    low = np.take_along_axis(ordered, np.maximum(there - 1, 0)[..., None] // 2, axis=-1)[..., 0]
    high = np.take_along_axis(ordered, np.minimum(there // 2, values.shape[-1] - 1)[..., None], axis=-1)[..., 0]
    return np.where(there >= least, (low + high) / 2, np.nan)
