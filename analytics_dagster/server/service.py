"""What one worker process holds open: its log, keys, quotas, readers of wire formats, threads. Everything a route works with.

The event loop owns the readers; whatever waits (database, disk, queries) happens in threads, and so does the parsing of large
bodies, in one thread with readers of its own. Both add to the one series table.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import structlog

from analytics_dagster.clock import SystemClock
from analytics_dagster.errors import BusyError, RetryableError
from analytics_dagster.ingest.points import Admission, Parsed, Plays, Points, SeriesTable, WriteScope
from analytics_dagster.server.access import Access, Directory
from analytics_dagster.server.binding import allowed_hosts, is_private, tls_of, trusted_networks
from analytics_dagster.server.exchange import Headers
from analytics_dagster.server.logs import configure_logs
from analytics_dagster.server.measures import Counts
from analytics_dagster.server.memory import keep_freed_memory, tune_garbage_collection
from analytics_dagster.server.problems import rate_headers
from analytics_dagster.server.signin.attempts import Attempts
from analytics_dagster.server.signin.provider import open_provider
from analytics_dagster.settings import Settings

if TYPE_CHECKING:
    from analytics_dagster.ingest.log.interface import IngestLog
    from analytics_dagster.server.readers import Readers
    from analytics_dagster.server.statsd import StatsdListener

P = ParamSpec("P")
T = TypeVar("T")

COUNTS = Path("server") / "counts"
HOUSEKEEPING_SECONDS = 1.0
_FLUSH_EVERY_SECONDS = 3.0
# A changed quota counts in every process within 5 s, with a database that is slow too.
_RENEW_EVERY_SECONDS = 1.0
_FORGET_EVERY_SECONDS = 600.0
_MEASURE_EVERY_SECONDS = 30.0
# A worker that was killed lets go of its place when the kernel is done with it.
_PLACE_SECONDS = 5.0

log = structlog.get_logger("analytics.server")


@dataclass(frozen=True)
class Plan:
    """What the parent process decided, for its workers."""

    settings: Settings
    host: str
    port: int


class Service:
    """The open parts of a worker. Made before the event loop runs; `start` opens, `stop` commits and closes."""

    def __init__(self, plan: Plan) -> None:
        settings = plan.settings
        self.plan = plan
        self.settings = settings
        self.clock = SystemClock()
        self._pages_expected = False
        self.body_limit = settings.analytics_max_body_bytes
        self.hosts = allowed_hosts(settings, plan.host)
        self.proxies = trusted_networks(settings)
        self.debug = settings.analytics_log_level == "DEBUG"
        # The keyless way to /metrics, and links that sign in.
        self.private = is_private(settings, plan.host)
        self.provider = open_provider(settings, self.clock)
        self.tls = tls_of(settings) is not None
        self.attempts = Attempts()
        self.series = SeriesTable()
        self.threads = ThreadPoolExecutor(8, thread_name_prefix="work")
        # Of its own: a provider that does not answer must not hold what requests wait for.
        self._provider_threads = ThreadPoolExecutor(4, thread_name_prefix="provider")
        # One, so that as much memory as a large body's rows need is needed once.
        self._large_bodies = ThreadPoolExecutor(1, thread_name_prefix="large-body")
        self._statsd: tuple[asyncio.DatagramTransport, StatsdListener] | None = None
        self._skew_us = settings.analytics_future_skew * 1_000_000

    async def start(self) -> None:
        """Open the installation and the log. Raises AnalyticsError with what is in the way."""
        from analytics_dagster.ingest.log.open import open_log
        from analytics_dagster.installation import open_installation
        from analytics_dagster.server.idempotency import Claims
        from analytics_dagster.server.query import QueryDesk
        from analytics_dagster.server.readers import Readers
        from analytics_dagster.server.statsd import listen, statsd_address
        from analytics_dagster.server.together import Together
        from analytics_dagster.tenancy.audit import Audit
        from analytics_dagster.tenancy.keys import Keys
        from analytics_dagster.tenancy.quota_gate import QuotaGate
        from analytics_dagster.tenancy.sessions import open_sessions
        from analytics_dagster.tenancy.tickets import Tickets
        from analytics_dagster.tenancy.usage import Usage

        settings = self.settings
        self.place = take_place(settings.analytics_home, settings.analytics_server_workers)
        self.role = f"server-{self.place.number}"
        configure_logs(settings.analytics_log_level, self.role)
        self.installation = open_installation(settings, self.clock, create=True)
        database = self.installation.database
        self.log: IngestLog = open_log(settings, self.clock, self.role)
        self.keys = Keys(database, self.clock)
        self.audit = Audit(database, self.clock)
        self.usage = Usage(database, self.clock)
        self.quotas = QuotaGate(settings.analytics_home, settings, database, self.clock, renewed=True)
        await self.in_thread(self.quotas.renew)
        self.directory = Directory(self.installation.tenants)
        self.sessions = open_sessions(settings, database, self.clock, self.keys)
        self.tickets = Tickets(database, self.clock)
        self.access = Access(self.keys, self.sessions, self.audit, self.directory, self.threads)
        self.counts = Counts(settings.analytics_home / COUNTS, self.role)
        self.claims = Claims(database, self.clock, str(settings.analytics_home), self.role)
        self.readers = Readers(self.body_limit)
        self._large_body_readers = Readers(self.body_limit, others=self.readers)
        self.together = Together(self.log, self.charge, self._read_lines)
        self.queries = QueryDesk(self.installation)
        self._tasks = [asyncio.create_task(self._keep_house()), asyncio.create_task(self._keep_limits())]
        if settings.analytics_statsd and self.place.number == 0:
            address = statsd_address(settings.analytics_statsd)
            self._statsd = await listen(self, address, settings.analytics_statsd_tenant)
            self._tasks.append(asyncio.create_task(self._statsd[1].run()))
        tune_garbage_collection()
        self._kept = keep_freed_memory()
        log.info("ready", role=self.role, pid=os.getpid())

    async def stop(self) -> None:
        """Commit what was accepted, write what was counted, let go."""
        for task in self._tasks:
            task.cancel()
        if self._statsd is not None:
            transport, listener = self._statsd
            transport.close()
            await listener.flush()
        await self.in_thread(self.log.close)
        self.queries.close()
        await self.in_thread(self.claims.close)
        await self.in_thread(self._flush)
        await self.in_thread(self.audit.close)
        self._large_bodies.shutdown(wait=False, cancel_futures=True)
        self._provider_threads.shutdown(wait=False, cancel_futures=True)
        self.threads.shutdown(wait=False, cancel_futures=True)
        self.place.leave()
        log.info("stopped", role=self.role)

    def now_us(self) -> int:
        return int(self.clock.now().timestamp() * 1_000_000)

    def admission(self, scope: WriteScope) -> Admission:
        """What a reader of a wire format needs for one request."""
        if self.series.is_full:
            # The readers notice and forget theirs; requests on their way keep the old one alive until they are stored.
            self.series = SeriesTable()
        return Admission(self.series, scope, self.now_us() + self._skew_us)

    def append(self, rows: Points | Plays, origin: str | None = None) -> Future[None]:
        """Give rows to the log; done when they are on disk. Raises LogFullError before anything of them is taken."""
        if origin is not None and isinstance(rows, Points):
            rows = replace(rows, origin=origin)
        return self.log.append(rows)

    def charge(self, rows: Points | Plays, further: Mapping[str, int] | None = None) -> Headers:
        """Charge rows to their tenants, points with `further` rows by tenant.

        Raises QuotaExceededError, and charges nothing, when one is over a quota.
        """
        if isinstance(rows, Points):
            state = self.quotas.admit(rows, further=further)
        else:
            counted = rows.rows.column("tenant").value_counts().to_pylist()
            state = self.quotas.admit_rows({entry["values"]: entry["counts"] for entry in counted})
        return rate_headers(state) if state.limit else ()

    def _read_lines(self, body: bytes, scope: WriteScope) -> Parsed:
        return self.readers.points["ndjson"](body, self.admission(scope), self.now_us())

    async def parse_large(self, parse: Callable[[Readers, Admission], T], scope: WriteScope) -> T:
        """Parse a body that the event loop must not wait for; one at a time."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._large_bodies, parse, self._large_body_readers, self.admission(scope))

    def expect_pages(self) -> None:
        """Somebody looks at pages: load what draws them (2 s), before the first picture is asked for. Servers that only take rows
        never do, and are the smaller for it.
        """
        if not self._pages_expected:
            from analytics_dagster.dashboards.pages import warm

            self._pages_expected = True
            self._tasks.append(asyncio.create_task(self.in_thread(warm)))

    async def write_counts(self) -> None:
        await self.in_thread(self.counts.write, self.counts.encoded())

    async def in_thread(self, work: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
        """Run what waits for a disk or a database off the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self.threads, lambda: work(*args, **named))

    async def ask_provider(self, work: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
        """Run what waits for an OpenID provider off the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._provider_threads, lambda: work(*args, **named))

    async def _keep_limits(self) -> None:
        """By itself, so that nothing else of the house delays it. While the database is away, the limits of before hold."""
        while True:
            await asyncio.sleep(_RENEW_EVERY_SECONDS)
            try:
                await self.in_thread(self.quotas.renew)
            except Exception as error:  # whatever it is, it may be over at the next try
                log.warning("quotas could not be read; those read before hold", error=str(error).partition("\n")[0])

    async def _keep_house(self) -> None:
        flushed_at = forgot_at = measured_at = time.monotonic()
        while True:
            await asyncio.sleep(HOUSEKEEPING_SECONDS)
            try:
                await self.write_counts()
                if time.monotonic() - flushed_at > _FLUSH_EVERY_SECONDS:
                    flushed_at = time.monotonic()
                    await self.in_thread(self._flush)
                if time.monotonic() - measured_at > _MEASURE_EVERY_SECONDS:
                    measured_at = time.monotonic()
                    await self.in_thread(self._measure)
                if time.monotonic() - forgot_at > _FORGET_EVERY_SECONDS:
                    forgot_at = time.monotonic()
                    await self.in_thread(self.claims.forget_old)
                    await self.in_thread(self.sessions.forget_old)
            except RetryableError as error:
                log.warning("housekeeping will try again", error=str(error))
            except Exception as error:  # a full disk must not end what writes last uses, usage and the audit trail
                log.error("housekeeping failed and will try again", exc_info=error)

    def _flush(self) -> None:
        self.keys.flush_last_used()
        self.sessions.flush_last_used()
        self.usage.flush()
        self.audit.flush()

    def _measure(self) -> None:
        """How large the tables of tenants with such a quota are; at most once a minute, by one worker."""
        from analytics_dagster.tenancy.quotas import Quotas
        from analytics_dagster.tenancy.stored_bytes import limited_tenants, measure_stored_bytes

        opened = self.installation
        measuring = limited_tenants(opened.tenants, Quotas(opened.database, self.settings, self.clock))
        if measuring:
            measure_stored_bytes(self.settings.analytics_home, opened.lake, measuring, self.usage, self.clock)


class Place:
    """A worker's number among its siblings, held by a file lock: whoever has it next inherits what its name is on."""

    def __init__(self, number: int, descriptor: int) -> None:
        self.number = number
        self._descriptor = descriptor

    def leave(self) -> None:
        os.close(self._descriptor)


def take_place(home: Path, workers: int) -> Place:
    """The lowest free number. Raises BusyError when others hold them all."""
    folder = home / "server"
    folder.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + _PLACE_SECONDS
    while True:
        for number in range(workers):
            descriptor = os.open(folder / f"worker-{number}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return Place(number, descriptor)
            os.close(descriptor)
        if time.monotonic() > deadline:
            raise BusyError(f"all {workers} places of {folder} are held by workers of another server; stop it first")
        time.sleep(0.05)
