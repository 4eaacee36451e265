"""`lastfm`: scrobbles as the usual exporters write them, and the Last.fm 1K research set.

Last.fm itself exports nothing, so there is no one format: with a header or without, commas or semicolons, Unix times or
written ones. A scrobble says when a track began and never how long it was listened to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from analytics_dagster.errors import UnreadableFileError
from analytics_dagster.lake.schemas import PLAYS, TableSchema
from analytics_dagster.sources.files import SourceFile, uncompressed_name
from analytics_dagster.sources.identity import ONLY_LISTENER, artist_id, event_id, track_id
from analytics_dagster.sources.parsed import Outcome, Parsed, Reading, RefusedRecordError, outcomes
from analytics_dagster.sources.records import DelimitedFile
from analytics_dagster.sources.tables import Cells, Header, Reader, fitted
from analytics_dagster.sources.times import TimeReader, day_first

_TIMES = ("uts", "timestamp", "scrobble_time", "played_at", "listened_at", "utc_time", "datetime", "date", "time")
_TRACK = ("track", "track_name", "title", "song", "name", "traname")
_ARTIST = ("artist", "artist_name", "artname")
_ALBUM = ("album", "album_name", "release")
_USER = ("user_id", "userid", "user", "username", "user_name")
_TRACK_MBID = ("track_mbid", "traid", "recording_mbid", "mbid_track")
_ARTIST_MBID = ("artist_mbid", "artid", "mbid_artist")

# Files without a header, told by their number of fields and which of them is a time.
_LASTFM_1K = ("userid", "timestamp", "artid", "artname", "traid", "traname")
_LASTFM_TO_CSV = ("artist", "album", "track", "date")
_EXPECTED = (
    "a header with artist, track and a time (uts, utc_time, date or timestamp), lastfm-to-csv's four columns "
    "(artist, album, track, date) or the Last.fm 1K set's six (userid, timestamp, artid, artname, traid, traname)"
)


@dataclass(frozen=True)
class _Layout:
    header: Header
    has_header: bool
    quoted: bool
    user: str | None = None
    """The account that lastfmstats names in its header (`Date#account`)."""


class LastFm:
    """Scrobbles; see the module."""

    name = "lastfm"
    description = "Last.fm scrobbles as CSV (the usual exporters) and the Last.fm 1K TSV."
    tables: tuple[TableSchema, ...] = (PLAYS,)

    def belongs(self, name: str, sample: bytes) -> bool:
        return uncompressed_name(name).endswith((".csv", ".tsv", ".txt"))

    def read(self, file: SourceFile, reading: Reading) -> Iterator[Outcome]:
        with file.open() as stream:
            source = DelimitedFile(stream)
            layout = _layout(source)
            width = len(layout.header)
            tenant = layout.header.tenant_reader(reading.tenant_column)
            convert, times = _converter(source, layout, tenant, reading)
            records = fitted(source.records(header=layout.has_header, width=width, quoted=layout.quoted), width)
            yield from outcomes(records, convert, reading, tenant)
            if times.naive and any(layout.header.find(name) for name in ("datetime", "played_at", "time")):
                reading.note_naive_times(file.name)


def _layout(source: DelimitedFile) -> _Layout:
    header = Header(source.first, source.name)
    if header.find(*_ARTIST) and header.find(*_TRACK):
        if header.find(*_TIMES):
            return _Layout(header, True, True)
        dated = [name for name in header.names if name.lower().startswith("date#")]
        if dated:
            names = ["date" if name == dated[0] else name for name in header.names]
            return _Layout(Header(names, source.name), True, True, dated[0].partition("#")[2].strip() or None)
    first = source.first
    if len(first) == len(_LASTFM_1K) and source.dialect.delimiter == "\t" and _is_time(first[1]):
        return _Layout(Header(_LASTFM_1K, source.name), False, False)
    if len(first) == len(_LASTFM_TO_CSV) and any(_is_time(cells[-1]) for cells in source.sampled[:50] if len(cells) == 4):
        return _Layout(Header(_LASTFM_TO_CSV, source.name), False, True)
    raise UnreadableFileError(f"{source.name}: not a Last.fm export; expected {_EXPECTED}; found {header.shown()}")


def _is_time(text: str) -> bool:
    try:
        TimeReader(None).read(text.strip())
    except ValueError:
        return False
    return True


def _converter(
    source: DelimitedFile, layout: _Layout, tenant: Reader, reading: Reading
) -> tuple[Callable[[Cells], Parsed], TimeReader]:
    header = layout.header
    artist_name, title_name = str(header.find(*_ARTIST)), str(header.find(*_TRACK))
    time_names = [name for alias in _TIMES if (name := header.find(alias)) is not None]
    moments = [(name, header.reader(name)) for name in time_names]
    artist, title, album = header.reader(artist_name), header.reader(title_name), header.reader(header.find(*_ALBUM))
    user = header.reader(header.find(*_USER))
    track_mbid, artist_mbid = header.reader(header.find(*_TRACK_MBID)), header.reader(header.find(*_ARTIST_MBID))
    last = moments[-1][1]
    times = TimeReader(reading.zone, day_first=day_first(last(c) or "" for c in source.sampled[1:] if len(c) == len(header)))
    only_user = layout.user or ONLY_LISTENER

    def convert(cells: Cells) -> Parsed:
        song, performer = title(cells), artist(cells)
        if song is None:
            raise RefusedRecordError(title_name, "is empty; a scrobble needs a track")
        name, moment = next(((name, text) for name, read in moments if (text := read(cells))), (time_names[0], None))
        if moment is None:
            raise RefusedRecordError(name, "is empty; a scrobble needs a time")
        try:
            ts = times.read(moment)
        except ValueError as error:
            raise RefusedRecordError(name, str(error)) from None
        reading.window.check(ts, name)
        listener = user(cells) or only_user
        row = (
            event_id("lastfm", listener, ts, performer, song),
            ts, listener, track_mbid(cells) or track_id(performer, song), song, artist_mbid(cells) or artist_id(performer),
            performer, album(cells), None, None, None, None, None, None, None, None, None, None, None, "lastfm",
        )  # fmt: skip
        return Parsed(reading.tenant_of(tenant(cells)), (("plays", row),))

    return convert, times
