"""Token buckets that all processes of one machine share: a slot for each tenant in one small file, behind a file lock.

A charge is a handful of system calls and no database write. Time is the machine's monotonic clock, which a stepped wall clock
does not move and which is the same in every process; after a restart of the machine a bucket begins full.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import struct
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from analytics_dagster.errors import QuotaExceededError

BURST_SECONDS = 10
"""A bucket holds this many seconds' worth: the window in which a tenant may send as it comes."""

_SLOT = struct.Struct("<Qdd")  # tenant (hash), tokens, monotonic second of the last charge


@dataclass(frozen=True)
class RateState:
    """Where a tenant stands: of `limit` points in `window` seconds, `remaining` are left, and all are back in `reset` seconds.

    `limit` 0: no limit.
    """

    limit: int = 0
    remaining: int = 0
    reset: float = 0.0
    window: int = BURST_SECONDS

    def headers(self) -> dict[str, str]:
        """RateLimit fields of draft-ietf-httpapi-ratelimit-headers-10, and the three of its earlier drafts that clients read.

        None without a limit.
        """
        if not self.limit:
            return {}
        return {
            "RateLimit-Limit": str(self.limit),
            "RateLimit-Remaining": str(self.remaining),
            "RateLimit-Reset": str(_whole(self.reset)),
            "RateLimit-Policy": f'"points";q={self.limit};w={self.window}',
            "RateLimit": f'"points";r={self.remaining};t={_whole(self.reset)}',
        }


@dataclass(frozen=True)
class Charge:
    """Points that a tenant wants to send, at `rate` points a second on average."""

    points: int
    rate: int


class RateExceededError(QuotaExceededError):
    """Too many points a second. `state` is where the tenant stands."""

    def __init__(self, message: str, retry_after: float, state: RateState) -> None:
        super().__init__(message, retry_after)
        self.state = state


class TokenBuckets:
    """The buckets in one file. Safe to call from any thread and any process."""

    def __init__(self, path: Path, monotonic: Callable[[], float] = time.monotonic) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._slots: dict[str, int] = {}

    def charge(self, charges: Mapping[str, Charge]) -> dict[str, RateState]:
        """Charge every tenant, or none and raise RateExceededError for the first that may not send so much now.

        More than a whole bucket is taken when the bucket is full, and is then owed: a batch never has to be cut to get through,
        and the average holds.
        """
        with self._lock:
            fcntl.flock(self._file, fcntl.LOCK_EX)
            try:
                now = self._monotonic()
                after = {tenant: self._after(tenant, charge, now) for tenant, charge in charges.items() if charge.points}
                for tenant, tokens in after.items():
                    os.pwrite(self._file, _SLOT.pack(_hash(tenant), tokens, now), self._slots[tenant] * _SLOT.size)
            finally:
                fcntl.flock(self._file, fcntl.LOCK_UN)
        return {tenant: _state(tokens, charges[tenant].rate) for tenant, tokens in after.items()}

    def close(self) -> None:
        os.close(self._file)

    def _after(self, tenant: str, charge: Charge, now: float) -> float:
        """Tokens that are left after `charge`."""
        full = float(charge.rate * BURST_SECONDS)
        tokens, at = self._read(tenant)
        # A time ahead of now is from before the machine was restarted.
        tokens = full if at > now else min(full, tokens + (now - at) * charge.rate)
        needed = min(float(charge.points), full)
        if tokens < needed:
            wait = (needed - tokens) / charge.rate
            raise RateExceededError(
                f"tenant {tenant} sends more than its {charge.rate:,} points a second; try again in {_whole(wait)} s",
                wait,
                _state(tokens, charge.rate),
            )
        return tokens - charge.points

    def _read(self, tenant: str) -> tuple[float, float]:
        """A tenant's tokens and their time; a new one's bucket is full."""
        slot = self._slots.get(tenant)
        found = b"" if slot is None else os.pread(self._file, _SLOT.size, slot * _SLOT.size)
        if len(found) < _SLOT.size or _SLOT.unpack(found)[0] != _hash(tenant):
            found = self._find(tenant)
        _, tokens, at = _SLOT.unpack(found)
        return tokens, at

    def _find(self, tenant: str) -> bytes:
        """The tenant's slot from a look through the file, or a new one at its end."""
        wanted, stored = _hash(tenant), os.pread(self._file, os.fstat(self._file).st_size, 0)
        slots = len(stored) // _SLOT.size
        for number in range(slots):
            found = stored[number * _SLOT.size : (number + 1) * _SLOT.size]
            if _SLOT.unpack(found)[0] == wanted:
                self._slots[tenant] = number
                return found
        self._slots[tenant] = slots
        made = _SLOT.pack(wanted, 0.0, float("inf"))
        os.pwrite(self._file, made, slots * _SLOT.size)
        return made


def _hash(tenant: str) -> int:
    return int.from_bytes(hashlib.blake2b(tenant.encode(), digest_size=8).digest(), "little")


def _state(tokens: float, rate: int) -> RateState:
    full = rate * BURST_SECONDS
    return RateState(full, max(0, int(tokens)), (full - tokens) / rate)


def _whole(seconds: float) -> int:
    return max(1, -int(-seconds // 1))
