"""Quality: the scorecard, all verdicts of a tenant's day with one score; the checks themselves stand beside raw assets."""

import dagster as dg

from analytics_dagster.lake.schemas import EVENT_TABLES
from analytics_dagster.orchestration.build import build_scorecard
from analytics_dagster.orchestration.checks import built_check_spec, built_result
from analytics_dagster.orchestration.metadata import (
    column_schema,
    report_range,
    verdict_lineage,
)
from analytics_dagster.orchestration.partitions import DAYS, day_range
from analytics_dagster.orchestration.pictures import quality_metadata
from analytics_dagster.orchestration.resources import Platform, TenantScope
from analytics_dagster.quality.scorecard import SCORECARD
from assets.policies import BACKFILL, OWNERS, RETRY, StepResults, daily_freshness


@dg.asset(
    key=dg.AssetKey(["quality", "scorecard"]),
    deps=[dg.AssetKey(["raw", table.name]) for table in EVENT_TABLES],
    description=f"{SCORECARD.description}\n\nA closed gate is a failed critical check; its rows stand with the raw asset's check",
    group_name="quality",
    owners=OWNERS,
    kinds={"deltalake", "greatexpectations"},
    tags={"layer": "quality"},
    metadata={
        "dagster/column_schema": column_schema(SCORECARD),
        "dagster/column_lineage": verdict_lineage(EVENT_TABLES, ("passed", "observed", "finding", "check_score", "score")),
    },
    partitions_def=DAYS,
    backfill_policy=BACKFILL,
    retry_policy=RETRY,
    freshness_policy=daily_freshness(),
    check_specs=[built_check_spec(SCORECARD.path)],
    pool="quality_scorecard",
)
def scorecard(context: dg.AssetExecutionContext, platform: Platform, scope: TenantScope) -> StepResults:
    installation = platform.open()
    days = day_range(context)
    built = build_scorecard(installation, scope.of(installation), days.first, days.last, context.run.run_id, context.log)
    report_range(
        context, installation, days, built, SCORECARD, quality_metadata(installation, built.tenants, days.first, days.last)
    )
    yield dg.MaterializeResult()
    yield built_result(built)


ASSETS = [scorecard]
