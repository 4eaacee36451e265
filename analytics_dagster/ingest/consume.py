"""From the log to landing, exactly once.

A round reads whole batches of every source behind the position that is remembered for it, and cuts them up by tenant. Then, in
this order:

1. For each tenant, under the lock of its landing table: one Delta commit of the rows of those batches that the table does not
   have yet, with the position up to which it now has them (`Transaction(source, position)`).
2. In the database: which days have arrivals, and in one last transaction what each tenant is billed for and up to where
   each source is consumed.
3. The sources are told what they need not keep.

A crash before the last transaction leaves the sources' positions where they were, so the round is read again, perhaps cut
otherwise: tables that were written pass over the batches they have, the others get theirs, and all days are noted again. That is
why notes may come after the commit here, unlike an import's (see `landing`): an import is not repeated by itself, a round is.

A table that is new, or whose tenant was silent for long, has no position or an old one. That costs nothing: no batch at or below
a source's remembered position is read again. A tenant that cannot be landed now waits in `held`, and stops nobody else.
"""

from __future__ import annotations

import datetime as dt
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import pyarrow as pa

from analytics_dagster.clock import Clock
from analytics_dagster.errors import AnalyticsError, BusyError, IntegrityError, NotFoundError
from analytics_dagster.ingest.held import Held
from analytics_dagster.ingest.landing import Landing
from analytics_dagster.ingest.log.interface import Batch, LogSource
from analytics_dagster.ingest.log.open import open_sources
from analytics_dagster.ingest.positions import positions, remember, take_turn, waiting, worth_a_round
from analytics_dagster.ingest.rounds import SourceBatches, TenantRows, tenant_rows
from analytics_dagster.lake.schemas import METRICS, PLAYS, landing
from analytics_dagster.tenancy.tenants import Tenants
from analytics_dagster.tenancy.usage import Arrived, Usage

if TYPE_CHECKING:
    import sqlalchemy as sa

    from analytics_dagster.lake.database import Database
    from analytics_dagster.lake.lake import Lake
    from analytics_dagster.settings import Settings

_log = logging.getLogger(__name__)

MAX_ROWS = 1_000_000
"""Rows of a round: enough that 50 tenants' commits cost less than their rows, few enough for a third of a gigabyte."""
# Labels of 64 values and a thousand characters: what a round may hold besides its numbers.
_MAX_BYTES = 256 * 2**20

PAUSE = dt.timedelta(seconds=10)
"""How often whoever consumes all the time commits while little comes: fresh figures are read from the log's tail, and each
commit is a file."""

_RELEASE_EVERY = dt.timedelta(minutes=10)
# Commits of a table until its small files are merged: an hour of ten-second rounds is six merges, and a reader never opens
# more small files than this.
_COMPACT_EVERY = 60


class Store(Protocol):
    """What consuming needs of an installation."""

    @property
    def settings(self) -> Settings: ...
    @property
    def clock(self) -> Clock: ...
    @property
    def lake(self) -> Lake: ...
    @property
    def database(self) -> Database: ...
    @property
    def tenants(self) -> Tenants: ...
    @property
    def landing(self) -> Landing: ...


@dataclass(frozen=True)
class Consumed:
    """What was taken from the log. `more`: there is more of it, or there may be."""

    points: int = 0
    plays: int = 0
    tenants: frozenset[str] = frozenset()
    more: bool = False

    def __add__(self, later: Consumed) -> Consumed:
        return Consumed(self.points + later.points, self.plays + later.plays, self.tenants | later.tenants, later.more)


def consume(
    store: Store,
    *,
    max_rows: int = MAX_ROWS,
    max_seconds: float | None = None,
    pause: dt.timedelta | None = None,
    sources: Sequence[LogSource] | None = None,
) -> Consumed:
    """Land one round of at most about `max_rows` rows, and with `max_seconds` further ones until that time is over.

    Returns at once, with nothing, while another thread or process consumes, and with `pause` while the last round is younger than
    that and little waits. `sources` are all that this installation has unless given.

    Raises IntegrityError when a source is damaged, after everything that can be read was landed.
    """
    began, total = time.monotonic(), Consumed()
    with alone(store) as mine:
        if not mine:
            return total
        listed = open_sources(store.settings) if sources is None else sources
        if pause is not None and not worth_a_round(waiting(store.database, listed), store.clock.now(), pause):
            return total
        while True:
            total += _Round(store, listed, max_rows).run()
            if not total.more or max_seconds is None or time.monotonic() - began >= max_seconds:
                return total


def consume_all(store: Store, *, sources: Sequence[LogSource] | None = None, patience: float = 120.0) -> Consumed:
    """Land everything that is in the log when this is called.

    Waits up to `patience` seconds for another process that consumes, then raises BusyError. Raises as `consume` does.
    """
    with alone(store, patience) as mine:
        if not mine:
            raise BusyError(f"another process has been consuming the log for {patience:.0f} s; try again later")
        listed = open_sources(store.settings) if sources is None else sources
        ends = {source.name: source.end() for source in listed}
        total = Consumed()
        while True:
            total += _Round(store, listed, MAX_ROWS).run()
            done = positions(store.database)
            if not total.more or all(name in done and done[name].position >= end for name, end in ends.items() if end):
                return total


class _Round:
    """One round. Its steps are in the order that the module explains."""

    def __init__(self, store: Store, sources: Sequence[LogSource], max_rows: int) -> None:
        self._store = store
        self._sources = sources
        self._max_rows = max_rows
        self._now = store.clock.now()
        self._held = Held(store.settings.analytics_home / "held")
        self._registered = {record.tenant for record in store.tenants.records()}
        grace = dt.timedelta(days=store.settings.analytics_tenant_grace_days)
        self._gone = frozenset(store.tenants.purge_due(grace))
        self._damaged: list[AnalyticsError] = []

    def run(self) -> Consumed:
        waiting_first = self._land_held()
        read, more = self._read()
        parts = [part for part in tenant_rows(read) if not self._dropped(part)]
        landed = self._land(parts, read, waiting_first)
        self._store.landing.note_consumed([(part.tenant, part.table, part.days(), part.newest()) for part in landed])
        through = {source.source: source.batches[-1].position for source in read}
        if through:
            self._store.database.write(lambda connection: self._remember(connection, parts, read, through))
        self._release(through)
        if self._damaged:
            raise self._damaged[0]
        points, plays = (sum(len(part) for part in parts if part.table is table) for table in (METRICS, PLAYS))
        return Consumed(points, plays, frozenset(part.tenant for part in parts), more)

    def _read(self) -> tuple[list[SourceBatches], bool]:
        """Whole batches of all sources, each with its share of the round, and whether any source has more."""
        known = positions(self._store.database)
        read, more = [], False
        for source in self._sources:
            after = known[source.name].position if source.name in known else 0
            batches: list[Batch] = []
            try:
                more |= self._read_one(source, after, batches)
            # What a damaged segment raises must not keep the other writers' points from being landed, nor those before it.
            except AnalyticsError as error:
                _log.error("%s cannot be consumed further: %s", source.name, error)
                self._damaged.append(error)
            if batches:
                read.append(SourceBatches(source.name, f"{source.name}@{batches[-1].position}", batches))
        return read, more

    def _read_one(self, source: LogSource, after: int, batches: list[Batch]) -> bool:
        """Append to `batches` what `source` holds behind `after`. True when there is more."""
        end = source.end()
        if end < after:
            raise IntegrityError(
                f"{source.name} ends at {end} but was consumed up to {after}: its files were removed or replaced; put them back, "
                "or rename its folder, for example to log/restored-1, while nobody writes to it: it is read from its beginning"
            )
        if end == after:
            return False
        share = max(1, self._max_rows // len(self._sources))
        rows = size = 0
        for batch in source.read(after, share):
            batches.append(batch)
            rows, size = rows + batch.rows.num_rows, size + batch.rows.nbytes
            if rows >= share or size >= _MAX_BYTES // len(self._sources):
                break
        return bool(batches) and batches[-1].position < end

    def _dropped(self, part: TenantRows) -> bool:
        purged = part.tenant not in self._registered and _was_purged(self._store.database, part.tenant)
        if part.tenant not in self._gone and not purged:
            return False
        _log.warning(
            "dropped %d rows of %s: tenant %s is removed and its data is deleted", len(part), part.table.name, part.tenant
        )
        return True

    def _land_held(self) -> set[tuple[str, str]]:
        """Land what is held. Returns tenants and tables of which something is still held, so nothing newer may be landed."""
        for tenant in sorted(self._gone):
            if self._held.drop(tenant):
                _log.warning("dropped what was held of tenant %s, which is removed and whose data is deleted", tenant)
        left: set[tuple[str, str]] = set()
        for file in self._held.files():
            if (file.tenant, file.table) in left:
                continue
            try:
                if file.tenant not in self._registered:
                    raise NotFoundError(f"tenant {file.tenant} is not registered; `analytics tenant add {file.tenant}` lands it")
                part, sources = self._held.read(file)
                self._append(part, sources, part.through(sources))
            except _cannot_land() as error:
                _log.warning("%s stays held: %s", file.path, error)
                left.add((file.tenant, file.table))
                continue
            self._store.landing.note_consumed([(part.tenant, part.table, part.days(), part.newest())])
            self._held.done(file)
        return left

    def _land(
        self, parts: Sequence[TenantRows], read: Sequence[SourceBatches], waiting_first: set[tuple[str, str]]
    ) -> list[TenantRows]:
        """Append each tenant's rows, several tenants at once. Returns those that are landed; the others are held."""
        sources = [source.source for source in read]
        through = {source.source: source.batches[-1].position for source in read}

        def land(part: TenantRows) -> bool:
            try:
                if part.tenant not in self._registered:
                    raise NotFoundError(f"tenant {part.tenant} is not registered; `analytics tenant add {part.tenant}` lands it")
                if (part.tenant, part.table.name) not in waiting_first:
                    self._append(part, sources, through)
                    return True
            except _cannot_land() as error:
                _log.warning("%d rows of %s of tenant %s cannot be landed: %s", len(part), part.table.name, part.tenant, error)
            held = self._held.hold(part, sources)
            _log.warning("%d rows of tenant %s are held in %s", len(part), part.tenant, held.path)
            return False

        workers = min(self._store.settings.parallel_workers, os.cpu_count() or 1)
        with ThreadPoolExecutor(workers, thread_name_prefix="landing") as threads:
            done = list(threads.map(land, parts))
        return [part for part, landed in zip(parts, done, strict=True) if landed]

    def _append(self, part: TenantRows, sources: Sequence[str], through: Mapping[str, int]) -> None:
        table = self._store.lake.tenant(part.tenant).table(landing(part.table))
        with table.lock():
            stored = table.transactions(sources)
            new = part.behind([stored[source] for source in sources])
            if not len(new):
                return
            ahead = {source: position for source, position in through.items() if position > stored[source]}
            version = table.append(new.arrow(self._now), transactions=ahead)
            if version and version % _COMPACT_EVERY == 0:
                table.compact()

    def _remember(
        self, connection: sa.Connection, parts: Sequence[TenantRows], read: Sequence[SourceBatches], through: Mapping[str, int]
    ) -> None:
        usage = Usage(self._store.database, self._store.clock)
        for number, source in enumerate(read):
            counted = [(part, int((part.source == number).sum())) for part in parts]
            arrived = [Arrived(p.tenant, p.table.name, through[source.source], rows) for p, rows in counted if rows]
            usage.count(connection, source.source, arrived, self._now)
        remember(connection, through, self._now)

    def _release(self, through: Mapping[str, int]) -> None:
        """Let go of what was consumed now, and every ten minutes of what has grown old since it was."""
        known: Mapping[str, int] = through
        if take_turn(self._store.database, "log/released", _RELEASE_EVERY, self._now):
            known = {name: found.position for name, found in positions(self._store.database).items()}
        for source in self._sources:
            if source.name in known:
                source.release(known[source.name])


@contextmanager
def alone(store: Store, patience: float = 0) -> Iterator[bool]:
    """Hold the consumer's lock, so that nobody lands rows of the log; False when another has it for longer than `patience` s."""
    import filelock

    path = store.settings.analytics_home / "locks" / "consume.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=patience)
    except filelock.Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def _was_purged(database: Database, tenant: str) -> bool:
    """Whether the tenant's data was deleted for good; its name in the log must not bring any of it back."""
    import sqlalchemy as sa

    from analytics_dagster.lake.state_tables import audit

    query = sa.select(audit.c.id).where(audit.c.tenant == tenant, audit.c.action == "tenant.purge").limit(1)
    with database.read() as connection:
        return connection.execute(query).scalar() is not None


def _cannot_land() -> tuple[type[Exception], ...]:
    """What a damaged or busy table of one tenant raises. Anything else is a defect of ours, and stops the round."""
    from deltalake.exceptions import DeltaError

    return AnalyticsError, DeltaError, pa.ArrowException, OSError, ValueError
