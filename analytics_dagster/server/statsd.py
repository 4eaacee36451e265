"""StatsD by UDP, where ANALYTICS_STATSD says so: the first worker listens and puts what was added up into the log every second.

Nobody is told when a datagram cannot be taken, so the log is.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import structlog

from analytics_dagster.errors import AnalyticsError, SettingsError
from analytics_dagster.ingest.points import SeriesTable
from analytics_dagster.ingest.wire.statsd import StatsdAggregator
from analytics_dagster.server.binding import is_loopback

if TYPE_CHECKING:
    from analytics_dagster.server.service import Service

FLUSH_SECONDS = 1.0
_RECEIVE_BUFFER = 4 * 2**20

log = structlog.get_logger("analytics.statsd")


def statsd_address(value: str) -> tuple[str, int]:
    """ANALYTICS_STATSD as host and port. Raises SettingsError: anybody may send StatsD, so loopback only."""
    host, _, port = value.rpartition(":")
    host = host.strip("[]")
    if not host or not port.isdigit() or not 1 <= int(port) <= 65_535:
        raise SettingsError(f"ANALYTICS_STATSD={value!r} is not an address; write 127.0.0.1:8125")
    if not is_loopback(host):
        raise SettingsError(
            f"ANALYTICS_STATSD={value!r} can be reached from other machines, and StatsD has no keys; use 127.0.0.1"
        )
    return host, int(port)


class StatsdListener(asyncio.DatagramProtocol):
    """Belongs to the event loop of one worker. Its series have a table of their own, which the aggregator bounds."""

    def __init__(self, service: Service, tenant: str) -> None:
        self._service = service
        self._tenant = tenant
        self._aggregator = StatsdAggregator(SeriesTable(), tenant)
        self._told = 0

    def datagram_received(self, data: bytes, addr: object) -> None:
        self._aggregator.feed(data)

    async def run(self) -> None:
        """Flush until cancelled."""
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            try:
                await self.flush()
            except Exception as error:  # the database may be away for a while; what is added up waits, within its bounds
                log.error("statsd points are not flushed and will be tried again", exc_info=error)

    async def flush(self) -> None:
        """Make durable what was added up. What a full log or a quota refuses is lost, as UDP loses it; the log says so."""
        counts = self._aggregator.counts
        if (bad := counts.malformed + counts.dropped) > self._told:
            log.warning("statsd lines not taken", lines=bad - self._told, last=counts.last_reason)
            self._told = bad
        if not await self._registered():
            return
        points = self._aggregator.flush(self._service.now_us())
        if not len(points):
            return
        try:
            self._service.charge(points)
            await asyncio.wrap_future(self._service.append(points))
        except AnalyticsError as error:
            log.warning("statsd points lost", points=len(points), error=str(error))

    async def _registered(self) -> bool:
        active = await self._service.in_thread(self._service.directory.active)
        return self._tenant in active


async def listen(service: Service, address: tuple[str, int], tenant: str) -> tuple[asyncio.DatagramTransport, StatsdListener]:
    """Open the socket. Raises SettingsError where it is taken."""
    loop = asyncio.get_running_loop()
    try:
        transport, listener = await loop.create_datagram_endpoint(lambda: StatsdListener(service, tenant), address)
    except OSError as error:
        raise SettingsError(f"ANALYTICS_STATSD={address[0]}:{address[1]} cannot be listened on: {error.strerror}") from None
    opened = transport.get_extra_info("socket")
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
    return transport, listener
