"""Forecasts: each KPI from the end of a day on, TREND_FORECAST_HORIZON days ahead."""

import dagster as dg

from analytics_dagster.ml.forecast import FORECASTS
from analytics_dagster.orchestration.checks import built_check_spec, built_result
from analytics_dagster.orchestration.metadata import (
    column_schema,
    kpi_lineage,
    report_range,
)
from analytics_dagster.orchestration.model_steps import build_forecasts
from analytics_dagster.orchestration.partitions import DAYS, day_range
from analytics_dagster.orchestration.pictures import forecast_metadata
from analytics_dagster.orchestration.resources import Platform, TenantScope
from assets.models import FAMILIES, FAMILY_KEYS
from assets.policies import BACKFILL, OWNERS, RETRY, StepResults, daily_freshness


@dg.asset(
    key=dg.AssetKey(["forecasts", "kpi"]),
    deps=[*FAMILY_KEYS, dg.AssetKey(["quality", "scorecard"])],
    description=f"{FORECASTS.description}\n\nA range of days makes one forecast, from the end of its newest day.",
    group_name="forecasts",
    owners=OWNERS,
    kinds={"deltalake", "prophet"},
    tags={"layer": "forecasts"},
    metadata={
        "dagster/column_schema": column_schema(FORECASTS),
        "dagster/column_lineage": kpi_lineage(FAMILIES, ("yhat", "lo_95", "hi_95")),
    },
    partitions_def=DAYS,
    backfill_policy=BACKFILL,
    retry_policy=RETRY,
    freshness_policy=daily_freshness(),
    check_specs=[built_check_spec(FORECASTS.path)],
    pool="forecasts_kpi",
)
def kpi(context: dg.AssetExecutionContext, platform: Platform, scope: TenantScope) -> StepResults:
    installation = platform.open()
    days = day_range(context)
    built = build_forecasts(installation, scope.of(installation), days.last, context.run.run_id, context.log)
    report_range(context, installation, days, built, FORECASTS, forecast_metadata(installation, built.tenants, days.last))
    yield dg.MaterializeResult()
    yield built_result(built)


ASSETS = [kpi]
