"""The FastAPI application: routes, errors as problem documents, and one OpenAPI document that has the plain routes too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from analytics_dagster import __version__
from analytics_dagster.errors import AnalyticsError, ForeignTenantError
from analytics_dagster.server.annotations import data as annotation_data
from analytics_dagster.server.annotations import pages as annotation_pages
from analytics_dagster.server.dashboards import data as dashboard_data
from analytics_dagster.server.dashboards import pages as dashboards
from analytics_dagster.server.metric_pages import pages as metric_pages
from analytics_dagster.server.own_dashboards import data as own_dashboard_data
from analytics_dagster.server.own_dashboards import pages as own_dashboards
from analytics_dagster.server.own_metrics import router as own_metrics
from analytics_dagster.server.pages import router as pages
from analytics_dagster.server.problems import CONTENT_TYPE, INTERNAL, Problem, bad_parameters, problem_of
from analytics_dagster.server.reconciliation import router as reconciliation
from analytics_dagster.server.reference import router as reference
from analytics_dagster.server.reports import data as report_data
from analytics_dagster.server.reports import pages as report_pages
from analytics_dagster.server.rows import data as rows_data
from analytics_dagster.server.rows import pages as rows
from analytics_dagster.server.signin.openid import router as openid
from analytics_dagster.server.signin.routes import assets as signin_assets
from analytics_dagster.server.signin.routes import router as signin
from analytics_dagster.server.status import router as status

if TYPE_CHECKING:
    from analytics_dagster.server.exchange import Exchange
    from analytics_dagster.server.service import Service


def build_api() -> FastAPI:
    """The application behind `Front`, which gives it `analytics.service` and `analytics.exchange` in the scope."""
    api = FastAPI(
        title="analytics-dagster",
        version=__version__,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers={
            AnalyticsError: _answer,
            Problem: _answer,
            RequestValidationError: _invalid,
            HTTPException: _http,
            Exception: _internal,
        },
    )
    for router in (
        pages, reconciliation, report_pages, report_data, own_dashboards, own_dashboard_data, rows, rows_data,
        annotation_pages, annotation_data, metric_pages, own_metrics, dashboards, dashboard_data, status, reference,
        signin, signin_assets, openid,
    ):  # fmt: skip
        api.include_router(router)
    return api


def respond(problem: Problem, request: Request) -> Response:
    exchange: Exchange = request.scope["analytics.exchange"]
    headers = {name.decode("ascii"): value.decode("latin-1") for name, value in problem.headers}
    return Response(problem.body(exchange.request_id), problem.status, headers, CONTENT_TYPE.decode("ascii"))


async def _answer(request: Request, error: Exception) -> Response:
    service: Service = request.scope["analytics.service"]
    if isinstance(error, ForeignTenantError):
        service.access.note_foreign(request.scope["analytics.exchange"], error.tenant)
    problem = problem_of(error)
    if problem is None:
        raise error
    return respond(problem, request)


async def _invalid(request: Request, error: Exception) -> Response:
    """A parameter or a body that is not what the route takes."""
    assert isinstance(error, RequestValidationError)
    return respond(bad_parameters(error.errors()), request)


async def _http(request: Request, error: Exception) -> Response:
    """What Starlette says itself: there is no such route, or not with this method."""
    assert isinstance(error, HTTPException)
    headers = [(name.lower().encode(), value.encode()) for name, value in (error.headers or {}).items()]
    return respond(Problem(error.status_code, str(error.detail), headers=headers), request)


async def _internal(request: Request, _error: Exception) -> Response:
    return respond(Problem(500, INTERNAL), request)  # Front, which the error goes on to, logs it
