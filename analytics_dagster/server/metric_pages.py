"""The catalogue as pages under the dashboards: the list, and one metric with its lineage and a preview."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Path, Response
from fastapi.responses import HTMLResponse

from analytics_dagster.server.asking import Asker, PageRoute, takes
from analytics_dagster.server.dashboards import HOME, TenantPath, session_markup
from analytics_dagster.server.html import html_answer
from analytics_dagster.tenancy.roles import Permission

if TYPE_CHECKING:
    from analytics_dagster.lake.interruption import Interruption

pages = APIRouter(route_class=PageRoute)

_FOUND: dict[int | str, dict[str, Any]] = {404: {"description": "No such tenant or metric."}}


@pages.get(
    HOME + "/{tenant_id}/metrics",
    summary="The metrics of a tenant",
    response_class=HTMLResponse,
    responses=_FOUND,
    openapi_extra=takes(Permission.CATALOGUE_READ),
)
async def listed(who: Asker, tenant_id: TenantPath) -> Response:
    """All declared metrics by family."""
    from analytics_dagster.dashboards.metric_pages import metrics_page

    tenant = await who.service.in_thread(who.tenant, tenant_id)
    catalogue = await who.service.in_thread(who.service.queries.catalogue_of, tenant)
    return html_answer(metrics_page(tenant, catalogue, session_markup(who)))


@pages.get(
    HOME + "/{tenant_id}/metrics/{name}",
    summary="One metric",
    response_class=HTMLResponse,
    responses=_FOUND,
    openapi_extra=takes(Permission.FIGURES_READ),
)
async def one(
    who: Asker, tenant_id: TenantPath, name: Annotated[str, Path(max_length=63, description="A metric's name or synonym.")]
) -> Response:
    """Description, formula, lineage to columns, grains, SQL, and the newest four weeks as a chart."""
    from analytics_dagster.dashboards.metric_pages import metric_page, read_metric

    tenant = await who.service.in_thread(who.tenant, tenant_id)
    installation = who.service.installation

    def work(interruption: Interruption) -> str:
        catalogue = who.service.queries.catalogue_of(tenant)
        return metric_page(read_metric(installation, catalogue, tenant, name, interruption), session_markup(who))

    return html_answer(await who.service.queries.work(tenant, work, who.exchange.client_gone()))
