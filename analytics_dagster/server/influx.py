"""POST /write and POST /api/v2/write: InfluxDB line protocol, as clients of versions 1 and 2 send it.

Lines that can be taken are stored, and 400 names the others, as InfluxDB does for what it calls a partial write. Databases,
organizations and buckets are not a thing here; one that is the name of a tenant of the key chooses it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from analytics_dagster.server.door import Reply
from analytics_dagster.server.exchange import JSON, Exchange
from analytics_dagster.server.intake import inflated, parsed, sender, store
from analytics_dagster.server.problems import Problem
from analytics_dagster.tenancy.roles import Permission

if TYPE_CHECKING:
    from analytics_dagster.server.service import Service

_CODES = {
    400: "invalid",
    401: "unauthorized",
    403: "forbidden",
    404: "not found",
    405: "method not allowed",
    413: "request too large",
    422: "unprocessable entity",
    429: "too many requests",
    503: "unavailable",
}
_NAMED = 10


async def take_lines(service: Service, exchange: Exchange) -> None:
    parameters = exchange.parameters()
    named = next((parameters[name][-1] for name in ("db", "bucket") if parameters.get(name)), None)
    who = await sender(service, exchange, Permission.METRICS_WRITE, named=named)
    raw = await exchange.body(service.body_limit)
    body = await inflated(service, raw, exchange.header(b"content-encoding"))
    precision = parameters.get("precision", [None])[-1] or None
    now = service.now_us()
    size = len(body)
    written = await parsed(service, who, size, lambda readers, admission: readers.influx.read(body, precision, admission, now))
    headers = await store(service, exchange, written.parsed.points)
    refused = written.parsed.refused
    if refused:
        exchange.refused = len(refused)
        said = "; ".join(f"line {r.index + 1}: {r.field or 'line'} {r.value!r} {r.reason}" for r in refused[:_NAMED])
        raise Problem(400, f"partial write: {exchange.points} points stored, {len(refused)} lines dropped: {said}")
    await exchange.answer(204, b"", headers=headers)


def as_influx(problem: Problem, exchange: Exchange) -> Reply:
    """{"code", "message"} for version 2; {"error"} and a header for version 1."""
    del exchange
    code = _CODES.get(problem.status, "internal error")
    body = msgspec.json.encode({"code": code, "message": problem.detail, "error": problem.detail})
    # A header cannot hold everything that a value may.
    short = problem.detail.encode("ascii", "replace").replace(b"\r", b" ").replace(b"\n", b" ")[:500]
    return Reply(problem.status, body, JSON, [*problem.headers, (b"x-influxdb-error", short)])
