"""Insights: a page for each tenant that people read in the morning: what changed, what is odd, what comes next."""

import dagster as dg

from analytics_dagster.insights.page import INSIGHTS
from analytics_dagster.orchestration.checks import built_check_spec, built_result
from analytics_dagster.orchestration.metadata import (
    column_schema,
    kpi_lineage,
    report_range,
)
from analytics_dagster.orchestration.model_steps import build_insights
from analytics_dagster.orchestration.partitions import DAYS, day_range
from analytics_dagster.orchestration.pictures import insights_metadata
from analytics_dagster.orchestration.resources import Platform, TenantScope
from assets.models import FAMILIES, FAMILY_KEYS
from assets.policies import BACKFILL, OWNERS, RETRY, StepResults, daily_freshness


@dg.asset(
    key=dg.AssetKey(["insights", "daily"]),
    deps=[
        *FAMILY_KEYS,
        dg.AssetKey(["quality", "scorecard"]),
        dg.AssetKey(["models", "anomaly"]),
        dg.AssetKey(["forecasts", "kpi"]),
    ],
    description=f"{INSIGHTS.description}\n\nRead it in the newest materialization. A range of days makes one page, its newest",
    group_name="insights",
    owners=OWNERS,
    kinds={"deltalake", "altair"},
    tags={"layer": "insights"},
    metadata={
        "dagster/column_schema": column_schema(INSIGHTS),
        "dagster/column_lineage": kpi_lineage(FAMILIES, ("claim", "change", "score", "drivers", "page")),
    },
    partitions_def=DAYS,
    backfill_policy=BACKFILL,
    retry_policy=RETRY,
    freshness_policy=daily_freshness(),
    check_specs=[built_check_spec(INSIGHTS.path)],
    pool="insights_daily",
)
def daily(context: dg.AssetExecutionContext, platform: Platform, scope: TenantScope) -> StepResults:
    installation = platform.open()
    days = day_range(context)
    built = build_insights(installation, scope.of(installation), days.last, context.run.run_id, context.log)
    report_range(context, installation, days, built, INSIGHTS, insights_metadata(installation, built.tenants, days.last))
    yield dg.MaterializeResult()
    yield built_result(built)


ASSETS = [daily]
