"""Aggregates: one asset a metric family, computed from its declaration; hours from raw, days merged from hours.

A tenant's day whose gate is closed keeps the figures it had, and is published again when its input passes.
"""

import dagster as dg

from analytics_dagster.lake.schemas import DELIVERIES, EVENT_TABLES, MEASURED, MODEL_SCORES, OWN_TABLES, RESTATEMENTS
from analytics_dagster.metrics.declarations import Family
from analytics_dagster.ml.forecast import FORECASTS
from analytics_dagster.orchestration.build import build_aggregates, build_ledger_figures, with_own_families
from analytics_dagster.orchestration.checks import built_check_spec, built_result
from analytics_dagster.orchestration.metadata import (
    column_schema,
    family_lineage,
    kpi_lineage,
    report_range,
)
from analytics_dagster.orchestration.own_figures import build_own_figures
from analytics_dagster.orchestration.partitions import DAYS, day_range
from analytics_dagster.orchestration.pictures import family_pictures
from analytics_dagster.orchestration.resources import Platform, TenantScope
from analytics_dagster.orchestration.tables import graph_catalogue
from assets.policies import BACKFILL, OWNERS, RETRY, StepResults, daily_freshness


def description(family: Family) -> str:
    """The family and its metrics, as markdown."""
    lines = [f"- `{m.name}` ({m.unit}): {m.description}" for m in family.metrics]
    return f"{family.description}\n\nMetrics, for `analytics query`:\n" + "\n".join(lines)


def made_from(family: Family) -> list[str]:
    """The assets that a family is computed from. Tables about the platform's own work are written by the family's step."""
    source = MEASURED[family.source]
    if source is DELIVERIES:
        return [table.path for table in EVENT_TABLES]
    if source is MODEL_SCORES:
        return [FORECASTS.path, *(f.asset for f in graph_catalogue().families if any(metric.kpi for metric in f.metrics))]
    return [source.path, *(table.path for table in (family.step.beside.values() if family.step else ()))]


def lineage_of(family: Family) -> dg.TableColumnLineage:
    """Which columns of those assets each of its columns is made from."""
    source, columns = MEASURED[family.source], [c.name for c in family.table("day").columns]
    if source is DELIVERIES:  # lags and ages are of event times
        times = [dg.TableColumnDep(asset_key=dg.AssetKey(path.split("/")), column_name="ts") for path in made_from(family)]
        return dg.TableColumnLineage(dict.fromkeys(columns, times))
    if source is MODEL_SCORES:
        return kpi_lineage(graph_catalogue().families, [name for name in columns if name != "ts"])
    return family_lineage(family)


def aggregate_asset(family: Family) -> dg.AssetsDefinition:
    """The asset `aggregates/<family>`."""
    source = MEASURED[family.source]
    days_table = family.table("day")
    # What tenants declare for themselves has no assets; it is computed beside the first family of its source.
    leads = family.name == next(first.name for first in graph_catalogue().families if first.source == family.source)

    @dg.asset(
        key=dg.AssetKey(["aggregates", family.name]),
        deps=[dg.AssetKey(path.split("/")) for path in made_from(family)],
        description=description(family),
        group_name="aggregates",
        owners=OWNERS,
        kinds={"deltalake", "duckdb"},
        tags={"layer": "aggregates"},
        metadata={
            "dagster/column_schema": column_schema(days_table),
            "dagster/column_lineage": lineage_of(family),
        },
        partitions_def=DAYS,
        backfill_policy=BACKFILL,
        retry_policy=RETRY,
        freshness_policy=daily_freshness(),
        check_specs=[built_check_spec(family.asset)],
        pool=f"aggregates_{family.name}",
    )
    def aggregate(context: dg.AssetExecutionContext, platform: Platform, scope: TenantScope) -> StepResults:
        installation = platform.open()
        days = day_range(context)
        tenants, run_id = scope.of(installation), context.run.run_id
        if source is RESTATEMENTS:
            built = build_ledger_figures(installation, tenants, days.first, days.last, run_id, context.log)
        elif source in OWN_TABLES:
            built = build_own_figures(installation, family, tenants, days.first, days.last, run_id, context.log)
        else:
            built = build_aggregates(installation, family, source, tenants, days.first, days.last, run_id, context.log)
            if leads:
                built = with_own_families(built, installation, source, tenants, days.first, days.last, run_id, context.log)
        report_range(
            context, installation, days, built, days_table, family_pictures(installation, family, built.tenants, days.last)
        )
        yield dg.MaterializeResult()
        yield built_result(built)

    return aggregate


ASSETS = [aggregate_asset(family) for family in graph_catalogue().families]
