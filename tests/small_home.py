"""A small simulated service: made and materialized once for all tests of a run, copied by each test that changes it.

Two tenants, FIRST to LAST, with labelled incidents: aurora's broken client closes its gate on BROKEN_DAY. The days are fixed,
so every figure is the same on each day the tests run.
"""

from __future__ import annotations

import datetime as dt
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import dagster as dg
import filelock
import pytest

from analytics_dagster.clock import ManualClock
from analytics_dagster.definitions import build_definitions
from analytics_dagster.ingest.raw import stale_days
from analytics_dagster.installation import Installation, open_installation
from analytics_dagster.lake.publications import PublicationRecord
from analytics_dagster.orchestration.instance import open_instance
from analytics_dagster.orchestration.partitions import DayRange
from analytics_dagster.orchestration.resources import Platform, scope_config
from analytics_dagster.settings import Settings
from analytics_dagster.sources.simulation import SimulationPlan, simulate

FIRST, LAST = dt.date(2026, 2, 22), dt.date(2026, 3, 9)
DAYS = (LAST - FIRST).days + 1
NOW = dt.datetime(2026, 3, 10, 6, tzinfo=dt.UTC)
TENANTS = ("aurora", "borealis")
BROKEN_DAY = dt.date(2026, 3, 1)
OLD_DAY = dt.date(2026, 2, 26)

# No daemon runs here that could start a failed run again.
NO_RETRY = {"dagster/max_retries": "0"}


@dataclass(frozen=True)
class Home:
    """An opened home with its Dagster instance and the whole graph on it. Use it as `with opened(path) as home`."""

    path: Path
    installation: Installation
    definitions: dg.Definitions
    instance: dg.DagsterInstance

    def materialize(
        self, *assets: str, first: dt.date = FIRST, last: dt.date = LAST, tenants: Sequence[str] = ()
    ) -> dg.ExecuteInProcessResult:
        """One run of these assets (all that have partitions and the catalogue when none is named), which must succeed."""
        result = self.attempt(*assets, first=first, last=last, tenants=tenants)
        failures = [event.step_failure_data.error_display_string for event in result.all_events if event.is_step_failure]
        assert result.success, "\n".join(failures)
        return result

    def attempt(
        self, *assets: str, first: dt.date = FIRST, last: dt.date = LAST, tenants: Sequence[str] = ()
    ) -> dg.ExecuteInProcessResult:
        """The same, whether or not it succeeds."""
        return self.definitions.resolve_implicit_global_asset_job_def().execute_in_process(
            instance=self.instance,
            asset_selection=[dg.AssetKey(path.split("/")) for path in assets] or None,
            tags={**DayRange(first, last).tags, **NO_RETRY},
            run_config={**scope_config(list(tenants)), "loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            raise_on_error=False,
        )

    def published(self, asset: str | None = None, tenant: str | None = None) -> dict[tuple[str, str, dt.date], PublicationRecord]:
        """What is published by tenant, asset and day, without what differs from run to run."""
        records = self.installation.publications.of(asset=asset, tenant=tenant)
        return {(r.tenant, r.asset, r.day): replace(r, run_id="", published_at=NOW) for r in records}

    def count(self, table: str) -> int:
        """Rows of a table of the operational database."""
        import sqlalchemy as sa

        from analytics_dagster.lake import state_tables

        with self.installation.database.read() as connection:
            return int(connection.execute(sa.select(sa.func.count()).select_from(getattr(state_tables, table))).scalar_one())


@contextmanager
def opened(path: Path) -> Iterator[Home]:
    """Open a home with the system's clock, as the command line does, and leave the process' environment as it was."""
    kept = dict(os.environ)
    installation = open_installation(Settings.from_environment(path), create=False)
    instance = open_instance(installation.settings)
    definitions = build_definitions(resources={"platform": Platform(home=str(path))})
    # Now, while Dagster's idea of the current instance is this one: it does not bear several that overlap.
    definitions.get_repository_def()
    try:
        yield Home(path, installation, definitions, instance)
    finally:
        instance.dispose()
        installation.database.dispose()
        os.environ.clear()
        os.environ.update(kept)


def content(home: Home, records: Iterable[PublicationRecord] | None = None) -> Mapping[tuple[str, str, dt.date], tuple[str, int]]:
    """Content hash and rows of everything that is published: what must be equal however it was computed."""
    chosen = home.published().values() if records is None else records
    return {(r.tenant, r.asset, r.day): (r.content_hash, r.rows) for r in chosen}


def incident_tenants_are_real(installation: Installation) -> None:
    """Make the simulated tenants ordinary ones, so that no sensor goes on simulating them."""
    from analytics_dagster.lake.state_tables import tenants

    installation.database.write(lambda connection: connection.execute(tenants.update().values(demo=False)))


# --- fixtures; a room's conftest.py imports those it uses


@pytest.fixture(scope="session")
def landed_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small service after its arrival, nothing materialized. Never change it: copy it with `copied`."""
    return _made_once(tmp_path_factory, "landed", _land)


@pytest.fixture(scope="session")
def materialized_home(tmp_path_factory: pytest.TempPathFactory, landed_home: Path) -> Path:
    """The same, with everything of all days materialized in one run. Never change it: copy it with `copied`."""

    def materialize(home: Path) -> None:
        copy_of(landed_home, home)
        with opened(home) as small:
            small.materialize()
            assert stale_days(small.installation.database) == []

    return _made_once(tmp_path_factory, "materialized", materialize)


Copied = Callable[[Path], Path]


@pytest.fixture
def copied(home: Path) -> Copied:
    """Copies a home of the session to this test's own `home`."""

    def copy(source: Path) -> Path:
        copy_of(source, home)
        return home

    return copy


def copy_of(source: Path, home: Path) -> None:
    """Copy a home of the session.

    Its databases were checkpointed when it was made, so their -wal and -shm hold nothing; a connection that is
    closed late may take them away under the copy.
    """
    shutil.copytree(source, home, ignore=shutil.ignore_patterns("*-wal", "*-shm"))


def _land(home: Path) -> None:
    installation = open_installation(Settings.from_environment(home), ManualClock(NOW), create=True)
    simulate(installation, SimulationPlan(until=LAST, tenants=len(TENANTS), users=60, days=DAYS, seed=7))
    incident_tenants_are_real(installation)
    installation.database.dispose()


def _made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """Make a home below the folder that all workers of one pytest-xdist run share."""
    base = factory.getbasetemp()
    shared = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    home, done = shared / f"small-{name}" / ".analytics", shared / f"small-{name}.done"
    with filelock.FileLock(shared / f"small-{name}.lock"):
        if not done.exists():
            with _environment_of_no_home():
                make(home)
            _checkpoint(home)
            done.touch()
    return home


def _checkpoint(home: Path) -> None:
    """Write what the write-ahead logs of a home hold into its databases."""
    for path in home.rglob("*.db"):
        with closing(sqlite3.connect(path)) as connection:
            busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            assert not busy, f"somebody still writes {path}"


@contextmanager
def _environment_of_no_home() -> Iterator[None]:
    """Session fixtures are made within the first test that asks, whose environment is not theirs."""
    kept = dict(os.environ)
    for name in kept:
        if name.startswith(("ANALYTICS_", "DAGSTER_", "SLACK_", "ALERT_", "SMTP_")):
            del os.environ[name]
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(kept)
