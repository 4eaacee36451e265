"""POST /1/submit-listens and GET /1/validate-token: ListenBrainz' API for scrobblers, whose listens become plays.

The listener is the name of the key: give each person a key named as their exports name them. Who has a key without a name is
the one listener of an export that names none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from analytics_dagster.errors import AuthenticationError, PermissionDeniedError
from analytics_dagster.ingest.play_ids import ONLY_LISTENER
from analytics_dagster.ingest.wire.listenbrainz import parse_listens
from analytics_dagster.server.door import Reply
from analytics_dagster.server.exchange import JSON, Exchange
from analytics_dagster.server.intake import inflated, sender, store
from analytics_dagster.server.problems import Problem
from analytics_dagster.tenancy.keys import Principal
from analytics_dagster.tenancy.roles import Permission, Role

if TYPE_CHECKING:
    from analytics_dagster.server.service import Service

_OK = b'{"status":"ok"}'


async def take_listens(service: Service, exchange: Exchange) -> None:
    """200 when the listens are on disk; "playing now" is acknowledged and makes no play."""
    who = await sender(service, exchange, Permission.PLAYS_WRITE)
    tenant = who.scope.default
    if tenant is None:
        raise Problem(400, "this key is for several tenants; name one with the header X-Scope-OrgID")
    raw = await exchange.body(service.body_limit)
    body = await inflated(service, raw, exchange.header(b"content-encoding"))
    latest = service.admission(who.scope).latest_us
    # Up to 10 MB of JSON, read row by row: not on the loop.
    submitted = await service.in_thread(parse_listens, body, tenant, listener_of(who.principal), latest)
    headers = await store(service, exchange, submitted.plays)
    await exchange.answer(200, _OK, JSON, headers)


async def validate_token(service: Service, exchange: Exchange) -> None:
    """Whether a key works. 200 either way, as ListenBrainz answers."""
    if not exchange.headers.get(b"authorization"):
        await _refuse_token_parameter(service, exchange)
        raise Problem(400, "You need to provide an Authorization token.")
    try:
        principal = await service.access.principal(exchange, None)
    except (AuthenticationError, PermissionDeniedError):
        await exchange.answer(200, msgspec.json.encode({"code": 200, "message": "Token invalid.", "valid": False}))
        return
    told = {"code": 200, "message": "Token valid.", "valid": True, "user_name": listener_of(principal)}
    await exchange.answer(200, msgspec.json.encode(told))


def listener_of(principal: Principal) -> str:
    """Whose listens a key submits."""
    return ONLY_LISTENER if principal.role is Role.PLATFORM_ADMIN else principal.name or ONLY_LISTENER


def as_listenbrainz(problem: Problem, exchange: Exchange) -> Reply:
    """{"code", "error"}."""
    del exchange
    body = msgspec.json.encode({"code": problem.status, "error": problem.detail})
    return Reply(problem.status, body, JSON, problem.headers)


async def _refuse_token_parameter(service: Service, exchange: Exchange) -> None:
    if exchange.scope["query_string"]:
        await service.access.principal(exchange, None)
