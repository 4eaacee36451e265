from __future__ import annotations

import csv
import gzip
import json
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analytics_dagster.errors import InvalidNameError, UnreadableFileError, UserError
from analytics_dagster.installation import Installation
from analytics_dagster.sources.spool import Spool
from analytics_dagster.tenancy.tenants import TenantStatus
from tests.sources.imports_for_tests import Import, landed, outcomes_of

HEADER = "station,played_at,title,artist\n"


def log(*lines: str) -> str:
    return HEADER + "".join(line + "\n" for line in lines)


def test_every_record_is_kept_duplicate_or_quarantined(installation: Installation, bring: Import, tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text(log("a,2018-01-01 10:00,T,X", "a,2018-01-01 10:00,T,X", "a,never,T,X", "", "a,2018-01-01 10:04,U,X"))
    result = bring("radio-log", path)
    assert (result.read, result.kept, result.duplicate, result.quarantined) == (4, 2, 1, 1)
    assert result.created == ("me",)
    assert landed(installation, "me", "plays").num_rows == 2
    [refused] = installation.landing.quarantined("me").to_pylist()
    assert (refused["file"], refused["line"], refused["field"], refused["original"]) == (
        "log.csv",
        4,
        "played_at",
        b"a,never,T,X",
    )


def test_importing_the_same_file_again_adds_nothing(installation: Installation, bring: Import, tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text(log("a,2018-01-01 10:00,T,X", "a,never,T,X", "a,2018-01-01 10:04,U,X"))
    first, again = bring("radio-log", path), bring("radio-log", path)
    assert (first.kept, first.duplicate, first.quarantined) == (2, 0, 1)
    assert (again.kept, again.duplicate, again.quarantined) == (0, 2, 1)
    assert again.created == ()
    assert landed(installation, "me", "plays").num_rows == 2
    assert installation.landing.quarantined("me").num_rows == 1


def test_an_overlapping_later_export_adds_only_what_is_new(bring: Import, tmp_path: Path) -> None:
    old, new = tmp_path / "old.csv", tmp_path / "new.csv"
    old.write_text(log("a,2018-01-01 10:00,T,X", "a,2018-01-01 10:04,U,X"))
    new.write_text(log("a,2018-01-01 10:04,U,X", "a,2018-01-01 10:08,V,X"))
    bring("radio-log", old)
    result = bring("radio-log", new)
    assert (result.kept, result.duplicate) == (1, 1)


def test_a_column_splits_one_file_into_tenants(installation: Installation, bring: Import, tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    starts = ("Studio Brussel,2018-01-01 10:00", "MNM,2018-01-01 10:00", "MNM,never", ",2018-01-01 10:00")
    path.write_text(log(*(f"{start},T,X" for start in starts)))
    result = bring("radio-log", path, tenant=None, column="station", zone="Europe/Brussels")
    assert result.created == ("mnm", "studio-brussel", "unassigned")
    assert (result.read, result.kept, result.quarantined) == (4, 3, 1)
    assert installation.landing.quarantined("mnm").num_rows == 1
    assert installation.landing.quarantined("studio-brussel").num_rows == 0


def test_events_of_an_app_are_counted_once_though_they_fill_several_tables(
    installation: Installation, bring: Import, tmp_path: Path
) -> None:
    base = {"userId": "1", "sessionId": 1, "level": "free", "method": "PUT", "status": 200}
    song = {**base, "ts": 1541105830796, "page": "NextSong", "song": "T", "artist": "X", "length": 100.5, "itemInSession": 0}
    upgrade = {**base, "ts": 1541105930796, "page": "Submit Upgrade", "itemInSession": 1}
    path = tmp_path / "events.jsonl"
    path.write_text("\n".join(map(json.dumps, (song, upgrade, song))))
    result = bring("app-events", path)
    assert (result.read, result.kept, result.duplicate) == (3, 2, 1)
    assert [landed(installation, "me", t).num_rows for t in ("plays", "subscriptions", "api_requests")] == [1, 1, 2]
    again = bring("app-events", path)
    assert (again.kept, again.duplicate) == (0, 3)


def test_a_folder_that_holds_one_unreadable_file_leaves_nothing_behind(
    installation: Installation, bring: Import, tmp_path: Path
) -> None:
    (tmp_path / "a.csv").write_text(log("a,2018-01-01 10:00,T,X"))
    (tmp_path / "b.csv").write_text("other,columns\n1,2\n")
    with pytest.raises(UnreadableFileError, match=r"b\.csv"):
        bring("radio-log", tmp_path / "a.csv", tmp_path / "b.csv")
    assert not installation.tenants.records()
    assert landed(installation, "me", "plays").num_rows == 0


def test_a_changed_profile_is_kept_and_an_unchanged_one_is_a_duplicate(bring: Import, tmp_path: Path) -> None:
    first, second = tmp_path / "1.csv", tmp_path / "2.csv"
    first.write_text("user_id,country\nu1,Japan\nu2,Peru\n")
    second.write_text("user_id,country\nu1,Japan\nu2,Chile\n")
    assert bring("users", first).kept == 2
    result = bring("users", second)
    assert (result.kept, result.duplicate) == (1, 1)


def test_a_profile_that_comes_twice_in_one_file_stays_idempotent(bring: Import, tmp_path: Path) -> None:
    path = tmp_path / "users.csv"
    path.write_text("user_id,country\nu1,Japan\nu1,Peru\n")
    first, again = bring("users", path), bring("users", path)
    assert (first.kept, first.duplicate) == (1, 1)
    assert (again.kept, again.duplicate) == (0, 2)


def test_somebody_must_own_the_data(bring: Import, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--tenant"):
        bring("radio-log", tmp_path, tenant=None)
    with pytest.raises(InvalidNameError):
        bring("radio-log", tmp_path, tenant="Not An Id")


def test_a_suspended_tenant_takes_nothing(installation: Installation, bring: Import, tmp_path: Path) -> None:
    installation.tenants.ensure("me")
    installation.tenants.set_status("me", TenantStatus.SUSPENDED)
    path = tmp_path / "log.csv"
    path.write_text(log("a,2018-01-01 10:00,T,X"))
    with pytest.raises(UserError, match="suspended"):
        bring("radio-log", path)


def test_local_times_without_a_zone_are_said_to_be_read_as_utc(bring: Import, tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text(log("a,2018-01-01 10:00,T,X"))
    assert "--time-zone" in " ".join(bring("radio-log", path).notes)
    assert not bring("radio-log", path, zone="UTC").notes


def test_columns_that_are_not_ours_are_said_to_be_left_out(bring: Import, tmp_path: Path) -> None:
    path = tmp_path / "plays.csv"
    path.write_text("ts,track,ms_playd\n2018-01-01T10:00:00Z,T,5\n")
    assert "'ms_playd'" in " ".join(bring("plays", path).notes)


DIRT = [
    b"a,2018-01-01 10:00,T,X",
    b"a,2018-01-01 10:01,U",
    b'a,2018-01-01 10:02,"V',
    b'",',
    b'a,2018-01-01 10:03,"A\nB",X',
    b"\xff\xfe",
]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(DIRT) | st.binary(max_size=40), max_size=25))
def test_fuzzed_records_are_read_once_each_and_in_order(tmp_path: Path, lines: list[bytes]) -> None:
    path = tmp_path / "fuzz.csv"
    path.write_bytes(HEADER.encode() + b"\n".join(lines))
    found = outcomes_of("radio-log", path)
    refused = [o.line for o in found if hasattr(o, "line")]
    assert refused == sorted(set(refused))
    content = path.read_bytes()
    blank = sum(1 for line in content.split(b"\n") if not line.strip())
    assert len(found) <= content.count(b"\n") + 1 - blank


def test_a_spool_gives_back_every_row_in_order_with_more_heaps_than_open_files(tmp_path: Path) -> None:
    schema = pa.schema([("n", pa.int64())])
    spool = Spool(tmp_path)
    for n in range(100_000):
        spool.add(f"t{n % 300}", "plays", schema, (n,))
    assert len(spool.tenants()) == 300
    assert spool.count("t7", "plays") == 334
    assert spool.reader("t7", "plays").read_all().column("n").to_pylist() == list(range(7, 100_000, 300))
    assert spool.reader("t8", "plays").read_all().num_rows == 334
    portions = [reader.read_all().column("n").to_pylist() for reader in spool.readers("t9", "plays", 150)]
    assert len(portions) > 1
    assert [n for portion in portions for n in portion] == list(range(9, 100_000, 300))


class TestRealFiles:
    """Real logs and histories; they lie beside the clone and are skipped where they do not."""

    @pytest.mark.parametrize(
        ("format", "name", "records"),
        [
            ("radio-log", "radio_be_plays_2018q1.csv.gz", 180_777),
            ("radio-log", "triplej_plays_2012_2013.csv.gz", 93_954),
            ("radio-log", "triplej_raw_dirty_2012h1.csv.gz", 18_869),
            ("lastfm", "lastfm1k_events_5000.csv.gz", 5_000),
            ("users", "lastfm1k_user_profile.csv.gz", 992),
            ("app-events", "sparkify_events_201811_SYNTHETIC.jsonl.gz", 8_056),
        ],
    )
    def test_every_record_is_accounted_for_and_again(
        self, shared_data: Path, bring: Import, format: str, name: str, records: int
    ) -> None:
        path = shared_data / "listening" / name
        zone = "Australia/Sydney" if "triplej" in name else "Europe/Brussels"
        first, again = bring(format, path, zone=zone), bring(format, path, zone=zone)
        assert first.read == records == first.kept + first.duplicate + first.quarantined
        assert (again.read, again.kept, again.quarantined) == (records, 0, first.quarantined)

    def test_seven_stations_are_seven_tenants_with_the_files_own_plays_per_utc_day(
        self, shared_data: Path, installation: Installation, bring: Import
    ) -> None:
        path = shared_data / "listening" / "radio_be_plays_2018q1.csv.gz"
        result = bring("radio-log", path, tenant=None, column="tenant", zone="Europe/Brussels")
        brussels = ZoneInfo("Europe/Brussels")
        with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
            lines = {tuple(line) for line in csv.reader(file)}
        lines.discard(("tenant", "played_at", "title", "artist"))
        expected = Counter(
            (station, datetime.fromisoformat(time).replace(tzinfo=brussels).astimezone(UTC).date())
            for station, time, _, _ in lines
        )
        found: Counter[tuple[str, object]] = Counter()
        for tenant in result.tenants:
            found.update((tenant, ts.date()) for ts in landed(installation, tenant, "plays").column("ts").to_pylist())
        assert len(result.tenants) == 7
        assert found == expected
        assert result.quarantined == 0
