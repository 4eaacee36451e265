"""Sessions of people who signed in: 256 random bits in a cookie, SHA-256 in the database, and a short memory of which are good.

A session belongs to a key or to a person of an OpenID provider. A key's has no rights of its own: each request looks at how
the key stands, so that a revoked one ends its sessions within 5 s in every process. A person's has what the provider's claims
gave when it began. What is looked up is remembered as long as a key is.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from analytics_dagster.clock import Clock
from analytics_dagster.errors import AuthenticationError, NotFoundError, PermissionDeniedError
from analytics_dagster.tenancy.keys import REMEMBERED_SECONDS, Keys, Principal, digest_of
from analytics_dagster.tenancy.roles import Permission, Role
from analytics_dagster.tenancy.tenants import TenantStatus

if TYPE_CHECKING:
    import sqlalchemy as sa

    from analytics_dagster.lake.database import Database
    from analytics_dagster.settings import Settings

_RANDOM_BYTES = 32
_MOST_REMEMBERED = 10_000
_LAST_USED_EVERY = dt.timedelta(minutes=1)
_LONGEST = 255
# What cannot be a session's cookie is refused before it is hashed.
_LONGEST_SECRET = 100


class SessionRefusedError(AuthenticationError):
    """The session is unknown, over or ended. One message for all: the next step is the same."""

    def __init__(self) -> None:
        super().__init__("you are not signed in, or were signed out; sign in again")


@dataclass(frozen=True)
class Person:
    """Somebody an OpenID provider vouches for, with what the mapping of its claims gives. `tenants` None: every one."""

    issuer: str
    subject: str
    name: str
    role: Role
    tenants: frozenset[str] | None

    @property
    def person_id(self) -> str:
        """Stands in logs, the audit trail and `created_by` where a key's id does."""
        return f"oidc_{hashlib.sha256(f'{self.issuer} {self.subject}'.encode()).hexdigest()[:10]}"


@dataclass(frozen=True)
class Session:
    """A session that is good now. `csrf` goes into the forms of its pages."""

    session_id: str
    principal: Principal
    csrf: str
    expires_at: dt.datetime

    def accepts(self, token: str) -> bool:
        """Whether `token` came from one of this session's pages."""
        return hmac.compare_digest(self.csrf.encode(), token.encode())


@dataclass(frozen=True)
class Begun:
    """A new session; `secret` goes into the cookie and nowhere else."""

    secret: str
    session: Session


@dataclass(frozen=True)
class SessionRecord:
    """A session as it is listed: whose, and until when. `who` is a key's id or a person's."""

    session_id: str
    who: str
    name: str
    created_at: dt.datetime
    last_used_at: dt.datetime
    expires_at: dt.datetime


@dataclass(frozen=True)
class _Found:
    """A session's row, and until when it is believed (monotonic seconds). `active`: a person's tenants that are active."""

    believed_until: float
    row: Any
    active: frozenset[str] | None = None


class Sessions:
    """The sessions of an installation. Safe to call from any thread; one object for each process."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        keys: Keys,
        *,
        lifetime: dt.timedelta,
        idle: dt.timedelta,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._clock = clock
        self._keys = keys
        self._lifetime = lifetime
        self._idle = idle
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._found: dict[str, _Found] = {}
        self._used: dict[str, dt.datetime] = {}

    def begin(self, key: str) -> Begun:
        """Sign in with a key's text. Raises as `Keys.authenticate`, and PermissionDeniedError for a key that reads nothing."""
        return self._begin_of(self._keys.authenticate(key), digest_of(key))

    def begin_of_key(self, key_id: str, digest: str) -> Begun:
        """Sign in as the holder of a key whose text is not at hand."""
        return self._begin_of(self._keys.standing(key_id, digest), digest)

    def begin_of_person(self, person: Person) -> Begun:
        """Sign in as somebody whom a provider vouched for. Raises PermissionDeniedError when none of the tenants is active."""
        values = {
            "issuer": person.issuer,
            "subject": person.subject,
            "name": person.name[:_LONGEST],
            "role": person.role.value,
            "tenants": None if person.tenants is None else ",".join(sorted(person.tenants)),
        }
        return self._insert(values)

    def authenticate(self, secret: str) -> Session:
        """The session whose cookie has `secret`. Writes nothing; looks into the database at most every REMEMBERED_SECONDS.

        Raises SessionRefusedError for one that is over, and what `Keys` raises for a key that does not work any more.
        """
        if len(secret) > _LONGEST_SECRET:
            raise SessionRefusedError
        digest = digest_of(secret)
        found = self._found.get(digest)
        if found is None or self._monotonic() >= found.believed_until:
            found = self._look_up(digest)
        row, now = found.row, self._clock.now()
        if row is None or row.revoked_at is not None or now >= row.expires_at:
            raise SessionRefusedError
        if now - max(row.last_used_at, self._used.get(digest, row.last_used_at)) >= self._idle:
            raise SessionRefusedError
        session = Session(row.session_id, self._principal(found), csrf_token(secret), row.expires_at)
        self._used[digest] = now
        return session

    def end(self, secret: str) -> None:
        """Sign out: at once here, within 5 s elsewhere. What is over already stays so."""
        self._revoke("digest", digest_of(secret))

    def revoke(self, session_id: str) -> None:
        """End somebody's session within 5 s everywhere. Raises NotFoundError for an id that there is not."""
        if not self._revoke("session_id", session_id):
            raise NotFoundError(f"no session {session_id!r} is open; `analytics session list` shows those that are")

    def list(self) -> Sequence[SessionRecord]:
        """The sessions that are open, oldest first."""
        import sqlalchemy as sa

        from analytics_dagster.lake.state_tables import sessions

        now = self._clock.now()
        good = sa.and_(sessions.c.revoked_at.is_(None), sessions.c.expires_at > now, sessions.c.last_used_at > now - self._idle)
        with self._database.read() as connection:
            rows = connection.execute(sa.select(sessions).where(good).order_by(sessions.c.created_at)).all()
        return [
            SessionRecord(r.session_id, r.key_id or _person(r).person_id, r.name, r.created_at, r.last_used_at, r.expires_at)
            for r in rows
        ]

    def flush_last_used(self) -> int:
        """Write when sessions were last used, each at most once a minute. A server calls this every few seconds."""
        from analytics_dagster.lake.state_tables import sessions

        due = []
        for digest, at in list(self._used.items()):
            found = self._found.get(digest)
            if found is None or found.row is None:
                self._used.pop(digest, None)
            elif at - found.row.last_used_at >= _LAST_USED_EVERY:
                due.append((digest, at))
        if not due:
            return 0

        def write(connection: sa.Connection) -> None:
            for digest, at in due:
                mine = (sessions.c.digest == digest) & (sessions.c.last_used_at < at)
                connection.execute(sessions.update().where(mine).values(last_used_at=at))

        self._database.write(write)
        with self._lock:
            for digest, _ in due:
                self._found.pop(digest, None)
        return len(due)

    def forget_old(self) -> int:
        """Delete the rows of sessions that are over. Returns how many."""
        from analytics_dagster.lake.state_tables import sessions

        now = self._clock.now()
        over = (sessions.c.expires_at <= now) | (sessions.c.last_used_at <= now - self._idle) | sessions.c.revoked_at.is_not(None)
        return self._database.write(lambda connection: connection.execute(sessions.delete().where(over)).rowcount)

    def _begin_of(self, principal: Principal, digest: str) -> Begun:
        if not principal.may(Permission.FIGURES_READ):
            raise PermissionDeniedError(f"a key of role {principal.role} only sends data; sign in with one that may read")
        return self._insert({"key_id": principal.key_id, "key_digest": digest, "name": principal.name})

    def _insert(self, values: dict[str, Any]) -> Begun:
        from analytics_dagster.lake.state_tables import sessions

        secret, now = secrets.token_urlsafe(_RANDOM_BYTES), self._clock.now()
        digest = digest_of(secret)
        times = {"created_at": now, "last_used_at": now, "expires_at": now + self._lifetime}
        row = {**values, **times, "digest": digest, "session_id": f"se_{digest[:12]}"}
        self._database.write(lambda connection: connection.execute(sessions.insert().values(**row)))
        return Begun(secret, self.authenticate(secret))

    def _principal(self, found: _Found) -> Principal:
        row = found.row
        if row.key_id is not None:
            return self._keys.standing(row.key_id, row.key_digest)
        person = _person(row)
        if found.active is not None and not found.active:
            raise PermissionDeniedError("none of the tenants that you may see is active; ask whoever runs this platform")
        return Principal(person.person_id, person.role, found.active, person.name)

    def _look_up(self, digest: str) -> _Found:
        import sqlalchemy as sa

        from analytics_dagster.lake.state_tables import sessions, tenants

        believed_until = self._monotonic() + REMEMBERED_SECONDS  # from before the look-up: what changes during it is seen next
        active = None
        with self._database.read() as connection:
            row = connection.execute(sa.select(sessions).where(sessions.c.digest == digest)).one_or_none()
            if row is not None and row.tenants is not None:
                mine = tenants.c.tenant.in_(row.tenants.split(",")) & (tenants.c.status == TenantStatus.ACTIVE)
                active = frozenset(connection.execute(sa.select(tenants.c.tenant).where(mine)).scalars())
        found = _Found(believed_until, row, active)
        if row is not None:
            with self._lock:
                while len(self._found) >= _MOST_REMEMBERED:
                    oldest = next(iter(self._found))
                    del self._found[oldest]
                    self._used.pop(oldest, None)
                self._found.pop(digest, None)
                self._found[digest] = found
        return found

    def _revoke(self, column: str, value: str) -> bool:
        from analytics_dagster.lake.state_tables import sessions

        def write(connection: sa.Connection) -> bool:
            mine = (sessions.c[column] == value) & sessions.c.revoked_at.is_(None)
            return connection.execute(sessions.update().where(mine).values(revoked_at=self._clock.now())).rowcount == 1

        done = self._database.write(write)
        with self._lock:
            self._found.clear()
        return done


def open_sessions(settings: Settings, database: Database, clock: Clock, keys: Keys) -> Sessions:
    """The sessions of an installation, as long as its settings say."""
    lifetime = dt.timedelta(seconds=settings.analytics_session_lifetime)
    return Sessions(database, clock, keys, lifetime=lifetime, idle=dt.timedelta(seconds=settings.analytics_session_idle))


def csrf_token(secret: str) -> str:
    """The token that proves that a form was made for the holder of `secret`; tells nothing about it."""
    return hmac.new(secret.encode(), b"csrf", hashlib.sha256).hexdigest()


def _person(row: Any) -> Person:
    tenants = None if row.tenants is None else frozenset(row.tenants.split(","))
    return Person(row.issuer, row.subject, row.name, Role(row.role), tenants)
