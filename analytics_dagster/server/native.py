"""POST /analytics/metrics: points as JSON, NDJSON or Arrow. 202 when they are durable."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from analytics_dagster.ingest.identity import OBSERVED
from analytics_dagster.ingest.points import Parsed, Points
from analytics_dagster.server.exchange import JSON, Exchange, Headers
from analytics_dagster.server.idempotency import Answered, Claim, ClaimKey, body_hash, check_key
from analytics_dagster.server.intake import Attempt, Sender, inflated, parsed, sender, store, store_some
from analytics_dagster.server.problems import Problem, bad_rows, row_errors
from analytics_dagster.server.together import is_one_object
from analytics_dagster.tenancy.roles import Permission

if TYPE_CHECKING:
    from analytics_dagster.server.service import Service

ROUTE = "/analytics/metrics"
ARROW = "application/vnd.apache.arrow.stream"
MEDIA = {
    "": "json",
    "application/json": "json",
    "application/x-ndjson": "ndjson",
    "application/ndjson": "ndjson",
    "application/jsonl": "ndjson",
    ARROW: "arrow",
}
_CURLS_OWN = "application/x-www-form-urlencoded"
_ONE = b'{"accepted":1}'
_PARAMETERS = ("partial", "tenant")
_TRUTHS = {"true": True, "1": True, "false": False, "0": False}


async def take_points(service: Service, exchange: Exchange) -> None:
    """The hot route: what is seldom (parameters, an Idempotency-Key, bad rows) costs nothing where it is not there."""
    who = await sender(service, exchange, Permission.METRICS_WRITE)
    kind = _kind(exchange)
    partial = _partial(exchange)
    raw = await exchange.body(service.body_limit)
    given = exchange.headers.get(b"idempotency-key")
    if given is not None:
        await _take_once(service, exchange, who, kind, partial, raw, check_key(given.decode("latin-1")))
        return
    if kind == "json" and b"content-encoding" not in exchange.headers and is_one_object(raw):
        stored = await service.together.read_and_store(raw, who.scope, exchange.key_id)
        if stored is not None:
            exchange.points = 1
            await exchange.answer(202, _ONE, JSON, stored)
            return
    result = await _read(service, exchange, who, kind, raw, service.now_us())
    if result.refused:
        await _answer_some(service, exchange, who, result, partial, _named(exchange, kind, raw))
        return
    headers = await store(service, exchange, result.points)
    await exchange.answer(202, _told(result), JSON, headers)


async def _answer_some(service: Service, exchange: Exchange, who: Sender, result: Parsed, partial: bool, body: str) -> None:
    """Answer a body with bad rows: none of it is taken, or with ?partial=true the good rows are and the others set aside."""
    exchange.refused = len(result.refused)
    if not partial:
        raise bad_rows(result.refused, len(result.points) + len(result.refused))
    headers = await store_some(service, exchange, who, result, body)
    await exchange.answer(202, _told(result), JSON, headers)


async def _take_once(service: Service, exchange: Exchange, who: Sender, kind: str, partial: bool, raw: bytes, key: str) -> None:
    """A request that may be sent again: its answer is kept for a day."""
    variant = f"{kind} {exchange.header(b'content-encoding')} {partial}"
    wanted = ClaimKey(exchange.tenant, exchange.key_id, ROUTE, key, body_hash(raw, variant))
    found = await asyncio.wrap_future(service.claims.claim(wanted))
    if isinstance(found, Answered):
        await exchange.answer(found.status, found.body.encode("utf-8"), JSON, [(b"idempotency-replayed", b"true")])
        return
    attempt = Attempt()
    try:
        body, headers = await _work(service, exchange, who, kind, partial, raw, found, attempt)
    except BaseException:
        # Before the log had the rows, the key is free for another try, with another body too. After, whether they are durable
        # is not known: a retry with the same body takes over.
        give_back = service.claims.abandon if attempt.taken else service.claims.release
        await asyncio.wrap_future(give_back(found))
        raise
    await asyncio.wrap_future(service.claims.done(found, 202, body.decode("utf-8")))
    await exchange.answer(202, body, JSON, headers)


async def _work(
    service: Service, exchange: Exchange, who: Sender, kind: str, partial: bool, raw: bytes, claim: Claim, attempt: Attempt
) -> tuple[bytes, Headers]:
    result = await _read(service, exchange, who, kind, raw, int(claim.claimed_at.timestamp() * 1_000_000))
    if result.refused:
        exchange.refused = len(result.refused)
        if not partial:
            raise bad_rows(result.refused, len(result.points) + len(result.refused))
    if _observed(result.points):
        # Two equal observations are two; sent again they must be the same two.
        attempt.origin = claim.origin
    if result.refused:
        headers = await store_some(service, exchange, who, result, _named(exchange, kind, raw), attempt)
    else:
        headers = await store(service, exchange, result.points, attempt)
    return _told(result), headers


async def _read(service: Service, exchange: Exchange, who: Sender, kind: str, raw: bytes, now_us: int) -> Parsed:
    body = await inflated(service, raw, exchange.header(b"content-encoding"))
    return await parsed(service, who, len(body), lambda readers, admission: readers.points[kind](body, admission, now_us))


def _told(result: Parsed) -> bytes:
    if not result.refused:
        return b'{"accepted":%d}' % len(result.points)
    told = {"accepted": len(result.points), "quarantined": len(result.refused), "errors": row_errors(result.refused)}
    return msgspec.json.encode(told)


def _named(exchange: Exchange, kind: str, raw: bytes) -> str:
    """A name for what was sent, the same whenever it is sent again."""
    return body_hash(raw, f"{kind} {exchange.header(b'content-encoding')}")[:32]


def _observed(points: Points) -> bool:
    """Whether some are of a type whose equal points are several observations."""
    types = points.table.types
    return any(types[number] in OBSERVED for number in np.unique(points.series).tolist())


def _kind(exchange: Exchange) -> str:
    media = exchange.header(b"content-type").partition(";")[0].strip().lower()
    kind = MEDIA.get(media)
    if kind is None:
        known = ", ".join(name for name in MEDIA if name)
        hint = "; with curl -d, add -H 'Content-Type: application/json'" if media == _CURLS_OWN else ""
        raise Problem(
            415, f"Content-Type {media!r} is not taken; one of {known}{hint}", headers=[(b"accept-post", known.encode())]
        )
    return kind


def _partial(exchange: Exchange) -> bool:
    if not exchange.scope["query_string"]:
        return False
    exchange.refuse_unknown(_PARAMETERS)
    given = exchange.parameters().get("partial", ["false"])[-1].lower()
    if given not in _TRUTHS:
        raise Problem(400, f"partial={given!r} is not true or false")
    return _TRUTHS[given]
