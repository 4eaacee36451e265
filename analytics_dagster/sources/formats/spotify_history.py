"""`spotify-history`: Spotify's Extended Streaming History, and the shorter history of its account data.

Spotify says when a play ended; it began `ms_played` earlier. Podcast episodes and audiobook chapters are not plays of a
track: counting them as such would make every figure about music wrong, so they are set aside with that reason.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import msgspec

from analytics_dagster.errors import UnreadableFileError
from analytics_dagster.lake.schemas import PLAYS, TableSchema
from analytics_dagster.sources.files import SourceFile, SourceStream, uncompressed_name
from analytics_dagster.sources.identity import ONLY_LISTENER, artist_id, device_kind, event_id, track_id
from analytics_dagster.sources.json_objects import decode_object, json_outcomes
from analytics_dagster.sources.parsed import Outcome, Reading, RefusedRecordError, Row
from analytics_dagster.sources.times import TimeReader

_HISTORY_NAME = re.compile(r"(?:.*/)?(?:streaming_?history|endsong)[^/]*\.json(?:\.gz|\.zst)?", re.IGNORECASE)
_EXTENDED, _ACCOUNT = b'"ms_played"', b'"msPlayed"'
_UNKNOWN_COUNTRY = "ZZ"
_PODCAST = "is a podcast episode, not a play of a track; kept here and counted nowhere"
_AUDIOBOOK = "is an audiobook chapter, not a play of a track; kept here and counted nowhere"
_EXPECTED = "records with ts and ms_played (Extended Streaming History), or with endTime and msPlayed (account data)"


class _Stream(msgspec.Struct, gc=False):
    """One record of the Extended Streaming History, as Spotify's ReadMeFirst_ExtendedStreamingHistory.pdf documents it."""

    ts: str
    ms_played: int
    username: str | None = None
    platform: str | None = None
    conn_country: str | None = None
    master_metadata_track_name: str | None = None
    master_metadata_album_artist_name: str | None = None
    master_metadata_album_album_name: str | None = None
    spotify_track_uri: str | None = None
    episode_name: str | None = None
    episode_show_name: str | None = None
    spotify_episode_uri: str | None = None
    audiobook_title: str | None = None
    audiobook_uri: str | None = None
    audiobook_chapter_uri: str | None = None
    reason_start: str | None = None
    reason_end: str | None = None
    skipped: bool | None = None
    offline: bool | None = None


class _AccountStream(msgspec.Struct, gc=False, rename="camel"):
    """One record of StreamingHistory_music_*.json or StreamingHistory_podcast_*.json."""

    end_time: str
    ms_played: int
    artist_name: str | None = None
    track_name: str | None = None
    podcast_name: str | None = None
    episode_name: str | None = None


class SpotifyHistory:
    """Streaming histories of both kinds; see the module."""

    name = "spotify-history"
    description = "Spotify's streaming history as you request it: a folder, zip archive or JSON file."
    tables: tuple[TableSchema, ...] = (PLAYS,)

    def belongs(self, name: str, sample: bytes) -> bool:
        """By name, or a renamed JSON file by content; the export's other files (playlists, profile) are left alone."""
        if _HISTORY_NAME.fullmatch(name):
            return True
        is_json = uncompressed_name(name).endswith(".json")
        return is_json and (not sample or _EXTENDED in sample or _ACCOUNT in sample)

    def read(self, file: SourceFile, reading: Reading) -> Iterator[Outcome]:
        with file.open() as stream:
            times = TimeReader(None)
            convert = _converter(stream, times, reading)
            if convert is None:
                return
            yield from json_outcomes(stream, lambda raw: (("plays", convert(raw)),), reading)


def _converter(stream: SourceStream, times: TimeReader, reading: Reading) -> Callable[[bytes], Row] | None:
    """The conversion that fits the file's kind; None for a history without a record."""
    sample = stream.sample()
    if _EXTENDED in sample:
        decoder = msgspec.json.Decoder(_Stream)
        return lambda raw: _extended_row(decode_object(raw, decoder), times, reading)
    if _ACCOUNT in sample:
        account = msgspec.json.Decoder(_AccountStream)
        return lambda raw: _account_row(decode_object(raw, account), times, reading)
    if b"{" not in sample and sample.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
        return None
    raise UnreadableFileError(f"{stream.name}: not a Spotify streaming history; expected {_EXPECTED}")


def _extended_row(stream: _Stream, times: TimeReader, reading: Reading) -> Row:
    title, artist = _text(stream.master_metadata_track_name), _text(stream.master_metadata_album_artist_name)
    uri = _text(stream.spotify_track_uri)
    if title is None and uri is None:
        if stream.spotify_episode_uri or stream.episode_name:
            raise RefusedRecordError("spotify_episode_uri", _PODCAST)
        if stream.audiobook_uri or stream.audiobook_title or stream.audiobook_chapter_uri:
            raise RefusedRecordError("audiobook_uri", _AUDIOBOOK)
        raise RefusedRecordError("master_metadata_track_name", "is empty, and so is spotify_track_uri: nothing was named")
    start = _start(stream.ts, stream.ms_played, "ts", "ms_played", times, reading)
    listener = _text(stream.username) or ONLY_LISTENER
    country = _text(stream.conn_country)
    play = event_id(
        "spotify-history", listener, start, uri, artist, title, stream.ms_played, stream.reason_start, stream.reason_end
    )
    return (
        play, start, listener, uri or track_id(artist, title), title, artist_id(artist), artist,
        _text(stream.master_metadata_album_album_name), stream.ms_played, None, None, None,
        None if country == _UNKNOWN_COUNTRY else country, None, device_kind(stream.platform), _text(stream.reason_end),
        stream.skipped, stream.offline, None, "spotify-history",
    )  # fmt: skip


def _account_row(stream: _AccountStream, times: TimeReader, reading: Reading) -> Row:
    title, artist = _text(stream.track_name), _text(stream.artist_name)
    if title is None:
        if stream.podcast_name or stream.episode_name:
            raise RefusedRecordError("episodeName", _PODCAST)
        raise RefusedRecordError("trackName", "is empty; nothing says what was played")
    start = _start(stream.end_time, stream.ms_played, "endTime", "msPlayed", times, reading)
    play = event_id("spotify-history", "account-data", start, artist, title, stream.ms_played)
    return (
        play, start, ONLY_LISTENER, track_id(artist, title), title, artist_id(artist), artist, None, stream.ms_played, None,
        None, None, None, None, None, None, None, None, None, "spotify-history",
    )  # fmt: skip


def _start(end: str, played: int, end_name: str, played_name: str, times: TimeReader, reading: Reading) -> int:
    if not 0 <= played <= 7 * 86_400_000:
        raise RefusedRecordError(played_name, f"{played} is not a time listened; it must be 0 to a week in milliseconds")
    try:
        ended = times.read(end.strip())
    except ValueError as error:
        raise RefusedRecordError(end_name, str(error)) from None
    return reading.window.check(ended - played * 1_000, end_name)


def _text(value: str | None) -> str | None:
    return value.strip() or None if value else None
