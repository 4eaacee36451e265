"""How often a client may try to sign in: after some failures it waits, twice as long each time, up to a minute.

A key has 256 random bits and cannot be guessed; this keeps whoever tries from costing look-ups and filling the audit trail.
Each worker counts for itself. An attempt counts as failed from its begin, so that many at once get no further than one after
the other.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable
from dataclasses import dataclass

FREE = 5
LONGEST_WAIT = 60.0
FORGOTTEN_AFTER = 900.0
MOST_CLIENTS = 10_000


@dataclass
class _Client:
    failures: int
    last: float


class Attempts:
    """Failed attempts by client. For one event loop."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._clients: dict[str, _Client] = {}

    def begin(self, address: str) -> float:
        """Seconds that the client has to wait; 0: it may try now, and the attempt is counted."""
        name, now = _client(address), self._monotonic()
        known = self._clients.get(name)
        if known is None or now - known.last >= FORGOTTEN_AFTER:
            known = _Client(0, now)
        wait = known.last + delay(known.failures) - now
        if wait > 0:
            return wait
        self._clients.pop(name, None)  # again at the end: those that were quiet for longest are forgotten first
        while len(self._clients) >= MOST_CLIENTS:
            del self._clients[next(iter(self._clients))]
        self._clients[name] = _Client(known.failures + 1, now)
        return 0.0

    def succeeded(self, address: str) -> None:
        """The key was good: nothing is held against the client."""
        self._clients.pop(_client(address), None)


def delay(failures: int) -> float:
    """Seconds after the last failure before another attempt: none for the first FREE, then 1, 2, 4 up to LONGEST_WAIT."""
    return 0.0 if failures < FREE else min(LONGEST_WAIT, 2.0 ** min(failures - FREE, 10))


def _client(address: str) -> str:
    """Who an address is. Of IPv6 the network: one machine has 2**64 addresses to try from."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    return address if parsed.version == 4 else str(ipaddress.ip_network((parsed, 64), strict=False))
