"""`radio-log`: what a station played, one line a track. Times are local to the station, and nobody's listening is known.

Clean and dirty logs alike: the local time columns are used and a Unix time beside them is not, since the two known
sources that have one computed it wrongly; a blank album, or one that holds only a carriage return, is no album.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from analytics_dagster.errors import UnreadableFileError
from analytics_dagster.lake.schemas import PLAYS, TableSchema
from analytics_dagster.sources.files import SourceFile, uncompressed_name
from analytics_dagster.sources.identity import artist_id, event_id, track_id
from analytics_dagster.sources.parsed import Outcome, Parsed, Reading, RefusedRecordError, outcomes
from analytics_dagster.sources.records import DelimitedFile
from analytics_dagster.sources.tables import Cells, Header, Reader, fitted, whole_number
from analytics_dagster.sources.times import TimeReader, day_first

_LOCAL = ("played_at", "played_at_local", "datetime", "date_time", "local_time", "timestamp_local", "start_time", "airtime")
_EPOCH = ("timestamp", "source_epoch", "epoch", "uts", "ts")
_TITLE = ("title", "track", "trackname", "track_title", "song", "song_title")
_ARTIST = ("artist", "artist_name", "artistname", "performer")
_ALBUM = ("album", "album_name", "release")
_STATION = ("station", "tenant", "channel")
_EXPECTED = "a title (title, track, trackname, song), an artist, and a time (played_at, played_at_local, or date and time)"


class RadioLog:
    """A station's plays; see the module."""

    name = "radio-log"
    description = "A radio station's log: time, title, artist, for one or several stations (CSV)."
    tables: tuple[TableSchema, ...] = (PLAYS,)

    def belongs(self, name: str, sample: bytes) -> bool:
        return uncompressed_name(name).endswith((".csv", ".tsv", ".txt"))

    def read(self, file: SourceFile, reading: Reading) -> Iterator[Outcome]:
        with file.open() as stream:
            source = DelimitedFile(stream)
            header = Header(source.first, file.name)
            tenant = header.tenant_reader(reading.tenant_column)
            convert, times = _converter(source, header, tenant, reading)
            records = fitted(source.records(header=True, width=len(header)), len(header))
            yield from outcomes(records, convert, reading, tenant)
            if times.naive:
                reading.note_naive_times(file.name)


def _converter(
    source: DelimitedFile, header: Header, tenant: Reader, reading: Reading
) -> tuple[Callable[[Cells], Parsed], TimeReader]:
    title_name, artist_name = header.find(*_TITLE), header.find(*_ARTIST)
    time_name, when = _time_reader(header)
    if title_name is None or artist_name is None or time_name is None:
        raise UnreadableFileError(f"{header.file}: not a radio log; expected a header with {_EXPECTED}, found {header.shown()}")
    station_name = header.find(*_STATION)
    station_is_tenant = reading.tenant_column is not None and station_name == header.find(reading.tenant_column)
    station = header.reader(None if station_is_tenant else station_name)
    title, artist, album = header.reader(title_name), header.reader(artist_name), header.reader(header.find(*_ALBUM))
    length = _length_reader(header)
    sampled = (when(cells) or "" for cells in source.sampled[1:] if len(cells) == len(header))
    times = TimeReader(reading.zone, day_first=day_first(sampled))

    def convert(cells: Cells) -> Parsed:
        song, performer, moment = title(cells), artist(cells), when(cells)
        if song is None:
            raise RefusedRecordError(title_name, "is empty; a play needs a title")
        if moment is None:
            raise RefusedRecordError(time_name, "is empty; a play needs a time")
        try:
            ts = times.read(moment)
        except ValueError as error:
            raise RefusedRecordError(time_name, str(error)) from None
        reading.window.check(ts, time_name)
        play = event_id("radio-log", station(cells), ts, song, performer)
        row = (
            play, ts, None, track_id(performer, song), song, artist_id(performer), performer, album(cells), None, length(cells),
            "radio", None, None, None, None, None, None, None, None, "radio-log",
        )  # fmt: skip
        return Parsed(reading.tenant_of(tenant(cells)), (("plays", row),))

    return convert, times


def _time_reader(header: Header) -> tuple[str | None, Reader]:
    """(the column that messages name, the reader of the time's text): local columns first, a Unix time last."""
    local, day, clock = header.find(*_LOCAL), header.find("date"), header.find("time")
    if local is not None:
        return local, header.reader(local)
    if day is not None and clock is not None:
        of_day, of_clock = header.reader(day), header.reader(clock)

        def both(cells: Cells) -> str | None:
            first, second = of_day(cells), of_clock(cells)
            return f"{first} {second}" if first and second else None

        return day, both
    found = clock or header.find(*_EPOCH) or day
    return found, header.reader(found)


def _length_reader(header: Header) -> Callable[[Cells], int | None]:
    """Milliseconds of the track from whole seconds, else from h:mm:ss."""
    seconds_name, duration_name = header.find("seconds", "duration_seconds", "length_seconds"), header.find("duration", "length")
    seconds, duration = header.reader(seconds_name), header.reader(duration_name)

    def read(cells: Cells) -> int | None:
        if text := seconds(cells):
            return whole_number(text, str(seconds_name), scale=1_000)
        if text := duration(cells):
            total = 0
            for part in text.split(":"):
                total = total * 60 + whole_number(part, str(duration_name))
            return total * 1_000
        return None

    return read
