"""Secrets that work once and for minutes: a link to sign in with, the state of a sign-in that is under way at a provider.

The database keeps a SHA-256 and what the ticket is for. Taking one deletes it in the same transaction, so that of two who
come with it, in whatever process, one gets it.
"""

from __future__ import annotations

import datetime as dt
import json
import secrets
from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING

from analytics_dagster.clock import Clock
from analytics_dagster.tenancy.keys import digest_of

if TYPE_CHECKING:
    import sqlalchemy as sa

    from analytics_dagster.lake.database import Database

LIFETIME = dt.timedelta(minutes=10)
# Anybody may begin to sign in at a provider. Refusing new ones when too many are open would let one client keep all others out.
MOST_OPEN = 10_000
_RANDOM_BYTES = 32
_LONGEST_SECRET = 200


class TicketKind(StrEnum):
    """What a ticket is for."""

    ONCE = "once"
    OIDC = "oidc"


class Tickets:
    """The tickets of an installation. Safe to call from any thread."""

    def __init__(self, database: Database, clock: Clock, most_open: int = MOST_OPEN) -> None:
        self._database = database
        self._clock = clock
        self._most_open = most_open

    def issue(self, kind: TicketKind, payload: Mapping[str, str]) -> str:
        """A new ticket's text, good for LIFETIME. Where MOST_OPEN of its kind are open, the oldest are given up."""
        secret, now = secrets.token_urlsafe(_RANDOM_BYTES), self._clock.now()

        def write(connection: sa.Connection) -> None:
            import sqlalchemy as sa

            from analytics_dagster.lake.state_tables import tickets

            connection.execute(tickets.delete().where(tickets.c.expires_at <= now))
            same = sa.select(tickets.c.digest).where(tickets.c.kind == kind.value).order_by(tickets.c.expires_at.desc())
            too_many = list(connection.execute(same.offset(self._most_open - 1)).scalars())
            connection.execute(tickets.delete().where(tickets.c.digest.in_(too_many)))
            values = {"digest": digest_of(secret), "kind": kind.value, "payload": json.dumps(dict(payload))}
            connection.execute(tickets.insert().values(**values, expires_at=now + LIFETIME))

        self._database.write(write)
        return secret

    def take(self, kind: TicketKind, secret: str) -> Mapping[str, str] | None:
        """What the ticket is for, and its end; None for one that is unknown, over, or was taken before."""
        if len(secret) > _LONGEST_SECRET:
            return None
        digest = digest_of(secret)

        def write(connection: sa.Connection) -> str | None:
            import sqlalchemy as sa

            from analytics_dagster.lake.state_tables import tickets

            mine = (tickets.c.digest == digest) & (tickets.c.kind == kind.value) & (tickets.c.expires_at > self._clock.now())
            payload = connection.execute(sa.select(tickets.c.payload).where(mine)).scalar_one_or_none()
            taken = connection.execute(tickets.delete().where(mine)).rowcount == 1
            return payload if taken else None

        payload = self._database.write(write)
        return None if payload is None else dict(json.loads(payload))
