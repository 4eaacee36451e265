"""How the server is: /healthz (alive), /readyz (able to take and answer, and if not, why), /metrics (for Prometheus)."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request, Response

from analytics_dagster import __version__
from analytics_dagster.errors import AnalyticsError
from analytics_dagster.server.asking import OPEN_ON_LOOPBACK, GuardedRoute, exchange_of, service_of, takes
from analytics_dagster.server.documents import AliveDocument, CheckDocument, ReadyDocument
from analytics_dagster.tenancy.roles import Permission

if TYPE_CHECKING:
    from analytics_dagster.server.exchange import Exchange
    from analytics_dagster.server.measures import Reading
    from analytics_dagster.server.service import Service

router = APIRouter(route_class=GuardedRoute)

_PART_KEPT_FREE = 20
# The consumer runs every ten seconds; what waits longer than this is not only busy.
MOST_LAG = dt.timedelta(minutes=5)


@router.get("/healthz", summary="Alive", openapi_extra=takes(None))
async def healthz() -> AliveDocument:
    """The process answers; nothing else is looked at."""
    return AliveDocument(status="ok", version=__version__)


@router.get(
    "/readyz",
    summary="Ready",
    responses={503: {"model": ReadyDocument, "description": "Something is not ready; `checks` says what."}},
    openapi_extra=takes(None),
)
async def readyz(request: Request, response: Response) -> ReadyDocument:
    """Whether the database answers, the log takes rows, and the consumer keeps up. Details are for who may read the state."""
    service, exchange = service_of(request), exchange_of(request)
    open_to_asker = service.private or await _may_read(service, exchange)
    checks = await service.in_thread(_checks, service)
    ready = all(check.ready for check in checks)
    response.status_code = 200 if ready else 503
    if not open_to_asker:
        checks = [CheckDocument(name=check.name, ready=check.ready) for check in checks]
    return ReadyDocument(ready=ready, checks=checks)


@router.get(
    "/metrics",
    summary="Counters for Prometheus",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    openapi_extra={**takes(Permission.STATUS_READ), OPEN_ON_LOOPBACK: True},
)
async def metrics(request: Request) -> Response:
    """All workers added up. Takes a key, unless the server listens on loopback without a proxy in front."""
    from analytics_dagster.server.measures import CONTENT_TYPE, exposition

    service = service_of(request)
    await service.write_counts()
    everybody = await service.in_thread(service.counts.everybody)
    body = await service.in_thread(exposition, everybody, lambda: readings(service))
    return Response(body, media_type=CONTENT_TYPE)


async def _may_read(service: Service, exchange: Exchange) -> bool:
    try:
        await service.access.principal(exchange, Permission.STATUS_READ)
    except AnalyticsError:
        return False
    return True


def _checks(service: Service) -> list[CheckDocument]:
    return [_database(service), _log(service), _consumer(service)]


def _database(service: Service) -> CheckDocument:
    import sqlalchemy as sa

    try:
        with service.installation.database.read() as connection:
            connection.execute(sa.text("SELECT 1"))
    except sa.exc.SQLAlchemyError as error:
        return CheckDocument(name="database", ready=False, detail=f"does not answer: {type(error).__name__}")
    return CheckDocument(name="database", ready=True, detail="answers")


def _log(service: Service) -> CheckDocument:
    from analytics_dagster.ingest.log.limits import Headroom
    from analytics_dagster.ingest.log.open import log_root

    settings = service.settings
    if settings.analytics_log:
        return CheckDocument(name="log", ready=True, detail="Kafka")
    folder = log_root(settings) / service.role
    try:
        headroom = Headroom(folder, settings.analytics_log_max_bytes, settings.analytics_log_segment_bytes)
        # Before it is so full that only small requests fit.
        headroom.check(settings.analytics_log_max_bytes // _PART_KEPT_FREE)
    except AnalyticsError as error:
        return CheckDocument(name="log", ready=False, detail=str(error))
    except OSError as error:
        return CheckDocument(name="log", ready=False, detail=f"{folder} cannot be read: {error.strerror}")
    return CheckDocument(name="log", ready=True, detail="takes rows")


def _consumer(service: Service) -> CheckDocument:
    from analytics_dagster.ingest.log.open import log_backlog

    try:
        waiting = log_backlog(service.settings)
    except (AnalyticsError, OSError) as error:
        return CheckDocument(name="consumer", ready=False, detail=str(error))
    lag = service.clock.now() - waiting.oldest if waiting.oldest else dt.timedelta()
    said = f"{waiting.unconsumed_bytes} bytes wait, the oldest for {max(0.0, lag.total_seconds()):.0f} s"
    return CheckDocument(name="consumer", ready=lag <= MOST_LAG, detail=said)


def readings(service: Service) -> Iterator[Reading]:
    """What is looked up when Prometheus asks, and not counted."""
    import psutil

    from analytics_dagster.ingest.log.limits import backlog
    from analytics_dagster.ingest.log.open import log_root
    from analytics_dagster.reports.sendings import not_sent

    waiting, database = backlog(log_root(service.settings)), service.installation.database
    now = service.clock.now()
    yield (
        "analytics_log_unconsumed_bytes",
        "Bytes of the ingest log that wait to be consumed.",
        {source: float(held.unconsumed_bytes) for source, held in waiting.items()},
    )
    yield (
        "analytics_log_segments",
        "Segments of the ingest log on disk.",
        {source: float(held.segments) for source, held in waiting.items()},
    )
    yield (
        "analytics_consumer_lag_seconds",
        "Age of the oldest batch that waits to be consumed.",
        {source: max(0.0, (now - held.oldest).total_seconds()) if held.oldest else 0.0 for source, held in waiting.items()},
    )
    yield (
        "analytics_reports_not_sent",
        "Recipients whom a report's newest due time did not reach, by tenant.",
        {tenant: float(number) for tenant, number in Counter(one.tenant for one in not_sent(database)).items()},
    )
    parent = psutil.Process().parent()
    family = [parent, *parent.children()] if parent is not None else [psutil.Process()]
    yield (
        "analytics_process_resident_bytes",
        "Memory of the server's processes.",
        {str(process.pid): float(process.memory_info().rss) for process in family if process.is_running()},
    )
