"""A tenant's KPIs through detector and forecaster, with their models kept in a real Delta table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from analytics_dagster.errors import IntegrityError
from analytics_dagster.lake.lake import Lake, TenantLake
from analytics_dagster.ml.anomaly import ANOMALIES, fit, score
from analytics_dagster.ml.forecast import FORECASTS
from analytics_dagster.ml.kpis import Fitting, forecast_kpis, judge_kpis, learn_until, merge_forecasts
from analytics_dagster.ml.models import ANOMALY_MODELS, FORECAST_MODELS, ModelStore, pack_anomaly, unpack_anomaly

Points = Callable[..., pa.Table]
Weekly = Callable[..., np.ndarray]
FIRST, LAST = date(2026, 1, 1), date(2026, 3, 31)
FITTING = Fitting(datetime(2026, 4, 1, 3, tzinfo=UTC))


@dataclass(frozen=True)
class Kpi:
    metric: str
    unit: str
    daily: pa.Table


@pytest.fixture
def lake(tmp_path: Path) -> TenantLake:
    return Lake(str(tmp_path / "lake"), tmp_path / "locks").tenant("acme")


@pytest.fixture
def kpis(points: Points, weekly: Weekly) -> list[Kpi]:
    plays = weekly()
    plays[80] *= 0.2
    return [
        Kpi("plays", "plays", points(plays)),
        Kpi("error_ratio", "ratio", points(0.01 + 0.001 * np.random.default_rng(1).normal(size=90))),
        Kpi("new_metric", "events", points([3.0, 4.0], first=date(2026, 3, 30))),
    ]


def judged(
    kpis: list[Kpi], first: date = FIRST, last: date = LAST, store: ModelStore | None = None, fitting: Fitting = FITTING
) -> pa.Table:
    return judge_kpis(kpis, first, last, contamination=0.1, fitting=fitting, store=store)


def test_every_day_of_every_kpi_gets_a_verdict(kpis: list[Kpi]) -> None:
    rows = judged(kpis)
    assert rows.schema.equals(ANOMALIES.arrow)
    assert len(rows) == 90 + 90 + 2
    odd = [(row["metric"], row["ts"].date()) for row in rows.to_pylist() if row["anomaly"]]
    assert odd == [("plays", FIRST + timedelta(days=80))]


def test_an_old_day_judged_again_gets_what_the_whole_range_gave(kpis: list[Kpi], lake: TenantLake) -> None:
    store = ModelStore(lake.table(ANOMALY_MODELS))
    everything = judged(kpis, store=store)
    store.commit()
    day = date(2026, 1, 20)
    again = judged(kpis, day, day, ModelStore(lake.table(ANOMALY_MODELS)))
    same = [row for row in everything.to_pylist() if row["ts"].date() == day]
    assert again.to_pylist() == same
    assert judged(kpis, day, day).to_pylist() == same


def test_a_stored_model_is_used_as_long_as_it_is_what_a_fit_would_give(kpis: list[Kpi], lake: TenantLake, points: Points) -> None:
    store = ModelStore(lake.table(ANOMALY_MODELS))
    first = judged(kpis, store=store)
    assert store.commit()
    assert [model.metric for model in store.models()] == ["error_ratio", "plays"]
    again = ModelStore(lake.table(ANOMALY_MODELS))
    assert judged(kpis, store=again).equals(first)
    assert not again.commit()
    assert judged(kpis, store=again, fitting=replace(FITTING, refit=True)).equals(first)
    assert again.commit()
    corrected = kpis[0].daily["value"].to_numpy().copy()
    corrected[10] += 1
    judged([replace(kpis[0], daily=points(corrected))], store=again)
    assert again.commit()


def test_models_are_fitted_at_multiples_of_the_retrain_frequency() -> None:
    assert learn_until(LAST, 86_400) == LAST
    assert learn_until(LAST, 60) == LAST
    weekly = [learn_until(LAST - timedelta(days=back), 7 * 86_400) for back in range(14)]
    assert len(set(weekly)) == 3 or len(set(weekly)) == 2
    assert all(day.weekday() == weekly[0].weekday() for day in weekly)
    assert all(timedelta(0) <= LAST - timedelta(days=back) - day < timedelta(days=7) for back, day in enumerate(weekly))


def test_a_model_of_an_older_day_does_not_replace_a_newer_one(kpis: list[Kpi], lake: TenantLake) -> None:
    store = ModelStore(lake.table(FORECAST_MODELS))
    forecast_kpis(kpis, LAST, horizon=7, fitting=FITTING, store=store)
    newest = {model.metric: model.last for model in store.models()}
    forecast_kpis(kpis, LAST - timedelta(days=30), horizon=7, fitting=FITTING, store=store)
    assert {model.metric: model.last for model in store.models()} == newest


def test_forecasts_know_nothing_after_the_day_they_are_made_on(kpis: list[Kpi], lake: TenantLake) -> None:
    day = date(2026, 3, 15)
    store = ModelStore(lake.table(FORECAST_MODELS))
    with_future = forecast_kpis(kpis, day, horizon=24, fitting=FITTING, store=store)
    cut = [replace(kpi, daily=kpi.daily.slice(0, 74)) for kpi in kpis[:2]]
    assert forecast_kpis(cut, day, horizon=24, fitting=FITTING).equals(with_future)
    assert with_future.schema.equals(FORECASTS.arrow)
    assert set(with_future["made_on"].to_pylist()) == {day}
    assert with_future["ts"][0].as_py().date() == date(2026, 3, 16)


def test_stored_forecast_models_give_the_same_rows(kpis: list[Kpi], lake: TenantLake) -> None:
    store = ModelStore(lake.table(FORECAST_MODELS))
    made = forecast_kpis(kpis, LAST, horizon=24, fitting=FITTING, store=store)
    assert store.commit()
    again = ModelStore(lake.table(FORECAST_MODELS))
    assert forecast_kpis(kpis, LAST, horizon=24, fitting=FITTING, store=again).equals(made)
    assert not again.commit()


def test_older_forecasts_of_a_day_stay_and_the_same_one_is_replaced(kpis: list[Kpi], lake: TenantLake) -> None:
    table = lake.table(FORECASTS)
    for day in (date(2026, 3, 20), LAST, LAST):
        made = forecast_kpis(kpis[:1], day, horizon=24, fitting=FITTING)
        low, high = (ts.date() for ts in (made["ts"][0].as_py(), made["ts"][-1].as_py()))
        table.overwrite_days(merge_forecasts(table.read(low, high), made), low, high)
    stored = table.read()
    assert len(stored) == 48
    assert sorted(set(stored["made_on"].to_pylist())) == [date(2026, 3, 20), LAST]


def test_a_kept_anomaly_model_judges_as_it_did(kpis: list[Kpi]) -> None:
    model = fit(kpis[0].daily, contamination=0.1, seed=0)
    assert model is not None
    assert score(kpis[0].daily, unpack_anomaly(pack_anomaly(model))).equals(score(kpis[0].daily, model))


def test_a_damaged_model_is_refused(kpis: list[Kpi], lake: TenantLake) -> None:
    store = ModelStore(lake.table(ANOMALY_MODELS))
    judged(kpis, store=store)
    store.commit()
    table = lake.table(ANOMALY_MODELS)
    rows = table.read().to_pylist()
    rows[0]["body"] = rows[0]["body"][:-10] + b"0123456789"
    table.overwrite(pa.Table.from_pylist(rows, schema=ANOMALY_MODELS.arrow))
    with pytest.raises(IntegrityError, match="damaged"):
        judged(kpis, store=ModelStore(table))


def test_a_stored_model_of_a_strange_type_is_not_loaded() -> None:
    import skops.io
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    body = skops.io.dumps({"forest": make_pipeline(FunctionTransformer(np.cumprod, inverse_func=timedelta))})
    with pytest.raises(IntegrityError, match="not ours"):
        unpack_anomaly(body)
