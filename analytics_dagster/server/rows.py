"""The raw rows behind a figure over HTTP: a page that links from figures lead to, and the same as JSON, CSV and Parquet.

The address has the parameters of `/analytics/query`, so that a figure and its rows are asked for alike. Rows say who listened and
who paid (by pseudonym, as they are stored), so they take a permission of their own.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote, urlencode

import msgspec
from fastapi import APIRouter, Path, Query, Response
from fastapi.responses import HTMLResponse

from analytics_dagster.dashboards.row_pages import RowsPage, rows_page
from analytics_dagster.errors import NotFoundError, UserError
from analytics_dagster.metrics.rows import MOST_ROWS, Rows, read_rows
from analytics_dagster.server.asking import Asker, Asking, GuardedRoute, PageRoute, TenantParameter, takes
from analytics_dagster.server.dashboards import HOME, TenantPath, session_markup
from analytics_dagster.server.html import PAGE_HEADERS, html_answer, named_file
from analytics_dagster.server.query import encoded, parse_bound
from analytics_dagster.tenancy.roles import Permission

if TYPE_CHECKING:
    from analytics_dagster.lake.interruption import Interruption
    from analytics_dagster.metrics.query import MetricQuery

pages = APIRouter(route_class=PageRoute)
data = APIRouter(route_class=GuardedRoute)

MEDIA = {"json": "application/json", "csv": "text/csv; charset=utf-8", "parquet": "application/vnd.apache.parquet"}
_ON_A_PAGE = 100
_FOUND: dict[int | str, dict[str, Any]] = {
    404: {"description": "No such tenant, metric, dimension or part."},
    503: {"description": "Too many queries are waiting, or this one took too long."},
}
_FILES: dict[int | str, dict[str, Any]] = {200: {"content": {kind: {} for kind in MEDIA.values()}}, **_FOUND}

Metric = Annotated[str, Query(min_length=1, max_length=255, description="A metric's name or synonym, or a recorded name.")]
From = Annotated[str | None, Query(alias="from", max_length=40, description="First day (UTC), or a time. Default: the first.")]
To = Annotated[str | None, Query(max_length=40, description="Last day (UTC), included, or a time that rows come before.")]
Where = Annotated[list[str] | None, Query(max_length=32, description='Condition on a dimension or label: `country="US"`.')]
Of = Annotated[str | None, Query(max_length=80, description="Which of the figure's rows: a part's name. Default: the first.")]
Offset = Annotated[int, Query(ge=0, le=10**9, description="So many of the first rows are passed over.")]


@dataclass(frozen=True)
class _Asked:
    """Rows as they are asked for."""

    tenant: str
    query: MetricQuery
    of: str | None
    offset: int

    def parameters(self, **changed: object) -> str:
        """The query string of the same rows, from another offset or of another part."""
        asked = self.query
        begin, end = asked.since or asked.first, asked.until or asked.last
        pairs: list[tuple[str, object]] = [("metric", asked.metric)]
        pairs += [(name, at.isoformat()) for name, at in (("from", begin), ("to", end)) if at is not None]
        pairs += [("where", condition) for condition in asked.where]
        pairs += [(name, value) for name, value in {"of": self.of, "offset": self.offset or None, **changed}.items() if value]
        return urlencode(pairs, quote_via=quote)


@pages.get(
    HOME + "/{tenant_id}/rows",
    summary="The rows behind a figure",
    response_class=HTMLResponse,
    responses=_FOUND,
    openapi_extra=takes(Permission.ROWS_READ),
)
async def page(
    who: Asker, tenant_id: TenantPath, metric: Metric, from_: From = None, to: To = None, where: Where = None, of: Of = None,
    offset: Offset = 0,
) -> Response:  # fmt: skip
    """A table of the raw rows, a hundred at a time, with how many there are and what they are in the figure."""
    asked = await _asked(who, tenant_id, (metric, from_, to, where), of, offset)
    found = await _read(who, asked, _ON_A_PAGE)
    at = f"{HOME}/{asked.tenant}/rows"
    behind = found.next_offset
    shown = RowsPage(
        asked.tenant,
        found,
        {kind: f"{at}.{kind}?{asked.parameters()}" for kind in MEDIA},
        {part.name: f"{at}?{asked.parameters(of=part.name, offset=None)}" for part in found.parts},
        f"{at}?{asked.parameters(offset=max(0, offset - _ON_A_PAGE))}" if offset else None,
        f"{at}?{asked.parameters(offset=behind)}" if behind is not None else None,
        asked.query.where,
    )
    return html_answer(rows_page(shown, session_markup(who)))


@pages.get(
    HOME + "/{tenant_id}/rows.{kind}",
    summary="The rows behind a figure as a file",
    response_class=Response,
    responses=_FILES,
    openapi_extra=takes(Permission.ROWS_READ),
)
async def file(
    who: Asker, tenant_id: TenantPath, kind: Annotated[str, Path(max_length=16, description="json, csv or parquet.")],
    metric: Metric, from_: From = None, to: To = None, where: Where = None, of: Of = None, offset: Offset = 0,
) -> Response:  # fmt: skip
    """The same rows, as many as an answer takes; a file that was cut says so at its end."""
    if kind not in MEDIA:
        raise NotFoundError(f"no file 'rows.{kind}'; there are {', '.join('.' + known for known in MEDIA)}")
    asked = await _asked(who, tenant_id, (metric, from_, to, where), of, offset)
    found = await _read(who, asked, MOST_ROWS)
    named = named_file(f"{asked.tenant}-{found.metric.name}-rows.{kind}")
    return Response(_encoded(asked, found, kind), media_type=MEDIA[kind], headers={**PAGE_HEADERS, **named})


@data.get(
    "/analytics/rows",
    summary="The rows behind a figure",
    response_class=Response,
    responses=_FILES,
    openapi_extra=takes(Permission.ROWS_READ),
)
async def rows(
    who: Asker, metric: Metric, from_: From = None, to: To = None, where: Where = None, of: Of = None, offset: Offset = 0,
    limit: Annotated[int, Query(ge=1, le=MOST_ROWS, description="At most so many, the earliest.")] = 1_000,
    format: Annotated[str, Query(max_length=16, description="json, csv or parquet.")] = "json",
    tenant: TenantParameter = None,
) -> Response:  # fmt: skip
    """Raw rows in the raw table's columns, by time, with their number and the figure that they are behind."""
    if format not in MEDIA:
        raise UserError(f"format {format!r} is not known; one of {', '.join(MEDIA)}")
    asked = await _asked(who, tenant, (metric, from_, to, where), of, offset)
    found = await _read(who, asked, limit)
    return Response(_encoded(asked, found, format), media_type=MEDIA[format])


async def _asked(
    who: Asking,
    tenant: str | None,
    given: tuple[str, str | None, str | None, list[str] | None],
    of: str | None,
    offset: int,
) -> _Asked:
    from analytics_dagster.metrics.query import MetricQuery

    metric, from_, to, where = given
    first, since = parse_bound("from", from_)
    last, until = parse_bound("to", to)
    if first and last and first > last:
        raise UserError(f"from={from_} is after to={to}")
    named = await who.service.in_thread(who.tenant, tenant)
    return _Asked(named, MetricQuery(metric, first, last, where=tuple(where or ()), since=since, until=until), of, offset)


async def _read(who: Asking, asked: _Asked, limit: int) -> Rows:
    installation = who.service.installation
    settings = installation.settings
    known = {
        "stream_ms": settings.analytics_stream_seconds * 1000,
        "session_gap_ms": settings.analytics_session_gap_minutes * 60_000,
    }

    def work(interruption: Interruption) -> Rows:
        return read_rows(
            installation.lake.tenant(asked.tenant),
            who.service.queries.catalogue_of(asked.tenant),
            asked.query,
            parameters=known,
            of=asked.of,
            offset=asked.offset,
            limit=limit,
            interruption=interruption,
        )

    return await who.service.queries.work(asked.tenant, work, who.exchange.client_gone())


def _encoded(asked: _Asked, found: Rows, kind: str) -> bytes:
    table, behind = found.table, found.next_offset
    if kind == "parquet":
        import pyarrow.parquet as pq

        sink = io.BytesIO()
        said = {"truncated": str(behind is not None).lower(), "total": str(found.total)}
        pq.write_table(table.replace_schema_metadata(said), sink, compression="zstd")
        return sink.getvalue()
    if kind == "csv":
        body = encoded(table, "csv", whole=False)
        told = f"# rows {asked.offset + 1} to {behind} of {found.total}; the next ones begin at offset={behind}\n"
        return body if behind is None else body + told.encode()
    document = {
        "tenant": asked.tenant,
        "metric": found.metric.name,
        "figure": found.figure,
        "counted": found.counted,
        "of": found.part.name,
        "parts": [{"name": one.name, "role": one.role, "rows": one.words} for one in found.parts],
        "from": found.range.begin,
        "before": found.range.end,
        "where": list(asked.query.where),
        "total": found.total,
        "offset": asked.offset,
        "next_offset": behind,
        "truncated": behind is not None,
        "rows": table.to_pylist(),
    }
    return msgspec.json.encode(document)
