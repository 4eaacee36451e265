"""Points as JSON: one object, an array of them, or one on each line.

Two ways through the same rules. A body whose rows are all well-typed is decoded at once into structs and then handled by the
column. Only when that fails is each row read for itself (`json_rows`), so that the refusal names it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Hashable, Iterator, Sequence
from itertools import repeat

import msgspec
import numpy as np
import numpy.typing as npt

from analytics_dagster.ingest.points import (
    EARLIEST_US,
    Admission,
    Parsed,
    Points,
    RefusedValueError,
    RowRefusal,
    WriteScope,
)
from analytics_dagster.ingest.wire.bodies import BodyTooLargeError, UnreadableBodyError
from analytics_dagster.ingest.wire.json_rows import ROW, ROWS, SHORT_ROW, SHORT_ROWS, OwnRow, Row, own_rows, row_of
from analytics_dagster.ingest.wire.series_cache import SeriesCache, cache_of, labels_of, series_number
from analytics_dagster.ingest.wire.times import are_all_one, instants, refusal_of_time

MAX_ROWS = 500_000
"""Rows of one JSON body: each becomes some objects of Python while it is read."""

# In smaller bodies the rows are only counted when they are there: they cannot be enough to matter.
_COUNTED_FROM = 16 * 2**20

_RAW, _RAWS = msgspec.json.Decoder(msgspec.Raw), msgspec.json.Decoder(list[msgspec.Raw])
# No JSON text has this byte outside of an escape.
_BETWEEN = b"\0"

Rows = Sequence[Row]
Refused = dict[int, RefusedValueError]


def parse_json(body: bytes, admission: Admission, now_us: int) -> Parsed:
    """Points of a JSON object or an array of objects; a row without a timestamp is of `now_us`.

    Raises UnreadableBodyError for what is not JSON, BodyTooLargeError for more than MAX_ROWS rows and ForeignTenantError when a
    row names a tenant that is not the writer's. Every other mistake is a RowRefusal.
    """
    start = body.lstrip()[:1]
    if start == b"{":
        return _parse(body, admission, now_us, _one_decoders, lambda: [bytes(_RAW.decode(body))])
    if start != b"[":
        raise UnreadableBodyError(_not_json(body, "expected an object or an array of objects", len(body) - len(body.lstrip())))
    if len(body) > _COUNTED_FROM:
        _check_count(body.count(b"{"), MAX_ROWS * 2)
    return _parse(body, admission, now_us, _array_decoders, lambda: _raw_array(body))


def parse_ndjson(body: bytes, admission: Admission, now_us: int) -> Parsed:
    """Points of one JSON object a line; blank lines do not count. As `parse_json`; a line that is not JSON is a RowRefusal, but
    when no line is, the body is an UnreadableBodyError.
    """
    if not body.strip():
        raise UnreadableBodyError("the body is empty; write one JSON object a line")
    _check_count(body.count(b"\n"), MAX_ROWS)
    return _parse(body, admission, now_us, _line_decoders, lambda: _raw_lines(body))


_Decode = Callable[[bytes], Rows]


def _one_decoders(_: WriteScope) -> Iterator[_Decode]:
    yield lambda body: [ROW.decode(body)]
    yield lambda body: [SHORT_ROW.decode(body)]


def _array_decoders(scope: WriteScope) -> Iterator[_Decode]:
    if scope.default is not None:
        yield own_rows(scope.default).decode
    yield ROWS.decode
    yield SHORT_ROWS.decode


def _line_decoders(_: WriteScope) -> Iterator[_Decode]:
    yield lambda body: _lines_checked(body, ROW.decode_lines(body))
    yield lambda body: _lines_checked(body, SHORT_ROW.decode_lines(body))


def _lines_checked(body: bytes, rows: Rows) -> Rows:
    """Refuse what msgspec takes without a line between two values; without this check a row's index would not be its line's."""
    if len(rows) != body.count(b"\n") + (not body.endswith(b"\n")) and len(rows) != len(_lines(body)):
        raise msgspec.DecodeError("a line does not hold just one value")
    return rows


def _parse(
    body: bytes,
    admission: Admission,
    now_us: int,
    decoders: Callable[[WriteScope], Iterator[_Decode]],
    originals: Callable[[], Sequence[bytes]],
) -> Parsed:
    for decode in decoders(admission.scope):
        try:
            rows = decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            continue
        _check_count(len(rows), MAX_ROWS)
        points, refused = _points(rows, admission, now_us)
        if not refused:
            return Parsed(points, ())
        kept = originals()
        return _without(points, range(len(rows)), [_row_refusal(index, kept[index], why) for index, why in refused.items()])
    return _parse_carefully(_split(body, originals), admission, now_us)


def _split(body: bytes, originals: Callable[[], Sequence[bytes]]) -> Sequence[bytes]:
    try:
        return originals()
    except RecursionError:
        raise UnreadableBodyError("the body is not points: it is nested too deeply") from None
    except msgspec.DecodeError as error:
        # Not JSON, but what many writers make of a float that is none: worth a refusal that names the row.
        if (b"NaN" in body or b"Infinity" in body) and (rows := _lenient_array(body)):
            return rows
        raise UnreadableBodyError(_decode_error(body, error)) from None


def _parse_carefully(originals: Sequence[bytes], admission: Admission, now_us: int) -> Parsed:
    rows: list[Row] = []
    places: list[int] = []
    refusals: list[RowRefusal] = []
    for index, original in enumerate(originals):
        try:
            rows.append(row_of(original, admission))
            places.append(index)
        except RefusedValueError as why:
            refusals.append(_row_refusal(index, original, why))
    points, refused = _points(rows, admission, now_us)
    refusals += [_row_refusal(places[row], originals[places[row]], why) for row, why in refused.items()]
    return _without(points, places, refusals)


def _without(points: Points, places: Sequence[int], refusals: list[RowRefusal]) -> Parsed:
    """`points`, whose row i stood at `places[i]` of the body, without those that are refused."""
    refusals.sort(key=lambda refusal: refusal.index)
    bad = {refusal.index for refusal in refusals}
    good = np.array([place not in bad for place in places], dtype=bool)
    return Parsed(Points(points.table, points.series[good], points.ts[good], points.values[good]), refusals)


def _row_refusal(index: int, original: bytes, why: RefusedValueError) -> RowRefusal:
    return RowRefusal(index, why.field or None, why.value, why.reason, original)


# --- by the column


def _points(rows: Rows, admission: Admission, now_us: int) -> tuple[Points, Refused]:
    """All rows as points, and which of them are none."""
    values = np.array([row.value for row in rows], dtype=np.float64)
    ts = instants([row.timestamp for row in rows], now_us)
    series, refused = _series(rows, admission)
    for index in np.flatnonzero((ts < EARLIEST_US) | (ts > admission.latest_us)).tolist():
        if index not in refused:
            refused[index] = refusal_of_time(rows[index].timestamp, admission.latest_us)
    return Points(admission.table, series, ts, values), refused


def _series(rows: Rows, admission: Admission) -> tuple[npt.NDArray[np.int32], Refused]:
    """The number of each row's series (0 where it is refused)."""
    if not rows:
        return np.empty(0, np.int32), {}
    cache = cache_of(admission.table)
    texts = _Texts(rows, admission)
    said = texts.as_one() if cache.repeats.are_likely() else None
    if said is not None and (known := cache.repeats.find(said)) is not None:
        return known, {}
    labels = texts.labels.split(_BETWEEN)
    numbers = texts.known_numbers(labels, cache)
    refused: Refused = {}
    if None not in numbers:
        series = np.array(numbers, dtype=np.int32)
        if said is not None:
            cache.repeats.keep(said, texts.size(), series)
        return series, refused
    for index, number in enumerate(numbers):
        if number is None:
            try:
                numbers[index] = _new_number(rows[index], labels[index], admission, cache)
            except RefusedValueError as why:
                numbers[index], refused[index] = 0, why
    return np.array(numbers, dtype=np.int32), refused


class _Texts:
    """What the rows of one body say of their series. Every tenant they name is resolved here: a foreign one ends it all."""

    def __init__(self, rows: Rows, admission: Admission) -> None:
        self.labels = _BETWEEN.join([row.labels for row in rows])
        self._names = [row.name for row in rows]
        self._kinds = [row.metric_type for row in rows]
        tenants = [rows[0].tenant_id] if isinstance(rows[0], OwnRow) else [row.tenant_id for row in rows]
        # Counting costs a tenth of what looking each row up does, and most bodies are one tenant's, of one type.
        self._one_name = are_all_one(self._names)
        self._one_kind = are_all_one(self._kinds)
        self._one_tenant = are_all_one(tenants)
        resolved = {tenant: _resolved(tenant, admission) for tenant in (tenants[:1] if self._one_tenant else set(tenants))}
        self._tenant = resolved[tenants[0]]
        self._tenants = [] if self._one_tenant else [resolved[tenant] for tenant in tenants]

    def as_one(self) -> tuple[Hashable, ...] | None:
        """All of it, when it is one tenant's. There is a separator less than there are rows, so no name can hold one."""
        if not self._one_tenant:
            return None
        names = self._names[0] if self._one_name else "\0".join(self._names)
        kinds = self._kinds[0] if self._one_kind else tuple(self._kinds)
        return (self._tenant, kinds, names, self.labels)

    def size(self) -> int:
        """About the bytes of `as_one`."""
        return len(self.labels) + (0 if self._one_name else sum(map(len, self._names))) + 8 * len(self._kinds)

    def known_numbers(self, labels: list[bytes], cache: SeriesCache) -> list[int | None]:
        """Each row's number as the cache has it."""
        if self._one_tenant and self._one_kind:
            by_name = cache.names(self._tenant, _kind(self._kinds[0]))
            if self._one_name:
                return list(map(by_name[self._names[0]].get, labels))
            return list(map(dict.get, map(by_name.__getitem__, self._names), labels))
        places = list(zip(self._tenants or repeat(self._tenant), self._kinds, strict=False))
        known = {(tenant, kind): cache.names(tenant, _kind(kind)) for tenant, kind in set(places)}
        by_names = [known[place][name] for place, name in zip(places, self._names, strict=True)]
        return list(map(dict.get, by_names, labels))


def _resolved(named: str | None, admission: Admission) -> str:
    try:
        return admission.scope.resolve(named)
    except RefusedValueError:
        return ""  # nothing is ever cached there; each row's labels may still name a tenant


def _kind(given: str | None) -> str:
    return given.lower() if given else "gauge"


def _new_number(row: Row, labels: bytes, admission: Admission, cache: SeriesCache) -> int:
    kind = _kind(row.metric_type)
    resolved = _resolved(row.tenant_id, admission)
    # A series that is new to the process often has several rows in its first body.
    known = cache.names(resolved, kind)[row.name].get(labels)
    if known is not None:
        return known
    number, tenant = series_number(admission, row.tenant_id, kind, row.name, labels_of(labels))
    # Labels that send a row to another tenant than its field mean that only to a writer who may name both: not kept.
    if tenant == resolved:
        cache.keep(tenant, kind, row.name, labels, number)
    return number


# --- a body into its rows


def _raw_array(body: bytes) -> list[bytes]:
    # Before each of very many elements that are no points becomes an object: rows have about as many keys as commas.
    _check_count(body.count(b",") - body.count(b'":'), MAX_ROWS * 4)
    rows = _RAWS.decode(body)
    _check_count(len(rows), MAX_ROWS)
    return [bytes(row) for row in rows]


def _raw_lines(body: bytes) -> list[bytes]:
    lines = _lines(body)
    for line in lines:
        try:
            _RAW.decode(line)
            return lines
        except (msgspec.DecodeError, RecursionError):
            continue
    raise UnreadableBodyError("the body is not NDJSON: no line of it is JSON")


def _lines(body: bytes) -> list[bytes]:
    return [line for raw in body.split(b"\n") if (line := raw.strip())]


def _lenient_array(body: bytes) -> list[bytes]:
    """The rows of an array in which NaN or Infinity stand for numbers; none when it is not one."""
    decoder = json.JSONDecoder()
    try:
        text = body.decode().strip()
        if text[:1] == "{":
            decoder.decode(text)
            return [text.encode()]
        json.loads(text)
    except (ValueError, RecursionError):
        return []
    rows: list[bytes] = []
    between = re.compile(r"[\s,\]]*")
    at = 1 + len(text[1:]) - len(text[1:].lstrip())
    while at < len(text) - 1:
        _, end = decoder.raw_decode(text, at)
        rows.append(text[at:end].encode())
        at = between.match(text, end).end()  # type: ignore[union-attr]  # it matches nothing as well
    return rows


def _check_count(count: int, most: int) -> None:
    if count > most:
        raise BodyTooLargeError(MAX_ROWS, "rows")


def _decode_error(body: bytes, error: msgspec.DecodeError) -> str:
    found = re.fullmatch(r"JSON is malformed: (.*) \(byte (\d+)\)", str(error))
    if found is None:
        return f"the body is not JSON: it ends in the middle, after {len(body):,} bytes"
    return _not_json(body, found[1], int(found[2]))


def _not_json(body: bytes, what: str, at: int) -> str:
    if not body.strip():
        return "the body is empty; write a JSON object or an array of them"
    line, before = body.count(b"\n", 0, at) + 1, body.rfind(b"\n", 0, at)
    return f"the body is not JSON: {what} at byte {at} (line {line}, column {at - before})"
