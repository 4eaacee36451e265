"""How a FastAPI route says which permission it takes, and what it gets: who asks, and the worker's open parts."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends, Query, Request, Response
from fastapi.routing import APIRoute

from analytics_dagster.tenancy.roles import Permission

if TYPE_CHECKING:
    from analytics_dagster.server.exchange import Exchange
    from analytics_dagster.server.service import Service
    from analytics_dagster.tenancy.keys import Principal

_OURS = "/analytics/"
PERMISSION, OPEN_ON_LOOPBACK = "x-permission", "x-open-on-loopback"
NONE = "none"
_PRINCIPAL = "analytics.principal"

TenantParameter = Annotated[
    str | None, Query(max_length=63, description="Tenant; may be left out by a key that is for one. Another's is not found.")
]


@dataclass(frozen=True)
class Asking:
    """A request whose key may do what its route does."""

    service: Service
    exchange: Exchange
    principal: Principal

    def tenant(self, named: str | None) -> str:
        """The tenant that is read. Raises NotFoundError for one that is not the key's."""
        return self.service.access.read_tenant(self.principal, named, self.exchange)


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
                request.scope[_PRINCIPAL] = await service.access.principal(exchange, permission)
            if ours:
                exchange.refuse_unknown(known)
            return await answer(request)

        return guarded


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


async def _asking(request: Request) -> Asking:
    return Asking(service_of(request), exchange_of(request), request.scope[_PRINCIPAL])


Asker = Annotated[Asking, Depends(_asking)]
