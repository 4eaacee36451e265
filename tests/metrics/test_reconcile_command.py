"""`analytics reconcile`, as a user types it."""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

from analytics_dagster.cli import main
from analytics_dagster.installation import Installation
from analytics_dagster.lake.schemas import TableSchema
from analytics_dagster.metrics.aggregate import aggregate_days
from analytics_dagster.metrics.load import load_catalogue

Analytics = Callable[..., tuple[int, str, str]]


@pytest.fixture
def analytics(installation: Installation, capfd: pytest.CaptureFixture[str]) -> Analytics:
    """Run the command in the installation's home; gives status, standard output and standard error."""

    def run(*arguments: str) -> tuple[int, str, str]:
        status: Any = 0
        try:
            main.run(["reconcile", *arguments, "--tenant", "acme", "--home", str(installation.settings.analytics_home)])
        except SystemExit as left:
            status = left.code
        out, err = capfd.readouterr()
        return status, out, err

    return run


@pytest.fixture(autouse=True)
def acme(installation: Installation, raw_table: Callable[..., tuple[pa.Table, TableSchema]]) -> None:
    """A tenant with a listener's 52 plays of one song, and one play of nobody's that is materialized later."""
    day = dt.date(2026, 1, 31)
    song = {"listener_id": "ann", "track_id": "t", "ms_played": 60_000}
    plays = [{**song, "ts": f"2026-01-31 10:{n:02}", "play_id": f"p{n:02}"} for n in range(52)]
    installation.tenants.ensure("acme")
    tenant = installation.lake.tenant("acme")
    data, schema = raw_table("plays", plays)
    tenant.table(schema).overwrite_days(data, day, day)
    aggregate_days(tenant, load_catalogue().family("counting"), day, day, stream_ms=30_000)
    late, _ = raw_table("plays", [{"ts": "2026-01-31 11:00", "play_id": "late", "ms_played": 60_000}])
    tenant.table(schema).append(late)


def test_a_table_says_totals_terms_and_reasons(analytics: Analytics) -> None:
    status, out, err = analytics("spotify_30s", "luminate_50_a_day")
    assert status == 0
    assert out.splitlines() == [
        "spotify_30s: 53 (policy spotify_30s, version 1: at least 30 s; plays of unknown length count)",
        "luminate_50_a_day: 50 (policy luminate_50_a_day, version 1: at least 30 s; plays of unknown length count; "
        "known listeners only; at most 50 of one listener, track and day)",
        "difference: 3",
        "",
        "plays  counted by   not by the other, because",
        "   50  both",
        "    2  spotify_30s  above_cap: the listener had played the track as often as the policy counts on that day",
        "    1  spotify_30s  unknown_listener: nobody knows who listened",
    ]
    assert err.startswith("analytics query streams_spotify_30s says 52, not 53: some of these days are not materialized")


def test_csv_is_the_reasons_or_the_plays(analytics: Analytics) -> None:
    _, out, _ = analytics("luminate_50_a_day", "spotify_30s", "--format", "csv")
    assert out == "counted_by,reason,plays\nboth,,50\nspotify_30s,above_cap,2\nspotify_30s,unknown_listener,1\n"
    _, out, err = analytics("spotify_30s", "luminate_50_a_day", "--format", "csv", "--rows", "--limit", "2")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [(r["play_id"], r["ts"], r["listener_id"], r["counted_by"], r["reason"]) for r in rows] == [
        ("p50", "2026-01-31T10:50:00.000000Z", "ann", "spotify_30s", "above_cap"),
        ("p51", "2026-01-31T10:51:00.000000Z", "ann", "spotify_30s", "above_cap"),
    ]
    assert "2 of 3 plays are listed; raise --limit" in err


def test_json_has_everything(analytics: Analytics) -> None:
    _, out, _ = analytics("spotify_30s", "spotify_30s_adjusted", "--format", "json", "--rows", "--to", "2026-01-31")
    said = json.loads(out)
    assert said["counts"][1] == {
        "name": "spotify_30s_adjusted",
        "metric": "streams_spotify_30s_adjusted",
        "policy": "spotify_30s",
        "version": 1,
        "minimum_seconds": 30.0,
        "adjusted": True,
        "rules_version": 1,
        "plays": 53,
        "stored": 52,
    }
    assert (said["difference"], said["parts"]) == (0, [{"counted_by": "both", "reason": None, "plays": 53}])
    assert (said["rows"], said["truncated"]) == ([], False)


def test_rows_may_be_chosen_by_what_a_play_has(analytics: Analytics) -> None:
    _, out, err = analytics("spotify_30s", "luminate_50_a_day", "--where", 'listener_id=""', "--rows")
    assert out.splitlines()[2] == "difference: 1"
    late = "late  2026-01-31T11:00:00.000000Z  -  -  -  -  60000  -  -  test  spotify_30s  unknown_listener"
    assert out.splitlines()[-1] == late
    assert err == "", "what is stored cannot be split by listener, so it is not compared"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("spotify_30s", "luminate"), "no counting policy 'luminate'"),
        (("spotify_30s", "spotify_30s"), "compared with itself"),
        (("spotify_30s", "luminate_50_a_day", "--from", "2026-02-02", "--to", "2026-02-01"), "is after --to"),
        (("spotify_30s", "luminate_50_a_day", "--from", "1.2.2026"), "write it as 2026-01-31"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_one_line(analytics: Analytics, arguments: tuple[str, ...], message: str) -> None:
    status, out, err = analytics(*arguments)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert message in err
