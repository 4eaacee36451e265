"""What `analytics up` keeps running: Dagster (webserver, daemon, code server) and the HTTP API as children, and the alert loop.

The loop judges as soon as something was published and delivers as soon as something is due, so that a page does not wait
for Dagster's sensor loop, run queue and process start (3 to 11 s). It shares every function with the sensors; both may
judge the same publication, and the database lets one of them write.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

from analytics_dagster.errors import AnalyticsError, RetryableError, UserError
from analytics_dagster.installation import Installation
from analytics_dagster.orchestration import alerting
from analytics_dagster.orchestration.abandoned import cancel_abandoned
from analytics_dagster.orchestration.instance import open_instance, prepare_dagster_home

LOOP_SECONDS = 0.5
READY_SECONDS = 120
# Dagster's processes end within 5 s of SIGTERM; what is still there then is not going to.
STOP_SECONDS = 15


class Supervisor:
    """One `analytics up`."""

    def __init__(self, installation: Installation, port: int, api_port: int, *, shown: bool) -> None:
        """`shown`: what is said goes to a terminal."""
        self._shown = shown
        self._port = port
        self._api_port = api_port
        self._installation = _with_own_links(installation, self._url)
        self._stopping = False

    def run(self, *, open_browser: bool, say: Callable[[str], None]) -> int:
        """Start, announce, and loop until SIGINT or SIGTERM. Returns the exit status."""
        cancel_abandoned(open_instance(self._installation.settings))
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._stop)
        children = [self._start_dagster()]
        try:
            children.append(self._start_api())
            self._wait_until_ready(children)
            if not self._stopping:
                say(self.announcement())
                if open_browser:
                    import webbrowser

                    webbrowser.open(self._url)
            self._loop(children, say)
        finally:
            for child in reversed(children):
                _end(child.process)
        say("stopped")
        return 0

    @property
    def _url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def _api_url(self) -> str:
        return f"http://127.0.0.1:{self._api_port}"

    def _start_api(self) -> _Child:
        home = self._installation.settings.analytics_home
        command = [
            *(sys.executable, "-m", "analytics_dagster.cli.main", "--home", str(home)),
            *("serve", "--host", "127.0.0.1", "--port", str(self._api_port)),
        ]
        return _start("the API", command, dict(os.environ), home / "server.log")

    def _start_dagster(self) -> _Child:
        environment = {**os.environ, **prepare_dagster_home(self._installation.settings)}
        environment["ANALYTICS_PUBLIC_URL"] = self._installation.settings.analytics_public_url
        command = [
            *(sys.executable, "-m", "dagster", "dev", "-m", "analytics_dagster.definitions"),
            # Loopback only: Dagster's UI has no authentication.
            *("-h", "127.0.0.1", "-p", str(self._port)),
            *("--log-level", "warning", "--code-server-log-level", "warning"),
        ]
        return _start("Dagster", command, environment, self._installation.settings.analytics_home / "dagster.log")

    def _wait_until_ready(self, children: Sequence[_Child]) -> None:
        deadline = time.monotonic() + READY_SECONDS
        waiting = [f"{self._url}/server_info", f"{self._api_url}/healthz"]
        while not self._stopping and time.monotonic() < deadline:
            self._require_running(children)
            waiting = [address for address in waiting if not _answers(address)]
            if not waiting:
                return
            time.sleep(0.3)
        if not self._stopping:
            logs = " and ".join(str(child.log) for child in children)
            raise UserError(f"{' and '.join(waiting)} did not answer within {READY_SECONDS} s; see {logs}")

    def _loop(self, children: Sequence[_Child], say: Callable[[str], None]) -> None:
        watch = alerting.Watch(self._installation)
        while not self._stopping:
            self._require_running(children)
            try:
                for line in watch.turn():
                    say(line)
            except RetryableError as error:
                say(f"will try again: {error}")
            time.sleep(LOOP_SECONDS)

    def _require_running(self, children: Sequence[_Child]) -> None:
        for child in children:
            if child.process.poll() is not None and not self._stopping:
                raise AnalyticsError(f"{child.name} ended with status {child.process.returncode}; see {child.log}")

    def announcement(self) -> str:
        """What to open, and how to sign in."""
        settings = self._installation.settings
        return (
            f"\nDagster UI      {self._url}\n"
            f"  the graph     {self._url}/asset-groups   from landing to insights\n"
            f"  start here    {self._url}/assets/insights/daily   what changed, what is odd, what comes next\n"
            f"  checks        {self._url}/assets/raw/plays?view=checks   green or red, with the rows that failed\n"
            f"  automation    {self._url}/automation   schedules and sensors, all on\n"
            f"API             {self._api_url}   what it takes: {self._api_url}/docs\n"
            f"  its key       {settings.analytics_home / 'admin.key'}   a platform-admin's; `analytics key create` makes others\n"
            f"{self._dashboards()}"
            f"rules           {settings.rules_path}   edit, then materialize aggregates in the UI\n"
            f"home            {settings.analytics_home}\n"
            f"Ctrl-C stops everything.\n"
        )

    def _dashboards(self) -> str:
        """Where they are, and how to sign in. A link only where somebody looks on: no log is to hold one while it works."""
        from analytics_dagster.tenancy.admin_key import sign_in_path
        from analytics_dagster.tenancy.keys import Keys
        from analytics_dagster.tenancy.tickets import Tickets

        where = f"dashboards      {self._api_url}"
        if self._installation.settings.analytics_trusted_proxies:
            return f"{where}/   sign in with a key\n"
        if not self._shown:
            return f"{where}/   sign in with a key; `analytics signin` prints a link that works once\n"
        opened = self._installation
        keys, tickets = Keys(opened.database, opened.clock), Tickets(opened.database, opened.clock)
        path = sign_in_path(opened.settings.analytics_home, keys, tickets)
        return f"{where}{path}   signs you in once, within ten minutes; `analytics signin` prints another\n"

    def _stop(self, _signal: int, _frame: FrameType | None) -> None:
        self._stopping = True


@dataclass(frozen=True)
class _Child:
    name: str
    process: subprocess.Popen[bytes]
    log: Path


def _start(name: str, command: Sequence[str], environment: Mapping[str, str], log: Path) -> _Child:
    with log.open("ab") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
    return _Child(name, process, log)


def _with_own_links(installation: Installation, url: str) -> Installation:
    """Links in messages lead to this UI, unless ANALYTICS_PUBLIC_URL says how people reach it."""
    if "analytics_public_url" in installation.settings.model_fields_set:
        return installation
    return replace(installation, settings=installation.settings.model_copy(update={"analytics_public_url": url}))


def require_free_port(port: int, option: str = "--port") -> None:
    """Raises UserError when something listens there already. `option` is how another is chosen."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            raise UserError(
                f"port {port} is taken, perhaps by another `analytics up`; stop it or choose another with {option}"
            ) from None


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM to the whole group (webserver, daemon, code server), SIGKILL to what stays."""
    for number, patience in ((signal.SIGINT, STOP_SECONDS), (signal.SIGKILL, 5)):
        if _group_gone(process.pid):
            break
        os.killpg(process.pid, number)
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline and not _group_gone(process.pid):
            process.poll()
            time.sleep(0.1)
    process.wait()


def _group_gone(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False
