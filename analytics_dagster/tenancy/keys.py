"""API keys: 256 random bits in the clear once, SHA-256 in the database, and a short memory of which are good.

A key's text carries its own checksum, so that a mistyped one is refused before anything is looked up. What is looked up is
remembered for less than 5 s, which is how fast a revocation reaches every process; an expiry counts at once.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from analytics_dagster.clock import Clock
from analytics_dagster.errors import AuthenticationError, NotFoundError, PermissionDeniedError, UserError
from analytics_dagster.tenancy.audit import COMMAND_LINE, Audit
from analytics_dagster.tenancy.key_text import check_secret, key_id_of, new_secret
from analytics_dagster.tenancy.roles import Permission, Role, may, may_mint
from analytics_dagster.tenancy.tenants import TenantStatus

if TYPE_CHECKING:
    import sqlalchemy as sa

    from analytics_dagster.lake.database import Database

# Less than the 5 s that a revocation may take, so that a slow look-up still ends in time.
REMEMBERED_SECONDS = 4.0
# Unknown keys are remembered too; somebody who sends a different one each time must not fill the memory.
_MOST_REMEMBERED = 10_000
_LAST_USED_EVERY = dt.timedelta(minutes=1)
_LONGEST_NAME = 255
ALL_TENANTS = "*"

_log = logging.getLogger(__name__)


class KeyRefusedError(AuthenticationError):
    """A key that does not work. The message is fit for whoever sent it: it does not tell unknown from revoked or expired.

    `reason`, for the log, does: malformed, unknown, expired or revoked.
    """

    def __init__(self, reason: str, key_id: str) -> None:
        super().__init__(
            "the API key is mistyped or cut: its checksum does not fit; copy the whole of it"
            if reason == "malformed"
            else "the API key is unknown, expired or revoked; make one with `analytics key create`"
        )
        self.reason, self.key_id = reason, key_id


@dataclass(frozen=True)
class Principal:
    """Who is asking: a key's id, role and the active tenants that it is for (None: every registered one)."""

    key_id: str
    role: Role
    tenants: frozenset[str] | None
    name: str = ""

    def may(self, permission: Permission) -> bool:
        return may(self.role, permission)

    def require(self, permission: Permission) -> None:
        """Raises PermissionDeniedError naming what is missing."""
        if not self.may(permission):
            raise PermissionDeniedError(f"a key of role {self.role} may not do this; it takes {permission}")

    def reaches(self, tenant: str) -> bool:
        return self.tenants is None or tenant in self.tenants

    @property
    def sole_tenant(self) -> str | None:
        """The tenant of a key that is for one alone; None for a collector's and a platform-admin's."""
        return next(iter(self.tenants)) if self.tenants is not None and len(self.tenants) == 1 else None


@dataclass(frozen=True)
class KeyRecord:
    """A key as it is listed; its text is known to nobody but its holder. `tenants` None: every registered one."""

    key_id: str
    name: str
    role: Role
    tenants: tuple[str, ...] | None
    created_at: dt.datetime
    created_by: str
    expires_at: dt.datetime | None
    revoked_at: dt.datetime | None
    last_used_at: dt.datetime | None


@dataclass(frozen=True)
class CreatedKey:
    """A new key; `secret` is its text, shown once."""

    secret: str
    record: KeyRecord


@dataclass(frozen=True)
class _Found:
    """What the database said about a key, and until when that is believed (monotonic seconds)."""

    believed_until: float
    record: KeyRecord | None
    digest: str = ""
    statuses: tuple[tuple[str, str], ...] = ()
    active: frozenset[str] | None = None
    """The tenants among them that are active; None for a key of every tenant."""


class Keys:
    """The keys of an installation. Safe to call from any thread; one object for each process."""

    def __init__(self, database: Database, clock: Clock, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._clock = clock
        self._monotonic = monotonic
        self._audit = Audit(database, clock)
        self._lock = threading.Lock()
        self._found: dict[str, _Found] = {}
        self._used: dict[str, dt.datetime] = {}
        self._used_noted: dict[str, dt.datetime] = {}

    def create(
        self,
        role: Role,
        tenants: Sequence[str] | None,
        *,
        name: str = "",
        expires_at: dt.datetime | None = None,
        minted_by: Principal | None = None,
    ) -> CreatedKey:
        """Make a key for `tenants` (None: every registered one). `minted_by` None is the command line, which may make any.

        Raises UserError for a combination that no key may have, NotFoundError for a tenant that is not registered, and
        PermissionDeniedError when the minter would make a key above its own or a collector's.
        """
        wanted = None if tenants is None else tuple(sorted(set(tenants)))
        self._check(role, wanted, name, expires_at, minted_by)
        secret = new_secret()
        record = KeyRecord(
            key_id_of(secret),
            name,
            role,
            wanted,
            self._clock.now(),
            COMMAND_LINE if minted_by is None else minted_by.key_id,
            expires_at,
            revoked_at=None,
            last_used_at=None,
        )
        self._database.write(lambda connection: self._insert(connection, record, digest_of(secret)))
        return CreatedKey(secret, record)

    def authenticate(self, secret: str) -> Principal:
        """Who holds `secret`. Writes nothing; looks into the database at most every REMEMBERED_SECONDS for each key.

        Raises KeyRefusedError (an AuthenticationError) for a key that does not work, PermissionDeniedError when every tenant
        of a good one is suspended or removed.
        """
        if not check_secret(secret):
            raise KeyRefusedError("malformed", "")
        return self.standing(key_id_of(secret), digest_of(secret))

    def standing(self, key_id: str, digest: str) -> Principal:
        """Who holds the key with this id and SHA-256: `authenticate` for whoever kept those of a key, and not its text."""
        found = self._found.get(digest)
        if found is None or self._monotonic() >= found.believed_until:
            found = self._look_up(key_id, digest)
        record = found.record
        if record is None or not hmac.compare_digest(found.digest, digest):
            raise KeyRefusedError("unknown", key_id)
        now = self._clock.now()
        if record.revoked_at is not None:
            raise KeyRefusedError("revoked", key_id)
        if record.expires_at is not None and now >= record.expires_at:
            raise KeyRefusedError("expired", key_id)
        if found.active is not None and not found.active:
            raise PermissionDeniedError(_why_none(found.statuses))
        self._used[key_id] = now
        return Principal(key_id, record.role, found.active, record.name)

    def flush_last_used(self) -> int:
        """Write when keys were last used, each at most once a minute. A server calls this every few seconds.

        Returns how many were written.
        """
        from analytics_dagster.lake.state_tables import api_keys

        due = []
        for key_id, at in list(self._used.items()):
            noted = self._used_noted.get(key_id)
            if noted is None or at - noted >= _LAST_USED_EVERY or at < noted:
                due.append((key_id, at))
        if not due:
            return 0

        def write(connection: sa.Connection) -> None:
            for key_id, at in due:
                older = api_keys.c.last_used_at.is_(None) | (api_keys.c.last_used_at < at)
                connection.execute(api_keys.update().where(api_keys.c.key_id == key_id, older).values(last_used_at=at))

        self._database.write(write)
        self._used_noted.update(due)
        return len(due)

    def list(self) -> Sequence[KeyRecord]:
        """All keys, oldest first; revoked and expired ones too."""
        import sqlalchemy as sa

        from analytics_dagster.lake.state_tables import api_key_tenants, api_keys

        with self._database.read() as connection:
            rows = connection.execute(sa.select(api_keys).order_by(api_keys.c.created_at, api_keys.c.key_id)).all()
            pairs = connection.execute(sa.select(api_key_tenants).order_by(api_key_tenants.c.tenant)).all()
        tenants: dict[str, tuple[str, ...]] = {}
        for key_id, tenant in pairs:
            tenants[key_id] = (*tenants.get(key_id, ()), tenant)
        return [_record(row, tenants.get(row.key_id, ())) for row in rows]

    def revoke(self, key_id: str, *, actor: Principal | None = None) -> bool:
        """Revoke a key; it stops working at once here and within 5 s elsewhere. False when it was revoked before.

        Raises NotFoundError for an id that there is not, and for one that is not `actor`'s to revoke: as it would be told
        apart by nobody else.
        """
        import sqlalchemy as sa

        from analytics_dagster.lake.state_tables import api_keys

        record = next((r for r in self.list() if r.key_id == key_id), None)
        tenants = None if record is None or record.tenants is None else frozenset(record.tenants)
        if record is None or (actor is not None and not may_mint(actor.role, actor.tenants, record.role, tenants)):
            raise NotFoundError(f"no key {key_id!r}; `analytics key list` shows those there are")

        def write(connection: sa.Connection) -> bool:
            mine = sa.and_(api_keys.c.key_id == key_id, api_keys.c.revoked_at.is_(None))
            done = connection.execute(api_keys.update().where(mine).values(revoked_at=self._clock.now())).rowcount == 1
            if done:
                who = COMMAND_LINE if actor is None else actor.key_id
                self._audit.record("key.revoke", who, tenant=_only(record.tenants), target=key_id, connection=connection)
            return done

        done = self._database.write(write)
        with self._lock:
            self._found.clear()
        return done

    def _check(
        self,
        role: Role,
        tenants: tuple[str, ...] | None,
        name: str,
        expires_at: dt.datetime | None,
        minted_by: Principal | None,
    ) -> None:
        if role is Role.PLATFORM_ADMIN and tenants is not None:
            raise UserError("a platform-admin's key is for every tenant; leave the tenants out")
        if tenants is None and role not in (Role.PLATFORM_ADMIN, Role.INGEST):
            raise UserError(f"a key of role {role} is for one tenant; name it (only ingest may have several, or all with '*')")
        if tenants is not None and not tenants:
            raise UserError("a key needs a tenant; name one")
        if tenants is not None and len(tenants) > 1 and role is not Role.INGEST:
            raise UserError(f"a key of role {role} is for one tenant, not {len(tenants)}; only ingest may have several")
        if len(name) > _LONGEST_NAME or not (name.isprintable() or not name):
            raise UserError(f"the key's name is longer than {_LONGEST_NAME} characters or has one that cannot be printed")
        if expires_at is not None and expires_at <= self._clock.now():
            raise UserError(f"the key would expire at {expires_at:%Y-%m-%d %H:%M} UTC, which is past")
        if minted_by is None:
            return
        collector = role is Role.INGEST and (tenants is None or len(tenants) > 1)
        if collector:
            raise PermissionDeniedError("a collector's key is made on the command line only: `analytics key create`")
        if not may_mint(minted_by.role, minted_by.tenants, role, None if tenants is None else frozenset(tenants)):
            raise PermissionDeniedError(f"a key of role {minted_by.role} may not make this one: none is made above its maker")

    def _insert(self, connection: sa.Connection, record: KeyRecord, digest: str) -> None:
        import sqlalchemy as sa

        from analytics_dagster.lake.state_tables import api_key_tenants, api_keys, tenants

        wanted = record.tenants or ()
        stays = tenants.c.status.in_((TenantStatus.ACTIVE, TenantStatus.SUSPENDED))
        known = set(connection.execute(sa.select(tenants.c.tenant).where(tenants.c.tenant.in_(wanted), stays)).scalars())
        if missing := sorted(set(wanted) - known):
            raise NotFoundError(f"no tenant {missing[0]!r}; `analytics tenant add {missing[0]}` registers it")
        values = {name: getattr(record, name) for name in ("key_id", "name", "role", "created_at", "created_by", "expires_at")}
        connection.execute(api_keys.insert().values(**values, digest=digest, all_tenants=record.tenants is None))
        if wanted:
            connection.execute(api_key_tenants.insert(), [{"key_id": record.key_id, "tenant": tenant} for tenant in wanted])
        detail = f"role {record.role}, tenants {ALL_TENANTS if record.tenants is None else ', '.join(wanted)}"
        self._audit.record(
            "key.create",
            record.created_by,
            tenant=_only(record.tenants),
            target=record.key_id,
            detail=detail,
            connection=connection,
        )

    def _look_up(self, key_id: str, digest: str) -> _Found:
        import sqlalchemy as sa

        from analytics_dagster.lake.state_tables import api_key_tenants, api_keys, tenants

        believed_until = self._monotonic() + REMEMBERED_SECONDS  # from before the look-up: what changes during it is seen next
        with self._database.read() as connection:
            row = connection.execute(sa.select(api_keys).where(api_keys.c.key_id == key_id)).one_or_none()
            query = (
                sa.select(api_key_tenants.c.tenant, sa.func.coalesce(tenants.c.status, TenantStatus.REMOVED.value))
                .select_from(api_key_tenants.outerjoin(tenants, tenants.c.tenant == api_key_tenants.c.tenant))
                .where(api_key_tenants.c.key_id == key_id)
                .order_by(api_key_tenants.c.tenant)
            )
            statuses = tuple((str(t), str(s)) for t, s in connection.execute(query)) if row is not None else ()
        found = _Found(believed_until, None)
        if row is not None:
            active = None if row.all_tenants else frozenset(t for t, status in statuses if status == TenantStatus.ACTIVE)
            found = _Found(believed_until, _record(row, tuple(t for t, _ in statuses)), row.digest, statuses, active)
        with self._lock:
            while len(self._found) >= _MOST_REMEMBERED:
                del self._found[next(iter(self._found))]
            self._found.pop(digest, None)
            self._found[digest] = found
        return found


def digest_of(secret: str) -> str:
    """SHA-256 in hex: what is kept of a secret of 256 random bits, which needs no slow hash."""
    return hashlib.sha256(secret.encode()).hexdigest()


def _why_none(statuses: tuple[tuple[str, str], ...]) -> str:
    if not statuses:
        return "the tenants of this key are gone; make another with `analytics key create`"
    told = ", ".join(f"tenant {tenant} is {status}" for tenant, status in statuses[:3])
    return f"{told}: its keys do not work; `analytics tenant add {statuses[0][0]}` brings it back"


def _only(tenants: tuple[str, ...] | None) -> str | None:
    return tenants[0] if tenants is not None and len(tenants) == 1 else None


def _record(row: Any, tenants: tuple[str, ...]) -> KeyRecord:
    return KeyRecord(
        row.key_id,
        row.name,
        Role(row.role),
        None if row.all_tenants else tenants,
        row.created_at,
        row.created_by,
        row.expires_at,
        row.revoked_at,
        row.last_used_at,
    )
