"""A real server in a process of its own, as `analytics serve` starts it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from analytics_dagster.clock import SystemClock
from analytics_dagster.installation import Installation, open_installation
from analytics_dagster.settings import Settings
from analytics_dagster.tenancy.keys import Keys
from analytics_dagster.tenancy.roles import Role

ANALYTICS = str(Path(sys.executable).with_name("analytics"))
PATIENCE = 60.0


def clean_environment(**more: str) -> dict[str, str]:
    """This process' environment without what would lead the server elsewhere."""
    foreign = ("ANALYTICS_", "DAGSTER_", "SLACK_", "ALERT_", "SMTP_", "PYTHONDONTWRITEBYTECODE")
    return {**{name: value for name, value in os.environ.items() if not name.startswith(foreign)}, **more}


@dataclass
class Running:
    """A server and its home. Keys are made beside it, as the command line makes them."""

    home: Path
    url: str
    process: subprocess.Popen[bytes]
    log: Path
    installation: Installation
    _keys: dict[tuple[Role, tuple[str, ...] | None, str], str] = field(default_factory=dict)

    def key(self, role: Role = Role.TENANT_ADMIN, *tenants: str, name: str = "", everywhere: bool = False) -> str:
        """A key for `tenants` (default: `default`)."""
        wanted = None if everywhere or role is Role.PLATFORM_ADMIN else tenants or ("default",)
        known = (role, wanted, name)
        if known not in self._keys:
            made = Keys(self.installation.database, SystemClock()).create(role, wanted, name=name)
            self._keys[known] = made.secret
        return self._keys[known]

    def client(self, key: str | None = None, **more: Any) -> httpx.Client:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=30, **more)

    @property
    def said(self) -> str:
        return self.log.read_text(encoding="utf-8")

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)


@contextmanager
def serving(home: Path, *options: str, **environment: str) -> Iterator[Running]:
    """`analytics serve` on a free port; ready, and gone afterwards."""
    home.parent.mkdir(parents=True, exist_ok=True)
    log = home.parent / f"{home.name}.serve.log"
    line = [ANALYTICS, "--home", str(home), "serve", "--port", "0", *options]
    with log.open("wb") as output:
        process = subprocess.Popen(line, stdout=output, stderr=output, env=clean_environment(**environment))
    try:
        url = wait_for("the server", lambda: _url_in(log, process))
        installation = open_installation(Settings.from_environment(home), create=True)
        try:
            yield Running(home, url, process, log, installation)
        finally:
            installation.database.dispose()
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _url_in(log: Path, process: subprocess.Popen[bytes]) -> str | None:
    text = log.read_text(encoding="utf-8")
    assert process.poll() is None, text
    found = re.search(r"^API +(\S+)$", text, re.MULTILINE)
    return found[1] if found else None


def wait_for(what: str, look: Callable[[], Any], patience: float = PATIENCE) -> Any:
    """What `look` gives once it is something."""
    deadline = time.monotonic() + patience
    while not (found := look()):
        assert time.monotonic() < deadline, f"{what} did not come within {patience} s"
        time.sleep(0.05)
    return found
