"""The engine of a program on the same machine: points go straight into the log of its home, without a server."""

from __future__ import annotations

import datetime as dt
import difflib
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from analytics_dagster.clock import Clock, SystemClock
from analytics_dagster.engine.buffer import Buffer
from analytics_dagster.engine.engine import Engine, Recordable, Submitted, hold
from analytics_dagster.engine.portions import append
from analytics_dagster.engine.row_checks import RowChecks
from analytics_dagster.errors import NotFoundError, UserError
from analytics_dagster.ingest.points import Points, WriteScope
from analytics_dagster.settings import Settings
from analytics_dagster.tenancy.tenants import Tenants, TenantStatus, TenantStatuses

if TYPE_CHECKING:
    from analytics_dagster.ingest.log.interface import IngestLog
    from analytics_dagster.installation import Installation
    from analytics_dagster.tenancy.quota_gate import QuotaGate

DEFAULT_TENANT = "default"
# Below the 5 s for which statuses are remembered: a loop's next look at them is then done in another thread.
_LOOK_AGAIN_SECONDS = 4.0


@dataclass(frozen=True)
class _Opened:
    """What a first call opens; never used by a forked child."""

    installation: Installation
    log: IngestLog
    buffer: Buffer
    checks: RowChecks
    statuses: TenantStatuses
    gate: QuotaGate


class LocalEngine(Engine):
    """Records into the log of the installation at `home` (default: as the command line finds its own), opened at the first call.

    `default` and `tenant_123` are registered there; other tenants are registered by `analytics tenant add`, never by recording.
    """

    def __init__(self, home: Path | str | None = None, *, settings: Settings | None = None, clock: Clock | None = None) -> None:
        super().__init__()
        self._home = Path(home) if home is not None else None
        self._settings = settings
        self._clock = clock or SystemClock()
        self._opened: _Opened | None = None
        self._looked = float("-inf")

    def _shut(self) -> None:
        opened, self._opened = self._opened, None
        if opened is not None:
            opened.buffer.drain()
            opened.log.close()
            opened.gate.close()
            opened.installation.database.dispose()

    def _ready(self) -> bool:
        return self._opened is not None and time.monotonic() - self._looked < _LOOK_AGAIN_SECONDS

    def _forget(self) -> object:
        opened, self._opened = self._opened, None
        return opened

    def _submit(self, data: Recordable, *, wait: bool) -> Submitted:
        opened = self._open()
        points = self._checked(opened, data)
        if not len(points):
            return Submitted.nothing()
        opened.gate.admit(points)
        done = opened.buffer.submit(len(points), partial(append, opened.log, points), wait=wait)
        return Submitted(len(points), done)

    def _open(self) -> _Opened:
        opened = self._opened
        if opened is not None:
            return opened
        with self._lock:
            if self._opened is None:
                self._opened = self._really_open()
                hold(self)
            return self._opened

    def _really_open(self) -> _Opened:
        from analytics_dagster.ingest.log.open import open_log
        from analytics_dagster.installation import open_installation
        from analytics_dagster.tenancy.quota_gate import QuotaGate

        settings = self._settings or Settings.from_environment(self._home)
        installation = open_installation(settings, self._clock, create=True)
        installation.tenants.register_defaults()
        skew = dt.timedelta(seconds=settings.analytics_future_skew)
        return _Opened(
            installation,
            open_log(settings, self._clock, "local"),
            Buffer(settings.metrics_buffer_size),
            RowChecks(self._clock, skew),
            TenantStatuses(installation.tenants),
            QuotaGate(settings.analytics_home, settings, installation.database, self._clock),
        )

    def _checked(self, opened: _Opened, data: Recordable) -> Points:
        scope = _RegisteredScope(DEFAULT_TENANT, opened.statuses.active(), opened.installation.tenants)
        self._looked = time.monotonic()
        return opened.checks.points(data, scope)


@dataclass(frozen=True)
class _RegisteredScope(WriteScope):
    """Every active tenant. One that is not known as such is looked for in the register: it may have been added just now."""

    tenants: Tenants

    def resolve(self, named: str | None) -> str:
        tenant = named or self.default
        if tenant in self.allowed:
            return str(tenant)
        known = {record.tenant: record.status for record in self.tenants.records()}
        status = known.get(str(tenant))
        if status is TenantStatus.ACTIVE:
            return str(tenant)
        if status is not None:
            raise UserError(
                f"tenant {tenant} is {status} and takes no data; `analytics tenant add {tenant}` makes it active again"
            )
        near = difflib.get_close_matches(str(tenant), known, n=3)
        said = f"did you mean {' or '.join(near)}? Recording makes none" if near else "recording makes none"
        raise NotFoundError(f"no tenant {tenant!r}; {said}; `analytics tenant list` shows those there are")
