"""StatsD, with DogStatsD's tags: datagrams added up between two flushes, and each flush as points.

UDP has no answer to refuse with, so a line that cannot be taken is counted and the last reason kept, and nothing is raised.
Memory is bounded whatever comes: by series, by distinct members of sets, and by observations of one flush.
"""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np

from analytics_dagster.errors import ForeignTenantError
from analytics_dagster.ingest.points import MetricType, Points, RefusedValueError, SeriesTable, WriteScope, check_name
from analytics_dagster.ingest.wire.prometheus_labels import metric_name, series_labels

MAX_SERIES = 100_000
MAX_SET_MEMBERS = 500_000
MAX_OBSERVATIONS = 1_000_000
# Names and tags of all series together; one datagram alone may hold 64 kB of them.
_MAX_KEY_BYTES = 64 << 20
# A sampled observation stands for 1/rate of them; a rate below this would let one datagram stand for any number.
_MOST_REPEATS = 1_000
# A longer member of a set is known by its hash.
_LONGEST_MEMBER = 32
# A series that was silent for so long is forgotten once half the room is used; a counter then begins again at 0.
_IDLE_US = 3_600 * 1_000_000
_TYPES = {
    b"c": MetricType.COUNTER,
    b"g": MetricType.GAUGE,
    b"s": MetricType.GAUGE,
    b"ms": MetricType.TIMER,
    b"h": MetricType.HISTOGRAM,
    b"d": MetricType.HISTOGRAM,
}


_Key = tuple[bytes, bytes, bytes]
"""Name, type and tags as they come."""


@dataclass
class StatsdCounts:
    """Lines since the process began, and why the last of those that were not taken was not."""

    taken: int = 0
    malformed: int = 0
    """Lines that are not StatsD's, or name what cannot be taken."""
    dropped: int = 0
    """Lines that there was no room for."""
    last_reason: str = ""


@dataclass
class _Series:
    number: int
    type: bytes
    value: float = 0.0
    """Of a counter since it was first seen, of a gauge as it stands."""
    reported: bool = False
    touched: bool = False
    idle_since: int = 0
    members: set[bytes] = field(default_factory=set)


class _NoRoomError(Exception):
    """A bound on memory is reached."""


class StatsdAggregator:
    """The StatsD listener's state. For one thread."""

    def __init__(self, table: SeriesTable, tenant: str) -> None:
        self._table = table
        self._scope = WriteScope(tenant, frozenset({tenant}))
        self._by_key: dict[_Key, _Series] = {}  # tags in another order are another key of the same series
        self._series: dict[tuple[int, bytes], _Series] = {}
        self._key_bytes = 0
        self._members = 0
        self._observed = array("i")
        self._observations = array("d")
        self._flushed_us: int | None = None
        self.counts = StatsdCounts()

    def feed(self, datagram: bytes) -> None:
        """Take the lines of one datagram. Never raises."""
        counts = self.counts
        for line in datagram.split(b"\n"):
            line = line.strip()
            if not line:
                continue
            try:
                self._line(line)
                counts.taken += 1
            except _NoRoomError as error:
                counts.dropped += 1
                counts.last_reason = str(error)
            except (RefusedValueError, ForeignTenantError, ValueError) as error:
                counts.malformed += 1
                counts.last_reason = f"{line[:100].decode(errors='replace')!r}: {error}"

    def flush(self, now_us: int) -> Points:
        """What happened since the last flush, at `now_us`.

        Counters as they stand, cumulative, of the series that were added to: a new one begins with a 0 at the flush before, so
        that its first increase counts. Gauges as they stand, sets as the number of their distinct members, observations each.
        """
        before = self._flushed_us if self._flushed_us is not None and self._flushed_us < now_us else now_us - 1
        numbers, ts, values = array("i"), array("q"), array("d")
        for series in self._series.values():
            if not series.touched:
                continue
            if series.type == b"c" and not series.reported:
                numbers.append(series.number)
                ts.append(before)
                values.append(0.0)
            numbers.append(series.number)
            ts.append(now_us)
            values.append(float(len(series.members)) if series.type == b"s" else series.value)
            series.touched, series.reported, series.idle_since = False, True, now_us
            series.members.clear()
        observed = len(self._observed)
        points = Points(
            self._table,
            np.concatenate([np.array(numbers, dtype=np.int32), np.array(self._observed, dtype=np.int32)]),
            np.concatenate([np.array(ts, dtype=np.int64), np.full(observed, now_us, dtype=np.int64)]),
            np.concatenate([np.array(values, dtype=np.float64), np.array(self._observations, dtype=np.float64)]),
        )
        self._observed, self._observations, self._members, self._flushed_us = array("i"), array("d"), 0, now_us
        self._forget_idle(now_us)
        return points

    def _line(self, line: bytes) -> None:
        """Raises _NoRoomError, RefusedValueError, ForeignTenantError, ValueError."""
        head, *sections = line.split(b"|")
        if line.startswith((b"_e{", b"_sc")) or not sections:
            raise ValueError("is no metric; write name:value|c, g, ms, h, d or s")
        name, colon, text = head.partition(b":")
        kind = sections[0]
        if kind not in _TYPES or not colon or not text:
            raise ValueError("is no metric; write name:value|c, g, ms, h, d or s")
        rate, tags = 1.0, b""
        for section in sections[1:]:
            if section.startswith(b"@"):
                rate = _number(section[1:])
            elif section.startswith(b"#"):
                tags = section[1:]
        if not 0 < rate <= 1:
            raise ValueError("has a sample rate that is not above 0 and at most 1")
        key = (name, kind, tags)
        if kind == b"s":
            self._add_member(key, text)
            return
        # Values are read before anything is changed: a line is taken whole or not at all.
        signed = [(each[:1] in (b"+", b"-"), _number(each)) for each in text.split(b":")]
        if kind == b"c":
            self._count(key, [value for _, value in signed], rate)
        elif kind == b"g":
            self._set(key, signed)
        else:
            self._observe(key, [value for _, value in signed], rate)

    def _count(self, key: _Key, values: list[float], rate: float) -> None:
        if any(value < 0 for value in values):
            raise ValueError("takes a counter down, which only rises here; send a gauge")
        series = self._of(key)
        total = series.value + sum(values) / rate
        if not math.isfinite(total):
            raise ValueError("is too large")
        series.value, series.touched = total, True

    def _set(self, key: _Key, signed: list[tuple[bool, float]]) -> None:
        series = self._of(key)
        level = series.value
        for relative, value in signed:
            level = level + value if relative else value
        if not math.isfinite(level):
            raise ValueError("is too large")
        series.value, series.touched = level, True

    def _observe(self, key: _Key, values: list[float], rate: float) -> None:
        repeats = round(1 / rate)
        if repeats > _MOST_REPEATS:
            raise ValueError(f"has a sample rate below 1/{_MOST_REPEATS}, which one observation cannot stand for")
        if len(self._observed) + len(values) * repeats > MAX_OBSERVATIONS:
            raise _NoRoomError(f"more than {MAX_OBSERVATIONS:,} observations between two flushes")
        number = self._of(key).number
        for value in values:
            self._observed.extend([number] * repeats)
            self._observations.extend([value] * repeats)

    def _add_member(self, key: _Key, member: bytes) -> None:
        series = self._of(key)
        if len(member) > _LONGEST_MEMBER:
            member = blake2b(member, digest_size=_LONGEST_MEMBER).digest()
        if member not in series.members:
            if self._members >= MAX_SET_MEMBERS:
                raise _NoRoomError(f"more than {MAX_SET_MEMBERS:,} distinct members of sets between two flushes")
            self._members += 1
            series.members.add(member)
        series.touched = True

    def _of(self, key: _Key) -> _Series:
        series = self._by_key.get(key)
        if series is not None:
            return series
        size = sum(map(len, key))
        if len(self._by_key) >= MAX_SERIES or self._key_bytes + size > _MAX_KEY_BYTES:
            raise _NoRoomError(f"more than {MAX_SERIES:,} series; which tag has a value for each request?")
        name, kind, tags = key
        full = check_name(metric_name(name.decode()))
        tenant, labels = series_labels(_tags(tags), self._scope)
        number = self._table.number(tenant, _TYPES[kind], full, labels)
        series = self._series.get((number, kind)) or _Series(number, kind, idle_since=self._flushed_us or 0)
        self._series[number, kind] = self._by_key[key] = series
        self._key_bytes += size
        return series

    def _forget_idle(self, now_us: int) -> None:
        if len(self._by_key) < MAX_SERIES // 2 and self._key_bytes < _MAX_KEY_BYTES // 2:
            return
        self._by_key = {key: series for key, series in self._by_key.items() if now_us - series.idle_since < _IDLE_US}
        self._series = {(series.number, series.type): series for series in self._by_key.values()}
        self._key_bytes = sum(sum(map(len, key)) for key in self._by_key)


def _tags(tags: bytes) -> list[tuple[str, str]]:
    """`region:eu,canary` as labels; a tag without a value is `true`, of a key that comes twice the last stands."""
    pairs: dict[str, str] = {}
    for tag in tags.decode().split(","):
        key, colon, value = tag.strip().partition(":")
        if key:
            pairs[key] = value if colon else "true"
    return list(pairs.items())


def _number(text: bytes) -> float:
    value = float(text)
    if not math.isfinite(value) or b"_" in text:
        raise ValueError("has a value that is no finite number")
    return value
