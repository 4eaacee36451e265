"""POST /v1/metrics: OpenTelemetry's metrics over HTTP, protobuf and JSON. What cannot be taken is told as partial success."""

from __future__ import annotations

from typing import TYPE_CHECKING

from analytics_dagster.server.door import Reply
from analytics_dagster.server.exchange import JSON, Exchange
from analytics_dagster.server.intake import inflated, parsed, sender, store
from analytics_dagster.server.problems import Problem
from analytics_dagster.tenancy.roles import Permission

if TYPE_CHECKING:
    from analytics_dagster.server.service import Service

_PROTOBUF = b"application/x-protobuf"
_MEDIA = {"application/x-protobuf": False, "application/json": True}
# google.rpc.Code for our statuses; what is not here is INTERNAL.
_CODES = {400: 3, 408: 4, 413: 3, 415: 3, 422: 3, 401: 16, 403: 7, 404: 5, 405: 12, 421: 3, 429: 8, 503: 14}
_INTERNAL = 13


async def take_data_points(service: Service, exchange: Exchange) -> None:
    """200 with an ExportMetricsServiceResponse, in the encoding of the request."""
    from analytics_dagster.ingest.wire.otlp import success_answer

    who = await sender(service, exchange, Permission.METRICS_WRITE)
    media = _media(exchange)
    if media not in _MEDIA:
        raise Problem(415, f"Content-Type {media!r} is not taken; OTLP/HTTP sends application/x-protobuf or application/json")
    as_json = _MEDIA[media]
    raw = await exchange.body(service.body_limit)
    body = await inflated(service, raw, exchange.header(b"content-encoding"))
    now = service.now_us()
    written = await parsed(service, who, len(body), lambda readers, admission: readers.otlp.read(body, as_json, admission, now))
    headers = await store(service, exchange, written.parsed.points)
    written.stored()
    exchange.refused = written.rejected
    await exchange.answer(200, success_answer(written, as_json), JSON if as_json else _PROTOBUF, headers)


def as_status(problem: Problem, exchange: Exchange) -> Reply:
    """A google.rpc.Status in the encoding of the request."""
    from analytics_dagster.ingest.wire.otlp import error_answer

    as_json = _MEDIA.get(_media(exchange), True)
    body = error_answer(_CODES.get(problem.status, _INTERNAL), problem.detail, as_json)
    return Reply(problem.status, body, JSON if as_json else _PROTOBUF, problem.headers)


def _media(exchange: Exchange) -> str:
    return exchange.header(b"content-type").partition(";")[0].strip().lower()
