"""FastAPI's part of the API: figures, the catalogue, keys, tenants, usage, audit and quarantine.

Each route is thin: who asks, one function of the room that owns the matter, a document.
"""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Response

from analytics_dagster.errors import ForeignTenantError, NotFoundError, UserError
from analytics_dagster.metrics.declarations import Grain, Metric
from analytics_dagster.metrics.query import MetricQuery
from analytics_dagster.server.asking import Asker, GuardedRoute, TenantParameter, takes
from analytics_dagster.server.documents import (
    AuditDocument,
    CreatedKeyDocument,
    KeyDocument,
    MetricDocument,
    NewKeyDocument,
    NewTenantDocument,
    QuarantineDocument,
    RestatementDocument,
    TenantDocument,
    UsageDocument,
)
from analytics_dagster.server.query import ARROW, MEDIA, chosen_format, parse_bound
from analytics_dagster.tenancy.keys import KeyRecord
from analytics_dagster.tenancy.roles import Permission, Role

router = APIRouter(route_class=GuardedRoute)

_MOST_LISTED = 10_000
Limit = Annotated[int, Query(ge=1, le=_MOST_LISTED, description="At most so many, the newest.")]
_FIGURES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The columns `ts` (start of the bucket), one for each `by`, with `top` also `rank`, and `value`.",
        "content": {
            "application/json": {"schema": {"type": "array", "items": {"type": "object"}}},
            "text/csv": {"schema": {"type": "string"}},
            ARROW: {"schema": {"type": "string", "format": "binary"}},
        },
    },
    406: {"description": "None of the media types in Accept is there."},
    422: {"description": "The answer would have too many rows."},
    503: {"description": "Too many queries are waiting, or this one took too long."},
}


@router.get(
    "/analytics/query",
    summary="Figures of a metric",
    response_class=Response,
    responses=_FIGURES,
    openapi_extra=takes(Permission.FIGURES_READ),
)
async def query(
    who: Asker,
    metric: Annotated[str, Query(min_length=1, max_length=255, description="A metric's name or synonym, or a recorded name.")],
    from_: Annotated[
        str | None, Query(alias="from", max_length=40, description="First day (UTC), or a time (RFC 3339). Default: the first.")
    ] = None,
    to: Annotated[
        str | None,
        Query(max_length=40, description="Last day (UTC), included, or a time that buckets begin before. Default: the last."),
    ] = None,
    grain: Annotated[
        Grain, Query(description="Length of a bucket; weeks begin on Monday, minutes are for recorded points.")
    ] = Grain.DAY,
    by: Annotated[list[str] | None, Query(max_length=16, description="Split by this dimension or label.")] = None,
    where: Annotated[
        list[str] | None,
        Query(max_length=32, description='Condition on a dimension or label: `country="US"`, with = != =~ !~.'),
    ] = None,
    aggregate: Annotated[
        str | None, Query(max_length=16, description="Of recorded points: avg, sum, min, max, last, count, p50, p95, p99.")
    ] = None,
    top: Annotated[
        int | None,
        Query(ge=1, le=1_000, description="Of the first `by` so many elements, the greatest over the range; the others are one."),
    ] = None,
    tenant: TenantParameter = None,
    format: Annotated[str | None, Query(description="json, csv or arrow (an IPC stream). Default: what Accept says.")] = None,
) -> Response:
    """Figures, points that were acknowledged a moment ago included. A bucket without rows is left out."""
    answer_as = chosen_format(format, who.exchange.header(b"accept"))
    first, since = parse_bound("from", from_)
    last, until = parse_bound("to", to)
    begin, end = since or first, until or last
    if begin and end and _moment(begin) > _moment(end):
        raise UserError(f"from={from_} is after to={to}")
    named = await who.service.in_thread(who.tenant, tenant)
    asked = MetricQuery(metric, first, last, grain, tuple(by or ()), tuple(where or ()), aggregate, since, until, top)
    body = await who.service.queries.run(named, asked, answer_as, who.exchange.client_gone())
    return Response(body, media_type=MEDIA[answer_as])


@router.get("/analytics/metrics", summary="The catalogue of metrics", openapi_extra=takes(Permission.CATALOGUE_READ))
def metrics(who: Asker, tenant: TenantParameter = None) -> list[MetricDocument]:
    """Declared metrics, then the names that the tenant recorded points under."""
    from analytics_dagster.metrics.recorded import recorded_names

    named = who.tenant(tenant)
    catalogue, lake = who.service.queries.catalogue_of(named), who.service.installation.lake.tenant(named)
    declared = [_declared(metric, catalogue.family_of(metric).name, catalogue) for metric in catalogue.metrics]
    recorded = [_recorded(name, kind) for name, kind in recorded_names(lake, catalogue, who.service.queries.fresh).items()]
    return [*declared, *recorded]


@router.get("/analytics/keys", summary="Keys, never their text", openapi_extra=takes(Permission.KEYS_READ))
def keys(who: Asker, tenant: TenantParameter = None) -> list[KeyDocument]:
    """The keys that are for this key's tenant alone; a platform-admin's sees all, or one tenant's."""
    records = who.service.keys.list()
    if who.principal.tenants is not None or tenant:
        only = {who.tenant(tenant)}
        records = [record for record in records if record.tenants is not None and set(record.tenants) <= only]
    return [KeyDocument(**_key(record)) for record in records]


@router.post("/analytics/keys", summary="Make a key", status_code=201, openapi_extra=takes(Permission.KEYS_MANAGE))
def create_key(who: Asker, wanted: NewKeyDocument) -> CreatedKeyDocument:
    """None is made above the key that asks, and none for several tenants: those are made on the command line only."""
    if wanted.expires_at is not None and wanted.expires_at.tzinfo is None:
        raise UserError(f"expires_at {wanted.expires_at.isoformat()} has no time zone; write it with Z or an offset")
    if wanted.tenant is not None and not who.principal.reaches(wanted.tenant):
        raise ForeignTenantError(wanted.tenant)
    tenant = wanted.tenant or who.principal.sole_tenant
    everywhere = wanted.role is Role.PLATFORM_ADMIN and wanted.tenant is None
    tenants = None if everywhere else [tenant] if tenant else []
    created = who.service.keys.create(
        wanted.role, tenants, name=wanted.name, expires_at=wanted.expires_at, minted_by=who.principal
    )
    return CreatedKeyDocument(key=created.secret, **_key(created.record))


@router.delete("/analytics/keys/{key_id}", summary="Revoke a key", status_code=204, openapi_extra=takes(Permission.KEYS_MANAGE))
def revoke_key(who: Asker, key_id: Annotated[str, Path(max_length=64)]) -> None:
    """It stops working within 5 s in every process. Another tenant's key is not found."""
    try:
        who.service.keys.revoke(key_id, actor=who.principal)
    except NotFoundError:
        who.service.access.note_foreign(who.exchange, key_id, who.principal)
        raise


@router.get("/analytics/tenants", summary="Tenants", openapi_extra=takes(Permission.TENANTS_READ))
def tenants(who: Asker) -> list[TenantDocument]:
    """All tenants with their state."""
    records = who.service.installation.tenants.records()
    return [TenantDocument(tenant=r.tenant, status=r.status.value, created_at=r.created_at, demo=r.demo) for r in records]


@router.post("/analytics/tenants", summary="Register a tenant", status_code=201, openapi_extra=takes(Permission.TENANTS_MANAGE))
def add_tenant(who: Asker, wanted: NewTenantDocument) -> TenantDocument:
    """Register a tenant; one that is there already is left as it is."""
    registered = who.service.installation.tenants
    registered.ensure(wanted.tenant, actor=who.principal.key_id, request_id=who.exchange.request_id)
    record = next(r for r in registered.records() if r.tenant == wanted.tenant)
    return TenantDocument(tenant=record.tenant, status=record.status.value, created_at=record.created_at, demo=record.demo)


@router.get("/analytics/usage", summary="What a tenant used", openapi_extra=takes(Permission.USAGE_READ))
def usage(
    who: Asker,
    from_: Annotated[dt.date | None, Query(alias="from", description="First day (UTC).")] = None,
    to: Annotated[dt.date | None, Query(description="Last day (UTC), included.")] = None,
    tenant: TenantParameter = None,
) -> list[UsageDocument]:
    """By day of arrival, oldest first."""
    return [UsageDocument(**asdict(day)) for day in who.service.usage.days(who.tenant(tenant), from_, to)]


@router.get("/analytics/audit", summary="The audit trail", openapi_extra=takes(Permission.AUDIT_READ))
def audit(who: Asker, limit: Limit = 1_000, tenant: TenantParameter = None) -> list[AuditDocument]:
    """The newest rows, oldest of them first; of one tenant, or of all for a platform-admin's key that names none."""
    only = who.tenant(tenant) if tenant or who.principal.tenants is not None else None
    return [AuditDocument(**asdict(entry)) for entry in who.service.audit.entries(tenant=only, limit=limit)]


@router.get("/analytics/quarantine", summary="Records that could not be taken", openapi_extra=takes(Permission.QUARANTINE_READ))
def quarantine(
    who: Asker,
    limit: Limit = 1_000,
    tenant: TenantParameter = None,
) -> list[QuarantineDocument]:
    """The newest records, oldest of them first."""
    newest = who.service.installation.landing.quarantined(who.tenant(tenant), limit)
    fields = list(QuarantineDocument.model_fields)
    return [
        QuarantineDocument(**{**row, "original": row["original"].decode("utf-8", "replace")})
        for row in newest.select(fields).to_pylist()
    ]


@router.get("/analytics/restatements", summary="Published figures that changed", openapi_extra=takes(Permission.FIGURES_READ))
def restatements(
    who: Asker,
    from_: Annotated[dt.date | None, Query(alias="from", description="First day whose figures changed (UTC).")] = None,
    to: Annotated[dt.date | None, Query(description="Last such day (UTC), included.")] = None,
    metric: Annotated[str | None, Query(max_length=255, description="Only this metric; a name or synonym.")] = None,
    limit: Limit = 1_000,
    tenant: TenantParameter = None,
) -> list[RestatementDocument]:
    """Figures of closed days that changed after they were published, with the reason; in the order in which it was noted."""
    from analytics_dagster.metrics.ledger import restatements as read

    if from_ and to and from_ > to:
        raise UserError(f"from={from_} is after to={to}")
    lake = who.service.installation.lake.tenant(who.tenant(tenant))
    name = who.service.queries.catalogue_of(lake.tenant).metric(metric).name if metric else None
    rows = read(lake, first=from_, last=to, metric=name, limit=limit).to_pylist()
    return [RestatementDocument(**{**row, "dimensions": json.loads(row["dimensions"])}) for row in rows]


def _moment(bound: dt.date | dt.datetime) -> dt.datetime:
    return bound if isinstance(bound, dt.datetime) else dt.datetime.combine(bound, dt.time(), dt.UTC)


def _declared(metric: Metric, family: str, catalogue: Any) -> MetricDocument:
    return MetricDocument(
        name=metric.name,
        description=metric.description,
        type=metric.type,
        unit=metric.unit,
        direction=metric.direction.value,
        owner=metric.owner,
        synonyms=list(metric.synonyms),
        family=family,
        dimensions=[d.name for d in catalogue.dimensions_of(metric)],
        recorded=False,
    )


def _recorded(name: str, kind: str) -> MetricDocument:
    return MetricDocument(
        name=name,
        description=f"Points recorded as a {kind}.",
        type=kind,
        unit="",
        direction="neutral",
        owner="",
        synonyms=[],
        family="points",
        dimensions=[],
        recorded=True,
    )


def _key(record: KeyRecord) -> dict[str, Any]:
    return {**asdict(record), "tenants": None if record.tenants is None else list(record.tenants)}
