from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from liblistenbrainz.listen import Listen

from analytics_dagster.ingest.points import PLAY_ROWS
from analytics_dagster.ingest.wire.listenbrainz import RefusedListensError, SubmittedListens, parse_listens
from analytics_dagster.lake.schemas import FIRST_DAY, PLAYS
from analytics_dagster.sources.files import source_files
from analytics_dagster.sources.formats.listenbrainz import ListenBrainz
from analytics_dagster.sources.parsed import Parsed, Reading, Window
from tests.ingest.wire.arrivals import LATEST_US, NOW, NOW_US

NOW_S = NOW_US // 1_000_000


def listen(**more: Any) -> dict[str, Any]:
    return {"listened_at": NOW_S, "track_metadata": {"artist_name": "Nina Simone", "track_name": "Sinnerman"}, **more}


def document(*listens: dict[str, Any], kind: str | None = None) -> dict[str, Any]:
    return {"listen_type": kind or ("single" if len(listens) == 1 else "import"), "payload": list(listens)}


def submitted(made: object) -> SubmittedListens:
    return parse_listens(made if isinstance(made, bytes) else json.dumps(made).encode(), "acme", "ada", LATEST_US)


def test_a_listen_is_a_play_of_the_key_s_user() -> None:
    info = {
        "duration_ms": 618_000,
        "media_player": "Rhythmbox",
        "submission_client": "Rhythmbox Listenbrainz Plugin",
        "isrc": "USPHI6500001",
    }
    made = listen()
    made["track_metadata"] |= {"release_name": "Pastel Blues", "additional_info": info}
    got = submitted(document(made))

    assert got.listen_type == "single"
    assert got.plays.rows.schema == PLAY_ROWS
    (row,) = got.plays.rows.to_pylist()
    kept = {
        "tenant": "acme",
        "listener_id": "ada",
        "track": "Sinnerman",
        "artist": "Nina Simone",
        "album": "Pastel Blues",
        "track_ms": 618_000,
    }
    assert {key: row[key] for key in kept} == kept
    assert (row["ts"], row["format"], row["device"]) == (NOW, "listenbrainz", "other")


def imported(tmp_path: Path, listens: list[dict[str, Any]]) -> list[tuple[object, ...]]:
    file = tmp_path / "listens.jsonl"
    file.write_text("\n".join(json.dumps({**each, "user_name": "ada"}) for each in listens))
    reading = Reading(Window.of(FIRST_DAY, NOW), "acme")
    (source,) = source_files([file], ListenBrainz().belongs)
    return [outcome.rows[0][1] for outcome in ListenBrainz().read(source, reading) if isinstance(outcome, Parsed)]


def test_a_listen_that_is_imported_and_submitted_is_one_play(tmp_path: Path) -> None:
    mbid = "8f3471b5-7e6a-48da-86a9-c1c07a0f47ae"
    infos: list[dict[str, Any]] = [
        {},
        {"recording_mbid": mbid},
        {"artist_mbids": [mbid]},
        {"duration": 200},
        {"duration_ms": 1000, "media_player": "x"},
    ]
    listens = [listen(listened_at=NOW_S - number) for number in range(len(infos))]
    for made, info in zip(listens, infos, strict=True):
        made["track_metadata"] |= {"track_name": "  Wild is the Wind ", "additional_info": info, "release_name": "Live"}

    rows = submitted(document(*listens, kind="import")).plays.rows.drop_columns(["tenant", "ts"]).to_pylist()

    names = [column.name for column in PLAYS.columns]
    expected = [dict(zip(names, row, strict=True)) for row in imported(tmp_path, listens)]
    assert rows == [{name: value for name, value in row.items() if name != "ts"} for row in expected]


def test_playing_now_is_acknowledged_and_makes_no_play() -> None:
    now = listen()
    del now["listened_at"]
    got = submitted(document(now, kind="playing_now"))

    assert (got.listen_type, len(got.plays)) == ("playing_now", 0)


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (b"{", "Cannot parse JSON document"),
        (b"[" * 100_000, "Cannot parse JSON document"),
        (b"\xff", "Cannot parse JSON document"),
        ([], "Invalid JSON document submitted."),
        ({"payload": []}, "Invalid JSON document submitted."),
        (document(kind="import"), "JSON document does not contain any listens"),
        ({"listen_type": "single", "payload": {}}, "should be a list"),
        (document(listen(), kind="loud"), "requires a valid listen_type key"),
        (document(listen(), kind=["single"]), "requires a valid listen_type key"),  # type: ignore[arg-type]
        (document(listen(), listen(), kind="single"), "It should contain only one"),
        (document(*[listen()] * 1_001), "Too many listens. You may not submit more than 1000 listens at once."),
        (
            document(listen(track_metadata={"track_name": "x" * 10_300, "artist_name": "y"})),
            "listens may not be larger than 10240",
        ),
        (document(None), "Listen is empty"),  # type: ignore[arg-type]
        (document({"track_metadata": {}}), "must contain the key listened_at"),
        (document(listen(listened_at="soon")), "must contain an int value for listened_at"),
        (document(listen(listened_at=None)), "must contain an int value for listened_at"),
        (document(listen(listened_at=1e308)), "listened_at is too high"),
        (document(listen(listened_at=LATEST_US // 10**6 + 1)), "listened_at is too high"),
        (document(listen(listened_at=1_033_430_399)), "listened_at is too low"),
        (document(listen(listened_at=-(10**30))), "listened_at is too low|int value"),
        (document(listen(extra=1)), "may only contain listened_at and track_metadata"),
        (document({"listened_at": NOW_S}), "must contain the key track_metadata"),
        (document(listen(track_metadata=None)), "null value"),
        (document(listen(), kind="playing_now"), "must not contain listened_at"),
        (document(listen(track_metadata={"artist_name": "x"})), "required field track_metadata.track_name"),
        (document(listen(track_metadata={"track_name": "x"})), "required field track_metadata.artist_name"),
        (document(listen(track_metadata={"track_name": " ", "artist_name": "x"})), "track_metadata.track_name is empty"),
        (document(listen(track_metadata={"track_name": "x", "artist_name": ["y"]})), "artist_name must be a single string"),
        (document(listen(track_metadata={"track_name": "x\0", "artist_name": "y"})), "unicode null"),
    ],
)
def test_a_payload_that_listenbrainz_refuses_is_refused_with_its_text(made: object, text: str) -> None:
    with pytest.raises(RefusedListensError, match=text):
        submitted(made)


@pytest.mark.parametrize(
    ("info", "text"),
    [
        ({"tags": ["x"] * 51}, "more than 50 items"),
        ({"tags": ["x" * 65]}, "longer than 64 characters"),
        ({"duration": 1, "duration_ms": 1}, "both duration and duration_ms"),
        ({"duration": 0}, "should be a positive integer"),
        ({"duration_ms": "x"}, "should be a positive integer"),
        ({"duration_ms": 10**12}, "too large, max permitted value is 2073600000"),
        ({"recording_mbid": "x"}, "recording_mbid MBID format invalid"),
        ({"artist_mbids": [5]}, "artist_mbids MBID format invalid"),
        ([], "must be an object"),
    ],
)
def test_additional_info_has_limits(info: object, text: str) -> None:
    made = listen()
    made["track_metadata"]["additional_info"] = info
    with pytest.raises(RefusedListensError, match=text):
        submitted(document(made))


names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20).filter(str.strip)


@given(st.lists(st.tuples(names, names, st.integers(1_104_537_600, NOW_S)), min_size=1, max_size=5))
def test_what_the_official_client_sends_is_read_back(made: list[tuple[str, str, int]]) -> None:
    listens = [Listen(track_name=track, artist_name=artist, listened_at=at) for track, artist, at in made]
    body = {"listen_type": "import", "payload": [each._to_submit_payload() for each in listens]}

    got = [(row["track"], row["artist"], row["ts"].timestamp()) for row in submitted(body).plays.rows.to_pylist()]

    assert got == [(track.strip(), artist.strip(), at) for track, artist, at in made]


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
anything = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3), max_leaves=4)
metadata = st.dictionaries(st.sampled_from(["track_name", "artist_name", "release_name", "mbid_mapping"]), anything)
infos = st.dictionaries(st.sampled_from(["tags", "duration", "duration_ms", "recording_mbid", "artist_mbids"]), anything)


def odd_document(track: dict[str, Any], info: object, at: object) -> bytes:
    return json.dumps(document({"listened_at": at, "track_metadata": {**track, "additional_info": info}})).encode()


@given(st.binary(max_size=100) | st.builds(odd_document, metadata, infos | anything, anything | st.just(NOW_S)))
def test_nothing_else_is_ever_raised(body: bytes) -> None:
    try:
        got = submitted(body)
    except RefusedListensError:
        return
    got.plays.rows.validate(full=True)
    assert got.plays.rows.schema == PLAY_ROWS
