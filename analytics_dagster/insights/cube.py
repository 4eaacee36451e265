"""A series as arrays: days x 1 for the whole, days x elements for each dimension, on consecutive days up to the judged one.

A missing day stays missing. An element without a row on a day that the whole has counts as 0 for counts and sums, and
as missing for ratios.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from analytics_dagster.insights.series import Series
from analytics_dagster.insights.significance import Scale

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MOST_ELEMENTS = 50
"""Elements of a dimension that are looked at one by one; the rest are one, named `Other`."""
OTHER = "Other"
UNKNOWN = "(unknown)"
_DAY_US = 86_400_000_000
_RATIOS = frozenset({"ratio", "percent"})
_PLAIN = _RATIOS | {"ms", "us"}


@dataclass(frozen=True)
class Whole:
    """values: one per day, the last is the judged day."""

    metric: str
    values: NDArray[np.float64]
    scale: Scale

    @property
    def week_ago(self) -> float:
        return float(self.values[-8]) if len(self.values) > 7 else float("nan")

    @property
    def mean_28(self) -> float:
        """Mean of the 28 days before."""
        import numpy as np

        before = self.values[-29:-1]
        before = before[np.isfinite(before)]
        return float(before.mean()) if len(before) else float("nan")


@dataclass(frozen=True)
class Split:
    """values: days x elements; weights likewise for a ratio (its denominators), else None."""

    metric: str
    dimension: str
    elements: tuple[str, ...]
    values: NDArray[np.float64]
    weights: NDArray[np.float64] | None
    whole: NDArray[np.float64]
    scale: Scale

    def judged(self, least: float) -> list[int]:
        """Elements to be judged by themselves: large enough, by the mean of their last four weeks, and there on most days of
        them (one payment from a country that seldom pays is no news).
        """
        import numpy as np

        recent = np.nan_to_num((self.values if self.weights is None else self.weights)[-29:-1])
        # What is left over is nobody, and a single element is the whole.
        if not len(recent) or len(self.elements) < 2:
            return []
        own = np.array([element != OTHER for element in self.elements])
        return np.flatnonzero(own & (recent.mean(axis=0) >= least) & ((recent > 0).mean(axis=0) >= 0.5)).tolist()

    def least_deviation(self, element: int) -> float:
        """What chance alone gives a ratio of n: the root of r (1 - r) / n, or of r / n where r is above 1. NaN for counts.

        r is the element's mean of four weeks, n what the ratio is of on the day itself.
        """
        import numpy as np

        if self.weights is None:
            return float("nan")
        r, n = float(np.nanmean(self.values[-29:-1, element])), float(np.nan_to_num(self.weights[-1, element]))
        if not n > 0 or not r >= 0:
            return float("nan")
        return float(np.sqrt((r * (1 - r) if r <= 1 else r) / n))

    def share(self, element: int) -> float:
        """Share of the total (for a ratio: of the weight) that the element had over the last four weeks and has now."""
        import numpy as np

        size = np.nan_to_num(self.values if self.weights is None else self.weights)[-29:]
        return (
            float(max(size[:, element].sum() / size.sum(), size[-1, element] / max(size[-1].sum(), 1e-300)))
            if size.sum() > 0
            else 0.0
        )

    def reconciles(self, within: float) -> bool:
        """Whether the elements make up the whole, by sum or mean (not so for listeners with two devices), none negative."""
        import numpy as np

        here = np.isfinite(self.whole[-29:])
        total, parts = self.whole[-29:][here], np.nansum(self.values[-29:][here], axis=1)
        if self.weights is not None:
            weights = np.where(np.isfinite(self.values), self.weights, 0.0)[-29:][here]
            parts = np.nansum(self.values[-29:][here] * weights, axis=1) / np.fmax(weights.sum(axis=1), 1e-300)
        return (
            bool(len(total))
            and not (self.values < 0).any()
            and bool((np.abs(total - parts) <= within * np.abs(total) + 1e-9).all())
        )

    def sides(self, weeks: int) -> tuple[dict[str, float], dict[str, float]]:
        """Values of the judged day, and the mean of the same weekday over the weeks before."""
        import numpy as np

        back = self._back(weeks)
        now = np.nan_to_num(self.values[-1])
        then = np.nan_to_num(self.values[back]).mean(axis=0) if back else np.zeros(len(self.elements))
        return dict(zip(self.elements, now.tolist(), strict=True)), dict(zip(self.elements, then.tolist(), strict=True))

    def ratio_sides(self, weeks: int) -> tuple[dict[str, tuple[float, float]], dict[str, tuple[float, float]]]:
        """(ratio, weight) of each element on the judged day, and over the same weekday of the weeks before."""
        import numpy as np

        assert self.weights is not None
        back = self._back(weeks)
        known = np.isfinite(self.values) & np.isfinite(self.weights) & (self.weights > 0)
        weight = np.where(known, self.weights, 0.0)
        numerator = np.where(known, self.values, 0.0) * weight

        def side(rows: list[int]) -> dict[str, tuple[float, float]]:
            below, above = weight[rows].sum(axis=0), numerator[rows].sum(axis=0)
            return {
                element: (float(above[i] / below[i]), float(below[i])) for i, element in enumerate(self.elements) if below[i] > 0
            }

        return side([len(self.values) - 1]), side(back)

    def _back(self, weeks: int) -> list[int]:
        import numpy as np

        days = [len(self.values) - 1 - 7 * week for week in range(1, weeks + 1)]
        return [day for day in days if day >= 0 and np.isfinite(self.whole[day])]


def whole_of(series: Series, first: date, last: date) -> Whole:
    """The series' days from `first` to `last`, both included."""
    import numpy as np

    at, values = _placed(_within(series.daily, first, last), first)
    line = np.full((last - first).days + 1, np.nan)
    line[at] = values
    return Whole(series.metric, line, _scale(series.unit, line))


def split_of(series: Series, dimension: str, table: pa.Table, whole: Whole, first: date, last: date) -> Split | None:
    """One dimension of the series; None when it has no rows in the window, or a ratio comes without weights."""
    import numpy as np

    rows = _within(table, first, last)
    at, values = _placed(rows, first)
    if not len(at):
        return None
    ratio = "weight" in table.column_names
    if not ratio and series.unit in _RATIOS:
        return None
    names = pc.fill_null(rows[dimension].cast(pa.string()), UNKNOWN).combine_chunks().dictionary_encode()
    elements, which = names.dictionary.to_pylist(), names.indices.to_numpy()
    shape = (len(whole.values), len(elements))
    grid = np.full(shape, np.nan)
    grid[at, which] = values
    if ratio:
        weights = np.zeros(shape)
        weights[at, which] = np.nan_to_num(rows["weight"].cast(pa.float64()).to_numpy())
        weights = np.where(np.isfinite(grid), weights, 0.0)
        order = np.argsort(-weights.sum(axis=0), kind="stable")
        kept, rest = order[:MOST_ELEMENTS], order[MOST_ELEMENTS:]
        chosen = [elements[i] for i in kept]
        if len(rest):
            chosen.append(OTHER)
            below = weights[:, rest].sum(axis=1)
            above = np.nansum(grid[:, rest] * weights[:, rest], axis=1)
            left = np.where(below > 0, above / np.fmax(below, 1e-300), np.nan)
            grid, weights = np.column_stack([grid[:, kept], left]), np.column_stack([weights[:, kept], below])
        else:
            grid, weights = grid[:, kept], weights[:, kept]
        return Split(series.metric, dimension, tuple(chosen), grid, weights, whole.values, Scale.PLAIN)
    there = np.isfinite(whole.values)[:, None]
    grid = np.where(np.isnan(grid) & there, 0.0, grid)
    order = np.argsort(-np.nansum(grid, axis=0), kind="stable")
    kept, rest = order[:MOST_ELEMENTS], order[MOST_ELEMENTS:]
    columns, labels = [grid[:, kept]], [elements[i] for i in kept]
    if len(rest):
        columns.append(np.where(there[:, 0], np.nansum(grid[:, rest], axis=1), np.nan)[:, None])
        labels.append(OTHER)
    return Split(series.metric, dimension, tuple(labels), np.hstack(columns), None, whole.values, whole.scale)


def _within(table: pa.Table, first: date, last: date) -> pa.Table:
    begin, end = (_micros(day) for day in (first, last))
    ts = _ts(table)
    return table.filter(pc.and_(pc.greater_equal(ts, begin), pc.less(ts, end + _DAY_US)))


def _placed(rows: pa.Table, first: date) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Day numbers from `first` on, and values."""
    import numpy as np

    at = (np.asarray(_ts(rows).to_numpy()) - _micros(first)) // _DAY_US
    return at.astype(np.int64), np.asarray(pc.fill_null(rows["value"].cast(pa.float64()), float("nan")).to_numpy())


def _ts(table: pa.Table) -> pa.ChunkedArray:
    kind = table.schema.field("ts").type
    return table["ts"].cast(pa.timestamp("us", getattr(kind, "tz", None))).cast(pa.int64())


def _micros(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1_000_000


def _scale(unit: str, values: NDArray[np.float64]) -> Scale:
    """A count holds whole numbers, an amount others; neither is ever negative, and latencies and shares are neither."""
    import numpy as np

    seen = values[np.isfinite(values)]
    if unit in _PLAIN or not len(seen) or (seen < 0).any():
        return Scale.PLAIN
    return Scale.COUNT if (seen == np.round(seen)).all() else Scale.AMOUNT
