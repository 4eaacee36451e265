"""Who is asking and for which tenant: keys from headers, permissions, the tenants that a writer may name, attempts audited."""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from analytics_dagster.errors import AuthenticationError, ForeignTenantError, NotFoundError
from analytics_dagster.ingest.points import WriteScope
from analytics_dagster.server.problems import Problem
from analytics_dagster.tenancy.audit import Audit
from analytics_dagster.tenancy.keys import Keys, Principal
from analytics_dagster.tenancy.roles import Permission, Role
from analytics_dagster.tenancy.sessions import Session, Sessions
from analytics_dagster.tenancy.tenants import Tenants, TenantStatus

if TYPE_CHECKING:
    from analytics_dagster.server.exchange import Exchange

DEFAULT_TENANT = "default"
TENANT_HEADER = b"x-scope-orgid"
# With the 4 s that Keys remembers, a revocation still counts within 5 s.
_REMEMBERED_SECONDS = 0.5
_MOST_REMEMBERED = 10_000
_DIRECTORY_SECONDS = 5.0
_DIRECTORY_AT_MOST_EVERY = 0.25

# Parameters that carry a secret elsewhere. `u` and `p` are InfluxDB 1's; `token` is what some ListenBrainz clients send.
_SECRET_PARAMETERS = frozenset(
    {"key", "api_key", "apikey", "api-key", "token", "access_token", "auth", "authorization", "u", "p"}
)
_KEY_ANYWHERE = re.compile(rb"ak_[0-9A-Za-z]{40,}")
# Why a tenant takes nothing, for keys that are for every tenant.
_WHY_NOT = {
    TenantStatus.ACTIVE: "became active a moment ago; try again",
    TenantStatus.SUSPENDED: "is suspended; `analytics tenant add` with its name makes it active again",
    TenantStatus.REMOVED: "is removed; until its data is deleted, `analytics tenant add` with its name brings it back",
    TenantStatus.PURGING: "is removed and its data is being deleted; when that is done it can be registered anew",
    None: "is not registered; `analytics tenant add` with its name, or POST /analytics/tenants, registers it",
}


class Directory:
    """The registered tenants, remembered for a few seconds."""

    def __init__(self, tenants: Tenants) -> None:
        self._tenants = tenants
        self._lock = threading.Lock()
        self._read_at = float("-inf")
        self._active: frozenset[str] = frozenset()
        self._known: frozenset[str] = frozenset()
        self._statuses: dict[str, TenantStatus] = {}

    def remembered(self) -> frozenset[str] | None:
        """The active ones where they were read lately; never waits for the database."""
        return self._active if time.monotonic() - self._read_at < _DIRECTORY_SECONDS else None

    def active(self) -> frozenset[str]:
        """The active ones, a few seconds old at most."""
        self._read(_DIRECTORY_SECONDS)
        return self._active

    def known(self) -> frozenset[str]:
        """Those that are not removed, as they stand now."""
        self._read(_DIRECTORY_AT_MOST_EVERY)
        return self._known

    def refresh(self) -> frozenset[str]:
        """The active ones as they stand now: somebody named one that was not among those remembered."""
        self._read(_DIRECTORY_AT_MOST_EVERY)
        return self._active

    def why_not(self, tenant: str) -> str:
        """Why a tenant that is not among the active ones takes nothing, and what to do; as it was read last."""
        return f"tenant {tenant!r} {_WHY_NOT[self._statuses.get(tenant)]}"

    def _read(self, older_than: float) -> None:
        with self._lock:
            if time.monotonic() - self._read_at < older_than:
                return
            records = self._tenants.records()
            self._active = frozenset(r.tenant for r in records if r.status is TenantStatus.ACTIVE)
            self._known = frozenset(r.tenant for r in records if r.status in (TenantStatus.ACTIVE, TenantStatus.SUSPENDED))
            self._statuses = {r.tenant: r.status for r in records}
            self._read_at = time.monotonic()


class Access:
    """Authentication and tenant scope of requests, for the event loop: look-ups happen in `threads`."""

    def __init__(self, keys: Keys, sessions: Sessions, audit: Audit, directory: Directory, threads: ThreadPoolExecutor) -> None:
        self._keys = keys
        self._sessions = sessions
        self._audit = audit
        self._directory = directory
        self._threads = threads
        self._writers: dict[tuple[bytes, bytes], tuple[float, Principal, WriteScope]] = {}
        self._remembered: dict[tuple[bytes, bytes], tuple[float, Principal]] = {}

    async def writer(self, exchange: Exchange, permission: Permission, named: str | None) -> tuple[Principal, WriteScope]:
        """Who sends rows, and the tenants that they may be of. One look-up where a request says nothing about tenants."""
        plain = not named and not exchange.scope["query_string"] and TENANT_HEADER not in exchange.headers
        if plain:
            headers = exchange.headers
            known = self._writers.get((headers.get(b"authorization", b""), headers.get(b"x-api-key", b"")))
            if known is not None and time.monotonic() < known[0] and known[1].may(permission):
                _, principal, scope = known
                exchange.key_id, exchange.tenant = principal.key_id, scope.default or "*"
                return principal, scope
        principal = await self.principal(exchange, permission)
        scope = await self.write_scope(exchange, principal, named=named)
        if plain:
            if len(self._writers) >= _MOST_REMEMBERED:
                self._writers.clear()
            carried = (exchange.headers.get(b"authorization", b""), exchange.headers.get(b"x-api-key", b""))
            self._writers[carried] = (time.monotonic() + _REMEMBERED_SECONDS, principal, scope)
        return principal, scope

    async def principal(self, exchange: Exchange, permission: Permission | None) -> Principal:
        """Who sent the request. Raises AuthenticationError, PermissionDeniedError, and Problem 400 for a key in the address."""
        if exchange.scope["query_string"]:
            refuse_secrets_in_query(exchange.scope["query_string"], exchange.parameters())
        headers = exchange.headers
        # Both, as they came: which of them counts is decided in one place, and must not be guessed here.
        carried = (headers.get(b"authorization", b""), headers.get(b"x-api-key", b""))
        remembered = self._remembered.get(carried)
        if remembered is not None and time.monotonic() < remembered[0]:
            found = remembered[1]
        else:
            secret = secret_of(headers)
            loop = asyncio.get_running_loop()
            found = await loop.run_in_executor(self._threads, self._keys.authenticate, secret)
            if len(self._remembered) >= _MOST_REMEMBERED:
                self._remembered.clear()
            self._remembered[carried] = (time.monotonic() + _REMEMBERED_SECONDS, found)
        exchange.key_id = found.key_id
        if permission is not None:
            found.require(permission)
        return found

    async def session(self, exchange: Exchange, secret: str) -> Session:
        """Whose the cookie of a request is; only for routes of people, never for those that take rows.

        Raises AuthenticationError for a session that is over, PermissionDeniedError when its tenants are suspended or
        removed, and Problem 400 for a key in the address.
        """
        if exchange.scope["query_string"]:
            refuse_secrets_in_query(exchange.scope["query_string"], exchange.parameters())
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._threads, self._sessions.authenticate, secret)
        exchange.key_id = found.principal.key_id
        return found

    async def write_scope(self, exchange: Exchange, principal: Principal, *, named: str | None = None) -> WriteScope:
        """The tenants that this request's rows may be of.

        `named` is what the protocol's own way names (an Influx database); it counts only when it is a tenant of the key. Raises
        NotFoundError for a tenant in the query string that is not the key's, ForeignTenantError for one in a header.
        """
        header = exchange.header(TENANT_HEADER)
        asked = ""
        if b"tenant=" in exchange.scope["query_string"]:
            asked = exchange.parameters().get("tenant", [""])[0]
        allowed = principal.tenants if principal.tenants is not None else await self._all_active(header or asked or named)
        if header and header not in allowed:
            raise self.foreign(principal, header)
        if asked and asked not in allowed:
            self.note_foreign(exchange, asked, principal)
            raise NotFoundError(f"no tenant {asked!r}" if principal.tenants is not None else self._directory.why_not(asked))
        default = principal.sole_tenant or header or asked
        if not default and named in allowed:
            default = named
        if not default and principal.role is Role.PLATFORM_ADMIN and DEFAULT_TENANT in allowed:
            default = DEFAULT_TENANT
        exchange.tenant = default or "*"
        return WriteScope(default or None, allowed)

    async def wider_scope(self, principal: Principal, scope: WriteScope, missing: str) -> WriteScope | None:
        """The scope again, when `missing` was registered since tenants were last read; None when it was not."""
        if principal.tenants is not None:
            return None
        loop = asyncio.get_running_loop()
        allowed = await loop.run_in_executor(self._threads, self._directory.refresh)
        return WriteScope(scope.default, allowed) if missing in allowed else None

    def foreign(self, principal: Principal, tenant: str) -> ForeignTenantError:
        """What to tell a writer that named `tenant`. Only who may write for all learns how that tenant stands."""
        return ForeignTenantError(tenant, self._directory.why_not(tenant) if principal.tenants is None else None)

    def read_tenant(self, principal: Principal, asked: str | None, exchange: Exchange) -> str:
        """The tenant of a request that reads one. Raises NotFoundError for one that is not the key's, as if there were none."""
        tenant = asked or exchange.header(TENANT_HEADER) or principal.sole_tenant
        if not tenant:
            if principal.role is not Role.PLATFORM_ADMIN:
                raise Problem(400, "this key is for several tenants; name one with ?tenant=")
            tenant = DEFAULT_TENANT
        if not principal.reaches(tenant) or (principal.tenants is None and tenant not in self._directory.known()):
            self.note_foreign(exchange, tenant, principal)
            raise NotFoundError(f"no tenant {tenant!r}")
        exchange.tenant = tenant
        return tenant

    def note_foreign(self, exchange: Exchange, named: str, principal: Principal | None = None) -> None:
        """Leave a row in the audit trail, off the event loop; of the exchange's tenant where the principal is not at hand."""
        self._threads.submit(
            self._audit.attempt,
            "foreign_tenant",
            exchange.key_id,
            tenant=principal.sole_tenant if principal else exchange.tenant if exchange.tenant not in ("", "*") else None,
            target=named,
            detail=f"{exchange.scope['method']} {exchange.path}",
            request_id=exchange.request_id,
        )

    async def _all_active(self, named: str | None) -> frozenset[str]:
        active = self._directory.remembered()
        if active is None or (named and named not in active):
            active = await asyncio.get_running_loop().run_in_executor(self._threads, self._directory.refresh)
        return active


def secret_of(headers: Mapping[bytes, bytes]) -> str:
    """The key that a request carries. Raises AuthenticationError when there is none."""
    scheme, _, value = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
    value = value.strip()
    match scheme.lower():
        case "bearer" | "token" if value:
            return value
        case "basic":
            try:
                user, _, password = base64.b64decode(value, validate=True).decode("utf-8").partition(":")
            except (binascii.Error, UnicodeDecodeError):
                raise AuthenticationError("the Basic credentials cannot be read; send the key as the password") from None
            return password or user
    if named := headers.get(b"x-api-key", b"").decode("latin-1").strip():
        return named
    raise AuthenticationError("no API key; send `Authorization: Bearer KEY`, `Authorization: Token KEY` or `X-API-Key: KEY`")


def refuse_secrets_in_query(query: bytes, parameters: Mapping[str, list[str]]) -> None:
    """Raises Problem 400 for a key in the address: addresses are kept in logs and histories."""
    named = next((name for name in parameters if name.lower() in _SECRET_PARAMETERS), None)
    if named is None and not _KEY_ANYWHERE.search(query):
        return
    where = f"the parameter {named!r}" if named is not None else "the query string"
    raise Problem(
        400,
        f"keys are not taken from {where}, because addresses end up in logs; send `Authorization: Bearer KEY` or "
        "`Authorization: Token KEY`, and if this was a real key, revoke it",
        kind="key-in-address",
    )
