"""What a channel is, and the errors by which it tells the outbox what happened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Protocol

from analytics_dagster.errors import DeliveryError, RetryableDeliveryError

TIMEOUT_SECONDS = 15.0
"""Longest wait for an answer; well below the outbox's lease."""


@dataclass(frozen=True)
class Delivery:
    """One message to send. `dedup_key` is the same at each try; `channel` is the name that the rule gave."""

    dedup_key: str
    tenant: str
    channel: str
    rule: str
    status: str
    severity: str
    payload: Mapping[str, Any]


class Channel(Protocol):
    """One configured way out."""

    @property
    def name(self) -> str: ...

    @property
    def target(self) -> str:
        """Hash of where it leads, so that a changed address is known from one that was refused."""

    @property
    def send_resolved(self) -> bool: ...

    @property
    def group_size(self) -> int:
        """How many messages of one tenant, rule and status it takes as one."""

    def send(self, deliveries: Sequence[Delivery]) -> None:
        """Send them together. Raises DeliveryError for good, RetryableDeliveryError (or one below) for now."""


class GoneError(DeliveryError):
    """The receiver asks never to be called at this address again (HTTP 410)."""


class ThrottledError(RetryableDeliveryError):
    """The receiver asks to wait: everything for this channel waits."""


class UncertainError(RetryableDeliveryError):
    """No clear answer came: the message may have arrived, and is sent again under the same key."""


def retry_after(header: str | None, now: datetime) -> float | None:
    """Seconds that a Retry-After header names, in either of its forms (RFC 9110, 10.2.3)."""
    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, ((at if at.tzinfo else at.replace(tzinfo=UTC)) - now).total_seconds())


def refuse_status(status: int, answer: str, header: str | None, now: datetime) -> None:
    """Raise what an HTTP status other than success means (2xx is left to the caller)."""
    said = f"HTTP {status}{f': {answer[:200]}' if answer else ''}"
    if status == 410:
        raise GoneError(said)
    if status in (408, 425, 429):
        raise ThrottledError(said, retry_after(header, now))
    if status >= 500:
        # 502, 503 and 504 come from something in front of the receiver and ask for patience as well.
        wait = retry_after(header, now)
        if wait is not None:
            raise ThrottledError(said, wait)
        raise UncertainError(said)
    raise DeliveryError(said)
