"""Raw: each day's arrivals with every key once, checked by its Great Expectations suite.

A failed critical check closes the gate of that tenant's day (`publications`): aggregates leave it as it was. It never fails
the step and never touches another tenant. Checks are evaluated once for all tenants and days of a run and name those that fail.
"""

import dagster as dg

from analytics_dagster.lake.schemas import CATALOGUE_TABLES, EVENT_TABLES, TableSchema
from analytics_dagster.orchestration.build import build_catalogue_tables, build_raw
from analytics_dagster.orchestration.checks import BUILT_CHECK, built_check_spec, built_result, suite_check_specs, suite_results
from analytics_dagster.orchestration.metadata import (
    column_schema,
    report_range,
    same_columns,
    summary,
)
from analytics_dagster.orchestration.partitions import DAYS, day_range
from analytics_dagster.orchestration.resources import Platform, TenantScope
from assets.landing import landing_key
from assets.policies import BACKFILL, OWNERS, RETRY, StepResults, daily_freshness

__all__ = ["ASSETS", "BUILT_CHECK"]


def raw_asset(table: TableSchema) -> dg.AssetsDefinition:
    """The asset `raw/<table>` of one event table."""

    @dg.asset(
        key=dg.AssetKey(["raw", table.name]),
        deps=[landing_key(table)],
        description=f"{table.description}\n\nOne row for each `{table.key}`; of several arrivals the newest is kept.",
        group_name="raw",
        owners=OWNERS,
        kinds={"deltalake", "duckdb"},
        tags={"layer": "raw"},
        metadata={
            "dagster/column_schema": column_schema(table),
            "dagster/column_lineage": same_columns(["landing", table.name], table),
        },
        partitions_def=DAYS,
        backfill_policy=BACKFILL,
        retry_policy=RETRY,
        freshness_policy=daily_freshness(),
        check_specs=[built_check_spec(f"raw/{table.name}"), *suite_check_specs(table)],
        pool=f"raw_{table.name}",
    )
    def raw(context: dg.AssetExecutionContext, platform: Platform, scope: TenantScope) -> StepResults:
        installation = platform.open()
        days = day_range(context)
        built = build_raw(installation, table, scope.of(installation), days.first, days.last, context.run.run_id, context.log)
        report_range(context, installation, days, built, table)
        yield dg.MaterializeResult()
        yield built_result(built)
        yield from suite_results(installation, table, built)

    return raw


def catalogue_asset(table: TableSchema) -> dg.AssetsDefinition:
    """The asset `raw/<table>` of one catalogue table, which has no days."""

    @dg.asset(
        key=dg.AssetKey(["raw", table.name]),
        deps=[landing_key(table)],
        description=f"{table.description}\n\nOne row for each `{table.key}`, the newest that arrived.",
        group_name="catalogue",
        owners=OWNERS,
        kinds={"deltalake", "duckdb"},
        tags={"layer": "raw"},
        metadata={
            "dagster/column_schema": column_schema(table),
            "dagster/column_lineage": same_columns(["landing", table.name], table),
        },
        retry_policy=RETRY,
        check_specs=[built_check_spec(f"raw/{table.name}")],
        pool=f"raw_{table.name}",
    )
    def catalogue(context: dg.AssetExecutionContext, platform: Platform, scope: TenantScope) -> StepResults:
        installation = platform.open()
        built = build_catalogue_tables(installation, table, scope.of(installation), context.run.run_id, context.log)
        yield dg.MaterializeResult(metadata=summary(installation, built, table))
        yield built_result(built)

    return catalogue


ASSETS = [raw_asset(table) for table in EVENT_TABLES] + [catalogue_asset(table) for table in CATALOGUE_TABLES]
