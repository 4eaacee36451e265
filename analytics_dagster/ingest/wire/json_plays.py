"""Plays as JSON objects that others write: PLAYS' own columns, or a listen as ListenBrainz has it.

The same play gets the same id as from a file of the same rows (`sources/formats`), so what was imported and what arrives are one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import pyarrow as pa

from analytics_dagster.ingest.play_ids import ONLY_LISTENER, artist_id, event_id, track_id
from analytics_dagster.ingest.points import PLAY_ROWS, Admission, Plays, RefusedValueError, RowRefusal, check_time
from analytics_dagster.ingest.wire.bodies import UnreadableBodyError
from analytics_dagster.ingest.wire.listenbrainz import ListenMetadata, play_row, text_or_none
from analytics_dagster.ingest.wire.times import instant_us
from analytics_dagster.lake.schemas import PLAYS, Column

_TENANT = "tenant_id"
_COLUMNS = tuple(column for column in PLAYS.columns if column.name != "format")
_NAMES = frozenset(column.name for column in _COLUMNS)
_INT64_MAX = 2**63 - 1


@dataclass(frozen=True)
class ParsedPlays:
    """The plays that are good, and the rows that are none."""

    plays: Plays
    refused: Sequence[RowRefusal]


def parse_plays(body: bytes, admission: Admission) -> ParsedPlays:
    """Plays of one JSON object or an array of them. Raises UnreadableBodyError, ForeignTenantError."""
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UnreadableBodyError(f"is not JSON: {error}") from None
    documents = found if isinstance(found, list) else [found]
    rows, refused = [], []
    for index, document in enumerate(documents):
        try:
            rows.append(_row(document, admission))
        except RefusedValueError as why:
            refused.append(RowRefusal(index, why.field, why.value, why.reason, msgspec.json.encode(document)))
    return ParsedPlays(Plays(play_rows(rows)), refused)


def play_rows(rows: Sequence[tuple[object, ...]]) -> pa.Table:
    """Rows of (tenant, PLAYS' columns) in PLAY_ROWS' columns."""
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(PLAY_ROWS)
    tenant = pa.array(columns[0], pa.string()).dictionary_encode().cast(PLAY_ROWS.types[0])
    others = (pa.array(column, kind) for column, kind in zip(columns[1:], PLAY_ROWS.types[1:], strict=True))
    return pa.Table.from_arrays([tenant, *others], schema=PLAY_ROWS)


def _row(document: object, admission: Admission) -> tuple[object, ...]:
    if not isinstance(document, dict):
        raise RefusedValueError("play", document, "is not a JSON object")
    named = document.get(_TENANT)
    if named is not None and not isinstance(named, str):
        raise RefusedValueError(_TENANT, named, "is not text")
    tenant = admission.scope.resolve(named)
    if "track_metadata" in document:
        return tenant, *_listen(document, admission.latest_us)
    return tenant, *_own_columns(document, admission.latest_us)


def _listen(document: dict[str, Any], latest_us: int) -> tuple[object, ...]:
    time = "listened_at" if document.get("listened_at") is not None else "timestamp"
    if document.get(time) is None:
        raise RefusedValueError("listened_at", "", "is missing")
    try:
        metadata = msgspec.convert(document["track_metadata"], ListenMetadata)
    except msgspec.ValidationError as error:
        raise RefusedValueError("track_metadata", document["track_metadata"], f"is not as ListenBrainz has it: {error}") from None
    listener = text_or_none(document.get("user_name")) or ONLY_LISTENER
    return play_row(metadata, listener, check_time(_instant(time, document[time]), latest_us))


def _own_columns(document: dict[str, Any], latest_us: int) -> tuple[object, ...]:
    unknown = sorted(document.keys() - _NAMES - {_TENANT, "format"})
    if unknown:
        raise RefusedValueError(unknown[0], document[unknown[0]], f"is no column of plays; they are {', '.join(sorted(_NAMES))}")
    row = {column.name: _cell(column, document.get(column.name)) for column in _COLUMNS}
    if row["ts"] is None:
        raise RefusedValueError("ts", "", "is missing; every play needs a time")
    check_time(int(str(row["ts"])), latest_us)
    track, artist = _text(row["track"]), _text(row["artist"])
    if track is None and row["track_id"] is None:
        raise RefusedValueError("track", "", "is missing; a play needs track or track_id")
    row["track_id"] = row["track_id"] or track_id(artist, track)
    row["artist_id"] = row["artist_id"] or artist_id(artist)
    row["format"] = PLAYS.name
    names = [column.name for column in PLAYS.columns]
    row["play_id"] = row["play_id"] or event_id(PLAYS.name, *(row[name] for name in names if name != "play_id"))
    return tuple(row[name] for name in names)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _cell(column: Column, value: object) -> object:
    """A value of a column as Arrow takes it; a time as µs since 1970."""
    if value is None:
        return None
    if pa.types.is_timestamp(column.type):
        return _instant(column.name, value)
    if pa.types.is_string(column.type):
        if isinstance(value, str):
            return value.strip() or None
        if isinstance(value, int | float) and not isinstance(value, bool):
            return str(value)
        raise RefusedValueError(column.name, value, "is not text")
    if pa.types.is_boolean(column.type):
        if isinstance(value, bool):
            return value
        raise RefusedValueError(column.name, value, "is not true or false")
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _INT64_MAX:
        return value
    raise RefusedValueError(column.name, value, "is not a whole number from 0 up")


def _instant(name: str, value: object) -> int:
    try:
        return instant_us(value)
    except RefusedValueError as why:
        raise RefusedValueError(name, why.value, why.reason) from None
