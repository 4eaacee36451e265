"""What the steps of models, forecasts and insights do for many tenants. No Dagster here.

A range of days is one fit for each KPI, on everything up to its last day; forecasts and pages are made for that day only.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from analytics_dagster.clock import yesterday
from analytics_dagster.insights.series import Series
from analytics_dagster.installation import Installation
from analytics_dagster.lake.content import EMPTY_HASH, DayContent, rows_content
from analytics_dagster.lake.lake import TenantLake
from analytics_dagster.lake.publications import Publication, Status
from analytics_dagster.orchestration.build import Built
from analytics_dagster.orchestration.kpi_series import kpi_series
from analytics_dagster.orchestration.staleness import newest_figure
from analytics_dagster.orchestration.tables import tenant_catalogue
from analytics_dagster.orchestration.tenant_steps import for_each_tenant, publications_of

if TYPE_CHECKING:
    from analytics_dagster.insights.page import Checks


def build_anomalies(
    installation: Installation, tenants: Sequence[str], first: dt.date, last: dt.date, run_id: str, log: logging.Logger
) -> Built:
    """Judge each KPI's days with the model of its history."""
    from analytics_dagster.ml.anomaly import ANOMALIES
    from analytics_dagster.ml.kpis import Fitting, judge_kpis
    from analytics_dagster.ml.models import ANOMALY_MODELS, ModelStore

    settings = installation.settings

    def judge(lake: TenantLake) -> list[Publication]:
        store = ModelStore(lake.table(ANOMALY_MODELS))
        verdicts = judge_kpis(
            # A day's verdict rests on the whole series, so that a range gives what its days one by one give.
            _history(installation, lake, first, max(last, yesterday(installation.clock))),
            first,
            last,
            contamination=settings.anomaly_detection_threshold,
            fitting=Fitting(installation.clock.now(), retrain_seconds=settings.ml_model_retrain_frequency),
            store=store,
        )
        lake.table(ANOMALIES).overwrite_days(verdicts, first, last)
        store.commit()
        return _with_rows(publications_of(lake, ANOMALIES, ANOMALIES.path, first, last))

    return _built(installation, ANOMALIES.path, tenants, judge, run_id, log)


def build_forecasts(installation: Installation, tenants: Sequence[str], last: dt.date, run_id: str, log: logging.Logger) -> Built:
    """Forecast each KPI from the end of `last` on."""
    from analytics_dagster.ml.forecast import FORECASTS
    from analytics_dagster.ml.kpis import Fitting, forecast_kpis, merge_forecasts
    from analytics_dagster.ml.models import FORECAST_MODELS, ModelStore

    settings = installation.settings

    def forecast(lake: TenantLake) -> list[Publication]:
        store = ModelStore(lake.table(FORECAST_MODELS))
        made = forecast_kpis(
            _history(installation, lake, last, last),
            last,
            horizon=settings.trend_forecast_horizon,
            fitting=Fitting(installation.clock.now(), retrain_seconds=settings.ml_model_retrain_frequency),
            store=store,
        )
        table = lake.table(FORECASTS)
        if made.num_rows:
            days = [ts.date() for ts in made.column("ts").to_pylist()]
            low, high = min(days), max(days)
            with table.lock():
                table.overwrite_days(merge_forecasts(table.read(low, high), made), low, high)
        store.commit()
        return [Publication(lake.tenant, FORECASTS.path, rows_content(last, made))] if made.num_rows else []

    return _built(installation, FORECASTS.path, tenants, forecast, run_id, log)


def _with_rows(publications: Sequence[Publication]) -> list[Publication]:
    """A day without a single KPI has no verdicts and is not published."""
    return [p for p in publications if p.content.rows]


def _built(
    installation: Installation,
    asset: str,
    tenants: Sequence[str],
    work: Callable[[TenantLake], list[Publication]],
    run_id: str,
    log: logging.Logger,
) -> Built:
    # One after the other: Prophet's filters of warnings are the process's, not the thread's.
    results = for_each_tenant(installation, tenants, work, log, at_once=1)
    made = [p for publications in results.made.values() for p in publications]
    installation.publications.record(made, run_id)
    return Built(asset, tuple(sorted(results.made)), tuple(made), results.failed, results.seconds)


def _history(installation: Installation, lake: TenantLake, first: dt.date, last: dt.date) -> list[Series]:
    from analytics_dagster.metrics.query import DayReader
    from analytics_dagster.ml.kpis import HISTORY_DAYS

    declared = tenant_catalogue(installation, lake.tenant)
    with DayReader(lake, declared, first - dt.timedelta(days=HISTORY_DAYS), last) as reader:
        return kpi_series(reader, declared)


def build_insights(installation: Installation, tenants: Sequence[str], day: dt.date, run_id: str, log: logging.Logger) -> Built:
    """Write each tenant's page for `day`; a tenant without a KPI on that day has none."""
    from analytics_dagster.insights.page import INSIGHTS, daily_insights
    from analytics_dagster.insights.significance import HISTORY_DAYS
    from analytics_dagster.metrics.query import DayReader
    from analytics_dagster.ml.anomaly import ANOMALIES
    from analytics_dagster.ml.forecast import FORECASTS

    def write(lake: TenantLake) -> list[Publication]:
        declared = tenant_catalogue(installation, lake.tenant)
        seen = newest_figure(installation.database, lake.tenant)
        first = day - dt.timedelta(days=HISTORY_DAYS)
        horizon = dt.timedelta(days=installation.settings.trend_forecast_horizon)
        with DayReader(lake, declared, first, day) as reader:
            series = kpi_series(reader, declared, split_from=first)
            if not series:
                return [Publication(lake.tenant, INSIGHTS.path, DayContent(day, 0, EMPTY_HASH), input_id=seen)]
            page = daily_insights(
                lake.tenant,
                day,
                series,
                anomalies=lake.table(ANOMALIES).read(day, day),
                forecasts=lake.table(FORECASTS).read(day - dt.timedelta(days=7), day + horizon),
                checks=_checks(installation, lake, day),
            )
        lake.table(INSIGHTS).overwrite_days(page.rows(), day, day)
        return publications_of(lake, INSIGHTS, INSIGHTS.path, day, day, input_id=seen)

    return _built(installation, INSIGHTS.path, tenants, write, run_id, log)


def _checks(installation: Installation, lake: TenantLake, day: dt.date) -> Checks | None:
    """How the day's checks went; None when none ran."""
    from analytics_dagster.insights.page import Checks
    from analytics_dagster.quality.scorecard import SCORECARD

    verdicts = lake.table(SCORECARD).read(day, day, columns=["check_name", "passed"]).to_pylist()
    if not verdicts:
        return None
    failed = sorted({v["check_name"] for v in verdicts if not v["passed"]})
    closed = [p for p in installation.publications.of(tenant=lake.tenant, first=day, last=day) if p.status is Status.GATED]
    return Checks(sum(v["passed"] for v in verdicts), tuple(failed), bool(closed))
