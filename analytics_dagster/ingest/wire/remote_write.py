"""Prometheus remote write 1.0: a `prometheus.WriteRequest` to points.

A sender repeats the labels of its series in every request, so the bytes of a label section are looked up and not read: one slice
and one dictionary access a series. Samples have one shape as long as times are between 2004 and 2109 and are decoded together.
Whatever has another shape is read field by field, with the same result.
"""

from __future__ import annotations

import json
import struct
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from analytics_dagster.ingest.points import (
    EARLIEST_US,
    Admission,
    MetricType,
    Parsed,
    Points,
    RefusedValueError,
    RowRefusal,
    check_name,
    check_time,
)
from analytics_dagster.ingest.wire.metric_families import FamiliesOfWriters, MetricFamilies
from analytics_dagster.ingest.wire.native_histograms import read_histogram
from analytics_dagster.ingest.wire.per_writer import PerWriter
from analytics_dagster.ingest.wire.prometheus_labels import series_labels
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
    text,
)
from analytics_dagster.ingest.wire.refusals import check_refused, note

NAME_LABEL = "__name__"

# A whole TimeSeries is never this short: `__name__` with one letter alone is 15 bytes, and one sample 18.
_SHORTEST_KNOWN = 33
_EARLIEST_MS = EARLIEST_US // 1_000
_REFUSED = -1

# `12 10 09 <double> 10 <varint of 6 bytes>`: a sample with its value and a time in milliseconds. `12 07 10 <varint>`: value 0,
# which protobuf leaves out. The last eight bytes of both are read as one number, checked and decoded by the same masks.
_SERIES_TAG, _LABEL_TAG, _SAMPLE_TAG, _SAMPLE_HEAD, _VALUE_TAG = 0x0A, 0x0A, 0x12, 0x1012, 0x09
_SAMPLE, _ZERO_SAMPLE = 18, 9
_LAYOUT = np.dtype(
    {
        "names": ["head", "tag", "value", "end"],
        "formats": ["<u2", "u1", "<f8", "<u8"],
        "offsets": [0, 2, 3, 10],
        "itemsize": _SAMPLE,
    }
)
_ZERO_LAYOUT = np.dtype({"names": ["head", "end"], "formats": ["u1", "<u8"], "offsets": [0, 1], "itemsize": _ZERO_SAMPLE})
_END_MASK, _END = np.uint64(0x80_80_80_80_80_80_FF_00), np.uint64(0x00_80_80_80_80_80_10_00)


@dataclass(frozen=True)
class RemoteWritten:
    """The points of one request. `ignored` samples were no figures and no errors: NaN, infinities and staleness markers."""

    parsed: Parsed
    ignored: int
    histograms: int = 0
    """Native histograms among them; each made a point for its count, its sum and each of its custom buckets."""


@dataclass
class _Known:
    """What is remembered of one writer's series. `changes` is what `families` had learned before the first of `numbers`."""

    families: MetricFamilies
    numbers: dict[bytes, int] = field(default_factory=dict)
    changes: int = 0

    def keep_up(self) -> None:
        """Forget numbers whose type may be another one by what was learned since, by whichever reader."""
        changes = self.families.changes
        if changes != self.changes:
            self.numbers.clear()
            self.changes = changes


@dataclass
class _Odd:
    """Samples that were read by hand, in arrays: there may be as many as fit into a body at a few bytes each."""

    rows: array[int] = field(default_factory=lambda: array("q"))
    ts_ms: array[int] = field(default_factory=lambda: array("q"))
    values: array[float] = field(default_factory=lambda: array("d"))


@dataclass
class _Rows:
    """Samples in the order of the body.

    `ends` says where a sample of the usual shape ends, negative for one without a value; 0 for one that was read by hand and
    whose time and value are in `odd`. `numbers` is -1 for a sample that was refused.
    """

    numbers: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    odd: _Odd = field(default_factory=_Odd)
    refused: list[RowRefusal] = field(default_factory=list)
    histograms: int = 0

    def add_odd(self, number: int, ts_ms: int, value: float) -> None:
        self.odd.rows.append(len(self.numbers))
        self.odd.ts_ms.append(ts_ms)
        self.odd.values.append(value)
        self.numbers.append(number)
        self.ends.append(0)


@dataclass
class _Contents:
    """What stands behind the labels of a series: more labels, times and values of samples, where native histograms stand."""

    labels: list[tuple[str, str]] = field(default_factory=list)
    ts_ms: array[int] = field(default_factory=lambda: array("q"))
    values: array[float] = field(default_factory=lambda: array("d"))
    histograms: list[tuple[int, int]] = field(default_factory=list)


class RemoteWriteReader:
    """Reads the requests of one process' senders and remembers their series. For one thread at a time.

    Readers of several threads share `families`.
    """

    def __init__(self, families: FamiliesOfWriters | None = None) -> None:
        shared = families or FamiliesOfWriters()
        self._writers: PerWriter[_Known] = PerWriter(lambda scope: _Known(shared.of(scope)), lambda known: known.numbers.clear())

    def read(self, body: bytes, admission: Admission) -> RemoteWritten:
        """Points of an uncompressed WriteRequest.

        One refusal stands for a series with all its samples, or for one sample whose time cannot be taken. Raises
        UnreadableBodyError for bytes that are no WriteRequest, or of which too much is refused, and ForeignTenantError when a
        series names a tenant of others.
        """
        known = self._writers.of(admission)
        known.keep_up()
        rows = self._rows(body, admission, known, by_hand=False)
        try:
            return _decoded(body, rows, admission)
        except _UnusualShapeError:
            return _decoded(body, self._rows(body, admission, known, by_hand=True), admission)

    def _rows(self, body: bytes, admission: Admission, known: _Known, *, by_hand: bool) -> _Rows:
        reading = _Reading(body, admission, known, by_hand)
        if reading.run():
            # Metadata that says something new stands behind the samples that it is about, so these are read again.
            known.keep_up()
            reading = _Reading(body, admission, known, by_hand)
            reading.run()
        self._writers.charge(*reading.remembered)
        return reading.rows


class _UnusualShapeError(Exception):
    """Samples were taken for ones of the usual shape and are not."""


class _Reading:
    """One walk over one body, series by series."""

    def __init__(self, body: bytes, admission: Admission, known: _Known, by_hand: bool) -> None:
        self._body = body
        self._admission = admission
        self._known = known
        self._by_hand = by_hand
        self.rows = _Rows()
        self.remembered = (0, 0)

    def run(self) -> bool:
        """Read the body into `rows`; whether its metadata said something new."""
        size, at, learned = len(self._body), 0, False
        while True:
            if not self._by_hand:
                at = self._known_series(at)
            if at >= size:
                return learned
            number, wire, start, at = next(fields(self._body, at, size))
            if number == 1:
                expect(wire, LEN, "a time series", start)
                self._series(start, at)
            elif number == 3:
                expect(wire, LEN, "metadata", start)
                learned |= self._known.families.learn(self._body, start, at)

    def _known_series(self, at: int) -> int:
        """Take series of one sample whose labels are known, from `at` on; where something else begins.

        A series is known by the bytes before its last sample. Whether that was a sample, _decoded checks for all of them.
        """
        body, size = self._body, len(self._body)
        find, add_number, add_end = self._known.numbers.get, self.rows.numbers.append, self.rows.ends.append
        try:
            while at < size:
                if body[at] != _SERIES_TAG:
                    return at
                length, start = body[at + 1], at + 2
                if length >= 128:
                    high = body[start]
                    if high >= 128:
                        return at
                    length, start = length + (high << 7) - 128, at + 3
                elif length < _SHORTEST_KNOWN:
                    return at
                end = start + length
                if body[end - _SAMPLE] == _SAMPLE_TAG:
                    number, shape = find(body[start : end - _SAMPLE]), end
                else:
                    number, shape = find(body[start : end - _ZERO_SAMPLE]), -end
                if number is None or end > size:
                    return at
                add_number(number)
                add_end(shape)
                at = end
        except IndexError:
            pass  # cut off; whoever reads on by hand says where
        return at

    def _series(self, start: int, stop: int) -> None:
        """A series that is not known, or has not exactly one sample."""
        body, rows = self._body, self.rows
        behind = self._end_of_labels(start, stop)
        ends = () if self._by_hand else _usual_samples(body, behind, stop)
        contents = _Contents() if ends else self._contents(behind, stop)
        try:
            number = self._number(start, behind, contents.labels)
        except RefusedValueError as error:
            number = _REFUSED
            note(rows.refused, RowRefusal(len(rows.numbers), error.field, error.value, error.reason, body[start:stop]))
        rows.numbers.extend([number] * len(ends))
        rows.ends.extend(ends)
        for ts_ms, value in zip(contents.ts_ms, contents.values, strict=True):
            rows.add_odd(number, ts_ms, value)
        for at, end in contents.histograms:
            self._histogram(number, at, end)

    def _end_of_labels(self, at: int, stop: int) -> int:
        """Where the labels that begin a series end."""
        body = self._body
        while at < stop and body[at] == _LABEL_TAG:
            size = body[at + 1] if at + 1 < stop else 0x80
            if size < 0x80:
                at += size + 2
            else:
                size, at = read_varint(body, at + 1, stop)
                at += size
        if at > stop:
            raise malformed("a label is cut off", at)
        return at

    def _contents(self, behind: int, stop: int) -> _Contents:
        contents = _Contents()
        for number, wire, at, end in fields(self._body, behind, stop):
            if number not in (1, 2, 4):
                continue
            expect(wire, LEN, "a label, sample or histogram", at)
            if number == 1:
                contents.labels.append(self._label(at, end))
            elif number == 2:
                ts_ms, value = self._sample(at, end)
                contents.ts_ms.append(ts_ms)
                contents.values.append(value)
            else:
                contents.histograms.append((at, end))
        return contents

    def _labels(self, at: int, stop: int) -> list[tuple[str, str]]:
        """The pairs of a label section: as all senders write them (name, value, both short) at once, others field by field."""
        body, pairs = self._body, []
        try:
            while at < stop:
                name = at + 4
                behind_name = name + body[at + 3]
                value = behind_name + 2
                end = value + body[behind_name + 1]
                usual = body[at + 2] == 0x0A and body[behind_name] == 0x12 and end == at + 2 + body[at + 1]
                if not usual or end - at > 0x7F or end > stop:
                    break
                pairs.append((body[name:behind_name].decode(), body[value:end].decode()))
                at = end
        except (IndexError, UnicodeDecodeError):
            pass  # field by field, which names what is wrong
        pairs += [self._label(start, end) for _, _, start, end in fields(body, at, stop)]
        return pairs

    def _label(self, at: int, stop: int) -> tuple[str, str]:
        name = value = ""
        for number, wire, start, end in fields(self._body, at, stop):
            if number in (1, 2):
                expect(wire, LEN, "a label", start)
            if number == 1:
                name = text(self._body, start, end, "a label's name")
            elif number == 2:
                value = text(self._body, start, end, "a label's value")
        return name, value

    def _sample(self, at: int, stop: int) -> tuple[int, float]:
        ts_ms, value = 0, 0.0
        for number, wire, start, _ in fields(self._body, at, stop):
            if number == 1:
                expect(wire, I64, "a sample's value", start)
                value = double(self._body, start)
            elif number == 2:
                expect(wire, VARINT, "a sample's time", at)
                ts_ms = signed(start)
        return ts_ms, value

    def _number(self, start: int, behind: int, late: list[tuple[str, str]]) -> int:
        """The number of a series by its labels. Raises RefusedValueError for labels that cannot be taken."""
        section = self._body[start:behind]
        number = None if late else self._known.numbers.get(section)
        if number is None:
            number = self._new_number([*self._labels(start, behind), *late])
            if not late:
                self._known.numbers[section] = number
                self.remembered = (self.remembered[0] + 1, self.remembered[1] + len(section))
        return number

    def _new_number(self, pairs: list[tuple[str, str]]) -> int:
        labels = dict(pairs)
        if len(labels) < len(pairs):
            twice = next(name for name, _ in pairs if sum(name == other for other, _ in pairs) > 1)
            raise RefusedValueError("labels", twice, "is there twice in one series")
        for name, value in pairs:
            if not name or not value:
                raise RefusedValueError("labels", f"{name}={value}", "has no name or no value; a label needs both")
        if NAME_LABEL not in labels:
            raise RefusedValueError(NAME_LABEL, "", "is missing; every series needs a metric name")
        name = check_name(labels.pop(NAME_LABEL))
        tenant, canonical = series_labels(labels.items(), self._admission.scope)
        return self._admission.table.number(tenant, self._known.families.type_of(name), name, canonical)

    def _histogram(self, number: int, at: int, stop: int) -> None:
        """A native histogram as the series of a classic one."""
        rows, table = self.rows, self._admission.table
        try:
            sample = read_histogram(self._body, at, stop)
        except RefusedValueError as error:
            note(rows.refused, RowRefusal(len(rows.numbers), error.field, error.value, error.reason, self._body[at:stop]))
            number = _REFUSED
        if number == _REFUSED:
            rows.add_odd(_REFUSED, 0, 0.0)
            return
        if sample.stale:
            rows.add_odd(number, sample.ts_ms, sample.sum)
            return
        tenant, name, labels = table.tenants[number], table.names[number], table.labels[number]
        kind = MetricType.GAUGE if sample.gauge else MetricType.COUNTER
        rows.histograms += 1
        rows.add_odd(table.number(tenant, kind, f"{name}_count", labels), sample.ts_ms, sample.count)
        rows.add_odd(table.number(tenant, kind, f"{name}_sum", labels), sample.ts_ms, sample.sum)
        for bound, count in sample.buckets:
            bucket = json.dumps(
                dict(sorted({**json.loads(labels), "le": bound}.items())), separators=(",", ":"), ensure_ascii=False
            )
            rows.add_odd(table.number(tenant, kind, f"{name}_bucket", bucket), sample.ts_ms, count)


def _usual_samples(body: bytes, at: int, stop: int) -> Sequence[int]:
    """Where the samples from `at` to `stop` end, as _Rows has it; nothing when anything is not of the usual shapes."""
    count, rest = divmod(stop - at, _SAMPLE)
    if not rest and body[at:stop:_SAMPLE].count(_SAMPLE_TAG) == body[at + 1 : stop : _SAMPLE].count(_SAMPLE - 2) == count:
        return range(at + _SAMPLE, stop + 1, _SAMPLE)
    ends = []
    while at + _ZERO_SAMPLE <= stop and body[at] == _SAMPLE_TAG:
        if body[at + 1] == _SAMPLE - 2:
            at += _SAMPLE
            ends.append(at)
        elif body[at + 1] == _ZERO_SAMPLE - 2:
            at += _ZERO_SAMPLE
            ends.append(-at)
        else:
            return ()
    return ends if at == stop else ()


def _decoded(body: bytes, rows: _Rows, admission: Admission) -> RemoteWritten:
    """The samples of a walk in columns. Raises _UnusualShapeError."""
    # struct packs a list of integers in less than half the time that numpy needs to look at each.
    count = len(rows.numbers)
    numbers = np.frombuffer(struct.pack(f"={count}i", *rows.numbers), dtype=np.int32)
    ts_ms, values = _usual(body, np.frombuffer(struct.pack(f"={count}q", *rows.ends), dtype=np.int64))
    ts_ms[rows.odd.rows], values[rows.odd.rows] = rows.odd.ts_ms, rows.odd.values
    keep = np.isfinite(values)
    if rows.refused:
        ignored = int(np.count_nonzero(~keep & (numbers != _REFUSED)))
        keep &= numbers != _REFUSED
    else:
        ignored = len(keep) - int(np.count_nonzero(keep))
    refused = rows.refused
    timely = (ts_ms >= _EARLIEST_MS) & (ts_ms <= admission.latest_us // 1_000)
    if not timely.all():
        late = np.flatnonzero(keep & ~timely)
        check_refused(len(refused) + len(late))
        refused = sorted([*refused, *_untimely(late, numbers, ts_ms, values, admission)], key=lambda refusal: refusal.index)
        keep &= timely
    if not keep.all():
        numbers, ts_ms, values = numbers[keep], ts_ms[keep], values[keep]
    return RemoteWritten(Parsed(Points(admission.table, numbers, ts_ms * 1_000, values), refused), ignored, rows.histograms)


def _usual(body: bytes, ends: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Times in milliseconds and values of the samples of the usual shape; zeros for the rows without an end."""
    ts_ms, values = np.zeros(len(ends), dtype=np.int64), np.zeros(len(ends), dtype=np.float64)
    for layout, chosen in ((_LAYOUT, ends > 0), (_ZERO_LAYOUT, ends < 0)):
        if not chosen.any():
            continue
        size = layout.itemsize
        windows = np.ndarray((len(body) - size + 1,), dtype=layout, buffer=body, strides=(1,))
        found = windows[np.abs(ends[chosen]) - size]
        if layout is _LAYOUT:
            shaped = (found["head"] == _SAMPLE_HEAD) & (found["tag"] == _VALUE_TAG)
            values[chosen] = found["value"]
        else:
            shaped = (found["head"] == _SAMPLE_TAG) & ((found["end"] & 0xFF) == _ZERO_SAMPLE - 2)
        if not (shaped & ((found["end"] & _END_MASK) == _END)).all():
            raise _UnusualShapeError
        ts_ms[chosen] = _six_byte_varints(found["end"] >> 16)
    return ts_ms, values


def _six_byte_varints(raw: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Seven bits from each of six bytes: first pairs of bytes put together, then the three pairs."""
    pairs = (raw & 0x007F_007F_007F) | ((raw & 0x7F00_7F00_7F00) >> 1)
    joined = (pairs & 0x3FFF) | ((pairs >> 2) & (0x3FFF << 14)) | ((pairs >> 4) & (0x3FFF << 28))
    return joined.astype(np.int64)


def _untimely(
    at: npt.NDArray[np.int64],
    numbers: npt.NDArray[np.int32],
    ts_ms: npt.NDArray[np.int64],
    values: npt.NDArray[np.float64],
    admission: Admission,
) -> Iterator[RowRefusal]:
    """A refusal for each sample whose time cannot be taken, with the sample as Prometheus' text format has it."""
    table = admission.table
    for row in at.tolist():
        try:
            check_time(int(ts_ms[row]) * 1_000, admission.latest_us)
        except RefusedValueError as error:
            number = int(numbers[row])
            original = f"{table.names[number]}{table.labels[number]} {float(values[row])!r} {ts_ms[row]}"
            yield RowRefusal(row, error.field, error.value, error.reason, original.encode())
