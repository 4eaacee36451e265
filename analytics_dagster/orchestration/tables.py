"""The tables and assets that follow from the metric catalogue, for whoever walks all of them."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING

from analytics_dagster.lake.schemas import BY_NAME, EVENT_TABLES, OWN_TABLES, QUARANTINE, RESTATEMENTS, TableSchema

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from analytics_dagster.installation import Installation
    from analytics_dagster.metrics.declarations import Catalogue, Family
    from analytics_dagster.metrics.own import OwnMetrics


@functools.cache
def catalogue(extra: Path | None) -> Catalogue:
    """The declared metrics, read once per process and folder."""
    from analytics_dagster.metrics.load import load_catalogue

    return load_catalogue(extra)


def own_metrics(installation: Installation) -> OwnMetrics:
    """What tenants declared for themselves."""
    from analytics_dagster.metrics.own import OwnMetrics

    return OwnMetrics(installation.database, installation.clock, installation.settings.analytics_metrics)


def tenant_catalogue(installation: Installation, tenant: str) -> Catalogue:
    """All that a tenant can ask for: the installation's metrics and its own."""
    return own_metrics(installation).catalogue(tenant, lambda: catalogue(installation.settings.analytics_metrics))


def own_families(installation: Installation, tenants: Sequence[str]) -> Mapping[str, tuple[Family, ...]]:
    """The families that each of these tenants declared for itself; tenants without are left out."""
    declared = own_metrics(installation)
    found = {tenant: declared.of(tenant).families for tenant in declared.tenants() if tenant in tenants}
    return {tenant: families for tenant, families in found.items() if families}


def graph_catalogue() -> Catalogue:
    """What the graph is built from when code loads: the built-in metrics and those of ANALYTICS_METRICS, whose families need
    assets as much as ours. The variable alone is read: loading must not depend on a home or on any other setting.
    """
    named = os.environ.get("ANALYTICS_METRICS")
    return catalogue(Path(named) if named else None)


def family_sources(extra: Path | None) -> list[tuple[str, str]]:
    """Pairs of a raw table's name and the asset of a family computed from it."""
    return [(family.source, family.asset) for family in catalogue(extra).families if family.source in BY_NAME]


def family_tables(family: Family) -> list[TableSchema]:
    """A family's stored tables."""
    series = [family.table(grain) for grain in family.grains]
    return series if family.counts is None else [*series, family.counts]


def derived_tables(extra: Path | None) -> list[TableSchema]:
    """Every table that is neither landing nor raw."""
    from analytics_dagster.insights.page import INSIGHTS
    from analytics_dagster.ml.anomaly import ANOMALIES
    from analytics_dagster.ml.forecast import FORECASTS
    from analytics_dagster.orchestration.build import outcomes_table
    from analytics_dagster.quality.scorecard import SCORECARD

    series = [table for family in catalogue(extra).families for table in family_tables(family)]
    verdicts = [outcomes_table(t) for t in EVENT_TABLES]
    return [*series, *verdicts, SCORECARD, ANOMALIES, FORECASTS, INSIGHTS, QUARANTINE, RESTATEMENTS, *OWN_TABLES]
