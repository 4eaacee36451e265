"""GET /analytics/reconciliation over a running server."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

import httpx
import pyarrow as pa
import pytest
from server.running import Running

from analytics_dagster.lake.schemas import PLAYS
from analytics_dagster.metrics.aggregate import aggregate_days
from analytics_dagster.metrics.load import load_catalogue
from analytics_dagster.tenancy.roles import Role

DAY = dt.date(2026, 1, 31)
ASKED = {"a": "spotify_30s", "b": "luminate_50_a_day"}


@pytest.fixture(scope="module")
def counted(server: Running) -> Running:
    """A tenant with 53 plays of one song by one listener."""
    server.installation.tenants.ensure("counted")
    tenant = server.installation.lake.tenant("counted")
    noon = dt.datetime.combine(DAY, dt.time(12), dt.UTC)
    empty = {column.name: None for column in PLAYS.columns}
    song = {"listener_id": "ann", "track_id": "t", "format": "test"}
    rows = [{**empty, **song, "play_id": f"p{n:02}", "ts": noon + dt.timedelta(minutes=n)} for n in range(53)]
    tenant.table(PLAYS).overwrite_days(pa.Table.from_pylist(rows, schema=PLAYS.arrow), DAY, DAY)
    aggregate_days(tenant, load_catalogue().family("counting"), DAY, DAY, stream_ms=30_000)
    return server


@pytest.fixture
def analyst(counted: Running) -> Iterator[httpx.Client]:
    with counted.client(counted.key(Role.ANALYST, "counted")) as client:
        yield client


def test_the_difference_is_told_by_reason(analyst: httpx.Client) -> None:
    said = analyst.get("/analytics/reconciliation", params={**ASKED, "from": "2026-01-31"}).json()
    assert [(count["name"], count["version"], count["plays"], count["stored"]) for count in said["counts"]] == [
        ("spotify_30s", 1, 53, 53),
        ("luminate_50_a_day", 1, 50, 50),
    ]
    assert said["difference"] == 3
    assert said["parts"] == [
        {"counted_by": "both", "reason": None, "plays": 50},
        {"counted_by": "spotify_30s", "reason": "above_cap", "plays": 3},
    ]


def test_the_plays_are_listed_and_said_to_be_more(analyst: httpx.Client) -> None:
    said = analyst.get("/analytics/reconciliation/plays", params={**ASKED, "limit": 2}).json()
    assert [(play["play_id"], play["ts"], play["reason"]) for play in said["plays"]] == [
        ("p50", "2026-01-31T12:50:00Z", "above_cap"),
        ("p51", "2026-01-31T12:51:00Z", "above_cap"),
    ]
    assert said["truncated"] is True
    assert analyst.get("/analytics/reconciliation/plays", params=ASKED).json()["truncated"] is False


def test_who_may_only_query_figures_gets_no_plays(counted: Running) -> None:
    with counted.client(counted.key(Role.VIEWER, "counted")) as viewer:
        assert viewer.get("/analytics/reconciliation", params=ASKED).status_code == 200
        assert viewer.get("/analytics/reconciliation/plays", params=ASKED).status_code == 403


def test_another_tenants_plays_are_not_found(analyst: httpx.Client) -> None:
    for path in ("/analytics/reconciliation", "/analytics/reconciliation/plays"):
        assert analyst.get(path, params={**ASKED, "tenant": "acme"}).status_code == 404


@pytest.mark.parametrize(
    ("more", "status", "detail"),
    [
        ({"b": "luminate"}, 404, "no counting policy 'luminate'"),
        ({"b": "spotify_30s"}, 400, "compared with itself"),
        ({"from": "2026-02-01", "to": "2026-01-31"}, 400, "is after"),
        ({"where": "nation=DE"}, 404, "no text column 'nation'"),
    ],
)
def test_what_cannot_be_asked_is_a_problem(analyst: httpx.Client, more: dict[str, str], status: int, detail: str) -> None:
    answer = analyst.get("/analytics/reconciliation", params={**ASKED, **more})
    assert answer.status_code == status
    assert detail in answer.json()["detail"]
