"""InfluxDB line protocol, as versions 1 and 2 take it, to points: one for each field that is a figure, named `measurement_field`.

The measurement and tags of a line are looked up by their bytes and not read again. Lines with quotes or backslashes go through
one regular expression, the others through splitting; both give the same points.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from analytics_dagster.errors import UserError
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
from analytics_dagster.ingest.wire.per_writer import PerWriter
from analytics_dagster.ingest.wire.prometheus_labels import metric_name, series_labels
from analytics_dagster.ingest.wire.refusals import check_refused, note

# Names of a line's unit of time, as both versions write them, in nanoseconds.
_PRECISIONS = {
    "ns": 1,
    "n": 1,
    "us": 1_000,
    "u": 1_000,
    "µ": 1_000,
    "μ": 1_000,
    "ms": 1_000_000,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3_600 * 10**9,
}
_TRUTHS = {
    **dict.fromkeys((b"t", b"T", b"true", b"True", b"TRUE"), 1.0),
    **dict.fromkeys((b"f", b"F", b"false", b"False", b"FALSE"), 0.0),
}
_INT64, _UINT64 = (-(2**63), 2**63 - 1), (0, 2**64 - 1)
# A field of this name adds nothing to the measurement's.
_PLAIN_FIELD = "value"

_NO_VALUE = 'is not a value; write 1.5, 3i, 3u, t, f or "text"'


def _part(*ends: str) -> str:
    """At least one character up to one of `ends` that no backslash stands before. Runs of plain ones are taken at once."""
    stop = "".join(ends)
    return rf"(?=[^{stop}\n])[^\\{stop}\n]*+(?:\\[^\n]?[^\\{stop}\n]*+)*+"


_TEXT_OR_WORD = r'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[^",\s]++'
_FIELD = f"{_part('=', ',', ' ')}=(?:{_TEXT_OR_WORD})"
_LINE = re.compile(
    rf"[ \t\r]*+({_part(' ')}) +({_FIELD}(?:,{_FIELD})*+)(?: +(-?[0-9]{{1,20}}))?[ \t\r]*+(?=\n|\Z)".encode(), re.DOTALL
)
_FIELD_PARTS = re.compile(rf"({_part('=', ',', ' ')})=({_TEXT_OR_WORD})".encode(), re.DOTALL)
_BY_COMMA = re.compile(_part(",").encode(), re.DOTALL)
_TAG = re.compile(rf"({_part('=')})=(.++)".encode(), re.DOTALL)
_ESCAPED = re.compile(rb"\\([, =])")
_NUMBER = re.compile(rb"[-+]?(?:[0-9]++(?:\.[0-9]*+)?|\.[0-9]++)(?:[eE][-+]?[0-9]++)?")
_FORM = "is not `measurement,tag=value field=1.5 1700000000000000000`: a measurement, fields, and a whole number for the time"


@dataclass(frozen=True)
class InfluxWritten:
    """The points of one body. `ignored` fields were texts, which are no figures; one refusal stands for a line."""

    parsed: Parsed
    ignored: int


@dataclass
class _Rows:
    """Points line by line: `lengths[i]` of them came from the line whose time is `times[i]` (None: when it arrived)."""

    numbers: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    times: list[int | None] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    refused: list[RowRefusal] = field(default_factory=list)
    ignored: int = 0


@dataclass
class _Head:
    """A measurement and its tags, and the numbers of its series by field."""

    measurement: str
    tenant: str
    labels: str
    numbers: dict[bytes, int] = field(default_factory=dict)


class InfluxReader:
    """Reads the bodies of one process' clients and remembers their series. For one thread at a time."""

    def __init__(self) -> None:
        self._writers: PerWriter[dict[bytes, _Head]] = PerWriter(lambda _: {}, dict.clear)

    def read(self, body: bytes, precision: str | None, admission: Admission, now_us: int) -> InfluxWritten:
        """Points of a body of lines, whose times are in `precision` (ns when it is none); a line without a time is of `now_us`.

        A line of which anything is wrong is refused whole; its index counts lines from 0. Raises UserError for a precision that
        is not known, UnreadableBodyError when too many lines are refused, ForeignTenantError when a tag names a tenant of others.
        """
        unit = _PRECISIONS.get(precision or "ns")
        if unit is None:
            raise UserError(f"precision {precision!r} is not known; one of ns, us, ms, s, m, h")
        reading = _Reading(body, admission, self._writers.of(admission))
        reading.run()
        self._writers.charge(*reading.remembered)
        return _decoded(reading.rows, unit, admission, now_us)


class _Reading:
    """One walk over one body, line by line."""

    def __init__(self, body: bytes, admission: Admission, known: dict[bytes, _Head]) -> None:
        self._body = body
        self._admission = admission
        self._known = known
        self.rows = _Rows()
        self.remembered = (0, 0)

    def run(self) -> None:
        rows = self.rows
        for index, (line, careful) in enumerate(_lines(self._body)):
            if not line:
                continue
            before = len(rows.numbers)
            try:
                time = self._careful(line) if careful else self._plain(line)
            except RefusedValueError as error:
                del rows.numbers[before:], rows.values[before:]
                note(rows.refused, RowRefusal(index, error.field, error.value, error.reason, line))
                continue
            if added := len(rows.numbers) - before:
                rows.lines.append(index)
                rows.times.append(time)
                rows.lengths.append(added)

    def _plain(self, line: bytes) -> int | None:
        """A line without quotes, backslashes and other white space than spaces. Its time."""
        parts = line.split(b" ")
        count = len(parts)
        if not (count == 2 or (count == 3 and parts[2].isdigit() and len(parts[2]) < 20)) or line[:1] == b"#":
            return self._careful(line)
        head = self._known.get(parts[0]) or self._head(parts[0])
        find = head.numbers.get
        add_number, add_value = self.rows.numbers.append, self.rows.values.append
        for pair in parts[1].split(b","):
            name, _, text = pair.partition(b"=")
            number = find(name)
            if number is None:
                number = self._number(head, name)
            try:
                # What float() takes and this protocol does not goes the long way: 1_000, inf, nan.
                add_value(float(text) if text[-1:].isdigit() and b"_" not in text else _value(name, text))
            except ValueError:
                raise RefusedValueError(_shown(name), _shown(text), _NO_VALUE) from None
            add_number(number)
        return int(parts[2]) if count == 3 else None

    def _careful(self, line: bytes) -> int | None:
        text = line.strip(b" \t\r")
        if not text or text.startswith(b"#"):
            return None
        match = _LINE.fullmatch(line)
        if match is None:
            raise RefusedValueError("line", _shown(text), _FORM)
        head = self._known.get(match[1]) or self._head(match[1])
        for name, value in _FIELD_PARTS.findall(match[2]):
            if value.startswith(b'"'):
                self.rows.ignored += 1
                continue
            figure = _value(name, value)
            number = head.numbers.get(name)
            self.rows.numbers.append(self._number(head, name) if number is None else number)
            self.rows.values.append(figure)
        return int(match[3]) if match[3] else None

    def _head(self, raw: bytes) -> _Head:
        """A measurement and tags that are not known yet. Raises RefusedValueError."""
        parts = _BY_COMMA.findall(raw)
        if raw[:1] == b"," or sum(map(len, parts)) + len(parts) - 1 != len(raw):
            raise RefusedValueError("tags", _shown(raw), "is no measurement with tags; write measurement,tag=value,tag=value")
        pairs: dict[str, str] = {}
        for tag in parts[1:]:
            match = _TAG.fullmatch(tag)
            if match is None:
                raise RefusedValueError("tags", _shown(tag), "is not a tag; write tag=value")
            key = _unescaped(match[1])
            if key in pairs:
                raise RefusedValueError("tags", key, "is there twice in one line")
            pairs[key] = _unescaped(match[2])
        tenant, labels = series_labels(pairs.items(), self._admission.scope)
        head = self._known[raw] = _Head(_unescaped(parts[0]), tenant, labels)
        self._remember(raw)
        return head

    def _number(self, head: _Head, raw: bytes) -> int:
        """The number of the series of one field, remembered. Raises RefusedValueError."""
        suffix = _unescaped(raw)
        if not suffix:
            raise RefusedValueError("field", "", "is empty; every field needs a name")
        name = check_name(metric_name(head.measurement if suffix == _PLAIN_FIELD else f"{head.measurement}_{suffix}"))
        number = head.numbers[raw] = self._admission.table.number(head.tenant, MetricType.GAUGE, name, head.labels)
        self._remember(raw)
        return number

    def _remember(self, key: bytes) -> None:
        self.remembered = (self.remembered[0] + 1, self.remembered[1] + len(key))


def _lines(body: bytes) -> Iterator[tuple[bytes, bool]]:
    """The lines of a body, each with whether it needs care; a line break within quotes ends no line."""
    white = any(space in body for space in (b"\t", b"\v", b"\f"))
    if b'"' not in body:
        careful = white or b"\\" in body
        for line in body.split(b"\n"):
            yield line, careful and (white or b"\\" in line)
        return
    at, size = 0, len(body)
    while at < size:
        end = body.find(b"\n", at)
        end = size if end < 0 else end
        quoted = body.find(b'"', at, end) >= 0
        if quoted and (match := _LINE.match(body, at)) and not body.startswith(b"#", at):
            end = match.end()
        line = body[at:end]
        yield line, quoted or white or b"\\" in line
        at = end + 1


def _value(name: bytes, text: bytes) -> float:
    """A figure that is not only digits. Raises RefusedValueError."""
    mark, digits = text[-1:], text[:-1]
    truth = _TRUTHS.get(text)
    if truth is not None:
        return truth
    if mark in (b"i", b"u") and digits.removeprefix(b"-").isdigit() and len(digits) < 22:
        whole = int(digits)
        least, most = _INT64 if mark == b"i" else _UINT64
        if least <= whole <= most:
            return float(whole)
        raise RefusedValueError(_shown(name), _shown(text), "does not fit in 64 bits")
    if _NUMBER.fullmatch(text):
        return float(text)
    raise RefusedValueError(_shown(name), _shown(text), _NO_VALUE)


def _unescaped(escaped: bytes) -> str:
    """A name or tag as text, with `\\,`, `\\=` and `\\ ` resolved. Raises RefusedValueError."""
    try:
        return (_ESCAPED.sub(rb"\1", escaped) if b"\\" in escaped else escaped).decode()
    except UnicodeDecodeError:
        raise RefusedValueError("line", _shown(escaped), "is not UTF-8") from None


def _shown(raw: bytes) -> str:
    return raw[:200].decode(errors="replace")


def _decoded(rows: _Rows, unit: int, admission: Admission, now_us: int) -> InfluxWritten:
    """The points of a walk in columns, without those whose time or value cannot be taken."""
    first, latest = EARLIEST_US * 1_000 // unit, admission.latest_us * 1_000 // unit
    times = [now_us if time is None else _micros(time, unit) if first <= time <= latest else None for time in rows.times]
    table = admission.table
    numbers, values = np.array(rows.numbers, dtype=np.int32), np.array(rows.values, dtype=np.float64)
    lengths = np.array(rows.lengths, dtype=np.int64)
    ends = np.cumsum(lengths)
    bad_lines = {line for line, time in enumerate(times) if time is None}
    refused = rows.refused
    if not np.isfinite(values).all():
        bad_lines |= set(np.searchsorted(ends, np.flatnonzero(~np.isfinite(values)), side="right").tolist())
    ts = np.repeat(np.array([0 if time is None else time for time in times], dtype=np.int64), lengths)
    check_refused(len(refused) + len(bad_lines))
    if bad_lines:
        bad = np.zeros(len(lengths), dtype=bool)
        bad[sorted(bad_lines)] = True
        more = [_refusal(rows, line, unit, admission) for line in sorted(bad_lines)]
        refused = sorted([*refused, *more], key=lambda refusal: refusal.index)
        keep = ~np.repeat(bad, lengths)
        numbers, values, ts = numbers[keep], values[keep], ts[keep]
    return InfluxWritten(Parsed(Points(table, numbers, ts, values), refused), rows.ignored)


def _micros(time: int, unit: int) -> int:
    return time * unit // 1_000


def _refusal(rows: _Rows, line: int, unit: int, admission: Admission) -> RowRefusal:
    """Why a line that could be read is refused all the same: its time, or a figure that is too large for a float."""
    time, index = rows.times[line], rows.lines[line]
    try:
        if time is not None:
            check_time(_micros(time, unit), admission.latest_us)
    except RefusedValueError as error:
        return RowRefusal(index, error.field, error.value, error.reason)
    return RowRefusal(index, "value", "inf", "is too large; a value must fit in a 64-bit float")
