"""ListenBrainz' `submit-listens` to plays, and the play that a listen is, whether it was submitted or stands in an export.

Limits and texts of errors are those of ListenBrainz' own API, which scrobblers were written for: a payload of which anything is
wrong is refused whole.
"""

from __future__ import annotations

import datetime as dt
import uuid
from dataclasses import dataclass
from typing import Any, NoReturn

import msgspec
import pyarrow as pa

from analytics_dagster.errors import UserError
from analytics_dagster.ingest.play_ids import artist_id, device_kind, event_id, track_id
from analytics_dagster.ingest.points import EARLIEST_US, PLAY_ROWS, Plays, RefusedValueError

# Constants of the same names in ListenBrainz' server (listenbrainz/webserver/views/api_tools.py).
MAX_LISTEN_SIZE = 10_240
MAX_LISTENS_PER_REQUEST = 1_000
MAX_TAGS_PER_LISTEN = 50
MAX_TAG_SIZE = 64
MAX_DURATION_LIMIT = 24 * 24 * 60 * 60
# ListenBrainz takes listens from 2002-10-01 on; the first day that is kept here is later.
_EARLIEST = max(EARLIEST_US // 1_000_000, int(dt.datetime(2002, 10, 1, tzinfo=dt.UTC).timestamp()))
_ONE_MBID = ("release_mbid", "recording_mbid", "release_group_mbid", "track_mbid")
_MANY_MBIDS = ("artist_mbids", "work_mbids")
PLAYING_NOW = "playing_now"
_LISTEN_TYPES = ("single", "import", PLAYING_NOW)

Row = tuple[object, ...]


class ListenMapping(msgspec.Struct, gc=False):
    """MusicBrainz' ids as ListenBrainz found them."""

    recording_mbid: str | None = None
    artist_mbids: list[str] | None = None


class ListenMetadata(msgspec.Struct):
    """A listen's `track_metadata`."""

    artist_name: str | None = None
    track_name: str | None = None
    release_name: str | None = None
    additional_info: dict[str, Any] | None = None
    mbid_mapping: ListenMapping | None = None


class RefusedListensError(UserError):
    """A payload that ListenBrainz would answer with 400. The message is its text."""


@dataclass(frozen=True)
class SubmittedListens:
    """What was submitted: `single`, `import` or `playing_now`, which is acknowledged and makes no play."""

    listen_type: str
    plays: Plays


def parse_listens(body: bytes, tenant: str, listener: str, latest_us: int) -> SubmittedListens:
    """The plays of a `submit-listens` document, all of `listener`. Raises RefusedListensError."""
    listen_type, payload = _document(body)
    rows = [_submitted(listen, listen_type, listener, latest_us) for listen in payload]
    if listen_type == PLAYING_NOW:
        rows = []
    columns = list(zip(*rows, strict=True)) if rows else [()] * (len(PLAY_ROWS) - 1)
    arrays = [
        pa.array([tenant] * len(rows), pa.string()).dictionary_encode(),
        *(pa.array(column, type) for column, type in zip(columns, PLAY_ROWS.types[1:], strict=True)),
    ]
    arrays[0] = arrays[0].cast(PLAY_ROWS.types[0])
    return SubmittedListens(listen_type, Plays(pa.Table.from_arrays(arrays, schema=PLAY_ROWS)))


def play_row(metadata: ListenMetadata, listener: str, ts_us: int) -> Row:
    """The columns of PLAYS for one listen. Metadata as submitted wins over ListenBrainz' mapping for names; ids come from either.

    Raises RefusedValueError.
    """
    info, mapping = metadata.additional_info or {}, metadata.mbid_mapping or ListenMapping()
    title, artist = text_or_none(metadata.track_name), text_or_none(metadata.artist_name)
    if title is None:
        raise RefusedValueError("track_metadata.track_name", "", "is empty; a listen needs a track")
    recording = text_or_none(info.get("recording_mbid")) or text_or_none(mapping.recording_mbid)
    artists = info.get("artist_mbids") or mapping.artist_mbids
    first_artist = text_or_none(artists[0]) if isinstance(artists, list) and artists else None
    return (
        event_id("listenbrainz", listener, ts_us, artist, title),
        ts_us, listener, recording or track_id(artist, title), title, first_artist or artist_id(artist), artist,
        text_or_none(metadata.release_name), None, _length(info), None, None, None, None, device_kind(_device(info)), None, None,
        None, None, "listenbrainz",
    )  # fmt: skip


def text_or_none(value: object) -> str | None:
    """Text without blanks around it; None for a blank one and for anything else."""
    return value.strip() or None if isinstance(value, str) else None


def _length(info: dict[str, Any]) -> int | None:
    """Milliseconds of the track; clients write `duration_ms`, or `duration` in seconds."""
    for name, scale in (("duration_ms", 1), ("duration", 1_000)):
        value = info.get(name)
        if value is None or value == "":
            continue
        try:
            length = round(float(value) * scale)
        except (TypeError, ValueError, OverflowError):
            raise RefusedValueError(f"track_metadata.additional_info.{name}", value, f"{value!r} is not a number") from None
        if length < 0:
            raise RefusedValueError(f"track_metadata.additional_info.{name}", value, f"{value!r} is not a length")
        return length or None
    return None


def _device(info: dict[str, Any]) -> str | None:
    return text_or_none(info.get("media_player")) and text_or_none(info.get("submission_client"))


def _document(body: bytes) -> tuple[str, list[Any]]:
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RefusedListensError(f"Cannot parse JSON document: {error}") from None
    if not isinstance(document, dict) or "payload" not in document or "listen_type" not in document:
        _refuse("Invalid JSON document submitted.")
    payload, listen_type = document["payload"], document["listen_type"]
    if not isinstance(payload, list):
        _refuse("The payload field in the JSON document should be a list.")
    if not payload:
        _refuse("JSON document does not contain any listens")
    if len(payload) > MAX_LISTENS_PER_REQUEST:
        _refuse(f"Too many listens. You may not submit more than {MAX_LISTENS_PER_REQUEST} listens at once.")
    if len(body) > len(payload) * MAX_LISTEN_SIZE:
        _refuse(f"JSON document is too large. In aggregate, listens may not be larger than {MAX_LISTEN_SIZE} characters.")
    if listen_type not in _LISTEN_TYPES:
        _refuse("JSON document requires a valid listen_type key.")
    if listen_type != "import" and len(payload) > 1:
        _refuse("JSON document contains more than listen for a single/playing_now. It should contain only one.")
    return listen_type, payload


def _submitted(listen: Any, listen_type: str, listener: str, latest_us: int) -> Row:
    """One listen of a payload, checked as ListenBrainz checks it."""
    if not isinstance(listen, dict):
        _refuse("Listen is empty and cannot be validated.")
    ts = 0 if listen_type == PLAYING_NOW else _listened_at(listen, latest_us)
    if listen_type == PLAYING_NOW and "listened_at" in listen:
        _refuse("JSON document must not contain listened_at while submitting playing_now.")
    if "track_metadata" not in listen:
        _refuse("JSON document must contain the key track_metadata at the top level.")
    if len(listen) > (1 if listen_type == PLAYING_NOW else 2):
        _refuse("JSON document may only contain listened_at and track_metadata top level keys")
    metadata = listen["track_metadata"]
    if not isinstance(metadata, dict):
        _refuse("JSON document may not have track_metadata with null value.")
    _check_names(metadata)
    _check_additional(metadata.get("additional_info"))
    _check_no_null(metadata)
    try:
        return play_row(msgspec.convert(metadata, ListenMetadata), listener, ts)
    except (msgspec.ValidationError, RefusedValueError) as error:
        raise RefusedListensError(f"track_metadata cannot be taken: {error}") from None


def _listened_at(listen: dict[str, Any], latest_us: int) -> int:
    """Microseconds. Raises RefusedListensError."""
    if "listened_at" not in listen:
        _refuse("JSON document must contain the key listened_at at the top level.")
    try:
        seconds = int(listen["listened_at"])
    except (ValueError, TypeError, OverflowError):
        _refuse("JSON document must contain an int value for listened_at.")
    if seconds * 1_000_000 > latest_us:
        _refuse("Value for key listened_at is too high.")
    if seconds < _EARLIEST:
        earliest = dt.datetime.fromtimestamp(_EARLIEST, dt.UTC)
        _refuse(
            "Value for key listened_at is too low. listened_at timestamp should be greater than "
            f"{_EARLIEST} ({earliest:%Y-%m-%d %H:%M:%S} UTC)."
        )
    return seconds * 1_000_000


def _check_names(metadata: dict[str, Any]) -> None:
    for key in ("track_name", "artist_name", "release_name"):
        required = key != "release_name"
        if key not in metadata or (metadata[key] is None and not required):
            if required:
                _refuse(f"JSON document does not contain required field track_metadata.{key}.")
        elif not isinstance(metadata[key], str):
            _refuse(f"track_metadata.{key} must be a single string.")
        elif required and not metadata[key].strip():
            _refuse(f"required field track_metadata.{key} is empty.")


def _check_additional(info: Any) -> None:
    if info is None:
        return
    if not isinstance(info, dict):
        _refuse("track_metadata.additional_info must be an object.")
    tags = info.get("tags") or []
    if not isinstance(tags, list) or len(tags) > MAX_TAGS_PER_LISTEN:
        _refuse(f"JSON document may not contain more than {MAX_TAGS_PER_LISTEN} items in track_metadata.additional_info.tags.")
    if any(not isinstance(tag, str) or len(tag) > MAX_TAG_SIZE for tag in tags):
        _refuse(f"JSON document may not contain track_metadata.additional_info.tags longer than {MAX_TAG_SIZE} characters.")
    if "duration" in info and "duration_ms" in info:
        _refuse("JSON document should not contain both duration and duration_ms.")
    _check_duration(info, "duration", MAX_DURATION_LIMIT)
    _check_duration(info, "duration_ms", MAX_DURATION_LIMIT * 1_000)
    for key in (*_ONE_MBID, *_MANY_MBIDS):
        value = info.get(key) or []
        if any(not _is_uuid(each) for each in (value if isinstance(value, list) and key in _MANY_MBIDS else [value]) if each):
            _refuse(f"{key} MBID format invalid.")


def _check_duration(info: dict[str, Any], key: str, most: int) -> None:
    if key not in info:
        return
    try:
        duration = int(info[key])
    except (ValueError, TypeError, OverflowError):
        duration = 0
    if duration <= 0:
        _refuse(f"Value for {key} is invalid, should be a positive integer.")
    if duration > most:
        _refuse(f"Value for {key} is too large, max permitted value is {most}")


def _check_no_null(metadata: dict[str, Any]) -> None:
    waiting: list[Any] = [metadata]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
        elif isinstance(value, str) and "\x00" in value:
            _refuse(f"{value} contains a unicode null")


def _is_uuid(value: object) -> bool:
    try:
        uuid.UUID(value)  # type: ignore[arg-type]  # anything but text raises
    except (AttributeError, TypeError, ValueError):
        return False
    return True


def _refuse(reason: str) -> NoReturn:
    raise RefusedListensError(reason)
