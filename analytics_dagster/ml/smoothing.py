"""Simple exponential smoothing with a seasonal profile: the second opinion beside Prophet, and the only one on short histories.

Prophet follows trend and calendar but starts where its line runs, not where the series stands; smoothing starts where the
series stands but knows no trend. Their mean is better than either on most series tried (docs/explanation/
forecasts-and-anomalies.md); that combining helps is old knowledge (Bates and Granger, 1969). Its interval is measured, not
assumed: the errors it made h buckets ahead, at every point of its own history.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_ALPHAS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0)
_PROFILE_CYCLES = 8
_LEAST_CYCLES = 3
# Origins of measured errors: enough for a stable spread, recent enough to be about the series as it is now.
_ORIGINS = 400
_WARM_UP = 7
_ENOUGH_FOR_A_QUANTILE = 20


@dataclass(frozen=True)
class Outlook:
    """Point forecasts of the next buckets and the standard deviation of each; NaN deviation: not known."""

    middle: NDArray[np.float64]
    deviation: NDArray[np.float64]


def smooth(values: NDArray[np.float64], raw: NDArray[np.float64], season: int | None, horizon: int) -> Outlook:
    """Forecast `horizon` buckets after a regular history.

    values: the history with odd points removed (NaN); raw: as it was, which the errors are measured against, so that a
    series that often goes wild gets a wide interval. At least two values are needed for an interval.
    """
    import numpy as np

    n = len(values)
    known = np.flatnonzero(np.isfinite(values))
    if len(known) < 2:
        middle = float(values[known[0]]) if len(known) else float(np.nanmean(raw))
        return Outlook(np.full(horizon, middle), np.full(horizon, np.nan))
    filled = np.interp(np.arange(n), known, values[known])
    measured = np.where(np.isfinite(raw), raw, np.nan)
    options = [_Option(filled, measured, _no_profile(n + horizon), horizon)]
    if season and season > 1 and n >= _LEAST_CYCLES * season:
        options.append(_Option(filled, measured, _profile(filled, season, n + horizon), horizon))
    return min(options, key=lambda option: option.cost).outlook()


class _Option:
    """One seasonal profile with the smoothing weight that would have been best for it."""

    def __init__(self, filled: NDArray[np.float64], raw: NDArray[np.float64], profile: NDArray[np.float64], horizon: int) -> None:
        import numpy as np

        n = len(filled)
        self._horizon, self._profile = horizon, profile
        self._apart = raw - profile[:n]
        levels = _levels(filled - profile[:n])
        steps = sorted({1, min(7, horizon), horizon})
        start = min(_WARM_UP * 3, n // 3)
        costs = np.zeros(levels.shape[1])
        for step in steps:
            if n - start > step:
                off = np.abs(self._apart[start + step :, None] - levels[start:-step])
                costs += _mean(off)
        best = int(np.argmin(costs))
        self.cost, self._level = float(costs[best]), levels[:, best]

    def outlook(self) -> Outlook:
        import numpy as np

        n = len(self._level)
        first = max(min(_WARM_UP, n // 3), n - _ORIGINS)
        deviation = np.empty(self._horizon)
        last = np.nan
        for ahead in range(1, self._horizon + 1):
            off = self._apart[first + ahead :] - self._level[first : max(first, n - ahead)]
            off = off[np.isfinite(off)]
            # Few origins say little about far buckets: let the spread grow with the root of time from the last good one.
            grown = last * np.sqrt(ahead / (ahead - 1)) if ahead > 1 else np.nan
            measured = _deviation(off) if len(off) >= max(3, min(10, n // 3)) else grown
            deviation[ahead - 1] = last = np.fmax(measured, last)
        if np.isnan(deviation[0]):
            deviation = np.full(self._horizon, float(np.nanstd(self._apart)))
        return Outlook(self._level[-1] + self._profile[n:], deviation)


def _no_profile(length: int) -> NDArray[np.float64]:
    import numpy as np

    return np.zeros(length)


def _profile(filled: NDArray[np.float64], season: int, length: int) -> NDArray[np.float64]:
    """Median distance of each phase from the level around it over the last cycles, repeated over `length` buckets."""
    import numpy as np

    n = len(filled)
    # A centred mean over one season holds no season itself; an even season takes half of both ends.
    window = np.ones(season + 1 if season % 2 == 0 else season)
    if season % 2 == 0:
        window[[0, -1]] = 0.5
    sums, weights = np.convolve(filled, window, "same"), np.convolve(np.ones(n), window, "same")
    away = filled - sums / weights
    cycles = min(n // season, _PROFILE_CYCLES)
    phases = np.median(away[n - cycles * season :].reshape(cycles, season), axis=0)
    phases -= phases.mean()
    return np.asarray(phases[(np.arange(length) - (n - cycles * season)) % season])


def _levels(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Level after each bucket (rows) for each smoothing weight (columns)."""
    import numpy as np

    weights = np.array(_ALPHAS)
    levels = np.empty((len(values), len(weights)))
    level = np.full(len(weights), float(np.median(values[:_WARM_UP])))
    for i, value in enumerate(values):
        level = level + weights * (value - level)
        levels[i] = level
    return levels


def _deviation(off: NDArray[np.float64]) -> float:
    """What times 1.96 holds 95 % of these errors: a few wild days in a hundred must not widen all intervals to come."""
    import numpy as np

    if len(off) < _ENOUGH_FOR_A_QUANTILE:
        return float(np.sqrt(np.mean(off**2)))
    return float(np.quantile(np.abs(off), 0.95)) / 1.96


def _mean(off: NDArray[np.float64]) -> NDArray[np.float64]:
    import numpy as np

    known = np.isfinite(off)
    return np.asarray(np.where(known, off, 0).sum(axis=0) / max(1, int(known[:, 0].sum())))
