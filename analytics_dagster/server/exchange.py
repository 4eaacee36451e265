"""One request and its answer at a plain ASGI route: headers, a body that is limited while it is read, one send.

What takes ten thousand requests a second goes through here: no objects beyond these, no middleware.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, MutableMapping, Sequence
from typing import Any
from urllib.parse import parse_qs

from analytics_dagster.server.problems import Problem

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = Sequence[tuple[bytes, bytes]]

JSON = b"application/json"
# Two slow uploads of the largest body over a line of 10 Mbit/s still fit.
BODY_SECONDS = 120
# Characters of a parameter's name that are told back.
_SHOWN = 100


class Exchange:
    """A request with its answer. Header names are lower case, as ASGI gives them."""

    __slots__ = (
        "client",
        "headers",
        "key_id",
        "path",
        "points",
        "receive",
        "refused",
        "request_id",
        "scope",
        "send",
        "status",
        "tenant",
    )

    def __init__(self, scope: Scope, receive: Receive, send: Send, headers: dict[bytes, bytes], request_id: str) -> None:
        self.scope = scope
        self.receive = receive
        self.send = send
        self.headers = headers
        self.request_id = request_id
        self.client = ""
        self.path: str = scope["path"]
        self.status = 0
        # What the log line says, where it is known.
        self.tenant = ""
        self.key_id = ""
        self.points = 0
        self.refused = 0

    def header(self, name: bytes) -> str:
        """A header's value, empty where there is none."""
        return self.headers.get(name, b"").decode("latin-1")

    def parameters(self) -> dict[str, list[str]]:
        """The query string's parameters."""
        query = self.scope["query_string"]
        if not query:
            return {}
        try:
            return parse_qs(query.decode("ascii"), keep_blank_values=True, max_num_fields=200, errors="strict")
        except ValueError:
            raise Problem(
                400, "the query string cannot be read; write it percent-encoded UTF-8, with at most 200 parts"
            ) from None

    def refuse_unknown(self, known: Collection[str]) -> None:
        """Raises Problem 400 for a parameter that the route does not have: a misspelt one would change the answer unnoticed."""
        unknown = [name for name in self.parameters() if name not in known]
        if unknown:
            taken = f"known are {', '.join(known)}" if known else "this route takes none"
            told = [{"field": name[:_SHOWN], "reason": f"is not known; {taken}"} for name in unknown]
            detail = f"the parameter {told[0]['field']!r} {told[0]['reason']}"
            raise Problem(400, detail, kind="bad-parameters", members={"errors": told})

    async def body(self, limit: int) -> bytes:
        """The body as it was sent. Raises Problem 413 as soon as more than `limit` bytes were announced or came."""
        length = self.headers.get(b"content-length")
        expected = int(length) if length is not None and length.isdigit() else -1
        if expected > limit:
            await self._drain(limit)
            raise too_large(limit)
        message = await self.receive()
        first: bytes = message.get("body", b"")
        if len(first) == expected or (message["type"] == "http.request" and not message.get("more_body")):
            if len(first) > limit:
                raise too_large(limit)
            return first
        try:
            async with asyncio.timeout(BODY_SECONDS):
                return await self._rest(first, message, expected, limit)
        except TimeoutError:
            raise Problem(408, f"the body did not arrive within {BODY_SECONDS} s") from None

    async def answer(self, status: int, body: bytes, content_type: bytes = JSON, headers: Headers = ()) -> None:
        """Send the whole answer."""
        self.status = status
        sent = [
            (b"content-length", b"%d" % len(body)),
            (b"x-request-id", self.request_id.encode("ascii")),
            *SECURITY_HEADERS,
            *headers,
        ]
        if status != 204:
            sent.append((b"content-type", content_type))
        await self.send({"type": "http.response.start", "status": status, "headers": sent})
        await self.send({"type": "http.response.body", "body": body, "more_body": False})

    async def client_gone(self) -> None:
        """Done when the client has closed its connection. For routes whose body was read, or that have none."""
        while (await self.receive())["type"] != "http.disconnect":
            pass

    async def _rest(self, first: bytes, message: MutableMapping[str, Any], expected: int, limit: int) -> bytes:
        chunks, size = [first], len(first)
        while True:
            if message["type"] == "http.disconnect":
                raise Problem(400, "the client went away before its body was whole")
            if not message.get("more_body") or size == expected:
                return b"".join(chunks)
            message = await self.receive()
            chunk: bytes = message.get("body", b"")
            size += len(chunk)
            if size > limit:
                raise too_large(limit)
            chunks.append(chunk)

    async def _drain(self, limit: int) -> None:
        """Read on and forget, for a while: a client that is still sending does not look for an answer."""
        seen = 0
        try:
            async with asyncio.timeout(5):
                while seen <= 2 * limit:
                    message = await self.receive()
                    seen += len(message.get("body", b""))
                    if message["type"] == "http.disconnect" or not message.get("more_body"):
                        return
        except TimeoutError:
            return


# An answer is data, never a page that may load or frame anything; /docs sends a policy of its own.
SECURITY_HEADERS: Headers = (
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
)


def too_large(limit: int) -> Problem:
    return Problem(
        413,
        f"the body is larger than {limit} bytes (after decompression); send smaller batches, or raise ANALYTICS_MAX_BODY_BYTES",
    )
