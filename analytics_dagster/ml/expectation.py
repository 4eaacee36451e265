"""What a series was expected to be at each of its points, and how far it usually strays.

The idea to hold: point *i* is judged by the points before it (its level by the last season, its season by the same
weekday or hour of up to eight cycles, its spread by the residuals of the last weeks), so a verdict does not change
when later days arrive. Only the first points of a series, which have too little before them, borrow from the points
that follow. Medians and quantiles throughout, so that an odd day does not become tomorrow's expectation.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CYCLES = 8
"""Earlier cycles whose same weekday (or hour) makes the seasonal expectation."""
FLAT_LEVEL = 14
"""Points whose median is the level of a series without a season."""
LEAST_CYCLES = 3
# What a spread rests on (median absolute deviation, and the 90 % quantile so that heavy tails count), as a multiple
# of the standard deviation of normal noise: 1 / 0.6745 and 1 / 1.6449.
_MAD, _Q90 = 1.4826, 1 / 1.6449
# A seasonal expectation must be this much nearer than a flat one before it is believed.
_SEASON_MUST_GAIN = 0.95
_RELATIVE_FLOOR = 0.01
# Up to this many first points are each judged without themselves; in a longer window one point does not matter.
_EACH_WITHOUT_ITSELF = 120


class Seasonality(StrEnum):
    """How a season goes into the expectation: not at all, on top of the level, or as a factor of it."""

    NONE = "none"
    ADDED = "added"
    MULTIPLIED = "multiplied"


@dataclass(frozen=True)
class Expectation:
    """Per slot of a grid: the expected value and the usual deviation from it (a standard deviation in robust terms)."""

    expected: NDArray[np.float64]
    spread: NDArray[np.float64]
    season: int | None
    seasonality: Seasonality


def spread_window(season: int | None) -> int:
    """Residuals that the usual deviation is taken from: eight weeks of days, four cycles of finer grains."""
    return max(56, 4 * (season or 0))


def expectation(values: NDArray[np.float64], season: int | None, kept: Seasonality | None = None) -> Expectation:
    """Expected value and usual deviation at every slot of `values` (NaN where missing).

    season: slots in a cycle, or None. kept: the kind of season chosen when a model was fitted; None chooses the one
    with the smallest residuals.
    """
    usable = season if season and season > 1 and len(values) >= LEAST_CYCLES * season else None
    options = _options(values, usable)
    chosen = kept if kept in options else min(options, key=lambda kind: _cost(values, options[kind], kind))
    expected = options[chosen]
    spread = _spread(values, expected, usable, relative=chosen == Seasonality.MULTIPLIED)
    return Expectation(expected, spread, usable if chosen != Seasonality.NONE else None, chosen)


def _options(values: NDArray[np.float64], season: int | None) -> dict[Seasonality, NDArray[np.float64]]:
    import numpy as np

    flat = max(FLAT_LEVEL, season or 0)
    options = {Seasonality.NONE: _level(values, flat)}
    if season:
        level = _level(_gaps_filled(values, season), season)
        deviation = _same_phase(values - level, season)
        options[Seasonality.ADDED] = level + np.nan_to_num(deviation)
        seen = values[np.isfinite(values)]
        if (seen >= 0).all() and (level > 0).all():
            factor = _same_phase(values / level, season)
            options[Seasonality.MULTIPLIED] = level * np.where(np.isfinite(factor), factor, 1.0)
    return options


def _cost(values: NDArray[np.float64], expected: NDArray[np.float64], kind: Seasonality) -> float:
    import numpy as np

    off = np.abs(values - expected)
    off = off[np.isfinite(off)]
    if not len(off):
        return 0.0
    # The largest residuals may be the very anomalies that are looked for: they do not choose the season.
    cost = float(np.minimum(off, np.quantile(off, 0.95)).mean())
    return cost * _SEASON_MUST_GAIN if kind == Seasonality.NONE else cost


def _gaps_filled(values: NDArray[np.float64], season: int) -> NDArray[np.float64]:
    """Missing slots with the value of the cycle before: three missing weekdays must not make a week look like a weekend."""
    import numpy as np

    filled = values.copy()
    for i in np.flatnonzero(~np.isfinite(values)):
        if i >= season:
            filled[i] = filled[i - season]
    return filled


def _level(values: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """Median of the `window` slots before each; of those after it where there are not enough before."""
    import numpy as np

    before = _rolled(values, window)
    after = _rolled(values[::-1], window)[::-1]
    level = np.where(np.isfinite(before), before, after)
    if np.isfinite(level).all():
        return level
    overall = np.nanmedian(values) if np.isfinite(values).any() else np.nan
    return np.where(np.isfinite(level), level, overall)


def _rolled(values: NDArray[np.float64], window: int, quantile: float = 0.5) -> NDArray[np.float64]:
    """Quantile of the `window` slots before each slot, itself excluded; NaN where less than half of them have values."""
    import numpy as np
    import pandas as pd

    rolling = pd.Series(values).shift(1).rolling(window, min_periods=max(3, window // 2))
    return np.asarray(rolling.median() if quantile == 0.5 else rolling.quantile(quantile), dtype=np.float64)


def _same_phase(values: NDArray[np.float64], season: int) -> NDArray[np.float64]:
    """Median of the same phase in up to CYCLES earlier cycles; the first cycles borrow from later ones."""
    import numpy as np

    n = len(values)
    lags = np.full((n, 2 * CYCLES), np.nan)
    earlier = np.minimum(np.arange(n) // season, CYCLES)
    for k in range(1, CYCLES + 1):
        if season * k >= n:
            break
        lags[season * k :, k - 1] = values[: -season * k]
        borrow = earlier[: -season * k] + k <= CYCLES
        lags[: -season * k, CYCLES + k - 1][borrow] = values[season * k :][borrow]
    found = np.isfinite(lags).any(axis=1)
    result = np.full(n, np.nan)
    result[found] = np.nanmedian(lags[found], axis=1)
    return result


def _spread(
    values: NDArray[np.float64], expected: NDArray[np.float64], season: int | None, relative: bool
) -> NDArray[np.float64]:
    import numpy as np

    # Where the season is a factor of the level, so is the noise: it grows with the series and is larger on its weekends.
    size = np.abs(expected) if relative else np.ones(len(expected))
    off = np.abs(values - expected) / size
    window = min(spread_window(season), len(off))
    spread = np.fmax(_MAD * _rolled(off, window), _Q90 * _rolled(off, window, 0.9))
    # The first window of a series is judged as a whole, each point by the others in it.
    first = off[:window]
    others = first[None, :]
    if 1 < window <= _EACH_WITHOUT_ITSELF:
        others = np.broadcast_to(first, (window, window))[~np.eye(window, dtype=bool)].reshape(window, window - 1)
    spread[:window] = _deviation(others)
    spread = np.where(np.isfinite(spread), spread, _deviation(off[None, :])) * size
    floor = _RELATIVE_FLOOR * np.abs(expected)
    seen = values[np.isfinite(values)]
    if (seen >= 0).all() and (seen == np.round(seen)).all():
        # Counts stray by their square root at least (Poisson), so 3 plays after a week of 0 and 1 are no news.
        floor = np.fmax(floor, np.sqrt(np.fmax(expected, 1.0)))
    smallest = 1e-3 * float(np.median(np.abs(seen))) + 1e-9
    return np.fmax(np.fmax(spread, floor), smallest)


def _deviation(off: NDArray[np.float64]) -> NDArray[np.float64]:
    """Usual deviation of each row of absolute residuals; NaN where a row has none."""
    import numpy as np

    result = np.full(len(off), np.nan)
    some = np.isfinite(off).any(axis=1)
    if some.any():
        half, most = np.nanquantile(off[some], [0.5, 0.9], axis=1)
        result[some] = np.fmax(_MAD * half, _Q90 * most)
    return result
