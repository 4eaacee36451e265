"""Which log the settings open, and which sources there are to consume."""

from __future__ import annotations

from pathlib import Path

import pytest
from log_points import done, points

from analytics_dagster.clock import SystemClock
from analytics_dagster.errors import BusyError, SettingsError
from analytics_dagster.ingest.log.embedded import EmbeddedLog
from analytics_dagster.ingest.log.open import log_backlog, log_root, open_log, open_sources
from analytics_dagster.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.from_environment(tmp_path / "home")


def folder_of(log: object) -> str:
    assert isinstance(log, EmbeddedLog)
    return log.folder.name


def test_engines_take_the_lowest_free_folder_and_a_server_its_own(settings: Settings) -> None:
    clock = SystemClock()
    logs = [open_log(settings, clock, role) for role in ("local", "server-0", "local", "local")]
    assert [folder_of(log) for log in logs] == ["local-0", "server-0", "local-1", "local-2"]
    logs[2].close()
    logs[2] = open_log(settings, clock, "local")
    assert folder_of(logs[2]) == "local-1"
    done(*[log.append(points(1)) for log in logs])
    for log in logs:
        log.close()
    sources = open_sources(settings)
    assert [source.name for source in sources] == ["log/local-0", "log/local-1", "log/local-2", "log/server-0"]
    assert [sum(batch.rows.num_rows for batch in source.read(0, 10)) for source in sources] == [1, 1, 1, 1]
    assert log_backlog(settings).segments == 4
    assert log_root(settings) == settings.analytics_home / "log"


def test_a_second_server_on_one_home_is_refused(settings: Settings) -> None:
    log = open_log(settings, SystemClock(), "server-0")
    with pytest.raises(BusyError, match=r"server-0 is being written by process \d+; stop it first, or use another home"):
        open_log(settings, SystemClock(), "server-0")
    log.close()


def test_a_home_without_a_log_has_nothing_to_consume(settings: Settings) -> None:
    assert open_sources(settings) == []
    assert log_backlog(settings).unconsumed_bytes == 0
    assert not settings.analytics_home.exists()


def test_a_log_of_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    settings = Settings.from_environment(tmp_path, {"analytics_log": "redis://localhost"})
    for attempt in (lambda: open_log(settings, SystemClock(), "local"), lambda: open_sources(settings)):
        with pytest.raises(SettingsError, match="ANALYTICS_LOG='redis://localhost' is not allowed"):
            attempt()


@pytest.mark.parametrize("role", ["", "../elsewhere", "Server-0", "server-"])
def test_a_role_is_no_path(settings: Settings, role: str) -> None:
    with pytest.raises(ValueError, match="is not local or a name and a number"):
        open_log(settings, SystemClock(), role)
