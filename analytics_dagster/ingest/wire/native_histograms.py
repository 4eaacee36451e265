"""Prometheus' native histograms, as remote write 1.x carries them: checked, and made into the classic series of one.

Count and sum are exact whatever the buckets. Buckets are expanded only where their bounds are fixed (custom buckets): those of
an exponential histogram come and go with its resolution, and a cumulative count over moving bounds is no counter.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, field
from itertools import pairwise

from analytics_dagster.ingest.points import RefusedValueError
from analytics_dagster.ingest.wire.prometheus_labels import bound_text
from analytics_dagster.ingest.wire.protobuf_fields import (
    I64,
    LEN,
    VARINT,
    double,
    expect,
    fields,
    malformed,
    read_varint,
    signed,
    zigzag,
)

CUSTOM_BUCKETS = -53
_STALE = struct.pack("<Q", 0x7FF0000000000002)
_MOST_BUCKETS = 100_000
_GAUGE_HINT = 3
_NUMBERS, _DOUBLES = frozenset({1, 4, 6, 14, 15}), frozenset({2, 3, 7})
_SPANS, _PACKED = frozenset({8, 11}), frozenset({9, 10, 12, 13, 16})


@dataclass(frozen=True)
class HistogramSample:
    """A native histogram at one time. `buckets` are cumulative counts by upper bound, `+Inf` last; none for exponential ones."""

    ts_ms: int
    count: float
    sum: float
    gauge: bool
    buckets: tuple[tuple[str, float], ...]

    @property
    def stale(self) -> bool:
        """Whether it says that the series has ended: a sum with the bits of Prometheus' staleness marker."""
        return struct.pack("<d", self.sum) == _STALE


@dataclass
class _Message:
    numbers: dict[int, int] = field(default_factory=dict)
    doubles: dict[int, float] = field(default_factory=dict)
    spans: dict[int, list[tuple[int, int]]] = field(default_factory=lambda: {8: [], 11: []})
    packed: dict[int, list[float]] = field(default_factory=lambda: {9: [], 10: [], 12: [], 13: [], 16: []})


def read_histogram(body: bytes, at: int, end: int) -> HistogramSample:
    """The `Histogram` message at `at` to `end`.

    Raises UnreadableBodyError for bytes that are none, RefusedValueError for a histogram whose parts contradict each other.
    """
    message = _read(body, at, end)
    floats = 2 in message.doubles
    count = message.doubles[2] if floats else float(message.numbers.get(1, 0))
    total = message.doubles.get(3, 0.0)
    schema = zigzag(message.numbers.get(4, 0))
    positive = _bucket_counts(message, 11, 13 if floats else 12, deltas=not floats)
    negative = _bucket_counts(message, 8, 10 if floats else 9, deltas=not floats)
    zero = message.doubles[7] if 7 in message.doubles else float(message.numbers.get(6, 0))
    if schema == CUSTOM_BUCKETS and (negative or zero):
        raise RefusedValueError("histogram", schema, "has custom buckets and also negative or zero ones")
    _check_count(count, total, [*positive, *negative, zero], floats)
    buckets = _custom_buckets(message, positive, count) if schema == CUSTOM_BUCKETS else ()
    return HistogramSample(signed(message.numbers.get(15, 0)), count, total, message.numbers.get(14) == _GAUGE_HINT, buckets)


def _read(body: bytes, at: int, end: int) -> _Message:
    message = _Message()
    for number, wire, start, stop in fields(body, at, end):
        if number in _NUMBERS:
            expect(wire, VARINT, "a histogram's count", start)
            message.numbers[number] = start
        elif number in _DOUBLES:
            expect(wire, I64, "a histogram's sum or count", start)
            message.doubles[number] = double(body, start)
        elif number in _SPANS:
            expect(wire, LEN, "a histogram's span", start)
            message.spans[number].append(_span(body, start, stop))
        elif number in _PACKED:
            _unpack(body, number, wire, start, stop, message.packed[number])
    return message


def _span(body: bytes, at: int, end: int) -> tuple[int, int]:
    offset = length = 0
    for number, wire, value, _ in fields(body, at, end):
        if number in (1, 2):
            expect(wire, VARINT, "a histogram's span", at)
        if number == 1:
            offset = zigzag(value)
        elif number == 2:
            length = value
    return offset, length


def _unpack(body: bytes, number: int, wire: int, start: int, stop: int, into: list[float]) -> None:
    """A repeated number: packed as every sender writes it, or one by one, which protobuf asks readers to take too."""
    if number in (9, 12):
        if wire == VARINT:
            into.append(zigzag(start))
            return
        expect(wire, LEN, "a histogram's bucket", start)
        while start < stop:
            value, start = read_varint(body, start, stop)
            into.append(zigzag(value))
    elif wire == I64:
        into.append(double(body, start))
    else:
        expect(wire, LEN, "a histogram's bucket", start)
        if (stop - start) % 8:
            raise malformed("a histogram's buckets are cut off", start)
        into.extend(struct.unpack_from(f"<{(stop - start) // 8}d", body, start))


def _bucket_counts(message: _Message, spans: int, values: int, *, deltas: bool) -> list[float]:
    """Each bucket's own count; those of integer histograms come as the difference from the bucket before."""
    held = message.packed[values]
    described = sum(length for _, length in message.spans[spans])
    if described != len(held) or described > _MOST_BUCKETS:
        raise RefusedValueError("histogram", len(held), f"has buckets where its spans describe {described}")
    if not deltas:
        counts = held
    else:
        counts, running = [], 0.0
        for delta in held:
            running += delta
            counts.append(running)
    if any(not each >= 0 for each in counts):
        raise RefusedValueError("histogram", min(counts), "is the count of a bucket, which cannot be negative")
    return counts


def _check_count(count: float, total: float, counts: list[float], floats: bool) -> None:
    seen = math.fsum(counts)
    # An observation of NaN is counted and is in no bucket, and makes the sum NaN (Prometheus' own check).
    wrong = seen > count if floats or math.isnan(total) else seen != count
    if wrong and not math.isclose(seen, count, rel_tol=1e-9):
        raise RefusedValueError("histogram", f"{count:.17g}", f"is its count, but its buckets hold {seen:.17g} observations")


def _custom_buckets(message: _Message, counts: list[float], count: float) -> tuple[tuple[str, float], ...]:
    bounds = message.packed[16]
    if any(not math.isfinite(bound) for bound in bounds) or any(b <= a for a, b in pairwise(bounds)):
        raise RefusedValueError("histogram", bounds[:10], "are its custom bounds, which must rise")
    by_bucket: dict[int, float] = {}
    position = taken = 0
    for offset, length in message.spans[11]:
        position += offset
        if position < 0 or position + length > len(bounds) + 1:
            raise RefusedValueError("histogram", position + length, f"buckets where it has {len(bounds)} custom bounds")
        for each in range(length):
            by_bucket[position + each] = counts[taken + each]
        position += length
        taken += length
    cumulative, rows = 0.0, []
    for number, bound in enumerate(bounds):
        cumulative += by_bucket.get(number, 0.0)
        rows.append((bound_text(bound), cumulative))
    return (*rows, ("+Inf", count))
