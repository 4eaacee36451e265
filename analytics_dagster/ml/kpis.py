"""One tenant's KPIs through the detector and the forecaster: what the `models/anomaly` and `forecasts/kpi` assets call.

Reading and writing the tables stays with the caller; models are taken from a store and kept there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from analytics_dagster.lake.schemas import TIMESTAMP
from analytics_dagster.ml.anomaly import ANOMALIES, AnomalyModel, fit, score
from analytics_dagster.ml.forecast import FORECASTS, fit_prophet, forecast
from analytics_dagster.ml.series import grid_of

if TYPE_CHECKING:
    from analytics_dagster.ml.models import Format, ModelStore, StoredModel

HISTORY_DAYS = 3 * 365
"""Days before the first day in question that a caller should read: what forecasts learn from, more than detection needs."""


class Kpi(Protocol):
    """A KPI of one tenant by day: `daily` has ts (start of the day) and value (`insights.Series` is one)."""

    @property
    def metric(self) -> str: ...
    @property
    def unit(self) -> str: ...
    @property
    def daily(self) -> pa.Table: ...


@dataclass(frozen=True)
class Fitting:
    """How models are fitted. `refit` fits even where a stored model would do."""

    now: datetime
    seed: int = 0
    retrain_seconds: int = 86_400
    refit: bool = False


def judge_kpis(
    series: Sequence[Kpi],
    first: date,
    last: date,
    *,
    contamination: float,
    fitting: Fitting,
    store: ModelStore | None = None,
) -> pa.Table:
    """Rows of ANOMALIES for the days `first` to `last` (inclusive), sorted by metric and day.

    Points after `last` are not looked at, so an old day gives what it gave then. Models are fitted on everything up to
    `last` and kept in `store`; the caller commits it.
    """
    parts = []
    for one in series:
        known = _until(one.daily, last)
        model = _anomaly_model(one.metric, known, last, contamination, fitting, store)
        verdicts = _between(score(known, model), first, last)
        parts.append(_with(verdicts, ANOMALIES.arrow, metric=pa.array([one.metric] * len(verdicts), pa.string())))
    table = pa.concat_tables(parts) if parts else ANOMALIES.arrow.empty_table()
    return table.sort_by([("metric", "ascending"), ("ts", "ascending")])


def forecast_kpis(
    series: Sequence[Kpi],
    made_on: date,
    *,
    horizon: int,
    fitting: Fitting,
    store: ModelStore | None = None,
) -> pa.Table:
    """Rows of FORECASTS made at the end of `made_on` for the `horizon` days after it, sorted by metric and day.

    A series that stopped before `made_on` is forecast from its last day on and its rows begin there. Models as in
    `judge_kpis`.
    """
    end = datetime(made_on.year, made_on.month, made_on.day, tzinfo=UTC) + timedelta(days=1)
    parts = []
    for one in series:
        known = _until(one.daily, made_on)
        fitted = _prophet_model(one.metric, known, made_on, end, fitting, store)
        made = forecast(known, horizon=horizon, grain="day", now=end, seed=fitting.seed, unit=one.unit, fitted=fitted)
        names = pa.array([one.metric] * len(made), pa.string())
        parts.append(_with(made, FORECASTS.arrow, metric=names, made_on=pa.array([made_on] * len(made), pa.date32())))
    table = pa.concat_tables(parts) if parts else FORECASTS.arrow.empty_table()
    return table.sort_by([("metric", "ascending"), ("ts", "ascending")])


def merge_forecasts(existing: pa.Table, made: pa.Table) -> pa.Table:
    """What to write over the days of `made`: its rows and the older forecasts of the same days, which stay.

    existing: FORECASTS rows of these days. Rows made on the same day for the same metric are replaced.
    """
    redone = {(row["metric"], row["made_on"]) for row in made.select(["metric", "made_on"]).to_pylist()}
    keep = [(row["metric"], row["made_on"]) not in redone for row in existing.select(["metric", "made_on"]).to_pylist()]
    kept = existing.filter(pa.array(keep, pa.bool_())).select(FORECASTS.arrow.names).cast(FORECASTS.arrow)
    return pa.concat_tables([kept, made]).sort_by([(name, "ascending") for name in ("metric", "made_on", "ts")])


def _anomaly_model(
    metric: str, known: pa.Table, last: date, contamination: float, fitting: Fitting, store: ModelStore | None
) -> AnomalyModel | None:
    from analytics_dagster.ml.models import Format, pack_anomaly, unpack_anomaly

    settings = json.dumps({"contamination": contamination, "seed": fitting.seed}, sort_keys=True)
    stored = _fresh(metric, settings, last, fitting, store)
    if stored is not None:
        return unpack_anomaly(stored.body)
    model = fit(known, contamination=contamination, seed=fitting.seed)
    if model is not None and store is not None:
        _keep(store, metric, known, settings, Format.SKOPS, pack_anomaly(model), fitting.now)
    return model


def _prophet_model(
    metric: str, known: pa.Table, last: date, end: datetime, fitting: Fitting, store: ModelStore | None
) -> str | None:
    from analytics_dagster.ml.models import Format

    settings = json.dumps({"seed": fitting.seed}, sort_keys=True)
    stored = _fresh(metric, settings, last, fitting, store)
    if stored is not None:
        return stored.body.decode()
    fitted = fit_prophet(known, grain="day", now=end, seed=fitting.seed)
    if fitted is not None and store is not None:
        _keep(store, metric, known, settings, Format.PROPHET_JSON, fitted.encode(), fitting.now)
    return fitted


def _fresh(metric: str, settings: str, last: date, fitting: Fitting, store: ModelStore | None) -> StoredModel | None:
    if store is None or fitting.refit:
        return None
    until = _midnight(last) + timedelta(days=1)
    return store.fresh(metric, settings=settings, now=fitting.now, retrain_seconds=fitting.retrain_seconds, until=until)


def _keep(
    store: ModelStore, metric: str, known: pa.Table, settings: str, format: Format, body: bytes, fitted_at: datetime
) -> None:
    from analytics_dagster.ml.models import StoredModel

    grid = grid_of(known)
    first, last = (datetime.fromtimestamp(int(ts) / 1e6, UTC) for ts in (grid.ts[0], grid.ts[-1]))
    store.keep(StoredModel.of(metric, (first, last, grid.observed), settings, format, body, fitted_at))


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def _until(daily: pa.Table, last: date) -> pa.Table:
    """The history up to the end of `last`: nothing later may be known."""
    end = pa.scalar(_midnight(last) + timedelta(days=1)).cast(TIMESTAMP)
    return daily.filter(pc.less(_utc(daily["ts"]), end))


def _between(rows: pa.Table, first: date, last: date) -> pa.Table:
    begin = pa.scalar(_midnight(first)).cast(TIMESTAMP)
    until = _until(rows, last)
    return until.filter(pc.greater_equal(_utc(until["ts"]), begin))


def _utc(ts: pa.ChunkedArray) -> pa.ChunkedArray:
    return ts.cast(TIMESTAMP if getattr(ts.type, "tz", None) else pa.timestamp("us")).cast(TIMESTAMP)


def _with(rows: pa.Table, schema: pa.Schema, **columns: pa.Array) -> pa.Table:
    """`rows` with further columns, in the order and types of `schema`."""
    arrays = [columns[name] if name in columns else rows[name] for name in schema.names]
    return pa.Table.from_arrays(arrays, schema=schema)
