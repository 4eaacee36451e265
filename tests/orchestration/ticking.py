"""A home whose sensors and schedules a test ticks by hand, with the test's clock."""

from __future__ import annotations

import datetime as dt
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pyarrow as pa
import sqlalchemy as sa
from rows import samples
from small_home import NO_RETRY, NOW, Home

from analytics_dagster.clock import ManualClock
from analytics_dagster.definitions import build_definitions
from analytics_dagster.installation import Installation, open_installation
from analytics_dagster.lake import state_tables
from analytics_dagster.lake.schemas import SYSTEM_SAMPLES, USERS
from analytics_dagster.orchestration.instance import open_instance
from analytics_dagster.orchestration.resources import Platform
from analytics_dagster.orchestration.schedules import daily
from analytics_dagster.settings import Settings

Answer = dg.SensorResult | dg.RunRequest | dg.SkipReason

_OPENED: dict[str, Installation] = {}


class PlatformAtATime(Platform):
    """The installation that a test opened, with the test's clock."""

    def open(self) -> Installation:
        return _OPENED[self.home]


class Ticking(Home):
    """A home at NOW, empty at first. A caller keeps cursors as the daemon would."""

    @property
    def resources(self) -> dict[str, Platform]:
        return {"platform": PlatformAtATime(home=str(self.path))}

    @property
    def clock(self) -> ManualClock:
        assert isinstance(self.installation.clock, ManualClock)
        return self.installation.clock

    def context(self, cursor: str | None = None) -> dg.SensorEvaluationContext:
        return dg.build_sensor_context(self.instance, cursor, resources=self.resources, definitions=self.definitions)

    def tick(self, sensor: dg.SensorDefinition, cursor: str | None = None) -> Answer:
        answer = sensor(self.context(cursor))
        assert isinstance(answer, Answer)
        return answer

    def tick_daily(self) -> Answer:
        answer = daily(dg.build_schedule_context(self.instance, self.clock.now(), resources=self.resources))
        assert isinstance(answer, Answer)
        return answer

    def land(self, first: dt.date, days: int = 1, cpu: float = 10.0, tenant: str = "acme") -> None:
        """Samples of a machine arrive, 24 a day."""
        self.installation.tenants.ensure(tenant)
        self.installation.landing.append(tenant, SYSTEM_SAMPLES, samples(first, days, cpu=cpu), uuid.uuid4().hex)

    def land_users(self, tenant: str = "acme") -> None:
        """Two listeners are described."""
        self.installation.tenants.ensure(tenant)
        rows = [{"user_id": name, "format": "test"} for name in ("u1", "u2")]
        self.installation.landing.append(tenant, USERS, pa.Table.from_pylist(rows, schema=USERS.arrow), uuid.uuid4().hex)

    def begin(self, job: str, tags: Mapping[str, str] = NO_RETRY) -> dg.DagsterRun:
        """A run that is under way."""
        run = dg.DagsterRun(job_name=job, run_id=str(uuid.uuid4()), status=dg.DagsterRunStatus.STARTED, tags={**tags})
        self.instance.add_run(run)
        return run

    def run_job(self, name: str) -> dg.ExecuteInProcessResult:
        config = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
        job = self.definitions.resolve_job_def(name)
        return job.execute_in_process(instance=self.instance, run_config=config, tags=NO_RETRY, raise_on_error=False)

    def rows(self, table: sa.Table) -> list[sa.Row]:
        with self.installation.database.read() as connection:
            return list(connection.execute(sa.select(table).order_by(table.c.id)))

    def rows_of_arrivals(self) -> list[sa.Row]:
        return self.rows(state_tables.arrivals)

    @property
    def transitions(self) -> list[sa.Row]:
        return self.rows(state_tables.alert_transitions)

    @property
    def outbox(self) -> list[sa.Row]:
        return self.rows(state_tables.outbox)


@contextmanager
def ticking(path: Path) -> Iterator[Ticking]:
    installation = open_installation(Settings.from_environment(path), ManualClock(NOW), create=True)
    _OPENED[str(path)] = installation
    kept = dict(os.environ)
    instance = open_instance(installation.settings)
    definitions = build_definitions(resources={"platform": PlatformAtATime(home=str(path))})
    definitions.get_repository_def()
    yield Ticking(path, installation, definitions, instance)
    instance.dispose()
    os.environ.clear()
    os.environ.update(kept)
    installation.database.dispose()
    del _OPENED[str(path)]
