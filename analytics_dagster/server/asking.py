"""How a FastAPI route says which permission it takes, and what it gets: who asks, and the worker's open parts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Query, Request

from analytics_dagster.tenancy.roles import Permission

if TYPE_CHECKING:
    from analytics_dagster.server.exchange import Exchange
    from analytics_dagster.server.service import Service
    from analytics_dagster.tenancy.keys import Principal

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


def asking(permission: Permission) -> Callable[[Request], Awaitable[Asking]]:
    """A dependency: the key is good and may do this."""

    async def dependency(request: Request) -> Asking:
        service: Service = request.scope["analytics.service"]
        exchange: Exchange = request.scope["analytics.exchange"]
        return Asking(service, exchange, await service.access.principal(exchange, permission))

    return dependency


def takes(permission: Permission) -> dict[str, Any]:
    """What the OpenAPI document says about the permission."""
    return {"x-permission": permission.value}
