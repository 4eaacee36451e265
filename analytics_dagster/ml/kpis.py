"""One tenant's KPIs through the detector and the forecaster: what the `models/anomaly` and `forecasts/kpi` assets call.

Reading and writing the tables stays with the caller; models are taken from a store and kept there.
"""

from __future__ import annotations

import hashlib
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
    from analytics_dagster.ml.models import Format, Learnt, ModelStore

HISTORY_DAYS = 3 * 365
"""Days that models learn from, and that a caller should read before the first day in question."""
_EPOCH = date(1970, 1, 1)


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
    """How models are fitted. now: noted as the time of the fit, and changes nothing else. refit: fit even where the
    stored model is the one that would come out.
    """

    now: datetime
    seed: int = 0
    retrain_seconds: int = 86_400
    refit: bool = False


def learn_until(day: date, retrain_seconds: int) -> date:
    """The newest day that a model used on `day` learns from.

    Fits happen at multiples of the retrain frequency since 1970, in whole days, whenever a run comes: so the same day is
    judged and forecast by the same model, today and when it is materialized again next month.
    """
    every = max(1, round(retrain_seconds / 86_400))
    since = (day - _EPOCH).days
    return _EPOCH + timedelta(days=since - since % every)


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

    Give the history up to the newest whole day there is, also when older days are judged again: then they get what one
    run over all days would give them. A model is fitted on the newest HISTORY_DAYS and kept in `store`, which the caller
    commits.
    """
    parts = []
    for one in series:
        model = _anomaly_model(one.metric, one.daily, contamination, fitting, store)
        verdicts = _between(score(one.daily, model), first, last)
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

    Days after `made_on` are not looked at: a forecast must not know what it forecasts. A series that stopped earlier is
    forecast from its last day on. Models as in `judge_kpis`.
    """
    end = _midnight(made_on) + timedelta(days=1)
    parts = []
    for one in series:
        known = _between(one.daily, date.min, made_on)
        fitted = _prophet_model(one.metric, known, made_on, fitting, store)
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
    metric: str, daily: pa.Table, contamination: float, fitting: Fitting, store: ModelStore | None
) -> AnomalyModel | None:
    from analytics_dagster.ml.models import Format, pack_anomaly, unpack_anomaly

    settings = json.dumps({"contamination": contamination, "seed": fitting.seed}, sort_keys=True)
    learnt, training = _training(daily, None, fitting)
    stored = store.fitting(metric, learnt.learnt_from, settings) if store and learnt and not fitting.refit else None
    if stored is not None:
        return unpack_anomaly(stored.body)
    model = fit(training, contamination=contamination, seed=fitting.seed)
    if model is not None and learnt is not None and store is not None:
        _keep(store, metric, learnt, settings, Format.SKOPS, pack_anomaly(model), fitting)
    return model


def _prophet_model(metric: str, known: pa.Table, made_on: date, fitting: Fitting, store: ModelStore | None) -> str | None:
    from analytics_dagster.ml.models import Format

    settings = json.dumps({"seed": fitting.seed}, sort_keys=True)
    learnt, training = _training(known, made_on, fitting)
    stored = store.fitting(metric, learnt.learnt_from, settings) if store and learnt and not fitting.refit else None
    if stored is not None:
        return stored.body.decode()
    fitted = fit_prophet(training, grain="day", now=_midnight(made_on) + timedelta(days=1), seed=fitting.seed)
    if fitted is not None and learnt is not None and store is not None:
        _keep(store, metric, learnt, settings, Format.PROPHET_JSON, fitted.encode(), fitting)
    return fitted


def _keep(store: ModelStore, metric: str, learnt: Learnt, settings: str, format: Format, body: bytes, fitting: Fitting) -> None:
    from analytics_dagster.ml.models import StoredModel

    store.keep(StoredModel.of(metric, learnt, settings, format, body, fitting.now))


def _training(daily: pa.Table, day: date | None, fitting: Fitting) -> tuple[Learnt | None, pa.Table]:
    """The points that a model used on `day` (default: the newest one with a value) is fitted on, and what they are."""
    from analytics_dagster.ml.models import Learnt

    with_value = daily.filter(pc.is_finite(pc.fill_null(daily["value"].cast(pa.float64()), float("nan"))))
    if not len(with_value):
        return None, with_value
    newest = pc.max(_utc(with_value["ts"])).as_py().date()
    until = learn_until(day or newest, fitting.retrain_seconds)
    training = _between(with_value, until - timedelta(days=HISTORY_DAYS - 1), until)
    if not len(training):
        return None, training
    grid = grid_of(training)
    digest = hashlib.sha256(grid.ts.tobytes() + grid.values[grid.slot].tobytes()).hexdigest()
    first, last = (datetime.fromtimestamp(int(ts) / 1e6, UTC) for ts in (grid.ts[0], grid.ts[-1]))
    return Learnt(first, last, grid.observed, digest), training


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def _between(rows: pa.Table, first: date, last: date) -> pa.Table:
    ts = _utc(rows["ts"])
    begin, end = (pa.scalar(_midnight(day)).cast(TIMESTAMP) for day in (first, last + timedelta(days=1)))
    return rows.filter(pc.and_(pc.greater_equal(ts, begin), pc.less(ts, end)))


def _utc(ts: pa.ChunkedArray) -> pa.ChunkedArray:
    return ts.cast(TIMESTAMP if getattr(ts.type, "tz", None) else pa.timestamp("us")).cast(TIMESTAMP)


def _with(rows: pa.Table, schema: pa.Schema, **columns: pa.Array) -> pa.Table:
    """`rows` with further columns, in the order and types of `schema`."""
    arrays = [columns[name] if name in columns else rows[name] for name in schema.names]
    return pa.Table.from_arrays(arrays, schema=schema)
