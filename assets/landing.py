"""Landing: what arrived, appended by `analytics import`, the simulated service and the ingest log; never changed.

Points and plays are taken from the ingest log by a step here, unless the server or the command line did it before. The other
tables have no step: importing reports to Dagster what it appended, so that the graph begins where the data comes in. Rows are
reported once, by the step or by `arrivals_sensor`, whichever comes first.
"""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from analytics_dagster.lake.schemas import BY_NAME, RAW_TABLES, RESTATEMENTS, TableSchema, landing
from analytics_dagster.orchestration.consuming import CONSUMED_TABLES, consume_and_report
from analytics_dagster.orchestration.metadata import column_schema
from analytics_dagster.orchestration.resources import Platform
from analytics_dagster.orchestration.tables import graph_catalogue
from assets.policies import OWNERS, RETRY


def landing_key(table: TableSchema) -> dg.AssetKey:
    return dg.AssetKey(["landing", table.name])


def landing_spec(table: TableSchema) -> dg.AssetSpec:
    arrivals = landing(table)
    log = " Materializing it takes what clients sent from the ingest log." if table in CONSUMED_TABLES else ""
    return dg.AssetSpec(
        key=landing_key(table),
        description=f"{arrivals.description}\n\nAppended by `analytics import` and by the simulated service.{log}",
        group_name="landing",
        owners=OWNERS,
        kinds={"deltalake"},
        tags={"layer": "landing"},
        metadata={"dagster/column_schema": column_schema(arrivals)},
    )


@dg.multi_asset(
    specs=[landing_spec(table) for table in CONSUMED_TABLES],
    name="from_ingest_log",
    # Either of the two has the whole log consumed: its batches are in one order, and a position stands for both tables.
    can_subset=True,
    retry_policy=RETRY,
    pool="ingest_log",
)
def consumed(context: dg.AssetExecutionContext, platform: Platform) -> Iterator[dg.MaterializeResult[Any]]:
    installation = platform.open()
    tables = [table for table in CONSUMED_TABLES if landing_key(table) in context.selected_asset_keys]
    report = consume_and_report(installation, [table.name for table in tables])
    for table in tables:
        yield dg.MaterializeResult(asset_key=landing_key(table), metadata=report.metadata(table.name, installation.clock.now()))


def ledger_spec() -> dg.AssetSpec:
    """The ledger of restatements, which the steps of the other families append to."""
    families = [family for family in graph_catalogue().families if family.source in BY_NAME]
    return dg.AssetSpec(
        key=dg.AssetKey(RESTATEMENTS.path.split("/")),
        deps=[dg.AssetKey(family.asset.split("/")) for family in families],
        description=f"{RESTATEMENTS.description}\n\nAppended by the materialization that changes them.",
        group_name="landing",
        owners=OWNERS,
        kinds={"deltalake"},
        tags={"layer": "landing"},
        metadata={"dagster/column_schema": column_schema(RESTATEMENTS)},
    )


ASSETS = [consumed, *(landing_spec(table) for table in RAW_TABLES if table not in CONSUMED_TABLES), ledger_spec()]
