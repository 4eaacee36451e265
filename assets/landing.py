"""Landing: what arrived, appended by `analytics import`, the simulated service and the ingest log; never changed here.

These assets are not materialized by a step: importing reports to Dagster what it appended, so that the graph begins where
the data comes in and each arrival is an event that can be seen and waited for.
"""

import dagster as dg

from analytics_dagster.lake.schemas import RAW_TABLES, TableSchema, landing
from analytics_dagster.orchestration.metadata import column_schema


def landing_key(table: TableSchema) -> dg.AssetKey:
    return dg.AssetKey(["landing", table.name])


def landing_spec(table: TableSchema) -> dg.AssetSpec:
    arrivals = landing(table)
    return dg.AssetSpec(
        key=landing_key(table),
        description=f"{arrivals.description}\n\nAppended by `analytics import` and by the simulated service.",
        group_name="landing",
        owners=["team:data-platform"],
        kinds={"deltalake"},
        tags={"layer": "landing"},
        metadata={"dagster/column_schema": column_schema(arrivals)},
    )


SPECS = [landing_spec(table) for table in RAW_TABLES]
