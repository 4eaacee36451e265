"""Models: an Isolation Forest and DBSCAN for each KPI, and their verdict on each day."""

import dagster as dg

from analytics_dagster.lake.schemas import MEASURED, OWN_TABLES
from analytics_dagster.ml.anomaly import ANOMALIES
from analytics_dagster.orchestration.checks import built_check_spec, built_result
from analytics_dagster.orchestration.metadata import (
    column_schema,
    kpi_lineage,
    report_range,
)
from analytics_dagster.orchestration.model_steps import build_anomalies
from analytics_dagster.orchestration.partitions import DAYS, day_range
from analytics_dagster.orchestration.pictures import anomaly_metadata
from analytics_dagster.orchestration.resources import Platform, TenantScope
from analytics_dagster.orchestration.tables import graph_catalogue
from assets.policies import BACKFILL, OWNERS, RETRY, StepResults, daily_freshness

# Figures of the models' own work are made after these, and have no KPI.
FAMILIES = tuple(family for family in graph_catalogue().families if MEASURED[family.source] not in OWN_TABLES)
FAMILY_KEYS = [dg.AssetKey(family.asset.split("/")) for family in FAMILIES]


@dg.asset(
    key=dg.AssetKey(["models", "anomaly"]),
    deps=[*FAMILY_KEYS, dg.AssetKey(["quality", "scorecard"])],
    description=f"{ANOMALIES.description}\n\nFitted on each KPI's history up to the run's newest day, kept without pickle.",
    group_name="models",
    owners=OWNERS,
    kinds={"deltalake", "scikitlearn"},
    tags={"layer": "models"},
    metadata={
        "dagster/column_schema": column_schema(ANOMALIES),
        "dagster/column_lineage": kpi_lineage(FAMILIES, ("value", "score", "anomaly", "expected", "lo", "hi")),
    },
    partitions_def=DAYS,
    backfill_policy=BACKFILL,
    retry_policy=RETRY,
    freshness_policy=daily_freshness(),
    check_specs=[built_check_spec(ANOMALIES.path)],
    pool="models_anomaly",
)
def anomaly(context: dg.AssetExecutionContext, platform: Platform, scope: TenantScope) -> StepResults:
    installation = platform.open()
    days = day_range(context)
    built = build_anomalies(installation, scope.of(installation), days.first, days.last, context.run.run_id, context.log)
    report_range(context, installation, days, built, ANOMALIES, anomaly_metadata(installation, built.tenants, days.last))
    yield dg.MaterializeResult()
    yield built_result(built)


ASSETS = [anomaly]
