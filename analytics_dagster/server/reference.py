"""/openapi.json and /docs: one description of every route, and the same as a page that needs nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse, JSONResponse

from analytics_dagster.server.asking import NONE, PAGE, PERMISSION, GuardedRoute, takes

router = APIRouter(route_class=GuardedRoute)

# What Front may answer anywhere.
_ANYWHERE = (400, 421, 500)
_WITH_KEY = (401, 403, 404, 503)
_REFUSAL_SCHEMAS: Mapping[str, Mapping[str, str]] = {
    "application/problem+json": {"$ref": "#/components/schemas/ProblemDocument"},
    "application/json": {"type": "object"},
    "application/x-protobuf": {"type": "string", "format": "binary"},
    "text/plain": {"type": "string"},
    "text/html": {"type": "string"},
}
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}"
    "h2{margin:2.5rem 0 .3rem;font-size:1.05rem}code{background:#f3f3f3;padding:.1rem .3rem;border-radius:3px}"
    "table{border-collapse:collapse;margin:.5rem 0}td,th{border-bottom:1px solid #ddd;padding:.25rem .8rem .25rem 0;"
    "text-align:left;vertical-align:top}.m{display:inline-block;min-width:4.5rem;font-weight:700}"
    "@media(prefers-color-scheme:dark){body{color:#ddd;background:#1b1b1b}code{background:#333}td,th{border-color:#444}}"
)
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()


@router.get("/openapi.json", summary="This description", response_class=JSONResponse, openapi_extra=takes(None))
async def openapi(request: Request) -> JSONResponse:
    """OpenAPI 3.1. `x-permission` is what a key needs; none: open to everybody."""
    return JSONResponse(document(request.app))


@router.get("/docs", summary="This description as a page", response_class=HTMLResponse, openapi_extra=takes(None))
async def docs(request: Request) -> Response:
    """Works without a network: nothing is loaded from elsewhere."""
    policy = f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; frame-ancestors 'none'; base-uri 'none'"
    return HTMLResponse(page(document(request.app)), headers={"content-security-policy": policy})


def document(app: Any) -> dict[str, Any]:
    """The OpenAPI document: FastAPI's routes, the plain ones, and the answers that every route may give."""
    from analytics_dagster.server.doors import DOORS

    if app.openapi_schema:
        made: dict[str, Any] = app.openapi_schema
        return made
    made = get_openapi(title=app.title, version=app.version, routes=app.routes, openapi_version="3.1.0")
    made["components"].setdefault("schemas", {})["ProblemDocument"] = _problem_schema()
    made["components"]["securitySchemes"] = {
        "key": {"type": "http", "scheme": "bearer", "description": "Also `Token KEY`, Basic with it as password, or `X-API-Key`."}
    }
    for operations in made["paths"].values():
        for operation in operations.values():
            # FastAPI describes its own 422, which this API answers as a 400 with a problem document.
            _drop_fastapi_422(operation)
            statuses = _ANYWHERE if operation[PERMISSION] == NONE else (*_ANYWHERE, *_WITH_KEY)
            if "requestBody" in operation:
                statuses = (*statuses, 408, 413)
            if operation.get(PAGE):
                _describe_page(operation, statuses)
            else:
                _add_refusals(operation, statuses, ("application/problem+json",))
    for door in DOORS:
        operation = {**door.operation, "responses": dict(door.operation["responses"]), **door.extra}
        operation["operationId"] = f"{door.method} {door.path}".lower().replace("/", "_").replace(" ", "")
        operation.update(takes(door.permission))
        _add_refusals(operation, (*door.refusals, 421, 500), door.refusal_types)
        made["paths"].setdefault(door.path, {})[door.method.lower()] = operation
    for operations in made["paths"].values():
        for operation in operations.values():
            if operation[PERMISSION] != NONE:
                operation["security"] = [{"key": []}]
    made["components"]["schemas"].pop("HTTPValidationError", None)
    made["components"]["schemas"].pop("ValidationError", None)
    app.openapi_schema = made
    return made


def _drop_fastapi_422(operation: dict[str, Any]) -> None:
    answers = operation["responses"]
    reference = str(answers.get("422", {}).get("content", {}))
    if "HTTPValidationError" in reference:
        del answers["422"]


def _add_refusals(operation: dict[str, Any], statuses: tuple[int, ...], medias: tuple[str, ...]) -> None:
    for status in sorted(set(statuses)):
        answer = operation["responses"].setdefault(str(status), {"description": HTTPStatus(status).phrase})
        answer.setdefault("content", {media: {"schema": _REFUSAL_SCHEMAS[media]} for media in medias})


def _describe_page(operation: dict[str, Any], statuses: tuple[int, ...]) -> None:
    """A client with a key is told what went wrong as everywhere, a browser as a page, or it is sent to sign in."""
    answers = operation["responses"]
    refusals = {status: answer for status, answer in answers.items() if int(status) >= 400}
    for answer in refusals.values():
        answer.pop("content", None)
    _add_refusals(operation, (*statuses, *map(int, refusals)), ("application/problem+json", "text/html"))
    # Where the browser goes on to says what is there.
    answers.setdefault("303", {"description": "Not signed in: goes on to `/signin`."}).pop("content", None)


def _problem_schema() -> dict[str, Any]:
    from analytics_dagster.server.documents import ProblemDocument

    return {**ProblemDocument.model_json_schema(), "additionalProperties": True}


def page(described: Mapping[str, Any]) -> str:
    """The whole document as HTML without scripts."""
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(described['info']['title'])} API</title>",
        f"<style>{_STYLE}</style><h1>{html.escape(described['info']['title'])} {html.escape(described['info']['version'])}</h1>",
        "<p>A key goes into <code>Authorization: Bearer KEY</code>, <code>Authorization: Token KEY</code>, Basic's password",
        " or <code>X-API-Key</code>; never into an address. Errors are RFC 9457 problem documents, unless a route speaks another",
        " protocol. The same for programs: <a href=/openapi.json>/openapi.json</a>.</p>",
    ]
    for path, operations in sorted(described["paths"].items()):
        for method, operation in sorted(operations.items()):
            parts.extend(_section(path, method, operation))
    return "".join(parts)


def _section(path: str, method: str, operation: Mapping[str, Any]) -> Iterator[str]:
    permission = operation[PERMISSION]
    needs = "open to everybody" if permission == NONE else f"takes <code>{html.escape(permission)}</code>"
    yield f"<h2><span class=m>{method.upper()}</span> <code>{html.escape(path)}</code></h2>"
    yield f"<p><b>{_text(operation.get('summary', ''))}</b> ({needs}). {_text(operation.get('description', ''))}</p>"
    rows = [(f"{p['name']} ({p['in']})", p.get("description", "")) for p in operation.get("parameters", ())]
    rows += [("body", media) for media in operation.get("requestBody", {}).get("content", ())]
    rows += [(str(status), answer.get("description", "")) for status, answer in sorted(operation["responses"].items())]
    yield "<table>"
    for name, said in rows:
        yield f"<tr><td><code>{html.escape(name)}</code><td>{_text(said)}"
    yield "</table>"


def _text(said: str) -> str:
    """What the document says as HTML: text in backticks is code, as in CommonMark."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(said))
