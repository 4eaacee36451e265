"""Figures that the platform tells of its own work: how rows came, and how the models do.

Each of these families has a table in `quality/` that is not landed by anybody: the step that measures it writes its days first.
No Dagster here.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from analytics_dagster.ingest.deliveries import deliveries
from analytics_dagster.ingest.raw import first_arrival
from analytics_dagster.installation import Installation
from analytics_dagster.lake.lake import TenantLake
from analytics_dagster.lake.publications import Publication
from analytics_dagster.lake.schemas import DELIVERIES, EVENT_TABLES, MEASURED, MODEL_SCORES
from analytics_dagster.metrics.declarations import Family, Grain
from analytics_dagster.orchestration.build import Built, with_landing
from analytics_dagster.orchestration.kpi_series import kpi_series
from analytics_dagster.orchestration.tables import catalogue
from analytics_dagster.orchestration.tenant_steps import for_each_tenant, publications_of

if TYPE_CHECKING:
    import pyarrow as pa

Writing = Callable[[Installation, TenantLake, dt.date, dt.date], "pa.Table"]


def build_own_figures(
    installation: Installation,
    family: Family,
    tenants: Sequence[str],
    first: dt.date,
    last: dt.date,
    run_id: str,
    log: logging.Logger,
) -> Built:
    """Write the family's source for these days, measure and publish it: also days on which there is nothing to tell, so that an
    alert about them ends.
    """
    from analytics_dagster.metrics.aggregate import aggregate_days

    source = MEASURED[family.source]

    def compute(lake: TenantLake) -> list[Publication]:
        arrivals = [first_arrival(installation.database, lake.tenant, table.name) for table in EVENT_TABLES]
        since = min((day for day in arrivals if day is not None), default=first)
        lake.table(source).overwrite_days(_WRITTEN[source.name](installation, lake, first, last), first, last)
        aggregate_days(lake, family, first, last, stream_ms=0)
        return publications_of(lake, family.table(Grain.DAY), family.asset, first, last, since=since)

    having = sorted({tenant for table in EVENT_TABLES for tenant in with_landing(installation, table, tenants)})
    results = for_each_tenant(installation, having, compute, log)
    made = [p for publications in results.made.values() for p in publications]
    installation.publications.record(made, run_id)
    return Built(family.asset, tuple(sorted(results.made)), tuple(made), results.failed, results.seconds)


def _deliveries(installation: Installation, lake: TenantLake, first: dt.date, last: dt.date) -> pa.Table:
    before = installation.publications.newest_before(lake.tenant, "raw/", first)
    newest = {asset.removeprefix("raw/"): day for asset, day in before.items()}
    return deliveries(lake, EVENT_TABLES, first, last, before=newest, now=installation.clock.now())


def _model_scores(installation: Installation, lake: TenantLake, first: dt.date, last: dt.date) -> pa.Table:
    from analytics_dagster.metrics.query import DayReader
    from analytics_dagster.ml.forecast import FORECASTS
    from analytics_dagster.ml.scores import HISTORY_DAYS, model_scores

    declared = catalogue(installation.settings.analytics_metrics)
    with DayReader(lake, declared, first - dt.timedelta(days=HISTORY_DAYS), last) as reader:
        return model_scores(kpi_series(reader, declared), lake.table(FORECASTS).read(first, last), first, last)


_WRITTEN: dict[str, Writing] = {DELIVERIES.name: _deliveries, MODEL_SCORES.name: _model_scores}
