"""Idempotency-Key: the same request again gets the first answer, and its rows are stored once.

A key is scoped to tenant, API key, route and body. What must hold, in this order: the claim is a row in the database; the rows
are durable in the log; the row holds the answer. A crash between the second and the third leaves a claim that a retry takes over,
with the claim's own time and origin: rows without a time get the same one, and each row has the identity that it had the first
time, so what is stored again is the same point again and counts once.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import queue
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from analytics_dagster.clock import Clock
from analytics_dagster.server.problems import Problem, retry_after

if TYPE_CHECKING:
    import sqlalchemy as sa

    from analytics_dagster.lake.database import Database

KEPT = dt.timedelta(hours=24)
# Longer than a request can take, from its claim to its answer; then whoever had it is gone.
LEASE = dt.timedelta(seconds=60)
MAX_KEY = 255
_MOST_IN_ONE_WRITE = 500
_PENDING, _DONE = "pending", "done"


@dataclass(frozen=True)
class ClaimKey:
    """What one Idempotency-Key means."""

    tenant: str
    key_id: str
    route: str
    key: str
    body_hash: str


@dataclass(frozen=True)
class Claim:
    """A request that is this process' to do. `origin` names its rows for ever; `claimed_at` is when it was first tried.

    `again`: somebody had it before, and may have stored its rows. `held` tells this claim from one that takes it over.
    """

    key: ClaimKey
    claimed_at: dt.datetime
    held: str
    again: bool = False

    @property
    def origin(self) -> str:
        parts = (self.key.tenant, self.key.key_id, self.key.route, self.key.key, self.claimed_at.isoformat())
        return hashlib.blake2b("\x1f".join(parts).encode(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class Answered:
    """A request that was answered before."""

    status: int
    body: str


def check_key(value: str) -> str:
    """The value of an Idempotency-Key header. Raises Problem 400."""
    if not 1 <= len(value) <= MAX_KEY or not value.isprintable():
        raise Problem(400, f"Idempotency-Key has {len(value)} characters; 1 to {MAX_KEY} printable ones are taken")
    return value


def body_hash(body: bytes, variant: str) -> str:
    """Hash of a body as it was sent, and of what else decides its meaning (media type, encoding, parameters)."""
    return hashlib.blake2b(body, digest_size=32, salt=hashlib.blake2b(variant.encode(), digest_size=16).digest()).hexdigest()


class Claims:
    """The table of claims. One thread writes what waits in one transaction, so many requests share a commit."""

    def __init__(self, database: Database, clock: Clock, home: str, worker: str) -> None:
        """`worker` names this process' place among its siblings: whoever takes the place next inherits its claims."""
        self._database = database
        self._clock = clock
        self._owner = f"{socket.gethostname()}:{home}:{worker}"
        self._waiting: queue.SimpleQueue[tuple[Callable[[sa.Connection], Any], Future[Any]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="idempotency", daemon=True)
        self._database.write(self._free_own)
        self._thread.start()

    def claim(self, key: ClaimKey) -> Future[Claim | Answered]:
        """Claim a request, or learn its answer. Carries Problem 409 (in progress) and 422 (another body)."""
        return self._submit(lambda connection: self._claim(connection, key))

    def done(self, claim: Claim, status: int, body: str) -> Future[None]:
        """Keep the answer; the rows are durable."""
        from analytics_dagster.lake.state_tables import idempotency_keys as table

        change = table.update().where(*_same(claim.key)).values(state=_DONE, status=status, answer=body)
        return self._submit(lambda connection: connection.execute(change) and None)

    def release(self, claim: Claim) -> Future[None]:
        """Forget the claim: nothing was stored, and the client may try again with another body.

        One that was taken over is kept: forgotten, its next try would be a new request, and rows stored before would count twice.
        """
        from analytics_dagster.lake.state_tables import idempotency_keys as table

        if claim.again:
            return self.abandon(claim)
        change = table.delete().where(*_held(claim))
        return self._submit(lambda connection: connection.execute(change) and None)

    def abandon(self, claim: Claim) -> Future[None]:
        """Leave the claim to a retry: whether the rows became durable is not known."""
        from analytics_dagster.lake.state_tables import idempotency_keys as table

        change = table.update().where(*_held(claim)).values(answer="")
        return self._submit(lambda connection: connection.execute(change) and None)

    def forget_old(self) -> None:
        """Drop what is older than KEPT. Called now and then."""
        from analytics_dagster.lake.state_tables import idempotency_keys as table

        old = self._clock.now() - KEPT
        self._database.write(lambda connection: connection.execute(table.delete().where(table.c.created_at < old)))

    def close(self) -> None:
        """Write what waits and stop."""
        self._waiting.put(None)
        self._thread.join()

    def _submit(self, change: Callable[[sa.Connection], Any]) -> Future[Any]:
        future: Future[Any] = Future()
        # From here on nobody who waits can cancel it, and so nobody can end the thread that sets its result.
        future.set_running_or_notify_cancel()
        self._waiting.put((change, future))
        return future

    def _run(self) -> None:
        while (first := self._waiting.get()) is not None:
            group = [first]
            last = False
            while len(group) < _MOST_IN_ONE_WRITE and not self._waiting.empty():
                following = self._waiting.get()
                if following is None:
                    last = True
                    break
                group.append(following)
            self._write(group)
            if last:
                return

    def _write(self, group: list[tuple[Callable[[sa.Connection], Any], Future[Any]]]) -> None:
        def write(connection: sa.Connection) -> list[Any]:
            return [change(connection) for change, _ in group]

        try:
            results = self._database.write(write)
        except Exception as error:  # whatever it is, those who wait must learn of it
            for _, future in group:
                future.set_exception(error)
            return
        for (_, future), result in zip(group, results, strict=True):
            if isinstance(result, Problem):
                future.set_exception(result)
            else:
                future.set_result(result)

    def _claim(self, connection: sa.Connection, key: ClaimKey) -> Claim | Answered | Problem:
        from analytics_dagster.lake.state_tables import idempotency_keys as table

        now = self._clock.now()
        held = f"{self._owner}|{now.isoformat()}"
        found = connection.execute(table.select().where(*_same(key))).first()
        if found is not None and found.created_at < now - KEPT:
            connection.execute(table.delete().where(*_same(key)))
            found = None
        if found is None:
            return self._insert(connection, key, now, held)
        if found.body_hash != key.body_hash:
            return Problem(
                422,
                f"Idempotency-Key {key.key!r} was used with another body within the last 24 hours; use a new key for new rows",
                kind="idempotency-key-reused",
            )
        if found.state == _DONE:
            return Answered(found.status, found.answer)
        _, _, since = (found.answer or "").rpartition("|")
        if since and dt.datetime.fromisoformat(since) > now - LEASE:
            return Problem(
                409,
                f"a request with Idempotency-Key {key.key!r} is being worked on; ask again for its answer",
                kind="in-progress",
                headers=[retry_after(1)],
            )
        connection.execute(table.update().where(*_same(key)).values(answer=held))
        return Claim(key, found.created_at, held, again=True)

    def _insert(self, connection: sa.Connection, key: ClaimKey, now: dt.datetime, held: str) -> Claim | Problem:
        """Claim what nobody has. On PostgreSQL another server may have inserted it since the look: then it is in progress."""
        from sqlalchemy.dialects import postgresql, sqlite

        from analytics_dagster.lake.state_tables import idempotency_keys as table

        insert = sqlite.insert(table) if connection.dialect.name == "sqlite" else postgresql.insert(table)
        values = {
            "tenant": key.tenant,
            "key_id": key.key_id,
            "route": key.route,
            "idempotency_key": key.key,
            "body_hash": key.body_hash,
            "state": _PENDING,
            "answer": held,
            "created_at": now,
        }
        if connection.execute(insert.values(**values).on_conflict_do_nothing()).rowcount == 0:
            return Problem(409, f"a request with Idempotency-Key {key.key!r} is being worked on", headers=[retry_after(1)])
        return Claim(key, now, held)

    def _free_own(self, connection: sa.Connection) -> None:
        from analytics_dagster.lake.state_tables import idempotency_keys as table

        mine = table.c.answer.startswith(f"{self._owner}|", autoescape=True)
        connection.execute(table.update().where(table.c.state == _PENDING, mine).values(answer=""))


def _same(key: ClaimKey) -> tuple[sa.ColumnElement[bool], ...]:
    from analytics_dagster.lake.state_tables import idempotency_keys as table

    return (
        table.c.tenant == key.tenant,
        table.c.key_id == key.key_id,
        table.c.route == key.route,
        table.c.idempotency_key == key.key,
    )


def _held(claim: Claim) -> tuple[sa.ColumnElement[bool], ...]:
    """Its row, unless another has taken it over since."""
    from analytics_dagster.lake.state_tables import idempotency_keys as table

    return (*_same(claim.key), table.c.state == _PENDING, table.c.answer == claim.held)
