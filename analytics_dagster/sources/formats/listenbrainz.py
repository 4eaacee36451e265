"""`listenbrainz`: the export of a ListenBrainz account: JSON lines by month in a zip archive or folder, or an older single file.

Metadata as submitted wins over ListenBrainz' later mapping for names; ids come from either.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from analytics_dagster.errors import UnreadableFileError
from analytics_dagster.lake.schemas import PLAYS, TableSchema
from analytics_dagster.sources.files import SourceFile, uncompressed_name
from analytics_dagster.sources.identity import ONLY_LISTENER, artist_id, device_kind, event_id, track_id
from analytics_dagster.sources.json_objects import decode_object, json_outcomes
from analytics_dagster.sources.parsed import Outcome, Reading, RefusedRecordError, Row
from analytics_dagster.sources.times import TimeReader, epoch_micros

_OTHER_FILES = frozenset({"user", "feedback", "pinned_recording", "pinned_recordings", "playlists"})
_ENDINGS = (".jsonl", ".json", ".ndjson", ".listens")
_MARK = b'"track_metadata"'


class _Mapping(msgspec.Struct, gc=False):
    recording_mbid: str | None = None
    artist_mbids: list[str] | None = None


class _Metadata(msgspec.Struct):
    artist_name: str | None = None
    track_name: str | None = None
    release_name: str | None = None
    additional_info: dict[str, Any] | None = None
    mbid_mapping: _Mapping | None = None


class _Listen(msgspec.Struct):
    track_metadata: _Metadata
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
    metadata = listen.track_metadata
    info, mapping = metadata.additional_info or {}, metadata.mbid_mapping or _Mapping()
    title, artist = _text(metadata.track_name), _text(metadata.artist_name)
    if title is None:
        raise RefusedRecordError("track_metadata.track_name", "is empty; a listen needs a track")
    ts = _moment(listen, times, reading)
    listener = _text(listen.user_name) or ONLY_LISTENER
    recording = _text(info.get("recording_mbid")) or _text(mapping.recording_mbid)
    artists = info.get("artist_mbids") or mapping.artist_mbids
    first_artist = _text(artists[0]) if isinstance(artists, list) and artists else None
    return (
        event_id("listenbrainz", listener, ts, artist, title),
        ts, listener, recording or track_id(artist, title), title, first_artist or artist_id(artist), artist,
        _text(metadata.release_name), None, _length(info), None, None, None, None, device_kind(_device(info)), None, None, None,
        None, "listenbrainz",
    )  # fmt: skip


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


def _length(info: dict[str, Any]) -> int | None:
    """Milliseconds of the track; clients write `duration_ms`, or `duration` in seconds."""
    for name, scale in (("duration_ms", 1), ("duration", 1_000)):
        value = info.get(name)
        if value is None or value == "":
            continue
        try:
            length = round(float(value) * scale)
        except (TypeError, ValueError, OverflowError):
            raise RefusedRecordError(f"track_metadata.additional_info.{name}", f"{value!r} is not a number") from None
        if length < 0:
            raise RefusedRecordError(f"track_metadata.additional_info.{name}", f"{value!r} is not a length")
        return length or None
    return None


def _device(info: dict[str, Any]) -> str | None:
    return _text(info.get("media_player")) and _text(info.get("submission_client"))


def _text(value: object) -> str | None:
    return value.strip() or None if isinstance(value, str) else None
