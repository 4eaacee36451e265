"""Reports over HTTP: the form behind a view's *Send...*, which needs no script, and the same as JSON.

Nothing is sent here. What is to go out at once is made due, and the server's own thread (`server/sending.py`) sends it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import HTMLResponse

from analytics_dagster.errors import ConflictError, NotFoundError, UserError
from analytics_dagster.server.asking import Asker, Asking, GuardedRoute, PageRoute, TenantParameter, form_of, takes
from analytics_dagster.server.dashboards import HOME, TenantPath, session_markup
from analytics_dagster.server.documents import NewReportDocument, ReportDocument, SendingDocument
from analytics_dagster.server.html import html_answer, see_other
from analytics_dagster.tenancy.roles import Permission

if TYPE_CHECKING:
    from analytics_dagster.reports.report import Report
    from analytics_dagster.reports.store import By, Reports

pages = APIRouter(route_class=PageRoute)
data = APIRouter(route_class=GuardedRoute)

_PAGE = HOME + "/{tenant_id}/reports"
_MAY = takes(Permission.REPORTS_MANAGE)
_FORM: dict[str, Any] = {
    "requestBody": {"content": {"application/x-www-form-urlencoded": {"schema": {"type": "object"}}}, "required": True}
}
_NONE: dict[int | str, dict[str, Any]] = {404: {"description": "No such tenant, dashboard or report."}}
_TAKEN: dict[int | str, dict[str, Any]] = {
    **_NONE,
    409: {"description": "The name is taken, or the report is on its way already."},
}
_DEFAULTS = {"name": "", "recipients": "", "format": "pdf", "schedule": "0 7 * * mon", "time_zone": "UTC"}
NamePath = Annotated[str, Path(max_length=63, description="The report's name.")]


class Action(StrEnum):
    """What can be done with a report."""

    SEND = "send"
    PAUSE = "pause"
    RESUME = "resume"


@pages.get(_PAGE, summary="Reports", response_class=HTMLResponse, responses=_NONE, openapi_extra=_MAY)
async def page(
    who: Asker,
    tenant_id: TenantPath,
    view: Annotated[str, Query(max_length=4_000, description="A view that is to be sent, as overview?period=7d.")] = "",
) -> Response:
    """What goes out and how that went; with `view`, a form that puts it on a schedule."""
    tenant = await who.service.in_thread(who.tenant, tenant_id)
    return await who.service.in_thread(_page, who, tenant, {"view": [view]}, "")


@pages.post(
    _PAGE,
    summary="Change reports",
    response_class=HTMLResponse,
    status_code=303,
    responses={**_TAKEN, 303: {"description": "Done; goes on to the list."}, 415: {"description": "Not a form."}},
    openapi_extra={**_MAY, **_FORM},
)
async def change(request: Request, who: Asker, tenant_id: TenantPath) -> Response:
    """`do`: add, send, pause, resume, remove. What is refused comes back in its form."""
    tenant = await who.service.in_thread(who.tenant, tenant_id)
    form = await form_of(request)
    try:
        await who.service.in_thread(_apply, who, tenant, form)
    except UserError as error:
        status = 409 if isinstance(error, ConflictError) else 404 if isinstance(error, NotFoundError) else 400
        return await who.service.in_thread(_page, who, tenant, form, str(error), status)
    return see_other(f"{HOME}/{tenant}/reports")


@data.get("/analytics/reports", summary="Reports", responses=_NONE, openapi_extra=_MAY)
async def reports(who: Asker, tenant: TenantParameter = None) -> list[ReportDocument]:
    """A tenant's reports: what, when, to whom, and how the newest sending went."""
    named = await who.service.in_thread(who.tenant, tenant)
    return [ReportDocument.model_validate(one) for one in await who.service.in_thread(_listed, who, named)]


@data.post("/analytics/reports", summary="Add a report", status_code=201, responses=_TAKEN, openapi_extra=_MAY)
async def add(who: Asker, body: NewReportDocument) -> ReportDocument:
    """A view that goes out on a schedule; what it shows is read anew each time."""
    tenant = await who.service.in_thread(who.tenant, body.tenant)
    fields = body.model_dump(exclude={"tenant", "format", "recipients"})
    made = await who.service.in_thread(lambda: _add(who, tenant, fields, body.format, body.recipients))
    return await who.service.in_thread(_document, who, made)


@data.get("/analytics/reports/{name}", summary="A report", responses=_NONE, openapi_extra=_MAY)
async def report(who: Asker, name: NamePath, tenant: TenantParameter = None) -> ReportDocument:
    """One report."""
    named = await who.service.in_thread(who.tenant, tenant)
    found = await who.service.in_thread(_reports(who).get, named, name)
    return await who.service.in_thread(_document, who, found)


@data.get("/analytics/reports/{name}/sendings", summary="What went out", responses=_NONE, openapi_extra=_MAY)
async def sendings(
    who: Asker,
    name: NamePath,
    limit: Annotated[int, Query(ge=1, le=10_000, description="At most so many, the newest.")] = 100,
    tenant: TenantParameter = None,
) -> list[SendingDocument]:
    """Each recipient of each due time of the last 90 days, the newest first."""
    from analytics_dagster.reports.documents import sending_document

    named = await who.service.in_thread(who.tenant, tenant)
    found = await who.service.in_thread(_reports(who).get, named, name)
    rows = await who.service.in_thread(lambda: _reports(who).sendings(named, found.name, limit=limit))
    return [SendingDocument.model_validate(sending_document(one)) for one in rows]


@data.post("/analytics/reports/{name}/{action}", summary="Send, pause or resume", responses=_TAKEN, openapi_extra=_MAY)
async def act(who: Asker, name: NamePath, action: Action, tenant: TenantParameter = None) -> ReportDocument:
    """`send` makes it due at once, also while it is paused; `resume` goes on with the next due time."""
    named = await who.service.in_thread(who.tenant, tenant)
    done = await who.service.in_thread(_act, who, named, name, action)
    return await who.service.in_thread(_document, who, done)


@data.delete("/analytics/reports/{name}", summary="Remove a report", status_code=204, responses=_NONE, openapi_extra=_MAY)
async def remove(who: Asker, name: NamePath, tenant: TenantParameter = None) -> None:
    """With what is known of its sendings; the audit trail keeps that it was there."""
    named = await who.service.in_thread(who.tenant, tenant)
    await who.service.in_thread(_reports(who).remove, named, name, _by(who))


# --- all below waits for the database


def _reports(who: Asking) -> Reports:
    from analytics_dagster.reports.store import Reports

    return Reports(who.service.installation.database, who.service.clock)


def _by(who: Asking) -> By:
    from analytics_dagster.reports.store import By

    return By(who.principal.name or who.principal.key_id, who.exchange.request_id)


def _add(who: Asking, tenant: str, fields: Mapping[str, str], form: str, recipients: Sequence[str]) -> Report:
    from analytics_dagster.reports.report import read_wanted
    from analytics_dagster.reports.send import require_view, require_ways

    wanted = read_wanted(**fields, form=form, recipients=recipients, tenant=tenant)
    require_ways(who.service.installation, tenant, wanted, os.environ)
    require_view(who.service.installation, who.service.queries.catalogue_of(tenant), tenant, wanted)
    return _reports(who).add(tenant, wanted, _by(who))


def _act(who: Asking, tenant: str, name: str, action: Action) -> Report:
    reports, by = _reports(who), _by(who)
    match action:
        case Action.SEND:
            reports.send_now(tenant, name, by)
        case Action.PAUSE:
            reports.pause(tenant, name, by)
        case Action.RESUME:
            reports.resume(tenant, name, by)
    return reports.get(tenant, name)


def _listed(who: Asking, tenant: str) -> list[dict[str, Any]]:
    from analytics_dagster.reports.documents import report_document

    newest = _reports(who).newest(tenant)
    return [report_document(one, newest.get(one.name, ())) for one in _reports(who).all(tenant)]


def _document(who: Asking, found: Report) -> ReportDocument:
    from analytics_dagster.reports.documents import report_document

    newest = _reports(who).newest(found.tenant)
    return ReportDocument.model_validate(report_document(found, newest.get(found.name, ())))


def _apply(who: Asking, tenant: str, form: Mapping[str, list[str]]) -> None:
    action, name = _one(form, "do"), _one(form, "name")
    if action == "add":
        fields = {field: _one(form, field) for field in ("name", "view", "schedule", "time_zone")}
        _add(who, tenant, fields, _one(form, "format"), _one(form, "recipients").split())
    elif action == "remove":
        _reports(who).remove(tenant, name, _by(who))
    elif action in tuple(Action):
        _act(who, tenant, name, Action(action))
    else:
        raise UserError(f"do={action!r} is not known; one of add, {', '.join(Action)}, remove")


def _page(who: Asking, tenant: str, form: Mapping[str, list[str]], message: str, status: int = 200) -> Response:
    from analytics_dagster.dashboards.pages import rendered
    from analytics_dagster.reports.report import read_address
    from analytics_dagster.reports.timetable import zones

    board, query = read_address(view, tenant) if (view := _one(form, "view")) else ("", "")
    settings = who.service.settings
    body = rendered(
        "reports.html",
        csrf=who.csrf_field,
        session=session_markup(who),
        tenant=tenant,
        reports=_listed(who, tenant),
        message=message,
        view=f"{board}{query}",
        preview=f"{HOME}/{tenant}/{board}{query}",
        told=f"{board}{query}",
        days=_days(query),
        form={field: form.get(field, [default])[0] for field, default in _DEFAULTS.items()},
        domains=(settings.analytics_report_domains or "").replace(",", ", "),
        channels=_channels(who, tenant),
        zones=sorted(zones()) if board else (),
    )
    return html_answer(body, status)


def _days(query: str) -> str:
    """What the view's days are at each sending."""
    from analytics_dagster.dashboards.view import parse_view

    last = parse_view(query.removeprefix("?")).last
    if last is not None:
        return f"Its last day is always {last}, as the view says; leave that out of the view to have it move on."
    return "Its last day is the newest with figures when it is sent."


def _channels(who: Asking, tenant: str) -> list[str]:
    """Slack channels that take the tenant's reports, none where alerting.yaml cannot be read: `analytics doctor` says why."""
    from analytics_dagster.reports.slack import slack_channels

    try:
        return list(slack_channels(who.service.settings, os.environ, tenant))
    except UserError:
        return []


def _one(form: Mapping[str, list[str]], name: str) -> str:
    return form.get(name, [""])[0].strip()
