"""The cookies of signing in: what they are called, when they are Secure, and where a browser may be sent afterwards."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from analytics_dagster.server.binding import forwarded_scheme

if TYPE_CHECKING:
    from fastapi import Request, Response

    from analytics_dagster.server.exchange import Exchange
    from analytics_dagster.server.service import Service

SESSION, FORM, PROVIDER = "analytics_session", "analytics_signin", "analytics_oidc"
_LONGEST_PATH = 2_000
# Of RFC 3986, without the backslash that browsers take for a slash and whatever they leave out while they read.
_LOCAL_PATH = re.compile(r"/(?![/\\])[A-Za-z0-9._~!$&'()*+,;=:@%/?-]*")


def is_secure(service: Service, exchange: Exchange) -> bool:
    """Whether the browser speaks TLS: with us, or with a proxy that was named and says so."""
    peer = exchange.scope.get("client")
    said = exchange.header(b"x-forwarded-proto")
    return service.tls or forwarded_scheme(peer[0] if peer else "", said, service.proxies) == "https"


def cookie_name(kind: str, service: Service, exchange: Exchange) -> str:
    """`__Host-` under TLS: no other host, and nobody without TLS, can set it. Otherwise the port is part of the name, because
    browsers give one host's cookies to all its ports, and two servers of one machine would sign each other's people out.
    """
    return f"__Host-{kind}" if is_secure(service, exchange) else f"{kind}_{service.plan.port}"


def read_cookie(kind: str, service: Service, exchange: Exchange, request: Request) -> str:
    """A cookie's value, empty where there is none."""
    return request.cookies.get(cookie_name(kind, service, exchange), "") if b"cookie" in exchange.headers else ""


def set_cookie(kind: str, value: str, service: Service, exchange: Exchange, answer: Response, seconds: int | None = None) -> None:
    """Scripts cannot read it, and other sites' forms do not send it. `seconds` None: until the browser is closed."""
    answer.set_cookie(
        cookie_name(kind, service, exchange),
        value,
        max_age=seconds,
        path="/",
        secure=is_secure(service, exchange),
        httponly=True,
        samesite="lax",
    )


def drop_cookie(kind: str, service: Service, exchange: Exchange, answer: Response) -> None:
    set_cookie(kind, "", service, exchange, answer, seconds=0)


def local_path(named: str | None, otherwise: str) -> str:
    """`named` when it is a path of this server, else `otherwise`: nobody is sent to another site by a link to this one."""
    if named is None or len(named) > _LONGEST_PATH or not _LOCAL_PATH.fullmatch(named):
        return otherwise
    return named
