"""How unusual each of many series was on one day, and which of them to believe.

Every series is compared with the same weekday of its last eight weeks, brought to its present level; the distance is
measured in the series' own past distances (its history is replayed), so that a restless series has to move more. Of many
series a few always look odd by chance: Benjamini and Hochberg's procedure (1995) bounds the share of false findings.
"""

from __future__ import annotations

from dataclasses import dataclass
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
_RELATIVE_FLOOR = 0.005
_WILD, _WEEKS_AROUND = 8.0, 4


@dataclass(frozen=True)
class Judged:
    """One row per series: what the day was expected to be, its usual deviation, z and p (NaN where not judged)."""

    expected: NDArray[np.float64]
    deviation: NDArray[np.float64]
    z: NDArray[np.float64]
    p: NDArray[np.float64]


def judge(values: NDArray[np.float64], counts: NDArray[np.bool_]) -> Judged:
    """Judge the last row of `values` (days x series, consecutive days, NaN missing).

    counts: which series are counts, which stray by their square root at least. Days before the last HISTORY_DAYS do
    not matter and are best left out.
    """
    import numpy as np
    from scipy.special import stdtr  # type: ignore[import-untyped]

    calm = _without_wild_days(values)
    expected = _expectations(calm)
    past = np.abs(calm - expected)[:-1][-REPLAYED_DAYS:]
    judged = np.isfinite(past).sum(axis=0) >= LEAST_REPLAYED
    deviation = np.full(values.shape[1], np.nan)
    if judged.any():
        half, most = np.nanquantile(past[:, judged], [0.5, 0.9], axis=0)
        deviation[judged] = np.fmax(_MAD * half, most / _Q90)
    floor = _RELATIVE_FLOOR * np.abs(expected[-1])
    floor = np.where(counts, np.fmax(floor, np.sqrt(np.fmax(expected[-1], 1.0))), floor)
    deviation = np.where(judged, np.fmax(deviation, np.fmax(floor, 1e-9)), np.nan)
    z = (values[-1] - expected[-1]) / deviation
    # Student's t: the deviation is itself estimated, from about as many independent weeks.
    p = np.where(np.isfinite(z), 2 * stdtr(2.0 * WEEKS, -np.abs(np.nan_to_num(z))), np.nan)
    return Judged(expected[-1], deviation, z, p)


def believable(p: NDArray[np.float64], share: float = FALSE_SHARE) -> NDArray[np.bool_]:
    """Which p-values stand, by Benjamini and Hochberg at the given share; NaN never does."""
    import numpy as np

    tested = np.isfinite(p)
    ordered = np.sort(p[tested])
    if not len(ordered):
        return np.zeros(len(p), dtype=bool)
    passed = np.flatnonzero(ordered <= share * np.arange(1, len(ordered) + 1) / len(ordered))
    return np.asarray(tested & (p <= (ordered[passed[-1]] if len(passed) else -1.0)))


def _without_wild_days(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Past days far outside missing: an incident must neither become the expectation nor hide the next one.

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
    off = np.abs(values - _median(around, least=LEAST_WEEKS))
    off[-1] = np.nan
    limit = _WILD * _MAD * _median(off.T, least=LEAST_REPLAYED)
    wild = off > np.fmax(np.nan_to_num(limit, nan=np.inf), 1e-9)
    # What happens on more than a tenth of the days is how the series is (signups: mostly none, at times one).
    wild &= wild.sum(axis=0) <= FALSE_SHARE * np.isfinite(off).sum(axis=0)
    return np.where(wild, np.nan, values)


def _expectations(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """For each day: this weekday's usual distance from the week before it, on top of the week before this day."""
    import numpy as np
    from numpy.lib.stride_tricks import sliding_window_view

    days, width = values.shape
    level = np.full((days, width), np.nan)
    # A missing day counts as its weekday before, or a week without its working days would look like a weekend.
    filled = values.copy()
    for day in range(7, days):
        filled[day] = np.where(np.isfinite(filled[day]), filled[day], filled[day - 7])
    if days > 7:
        level[7:] = _median(sliding_window_view(filled, 7, axis=0)[:-1], least=4)
    away = np.full((days, width, WEEKS), np.nan)
    for week in range(1, WEEKS + 1):
        if 7 * week < days:
            away[7 * week :, :, week - 1] = (values - level)[: -7 * week]
    return np.asarray(level + _median(away, least=LEAST_WEEKS))


def _median(values: NDArray[np.float64], least: int) -> NDArray[np.float64]:
    """Median over the last axis of what is there; NaN with fewer than `least`. (nanmedian takes ten times as long.)"""
    import numpy as np

    there = np.isfinite(values).sum(axis=-1)
    ordered = np.sort(values, axis=-1)  # NaN come last
    low = np.take_along_axis(ordered, np.maximum(there - 1, 0)[..., None] // 2, axis=-1)[..., 0]
    high = np.take_along_axis(ordered, np.minimum(there // 2, values.shape[-1] - 1)[..., None], axis=-1)[..., 0]
    return np.where(there >= least, (low + high) / 2, np.nan)
