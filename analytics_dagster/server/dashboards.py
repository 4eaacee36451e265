"""Dashboards over HTTP: pages for people, and the same views as JSON, CSV, Parquet, PDF and pictures.

Each route is thin: who asks, a view from the address, `dashboards.page.read_page` when it is the tenant's turn, an answer.
"""

from __future__ import annotations

import datetime as dt
import gzip
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import HTMLResponse

from analytics_dagster.dashboards.boards import Board, load_boards
from analytics_dagster.dashboards.own import RESERVED, OwnBoards, board_text, read_saved
from analytics_dagster.dashboards.pages import Addresses, Drawing, Surroundings, board_page, chart_of, static_files, tenants_page
from analytics_dagster.dashboards.view import Compare, Period, View, parse_view
from analytics_dagster.errors import DeclarationError, NotFoundError
from analytics_dagster.server.asking import Asker, Asking, GuardedRoute, PageRoute, form_of, takes
from analytics_dagster.server.html import PAGE_HEADERS, html_answer, named_file, see_other
from analytics_dagster.tenancy.roles import Permission, may

if TYPE_CHECKING:
    from collections.abc import Callable

    from markupsafe import Markup

    from analytics_dagster.dashboards.page import Page
    from analytics_dagster.lake.interruption import Interruption

Made = TypeVar("Made")

pages = APIRouter(route_class=PageRoute)
data = APIRouter(route_class=GuardedRoute)

HOME = "/dashboards"
_LONG = {"cache-control": "public, max-age=31536000, immutable"}
_LEAST_COMPRESSED = 1_000
_DOCUMENTS = {
    "json": "application/json",
    "csv": "text/csv; charset=utf-8",
    "parquet": "application/vnd.apache.parquet",
    "pdf": "application/pdf",
    "svg": "image/svg+xml",
    "png": "image/png",
}
_YAML = "application/yaml"
_COMPRESSED_ALREADY = ("image/png", "application/pdf", "application/vnd.apache.parquet")
_PNG_SCALE = 2.0

TenantPath = Annotated[str, Path(max_length=63, description="Tenant. Another's is not found.")]
_FOUND: dict[int | str, dict[str, Any]] = {
    303: {"description": "The same view under its shortest address, or the page that stands behind this address."},
    404: {"description": "No such tenant or dashboard."},
    503: {"description": "Too many queries are waiting, or this one took too long."},
}
_NO_FORM: dict[str, Any] = {"description": "Not a form."}
_FEEDBACK: dict[str, Any] = {
    "requestBody": {
        "content": {
            "application/x-www-form-urlencoded": {
                "schema": {"type": "object", "properties": {"verdict": {"enum": ["useful", "dismiss"]}}, "required": ["verdict"]}
            }
        },
        "required": True,
    }
}
_DATA = {status: told for status, told in _FOUND.items() if status != 303}
_PAGE: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/html": {"schema": {"type": "string"}}, **{kind: {} for kind in _DOCUMENTS.values()}}},
    **_FOUND,
}


@pages.get("/", summary="The dashboards", status_code=303, openapi_extra=takes(None), response_class=Response)
async def home() -> Response:
    """Goes on to the list of tenants."""
    return see_other(HOME)


@pages.get(
    HOME,
    summary="Tenants to look at",
    response_class=HTMLResponse,
    responses=_FOUND,
    openapi_extra=takes(Permission.FIGURES_READ),
)
async def tenants(request: Request, who: Asker) -> Response:
    """The tenants that the asker may see; of one there is nothing to choose."""
    known = await who.service.in_thread(who.service.directory.known)
    mine = sorted(known if who.principal.tenants is None else known & who.principal.tenants)
    if len(mine) == 1:
        return see_other(f"{HOME}/{mine[0]}")
    return _sent(request, html_answer(tenants_page(mine, session_markup(who))))


@pages.get(
    HOME + "/{tenant_id}",
    summary="A tenant's first page",
    status_code=303,
    response_class=Response,
    responses=_FOUND,
    openapi_extra=takes(Permission.FIGURES_READ),
)
async def first_page(who: Asker, tenant_id: TenantPath) -> Response:
    """Goes on to the overview."""
    tenant = await who.service.in_thread(who.tenant, tenant_id)
    return see_other(f"{HOME}/{tenant}/overview")


@pages.get(
    HOME + "/{tenant_id}/{page}",
    summary="A dashboard",
    response_class=HTMLResponse,
    responses=_PAGE,
    openapi_extra=takes(Permission.FIGURES_READ),
)
async def dashboard(
    request: Request,
    who: Asker,
    tenant_id: TenantPath,
    page: Annotated[str, Path(max_length=80, description="A dashboard's name; with .json, .csv, .parquet or .pdf as a file.")],
) -> Response:
    """A view of a dashboard. The address is the whole state; `.svg` and `.png` are the picture of the chosen metric."""
    tenant = await who.service.in_thread(who.tenant, tenant_id)
    name, _, kind = page.partition(".")
    if kind and kind not in (*_DOCUMENTS, "yaml"):
        raise NotFoundError(f"no file {page!r} of a dashboard; there are {', '.join('.' + known for known in _DOCUMENTS)}, .yaml")
    board = await who.service.in_thread(board_of, who, tenant, name)
    if kind == "yaml":
        return Response(board_text(board), media_type=_YAML, headers={**PAGE_HEADERS, **named_file(f"{tenant}-{page}")})
    view = parse_view(_query(request))
    if not kind:
        canonical = Addresses(tenant, board, view).here(view)
        if _query(request) and canonical != f"{request.url.path}?{_query(request)}":
            return see_other(canonical)
        around = await who.service.in_thread(surroundings, who, tenant, board)
        return _sent(request, html_answer(await _read_drawn(who, tenant, board, view, around)))
    body = await _read(who, tenant, board, view, _document(who, kind))
    headers = {**PAGE_HEADERS, **named_file(f"{tenant}-{page}")}
    return _sent(request, Response(body, headers=headers, media_type=_DOCUMENTS[kind]))


@data.get(
    "/static/{name}",
    summary="Styles and scripts of pages",
    response_class=Response,
    responses={404: {"description": "No such file."}},
    openapi_extra=takes(None),
)
async def static(request: Request, name: Annotated[str, Path(max_length=80)]) -> Response:
    """The name changes with the content, so browsers keep it."""
    known = static_files().get(name)
    if known is None:
        raise NotFoundError(f"no file {name!r}")
    content, media_type = known
    return _sent(request, Response(content, headers=_LONG, media_type=media_type))


@data.get(
    "/analytics/dashboard/{tenant_id}",
    summary="The data of a dashboard",
    response_class=Response,
    responses={200: {"content": {"application/json": {"schema": {"type": "object"}}}}, **_DATA},
    openapi_extra=takes(Permission.FIGURES_READ),
)
async def dashboard_data(
    request: Request,
    who: Asker,
    tenant_id: TenantPath,
    dashboard: Annotated[str, Query(max_length=63, description="The dashboard's name.")] = "overview",
    period: Annotated[Period, Query(description="How much is looked at.")] = Period.FOUR_WEEKS,
    from_: Annotated[dt.date | None, Query(alias="from", description="First day (UTC) of a custom period.")] = None,
    to: Annotated[dt.date | None, Query(description="Last day (UTC), included. Default: the newest with figures.")] = None,
    compare: Annotated[
        str, Query(max_length=24, description="previous, year, off, or days as 2025-12-01..2025-12-28.")
    ] = Compare.PREVIOUS,
    f: Annotated[list[str] | None, Query(max_length=16, description="Filter, as is,country,DE,FR.")] = None,
    metric: Annotated[str | None, Query(max_length=63, description="Metric of the main chart.")] = None,
) -> Response:
    """Everything that the page of the same view says, in one trip: figures, series, leaderboards, findings, freshness."""
    tenant = await who.service.in_thread(who.tenant, tenant_id)
    wanted = "&".join(part for part in _query(request).split("&") if part and part.partition("=")[0] != "dashboard")
    board = await who.service.in_thread(board_of, who, tenant, dashboard)
    body = await _read(who, tenant, board, parse_view(wanted), _document(who, "json"))
    return _sent(request, Response(body, media_type=_DOCUMENTS["json"]))


@data.get(
    "/analytics/insights/{tenant_id}",
    summary="What changed, ranked",
    response_class=Response,
    responses={200: {"content": {"application/json": {"schema": {"type": "object"}}}}, **_DATA},
    openapi_extra=takes(Permission.FIGURES_READ),
)
async def insights(
    request: Request,
    who: Asker,
    tenant_id: TenantPath,
    day: Annotated[dt.date | None, Query(description="Day (UTC). Default: the newest with figures.")] = None,
) -> Response:
    """Findings of a day by impact times significance, with where each difference lies and how far the data can be trusted."""
    tenant = await who.service.in_thread(who.tenant, tenant_id)
    body = await who.service.queries.work(tenant, lambda _: _insights(who, tenant, day), who.exchange.client_gone())
    return _sent(request, Response(body, media_type=_DOCUMENTS["json"]))


@data.post(
    "/analytics/insights/{tenant_id}/{finding}/feedback",
    summary="Say of a finding that it is useful, or dismiss it",
    status_code=204,
    response_class=Response,
    responses={303: {"description": "Noted; goes on to the overview, for a page's form."}, 404: _FOUND[404], 415: _NO_FORM},
    openapi_extra={**takes(Permission.DASHBOARDS_EDIT), **_FEEDBACK},
)
async def feedback(
    request: Request, who: Asker, tenant_id: TenantPath, finding: Annotated[str, Path(max_length=32, description="Its id.")]
) -> Response:
    """`verdict`: useful or dismiss. A dismissed finding stays away from pages and answers, its story for two weeks."""
    from analytics_dagster.dashboards.feedback import Feedback

    service = who.service
    tenant = await service.in_thread(who.tenant, tenant_id)
    [verdict] = (await form_of(request)).get("verdict", [""])[:1]
    notes = Feedback(service.installation.database, service.clock)
    author = who.principal.name or who.principal.key_id
    await service.in_thread(lambda: notes.say(tenant, finding, verdict, author))
    return see_other(f"{HOME}/{tenant}/overview") if who.session else Response(status_code=204)


# --- reading


async def _read(who: Asking, tenant: str, board: Board, view: View, made: Callable[[Page], Made]) -> Made:
    """Read a board and make something of it, in a thread, when it is the tenant's turn."""
    from analytics_dagster.dashboards.page import read_page

    service = who.service

    def work(interruption: Interruption) -> Made:
        page = read_page(service.installation, service.queries.catalogue_of(tenant), tenant, board, view, interruption)
        interruption.check()
        return made(page)

    return await service.queries.work(tenant, work, who.exchange.client_gone())


async def _read_drawn(who: Asking, tenant: str, board: Board, view: View, around: Surroundings) -> str:
    """A board as HTML; charts are drawn while others are read."""
    from analytics_dagster.dashboards.page import read_page

    service, catalogue = who.service, who.service.queries.catalogue_of(tenant)

    def work(interruption: Interruption) -> str:
        with Drawing() as drawing:
            page = read_page(service.installation, catalogue, tenant, board, view, interruption, drawing.begin)
        interruption.check()
        return board_page(page, catalogue, around)

    return await service.queries.work(tenant, work, who.exchange.client_gone())


def own_boards(who: Asking) -> OwnBoards:
    """The boards that tenants made."""
    return OwnBoards(who.service.installation.database, who.service.clock)


def board_of(who: Asking, tenant: str, name: str) -> Board:
    """A built-in board, or one of the tenant's own. Raises NotFoundError; waits for the database."""
    catalogue = who.service.queries.catalogue()
    built_in = load_boards(catalogue)
    if name in RESERVED:
        return built_in.board(name)
    try:
        return read_saved(own_boards(who).get(tenant, name), who.service.queries.catalogue_of(tenant))
    except NotFoundError:
        return built_in.board(name)  # which says what there is


def surroundings(who: Asking, tenant: str, board: Board) -> Surroundings:
    """What stands around a board; waits for the database."""
    service = who.service
    catalogue = service.queries.catalogue()
    built_in = load_boards(catalogue).boards
    catalogue = service.queries.catalogue_of(tenant)
    mine = []
    for saved in own_boards(who).all(tenant):
        try:
            mine.append(read_saved(saved, catalogue))
        except DeclarationError:
            continue  # a metric is no longer declared; its own page and the page for editing say so
    own = board.name not in {one.name for one in built_in}
    may_edit = may(who.principal.role, Permission.DASHBOARDS_EDIT)
    return Surroundings(
        (*built_in, *mine),
        service.settings.analytics_public_url,
        service.clock.now(),
        session_markup(who),
        may_edit,
        own,
        may_see_rows=may(who.principal.role, Permission.ROWS_READ),
        may_annotate=may(who.principal.role, Permission.ANNOTATIONS_EDIT),
        may_send=may(who.principal.role, Permission.REPORTS_MANAGE),
        csrf=who.csrf_field if who.session else "",
    )


def _document(who: Asking, kind: str) -> Callable[[Page], bytes]:
    from analytics_dagster.dashboards import documents
    from analytics_dagster.dashboards.pdf import as_pdf

    made: dict[str, Callable[[Page], bytes]] = {
        "json": documents.as_json,
        "csv": documents.as_csv,
        "parquet": documents.as_parquet,
        "pdf": lambda page: as_pdf(page, who.service.clock.now()),
        "svg": _svg,
        "png": _png,
    }
    return made[kind]


def _svg(page: Page) -> bytes:
    """The chart of the view's metric, wherever the board shows it."""
    trends = [trend for panel in page.panels for trend in panel.trends]
    wanted = page.view.metric or next((trend.figure.shown.metric.name for trend in trends), "")
    for trend in trends:
        if trend.figure.shown.metric.name == wanted:
            return chart_of(trend).svg.encode()
    raise NotFoundError(f"the dashboard {page.board.name!r} has no figures of {wanted!r} in this view")


def _png(page: Page) -> bytes:
    import vl_convert

    made: bytes = vl_convert.svg_to_png(_svg(page).decode(), scale=_PNG_SCALE)
    return made


def _insights(who: Asking, tenant: str, day: dt.date | None) -> bytes:
    from analytics_dagster.dashboards.documents import insights_json
    from analytics_dagster.dashboards.evidence import Evidence

    installation = who.service.installation
    evidence = Evidence(installation, installation.lake.tenant(tenant))
    trust = evidence.trust()
    if day is None:
        day = trust.through if trust else who.service.clock.now().date() - dt.timedelta(days=1)
    return insights_json(tenant, evidence.findings(day), trust)


def _query(request: Request) -> str:
    return bytes(request.scope["query_string"]).decode("latin-1")


def session_markup(who: Asking) -> Markup:
    """A button to sign out; nothing for a key, which has no session."""
    from markupsafe import Markup

    if who.session is None:
        return Markup("")
    return Markup(
        '<form method="post" action="/signout">{}<a href="/account">Account</a> <button>Sign out</button></form>'
    ).format(who.csrf_field)


def _sent(request: Request, answer: Response) -> Response:
    """Compressed where the client takes it and it is worth it."""
    body = bytes(answer.body)
    if (
        len(body) < _LEAST_COMPRESSED
        or "gzip" not in request.headers.get("accept-encoding", "")
        or answer.media_type in _COMPRESSED_ALREADY
    ):
        return answer
    made = gzip.compress(body, compresslevel=5, mtime=0)
    kept = {name: value for name, value in answer.headers.items() if name != "content-length"}
    return Response(made, answer.status_code, {**kept, "content-encoding": "gzip", "vary": "accept-encoding"})
