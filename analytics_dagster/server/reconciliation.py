"""GET /analytics/reconciliation: why two counts of the same days differ, by reason; and its plays, for who may read those."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Query

from analytics_dagster.errors import UserError
from analytics_dagster.lake.interruption import Interruption
from analytics_dagster.server.asking import Asker, GuardedRoute, TenantParameter, takes
from analytics_dagster.server.documents import ReconciledPlayDocument, ReconciledPlaysDocument, ReconciliationDocument
from analytics_dagster.tenancy.roles import Permission

if TYPE_CHECKING:
    from analytics_dagster.metrics.counting.reconcile import Reconciler

router = APIRouter(route_class=GuardedRoute)

MOST_ROWS = 10_000
# A server answers beside everything else that it does in a gigabyte.
_MEMORY_LIMIT = "400MB"
_RESPONSES: dict[int | str, dict[str, Any]] = {503: {"description": "Too many queries are waiting, or this one took too long."}}

CountParameter = Annotated[
    str,
    Query(min_length=1, max_length=63, description="A counting policy; with _adjusted behind it, without artificial plays."),
]
From = Annotated[dt.date | None, Query(alias="from", description="First day (UTC). Default: the first.")]
To = Annotated[dt.date | None, Query(description="Last day (UTC), included. Default: the last.")]
Where = Annotated[
    list[str] | None,
    Query(max_length=32, description='Condition on a text column of raw/plays: `country="US"`, with = != =~ !~.'),
]


@router.get(
    "/analytics/reconciliation",
    summary="Why two counts differ",
    responses=_RESPONSES,
    openapi_extra=takes(Permission.FIGURES_READ),
)
async def reconciliation(
    who: Asker,
    a: CountParameter,
    b: CountParameter,
    from_: From = None,
    to: To = None,
    where: Where = None,
    tenant: TenantParameter = None,
) -> ReconciliationDocument:
    """Two counts of a tenant's plays and the difference by reason; the reasons add up to it exactly."""
    from analytics_dagster.metrics.counting.reconcile import report_document

    named = await who.service.in_thread(who.tenant, tenant)
    stream_ms = who.service.installation.settings.analytics_stream_seconds * 1000

    def read(interruption: Interruption) -> ReconciliationDocument:
        report = _reconciler(who, named, (a, b), (from_, to), where, interruption).report()
        return ReconciliationDocument.model_validate(report_document(report, stream_ms))

    return await who.service.queries.work(named, read, who.exchange.client_gone())


@router.get(
    "/analytics/reconciliation/plays",
    summary="The plays that only one of two counts has",
    responses=_RESPONSES,
    openapi_extra=takes(Permission.PLAYS_READ),
)
async def reconciled_plays(
    who: Asker,
    a: CountParameter,
    b: CountParameter,
    from_: From = None,
    to: To = None,
    where: Where = None,
    limit: Annotated[int, Query(ge=1, le=MOST_ROWS, description="At most so many, the earliest.")] = 1_000,
    tenant: TenantParameter = None,
) -> ReconciledPlaysDocument:
    """Each with the count that has it and the reason why the other has not."""
    named = await who.service.in_thread(who.tenant, tenant)

    def read(interruption: Interruption) -> ReconciledPlaysDocument:
        asked = _reconciler(who, named, (a, b), (from_, to), where, interruption)
        # One more tells whether there are more.
        rows = [row for batch in asked.rows(limit + 1) for row in batch.to_pylist()]
        return ReconciledPlaysDocument(
            plays=[ReconciledPlayDocument.model_validate(row) for row in rows[:limit]], truncated=len(rows) > limit
        )

    return await who.service.queries.work(named, read, who.exchange.client_gone())


def _reconciler(
    who: Asker,
    tenant: str,
    names: tuple[str, str],
    days: tuple[dt.date | None, dt.date | None],
    where: list[str] | None,
    interruption: Interruption,
) -> Reconciler:
    from analytics_dagster.metrics.counting.reconcile import Question, Reconciler, counting_of

    first, last = days
    if first and last and first > last:
        raise UserError(f"from={first} is after to={last}")
    installation, catalogue = who.service.installation, who.service.queries.catalogue()
    counting = counting_of(catalogue)
    question = Question((counting.count(names[0]), counting.count(names[1])), first, last, tuple(where or ()))
    return Reconciler(
        installation.lake.tenant(tenant),
        catalogue,
        question,
        stream_ms=installation.settings.analytics_stream_seconds * 1000,
        memory_limit=_MEMORY_LIMIT,
        interruption=interruption,
    )
