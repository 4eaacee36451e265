"""HTML answers: the one place where pages get their security headers, and templates that escape whatever they are given.

A page loads styles, scripts and pictures from this server only, talks to and posts to it only, and nobody frames it. What a
page says is for whoever asked, so nothing on the way keeps it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from fastapi import Response
from fastapi.responses import HTMLResponse, RedirectResponse

from analytics_dagster.server.problems import Problem

if TYPE_CHECKING:
    from jinja2 import Environment

POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self' data:; script-src 'self'; connect-src 'self'; font-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
PAGE_HEADERS: Mapping[str, str] = {
    "content-security-policy": POLICY,
    # Not `no-referrer`: with it browsers send `Origin: null` with forms, and where a form came from could not be checked.
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}
_ASSET_SECONDS = 86_400
_OWN_TEMPLATES = Path(__file__).parent / "signin" / "templates"


def html_answer(page: str, status: int = 200, headers: Mapping[str, str] | None = None) -> HTMLResponse:
    """A page with the headers that every page has; `headers` are added, or replace them."""
    return HTMLResponse(page, status, {**PAGE_HEADERS, **(headers or {})})


def see_other(path: str) -> RedirectResponse:
    """Go on to a path of this server with GET."""
    return RedirectResponse(path, 303, {"cache-control": "no-store"})


def named_file(name: str) -> dict[str, str]:
    """The header that names a file, after RFC 6266: in full for browsers of today, in ASCII for what reads `filename` alone."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", name)
    full = "" if plain == name else f"; filename*=UTF-8''{quote(name, safe='', errors='replace')}"
    return {"content-disposition": f'inline; filename="{plain}"{full}'}


def asset_answer(text: str, media_type: str) -> Response:
    """A style or script, the same for everybody: kept by browsers for a day, so link it by `version_of`."""
    return Response(text, media_type=media_type, headers={"cache-control": f"public, max-age={_ASSET_SECONDS}"})


def version_of(text: str) -> str:
    """What changes with an asset's text, to be part of its address."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@lru_cache(maxsize=8)
def templates(folder: Path) -> Environment:
    """The templates of a folder. Values are escaped, and one that is missing is an error."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(folder), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


def render(template: str, /, **values: object) -> str:
    """One of the templates of signing in."""
    return templates(_OWN_TEMPLATES).get_template(template).render(style=version_of(style()), **values)


@lru_cache(maxsize=1)
def style() -> str:
    """The stylesheet of the pages for signing in."""
    return (_OWN_TEMPLATES / "style.css").read_text(encoding="utf-8")


def problem_page(problem: Problem, request_id: str) -> HTMLResponse:
    """What went wrong, for a person."""
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in problem.headers}
    told = problem.document(request_id)
    return html_answer(
        render("problem.html", title=told["title"], detail=problem.detail, request_id=request_id), problem.status, headers
    )
