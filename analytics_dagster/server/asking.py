"""How a FastAPI route says which permission it takes, and what it gets: who asks, and the worker's open parts.

Who asks is a key's holder, or somebody whose browser has a session's cookie; a route sees no difference. What changes something
with a cookie takes the session's token too, because a browser sends cookies with whatever another site made it send.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import parse_qs, quote, urlsplit

from fastapi import Depends, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute

from analytics_dagster.errors import AnalyticsError, AuthenticationError, ForeignTenantError, PermissionDeniedError
from analytics_dagster.server.access import refuse_secrets_in_query
from analytics_dagster.server.html import problem_page, see_other
from analytics_dagster.server.problems import Problem, bad_parameters, problem_of
from analytics_dagster.server.signin.cookies import SESSION, is_secure, read_cookie
from analytics_dagster.tenancy.roles import Permission

if TYPE_CHECKING:
    from markupsafe import Markup

    from analytics_dagster.server.exchange import Exchange
    from analytics_dagster.server.service import Service
    from analytics_dagster.tenancy.keys import Principal
    from analytics_dagster.tenancy.sessions import Session

_OURS = "/analytics/"
PERMISSION, OPEN_ON_LOOPBACK = "x-permission", "x-open-on-loopback"
PAGE = "x-page"
NONE = "none"
SIGN_IN = "/signin"
CSRF_FIELD, CSRF_HEADER = "csrf", b"x-csrf-token"
_ASKING = "analytics.asking"
_SAFE = ("GET", "HEAD", "OPTIONS")
_FORM = "application/x-www-form-urlencoded"
_MOST_FIELDS = 200

TenantParameter = Annotated[
    str | None, Query(max_length=63, description="Tenant; may be left out by a key that is for one. Another's is not found.")
]


@dataclass(frozen=True)
class Asking:
    """A request whose key or session may do what its route does. `session` None: it came with a key."""

    service: Service
    exchange: Exchange
    principal: Principal
    session: Session | None = None

    def tenant(self, named: str | None) -> str:
        """The tenant that is read. Raises NotFoundError for one that is not the asker's."""
        return self.service.access.read_tenant(self.principal, named, self.exchange)

    @property
    def csrf(self) -> str:
        """The token that forms and scripts send back; empty for a key, which needs none."""
        return "" if self.session is None else self.session.csrf

    @property
    def csrf_field(self) -> Markup:
        """The hidden field that every form with method POST of a page has."""
        from markupsafe import Markup

        return Markup('<input type="hidden" name="{}" value="{}">').format(CSRF_FIELD, self.csrf)


class GuardedRoute(APIRoute):
    """A route that looks at the key before anything else of the request; one that names no permission cannot be made.

    Parameters that it does not have are refused, but not where probes, scrapers and browsers ask: those add some of their own.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answer = super().get_route_handler()
        declared = (self.openapi_extra or {})[PERMISSION]
        permission = None if declared == NONE else Permission(declared)
        known = [parameter.alias for parameter in self.dependant.query_params]
        ours = self.path.startswith(_OURS)
        open_on_loopback = (self.openapi_extra or {}).get(OPEN_ON_LOOPBACK, False)

        async def guarded(request: Request) -> Response:
            service, exchange = service_of(request), exchange_of(request)
            if permission is not None and not (open_on_loopback and service.private and not carries_key(exchange)):
                request.scope[_ASKING] = await _ask(request, service, exchange, permission)
            if ours:
                exchange.refuse_unknown(known)
            return await answer(request)

        return guarded


class PageRoute(GuardedRoute):
    """A route that browsers ask for: whoever is not signed in is sent to sign in, and what goes wrong is told as a page.

    A client that carries a key is answered as any other route answers.
    """

    def __init__(self, *args: Any, **named: Any) -> None:
        named["openapi_extra"] = {**(named.get("openapi_extra") or {}), PAGE: True}
        super().__init__(*args, **named)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answer = super().get_route_handler()

        async def paged(request: Request) -> Response:
            service, exchange = service_of(request), exchange_of(request)
            service.expect_pages()
            try:
                if exchange.scope["query_string"]:
                    refuse_secrets_in_query(exchange.scope["query_string"], exchange.parameters())
                return await answer(request)
            except (AnalyticsError, Problem, RequestValidationError) as error:
                if carries_key(exchange):
                    raise
                if isinstance(error, AuthenticationError):
                    return see_other(_sign_in(request))
                if isinstance(error, ForeignTenantError):
                    service.access.note_foreign(exchange, error.tenant)
                found = bad_parameters(error.errors()) if isinstance(error, RequestValidationError) else problem_of(error)
                if found is None:
                    raise
                return problem_page(found, exchange.request_id)

        return paged


def takes(permission: Permission | None) -> dict[str, Any]:
    """What a route takes, for `openapi_extra`. None: it is open to everybody."""
    return {PERMISSION: NONE if permission is None else permission.value}


def service_of(request: Request) -> Service:
    service: Service = request.scope["analytics.service"]
    return service


def exchange_of(request: Request) -> Exchange:
    exchange: Exchange = request.scope["analytics.exchange"]
    return exchange


def carries_key(exchange: Exchange) -> bool:
    return b"authorization" in exchange.headers or b"x-api-key" in exchange.headers


async def session_of(request: Request) -> Session | None:
    """The session of a request to a route that is open to everybody; None where there is none that is good."""
    service, exchange = service_of(request), exchange_of(request)
    secret = read_cookie(SESSION, service, exchange, request)
    if not secret or carries_key(exchange):
        return None
    try:
        return await service.access.session(exchange, secret)
    except (AuthenticationError, PermissionDeniedError):
        return None


async def form_of(request: Request) -> dict[str, list[str]]:
    """The fields of a form. Raises Problem 415 and 400 for a body that is none."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _FORM:
        raise Problem(415, f"a form is sent as {_FORM}")
    try:
        body = (await request.body()).decode("utf-8")
        return parse_qs(body, keep_blank_values=True, max_num_fields=_MOST_FIELDS, errors="strict")
    except ValueError:
        raise Problem(400, f"the form cannot be read; it is percent-encoded UTF-8 with at most {_MOST_FIELDS} fields") from None


def came_from_here(service: Service, exchange: Exchange) -> bool:
    """Whether the browser says that one of our own pages sent this. A client that says nothing has its token looked at alone."""
    site = exchange.header(b"sec-fetch-site")
    if site:
        return site in ("same-origin", "none")
    origin = exchange.header(b"origin")
    if not origin:
        return True
    there = urlsplit(origin)
    same_host = there.netloc.lower() == exchange.header(b"host").lower()
    return same_host and (there.scheme == "https" or not is_secure(service, exchange))


async def require_token(request: Request, session: Session) -> None:
    """Raises Problem 403 unless a page of this session sent the request."""
    exchange = exchange_of(request)
    token = exchange.header(CSRF_HEADER)
    if not token and request.headers.get("content-type", "").startswith(_FORM):
        token = (await form_of(request)).get(CSRF_FIELD, [""])[0]
    if not came_from_here(service_of(request), exchange) or not session.accepts(token):
        raise Problem(
            403,
            "with a session, what changes something must come from one of its pages: as the field `csrf` of a form, or the "
            "header X-CSRF-Token; load the page again",
            kind="csrf",
        )


async def _ask(request: Request, service: Service, exchange: Exchange, permission: Permission) -> Asking:
    secret = "" if carries_key(exchange) else read_cookie(SESSION, service, exchange, request)
    if not secret:
        return Asking(service, exchange, await service.access.principal(exchange, permission))
    session = await service.access.session(exchange, secret)
    if request.method not in _SAFE:
        await require_token(request, session)
    session.principal.require(permission)
    return Asking(service, exchange, session.principal, session)


def _sign_in(request: Request) -> str:
    """Where to sign in, and come back from. A form that was sent is not sent again."""
    if request.method not in _SAFE:
        return SIGN_IN
    query = request.scope["query_string"].decode("latin-1")
    back = quote(request.scope["path"], safe="/") + (f"?{query}" if query else "")
    return f"{SIGN_IN}?next={quote(back, safe='')}"


async def _asking(request: Request) -> Asking:
    asking: Asking = request.scope[_ASKING]
    return asking


Asker = Annotated[Asking, Depends(_asking)]
