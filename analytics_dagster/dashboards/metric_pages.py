"""The catalogue as pages: all metrics by family, and one metric with its meaning, formula, lineage, SQL and newest four weeks."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from analytics_dagster.dashboards import pictures
from analytics_dagster.dashboards.evidence import Evidence
from analytics_dagster.dashboards.figures import Figure, Figures
from analytics_dagster.dashboards.pages import render
from analytics_dagster.dashboards.view import Compare, View
from analytics_dagster.lake.compute import identifier
from analytics_dagster.lake.schemas import MEASURED
from analytics_dagster.metrics.additivity import additivity
from analytics_dagster.metrics.declarations import Catalogue, Family, Grain, Measure, Metric
from analytics_dagster.metrics.formulas import Standing, leaves
from analytics_dagster.metrics.grains import grains_of
from analytics_dagster.metrics.lineage import columns_read
from analytics_dagster.metrics.plan import Plan
from analytics_dagster.metrics.planning import composed_of, plan_of
from analytics_dagster.metrics.query import DayReader, MetricQuery
from analytics_dagster.metrics.reference import formula_text

if TYPE_CHECKING:
    from analytics_dagster.installation import Installation
    from analytics_dagster.lake.interruption import Interruption
    from analytics_dagster.lake.lake import TenantLake

MOST_SHOWN = 3
"""Series of a metric that is told apart (currencies) on its page."""


@dataclass(frozen=True)
class Origin:
    """What a metric rests on: a measure, its stored tables, and the raw columns that it is made from."""

    measure: Measure
    family: Family
    columns: tuple[str, ...]

    @property
    def source(self) -> str:
        return MEASURED[self.family.source].path

    @property
    def tables(self) -> list[str]:
        return [self.family.table(grain).path for grain in self.family.grains]


@dataclass(frozen=True)
class MetricPage:
    """One metric, told in full. `shown`: its newest four weeks, beside the four before; empty where nothing is published."""

    tenant: str
    metric: Metric
    formula: str
    additivity: str
    grains: tuple[Grain, ...]
    dimensions: Sequence[tuple[str, str]]
    origins: tuple[Origin, ...]
    sql: str
    shown: tuple[Figure, ...]
    through: dt.date | None


def metrics_page(tenant: str, catalogue: Catalogue, session: str = "") -> str:
    """The list, by family."""
    return render(
        "metrics.html", session, tenant=tenant, families=catalogue.families, metric=None, counted=len(catalogue.metrics)
    )


def read_metric(
    installation: Installation, catalogue: Catalogue, tenant: str, name: str, interruption: Interruption | None = None
) -> MetricPage:
    """Everything about a metric (its name or a synonym). Raises NotFoundError with the nearest names."""
    metric, lake = catalogue.metric(name), installation.lake.tenant(tenant)
    used = dict.fromkeys(leaf.measure for leaf in leaves(metric.formula))
    through, shown = _newest(installation, lake, catalogue, metric, interruption)
    return MetricPage(
        tenant,
        metric,
        formula_text(metric.formula, catalogue),
        additivity(metric, catalogue),
        grains_of(metric, catalogue),
        [(dimension.name, dimension.description) for dimension in catalogue.dimensions_of(metric)],
        tuple(_origin(catalogue, measure) for measure in used),
        figure_sql(lake, catalogue, metric),
        shown,
        through,
    )


def metric_page(page: MetricPage, session: str = "") -> str:
    """The page of one metric."""
    import markupsafe

    drawn = []
    for figure in page.shown:
        picture = pictures.trend(figure.shown.title, figure.shown.unit, figure.days, figure.compared, headed=False)
        drawn.append((figure, markupsafe.Markup(pictures.inline(picture.svg))))
    return render("metrics.html", session, tenant=page.tenant, page=page, metric=page.metric, drawn=drawn)


def figure_sql(lake: TenantLake, catalogue: Catalogue, metric: Metric) -> str:
    """The SQL that merges a metric's stored days to figures, with its tables under their own names; laid out for people."""
    import sqlglot

    asked = MetricQuery(metric.name)
    if isinstance(metric.formula, Standing):  # of which the figures that are set side by side
        asked = replace(asked, by=(metric.formula.dimension,))
        metric = replace(metric, formula=metric.formula.figure)
    if metric.composed:
        parts = composed_of(lake, catalogue, metric, asked, None)
        sql = replace(parts, plans={leaf: _by_name(plan) for leaf, plan in parts.plans.items()}).sql()
    else:
        sql = _by_name(plan_of(lake, catalogue, metric, asked, None)).sql()
    return sqlglot.transpile(sql, read="duckdb", write="duckdb", pretty=True)[0]


def _by_name(plan: Plan) -> Plan:
    """Reading its table of days under its own name."""
    table = identifier(plan.family.table(Grain.DAY).name)
    return replace(plan, relation=table, newest=lambda: f"(SELECT max(ts) FROM {table})")


def _origin(catalogue: Catalogue, name: str) -> Origin:
    family = catalogue.measured_in(name)
    measure = family.measure(name)
    return Origin(measure, family, tuple(columns_read(measure.expr, family)))


def _newest(
    installation: Installation, lake: TenantLake, catalogue: Catalogue, metric: Metric, interruption: Interruption | None
) -> tuple[dt.date | None, tuple[Figure, ...]]:
    view, trust = View(compare=Compare.PREVIOUS), Evidence(installation, lake).trust()
    if trust is None:
        return None, ()
    days = view.days(trust.through)
    compared = view.compared(days)
    first = compared.first if compared else days.first
    with DayReader(lake, catalogue, first, days.last, interruption) as reader:
        begins = {source.asset: source.first for source in trust.sources}
        figures = Figures(reader, catalogue, view, days, compared, begins)
        made = [figures.figure(shown) for shown in figures.shown(metric.name)[:MOST_SHOWN]]
    return trust.through, tuple(one for one in made if any(value is not None for _, value in one.days))
