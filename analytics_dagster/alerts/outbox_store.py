"""The outbox's rows: which may be sent now, who has claimed them, what became of them.

Claims are leases: a row whose sender was killed is claimed again when its lease has run out, and sent under the same
dedup key. Cooldown, cap and order are decided here, within the claiming transaction, from what was really sent.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from analytics_dagster.alerts.channels.base import Delivery
from analytics_dagster.lake.state_tables import channel_pauses, outbox

if TYPE_CHECKING:
    from analytics_dagster.alerts.channels.build import Channels
    from analytics_dagster.alerts.outbox import DeliveryPolicy
    from analytics_dagster.lake.database import Database

_HOUR = timedelta(hours=1)
# While its firing message is on the way, a resolved one looks again after this long.
_LOOK_AGAIN = timedelta(seconds=2)
# One number for all claims of a PostgreSQL database; SQLite has one writer anyway.
_CLAIM_LOCK = 7_135_001


@dataclass(frozen=True)
class Claimed:
    """A row that is ours to send until `until`."""

    id: int
    attempts: int
    created_at: datetime
    until: datetime
    delivery: Delivery


@dataclass
class Claim:
    """What claiming came to: rows to send, and rows that were put off or closed."""

    rows: list[Claimed] = field(default_factory=list)
    deferred: int = 0
    dropped: int = 0
    failed: int = 0


def claim(database: Database, channels: Channels, policy: DeliveryPolicy, me: str, now: datetime, limit: int) -> Claim:
    """Claim up to `limit` rows that may be sent now."""

    def change(connection: sa.Connection) -> Claim:
        if connection.dialect.name == "postgresql":
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _CLAIM_LOCK})
        return _Claiming(connection, channels, policy, me, now).take(limit)

    return database.write(change)


def has_due(database: Database, now: datetime) -> bool:
    """Whether any row may be sent now (or has to be looked at)."""
    with database.read() as connection:
        return connection.execute(sa.select(outbox.c.id).where(_ready(now)).limit(1)).first() is not None


def finish(database: Database, rows: Sequence[Claimed], me: str, values: Mapping[str, Any]) -> int:
    """Write what became of rows that are still ours; returns how many were."""
    ids = [row.id for row in rows]

    def change(connection: sa.Connection) -> int:
        mine = outbox.update().where(outbox.c.id.in_(ids), outbox.c.claimed_by == me, outbox.c.state == "sending")
        return connection.execute(mine.values(claimed_by=None, claimed_until=None, **values)).rowcount

    return database.write(change) if ids else 0


def pause_channel(
    database: Database, channel: str, target: str, until: datetime | None, reason: str, *, gone: bool = False
) -> None:
    """Remember that a channel asked for a pause, or to be left alone for good."""
    from sqlalchemy.dialects import postgresql, sqlite

    values = {"target": target, "paused_until": until, "gone": gone, "reason": reason}

    def change(connection: sa.Connection) -> None:
        insert = (postgresql if connection.dialect.name == "postgresql" else sqlite).insert(channel_pauses)
        connection.execute(
            insert.values(channel=channel, **values).on_conflict_do_update(index_elements=["channel"], set_=values)
        )

    database.write(change)


def _ready(now: datetime) -> sa.ColumnElement[bool]:
    due = sa.and_(outbox.c.state == "due", outbox.c.due_at <= now)
    return sa.or_(due, sa.and_(outbox.c.state == "sending", outbox.c.claimed_until <= now))


@dataclass
class _Claiming:
    connection: sa.Connection
    channels: Channels
    policy: DeliveryPolicy
    me: str
    now: datetime
    result: Claim = field(default_factory=Claim)

    def take(self, limit: int) -> Claim:
        # Few attempts first, so that a row that keeps failing never holds up the others.
        query = sa.select(outbox).where(_ready(self.now)).order_by(outbox.c.attempts, outbox.c.id).limit(limit * 4)
        pauses = {row.channel: row for row in self.connection.execute(sa.select(channel_pauses))}
        for row in self.connection.execute(query).all():
            if len(self.result.rows) == limit:
                break
            if self._channel_takes(row, pauses.get(row.channel)) and self._may_send(row):
                self._claim(row)
        return self.result

    def _channel_takes(self, row: Any, pause: Any) -> bool:
        if pause is None or pause.target != self.channels.of(row.channel).target:
            return True
        if pause.gone:
            self._close(row, "failed", f"the receiver asked not to be called again: {pause.reason}")
            self.result.failed += 1
            return False
        if pause.paused_until is not None and pause.paused_until > self.now:
            self._defer(row, pause.paused_until, row.deferred)
            return False
        return True

    def _may_send(self, row: Any) -> bool:
        if row.attempts >= self.policy.most_attempts:
            self._close(row, "failed", f"given up after {row.attempts} attempts; last: {row.last_error}")
            self.result.failed += 1
            return False
        if row.status == "resolved":
            return self._may_resolve(row)
        # A row that was on its way before has passed all this, and may have arrived.
        if row.status == "firing" and not row.urgent and row.state == "due" and row.attempts == 0:
            return self._may_fire(row)
        return True

    def _may_fire(self, row: Any) -> bool:
        wait = self._cooldown(row)
        over = self._siblings(row, "resolved") if wait is not None or row.deferred is not None else ()
        if over:
            # It was over before anybody could be told: neither message is sent.
            self._drop(row, *over)
            return False
        reason = "cooldown"
        if wait is None:
            wait, reason = self._cap(row), "cap"
        if wait is None:
            return True
        self._defer(row, wait, reason)
        self.result.deferred += row.deferred is None
        return False

    def _may_resolve(self, row: Any) -> bool:
        if not self.channels.of(row.channel).send_resolved:
            self._drop(row)
            return False
        firing = self._siblings(row, "firing")
        if any(one.state == "sent" or one.maybe_told for one in firing):
            return True
        if any(one.state == "sending" for one in firing):
            return False
        waiting = [one for one in firing if one.state == "due"]
        if not waiting or any(one.deferred is not None for one in waiting):
            self._drop(row, *waiting)
            return False
        self._defer(row, max(self.now, *(one.due_at for one in waiting)) + _LOOK_AGAIN, None)
        return False

    def _siblings(self, row: Any, status: str) -> Sequence[Any]:
        query = sa.select(outbox).where(
            outbox.c.occurrence == row.occurrence, outbox.c.channel == row.channel, outbox.c.status == status
        )
        if status == "resolved":
            query = query.where(outbox.c.state == "due")
        return self.connection.execute(query.order_by(outbox.c.id)).all()

    def _cooldown(self, row: Any) -> datetime | None:
        """When the cooldown of this instance and channel ends, if it has not."""
        instance = (
            outbox.c.tenant == row.tenant,
            outbox.c.rule == row.rule,
            outbox.c.fingerprint == row.fingerprint,
            outbox.c.channel == row.channel,
            outbox.c.status == "firing",
        )
        on_the_way = sa.select(outbox.c.id).where(*instance, outbox.c.state == "sending")
        if self.connection.execute(on_the_way.limit(1)).first() is not None:
            return self.now + self.policy.cooldown if self.policy.cooldown else None
        last = self.connection.execute(
            sa.select(sa.func.max(outbox.c.sent_at)).where(*instance, outbox.c.state == "sent")
        ).scalar()
        if last is None:
            return None
        end: datetime = last + self.policy.cooldown
        return end if end > self.now else None

    def _cap(self, row: Any) -> datetime | None:
        """When the tenant and channel may be told again, if the hour's messages are used up."""
        mine = (outbox.c.tenant == row.tenant, outbox.c.channel == row.channel, outbox.c.status == "firing")
        sent = sa.select(outbox.c.sent_at).where(*mine, outbox.c.state == "sent", outbox.c.sent_at > self.now - _HOUR)
        times = sorted(self.connection.execute(sent).scalars())
        on_the_way = sa.select(sa.func.count()).select_from(outbox).where(*mine, outbox.c.state == "sending")
        used = len(times) + int(self.connection.execute(on_the_way).scalar() or 0)
        if used < self.policy.most_per_hour:
            return None
        # The oldest one that has to leave the hour for one more to fit in.
        return (
            times[used - self.policy.most_per_hour] + _HOUR
            if used - self.policy.most_per_hour < len(times)
            else self.now + _LOOK_AGAIN
        )

    def _claim(self, row: Any) -> None:
        until = self.now + self.policy.lease
        # A row in `sending` was tried by somebody who is gone: it may have arrived.
        lost = row.state == "sending"
        self._set(
            row,
            state="sending",
            claimed_by=self.me,
            claimed_until=until,
            attempts=row.attempts + 1,
            deferred=None,
            maybe_told=row.maybe_told or lost,
        )
        payload = json.loads(row.payload)
        delivery = Delivery(row.dedup_key, row.tenant, row.channel, row.rule, row.status, row.severity, payload)
        self.result.rows.append(Claimed(row.id, row.attempts + 1, row.created_at, until, delivery))

    def _defer(self, row: Any, until: datetime, reason: str | None) -> None:
        self._set(row, state="due", due_at=until, deferred=reason, claimed_by=None, claimed_until=None)

    def _drop(self, *rows: Any) -> None:
        for row in rows:
            self._close(row, "dropped", None)
            self.result.dropped += 1

    def _close(self, row: Any, state: str, error: str | None) -> None:
        changes = {} if error is None else {"last_error": error}
        self._set(row, state=state, claimed_by=None, claimed_until=None, **changes)

    def _set(self, row: Any, **values: Any) -> None:
        self.connection.execute(outbox.update().where(outbox.c.id == row.id).values(**values))


def by_channel(rows: Iterable[Claimed]) -> dict[str, list[Claimed]]:
    """Rows by the channel that they were written for, in order."""
    found: dict[str, list[Claimed]] = {}
    for row in rows:
        found.setdefault(row.delivery.channel, []).append(row)
    return found
