"""The pages for signing in and out. A key goes into the body of a form, never into an address; a browser keeps a cookie.

A form for signing in carries a token of its own: without one, another site could sign somebody in as somebody else.
"""

from __future__ import annotations

import hmac
import secrets
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import HTMLResponse

from analytics_dagster.errors import AuthenticationError, NotFoundError, PermissionDeniedError
from analytics_dagster.server.asking import (
    CSRF_FIELD,
    SIGN_IN,
    Asker,
    GuardedRoute,
    PageRoute,
    came_from_here,
    exchange_of,
    form_of,
    require_token,
    service_of,
    session_of,
    takes,
)
from analytics_dagster.server.html import asset_answer, html_answer, render, see_other, style
from analytics_dagster.server.signin.cookies import FORM, SESSION, drop_cookie, local_path, read_cookie, set_cookie
from analytics_dagster.tenancy.admin_key import ONCE_PATH
from analytics_dagster.tenancy.key_text import check_secret, key_id_of
from analytics_dagster.tenancy.keys import KeyRefusedError
from analytics_dagster.tenancy.roles import Permission
from analytics_dagster.tenancy.sessions import csrf_token
from analytics_dagster.tenancy.tickets import TicketKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from analytics_dagster.server.exchange import Exchange
    from analytics_dagster.server.service import Service
    from analytics_dagster.tenancy.sessions import Begun, Session

router = APIRouter(route_class=PageRoute)
assets = APIRouter(route_class=GuardedRoute)

ACCOUNT = "/account"
LANDING = "/"
"""Where somebody is who signed in without having asked for a page."""

_RANDOM_BYTES = 32
_PAGE: dict[str, Any] = {"content": {"text/html": {"schema": {"type": "string"}}}}
_GOES_ON: dict[str, Any] = {"description": "Signed in, or not needed: goes on with GET."}
_NOT_PRIVATE: dict[str, Any] = {"description": "Others than this machine reach the server.", **_PAGE}
_SIGN_IN_ANSWERS: dict[int | str, dict[str, Any]] = {
    303: _GOES_ON,
    400: {"description": "The form had expired, or has no key.", **_PAGE},
    401: {"description": "The key does not work.", **_PAGE},
    403: {"description": "The key only sends data, or its tenant is suspended.", **_PAGE},
    415: {"description": "Not a form.", **_PAGE},
    429: {"description": "Too many attempts of this client; Retry-After says how long to wait.", **_PAGE},
}


def _form(**fields: str) -> dict[str, Any]:
    properties = {name: {"type": "string", "description": said} for name, said in fields.items()}
    schema = {"type": "object", "required": [CSRF_FIELD], "properties": properties}
    return {"requestBody": {"required": True, "content": {"application/x-www-form-urlencoded": {"schema": schema}}}}


_TOKEN = "The token of the form that was sent."


@router.get(SIGN_IN, summary="Sign in", response_class=HTMLResponse, openapi_extra=takes(None))
async def sign_in_form(
    request: Request, next: Annotated[str | None, Query(description="A path of this server to go on to.")] = None
) -> Response:
    """A form for a key. Who is signed in goes on."""
    if await session_of(request) is not None:
        return see_other(local_path(next, LANDING))
    return _ask_for_key(request, next)


@router.post(
    SIGN_IN,
    summary="Sign in with a key",
    response_class=HTMLResponse,
    status_code=303,
    responses=_SIGN_IN_ANSWERS,
    openapi_extra={**takes(None), **_form(csrf=_TOKEN, key="A key's text.", next="A path of this server to go on to.")},
)
async def sign_in(request: Request) -> Response:
    """Begins a session and sets its cookie. Clients that fail often have to wait, longer each time."""
    service = service_of(request)
    form = await form_of(request)
    key, wanted = form.get("key", [""])[0].strip(), form.get("next", [""])[0]
    if not _form_is_ours(request, form):
        return _ask_for_key(request, wanted, 400, "This form had expired. Enter the key again.")
    if not key:
        return _ask_for_key(request, wanted, 400, "Enter a key.")
    tried = key_id_of(key) if check_secret(key) else ""
    return await _begin(request, lambda: service.sessions.begin(key), wanted, "key", tried)


@router.get(
    f"{ONCE_PATH}/{{code}}",
    summary="Sign in by a link",
    response_class=HTMLResponse,
    responses={404: _NOT_PRIVATE},
    openapi_extra=takes(None),
)
async def once_form(request: Request, code: Annotated[str, Path(max_length=200)]) -> Response:
    """The link that `analytics up` prints. Looking at it takes nothing: the button does, so that a preview does not use it up."""
    _require_private(request)
    return _page_with_form(request, "once.html", code=code)


@router.post(
    ONCE_PATH,
    summary="Sign in with a link's code",
    response_class=HTMLResponse,
    status_code=303,
    responses={**_SIGN_IN_ANSWERS, 404: _NOT_PRIVATE},
    openapi_extra={**takes(None), **_form(csrf=_TOKEN, code="The link's last part.")},
)
async def sign_in_once(request: Request) -> Response:
    """A code works once, within ten minutes, on a server that only this machine reaches."""
    _require_private(request)
    service = service_of(request)
    form = await form_of(request)
    if not _form_is_ours(request, form):
        return _ask_for_key(request, None, 400, "This form had expired. Open the link again.")

    def begin() -> Begun:
        known = service.tickets.take(TicketKind.ONCE, form.get("code", [""])[0])
        if known is None:
            raise AuthenticationError("this link was used or is over; `analytics signin` prints another")
        return service.sessions.begin_of_key(known["key_id"], known["digest"])

    return await _begin(request, begin, None, "link", "")


@router.post(
    "/signout",
    summary="Sign out",
    response_class=HTMLResponse,
    status_code=303,
    responses={
        403: {"description": "Not sent by a page of this session.", **_PAGE},
        415: {"description": "Not a form.", **_PAGE},
    },
    openapi_extra={**takes(None), **_form(csrf="The session's token.")},
)
async def sign_out(request: Request) -> Response:
    """Ends the session: at once in this process, within 5 s in every other."""
    service, exchange = service_of(request), exchange_of(request)
    session = await session_of(request)
    answer = see_other(SIGN_IN)
    if session is not None:
        await require_token(request, session)
        await service.in_thread(service.sessions.end, read_cookie(SESSION, service, exchange, request))
        await service.in_thread(_note, service, exchange, "signout", session)
    drop_cookie(SESSION, service, exchange, answer)
    return answer


@router.get(ACCOUNT, summary="Who is signed in", response_class=HTMLResponse, openapi_extra=takes(Permission.FIGURES_READ))
async def account(who: Asker) -> Response:
    """As whom, with which role and for which tenants, and a button to sign out."""
    principal, session = who.principal, who.session
    page = render(
        "account.html",
        name=principal.name or principal.key_id,
        role=principal.role.value,
        tenants="every registered one" if principal.tenants is None else ", ".join(sorted(principal.tenants)),
        until="" if session is None else f"{session.expires_at:%Y-%m-%d %H:%M} UTC",
        idle=_told_seconds(who.service.settings.analytics_session_idle),
        csrf_field=who.csrf_field,
    )
    return html_answer(page)


@assets.get("/signin/style.css", summary="How these pages look", response_class=Response, openapi_extra=takes(None))
async def stylesheet() -> Response:
    """The stylesheet of the pages for signing in."""
    return asset_answer(style(), "text/css")


async def _begin(request: Request, begin: Callable[[], Begun], wanted: str | None, how: str, tried: str) -> Response:
    """Begin a session, unless the client has to wait or is refused; either way the audit trail tells."""
    service, exchange = service_of(request), exchange_of(request)
    wait = service.attempts.begin(exchange.client)
    if wait > 0:
        seconds = max(1, round(wait))
        answer = _ask_for_key(request, wanted, 429, f"Too many attempts. Try again in {seconds} s.")
        answer.headers["retry-after"] = str(seconds)
        return answer
    try:
        begun = await service.in_thread(begin)
    except (AuthenticationError, PermissionDeniedError) as error:
        await service.in_thread(note_refusal, service, exchange, how, tried, error)
        return _ask_for_key(request, wanted, 401 if isinstance(error, AuthenticationError) else 403, _sentence(str(error)))
    service.attempts.succeeded(exchange.client)
    return await welcome(request, begun, wanted, how)


async def welcome(request: Request, begun: Begun, wanted: str | None, how: str) -> Response:
    """Give the browser its cookie, end the session that it had, and go on."""
    service, exchange = service_of(request), exchange_of(request)
    if before := read_cookie(SESSION, service, exchange, request):
        await service.in_thread(service.sessions.end, before)
    await service.in_thread(_note, service, exchange, "signin", begun.session, f"by {how}")
    answer = see_other(local_path(wanted, LANDING))
    set_cookie(SESSION, begun.secret, service, exchange, answer, service.settings.analytics_session_lifetime)
    drop_cookie(FORM, service, exchange, answer)
    return answer


def _ask_for_key(request: Request, wanted: str | None, status: int = 200, error: str = "") -> HTMLResponse:
    service, next_path = service_of(request), local_path(wanted, "")
    values: dict[str, object] = {"error": error, "next": next_path, "private": service.private, "provider": ""}
    if service.provider is not None:
        # A link and no form: `form-action` would not let a form's answer lead to the provider.
        values |= {"provider": f"/signin/oidc?{urlencode({'next': next_path})}", "provider_name": service.provider.name}
    return _page_with_form(request, "signin.html", status, **values)


def _page_with_form(request: Request, template: str, status: int = 200, **values: object) -> HTMLResponse:
    """A page for somebody who has no session; its form's token follows from a cookie that only the browser has."""
    service, exchange = service_of(request), exchange_of(request)
    secret = read_cookie(FORM, service, exchange, request) or secrets.token_urlsafe(_RANDOM_BYTES)
    answer = html_answer(render(template, token=csrf_token(secret), **values), status)
    set_cookie(FORM, secret, service, exchange, answer)
    return answer


def _form_is_ours(request: Request, form: dict[str, list[str]]) -> bool:
    service, exchange = service_of(request), exchange_of(request)
    secret, token = read_cookie(FORM, service, exchange, request), form.get(CSRF_FIELD, [""])[0]
    if not secret or not came_from_here(service, exchange):
        return False
    return hmac.compare_digest(csrf_token(secret).encode(), token.encode())


def _told_seconds(seconds: int) -> str:
    for size, name in ((3_600, "hour"), (60, "minute")):
        if seconds % size == 0:
            count = seconds // size
            return f"{count} {name}{'' if count == 1 else 's'}"
    return f"{seconds} seconds"


def _require_private(request: Request) -> None:
    if not service_of(request).private:
        raise NotFoundError("links that sign in are for a server that only its own machine reaches")


def _note(service: Service, exchange: Exchange, action: str, session: Session, detail: str = "") -> None:
    principal = session.principal
    service.audit.record(
        action,
        principal.key_id,
        tenant=principal.sole_tenant,
        target=session.session_id,
        detail=f"{detail} from {exchange.client}".strip(),
        request_id=exchange.request_id,
    )


def note_refusal(service: Service, exchange: Exchange, how: str, tried: str, error: Exception) -> None:
    """Leave a row in the audit trail; equal ones are counted. `tried` is a key's id, never its text."""
    reason = error.reason if isinstance(error, KeyRefusedError) else str(error)
    detail = f"by {how}: {reason}"
    service.audit.attempt(
        "signin", exchange.client, tenant=None, target=tried or how, detail=detail, request_id=exchange.request_id
    )


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
