"""From a request's body to durable rows: the steps that every way in shares.

Order matters: who and for whom, then the body, then what it says, then the quota, then the log. Until the log has taken the rows
nothing of a request is kept, so every refusal before that leaves nothing behind. Bad rows are set aside last.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from analytics_dagster.errors import ForeignTenantError
from analytics_dagster.ingest.landing import Refused
from analytics_dagster.ingest.points import Admission, Parsed, Plays, Points, WriteScope
from analytics_dagster.ingest.wire.bodies import decoded
from analytics_dagster.server.exchange import Exchange, Headers
from analytics_dagster.server.problems import Problem
from analytics_dagster.server.together import SMALL
from analytics_dagster.tenancy.keys import Principal
from analytics_dagster.tenancy.roles import Permission

if TYPE_CHECKING:
    from analytics_dagster.server.readers import Readers
    from analytics_dagster.server.service import Service

T = TypeVar("T")

# Inflating more than this takes so long that other requests should not wait for it.
_INFLATE_HERE = 128 * 2**10
# The largest bodies take 10 s to parse. Below this, other requests wait for less than a hop to another thread is worth.
_PARSE_HERE = 8 * 2**20


@dataclass
class Sender:
    """Who sends, and which tenants the rows may be of."""

    principal: Principal
    scope: WriteScope


async def sender(service: Service, exchange: Exchange, permission: Permission, *, named: str | None = None) -> Sender:
    """Authenticate a request that brings rows. `named` is the tenant that the protocol's own way names."""
    return Sender(*await service.access.writer(exchange, permission, named))


async def inflated(service: Service, raw: bytes, encoding: str | None) -> bytes:
    """A body with its Content-Encoding undone, within the limit."""
    if not encoding or encoding == "identity":
        return raw
    if len(raw) <= _INFLATE_HERE:
        return decoded(raw, encoding, service.body_limit)
    return await service.in_thread(decoded, raw, encoding, service.body_limit)


async def parsed(service: Service, who: Sender, size: int, parse: Callable[[Readers, Admission], T]) -> T:
    """What `parse` makes of a body of `size` bytes. Tried again when it names a tenant that was registered a moment ago."""
    try:
        return await _parse(service, who, size, parse)
    except ForeignTenantError as error:
        wider = await service.access.wider_scope(who.principal, who.scope, error.tenant)
        if wider is None:
            raise service.access.foreign(who.principal, error.tenant) from None
        who.scope = wider
    try:
        return await _parse(service, who, size, parse)
    except ForeignTenantError as error:  # another tenant that it names
        raise service.access.foreign(who.principal, error.tenant) from None


async def _parse(service: Service, who: Sender, size: int, parse: Callable[[Readers, Admission], T]) -> T:
    if size > _PARSE_HERE:
        return await service.parse_large(parse, who.scope)
    return parse(service.readers, service.admission(who.scope))


@dataclass
class Attempt:
    """A request that may be sent again: `origin` names its rows, `taken` says whether the log may have them."""

    origin: str | None = None
    taken: bool = False


async def store(
    service: Service,
    exchange: Exchange,
    rows: Points | Plays,
    attempt: Attempt | None = None,
    further: Mapping[str, int] | None = None,
) -> Headers:
    """Charge the tenants and make rows durable. Returns the RateLimit headers for the answer.

    `further` rows by tenant are charged only. Raises QuotaExceededError before anything is taken, and LogFullError.
    """
    count = len(rows)
    if count == 0:
        return service.charge(rows, further) if further else ()
    if attempt is None and count <= SMALL and isinstance(rows, Points):
        stored = await service.together.store(rows, exchange.key_id)
        exchange.points += count
        return stored or ()
    headers = service.charge(rows, further)
    durable = service.append(rows, attempt.origin if attempt else None)
    if attempt is not None:
        attempt.taken = True
    await asyncio.wrap_future(durable)
    exchange.points += count
    return headers


async def store_some(
    service: Service, exchange: Exchange, who: Sender, found: Parsed, body: str, attempt: Attempt | None = None
) -> Headers:
    """As `store`; then rows that are not taken go into the tenant's quarantine. They are charged as points are.

    In this order a quota that is used up and a full log leave nothing in the quarantine. `body` names what was sent: the same
    body again, because the answer was lost, say, finds its rows there.
    """
    tenant = who.scope.default
    if tenant is None:
        raise Problem(400, "?partial=true needs one tenant whose quarantine the bad rows go to; name it with X-Scope-OrgID")
    # By itself, never with other small requests: those would be charged for its bad rows.
    headers = await store(service, exchange, found.points, attempt or Attempt(), {tenant: len(found.refused)})
    rows = [Refused(f"http:{body}", r.index + 1, r.field, r.reason, r.original) for r in found.refused]
    arrival = f"http-{hashlib.blake2b(exchange.request_id.encode(), digest_size=16).hexdigest()}"
    await service.in_thread(service.installation.landing.quarantine, tenant, rows, arrival, "http")
    return headers
