"""How many series a tenant has: those with a point in this hour or the one before, counted over all processes of the machine.

Each process knows a series by its number in its own SeriesTable, all of them together by 64 bits of its hash. A point of a
series that this process has counted in this hour costs one array look-up; only for the others are the tenant's files read and
added to: `<hour>.series` (hashes, so that a restart and the other processes know them) and `<hour>.labels` (which values each
label took, read only to say which one runs away).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol, TypeAlias, TypeVar
from weakref import WeakKeyDictionary

import msgspec
import numpy as np
import numpy.typing as npt

from analytics_dagster.clock import Clock
from analytics_dagster.errors import QuotaExceededError
from analytics_dagster.tenancy.hash_set import Hashes, HashSet

Numbers: TypeAlias = npt.NDArray[np.int32]
T = TypeVar("T", bound=np.generic)

# What stands for the metric's name among labels: a client may put its session ids there too.
_METRIC_NAME = ""
_WIDTH = 8  # bytes of a hash in a file
_TOLD_SECONDS = 5.0

_read_labels = msgspec.json.Decoder(dict[str, str]).decode


class SeriesNumbers(Protocol):
    """What is needed of `ingest.points.SeriesTable`: each series' parts, by its number."""

    @property
    def tenants(self) -> Sequence[str]: ...
    @property
    def types(self) -> Sequence[str]: ...
    @property
    def names(self) -> Sequence[str]: ...
    @property
    def labels(self) -> Sequence[str]: ...


class ActiveSeries:
    """The active series of all tenants, as one process sees them. Not thread-safe: `QuotaGate` holds the lock."""

    def __init__(self, folder: Path, clock: Clock, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._folder = folder
        self._clock = clock
        self._monotonic = monotonic
        self._hour = 0
        self._numbers: dict[str, int] = {}
        self._marks: WeakKeyDictionary[SeriesNumbers, _TableMarks] = WeakKeyDictionary()
        self._tenants: dict[str, _TenantSeries] = {}
        self._told: dict[tuple[str, ...], tuple[float, str]] = {}

    def look(self, table: SeriesNumbers, series: Numbers) -> tuple[dict[str, int], dict[str, Numbers]]:
        """By tenant, how many of these rows it has, and those of its series that this process has not counted in this hour.

        On the hot path there are none of those.
        """
        # Never back: with the clock stepped back, series would be counted into a file that is done with.
        self._hour = max(self._hour, int(self._clock.now().timestamp()) // 3_600)
        if len(series) == 1:  # a point for each request: arrays would cost more than all else
            number = int(series[0])
            marks, tenant = self._of(table, number), table.tenants[number]
            return {tenant: 1}, {} if marks.hour[number] == self._hour else {tenant: series}
        marks = self._of(table, int(series.max()))
        return self._rows_of_tenants(table, series, marks), self._uncounted(table, series, marks)

    @contextmanager
    def counting(self, table: SeriesNumbers, uncounted: Mapping[str, Numbers], limit_of: Callable[[str], int]) -> Iterator[None]:
        """Raise QuotaExceededError if a tenant would have more series than `limit_of` it (0: no limit). Otherwise count them
        when the block is over, unless it raises. No other process counts these tenants' in between.
        """
        marks = self._marks[table]
        limited = [tenant for tenant in sorted(uncounted) if limit_of(tenant)]
        with ExitStack() as stack:
            for tenant in limited:
                stack.enter_context(self._locked(tenant))
                self._check(tenant, table, uncounted[tenant], marks, limit_of(tenant))
            yield
            for tenant in limited:
                numbers, series = uncounted[tenant], self._tenants[tenant]
                missing = numbers[series.uncounted(marks.hash[numbers])]
                series.add(marks.hash[missing], _described(table, missing))
        for numbers in uncounted.values():
            marks.hour[numbers] = self._hour

    def recount(self) -> None:
        """Look at every series again: limits have changed."""
        for marks in self._marks.values():
            marks.hour[:] = 0

    def active(self, tenant: str) -> int:
        """How many active series a tenant has now."""
        self._hour = max(self._hour, int(self._clock.now().timestamp()) // 3_600)
        with self._locked(tenant):
            return self._tenants[tenant].active()

    def _check(self, tenant: str, table: SeriesNumbers, numbers: Numbers, marks: _TableMarks, limit: int) -> None:
        series = self._tenants[tenant]
        new = series.new(marks.hash[numbers])
        if not new or series.active() + new <= limit:
            return
        said = self._blamed(series, tenant, table, numbers)
        raise QuotaExceededError(
            f"tenant {tenant} has {series.active():,} active series, {new:,} more would be over its quota of {limit:,}: {said}; "
            "leave out what is different in every point, or have the quota raised with `analytics tenant quota`"
        )

    def _blamed(self, series: _TenantSeries, tenant: str, table: SeriesNumbers, numbers: Numbers) -> str:
        """Which label has most values. Finding it takes long and a runaway client comes again at once, so it is told again
        for a while; but to series of the same labels only: another client is refused for its own.
        """
        now = self._monotonic()
        newest = int(numbers[-1])
        about = (tenant, *_read_labels(table.labels[newest]))
        until, said = self._told.get(about, (float("-inf"), ""))
        if now >= until:
            values = series.values_of_labels(_described(table, numbers))
            worst = max(values, key=lambda key: (values[key], key))
            who = f"label {worst}" if worst != _METRIC_NAME else "the metric's name"
            said = f"{who} has {values[worst]:,} values"
            self._told = {key: told for key, told in self._told.items() if told[0] > now}
            self._told[about] = (now + _TOLD_SECONDS, said)
        return said

    def _rows_of_tenants(self, table: SeriesNumbers, series: Numbers, marks: _TableMarks) -> dict[str, int]:
        tenants = marks.tenant[series]
        if (tenants == tenants[0]).all():
            return {table.tenants[int(series[0])]: len(series)}
        counts = np.bincount(tenants, minlength=len(self._numbers)).tolist()
        return {name: counts[number] for name, number in self._numbers.items() if counts[number]}

    def _uncounted(self, table: SeriesNumbers, series: Numbers, marks: _TableMarks) -> dict[str, Numbers]:
        fresh = series[marks.hour[series] != self._hour]
        if not len(fresh):
            return {}
        numbers = np.unique(fresh)
        owners = marks.tenant[numbers]
        of_owners = (numbers[owners == owner] for owner in np.unique(owners))
        return {table.tenants[int(mine[0])]: mine for mine in of_owners}

    def _of(self, table: SeriesNumbers, newest: int) -> _TableMarks:
        """What is known of a table's series, up to number `newest` at least."""
        marks = self._marks.get(table)
        if marks is None:
            marks = self._marks[table] = _TableMarks()
        marks.cover(table, newest + 1, self._numbers)
        return marks

    @contextmanager
    def _locked(self, tenant: str) -> Iterator[None]:
        folder = self._folder / tenant
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            series = self._tenants.get(tenant)
            if series is None:
                series = self._tenants[tenant] = _TenantSeries(folder, self._hour)
            series.at(self._hour)
            series.catch_up()
            yield
        finally:
            os.close(lock)


class _TableMarks:
    """What is known of each series of one SeriesTable, by its number: whose it is, its hash, the hour it was last counted in."""

    def __init__(self) -> None:
        self.tenant: Numbers = np.empty(0, np.int32)
        self.hash: Hashes = np.empty(0, np.uint64)
        self.hour: Numbers = np.empty(0, np.int32)
        self.known = 0

    def cover(self, table: SeriesNumbers, through: int, tenants: dict[str, int]) -> None:
        """Know the series below number `through` too."""
        if through <= self.known:
            return
        if through > len(self.tenant):
            room = max(1_024, through, 2 * len(self.tenant))
            self.tenant, self.hash, self.hour = _grown(self.tenant, room), _grown(self.hash, room), _grown(self.hour, room)
        for number in range(self.known, through):
            tenant = table.tenants[number]
            self.tenant[number] = tenants.setdefault(tenant, len(tenants))
            identity = "\x1f".join((tenant, table.types[number], table.names[number], table.labels[number]))
            self.hash[number] = _hash64(identity)
        self.known = through


class _Hour:
    """One hour of a tenant: the hashes of the series that had a point, as its file has them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.hashes = HashSet()
        self._read = 0

    def catch_up(self) -> Hashes:
        """Take in, and return, what was added to the file since, by whichever process. Under the tenant's lock."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._read)
                new = file.read()
        except FileNotFoundError:
            return np.empty(0, np.uint64)
        whole = len(new) - len(new) % _WIDTH  # a process that was killed while writing leaves a part of one
        hashes = np.frombuffer(new[:whole], "<u8").astype(np.uint64)
        self.hashes.add(hashes)
        self._read += whole
        return hashes

    def add(self, hashes: Hashes) -> None:
        """Write them down, then know them. Under the tenant's lock, and caught up."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            file.truncate(self._read)
            file.write(hashes.astype("<u8").tobytes())
        self._read += _WIDTH * len(hashes)
        self.hashes.add(hashes)


class _TenantSeries:
    """One tenant's active series, in this hour and the one before."""

    def __init__(self, folder: Path, hour: int) -> None:
        self.folder = folder
        self._pairs: set[tuple[str, str]] = set()  # labels and values that are in this hour's file, as far as is known here
        self._only_now = 0  # series with a point in this hour and none in the one before
        self._open(hour)

    def at(self, hour: int) -> None:
        """Move on to `hour`. Files of hours that count no more are removed."""
        if hour == self.hour:
            return
        self._open(hour)
        for path in self.folder.glob("*.*"):
            if path.stem.isdigit() and int(path.stem) < hour - 1:
                path.unlink(missing_ok=True)

    def catch_up(self) -> None:
        """Take in what other processes counted."""
        late = len(self._before.catch_up())
        new = self._now.catch_up()
        if late:  # some of this hour's may turn out to have been active before
            self._only_now = self._now.hashes.missing_from(self._before.hashes)
        else:
            self._only_now += int(np.count_nonzero(~self._before.hashes.has(new)))

    def uncounted(self, hashes: Hashes) -> npt.NDArray[np.bool_]:
        """Which of them had no point in this hour yet."""
        return ~self._now.hashes.has(hashes)

    def new(self, hashes: Hashes) -> int:
        """How many of them are not active yet."""
        return int(np.count_nonzero(~self._now.hashes.has(hashes) & ~self._before.hashes.has(hashes)))

    def active(self) -> int:
        return len(self._before.hashes) + self._only_now

    def add(self, hashes: Hashes, described: Iterator[tuple[str, str]]) -> None:
        """Count series in this hour that were not. `described` are their names and labels (JSON)."""
        self._now.add(hashes)
        self._only_now += int(np.count_nonzero(~self._before.hashes.has(hashes)))
        pairs = {pair for name, text in described for pair in _label_pairs(name, text)} - self._pairs
        with self._labels_of(self.hour).open("a", encoding="ascii") as file:
            file.writelines(f"\n{key} {_hash64(value):x}" for key, value in pairs)
        self._pairs |= pairs

    def values_of_labels(self, more: Iterator[tuple[str, str]]) -> dict[str, int]:
        """For each label the number of different values among the active series and `more`."""
        values: dict[str, set[str]] = {}
        for hour in (self.hour - 1, self.hour):
            try:
                lines = self._labels_of(hour).read_text("ascii").splitlines()
            except FileNotFoundError:
                continue
            for line in filter(None, lines):
                key, _, value = line.partition(" ")
                values.setdefault(key, set()).add(value)
        for name, text in more:
            for key, value in _label_pairs(name, text):
                values.setdefault(key, set()).add(f"{_hash64(value):x}")
        return {key: len(found) for key, found in values.items()}

    def _labels_of(self, hour: int) -> Path:
        return self.folder / f"{hour}.labels"

    def _open(self, hour: int) -> None:
        self.hour = hour
        self._now = _Hour(self.folder / f"{hour}.series")
        self._before = _Hour(self.folder / f"{hour - 1}.series")
        self._only_now = 0
        self._pairs = set()


def _described(table: SeriesNumbers, numbers: Numbers) -> Iterator[tuple[str, str]]:
    return ((table.names[number], table.labels[number]) for number in numbers.tolist())


def _label_pairs(name: str, labels: str) -> list[tuple[str, str]]:
    return [(_METRIC_NAME, name), *_read_labels(labels).items()]


def _hash64(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=_WIDTH).digest(), "little")


def _grown(array: npt.NDArray[T], room: int) -> npt.NDArray[T]:
    """`array` with zeros behind it, `room` long."""
    return np.concatenate((array, np.zeros(room - len(array), array.dtype)))
