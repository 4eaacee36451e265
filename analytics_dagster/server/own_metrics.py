"""A tenant's own metrics over HTTP: declared as YAML or JSON under their name, every version kept."""

from __future__ import annotations

import re
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response

from analytics_dagster.errors import DeclarationError
from analytics_dagster.metrics.own import MOST_CHARACTERS, OwnMetrics, SavedMetric
from analytics_dagster.server.asking import Asker, Asking, GuardedRoute, TenantParameter, takes
from analytics_dagster.server.documents import OwnMetricDocument
from analytics_dagster.server.problems import Problem
from analytics_dagster.tenancy.quotas import Quotas
from analytics_dagster.tenancy.roles import Permission

router = APIRouter(route_class=GuardedRoute)

_PATH = "/analytics/metrics/{name}"
_PLACE = re.compile(r"^[^:]+:(?P<line>\d+): (?:(?P<field>[a-z_]+)(?= |:)[^:]*: )?(?P<reason>.*)$", re.DOTALL)
_MISSING: dict[int | str, dict[str, Any]] = {404: {"description": "No such tenant, or no such metric of its own."}}
_CHANGED: dict[int | str, dict[str, Any]] = {
    409: {"description": "Somebody else saved it meanwhile, or another own metric is made from it."},
    422: {"description": "Not a declaration that can be used; `errors` has line, field and reason."},
    **_MISSING,
}
_BODY: dict[str, Any] = {
    "requestBody": {
        "content": {
            "application/yaml": {"schema": {"type": "string", "maxLength": MOST_CHARACTERS}},
            "application/json": {"schema": {"type": "object"}},
        },
        "required": True,
    }
}
NamePath = Annotated[str, Path(max_length=63, description="The metric's name.")]


@router.get(
    _PATH,
    summary="A tenant's own metric",
    response_class=Response,
    responses={200: {"content": {"application/yaml": {"schema": {"type": "string"}}}}, **_MISSING},
    openapi_extra=takes(Permission.CATALOGUE_READ),
)
async def declaration(who: Asker, name: NamePath, tenant: TenantParameter = None) -> Response:
    """The declaration as it was sent; the header ETag has its version. Metrics of the installation have a page instead."""
    named = await who.service.in_thread(who.tenant, tenant)
    saved = await who.service.in_thread(_metrics(who).get, named, name)
    return Response(saved.text, media_type="application/yaml", headers={"etag": f'"{saved.version}"'})


@router.get(
    _PATH + "/versions",
    summary="The versions of a tenant's own metric",
    responses=_MISSING,
    openapi_extra=takes(Permission.CATALOGUE_READ),
)
def versions(who: Asker, name: NamePath, tenant: TenantParameter = None) -> list[OwnMetricDocument]:
    """The newest first, with who saved it and when; also of one that was removed."""
    named, metrics = who.tenant(tenant), _metrics(who)
    saved = metrics.versions(named, name)
    problem = metrics.of(named).problems.get(name)
    return [_document(one, problem if one is saved[0] else None) for one in saved]


@router.put(
    _PATH,
    summary="Declare a metric of one's own",
    status_code=204,
    responses=_CHANGED,
    openapi_extra={**takes(Permission.CATALOGUE_EDIT), **_BODY},
)
async def save(
    request: Request,
    who: Asker,
    name: NamePath,
    version: Annotated[int, Query(ge=0, description="The version that was changed; 0 for a new metric.")] = 0,
    tenant: TenantParameter = None,
) -> None:
    """One metric and at most one semantic model, in the form of a file of declarations. Nobody else can see or query it. What it
    measures is computed with the tenant's next materialization; a formula over what is measured already can be asked for at once.
    """
    named = await who.service.in_thread(who.tenant, tenant)
    text = (await request.body()).decode("utf-8", "replace")  # JSON is YAML
    try:
        await who.service.in_thread(_save, who, named, name, text, version)
    except DeclarationError as error:
        raise bad_declaration(error) from None


@router.delete(
    _PATH,
    summary="Remove a metric of one's own",
    status_code=204,
    responses={409: _CHANGED[409], **_MISSING},
    openapi_extra=takes(Permission.CATALOGUE_EDIT),
)
async def remove(
    who: Asker,
    name: NamePath,
    version: Annotated[int, Query(ge=1, description="The version that is removed.")],
    tenant: TenantParameter = None,
) -> None:
    """Its versions stay, and may be saved again; so does what was computed."""
    named = await who.service.in_thread(who.tenant, tenant)
    request_id = who.exchange.request_id
    await who.service.in_thread(
        lambda: _metrics(who).remove(named, name, _author(who), based_on=version, request_id=request_id)
    )  # fmt: skip


def bad_declaration(error: DeclarationError) -> Problem:
    """The answer to a declaration that cannot be used, with its place apart."""
    found = _PLACE.match(str(error))
    told = {"line": int(found["line"]), "field": found["field"], "reason": found["reason"]} if found else {"reason": str(error)}
    return Problem(422, str(error), kind="bad-declaration", members={"errors": [told]})


def _save(who: Asking, tenant: str, name: str, text: str, version: int) -> SavedMetric:
    opened = who.service.installation
    most = Quotas(opened.database, opened.settings, opened.clock).limits(tenant).metrics
    return _metrics(who).save(
        tenant, name, text, _author(who), based_on=version, most=most, request_id=who.exchange.request_id
    )  # fmt: skip


def _metrics(who: Asking) -> OwnMetrics:
    opened = who.service.installation
    return OwnMetrics(opened.database, opened.clock, opened.settings.analytics_metrics)


def _author(who: Asking) -> str:
    return who.principal.name or who.principal.key_id


def _document(saved: SavedMetric, problem: str | None) -> OwnMetricDocument:
    return OwnMetricDocument(**saved.__dict__, problem=problem)
