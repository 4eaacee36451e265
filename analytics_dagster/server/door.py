"""What a plain ASGI route is: a path, the permission it takes, a function, and how its clients want to be told no."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from analytics_dagster.server import problems
from analytics_dagster.server.exchange import JSON, Exchange, Headers
from analytics_dagster.server.problems import Problem
from analytics_dagster.tenancy.roles import Permission

if TYPE_CHECKING:
    from analytics_dagster.server.service import Service

# What the front, authentication and reading a body may answer on any route that takes rows.
WRITE_REFUSALS = (400, 401, 403, 404, 408, 413, 415, 421, 429, 500, 503)


@dataclass(frozen=True)
class Reply:
    """A whole answer."""

    status: int
    body: bytes = b""
    content_type: bytes = JSON
    headers: Headers = ()


Refusal = Callable[[Problem, Exchange], Reply]


def as_problem(problem: Problem, exchange: Exchange) -> Reply:
    """Our own shape: application/problem+json."""
    return Reply(problem.status, problem.body(exchange.request_id), problems.CONTENT_TYPE, problem.headers)


@dataclass(frozen=True)
class Door:
    """One route. `permission` None: open to everybody. `operation` is its part of the OpenAPI document but for the answers
    that `refusals` (statuses) and `refusal` (their shape) describe.
    """

    method: str
    path: str
    permission: Permission | None
    handle: Callable[[Service, Exchange], Awaitable[None]]
    operation: Mapping[str, Any]
    refusals: tuple[int, ...] = WRITE_REFUSALS
    refusal: Refusal = as_problem
    refusal_types: tuple[str, ...] = ("application/problem+json",)
    # Requests of this route are many: each is told at level debug, and all of them in one line a minute.
    many: bool = True
    extra: Mapping[str, Any] = field(default_factory=dict)
