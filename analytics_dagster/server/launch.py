"""`analytics serve`: the parent of the workers. It checks, announces, consumes the log, and ends everything in good order.

Granian starts the workers and keeps them. This process takes no requests: it consumes what they logged, so that the tail that
queries read stays short where nobody else consumes.
"""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from analytics_dagster.clock import SystemClock
from analytics_dagster.errors import AnalyticsError, BusyError, UserError
from analytics_dagster.server.application import load
from analytics_dagster.server.binding import is_loopback, is_private, require_free_port, require_safe_binding, tls_of
from analytics_dagster.server.logs import configure_logs
from analytics_dagster.server.memory import give_back_freed_memory
from analytics_dagster.server.sending import send_reports
from analytics_dagster.server.service import COUNTS, Plan
from analytics_dagster.server.signin.provider import open_provider
from analytics_dagster.server.statsd import statsd_address
from analytics_dagster.settings import Settings

if TYPE_CHECKING:
    from granian.server.mp import MPServer

    from analytics_dagster.installation import Installation

Say = Callable[[str], None]

_ADDRESS = Path("server") / "address"
READY_SECONDS = 60.0
# A server that was killed is gone when its workers are, which the kernel ends with it.
_LOCK_SECONDS = 2.0
_STOP_SECONDS = 20
_HEADER_BYTES = 256 * 2**10
_MOST_OPEN_REQUESTS = 4_096
CONSUME_SECONDS = 2.0
_CONSUME_AT_MOST = 5.0
_CONSUMER_NICE = 19
# Rounds of a million take a fifth less time and a fifth of a gigabyte more, which a server has all day.
_CONSUMED_ROWS = 500_000

log = structlog.get_logger("analytics.serve")


@dataclass(frozen=True)
class Address:
    host: str
    port: int
    tls: bool

    @property
    def url(self) -> str:
        name = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{name}:{self.port}"


def serve(settings: Settings, host: str, port: int, say: Say) -> int:
    """Serve until SIGINT or SIGTERM. Returns the exit status; raises AnalyticsError for what cannot be started."""
    from analytics_dagster.installation import open_installation

    require_safe_binding(settings, host)
    if settings.analytics_statsd:
        statsd_address(settings.analytics_statsd)
    open_provider(settings, SystemClock())  # what is wrong with its settings is told before workers fail on it
    settings.analytics_home.mkdir(parents=True, exist_ok=True)
    with only_server(settings.analytics_home):
        address = Address(host, require_free_port(host, port), tls_of(settings) is not None)
        configure_logs(settings.analytics_log_level, "serve")
        give_back_freed_memory()
        installation = open_installation(settings, create=True)
        announcement = _prepare(installation, address)
        _forget_counts(settings.analytics_home)
        stopping, ready = threading.Event(), threading.Event()
        consumer = threading.Thread(target=_consume, args=(installation, ready, stopping), name="consume", daemon=True)
        consumer.start()
        reporter = threading.Thread(
            target=send_reports, args=(installation, ready, stopping, READY_SECONDS), name="reports", daemon=True
        )
        reporter.start()
        announcer = threading.Thread(target=_announce, args=(address, announcement, say, ready, stopping), daemon=True)
        announcer.start()
        plan = Plan(settings, host, address.port)
        _note_address(address, plan)
        status = _run(_granian(plan), plan)
        stopping.set()
        (settings.analytics_home / _ADDRESS).unlink(missing_ok=True)
        consumer.join(2 * _CONSUME_AT_MOST)
        reporter.join(_CONSUME_AT_MOST)
        if status and not ready.is_set():
            raise AnalyticsError("the server did not start; its log lines above say why")
        say("stopped")
        return status


@contextmanager
def only_server(home: Path) -> Iterator[None]:
    """Hold the home against a second server. Raises BusyError naming the process that has it."""
    folder = home / "server"
    folder.mkdir(parents=True, exist_ok=True)
    # Not inherited by the workers: the kernel lets go of it with this process.
    descriptor = os.open(folder / "server.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
                    raise BusyError(
                        f"process {holder} serves {home} already; stop it first, or use another home (--home)"
                    ) from None
                time.sleep(0.05)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode("ascii"), 0)
        yield
    finally:
        os.close(descriptor)


def private_address(home: Path) -> str:
    """Where the server of a home answers, when only this machine reaches it. Raises UserError when none runs, or others do."""
    folder = home / "server"
    try:
        descriptor = os.open(folder / "server.lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        raise _no_server(home) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pass  # held: it runs
    else:
        raise _no_server(home)
    finally:
        os.close(descriptor)
    try:
        return (home / _ADDRESS).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"others than this machine reach the server of {home}; sign in with a key there") from None


def _no_server(home: Path) -> UserError:
    return UserError(f"no server of {home} is running here; start it with `analytics up` or `analytics serve`")


def _note_address(address: Address, plan: Plan) -> None:
    """For `analytics signin`. Links that sign in are taken only where nobody but this machine can ask."""
    path = plan.settings.analytics_home / _ADDRESS
    if is_private(plan.settings, plan.host):
        path.write_text(address.url, encoding="utf-8")
    else:
        path.unlink(missing_ok=True)


def _prepare(installation: Installation, address: Address) -> str:
    """Make what a first start needs, and say where it is."""
    from analytics_dagster.tenancy.admin_key import admin_key
    from analytics_dagster.tenancy.keys import Keys

    installation.tenants.register_defaults()
    home = installation.settings.analytics_home
    lines = [f"API             {address.url}", f"  what it takes {address.url}/docs"]
    if is_loopback(address.host):
        key = admin_key(home, Keys(installation.database, installation.clock))
        lines.append(f"key             {key}   a platform-admin's; `analytics key create` makes others")
        lines.append(f"tenants         {', '.join(installation.tenants.active())}")
        hint = "; `analytics signin` prints a link that works once" if is_private(installation.settings, address.host) else ""
        lines.append(f"dashboards      {address.url}/   sign in with a key{hint}")
    else:
        lines.append(f"dashboards      {address.url}/")
    lines.append(f"home            {home}")
    return "\n".join(lines)


def _forget_counts(home: Path) -> None:
    """The counts of a server that was before are not this one's."""
    shutil.rmtree(home / COUNTS, ignore_errors=True)


def _granian(plan: Plan) -> MPServer:
    from granian.constants import HTTPModes, Interfaces
    from granian.http import HTTP1Settings
    from granian.server.mp import MPServer

    # A fork would take the consumer's locks and threads along in whatever state they are.
    multiprocessing.set_start_method("spawn", force=True)
    tls = tls_of(plan.settings)
    return MPServer(
        "analytics_dagster.server.application",
        address=plan.host,
        port=plan.port,
        interface=Interfaces.ASGI,
        workers=plan.settings.analytics_server_workers,
        http=HTTPModes.http1,
        # Also the limit of a request's headers, and how long a client may take to send them.
        http1_settings=HTTP1Settings(header_read_timeout=10_000, max_buffer_size=_HEADER_BYTES),
        websockets=False,
        backlog=2_048,
        backpressure=_MOST_OPEN_REQUESTS,
        log_enabled=False,
        ssl_cert=tls.certificate if tls else None,
        ssl_key=tls.key if tls else None,
        respawn_failed_workers=True,
        workers_kill_timeout=_STOP_SECONDS,
    )


def _run(server: MPServer, plan: Plan) -> int:
    """Serve until a signal. Returns 1 when workers ended by themselves."""
    from granian.errors import FatalError

    try:
        server.serve(target_loader=partial(load, plan), wrap_loader=False)
    except FatalError as error:
        raise AnalyticsError(f"Granian cannot serve: {error}") from error
    except SystemExit as error:  # how Granian says that workers failed
        return int(error.code or 0) if isinstance(error.code, int | None) else 1
    return 0


def _announce(address: Address, announcement: str, say: Say, ready: threading.Event, stopping: threading.Event) -> None:
    """Say where the server is as soon as a worker takes connections."""
    deadline = time.monotonic() + READY_SECONDS
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host)
    while time.monotonic() < deadline and not stopping.is_set():
        try:
            socket.create_connection((host, address.port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
            continue
        ready.set()
        say(announcement)
        return


def _consume(installation: Installation, ready: threading.Event, stopping: threading.Event) -> None:
    """Land what the workers logged. Not before they are ready: their start is what somebody waits for."""
    from analytics_dagster.ingest.consume import PAUSE, consume

    if sys.platform == "linux":
        # There nice is a thread's, and those that it starts inherit it: requests come first while both want the processors.
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _CONSUMER_NICE)
    ready.wait(READY_SECONDS)
    while not stopping.wait(CONSUME_SECONDS):
        try:
            taken = consume(installation, max_rows=_CONSUMED_ROWS, max_seconds=_CONSUME_AT_MOST, pause=PAUSE)
        except AnalyticsError as error:
            log.warning("consuming will try again", error=str(error))
        except Exception as error:  # a thread that ends lets the log grow until it is full, so it tells and goes on
            log.error("consuming failed and will try again", exc_info=error)
            stopping.wait(5 * CONSUME_SECONDS)
        else:
            if taken.points or taken.plays:
                log.debug("consumed", points=taken.points, plays=taken.plays, tenants=len(taken.tenants))
