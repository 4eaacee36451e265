"""POST /api/v1/write: Prometheus remote write 1.0. Good samples are stored, and 400 says which were not: senders drop on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from analytics_dagster.server.door import Reply
from analytics_dagster.server.exchange import Exchange
from analytics_dagster.server.intake import inflated, parsed, sender, store
from analytics_dagster.server.problems import Problem
from analytics_dagster.tenancy.roles import Permission

if TYPE_CHECKING:
    from analytics_dagster.server.service import Service

_PROTOBUF = ("application/x-protobuf", "application/protobuf", "")
_ENCODINGS = ("snappy", "zstd")  # zstd is what vmagent prefers
_VERSION_1 = "prometheus.writerequest"
_NAMED = 10


async def take_samples(service: Service, exchange: Exchange) -> None:
    who = await sender(service, exchange, Permission.METRICS_WRITE)
    _require_version_1(exchange.header(b"content-type"))
    encoding = exchange.header(b"content-encoding").strip().lower() or "snappy"
    if encoding not in _ENCODINGS:
        raise Problem(415, f"Content-Encoding {encoding!r} is not taken; remote write sends snappy")
    raw = await exchange.body(service.body_limit)
    body = await inflated(service, raw, encoding)
    written = await parsed(service, who, len(body), lambda readers, admission: readers.remote_write.read(body, admission))
    headers = await store(service, exchange, written.parsed.points)
    refused = written.parsed.refused
    if refused:
        exchange.refused = len(refused)
        said = "; ".join(f"{r.field or 'series'} {r.value!r} {r.reason}" for r in refused[:_NAMED])
        raise Problem(400, f"{exchange.points} samples were stored, {len(refused)} refused: {said}")
    await exchange.answer(204, b"", headers=headers)


def as_text(problem: Problem, exchange: Exchange) -> Reply:
    """Senders log the first line of the answer."""
    del exchange
    return Reply(problem.status, problem.detail.encode("utf-8"), b"text/plain; charset=utf-8", problem.headers)


def _require_version_1(content_type: str) -> None:
    media, *parameters = [part.strip().lower() for part in content_type.split(";")]
    if media not in _PROTOBUF:
        raise Problem(415, f"Content-Type {media!r} is not taken; remote write sends application/x-protobuf")
    proto = next((value.strip('"') for name, _, value in (p.partition("=") for p in parameters) if name == "proto"), _VERSION_1)
    if proto != _VERSION_1:
        raise Problem(415, f"the message {proto!r} is not taken; send prometheus.WriteRequest (remote write 1.0)")
