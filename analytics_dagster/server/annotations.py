"""Annotations over HTTP: a page with a form that works without a script, and the same over the API.

What happened by itself (releases, alerts, restatements) is on the charts too, and nobody's to remove.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import HTMLResponse

from analytics_dagster.dashboards.annotations import Annotation, Annotations, written
from analytics_dagster.dashboards.pages import render
from analytics_dagster.errors import NotFoundError, UserError
from analytics_dagster.server.asking import Asker, Asking, GuardedRoute, PageRoute, TenantParameter, form_of, takes
from analytics_dagster.server.dashboards import HOME, TenantPath, session_markup
from analytics_dagster.server.documents import AnnotationDocument, NewAnnotationDocument
from analytics_dagster.server.html import html_answer, see_other
from analytics_dagster.tenancy.roles import Permission

if TYPE_CHECKING:
    from collections.abc import Mapping

pages = APIRouter(route_class=PageRoute)
data = APIRouter(route_class=GuardedRoute)

PAGE = HOME + "/{tenant_id}/annotations"
_MISSING: dict[int | str, dict[str, Any]] = {404: {"description": "No such tenant, metric, dimension or annotation."}}
_SENT: dict[int | str, dict[str, Any]] = {
    303: {"description": "Done; goes on to the page of annotations."},
    415: {"description": "Not a form."},
    **_MISSING,
}
_FORM: dict[str, Any] = {
    "requestBody": {"content": {"application/x-www-form-urlencoded": {"schema": {"type": "object"}}}, "required": True}
}


@pages.get(
    PAGE, summary="Annotations", response_class=HTMLResponse, responses=_MISSING, openapi_extra=takes(Permission.ANNOTATIONS_EDIT)
)
async def page(who: Asker, tenant_id: TenantPath) -> Response:
    """What people said of the tenant's days, the newest first, and a form to say more."""
    tenant = await who.service.in_thread(who.tenant, tenant_id)
    return await _page(who, tenant)


@pages.post(
    PAGE,
    summary="Add or remove an annotation",
    response_class=HTMLResponse,
    status_code=303,
    responses=_SENT,
    openapi_extra={**takes(Permission.ANNOTATIONS_EDIT), **_FORM},
)
async def change(request: Request, who: Asker, tenant_id: TenantPath) -> Response:
    """`do`: add (from the form's fields), or remove (the one that `id` names)."""
    tenant = await who.service.in_thread(who.tenant, tenant_id)
    form = {name: values[0] for name, values in (await form_of(request)).items()}
    try:
        await who.service.in_thread(_apply, who, tenant, form)
    except UserError as error:
        return await _page(who, tenant, str(error), form, 404 if isinstance(error, NotFoundError) else 400)
    return see_other(f"{HOME}/{tenant}/annotations")


@data.get(
    "/analytics/annotations", summary="Annotations", responses=_MISSING, openapi_extra=takes(Permission.FIGURES_READ)
)  # fmt: skip
def listed(
    who: Asker,
    from_: Annotated[dt.date | None, Query(alias="from", description="First day (UTC) that they touch.")] = None,
    to: Annotated[dt.date | None, Query(description="Last such day (UTC), included.")] = None,
    tenant: TenantParameter = None,
) -> list[AnnotationDocument]:
    """What people said of a tenant's days, by time."""
    return [_document(note) for note in _annotations(who).of(who.tenant(tenant), from_, to)]


@data.post(
    "/analytics/annotations",
    summary="Add an annotation",
    status_code=201,
    responses=_MISSING,
    openapi_extra=takes(Permission.ANNOTATIONS_EDIT),
)
def add(who: Asker, new: NewAnnotationDocument, tenant: TenantParameter = None) -> AnnotationDocument:
    """Days (UTC) or times; without `to` it is of one day or moment. On every chart, or on those of a metric or of one value."""
    named = who.tenant(tenant)
    said = written(who.service.queries.catalogue_of(named), new.text, new.from_, new.to, new.metric, new.where)
    return _document(_annotations(who).add(named, said, _author(who), who.exchange.request_id))


@data.delete(
    "/analytics/annotations/{number}",
    summary="Remove an annotation",
    status_code=204,
    responses=_MISSING,
    openapi_extra=takes(Permission.ANNOTATIONS_EDIT),
)
def remove(
    who: Asker, number: Annotated[int, Path(ge=1, le=2**62, description="Its id.")], tenant: TenantParameter = None
) -> None:
    """Another tenant's is not found."""
    _annotations(who).remove(who.tenant(tenant), number, _author(who), who.exchange.request_id)


def _apply(who: Asking, tenant: str, form: Mapping[str, str]) -> None:
    if form.get("do") == "remove":
        number = form.get("id", "")
        if not number.isdecimal() or len(number) > 18:
            raise UserError(f"id={number!r} is not a whole number; load the page again")
        _annotations(who).remove(tenant, int(number), _author(who), who.exchange.request_id)
        return
    fields = [form.get(name) or None for name in ("to", "metric", "where")]
    said = written(who.service.queries.catalogue_of(tenant), form.get("text", ""), form.get("from", ""), *fields)
    _annotations(who).add(tenant, said, _author(who), who.exchange.request_id)


async def _page(
    who: Asking, tenant: str, message: str = "", form: Mapping[str, str] | None = None, status: int = 200
) -> Response:
    notes = await who.service.in_thread(_annotations(who).of, tenant)
    catalogue = await who.service.in_thread(who.service.queries.catalogue_of, tenant)
    metrics = {family.name: [metric.name for metric in family.metrics] for family in catalogue.families}
    made = render(
        "annotations.html", session_markup(who), tenant=tenant, notes=notes[::-1], metrics=metrics, csrf=who.csrf_field,
        message=message, form=form or {},
    )  # fmt: skip
    return html_answer(made, status)


def _annotations(who: Asking) -> Annotations:
    return Annotations(who.service.installation.database, who.service.clock)


def _author(who: Asking) -> str:
    return who.principal.name or who.principal.key_id


def _document(note: Annotation) -> AnnotationDocument:
    return AnnotationDocument(
        id=note.id, text=note.text, begins_at=note.begins_at, ends_at=note.ends_at, metric=note.metric, where=note.condition,
        author=note.author, created_at=note.created_at,
    )  # fmt: skip
