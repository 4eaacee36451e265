"""Which points of a metric series are odd: Isolation Forest and DBSCAN over robust residuals.

A point is odd when it is far from its expectation (`expectation.py`) beyond a hard limit, or when it is rather far *and*
the forest ranks it among the oddest *and* DBSCAN finds no crowd that it belongs to. Either way, a deviation as large
as on three earlier occasions is a habit of the series and no anomaly. Few false alarms matter more than every hit.

References: Liu, Ting, Zhou, "Isolation Forest" (ICDM 2008); Ester and others, "A density-based algorithm ..." (KDD 1996).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from analytics_dagster.errors import UserError
from analytics_dagster.lake.schemas import TIMESTAMP, Column, Layer, PartitionBy, TableSchema
from analytics_dagster.ml.expectation import Expectation, Seasonality, expectation
from analytics_dagster.ml.series import Grid, grid_of, timestamps

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from sklearn.ensemble import IsolationForest

LEAST_POINTS = 14
"""Two weeks of days: with less, no verdict."""
SOFT_LIMIT = 4.0
"""Usual deviations beyond which forest and DBSCAN are asked; also the band `lo` to `hi`."""
HARD_LIMIT = 6.0
"""Usual deviations beyond which a point is odd whatever the models say."""
HABIT = 3
"""Earlier occasions of about the same size that make a deviation a habit."""
ODD_SCORE = 0.5
"""Scores from here on are anomalies, below they are not."""

_ABOUT_THE_SAME = 0.7
# Slots within which an occasion is remembered: half a year of days, a month of hours, a week of five minutes.
_LEAST_MEMORY, _MOST_MEMORY = 180, 2_016
_TREES, _TREE_SAMPLE = 40, 64
_CLIP = 20.0
_NEIGHBOURS = 5

VERDICT = pa.schema(
    [
        pa.field("ts", TIMESTAMP),
        pa.field("value", pa.float64()),
        pa.field("score", pa.float64()),
        pa.field("anomaly", pa.bool_()),
        pa.field("expected", pa.float64()),
        pa.field("lo", pa.float64()),
        pa.field("hi", pa.float64()),
        pa.field("reason", pa.string()),
    ]
)

ANOMALIES = TableSchema(
    Layer.MODELS,
    "anomaly",
    "How odd each day of each KPI was: Isolation Forest and DBSCAN over robust residuals.",
    (
        Column("ts", TIMESTAMP, "Start of the bucket (UTC).", required=True),
        Column("metric", pa.string(), "Declared metric.", required=True),
        Column("value", pa.float64(), "The figure that was judged; empty where it is missing."),
        Column("score", pa.float64(), "0 (as expected) to 1; anomalies have 0.5 and more. Empty without a verdict."),
        Column("anomaly", pa.bool_(), "Whether the point is odd.", required=True),
        Column("expected", pa.float64(), "Expected from the points before it."),
        Column("lo", pa.float64(), "Lower end of the usual range."),
        Column("hi", pa.float64(), "Upper end of the usual range."),
        Column("reason", pa.string(), "Why it is odd, or why there is no verdict; empty for a usual point."),
    ),
    key="ts",
    partition_by=PartitionBy.MONTH,
)


@dataclass(frozen=True)
class AnomalyModel:
    """What is fitted once and kept: the season, the forest, and DBSCAN's crowd (`core`, points x features; a point
    farther than `reach` from all of them is noise). Stored by `models.py`.
    """

    season: int | None
    seasonality: Seasonality
    forest: IsolationForest
    core: NDArray[np.float64]
    reach: float


def detect(points: pa.Table, *, contamination: float, seed: int, season: int | None = None) -> pa.Table:
    """Judge a whole series: `fit` and `score` in one.

    points: ts (timestamp or date), value (number; null and NaN are missing). contamination: expected share of odd
    points, above 0 and below 0.5. season: points in a cycle; None takes the grain's own (7 days, 24 hours, ...).
    Returns VERDICT's columns, one row per point, ascending. With fewer than 14 points no verdict: anomaly is false,
    score is empty, and the reason says so. Raises UserError on a bad argument or a table that is no series.
    """
    _check(contamination, season)
    grid = grid_of(points)
    if grid.observed < LEAST_POINTS:
        return _no_verdict(grid)
    expected = expectation(grid.values, season or grid.usual_season)
    return _score(grid, expected, _fit(grid, expected, contamination, seed, season))


def fit(points: pa.Table, *, contamination: float, seed: int, season: int | None = None) -> AnomalyModel | None:
    """Fit on a history; None when it has fewer than 14 points with a value. Arguments as for `detect`."""
    _check(contamination, season)
    grid = grid_of(points)
    if grid.observed < LEAST_POINTS:
        return None
    return _fit(grid, expectation(grid.values, season or grid.usual_season), contamination, seed, season)


def _check(contamination: float, season: int | None) -> None:
    if not 0 < contamination < 0.5:
        raise UserError(f"contamination {contamination} is not allowed; give the expected share of odd points, 0 < share < 0.5")
    if season is not None and season < 2:
        raise UserError(f"season {season} is not allowed; give the number of points in a cycle, 2 or more")


def _fit(grid: Grid, expected: Expectation, contamination: float, seed: int, season: int | None) -> AnomalyModel:
    import numpy as np
    from sklearn.ensemble import IsolationForest

    features = _features(_deviations(grid, expected))
    features = features[np.isfinite(features).all(axis=1)]
    forest = IsolationForest(
        n_estimators=_TREES, max_samples=min(_TREE_SAMPLE, len(features)), contamination=contamination, random_state=seed
    ).fit(features)
    core, reach = _crowd(features)
    return AnomalyModel(season or grid.usual_season, expected.seasonality, forest, core, reach)


def score(points: pa.Table, model: AnomalyModel | None) -> pa.Table:
    """Judge `points` with a fitted model. Give the history before the points of interest along: expectations come from it."""
    grid = grid_of(points)
    if model is None or grid.observed < LEAST_POINTS:
        return _no_verdict(grid)
    return _score(grid, expectation(grid.values, model.season, model.seasonality), model)


def _score(grid: Grid, expected: Expectation, model: AnomalyModel) -> pa.Table:
    import numpy as np

    deviations = _deviations(grid, expected)
    candidate = np.abs(deviations) >= SOFT_LIMIT
    odd = np.abs(deviations) >= HARD_LIMIT
    asked = np.flatnonzero(candidate & ~odd)
    if len(asked):
        odd[asked] = _models_agree(_features(deviations)[asked], model)
    residual = grid.values - expected.expected
    occasions = {int(i): _occasions(residual, int(i), model.season) for i in np.flatnonzero(odd)}
    habits = {i: seen for i, seen in occasions.items() if seen >= HABIT}
    odd[list(habits)] = False
    return _verdicts(grid, expected, deviations, odd, habits)


def _deviations(grid: Grid, expected: Expectation) -> NDArray[np.float64]:
    """Signed distance from the expectation in usual deviations; NaN where missing."""
    return (grid.values - expected.expected) / expected.spread


def _features(deviations: NDArray[np.float64]) -> NDArray[np.float64]:
    """Points x 3: the deviation, its change from the slot before, and its level over the last three slots."""
    import numpy as np

    now = np.clip(deviations, -_CLIP, _CLIP)
    known = np.nan_to_num(now)
    before = np.concatenate([[0.0], known[:-1]])
    before2 = np.concatenate([[0.0, 0.0], known[:-2]])
    return np.column_stack([now, now - before, (now + before + before2) / 3])


def _crowd(features: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """DBSCAN's core points and its reach, which follows the data: twice the median distance to the fifth neighbour.

    Equal points are counted once with a weight, so a constant series of any length costs nothing.
    """
    import numpy as np
    from sklearn.cluster import DBSCAN
    from sklearn.neighbors import NearestNeighbors

    cells, weights = np.unique(np.round(features, 2), axis=0, return_counts=True)
    near = min(_NEIGHBOURS, len(cells) - 1)
    distance = NearestNeighbors(n_neighbors=near + 1).fit(cells).kneighbors(cells)[0][:, near]
    reach = max(0.5, 2 * float(np.median(distance)))
    clusters = DBSCAN(eps=reach, min_samples=_NEIGHBOURS).fit(cells, sample_weight=weights)
    return cells[clusters.core_sample_indices_], reach


def _models_agree(features: NDArray[np.float64], model: AnomalyModel) -> NDArray[np.bool_]:
    """Where the forest ranks a point odd and DBSCAN calls it noise."""
    import numpy as np

    noise = np.ones(len(features), dtype=bool)
    if len(model.core):
        noise = np.array([np.min(np.linalg.norm(model.core - point, axis=1)) > model.reach for point in features])
    return np.asarray(noise & (model.forest.predict(features) == -1))


def _occasions(residual: NDArray[np.float64], at: int, season: int | None) -> int:
    """Earlier occasions on which the series strayed about as far to the same side (the first points look ahead)."""
    import numpy as np

    cycle = season or 0
    memory, apart = max(_LEAST_MEMORY, min(30 * cycle, _MOST_MEMORY)), max(2, cycle // 12)
    first = max(0, at - memory)
    last = max(at, min(memory, len(residual)))
    alike = np.flatnonzero(residual[first:last] * np.sign(residual[at]) >= _ABOUT_THE_SAME * abs(residual[at])) + first
    alike = alike[np.abs(alike - at) > apart]
    return int(1 + (np.diff(alike) > apart).sum()) if len(alike) else 0


def _no_verdict(grid: Grid) -> pa.Table:
    import numpy as np

    n = len(grid.ts)
    value = grid.values[grid.slot]
    nothing, false = pa.nulls(n, pa.float64()), pa.array(np.zeros(n, dtype=bool))
    reason = pa.array([f"not enough history: {grid.observed} of {LEAST_POINTS} points"] * n, pa.string())
    columns = [timestamps(grid.ts), _numbers(value), nothing, false, nothing, nothing, nothing, reason]
    return pa.Table.from_arrays(columns, schema=VERDICT)


def _verdicts(
    grid: Grid, expected: Expectation, deviations: NDArray[np.float64], odd: NDArray[np.bool_], habits: dict[int, int]
) -> pa.Table:
    import numpy as np

    at = grid.slot
    value, middle, spread = grid.values[at], expected.expected[at], expected.spread[at]
    severity = np.abs(deviations[at]) / HARD_LIMIT
    rank = severity**2 / (1 + severity**2)
    # The verdict and the score must not contradict each other, whichever way the models decided.
    rank = np.where(odd[at], np.maximum(rank, ODD_SCORE), np.minimum(rank, ODD_SCORE - 0.01))
    lo, hi = middle - SOFT_LIMIT * spread, middle + SOFT_LIMIT * spread
    if (grid.values[np.isfinite(grid.values)] >= 0).all():
        lo = np.maximum(lo, 0.0)
    reasons = [_reason(value[i], middle[i], lo[i], hi[i], bool(odd[s]), habits.get(int(s))) for i, s in enumerate(at)]
    columns = [
        timestamps(grid.ts),
        *(_numbers(column) for column in (value, rank)),
        pa.array(odd[at]),
        *(_numbers(column) for column in (middle, lo, hi)),
        pa.array(reasons, pa.string()),
    ]
    return pa.Table.from_arrays(columns, schema=VERDICT)


def _numbers(values: NDArray[np.float64]) -> pa.Array:
    return pa.array(values, pa.float64(), from_pandas=True)


def _reason(value: float, expected: float, lo: float, hi: float, odd: bool, habit: int | None) -> str:
    if value != value:
        return "no value"
    if not odd and habit is None:
        return ""
    side = "above" if value > expected else "below"
    away = f"{_number(value)} is {_number(abs(value - expected))} {side} the expected {_number(expected)}"
    if habit is not None:
        return f"{away}, but it strayed as far on {habit} other occasions"
    return f"{away} (usual: {_number(lo)} to {_number(hi)})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if 1_000 <= abs(value) < 1e15 else f"{value:.4g}"
