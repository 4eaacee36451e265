"""What `analytics up` keeps running: Dagster (webserver, daemon, code server) as one child, and the alert loop here.

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
from collections.abc import Callable
from dataclasses import replace
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

    def __init__(self, installation: Installation, port: int) -> None:
        self._port = port
        self._installation = _with_own_links(installation, self._url)
        self._stopping = False

    def run(self, *, open_browser: bool, say: Callable[[str], None]) -> int:
        """Start, announce, and loop until SIGINT or SIGTERM. Returns the exit status."""
        cancel_abandoned(open_instance(self._installation.settings))
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._stop)
        dagster = self._start_dagster()
        try:
            self._wait_until_ready(dagster)
            if not self._stopping:
                say(self._announcement())
                if open_browser:
                    import webbrowser

                    webbrowser.open(self._url)
            self._loop(dagster, say)
        finally:
            _end(dagster)
        say("stopped")
        return 0

    @property
    def _url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def _start_dagster(self) -> subprocess.Popen[bytes]:
        environment = {**os.environ, **prepare_dagster_home(self._installation.settings)}
        environment["ANALYTICS_PUBLIC_URL"] = self._installation.settings.analytics_public_url
        log = self._installation.settings.analytics_home / "dagster.log"
        command = [
            *(sys.executable, "-m", "dagster", "dev", "-m", "analytics_dagster.definitions"),
            # Loopback only: Dagster's UI has no authentication.
            *("-h", "127.0.0.1", "-p", str(self._port)),
            *("--log-level", "warning", "--code-server-log-level", "warning"),
        ]
        with log.open("ab") as output:
            return subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)

    def _wait_until_ready(self, dagster: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while not self._stopping and time.monotonic() < deadline:
            self._require_running(dagster)
            if _answers(f"{self._url}/server_info"):
                return
            time.sleep(0.3)
        if not self._stopping:
            raise UserError(f"Dagster did not answer at {self._url} within {READY_SECONDS} s; see {self._log_path}")

    def _loop(self, dagster: subprocess.Popen[bytes], say: Callable[[str], None]) -> None:
        watch = alerting.Watch(self._installation)
        while not self._stopping:
            self._require_running(dagster)
            try:
                for line in watch.turn():
                    say(line)
            except RetryableError as error:
                say(f"will try again: {error}")
            time.sleep(LOOP_SECONDS)

    def _require_running(self, dagster: subprocess.Popen[bytes]) -> None:
        if dagster.poll() is not None and not self._stopping:
            raise AnalyticsError(f"Dagster ended with status {dagster.returncode}; see {self._log_path}")

    @property
    def _log_path(self) -> str:
        return str(self._installation.settings.analytics_home / "dagster.log")

    def _announcement(self) -> str:
        settings = self._installation.settings
        return (
            f"\nDagster UI      {self._url}\n"
            f"  the graph     {self._url}/asset-groups   from landing to insights\n"
            f"  start here    {self._url}/assets/insights/daily   what changed, what is odd, what comes next\n"
            f"  checks        {self._url}/assets/raw/plays?view=checks   green or red, with the rows that failed\n"
            f"  automation    {self._url}/automation   schedules and sensors, all on\n"
            f"rules           {settings.rules_path}   edit, then materialize aggregates in the UI\n"
            f"home            {settings.analytics_home}\n"
            f"Ctrl-C stops everything.\n"
        )

    def _stop(self, _signal: int, _frame: FrameType | None) -> None:
        self._stopping = True


def _with_own_links(installation: Installation, url: str) -> Installation:
    """Links in messages lead to this UI, unless ANALYTICS_PUBLIC_URL says how people reach it."""
    if "analytics_public_url" in installation.settings.model_fields_set:
        return installation
    return replace(installation, settings=installation.settings.model_copy(update={"analytics_public_url": url}))


def require_free_port(port: int) -> None:
    """Raises UserError when something listens there already."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            raise UserError(
                f"port {port} is taken, perhaps by another `analytics up`; stop it or choose another with --port"
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
