"""Signing in through an OpenID provider: to the provider, and back with a code that becomes a session.

State is a ticket: it works once, for minutes, and only for the browser whose cookie it was made with, so nobody can be signed
in with somebody else's code.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import HTMLResponse

from analytics_dagster.errors import AuthenticationError, NotFoundError, PermissionDeniedError
from analytics_dagster.server.asking import PageRoute, exchange_of, service_of, takes
from analytics_dagster.server.html import see_other
from analytics_dagster.server.problems import Problem
from analytics_dagster.server.signin.cookies import PROVIDER, drop_cookie, is_secure, local_path, read_cookie, set_cookie
from analytics_dagster.server.signin.provider import ProviderRefusedError, new_nonce, new_verifier, short
from analytics_dagster.server.signin.routes import note_refusal, welcome
from analytics_dagster.tenancy.keys import digest_of
from analytics_dagster.tenancy.tickets import LIFETIME, TicketKind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from analytics_dagster.server.service import Service
    from analytics_dagster.server.signin.provider import Provider
    from analytics_dagster.tenancy.sessions import Begun

router = APIRouter(route_class=PageRoute)

CALLBACK = "/signin/oidc/callback"
_RANDOM_BYTES = 32
_PAGE: dict[str, Any] = {"content": {"text/html": {"schema": {"type": "string"}}}}
_NO_PROVIDER: dict[int | str, dict[str, Any]] = {
    404: {"description": "No provider is set up.", **_PAGE},
    503: {"description": "The provider does not answer.", **_PAGE},
}
_Told = Annotated[str | None, Query(max_length=4_096, description="As the provider sends it.")]


@router.get(
    "/signin/oidc",
    summary="Sign in through the OpenID provider",
    response_class=HTMLResponse,
    status_code=303,
    responses=_NO_PROVIDER,
    openapi_extra=takes(None),
)
async def to_provider(
    request: Request, next: Annotated[str | None, Query(description="A path of this server to go on to.")] = None
) -> Response:
    """Sends the browser to the provider, with state, nonce and PKCE's challenge."""
    service, exchange = service_of(request), exchange_of(request)
    provider = _provider(service)
    browser = read_cookie(PROVIDER, service, exchange, request) or secrets.token_urlsafe(_RANDOM_BYTES)
    known = {
        "browser": digest_of(browser),
        "nonce": new_nonce(),
        "verifier": new_verifier(),
        "redirect_uri": f"{'https' if is_secure(service, exchange) else 'http'}://{exchange.header(b'host')}{CALLBACK}",
        "next": local_path(next, ""),
    }

    def begin() -> str:
        state = service.tickets.issue(TicketKind.OIDC, known)
        return provider.begin(state, known["redirect_uri"], known["nonce"], known["verifier"])

    answer = see_other(await service.ask_provider(begin))
    set_cookie(PROVIDER, browser, service, exchange, answer, int(LIFETIME.total_seconds()))
    return answer


@router.get(
    CALLBACK,
    summary="Back from the OpenID provider",
    response_class=HTMLResponse,
    status_code=303,
    responses={
        **_NO_PROVIDER,
        400: {"description": "Not begun in this browser, or too long ago.", **_PAGE},
        403: {"description": "The provider refused, its token is not good, or nothing here is for this person.", **_PAGE},
    },
    openapi_extra=takes(None),
)
async def from_provider(
    request: Request, state: _Told = None, code: _Told = None, error: _Told = None, iss: _Told = None
) -> Response:
    """Takes the provider's answer, once, in the browser that began, and begins a session for whom the mapping lets in."""
    service, exchange = service_of(request), exchange_of(request)
    provider = _provider(service)
    browser = read_cookie(PROVIDER, service, exchange, request)
    known = await service.in_thread(service.tickets.take, TicketKind.OIDC, state or "")
    if known is None or not browser or not secrets.compare_digest(known["browser"], digest_of(browser)):
        detail = "this sign-in was not begun in this browser, was finished before, or took longer than ten minutes; sign in again"
        raise Problem(400, detail)
    try:
        if iss is not None and iss != provider.issuer:  # RFC 9207: another provider's answer
            raise ProviderRefusedError(f"the answer is of {short(iss)}, not of {provider.issuer}")
        if error is not None or not code:
            raise ProviderRefusedError(f"{provider.name} did not sign you in: {short(error or 'it sent no code')}")
        begun = await service.ask_provider(_finish, service, provider, code, known)
    except (AuthenticationError, PermissionDeniedError) as refused:
        await service.in_thread(note_refusal, service, exchange, "provider", "", refused)
        raise Problem(403, str(refused)) from None
    answer = await welcome(request, begun, known["next"], f"provider, as {short(begun.session.principal.name)},")
    drop_cookie(PROVIDER, service, exchange, answer)
    return answer


def _finish(service: Service, provider: Provider, code: str, known: Mapping[str, str]) -> Begun:
    claims = provider.finish(code, known["redirect_uri"], known["nonce"], known["verifier"])
    person = provider.roles.person(provider.issuer, claims)
    if person is None:
        raise PermissionDeniedError(
            f"{provider.name} knows you as {short(claims['sub'])}, but no group of yours opens anything here; ask whoever runs "
            "this platform"
        )
    return service.sessions.begin_of_person(person)


def _provider(service: Service) -> Provider:
    if service.provider is None:
        raise NotFoundError("no OpenID provider is set up here; sign in with a key")
    return service.provider
