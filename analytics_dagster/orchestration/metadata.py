"""What the Dagster UI shows of an asset: column schemas and lineage, the tenant x day table, pictures.

A range of days has its pictures and tables on its newest day only: 20 kB on each partition made a 423 MB event log.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import dagster as dg

from analytics_dagster.installation import Installation
from analytics_dagster.lake.publications import Publication, Status
from analytics_dagster.lake.schemas import MEASURED, TableSchema
from analytics_dagster.metrics.declarations import Aggregation, Family, within
from analytics_dagster.metrics.formulas import leaves
from analytics_dagster.orchestration.build import Built
from analytics_dagster.orchestration.partitions import DayRange
from analytics_dagster.quality.suites import suite_of

# Rows of the tenant x day table in the UI: more is not read there, and each is about 300 bytes of event log.
MOST_ROWS = 30


def column_schema(table: TableSchema) -> dg.TableSchema:
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                c.name, str(c.type), description=c.description, constraints=dg.TableColumnConstraints(nullable=not c.required)
            )
            for c in table.columns
        ]
    )


def column_lineage(source: Sequence[str], columns: Mapping[str, Iterable[str]]) -> dg.TableColumnLineage:
    """Lineage of columns that all come from the asset `source`: column -> the columns there that it is made from."""
    key = dg.AssetKey(list(source))
    deps = {
        column: [dg.TableColumnDep(asset_key=key, column_name=name) for name in sorted(origins)]
        for column, origins in columns.items()
    }
    return dg.TableColumnLineage(deps)


def same_columns(source: Sequence[str], table: TableSchema) -> dg.TableColumnLineage:
    """Lineage of a table that takes its columns unchanged."""
    return column_lineage(source, {c.name: (c.name,) for c in table.columns})


def family_lineage(family: Family) -> dg.TableColumnLineage:
    """Which raw columns each dimension and each measure's state is made from."""
    from analytics_dagster.metrics.lineage import columns_read

    source = MEASURED[family.source]
    columns: dict[str, Iterable[str]] = {"ts": ("ts",)}
    for dimension in family.dimensions:
        columns[dimension.name] = columns_read(dimension.expr, family)
    for measure in family.measures:
        origins = columns_read(measure.expr, family)
        columns |= {state.name: origins for state in measure.columns}
        if measure.aggregation is Aggregation.COUNT_DISTINCT:
            columns[within(measure.name)] = dict.fromkeys((*origins, "ts"))
    return column_lineage(source.path.split("/"), columns)


def kpi_lineage(families: Iterable[Family], columns: Iterable[str]) -> dg.TableColumnLineage:
    """Lineage of what is made from KPI series: `ts`, and `columns`, which rest on the state of every KPI's measures."""
    time: list[dg.TableColumnDep] = []
    figures: list[dg.TableColumnDep] = []
    for family in families:
        measures = {leaf.measure for metric in family.metrics if metric.kpi for leaf in leaves(metric.formula)}
        key = dg.AssetKey(family.asset.split("/"))
        states = [state.name for name in sorted(measures) for state in family.measure(name).columns]
        time += [dg.TableColumnDep(asset_key=key, column_name="ts")] if states else []
        figures += [dg.TableColumnDep(asset_key=key, column_name=name) for name in states]
    return dg.TableColumnLineage({"ts": time, **dict.fromkeys(columns, figures)})


def verdict_lineage(tables: Iterable[TableSchema], columns: Iterable[str]) -> dg.TableColumnLineage:
    """Lineage of verdicts: `ts`, and `columns`, which rest on the raw columns that the tables' checks read."""
    time: list[dg.TableColumnDep] = []
    facts: list[dg.TableColumnDep] = []
    for table in tables:
        key = dg.AssetKey(table.path.split("/"))
        time.append(dg.TableColumnDep(asset_key=key, column_name="ts"))
        facts += [dg.TableColumnDep(asset_key=key, column_name=name) for name in sorted(_read_by_checks(table))]
    return dg.TableColumnLineage({"ts": time, **dict.fromkeys(columns, facts)})


def _read_by_checks(table: TableSchema) -> set[str]:
    import sqlglot
    from sqlglot import exp

    snippets = {sql for check in suite_of(table).checks for sql in (check.bad, check.among, *check.group) if sql}
    named = {column.name for sql in snippets for column in sqlglot.parse_one(sql, dialect="duckdb").find_all(exp.Column)}
    return named & {column.name for column in table.columns}


def tenant_day_table(publications: Sequence[Publication], links: str) -> dg.TableMetadataValue:
    """Tenant, day, rows, hash, failed checks and a link, newest days first, at most MOST_ROWS rows."""
    newest = sorted(publications, key=lambda p: (p.content.day, p.tenant), reverse=True)[:MOST_ROWS]
    newest.sort(key=lambda p: (-p.content.day.toordinal(), p.tenant))
    records = [
        dg.TableRecord(
            {
                "tenant": p.tenant,
                "day": p.content.day.isoformat(),
                "rows": p.content.rows,
                "content hash": p.content.content_hash[:12],
                "gate": "closed" if p.status is Status.GATED else "open",
                "failed checks": ", ".join(p.failed_checks) or "-",
                "link": f"{links}/assets/{p.asset}?view=partitions&partition={p.content.day}",
            }
        )
        for p in newest
    ]
    columns = [
        dg.TableColumn(name, "int" if name == "rows" else "string")
        for name in ("tenant", "day", "rows", "content hash", "gate", "failed checks", "link")
    ]
    return dg.MetadataValue.table(records, dg.TableSchema(columns))


def report_range(
    context: dg.AssetExecutionContext,
    installation: Installation,
    days: DayRange,
    built: Built,
    table: TableSchema,
    shown: Mapping[str, Any] | None = None,
) -> None:
    """What a step says about the days it materialized: a row count on each, and on the newest one all there is to see.

    `shown` are pictures and pages; they come first, because the table of tenants is long.
    """
    totals: dict[dt.date, int] = {}
    for p in built.publications:
        totals[p.content.day] = totals.get(p.content.day, 0) + p.content.rows
    for day, rows in totals.items():
        said = {"dagster/partition_row_count": rows}
        if built.restated.get(day):
            said["restated_figures"] = built.restated[day]
        context.add_asset_metadata(said, partition_key=day.isoformat())
    newest = {**(shown or {}), **summary(installation, built, table)}
    context.add_asset_metadata(newest, partition_key=days.last.isoformat())


def summary(installation: Installation, built: Built, table: TableSchema) -> dict[str, Any]:
    """Address, rows, tenants and duration of what a step made."""
    return {
        "dagster/uri": f"{installation.settings.lake_root}/<tenant>/{table.path}",
        "dagster/row_count": built.rows,
        "tenants": tenant_day_table(built.publications, installation.settings.analytics_public_url),
        "seconds": round(built.seconds, 2),
    }
