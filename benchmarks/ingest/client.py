"""A client that costs little beside the server it measures: prepared requests over keep-alive connections, one selector."""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Sent:
    seconds: float
    latencies: list[float]
    statuses: dict[int, int]

    def percentile(self, share: float) -> float:
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    def require(self, *allowed: int) -> Sent:
        """Itself. Raises RuntimeError when the server answered anything else."""
        wrong = {status: count for status, count in self.statuses.items() if status not in allowed}
        if wrong:
            raise RuntimeError(f"the server answered {wrong}, not only {allowed}")
        return self


def request(path: str, body: bytes, headers: dict[str, str]) -> bytes:
    """One HTTP/1.1 request as bytes."""
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}"]
    lines += [f"{key}: {value}" for key, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


class _Connection:
    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.unsent = memoryview(b"")
        self.received = b""
        self.began = 0.0

    def send(self) -> bool:
        """Send what the socket takes. True when all is out."""
        while self.unsent:
            try:
                self.unsent = self.unsent[self.socket.send(self.unsent) :]
            except BlockingIOError:
                return False
        return True

    def answer(self) -> int | None:
        """Status of the answer once all of it is in."""
        got = self.socket.recv(65_536)
        if not got:
            raise ConnectionError(f"the server closed the connection after {self.received[:200]!r}")
        self.received += got
        head, end, body = self.received.partition(b"\r\n\r\n")
        if not end or len(body) < _length(head):
            return None
        self.received = b""
        return int(head[9:12])


def send_all(port: int, requests: Sequence[bytes], connections: int) -> Sent:
    """Send every request once over `connections` connections, each with one request under way at a time."""
    waiting = iter(requests)
    latencies: list[float] = []
    statuses: dict[int, int] = {}
    with selectors.DefaultSelector() as selector:
        opened = [_Connection(port) for _ in range(min(connections, len(requests)))]
        started = time.perf_counter()
        for connection in opened:
            selector.register(connection.socket, selectors.EVENT_READ, connection)
            _begin(selector, connection, next(waiting))
        under_way = len(opened)
        while under_way:
            for key, events in selector.select(60):
                connection = key.data
                if events & selectors.EVENT_WRITE and connection.send():
                    selector.modify(connection.socket, selectors.EVENT_READ, connection)
                if events & selectors.EVENT_READ and (status := connection.answer()) is not None:
                    latencies.append(time.perf_counter() - connection.began)
                    statuses[status] = statuses.get(status, 0) + 1
                    following = next(waiting, None)
                    if following is None:
                        under_way -= 1
                    else:
                        _begin(selector, connection, following)
        seconds = time.perf_counter() - started
        for connection in opened:
            connection.socket.close()
    return Sent(seconds, latencies, statuses)


def _begin(selector: selectors.BaseSelector, connection: _Connection, content: bytes) -> None:
    connection.unsent, connection.began = memoryview(content), time.perf_counter()
    if not connection.send():
        selector.modify(connection.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, connection)


def _length(head: bytes) -> int:
    for line in head.split(b"\r\n")[1:]:
        key, _, value = line.partition(b":")
        if key.lower() == b"content-length":
            return int(value)
    return 0
