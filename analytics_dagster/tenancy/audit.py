"""The audit trail: who changed keys, tenants and quotas, and who reached for what is not theirs. Rows are only ever added.

A change is written in the transaction that makes it. Attempts come at whatever rate an attacker likes, so equal ones become
one row a minute with a count, and an actor who tries many names gets a bounded number of rows.
"""

from __future__ import annotations

import datetime as dt
import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from analytics_dagster.clock import Clock

if TYPE_CHECKING:
    import sqlalchemy as sa

    from analytics_dagster.lake.database import Database

COMMAND_LINE = "command line"
"""The actor of whatever a verb does: whoever may open the home's files."""
PLATFORM = "platform"
"""The actor of what happens by itself, such as the deletion of a removed tenant's data."""

ATTEMPT_SECONDS = 60
# An actor's different targets in ATTEMPT_SECONDS; what is beyond them is counted in one row.
MOST_TARGETS = 20
MOST_ACTORS = 1_000
OTHERS = "(others)"
_LONGEST = 255

_log = logging.getLogger(__name__)


class Outcome(StrEnum):
    DONE = "done"
    REFUSED = "refused"


@dataclass(frozen=True)
class AuditEntry:
    """One row. `count` is how many equal attempts it stands for, `at` the time of the first."""

    at: dt.datetime
    action: str
    actor: str
    tenant: str | None
    target: str
    outcome: Outcome
    detail: str
    request_id: str | None
    count: int


@dataclass
class _Waiting:
    """Attempts that are counted, and not written yet."""

    first: dt.datetime
    until: dt.datetime
    count: int = 0


class _Who(NamedTuple):
    action: str
    actor: str


class _What(NamedTuple):
    tenant: str | None
    target: str


class _Key(NamedTuple):
    who: _Who
    what: _What


class Audit:
    """The trail in the operational database. Safe to call from any thread."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._attempts: dict[_Who, dict[_What, _Waiting]] = {}
        self._lock = threading.Lock()

    def record(
        self,
        action: str,
        actor: str,
        *,
        tenant: str | None = None,
        target: str = "",
        outcome: Outcome = Outcome.DONE,
        detail: str = "",
        request_id: str | None = None,
        connection: sa.Connection | None = None,
    ) -> None:
        """Add a row; with `connection` in the transaction that it is about."""
        entry = AuditEntry(self._clock.now(), action, _short(actor), tenant, _short(target), outcome, detail, request_id, count=1)
        self._add([entry], connection)

    def attempt(
        self, action: str, actor: str, *, tenant: str | None, target: str, detail: str = "", request_id: str | None = None
    ) -> bool:
        """Note something refused. The first of equal ones in a minute is written at once, the others are counted for `flush`.

        Equal are those with the same action, actor, tenant and target. True when a row was written.
        """
        now = self._clock.now()
        with self._lock:
            key = self._key(_Who(action, _short(actor)), _What(tenant, _short(target)))
            known = self._attempts.setdefault(key.who, {})
            waiting = known.get(key.what)
            if waiting is not None and now < waiting.until:
                waiting.first = waiting.first if waiting.count else now
                waiting.count += 1
                return False
            left = [_counted(key, waiting)] if waiting is not None and waiting.count else []
            known[key.what] = _Waiting(now, now + dt.timedelta(seconds=ATTEMPT_SECONDS))
        who, what = key.who, key.what
        _log.warning("refused %s by %s: tenant %s, target %r", who.action, who.actor, what.tenant, what.target)
        first = AuditEntry(now, who.action, who.actor, what.tenant, what.target, Outcome.REFUSED, _short(detail), request_id, 1)
        self._add([*left, first], None)
        return True

    def flush(self) -> int:
        """Write what was counted in minutes that are over. Called every few seconds by a server. Returns rows written."""
        return self._flush(self._clock.now())

    def close(self) -> int:
        """Write all that was counted."""
        return self._flush(None)

    def entries(self, *, tenant: str | None = None, limit: int = 1_000) -> Sequence[AuditEntry]:
        """The newest rows, oldest of them first; of one tenant, or of all."""
        import sqlalchemy as sa

        from analytics_dagster.lake.state_tables import audit

        query = sa.select(audit).order_by(audit.c.id.desc()).limit(limit)
        if tenant is not None:
            query = query.where(audit.c.tenant == tenant)
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        return [_entry(row) for row in reversed(rows)]

    def _key(self, who: _Who, what: _What) -> _Key:
        """The row that an attempt belongs to: its own, or the one for all that is beyond the bounds."""
        known = self._attempts.get(who)
        if known is None:
            return _Key(who, what) if len(self._attempts) < MOST_ACTORS else _Key(_Who(who.action, OTHERS), _What(None, OTHERS))
        if what in known or len(known) < MOST_TARGETS:
            return _Key(who, what)
        return _Key(who, _What(None, OTHERS))

    def _flush(self, now: dt.datetime | None) -> int:
        rows = []
        with self._lock:
            for who, known in list(self._attempts.items()):
                over = [what for what, waiting in known.items() if now is None or now >= waiting.until]
                rows += [_counted(_Key(who, what), known[what]) for what in over if known[what].count]
                for what in over:
                    del known[what]
                if not known:
                    del self._attempts[who]
        self._add(rows, None)
        return len(rows)

    def _add(self, entries: Sequence[AuditEntry], connection: sa.Connection | None) -> None:
        from analytics_dagster.lake.state_tables import audit

        rows = [entry.__dict__ for entry in entries]
        if not rows:
            return
        if connection is not None:
            connection.execute(audit.insert(), rows)
        else:
            self._database.write(lambda c: c.execute(audit.insert(), rows))


def _counted(key: _Key, waiting: _Waiting) -> AuditEntry:
    (action, actor), (tenant, target) = key
    return AuditEntry(waiting.first, action, actor, tenant, target, Outcome.REFUSED, "", None, waiting.count)


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def _entry(row: Any) -> AuditEntry:
    values = {name: value for name, value in row._mapping.items() if name != "id"}
    return AuditEntry(**{**values, "outcome": Outcome(values["outcome"])})
