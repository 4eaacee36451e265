from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from analytics_dagster.lake.schemas import BY_NAME
from analytics_dagster.sources.identity import artist_id, track_id
from analytics_dagster.sources.parsed import Parsed
from tests.sources.imports_for_tests import Take, at, outcomes_of, row_of

PLAY = {
    "play_id": "p1",
    "ts": "2024-05-31T18:30:00Z",
    "listener_id": "39",
    "track": "T",
    "artist": "X",
    "ms_played": 31000,
    "country": "BE",
    "tier": "premium",
    "skipped": False,
}


def test_plays_are_the_same_from_csv_json_lines_array_and_parquet(take: Take, tmp_path: Path) -> None:
    csv = ",".join(PLAY) + "\n" + ",".join(str(value) for value in PLAY.values()) + "\n"
    pq.write_table(
        pa.Table.from_pylist([{**PLAY, "ts": dt.datetime(2024, 5, 31, 18, 30, tzinfo=dt.UTC)}]), tmp_path / "p.parquet"
    )
    [parquet] = outcomes_of("plays", tmp_path / "p.parquet")
    assert isinstance(parquet, Parsed)
    found = [
        take("plays", csv)[0][0],
        take("plays", json.dumps(PLAY))[0][0],
        take("plays", json.dumps([PLAY], indent=1))[0][0],
        row_of("plays", parquet),
    ]
    assert all(row == found[0] for row in found)
    assert (found[0]["play_id"], found[0]["ts"], found[0]["ms_played"]) == ("p1", at("2024-05-31T18:30:00Z"), 31_000)
    assert (found[0]["track_id"], found[0]["artist_id"], found[0]["skipped"]) == (track_id("X", "T"), artist_id("X"), False)
    assert found[0]["format"] == "plays"


def test_a_play_without_an_id_gets_one_from_what_it_says(take: Take) -> None:
    lines = [{**PLAY, "play_id": None}, {**PLAY, "play_id": None}, {**PLAY, "play_id": None, "ms_played": 1}]
    plays, _ = take("plays", "\n".join(map(json.dumps, lines)))
    ids = [play["play_id"] for play in plays]
    assert ids[0] == ids[1] != ids[2]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"ts": None}, "ts"),
        ({"ts": "soon"}, "ts"),
        ({"ts": "2004-12-31T23:59:59Z"}, "ts"),
        ({"ts": "2026-03-12T00:00:00Z"}, "ts"),
        ({"ms_played": -1}, "ms_played"),
        ({"ms_played": 1.5}, "ms_played"),
        ({"ms_played": "x"}, "ms_played"),
        ({"ms_played": 10**30}, "ms_played"),
        ({"ms_played": True}, "ms_played"),
        ({"skipped": "perhaps"}, "skipped"),
        ({"track": {"a": 1}}, "track"),
        ({"ts": True}, "ts"),
    ],
)
def test_a_bad_value_is_refused_with_its_field(take: Take, change: dict[str, Any], field: str) -> None:
    rows, [refused] = take("plays", json.dumps({**PLAY, **change}))
    assert not rows
    assert refused.field == field
    assert refused.reason


def test_nulls_of_a_broken_client_may_land(take: Take) -> None:
    [row], refused = take("plays", json.dumps({"ts": "2024-05-31T18:30:00Z", "track": None, "listener_id": None}))
    assert not refused
    assert (row["track"], row["track_id"], row["listener_id"]) == (None, None, None)


def test_the_last_fm_1k_profiles_are_users(take: Take) -> None:
    content = 'user_id,gender,age,country,registered\nu1,m,22.0,United States,"Aug 13, 2006"\nu2,,,,\nu3,f,young,,\n'
    users, [refused] = take("users", content)
    assert users[0] == {
        "tenant": "me",
        "user_id": "u1",
        "gender": "m",
        "age": 22,
        "country": "United States",
        "tier": None,
        "registered": dt.date(2006, 8, 13),
        "format": "users",
    }
    assert (users[1]["age"], users[1]["registered"]) == (None, None)
    assert (refused.line, refused.field) == (4, "age")
    original, _ = take("users", "#id\tgender\tage\tcountry\tregistered\nu1\tm\t22\tJapan\tAug 13, 2006\n")
    assert original[0]["user_id"] == "u1"


ROWS: dict[str, dict[str, Any]] = {
    "metrics": {"ts": "2024-05-31T18:30:00Z", "name": "n", "type": "gauge", "value": 1.5, "labels": {"b": "2", "a": 1}},
    "subscriptions": {
        "ts": "2024-05-31T18:30:00Z",
        "listener_id": "1",
        "event": "upgrade",
        "amount_minor": -999,
        "currency": "EUR",
    },
    "ad_impressions": {"ts": "2024-05-31T18:30:00Z", "filled": True, "revenue_micros": 5000},
    "api_requests": {"ts": "2024-05-31T18:30:00Z", "endpoint": "/play", "status": 200, "latency_us": 1200},
    "system_samples": {"ts": "2024-05-31T18:30:00Z", "host": "h", "cpu_percent": 12.5},
    "interactions": {"ts": "2024-05-31T18:30:00Z", "listener_id": "1", "event": "save", "track_id": "t"},
    "users": {"user_id": 39, "tier": "premium", "registered": "2006-08-13"},
    "tracks": {"track_id": "t", "title": "T", "duration_ms": 1000, "released": "2006-08-13"},
    "artists": {"id": 1, "name": "MALICE MIZER"},
    "playlists": {"playlist_id": "p", "name": "P", "followers": 3, "created": "2006-08-13"},
}


@pytest.mark.parametrize("table", ROWS)
def test_every_table_takes_its_own_columns(take: Take, table: str) -> None:
    [row], refused = take(table, json.dumps(ROWS[table]))
    assert not refused
    schema = BY_NAME[table]
    assert row[schema.key]
    assert pa.Table.from_pylist([{k: v for k, v in row.items() if k != "tenant"}], schema=schema.arrow).num_rows == 1


def test_an_interactions_headers_may_be_an_apps_own(take: Take) -> None:
    [row], refused = take("interactions", "ts,User ID,action,track_id\n2024-05-31T18:30:00Z,7,playlist_add,t\n")
    assert not refused
    assert (row["listener_id"], row["event"], row["track_id"]) == ("7", "playlist_add", "t")


def test_labels_are_canonical_json(take: Take) -> None:
    [row], _ = take("metrics", json.dumps(ROWS["metrics"]))
    assert row["labels"] == '{"a":"1","b":"2"}'


@pytest.mark.parametrize(
    ("table", "change", "field"),
    [
        ("metrics", {"type": "dial"}, "type"),
        ("metrics", {"labels": "[1]"}, "labels"),
        ("metrics", {"value": "nan"}, "value"),
        ("subscriptions", {"event": "pause"}, "event"),
        ("subscriptions", {"listener_id": ""}, "listener_id"),
        ("ad_impressions", {"filled": None}, "filled"),
        ("interactions", {"event": "like"}, "event"),
        ("interactions", {"listener_id": None}, "listener_id"),
        ("users", {"user_id": " "}, "user_id"),
        ("users", {"registered": "x"}, "registered"),
    ],
)
def test_closed_sets_and_required_columns_are_held(take: Take, table: str, change: dict[str, Any], field: str) -> None:
    _, [refused] = take(table, json.dumps({**ROWS[table], **change}))
    assert refused.field == field


def test_a_parquet_row_in_quarantine_is_its_json(tmp_path: Path) -> None:
    pq.write_table(pa.table({"ts": ["2024-05-31T18:30:00Z", "x"], "track": ["T", "U"]}), tmp_path / "p.parquet")
    _, refused = outcomes_of("plays", tmp_path / "p.parquet")
    assert not isinstance(refused, Parsed)
    assert (refused.line, refused.field, json.loads(refused.original)) == (2, "ts", {"ts": "x", "track": "U"})
