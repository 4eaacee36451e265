"""What every request passes, whichever route it is for: the Host header, a request id, one log line, counters, errors as answers.

Plain routes (`Door`) are called from here; everything else is FastAPI's, behind the same checks.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import MutableMapping, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any

import structlog

from analytics_dagster.errors import ForeignTenantError
from analytics_dagster.server.binding import client_of
from analytics_dagster.server.door import Door, as_problem
from analytics_dagster.server.exchange import SECURITY_HEADERS, Exchange, Receive, Scope, Send
from analytics_dagster.server.problems import INTERNAL, Problem, problem_of
from analytics_dagster.server.reference import document

if TYPE_CHECKING:
    from fastapi import FastAPI

    from analytics_dagster.server.service import Service

_SANE_ID = re.compile(rb"[A-Za-z0-9._:@+-]{1,128}")
# FastAPI's routes take small JSON documents.
_SMALL_BODY = 64 * 2**10
_SMALL_BODY_SECONDS = 10
# Refusals told in full each second; a client that is refused ten thousand times a second is told of once a minute.
_REFUSALS_TOLD = 20
_UNKNOWN_ROUTE = "(none)"

log = structlog.get_logger("analytics.server")


class Front:
    """The ASGI application of a worker."""

    def __init__(self, service: Service, doors: Sequence[Door], pages: FastAPI) -> None:
        self._service = service
        self._pages = pages
        # Paths that are a plain route with one method and FastAPI's with another.
        self._methods = {path: {method.upper() for method in operations} for path, operations in document(pages)["paths"].items()}
        self._doors: dict[str, dict[str, Door]] = {}
        for door in doors:
            self._doors.setdefault(door.path, {})[door.method] = door
        self._ids = count(1)
        self._id_prefix = secrets.token_hex(6)
        self._told = _Told()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            await self._answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id")
        if given is not None and _SANE_ID.fullmatch(given):
            request_id = given.decode("ascii")
        else:
            request_id = f"{self._id_prefix}-{next(self._ids):x}"
        exchange = Exchange(scope, receive, send, headers, request_id)
        methods = self._doors.get(exchange.path)
        door = None if methods is None else methods.get(scope["method"])
        try:
            self._check_host(exchange)
            if door is not None:
                await door.handle(self._service, exchange)
            elif methods is not None and scope["method"] not in self._methods[exchange.path]:
                allowed = ", ".join(sorted(self._methods[exchange.path])).encode("ascii")
                raise Problem(405, f"{scope['method']} is not allowed here", headers=[(b"allow", allowed)])
            else:
                await self._page(exchange)
        except Exception as error:  # whatever went wrong, the client gets an answer and the log the reason
            await self._refuse(exchange, door, error)
        self._note(exchange, door, time.perf_counter() - began)

    def _check_host(self, exchange: Exchange) -> None:
        headers = exchange.headers
        host = headers.get(b"host")
        if host is None or not self._service.hosts.accept(host):
            shown = "" if host is None else host.decode("latin-1")[:200]
            raise Problem(
                421, f"this server does not answer for the host {shown!r}; name it in ANALYTICS_ALLOWED_HOSTS if it should"
            )
        peer = exchange.scope.get("client")
        exchange.client = peer[0] if peer else ""
        if self._service.proxies:
            # A header may come more than once; together they are one list.
            values = [value for name, value in exchange.scope["headers"] if name == b"x-forwarded-for"]
            exchange.client = client_of(exchange.client, b",".join(values).decode("latin-1"), self._service.proxies)

    async def _page(self, exchange: Exchange) -> None:
        """FastAPI's routes: a small body that is read before, and our headers on the answer."""
        body = b""
        if exchange.scope["method"] in ("POST", "PUT", "PATCH", "DELETE"):
            try:
                # Before anybody asked for a key: who sends nothing must not hold a place for ever.
                async with asyncio.timeout(_SMALL_BODY_SECONDS):
                    body = await exchange.body(_SMALL_BODY)
            except TimeoutError:
                raise Problem(408, f"the body did not arrive within {_SMALL_BODY_SECONDS} s") from None
        waiting = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> MutableMapping[str, Any]:
            return waiting.pop() if waiting else await exchange.receive()

        async def send(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                named = {name for name, _ in message["headers"]}
                ours = [(b"x-request-id", exchange.request_id.encode("ascii")), *SECURITY_HEADERS]
                message["headers"] = [*message["headers"], *(pair for pair in ours if pair[0] not in named)]
            await exchange.send(message)

        exchange.scope["analytics.exchange"] = exchange
        exchange.scope["analytics.service"] = self._service
        await self._pages(exchange.scope, receive, send)

    async def _refuse(self, exchange: Exchange, door: Door | None, error: Exception) -> None:
        problem = problem_of(error)
        if isinstance(error, ForeignTenantError):
            self._service.access.note_foreign(exchange, error.tenant)
        if problem is None:
            log.error("failed", request_id=exchange.request_id, route=exchange.path, exc_info=error)
            problem = Problem(500, INTERNAL)
        if exchange.status:
            return  # the answer had begun
        reply = (door.refusal if door is not None else as_problem)(problem, exchange)
        await exchange.answer(reply.status, reply.body, reply.content_type, reply.headers)

    def _note(self, exchange: Exchange, door: Door | None, seconds: float) -> None:
        route = exchange.path if door is not None else self._route_of(exchange)
        method = exchange.scope["method"] if route != _UNKNOWN_ROUTE else "(any)"
        counts = self._service.counts.of(method, route)
        counts.answered(exchange.status, seconds)
        counts.accepted += exchange.points
        counts.refused += exchange.refused
        if exchange.status < 400 and exchange.tenant not in ("", "*"):
            self._service.usage.note_request(exchange.tenant)
        if door is not None and door.many and exchange.status < 400:
            self._told.add(exchange.points, seconds)
            if not self._service.debug:
                return
        elif exchange.status >= 400 and not self._told.may_tell():
            return
        known = {"tenant": exchange.tenant, "key": exchange.key_id, "points": exchange.points, "refused": exchange.refused}
        tell = log.debug if door is not None and door.many and exchange.status < 400 else log.info
        tell(
            "request",
            request_id=exchange.request_id,
            method=exchange.scope["method"],
            route=route,
            status=exchange.status,
            ms=round(seconds * 1_000, 2),
            client=exchange.client,
            **{name: value for name, value in known.items() if value},
        )

    @staticmethod
    def _route_of(exchange: Exchange) -> str:
        """The template that matched, never the path itself: whoever asks must not make series or log lines of his own."""
        route = exchange.scope.get("route")
        return getattr(route, "path", _UNKNOWN_ROUTE)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self._service.start()
        except Exception as error:  # the parent only learns that we ended; the reason must be told here
            log.error("did not start", error=str(error), exc_info=None if problem_of(error) else error)
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        summary = asyncio.create_task(self._summaries())
        await send({"type": "lifespan.startup.complete"})
        await receive()
        summary.cancel()
        self._told.tell()
        await self._service.stop()
        await send({"type": "lifespan.shutdown.complete"})

    async def _summaries(self) -> None:
        while True:
            await asyncio.sleep(60)
            self._told.tell()


class _Told:
    """What many requests did since the last line, and how many lines this second still bears."""

    def __init__(self) -> None:
        self._requests = self._points = self._silent = 0
        self._slowest = 0.0
        self._second, self._left = 0, _REFUSALS_TOLD

    def add(self, points: int, seconds: float) -> None:
        self._requests += 1
        self._points += points
        if seconds > self._slowest:
            self._slowest = seconds

    def may_tell(self) -> bool:
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._left = second, _REFUSALS_TOLD
        self._left -= 1
        if self._left < 0:
            self._silent += 1
        return self._left >= 0

    def tell(self) -> None:
        if self._requests or self._silent:
            slowest = round(self._slowest * 1_000, 2)
            log.info("writes", requests=self._requests, points=self._points, slowest_ms=slowest, refusals_not_told=self._silent)
        self._requests = self._points = self._silent = 0
        self._slowest = 0.0
