from __future__ import annotations

import gzip
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from analytics_dagster.errors import NotFoundError, UnreadableFileError
from analytics_dagster.sources.files import source_files
from analytics_dagster.sources.formats import FORMATS, format_named
from analytics_dagster.sources.identity import artist_id, track_id
from analytics_dagster.sources.parsed import Parsed, RefusedRecord
from tests.sources.imports_for_tests import Take, at, outcomes_of, row_of

STREAM = {
    "ts": "2020-04-11T00:27:53Z",
    "username": "ada",
    "platform": "iOS 13.4 (iPhone11,8)",
    "ms_played": 174674,
    "conn_country": "SG",
    "ip_addr": "203.0.113.1",
    "master_metadata_track_name": "Jack To The Future",
    "master_metadata_album_artist_name": "Alex Metric",
    "master_metadata_album_album_name": "Jack",
    "spotify_track_uri": "spotify:track:74cksX4vgcm0cHKaV7XE2L",
    "episode_name": None,
    "episode_show_name": None,
    "spotify_episode_uri": None,
    "reason_start": "trackdone",
    "reason_end": "fwdbtn",
    "shuffle": False,
    "skipped": True,
    "offline": False,
    "offline_timestamp": 1586564700.5,
    "incognito_mode": False,
}


def spotify(*changes: dict[str, Any]) -> str:
    return json.dumps([{**STREAM, **change} for change in changes], indent=2)


def test_a_spotify_stream_began_as_long_before_its_end_as_it_was_played(take: Take) -> None:
    [play], refused = take("spotify-history", spotify({}))
    assert not refused
    assert play["ts"] == at("2020-04-11T00:27:53Z") - 174_674_000
    assert (play["listener_id"], play["country"], play["device"]) == ("ada", "SG", "ios")
    assert (play["ms_played"], play["end_reason"], play["skipped"], play["offline"]) == (174_674, "fwdbtn", True, False)
    assert (play["track_id"], play["artist_id"]) == ("spotify:track:74cksX4vgcm0cHKaV7XE2L", artist_id("alex  METRIC"))


def test_equal_spotify_streams_are_one_play_and_others_are_not(take: Take) -> None:
    differing: list[dict[str, Any]] = [
        {},
        {"ms_played": 174675},
        {"ts": "2020-04-11T00:27:54Z"},
        {"username": "bob"},
        {"reason_end": "trackdone"},
        {"spotify_track_uri": "spotify:track:2"},
        {},
    ]
    plays, _ = take("spotify-history", spotify(*differing))
    assert len({play["play_id"] for play in plays}) == len(differing) - 1
    assert plays[0]["play_id"] == plays[-1]["play_id"]


def test_podcasts_and_audiobooks_are_set_aside_as_no_plays_of_a_track(take: Take) -> None:
    nothing = {"master_metadata_track_name": None, "master_metadata_album_artist_name": None, "spotify_track_uri": None}
    podcast = {**nothing, "episode_name": "One", "spotify_episode_uri": "spotify:episode:1"}
    book = {**nothing, "audiobook_title": "A", "audiobook_uri": "spotify:show:1"}
    plays, refused = take("spotify-history", spotify({}, podcast, book, nothing))
    assert len(plays) == 1
    assert ["podcast" in r.reason for r in refused] == [True, False, False]
    assert "audiobook" in refused[1].reason
    assert refused[2].field == "master_metadata_track_name"


def test_a_bad_spotify_stream_is_refused_with_its_field_line_and_bytes(take: Take) -> None:
    content = """[{"ts": "2020-04-11T00:27:53Z", "ms_played": "long"},
{"ms_played": 5},
{"ts": "soon", "ms_played": 5, "spotify_track_uri": "u"},
{"ts": "2020-04-11T00:27:53Z", "ms_played": -5, "spotify_track_uri": "u"},
{"ts": 5"""
    plays, refused = take("spotify-history", content)
    assert not plays
    assert [(r.line, r.field) for r in refused] == [(1, "ms_played"), (2, "ts"), (3, "ts"), (4, "ms_played"), (5, None)]
    assert refused[1].original == b'{"ms_played": 5}'


def test_spotifys_account_data_is_read_too(take: Take) -> None:
    entries = [
        {"endTime": "2021-03-01 14:05", "artistName": "A", "trackName": "T", "msPlayed": 60000},
        {"endTime": "2021-03-01 15:05", "podcastName": "P", "episodeName": "E", "msPlayed": 60000},
    ]
    [play], [refused] = take("spotify-history", json.dumps(entries))
    assert (play["ts"], play["listener_id"], play["track_id"]) == (at("2021-03-01T14:04:00Z"), "me", track_id("A", "T"))
    assert "podcast" in refused.reason


def test_a_spotify_archive_gives_its_histories_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "my_spotify_data.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("Spotify Extended Streaming History/Streaming_History_Audio_2019_1.json", spotify({}))
        archive.writestr("Spotify Extended Streaming History/endsong_0.json", spotify({"ms_played": 1}))
        archive.writestr("Spotify Extended Streaming History/renamed.json", spotify({"ms_played": 2}))
        archive.writestr("Spotify Extended Streaming History/ReadMeFirst.pdf", b"%PDF")
        archive.writestr("MyData/Playlist1.json", '{"playlists": []}')
        archive.writestr("__MACOSX/Streaming_History_Audio_2019_1.json", b"junk")
    files = source_files([path], FORMATS["spotify-history"].belongs)
    assert [file.name.rpartition("/")[2] for file in files] == [
        "Streaming_History_Audio_2019_1.json",
        "endsong_0.json",
        "renamed.json",
    ]
    assert all(file.name.startswith("my_spotify_data.zip/") for file in files)


def test_a_listenbrainz_listen_is_read_with_its_ids_and_length(take: Take) -> None:
    info = {"duration_ms": 210000, "recording_mbid": "rec-1", "artist_mbids": ["art-1", "art-2"]}
    named = {"artist_name": "A", "track_name": "T"}
    lines: list[dict[str, Any]] = [
        {"listened_at": 1700000000.0, "track_metadata": {**named, "release_name": "R", "additional_info": info}},
        {"listened_at": 1700000100, "track_metadata": {**named, "mbid_mapping": {"recording_mbid": "rec-2"}}},
        {"timestamp": 1700000200, "user_name": "ada", "track_metadata": {**named, "additional_info": {"duration": "200"}}},
        {"listened_at": 1700000300, "track_metadata": {"artist_name": "A", "track_name": " "}},
        {"listened_at": 1700000300},
    ]
    plays, refused = take("listenbrainz", "\n".join(map(json.dumps, lines)) + '\n{"listened_at": 17\n')
    assert [(p["track_id"], p["artist_id"], p["track_ms"], p["listener_id"]) for p in plays] == [
        ("rec-1", "art-1", 210_000, "me"),
        ("rec-2", artist_id("A"), None, "me"),
        (track_id("A", "T"), artist_id("A"), 200_000, "ada"),
    ]
    assert plays[0]["ts"] == 1_700_000_000_000_000
    assert [(r.line, r.field) for r in refused] == [(4, "track_metadata.track_name"), (5, "track_metadata"), (6, None)]


def test_a_listenbrainz_archive_leaves_feedback_and_profile_alone(tmp_path: Path) -> None:
    path = tmp_path / "export.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("user.json", '{"user_id": 1}')
        archive.writestr("feedback.jsonl", '{"recording_msid": "x", "score": 1, "track_metadata": null}\n')
        archive.writestr("listens/2023/11.jsonl", '{"listened_at": 1, "track_metadata": {}}\n')
        archive.writestr("listens/2023/12.jsonl", "")
    names = [file.name for file in source_files([path], FORMATS["listenbrainz"].belongs)]
    assert names == ["export.zip/listens/2023/11.jsonl", "export.zip/listens/2023/12.jsonl"]


LASTFM = {
    "ghan": (
        "uts,utc_time,artist,artist_mbid,album,album_mbid,track,track_mbid\n"
        '"1609323780","30 Dec 2020, 10:23","A, B","am","L","","T","tm"\n'
    ),
    "lastfm-to-csv": '"A, B",L,T,"30 Dec 2020 10:23"\n',
    "lastfmstats": '\ufeffArtist;Album;AlbumId;Track;Date#ada\n"A, B";"L";"x";"T";"1609323780000"\n',
    "1k tsv": "user_000001\t2020-12-30T10:23:00Z\tam\tA, B\ttm\tT\n",
    "1k csv": 'user_id,timestamp,artist_mbid,artist,track_mbid,track\nuser_000001,2020-12-30T10:23:00Z,am,"A, B",tm,T\n',
    "spelled": 'Artist,Album,Title,Date\n"A, B",L,T,2020-12-30 10:23:00\n',
}


@pytest.mark.parametrize("kind", LASTFM)
def test_every_usual_last_fm_export_is_recognized(take: Take, kind: str) -> None:
    [play], refused = take("lastfm", LASTFM[kind])
    assert not refused
    assert (play["ts"], play["artist"], play["track"]) == (at("2020-12-30T10:23:00Z"), "A, B", "T")
    assert play["ms_played"] is None
    assert play["listener_id"] == {"lastfmstats": "ada", "1k tsv": "user_000001", "1k csv": "user_000001"}.get(kind, "me")


def test_quotes_in_the_last_fm_1k_set_are_letters(take: Take) -> None:
    lines = 'u1\t2008-01-01T00:00:00Z\t\tSonic, Youth\t\t"Heroes\nu1\t2008-01-01T00:04:00Z\t\tB\t\tC\n'
    plays, refused = take("lastfm", lines)
    assert [play["track"] for play in plays] == ['"Heroes', "C"]
    assert not refused


def test_last_fms_scrobbles_of_1970_and_of_tomorrow_are_refused(take: Take) -> None:
    header = "uts,utc_time,artist,album,track\n"
    _, refused = take("lastfm", header + '0,"01 Jan 1970, 00:00",A,L,T\n1893456000,"x",A,L,T\n,,A,L,T\n1609323780,,A,L,\n')
    assert ["before 2005-01-01" in r.reason for r in refused] == [True, False, False, False]
    assert "future" in refused[1].reason
    assert [r.field for r in refused] == ["uts", "uts", "uts", "track"]
    assert refused[0].original == b'0,"01 Jan 1970, 00:00",A,L,T'


RADIO = "tenant,played_at,title,artist\nA,2018-01-01T23:58:00,T,X\nA,2018-01-01T23:58:00,T,X\nB,2018-01-01T23:58:00,T,X\n"


def test_a_station_is_part_of_a_plays_identity_unless_it_is_the_tenant(take: Take) -> None:
    together, _ = take("radio-log", RADIO, zone="Europe/Brussels")
    assert len({play["play_id"] for play in together}) == 2
    apart, _ = take("radio-log", RADIO, zone="Europe/Brussels", column="tenant")
    assert [play["tenant"] for play in apart] == ["a", "a", "b"]
    assert len({play["play_id"] for play in apart}) == 1
    assert apart[0]["ts"] == at("2018-01-01T22:58:00Z")
    assert apart[0]["listener_id"] is None


def test_a_radio_log_uses_local_columns_and_not_the_bad_epoch_beside_them(take: Take) -> None:
    content = (
        "timestamp,date,time,trackname,artist,album,duration,seconds\r"
        '1,7/02/2012,8:41:57,T,X,"\r",0:02:58,178\r'
        "1,27/02/2012,8:41:57,T,X,L,0:02:58,\r"
    )
    [first, second], refused = take("radio-log", content, zone="Australia/Sydney")
    assert not refused
    assert (first["ts"], first["album"], first["track_ms"]) == (at("2012-02-07T08:41:57+11:00"), None, 178_000)
    assert (second["ts"], second["track_ms"]) == (at("2012-02-27T08:41:57+11:00"), 178_000)


def test_a_dirty_and_a_clean_log_of_the_same_minute_are_the_same_play(take: Take) -> None:
    dirty, _ = take("radio-log", "date,time,trackname,artist\n7/02/2012,8:41:57, T ,X\n", zone="Australia/Sydney")
    clean, _ = take("radio-log", "played_at_local,title,artist\n2012-02-07T08:41:57,T,X\n", zone="Australia/Sydney")
    assert dirty[0]["play_id"] == clean[0]["play_id"]


def test_bad_radio_lines_are_refused_one_by_one(take: Take) -> None:
    content = b"played_at,title,artist\n2018-01-01 10:00,,X\nnever,T,X\n2018-01-01 10:01,T\n"
    content += b'2018-01-01 10:02,"T,X\n2018-01-01 10:03,caf\xe9,\n'
    [play], refused = take("radio-log", content)
    assert (play["track"], play["artist"]) == ("café", None)
    assert [(r.line, r.field) for r in refused] == [(2, "title"), (3, "played_at"), (4, None), (5, None)]
    assert "2 fields" in refused[2].reason
    assert refused[3].original == b'2018-01-01 10:02,"T,X'


EVENT = {
    "artist": "X",
    "auth": "Logged In",
    "firstName": "Walter",
    "gender": "M",
    "itemInSession": 3,
    "lastName": "Frye",
    "length": 236.93016,
    "level": "paid",
    "location": "San Francisco-Oakland-Hayward, CA",
    "method": "PUT",
    "page": "NextSong",
    "registration": 1540919166796.0,
    "sessionId": 38,
    "song": "T",
    "status": 200,
    "ts": 1541105830796,
    "userAgent": "Mozilla/5.0 (Macintosh; Intel Mac OS X)",
    "userId": "39",
}


def events(*changes: dict[str, Any]) -> str:
    return "\n".join(json.dumps({**EVENT, **change}) for change in changes) + "\n"


def test_an_app_event_is_a_request_and_a_next_song_also_a_play(tmp_path: Path) -> None:
    path = tmp_path / "events.json"
    path.write_text(events({}, {"page": "Home", "song": None, "artist": None, "length": None, "userId": "", "location": None}))
    song, home = outcomes_of("app-events", path)
    assert isinstance(song, Parsed)
    play, request = row_of("app-events", song), row_of("app-events", song, "api_requests")
    assert (play["tier"], play["track_ms"], play["session_id"], play["listener_id"]) == ("premium", 236_930, "38", "39")
    assert (play["ms_played"], play["country"], play["device"], play["ts"]) == (None, "US", "macos", 1_541_105_830_796_000)
    assert (request["endpoint"], request["method"], request["status"], request["latency_us"]) == ("NextSong", "PUT", 200, None)
    assert isinstance(home, Parsed)
    assert [table for table, _ in home.rows] == ["api_requests"]
    assert row_of("app-events", home, "api_requests")["listener_id"] is None


@pytest.mark.parametrize(
    ("page", "level", "expected"),
    [
        ("Submit Upgrade", "free", ("upgrade", "free", "premium")),
        ("Submit Downgrade", "paid", ("downgrade", "premium", "free")),
        ("Cancellation Confirmation", "paid", ("cancel", "premium", None)),
    ],
)
def test_submitting_a_change_is_an_event_of_a_subscription(
    tmp_path: Path, page: str, level: str, expected: tuple[str, ...]
) -> None:
    path = tmp_path / "events.json"
    path.write_text(events({"page": page, "level": level}))
    [outcome] = outcomes_of("app-events", path)
    assert isinstance(outcome, Parsed)
    row = row_of("app-events", outcome, "subscriptions")
    assert (row["event"], row["from_tier"], row["to_tier"]) == expected


def test_bad_app_events_are_refused_with_their_field(take: Take) -> None:
    content = events({"song": None}, {"ts": None}, {"page": "Submit Upgrade", "userId": ""}, {"status": "ok"}, {"ts": 5})
    _, refused = take("app-events", content + "not json\n")
    assert [r.field for r in refused] == ["song", "ts", "userId", "status", "ts", None]


def test_compression_is_told_by_the_bytes_and_not_the_name(take: Take) -> None:
    import pyarrow as pa

    plain = RADIO.encode()
    zstd = pa.Codec("zstd").compress(plain, asbytes=True)
    expected, _ = take("radio-log", plain)
    assert take("radio-log", gzip.compress(plain), name="a.csv")[0] == expected
    assert take("radio-log", zstd, name="b.csv")[0] == expected
    assert take("radio-log", gzip.compress(plain[:40]) + gzip.compress(plain[40:]), name="c.csv.gz")[0] == expected


def test_a_truncated_archive_is_unreadable(take: Take) -> None:
    with pytest.raises(UnreadableFileError, match="damaged"):
        take("radio-log", gzip.compress(RADIO.encode() * 100)[:-20], name="cut.csv.gz")


@pytest.mark.parametrize(
    ("format", "content", "says"),
    [
        ("radio-log", "a,b\n1,2\n", "played_at.*found a, b"),
        ("radio-log", "", "empty"),
        ("lastfm", "a,b\n1,2\n", "expected a header with artist.*found a, b"),
        ("spotify-history", '{"playlists": []}', "ts and ms_played"),
        ("listenbrainz", '{"user": 1}\n', "track_metadata"),
        ("app-events", '{"user": 1}\n', "page"),
        ("app-events", "page\n", "page"),
        ("plays", "ts,artist\n2020-01-01,x\n", "lacks track or track_id"),
        ("users", "name\nx\n", "lacks user_id"),
        ("metrics", '{"a": 1}\n', "no field of metrics"),
        ("plays", b"\x89PNG\r\n\x1a\n\x00\x00", "expected columns"),
        ("plays", b"PAR1 and then nothing", "Parquet"),
    ],
)
def test_a_file_of_another_format_is_refused_as_a_whole(take: Take, format: str, content: str | bytes, says: str) -> None:
    with pytest.raises(UnreadableFileError, match=says):
        take(format, content)


def test_a_missing_tenant_column_is_named_with_the_header(take: Take) -> None:
    with pytest.raises(UnreadableFileError, match=r"no column 'station'.*tenant, played_at"):
        take("radio-log", RADIO, column="station")


def test_a_missing_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnreadableFileError, match="no such file"):
        source_files([tmp_path / "nothing.csv"], FORMATS["plays"].belongs)


def test_an_empty_folder_has_nothing_to_import(tmp_path: Path) -> None:
    with pytest.raises(UnreadableFileError, match="holds no file"):
        source_files([tmp_path], FORMATS["plays"].belongs)


def test_an_unknown_format_is_answered_with_those_there_are() -> None:
    with pytest.raises(NotFoundError, match="spotify-history"):
        format_named("itunes")


def test_rows_without_a_tenant_go_home(take: Take) -> None:
    names = ("", "Studio Brussel", "!!!")
    content = "tenant,played_at,title,artist\n" + "".join(f"{name},2018-01-01T10:00:00,T,X\n" for name in names)
    plays, [refused] = take("radio-log", content, tenant=None, column="tenant")
    assert [play["tenant"] for play in plays] == ["unassigned", "studio-brussel"]
    assert isinstance(refused, RefusedRecord)
    assert (refused.tenant, refused.field) == ("unassigned", "tenant")
