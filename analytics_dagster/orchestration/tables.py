"""The tables and assets that follow from the metric catalogue, for whoever walks all of them."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING

from analytics_dagster.lake.schemas import BY_NAME, EVENT_TABLES, OWN_TABLES, QUARANTINE, RESTATEMENTS, TableSchema

if TYPE_CHECKING:
    from analytics_dagster.metrics.declarations import Catalogue


@functools.cache
def catalogue(extra: Path | None) -> Catalogue:
    """The declared metrics, read once per process and folder."""
    from analytics_dagster.metrics.load import load_catalogue

    return load_catalogue(extra)


def graph_catalogue() -> Catalogue:
    """What the graph is built from when code loads: the built-in metrics and those of ANALYTICS_METRICS, whose families need
    assets as much as ours. The variable alone is read: loading must not depend on a home or on any other setting.
    """
    named = os.environ.get("ANALYTICS_METRICS")
    return catalogue(Path(named) if named else None)


def family_sources(extra: Path | None) -> list[tuple[str, str]]:
    """Pairs of a raw table's name and the asset of a family computed from it."""
    return [(family.source, family.asset) for family in catalogue(extra).families if family.source in BY_NAME]


def derived_tables(extra: Path | None) -> list[TableSchema]:
    """Every table that is neither landing nor raw."""
    from analytics_dagster.insights.page import INSIGHTS
    from analytics_dagster.ml.anomaly import ANOMALIES
    from analytics_dagster.ml.forecast import FORECASTS
    from analytics_dagster.orchestration.build import outcomes_table
    from analytics_dagster.quality.scorecard import SCORECARD

    families = catalogue(extra).families
    series = [family.table(grain) for family in families for grain in family.grains]
    counts = [family.counts for family in families if family.counts is not None]
    verdicts = [outcomes_table(t) for t in EVENT_TABLES]
    return [*series, *counts, *verdicts, SCORECARD, ANOMALIES, FORECASTS, INSIGHTS, QUARANTINE, RESTATEMENTS, *OWN_TABLES]
