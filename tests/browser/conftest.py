"""A real `analytics up` on a copy of the small home, and Chromium."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from small_home import landed_home, materialized_home

if TYPE_CHECKING:
    from playwright.sync_api import Page

__all__ = ["landed_home", "materialized_home"]

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# No sandbox as root; the rest keeps Chromium from calling home.
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update"]
READY_SECONDS = 90


def require_chromium() -> None:
    """Skip without Chromium; fail where REQUIRE_BROWSER forbids the skip."""
    if CHROMIUM is None:
        if os.environ.get("REQUIRE_BROWSER"):
            pytest.fail("REQUIRE_BROWSER is set and Chromium is not installed")
        pytest.skip("Chromium is not installed")


@pytest.fixture(scope="session")
def dagster_ui(materialized_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of the UI that `analytics up` started."""
    require_chromium()
    home = tmp_path_factory.mktemp("browser") / ".analytics"
    shutil.copytree(materialized_home, home)
    with socket.socket() as probe, socket.socket() as second:
        for free in (probe, second):
            free.bind(("127.0.0.1", 0))
        port, api = probe.getsockname()[1], second.getsockname()[1]
    analytics = str(Path(sys.executable).parent / "analytics")
    command = [analytics, "up", "--no-browser", "--port", str(port), "--api-port", str(api), "--home", str(home)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ANALYTICS_", "DAGSTER_", "SLACK_"))}
    with (home.parent / "up.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        _wait(f"http://127.0.0.1:{port}", process, home.parent / "up.log")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


@pytest.fixture
def page(dagster_ui: str) -> Iterator[Page]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        opened = browser.new_page(viewport={"width": 1600, "height": 1000})
        opened.set_default_timeout(30_000)
        yield opened
        browser.close()


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(f"{url}/server_info", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    pytest.fail(f"no answer within {READY_SECONDS} s: {log.read_text()}")
