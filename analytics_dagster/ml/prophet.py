"""Prophet fitted, kept and asked: the only module that touches the library.

No posterior samples are drawn. The interval adds up what can be written down: the noise of the residuals with their
first-order autocorrelation, and the trend's future changes as Prophet supposes them (as many as in the past, Laplace
with the mean size of the past ones), whose variance grows with the third power of time.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from analytics_dagster.ml.smoothing import Outlook

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

_LIMIT = 0.99
# Prophet takes 25 changepoints in the first 80 % of a history; up to 90 % the end of the line follows the series sooner.
_CHANGEPOINT_RANGE = 0.9


def fit(ts: NDArray[np.int64], values: NDArray[np.float64], *, hourly: bool, yearly: bool, seed: int) -> str:
    """Fit on a regular history (ts: microseconds, UTC; NaN missing) and give Prophet's own JSON."""
    _hush_loggers()
    from prophet import Prophet
    from prophet.serialize import model_to_json

    frame = _frame(ts, values).dropna()
    model = Prophet(
        changepoint_range=_CHANGEPOINT_RANGE,
        n_changepoints=min(25, max(1, len(frame) // 7)),
        weekly_seasonality=True,
        daily_seasonality=hourly,
        yearly_seasonality=yearly,
        uncertainty_samples=0,
    )
    model.fit(frame, seed=seed)
    return str(model_to_json(model))


def predict(fitted: str, ts: NDArray[np.int64], values: NDArray[np.float64], ahead: NDArray[np.int64]) -> Outlook:
    """Forecast the times `ahead` from a model and the newest history, which may have grown since the fit."""
    import numpy as np

    _hush_loggers()
    from prophet.serialize import model_from_json

    model = model_from_json(fitted)
    lines = model.predict(_frame(np.concatenate([ts, ahead])))["yhat"].to_numpy()
    residual = values - lines[: len(ts)]
    memory, noise = _autoregression(residual)
    steps = np.arange(1, len(ahead) + 1)
    carried = float(residual[-1]) if np.isfinite(residual[-1]) else 0.0
    around = noise**2 * (1 - memory ** (2 * steps)) / (1 - memory**2)
    return Outlook(lines[len(ts) :] + carried * memory**steps, np.sqrt(around + _trend_variance(model, ahead)))


def _autoregression(residual: NDArray[np.float64]) -> tuple[float, float]:
    """First-order autocorrelation (0 to 0.99) and the deviation of what it leaves."""
    import numpy as np

    both = np.isfinite(residual[1:]) & np.isfinite(residual[:-1])
    before, now = residual[:-1][both], residual[1:][both]
    power = float(before @ before)
    if len(now) < 3 or power == 0:
        return 0.0, float(np.nanstd(residual))
    memory = min(max(float(before @ now) / power, 0.0), _LIMIT)
    return memory, float(np.sqrt(np.mean((now - memory * before) ** 2)))


def _trend_variance(model: Any, ahead: NDArray[np.int64]) -> NDArray[np.float64]:
    """Variance of the trend: changes arrive at the past rate, each turning the slope by Laplace(0, mean past size)."""
    import numpy as np

    span = model.t_scale.total_seconds() * 1e6
    end = model.start.value // 1_000 + span
    beyond = np.maximum(ahead - end, 0) / span
    rate, size = len(model.changepoints_t), float(np.mean(np.abs(model.params["delta"])))
    return np.asarray(rate * 2 * size**2 * beyond**3 / 3 * float(model.y_scale) ** 2)


def _frame(ts: NDArray[np.int64], values: NDArray[np.float64] | None = None) -> pd.DataFrame:
    import pandas as pd

    columns: dict[str, Any] = {"ds": pd.DatetimeIndex(ts.astype("datetime64[us]"))}
    return pd.DataFrame(columns if values is None else columns | {"y": values})


def _hush_loggers() -> None:
    """Prophet complains on import that plotly is missing, and cmdstanpy reports every optimization.

    cmdstanpy's logger gets its level on first use, whatever it was before, so it is used here first.
    """
    logging.getLogger("prophet.plot").setLevel(logging.CRITICAL)
    import prophet  # noqa: F401  sets the level of its own logger
    from cmdstanpy.utils import get_logger

    get_logger().setLevel(logging.ERROR)
    logging.getLogger("prophet").setLevel(logging.WARNING)
