"""`listenbrainz`: the export of a ListenBrainz account: JSON lines by month in a zip archive or folder, or an older single file.

What a listen is as a play is said in `ingest.wire.listenbrainz`, which scrobblers' submissions go through too.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from analytics_dagster.errors import UnreadableFileError
from analytics_dagster.ingest.points import RefusedValueError
from analytics_dagster.ingest.wire.listenbrainz import ListenMetadata, play_row, text_or_none
from analytics_dagster.lake.schemas import PLAYS, TableSchema
from analytics_dagster.sources.files import SourceFile, uncompressed_name
from analytics_dagster.sources.identity import ONLY_LISTENER
from analytics_dagster.sources.json_objects import decode_object, json_outcomes
from analytics_dagster.sources.parsed import Outcome, Reading, RefusedRecordError, Row
from analytics_dagster.sources.times import TimeReader, epoch_micros

_OTHER_FILES = frozenset({"user", "feedback", "pinned_recording", "pinned_recordings", "playlists"})
_ENDINGS = (".jsonl", ".json", ".ndjson", ".listens")
_MARK = b'"track_metadata"'


class _Listen(msgspec.Struct):
    track_metadata: ListenMetadata
    listened_at: float | str | None = None
    timestamp: float | str | None = None
    user_name: str | None = None


class ListenBrainz:
    """Listens; see the module."""

    name = "listenbrainz"
    description = "The export of a ListenBrainz account: JSON lines in a zip archive, folder or file."
    tables: tuple[TableSchema, ...] = (PLAYS,)

    def belongs(self, name: str, sample: bytes) -> bool:
        plain = uncompressed_name(name)
        if plain.rpartition("/")[2].partition(".")[0] in _OTHER_FILES or not plain.endswith(_ENDINGS):
            return False
        return not sample.strip() or _MARK in sample

    def read(self, file: SourceFile, reading: Reading) -> Iterator[Outcome]:
        decoder = msgspec.json.Decoder(_Listen)
        times = TimeReader(None)
        with file.open() as stream:
            sample = stream.sample()
            if sample.strip() and _MARK not in sample:
                raise UnreadableFileError(f"{file.name}: not a ListenBrainz export; expected listened_at and track_metadata")
            yield from json_outcomes(stream, lambda raw: (("plays", _row(decode_object(raw, decoder), times, reading)),), reading)


def _row(listen: _Listen, times: TimeReader, reading: Reading) -> Row:
    ts = _moment(listen, times, reading)
    try:
        return play_row(listen.track_metadata, text_or_none(listen.user_name) or ONLY_LISTENER, ts)
    except RefusedValueError as error:
        raise RefusedRecordError(error.field, error.reason) from None


def _moment(listen: _Listen, times: TimeReader, reading: Reading) -> int:
    name = "listened_at" if listen.listened_at is not None else "timestamp"
    value = listen.listened_at if listen.listened_at is not None else listen.timestamp
    if value is None:
        raise RefusedRecordError("listened_at", "is missing")
    try:
        moment = times.read(value.strip()) if isinstance(value, str) else epoch_micros(value)
    except ValueError as error:
        raise RefusedRecordError(name, str(error)) from None
    return reading.window.check(moment, name)
