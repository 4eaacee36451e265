"""Delivers what is due: claim in one short transaction, send outside of any, write what became of it.

At least once: whoever is killed in between leaves a lease behind, and the message is sent again under the same dedup key.
Channels send side by side, so that a slow one delays nobody else.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

from analytics_dagster.alerts.channels.base import GoneError, ThrottledError, UncertainError
from analytics_dagster.clock import Clock
from analytics_dagster.errors import DeliveryError, RetryableDeliveryError
from analytics_dagster.settings import Settings

if TYPE_CHECKING:
    from analytics_dagster.alerts.channels.base import Channel
    from analytics_dagster.alerts.channels.build import Channels
    from analytics_dagster.alerts.outbox_store import Claimed
    from analytics_dagster.lake.database import Database

FIRST_RETRY = timedelta(seconds=5)
LONGEST_RETRY = timedelta(minutes=10)
_MOST_THREADS = 8
# A lease must outlast the sending of one group, which a channel's timeout bounds.
_LEAST_LEASE_LEFT = 0.4


@dataclass(frozen=True)
class DeliveryPolicy:
    """How often and how long. `cooldown` and `most_per_hour` concern firing messages that are not urgent."""

    cooldown: timedelta = timedelta(seconds=900)
    most_per_hour: int = 100
    lease: timedelta = timedelta(seconds=60)
    give_up_after: timedelta = timedelta(days=3)
    most_attempts: int = 500

    @classmethod
    def from_settings(cls, settings: Settings) -> DeliveryPolicy:
        return cls(timedelta(seconds=settings.alert_cooldown_period), settings.max_alerts_per_hour)


@dataclass
class DeliveryReport:
    """What one call did, in messages."""

    sent: int = 0
    retried: int = 0
    deferred: int = 0
    dropped: int = 0
    failed: int = 0
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        counts = ("sent", "retried", "deferred", "dropped", "failed")
        said = ", ".join(f"{getattr(self, name)} {name}" for name in counts if getattr(self, name))
        return (said or "nothing to send") + "".join(f"; {problem}" for problem in self.problems)


def has_due(database: Database, clock: Clock) -> bool:
    """Whether a delivery would find anything to do."""
    from analytics_dagster.alerts import outbox_store

    return outbox_store.has_due(database, clock.now())


def deliver_due(
    database: Database, channels: Channels, clock: Clock, *, policy: DeliveryPolicy | None = None, limit: int = 1_000
) -> DeliveryReport:
    """Send what is due, up to `limit` messages. May be called by several processes at once."""
    from analytics_dagster.alerts import outbox_store

    policy = policy or DeliveryPolicy()
    report = DeliveryReport(problems=[])
    me, taken = uuid.uuid4().hex, 0
    with ThreadPoolExecutor(_MOST_THREADS, thread_name_prefix="deliver") as threads:
        while taken < limit:
            claimed = outbox_store.claim(database, channels, policy, me, clock.now(), min(50, limit - taken))
            report.deferred += claimed.deferred
            report.dropped += claimed.dropped
            report.failed += claimed.failed
            if not claimed.rows:
                break
            taken += len(claimed.rows)
            senders = [
                _Sender(database, channels.of(name), name, clock, policy, me) for name in outbox_store.by_channel(claimed.rows)
            ]
            work = zip(senders, outbox_store.by_channel(claimed.rows).values(), strict=True)
            for sender in threads.map(lambda pair: pair[0].run(pair[1]), work):
                sender.add_to(report)
    return report


@dataclass
class _Sender:
    """Sends the claimed rows of one channel, one group after the other."""

    database: Database
    channel: Channel
    name: str
    clock: Clock
    policy: DeliveryPolicy
    me: str
    sent: int = 0
    retried: int = 0
    failed: int = 0
    problems: list[str] = field(default_factory=list)

    def run(self, rows: Sequence[Claimed]) -> _Sender:
        waiting = list(_groups(rows, self.channel.group_size))
        while waiting:
            group = waiting[0]
            if (group[0].until - self.clock.now()) < self.policy.lease * _LEAST_LEASE_LEFT:
                self._release(waiting, None)
                break
            del waiting[0]
            try:
                self.channel.send([row.delivery for row in group])
            except ThrottledError as error:
                self._throttled(group, waiting, error)
                break
            except RetryableDeliveryError as error:
                self._again(group, error)
            except DeliveryError as error:
                self._refused(group, error)
                if isinstance(error, GoneError):
                    self._release(waiting, None)
                    break
            else:
                self.sent += self._finish(group, {"state": "sent", "sent_at": self.clock.now(), "last_error": None})
        return self

    def add_to(self, report: DeliveryReport) -> None:
        report.sent += self.sent
        report.retried += self.retried
        report.failed += self.failed
        report.problems += self.problems

    def _again(self, group: Sequence[Claimed], error: RetryableDeliveryError) -> None:
        now = self.clock.now()
        for row in group:
            if now - row.created_at >= self.policy.give_up_after:
                self._refused([row], error)
                continue
            wait = backoff(row.attempts) if error.retry_after is None else timedelta(seconds=error.retry_after)
            changes = {"state": "due", "due_at": now + wait, "last_error": str(error)}
            if isinstance(error, UncertainError):
                changes["maybe_told"] = True
            self.retried += self._finish([row], changes)
        self.problems.append(f"channel {self.name}: {error}; will try again")

    def _throttled(self, group: Sequence[Claimed], waiting: Sequence[Sequence[Claimed]], error: ThrottledError) -> None:
        from analytics_dagster.alerts import outbox_store

        wait = backoff(group[0].attempts) if error.retry_after is None else timedelta(seconds=error.retry_after)
        until = self.clock.now() + wait
        outbox_store.pause_channel(self.database, self.name, self.channel.target, until, str(error))
        self._again(group, ThrottledError(str(error), wait.total_seconds()))
        self._release(waiting, until)

    def _refused(self, group: Sequence[Claimed], error: DeliveryError | RetryableDeliveryError) -> None:
        from analytics_dagster.alerts import outbox_store

        if isinstance(error, GoneError):
            outbox_store.pause_channel(self.database, self.name, self.channel.target, None, str(error), gone=True)
        self.failed += self._finish(group, {"state": "failed", "last_error": str(error)})
        self.problems.append(f"channel {self.name}: {error}; given up")

    def _release(self, groups: Sequence[Sequence[Claimed]], until: object) -> None:
        """Give back what was claimed and not tried, as if it had not been claimed."""
        for group in groups:
            for row in group:
                changes = {"state": "due", "attempts": row.attempts - 1}
                self._finish([row], changes if until is None else {**changes, "due_at": until})

    def _finish(self, rows: Sequence[Claimed], changes: dict[str, object]) -> int:
        from analytics_dagster.alerts import outbox_store

        return outbox_store.finish(self.database, rows, self.me, changes)


def backoff(attempts: int) -> timedelta:
    """How long to wait after so many tries (from 1)."""
    return min(LONGEST_RETRY, FIRST_RETRY * (1 << min(attempts - 1, 10)))


def _groups(rows: Sequence[Claimed], size: int) -> Iterator[list[Claimed]]:
    """Rows that one message may tell together: of one tenant, rule, status and severity."""
    groups: dict[tuple[str, ...], list[Claimed]] = {}
    for row in rows:
        one = row.delivery
        alone = one.dedup_key if one.status == "digest" else ""
        groups.setdefault((one.tenant, one.rule, one.status, one.severity, alone), []).append(row)
    for group in groups.values():
        for start in range(0, len(group), size):
            yield group[start : start + size]
