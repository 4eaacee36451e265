"""The pictures and pages that assets show in the Dagster UI, for the newest day of a run and the first few tenants.

A picture is at most 40 kB, so a run of many tenants names those it does not show.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import TYPE_CHECKING

import dagster as dg

from analytics_dagster.insights.series import Series
from analytics_dagster.installation import Installation
from analytics_dagster.metrics.declarations import Family
from analytics_dagster.orchestration.kpi_series import kpi_series
from analytics_dagster.orchestration.tables import tenant_catalogue

if TYPE_CHECKING:
    import pyarrow as pa

Metadata = dict[str, dg.MarkdownMetadataValue | dg.TableMetadataValue | int | float | str]

MOST_TENANTS = 4
CHART_DAYS = 90


def family_pictures(installation: Installation, family: Family, tenants: Sequence[str], day: dt.date) -> Metadata:
    """Small multiples of the family's KPIs for each tenant."""
    from analytics_dagster.insights.charts import overview_chart

    shown: Metadata = {}
    for tenant in tenants[:MOST_TENANTS]:
        series = _series(installation, tenant, day, {m.name for m in family.metrics})
        if series:
            shown[f"picture {tenant}"] = dg.MetadataValue.md(overview_chart(tenant, series).markdown)
    return shown | _unshown(tenants)


def anomaly_metadata(installation: Installation, tenants: Sequence[str], day: dt.date) -> Metadata:
    """What is odd on the newest day, in a table, and how many days of how many were."""
    from analytics_dagster.ml.anomaly import ANOMALIES

    records, odd = [], 0
    for tenant in tenants:
        rows = installation.lake.tenant(tenant).table(ANOMALIES).read(day, day).to_pylist()
        for row in rows:
            if row["anomaly"]:
                odd += 1
                found = {name: row[name] for name in ("metric", "value", "expected", "lo", "hi", "reason")}
                records.append(dg.TableRecord({"tenant": tenant, **{k: _shown(v) for k, v in found.items()}}))
    metadata: Metadata = {"anomalies": odd}
    if records:
        metadata["odd today"] = dg.MetadataValue.table(records)
    return metadata


def forecast_metadata(installation: Installation, tenants: Sequence[str], day: dt.date) -> Metadata:
    """Each tenant's KPIs with what is forecast for them."""
    from analytics_dagster.insights.charts import overview_chart

    shown: Metadata = {}
    for tenant in tenants[:MOST_TENANTS]:
        series = _series(installation, tenant, day, None)
        forecasts = made_on(installation, tenant, day)
        if series and forecasts.num_rows:
            with_forecast = set(forecasts.column("metric").to_pylist())
            chosen = [one for one in series if one.metric in with_forecast][:9]
            shown[f"picture {tenant}"] = dg.MetadataValue.md(overview_chart(tenant, chosen, forecasts).markdown)
    return shown | _unshown(tenants)


def insights_metadata(installation: Installation, tenants: Sequence[str], day: dt.date) -> Metadata:
    """Each tenant's page, and its headline where there is no room."""
    from analytics_dagster.insights.page import INSIGHTS

    shown: Metadata = {}
    for number, tenant in enumerate(tenants):
        rows = installation.lake.tenant(tenant).table(INSIGHTS).read(day, day).to_pylist()
        headline = next((row for row in rows if row["rank"] == 0), None)
        if headline is None:
            continue
        if number < MOST_TENANTS:
            shown[f"page {tenant}"] = dg.MetadataValue.md(headline["page"])
        else:
            shown[f"headline {tenant}"] = headline["claim"]
    return shown


def quality_metadata(installation: Installation, tenants: Sequence[str], first: dt.date, last: dt.date) -> Metadata:
    """Checks that passed by day, for each tenant, and what to do about those that did not."""
    from analytics_dagster.insights.charts import quality_chart
    from analytics_dagster.lake.compute import connect
    from analytics_dagster.quality.scorecard import SCORECARD

    shown: Metadata = {}
    for tenant in tenants[:MOST_TENANTS]:
        begin = min(first, last - dt.timedelta(days=CHART_DAYS))
        table = installation.lake.tenant(tenant).table(SCORECARD)
        with connect() as connection:
            counts = connection.sql(
                f"SELECT ts, count(*) FILTER (passed) AS passed, count(*) FILTER (NOT passed) AS failed "
                f"FROM {table.sql(begin, last)} GROUP BY ts ORDER BY ts"
            ).to_arrow_table()
        if counts.num_rows:
            shown[f"picture {tenant}"] = dg.MetadataValue.md(quality_chart(f"Checks of {tenant}", counts).markdown)
    return shown | _unshown(tenants)


def made_on(installation: Installation, tenant: str, day: dt.date) -> pa.Table:
    """The forecasts that were made at the end of `day`."""
    import pyarrow.compute as pc

    from analytics_dagster.ml.forecast import FORECASTS

    horizon = dt.timedelta(days=installation.settings.trend_forecast_horizon)
    rows = installation.lake.tenant(tenant).table(FORECASTS).read(day, day + horizon)
    return rows.filter(pc.equal(rows.column("made_on"), day)).sort_by([("metric", "ascending"), ("ts", "ascending")])


def _series(installation: Installation, tenant: str, day: dt.date, only: set[str] | None) -> list[Series]:
    from analytics_dagster.metrics.query import DayReader

    declared = tenant_catalogue(installation, tenant)
    with DayReader(installation.lake.tenant(tenant), declared, day - dt.timedelta(days=CHART_DAYS), day) as reader:
        return kpi_series(reader, declared, only=only)


def _shown(value: object) -> str | float | int:
    return value if isinstance(value, str | float | int) else "-"


def _unshown(tenants: Sequence[str]) -> Metadata:
    return {"not pictured": ", ".join(tenants[MOST_TENANTS:])} if len(tenants) > MOST_TENANTS else {}
