"""Making and changing a tenant's own dashboards: forms that work without a script, and the same over the API as YAML.

Every form says which version it was made from. What is refused comes back in its form, so that nothing that was written is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import HTMLResponse

from analytics_dagster.dashboards.boards import Board, parse_board
from analytics_dagster.dashboards.own import (
    Saved,
    board_text,
    moved_panel,
    new_panel,
    read_saved,
    with_panel,
    without_panel,
)
from analytics_dagster.dashboards.pages import edit_page, own_boards_page
from analytics_dagster.errors import ConflictError, DeclarationError, UserError
from analytics_dagster.server.asking import Asker, Asking, GuardedRoute, PageRoute, form_of, takes
from analytics_dagster.server.dashboards import HOME, TenantPath, own_boards, session_markup
from analytics_dagster.server.html import html_answer, see_other
from analytics_dagster.server.problems import Problem
from analytics_dagster.tenancy.roles import Permission

if TYPE_CHECKING:
    from analytics_dagster.metrics.declarations import Catalogue

pages = APIRouter(route_class=PageRoute)
data = APIRouter(route_class=GuardedRoute)

EDIT = HOME + "/{tenant_id}/edit"
_MOST_YAML = 50_000
NamePath = Annotated[str, Path(max_length=63, description="The dashboard's name.")]
_FORM: dict[str, Any] = {
    "requestBody": {"content": {"application/x-www-form-urlencoded": {"schema": {"type": "object"}}}, "required": True}
}
_REFUSED: dict[int | str, dict[str, Any]] = {
    303: {"description": "Saved; goes on to the dashboard's page for editing."},
    404: {"description": "No such tenant or dashboard."},
    409: {"description": "Somebody else saved it meanwhile."},
    415: {"description": "Not a form."},
}
_YAML_BODY: dict[str, Any] = {
    "requestBody": {"content": {"application/yaml": {"schema": {"type": "string", "maxLength": _MOST_YAML}}}, "required": True}
}
Change = Callable[[Board, Mapping[str, list[str]], "Catalogue"], Board]


@pages.get(
    EDIT, summary="A tenant's own dashboards", response_class=HTMLResponse, openapi_extra=takes(Permission.DASHBOARDS_EDIT),
    responses={404: _REFUSED[404]},
)  # fmt: skip
async def own(who: Asker, tenant_id: TenantPath) -> Response:
    """What people of the tenant made, and forms for one more."""
    tenant = await who.service.in_thread(who.tenant, tenant_id)
    return await _list(who, tenant)


@pages.post(
    EDIT,
    summary="Make a dashboard",
    response_class=HTMLResponse,
    status_code=303,
    responses=_REFUSED,
    openapi_extra={**takes(Permission.DASHBOARDS_EDIT), **_FORM},
)
async def create(request: Request, who: Asker, tenant_id: TenantPath) -> Response:
    """From fields with one panel (`do=create`), or from YAML (`do=import`)."""
    tenant = await who.service.in_thread(who.tenant, tenant_id)
    form = await form_of(request)
    try:
        catalogue = await who.service.in_thread(who.service.queries.catalogue_of, tenant)
        board = _imported(form, catalogue) if _one(form, "do") == "import" else _created(form, catalogue)
        await who.service.in_thread(_save, who, tenant, board, 0)
    except UserError as error:
        return await _list(who, tenant, str(error), _one(form, "text"), _status(error))
    return see_other(f"{HOME}/{tenant}/edit/{board.name}")


@pages.get(
    EDIT + "/{name}",
    summary="Edit a dashboard",
    response_class=HTMLResponse,
    responses={404: _REFUSED[404]},
    openapi_extra=takes(Permission.DASHBOARDS_EDIT),
)
async def edit(who: Asker, tenant_id: TenantPath, name: NamePath) -> Response:
    """Its panels with buttons to arrange them, a form for one more, its YAML, and its versions."""
    tenant = await who.service.in_thread(who.tenant, tenant_id)
    return await _edit(who, tenant, name)


@pages.post(
    EDIT + "/{name}",
    summary="Change a dashboard",
    response_class=HTMLResponse,
    status_code=303,
    responses=_REFUSED,
    openapi_extra={**takes(Permission.DASHBOARDS_EDIT), **_FORM},
)
async def change(request: Request, who: Asker, tenant_id: TenantPath, name: NamePath) -> Response:
    """`do`: up, down, drop, add (a panel), write (YAML), restore (a version), remove (the dashboard)."""
    tenant = await who.service.in_thread(who.tenant, tenant_id)
    form = await form_of(request)
    try:
        await who.service.in_thread(_apply, who, tenant, name, form)
    except UserError as error:
        return await _edit(who, tenant, name, str(error), _one(form, "text") or None, _status(error))
    return see_other(f"{HOME}/{tenant}/edit" + ("" if _one(form, "do") == "remove" else f"/{name}"))


@data.get(
    "/analytics/dashboard/{tenant_id}/{name}",
    summary="A dashboard's declaration",
    response_class=Response,
    responses={200: {"content": {"application/yaml": {"schema": {"type": "string"}}}}, 404: _REFUSED[404]},
    openapi_extra=takes(Permission.FIGURES_READ),
)
async def declaration(who: Asker, tenant_id: TenantPath, name: NamePath) -> Response:
    """One of the tenant's own, as YAML; the header ETag has its version."""
    tenant = await who.service.in_thread(who.tenant, tenant_id)
    saved = await who.service.in_thread(own_boards(who).get, tenant, name)
    return Response(saved.text, media_type="application/yaml", headers={"etag": f'"{saved.version}"'})


@data.put(
    "/analytics/dashboard/{tenant_id}/{name}",
    summary="Save a dashboard's declaration",
    status_code=204,
    responses={409: _REFUSED[409], 404: _REFUSED[404]},
    openapi_extra={**takes(Permission.DASHBOARDS_EDIT), **_YAML_BODY},
)
async def save_declaration(
    request: Request,
    who: Asker,
    tenant_id: TenantPath,
    name: NamePath,
    version: Annotated[int, Query(ge=0, description="The version that was changed; 0 for a new dashboard.")] = 0,
) -> None:
    """The body is YAML whose `name` is the address'. Nothing is overwritten that was saved since `version`."""
    tenant = await who.service.in_thread(who.tenant, tenant_id)
    catalogue = await who.service.in_thread(who.service.queries.catalogue_of, tenant)
    board = parse_board((await request.body()).decode("utf-8", "replace"), f"{name}.yaml", catalogue)
    if board.name != name:
        raise UserError(f"the body names the dashboard {board.name!r} and the address {name!r}; they must be equal")
    await who.service.in_thread(_save, who, tenant, board, version)


@data.delete(
    "/analytics/dashboard/{tenant_id}/{name}",
    summary="Remove a dashboard",
    status_code=204,
    responses={409: _REFUSED[409], 404: _REFUSED[404]},
    openapi_extra=takes(Permission.DASHBOARDS_EDIT),
)
async def remove_declaration(
    who: Asker,
    tenant_id: TenantPath,
    name: NamePath,
    version: Annotated[int, Query(ge=1, description="The version that is removed.")],
) -> None:
    """Its versions stay, and may be saved again."""
    tenant = await who.service.in_thread(who.tenant, tenant_id)
    await who.service.in_thread(lambda: own_boards(who).remove(tenant, name, _author(who), based_on=version))


# --- what a form asks for


def _created(form: Mapping[str, list[str]], catalogue: Catalogue) -> Board:
    panel = new_panel(_one(form, "kind"), form.get("metrics", []), form.get("by", []), "")
    name, title, description = (_one(form, field) for field in ("name", "title", "description"))
    # By way of its text, so that what a form makes is checked as what a file says.
    made = Board.model_construct(None, name=name, title=title, description=description, panels=(panel,))
    return parse_board(board_text(made), "this dashboard", catalogue)


def _imported(form: Mapping[str, list[str]], catalogue: Catalogue) -> Board:
    return parse_board(_one(form, "text"), "this dashboard", catalogue)


def _apply(who: Asking, tenant: str, name: str, form: Mapping[str, list[str]]) -> None:
    boards, catalogue = own_boards(who), who.service.queries.catalogue_of(tenant)
    action, version = _one(form, "do"), _number(form, "version")
    if action == "remove":
        boards.remove(tenant, name, _author(who), based_on=version)
        return
    if action == "restore":
        wanted = next((saved for saved in boards.versions(tenant, name) if saved.version == _number(form, "to")), None)
        if wanted is None or wanted.text is None:
            raise UserError(f"the dashboard {name!r} has no version {_one(form, 'to')!r} to go back to")
        changed = read_saved(wanted, catalogue)
    elif action == "write":
        changed = parse_board(_one(form, "text"), f"{name}.yaml", catalogue)
        if changed.name != name:
            raise UserError(f"the name is part of the address and stays {name!r}; import the YAML to make {changed.name!r}")
    else:
        changed = _rearranged(read_saved(boards.get(tenant, name), catalogue), action, form)
        changed = parse_board(board_text(changed), f"{name}.yaml", catalogue)
    boards.save(tenant, changed, _author(who), based_on=version)


def _rearranged(board: Board, action: str, form: Mapping[str, list[str]]) -> Board:
    match action:
        case "up" | "down":
            return moved_panel(board, _number(form, "panel"), -1 if action == "up" else 1)
        case "drop":
            return without_panel(board, _number(form, "panel"))
        case "add":
            panel = new_panel(_one(form, "kind"), form.get("metrics", []), form.get("by", []), _one(form, "panel_title"))
            return with_panel(board, panel)
    raise UserError(f"do={action!r} is not known; one of up, down, drop, add, write, restore, remove")


def _save(who: Asking, tenant: str, board: Board, version: int) -> Saved:
    return own_boards(who).save(tenant, board, _author(who), based_on=version)


async def _list(who: Asking, tenant: str, message: str = "", text: str = "", status: int = 200) -> Response:
    boards = await who.service.in_thread(own_boards(who).all, tenant)
    page = own_boards_page(
        tenant,
        boards,
        await who.service.in_thread(who.service.queries.catalogue_of, tenant),
        csrf=who.csrf_field,
        message=message,
        text=text,
        session=session_markup(who),
    )
    return html_answer(page, status)


async def _edit(who: Asking, tenant: str, name: str, message: str = "", text: str | None = None, status: int = 200) -> Response:
    boards, catalogue = own_boards(who), await who.service.in_thread(who.service.queries.catalogue_of, tenant)
    saved = await who.service.in_thread(boards.get, tenant, name)
    versions = await who.service.in_thread(boards.versions, tenant, name)
    try:
        board = read_saved(saved, catalogue)
    except DeclarationError as error:
        raise Problem(409, f"{error}; send its corrected YAML with PUT, or go on without that metric") from None
    session = session_markup(who)
    page = edit_page(tenant, board, versions, catalogue, csrf=who.csrf_field, message=message, text=text, session=session)
    return html_answer(page, status)


def _author(who: Asking) -> str:
    return who.principal.name or who.principal.key_id


def _one(form: Mapping[str, list[str]], name: str) -> str:
    return form.get(name, [""])[0]


def _number(form: Mapping[str, list[str]], name: str) -> int:
    text = _one(form, name)
    if not text.isdecimal() or len(text) > 9:
        raise UserError(f"{name}={text!r} is not a whole number; load the page again")
    return int(text)


def _status(error: UserError) -> int:
    return 409 if isinstance(error, ConflictError) else 400
