"""The gate that every request's rows pass before they are logged: points a second, active series, stored bytes.

All is checked before anything is charged, for all tenants of a request, so what is refused leaves no trace. On the hot path
(series that were counted in this hour, limits that are known) that is a few array operations and a file lock.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from analytics_dagster.clock import Clock
from analytics_dagster.errors import LogFullError, QuotaExceededError
from analytics_dagster.settings import Settings
from analytics_dagster.tenancy.active_series import ActiveSeries, Numbers, SeriesNumbers
from analytics_dagster.tenancy.quotas import Limits, OwnLimits, Quotas
from analytics_dagster.tenancy.token_buckets import Charge, RateState, TokenBuckets

if TYPE_CHECKING:
    from analytics_dagster.lake.database import Database

# Less than the 5 s in which a change must reach every process.
_REMEMBERED_SECONDS = 4.0
QUOTA_FOLDER = "quota"
SERIES_FOLDER = "series"
STORED_FILE = "stored.json"


class PointRows(Protocol):
    """What is needed of `ingest.points.Points`."""

    @property
    def table(self) -> SeriesNumbers: ...
    @property
    def series(self) -> Numbers: ...


class QuotaGate:
    """One process' gate. Safe to call from any thread.

    It reads limits anew when they are 4 s old, in the thread that asks. With `renewed=True` it never does: who cannot wait for
    a database (an event loop) has another thread call `renew` before the first request and every few seconds.
    """

    def __init__(
        self,
        home: Path,
        settings: Settings,
        database: Database,
        clock: Clock,
        monotonic: Callable[[], float] = time.monotonic,
        *,
        renewed: bool = False,
    ) -> None:
        folder = home / QUOTA_FOLDER
        self._quotas = Quotas(database, settings, clock)
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._buckets = TokenBuckets(folder / "buckets", monotonic)
        self._series = ActiveSeries(folder / SERIES_FOLDER, clock, monotonic)
        self._stored = _StoredBytes(folder / STORED_FILE)
        self._own: Mapping[str, OwnLimits] = {}
        self._limits: dict[str, Limits] = {}
        self._until = float("inf") if renewed else float("-inf")

    def renew(self) -> None:
        """Read limits and stored bytes anew. Nobody waits at the gate meanwhile; when it raises, what was read before holds."""
        own, sizes = self._quotas.own(), self._stored.read()
        with self._lock:
            self._take(own, sizes)

    def admit(
        self,
        points: PointRows,
        rows: npt.NDArray[np.integer] | npt.NDArray[np.bool_] | None = None,
        *,
        further: Mapping[str, int] | None = None,
    ) -> RateState:
        """Charge `points` (only `rows` of them, where given) to the tenants of their series, and `further` rows by tenant.

        Returns where the tenant stands that has least left. Raises QuotaExceededError, and charges and counts nothing, when
        one of them is over a quota: its `state` is a RateState if that is points a second. LogFullError when the disk is.
        """
        series = points.series if rows is None else points.series[rows]
        if not len(series):
            return self.admit_rows(further) if further else RateState()
        with self._lock, _disk_full_told():
            return self._admit(points.table, series, further or {})

    def admit_rows(self, wanted: Mapping[str, int]) -> RateState:
        """Charge rows that have no series (plays) as so many points, by tenant. Returns and raises as `admit` does."""
        with self._lock, _disk_full_told():
            self._refresh()
            self._check_stored(wanted)
            return self._charge(wanted)

    def active_series(self, tenant: str) -> int:
        """How many series of a tenant are active, where it has a quota of them."""
        with self._lock:
            return self._series.active(tenant)

    def close(self) -> None:
        self._buckets.close()

    def _admit(self, table: SeriesNumbers, series: Numbers, further: Mapping[str, int]) -> RateState:
        self._refresh()
        wanted, uncounted = self._series.look(table, series)
        for tenant, number in further.items():
            wanted[tenant] = wanted.get(tenant, 0) + number
        self._check_stored(wanted)
        if not uncounted:
            return self._charge(wanted)
        with self._series.counting(table, uncounted, lambda tenant: self._of(tenant).active_series):
            return self._charge(wanted)

    def _charge(self, wanted: Mapping[str, int]) -> RateState:
        charges = {t: Charge(number, rate) for t, number in wanted.items() if (rate := self._of(t).points_per_second)}
        if not charges:
            return RateState()
        states = self._buckets.charge(charges).values()
        return min(states, key=lambda state: state.remaining / state.limit, default=RateState())

    def _check_stored(self, wanted: Mapping[str, int]) -> None:
        for tenant in wanted:
            limit = self._of(tenant).stored_bytes
            if limit and (stored := self._stored.of(tenant)) >= limit:
                raise QuotaExceededError(
                    f"tenant {tenant} stores {stored:,} bytes, its quota is {limit:,}; delete what it needs no more or have "
                    "the quota raised with `analytics tenant quota`"
                )

    def _of(self, tenant: str) -> Limits:
        found = self._limits.get(tenant)
        if found is None:
            found = self._limits[tenant] = self._own.get(tenant, OwnLimits()).over(self._quotas.defaults)
        return found

    def _refresh(self) -> None:
        began = self._monotonic()
        if began < self._until:
            return
        self._take(self._quotas.own(), self._stored.read())
        self._until = began + _REMEMBERED_SECONDS

    def _take(self, own: Mapping[str, OwnLimits], sizes: Mapping[str, int]) -> None:
        if {t: limits.active_series for t, limits in own.items()} != {t: limits.active_series for t, limits in self._own.items()}:
            self._series.recount()
        self._own, self._limits = own, {}
        self._stored.sizes = sizes


@contextmanager
def _disk_full_told() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LogFullError(f"quotas cannot be noted: {error.strerror}; make room on the disk of the home") from error


class _StoredBytes:
    """What `measure_stored_bytes` wrote last."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.sizes: Mapping[str, int] = {}

    def of(self, tenant: str) -> int:
        return self.sizes.get(tenant, 0)

    def read(self) -> Mapping[str, int]:
        try:
            sizes: Mapping[str, int] = json.loads(self._path.read_text(encoding="utf-8"))["bytes"]
        except (FileNotFoundError, ValueError):  # ValueError: a crash of the machine may leave it empty
            return {}
        return sizes
