"""`analytics query` and `analytics metrics`, as a user types them."""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc
import pytest

from analytics_dagster.cli import main
from analytics_dagster.installation import Installation
from analytics_dagster.lake.schemas import TableSchema
from analytics_dagster.metrics.aggregate import aggregate_days
from analytics_dagster.metrics.load import load_catalogue

Analytics = Callable[..., tuple[int, bytes, str]]


@pytest.fixture
def analytics(installation: Installation, capfdbinary: pytest.CaptureFixture[bytes]) -> Analytics:
    """Run the command in the installation's home; gives status, standard output and standard error."""

    def run(*arguments: str) -> tuple[int, bytes, str]:
        status: Any = 0
        try:
            main.run([*arguments, "--home", str(installation.settings.analytics_home)])
        except SystemExit as left:
            status = left.code
        out, err = capfdbinary.readouterr()
        return status, out, err.decode()

    return run


@pytest.fixture
def acme(installation: Installation, raw_table: Callable[..., tuple[pa.Table, TableSchema]]) -> Installation:
    """A tenant with three plays on two days, and one recorded gauge."""
    first, last = dt.date(2026, 1, 30), dt.date(2026, 1, 31)
    plays = [
        {"ts": "2026-01-30 10:00", "country": "DE", "ms_played": 40_000},
        {"ts": "2026-01-31 10:00", "country": "DE", "ms_played": 1_000},
        {"ts": "2026-01-31 11:00", "country": None, "ms_played": 40_500},
    ]
    points = [{"ts": "2026-01-31 11:00", "name": "queue depth", "type": "gauge", "value": 2.0, "labels": '{"host":"a"}'}]
    installation.tenants.ensure("acme")
    tenant = installation.lake.tenant("acme")
    for source, rows in (("plays", plays), ("metrics", points)):
        data, schema = raw_table(source, rows)
        tenant.table(schema).overwrite_days(data, first, last)
    for family in map(load_catalogue().family, ("listening", "artist_places", "points")):
        aggregate_days(tenant, family, first, last, stream_ms=30_000)
    return installation


@pytest.mark.usefixtures("acme")
class TestQuery:
    def test_csv_has_ts_in_utc_and_whole_numbers_without_a_fraction(self, analytics: Analytics) -> None:
        status, out, err = analytics("query", "plays", "--tenant", "acme", "--format", "csv")
        assert (status, err) == (0, "")
        assert out.decode() == "ts,value\n2026-01-30T00:00:00Z,1\n2026-01-31T00:00:00Z,2\n"

    def test_figures_that_may_have_a_fraction_keep_it(self, analytics: Analytics) -> None:
        _, out, _ = analytics("query", "listen_time", "--tenant", "acme", "--grain", "month", "--format", "csv")
        assert out.decode() == "ts,value\n2026-01-01T00:00:00Z,81.5\n"
        _, out, _ = analytics("query", "engagement_rate", "--tenant", "acme", "--format", "csv", "--from", "2026-01-31")
        assert out.decode() == "ts,value\n2026-01-31T00:00:00Z,0.5\n"

    def test_splits_and_conditions_may_be_repeated(self, analytics: Analytics) -> None:
        options = ("--by", "country", "--by", "tier", "--where", 'country!="US"', "--where", "tier=''", "--to", "2026-01-31")
        _, out, _ = analytics("query", "streams", "--tenant", "acme", "--format", "csv", "--grain", "hour", *options)
        assert list(csv.reader(io.StringIO(out.decode()))) == [
            ["ts", "country", "tier", "value"],
            ["2026-01-30T10:00:00Z", "DE", "", "1"],
            ["2026-01-31T10:00:00Z", "DE", "", "0"],
            ["2026-01-31T11:00:00Z", "", "", "1"],
        ]

    def test_json_is_one_list_of_rows(self, analytics: Analytics) -> None:
        _, out, _ = analytics("query", "plays", "--tenant", "acme", "--format", "json", "--by", "country", "--from", "2026-01-31")
        assert json.loads(out) == [
            {"ts": "2026-01-31T00:00:00Z", "country": None, "value": 1},
            {"ts": "2026-01-31T00:00:00Z", "country": "DE", "value": 1},
        ]

    def test_arrow_is_an_ipc_stream(self, analytics: Analytics) -> None:
        _, out, _ = analytics("query", "plays", "--tenant", "acme", "--format", "arrow", "--by", "country")
        table = pa.ipc.open_stream(out).read_all()
        assert [str(f.type) for f in table.schema] == ["timestamp[us, tz=UTC]", "string", "double"]
        assert table.num_rows == 3

    def test_a_table_is_printed_in_full_into_a_pipe(self, analytics: Analytics) -> None:
        _, out, _ = analytics("query", "queue depth", "--tenant", "acme", "--by", "host")
        assert [line.split() for line in out.decode().splitlines()] == [
            ["ts", "host", "value"],
            ["2026-01-31T00:00:00Z", "a", "2.0"],
        ]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("playz", "--tenant", "acme"), "no metric 'playz'; did you mean 'plays'"),
            (("plays", "--tenant", "acne"), "no tenant 'acne'; did you mean 'acme'"),
            (("plays", "--tenant", "acme", "--by", "contry"), "did you mean 'country'"),
            (("plays", "--tenant", "acme", "--where", "country"), "is not a condition"),
            (("plays", "--tenant", "acme", "--from", "31.1.2026"), "--from '31.1.2026' is not a day; write it as 2026-01-31"),
            (("plays", "--tenant", "acme", "--from", "2026-02-01", "--to", "2026-01-01"), "is after --to"),
        ],
    )
    def test_what_cannot_be_answered_is_one_line_and_status_2(
        self, analytics: Analytics, arguments: tuple[str, ...], message: str
    ) -> None:
        status, out, err = analytics("query", *arguments)
        assert (status, bytes(out), err.count("\n")) == (2, b"", 1)
        assert message in err


def test_metrics_list_and_show_describe_the_catalogue(analytics: Analytics) -> None:
    status, out, _ = analytics("metrics", "list", "--json")
    listed = {m["name"]: m for m in json.loads(out)}
    assert status == 0
    assert listed["revenue"]["never_added_over"] == ["currency"]
    _, out, _ = analytics("metrics", "show", "dau", "--json")
    assert json.loads(out) == listed["daily_active_listeners"]
    _, out, _ = analytics("metrics", "show", "ecpm")
    assert "formula: ad_revenue / ad_impressions * 1000 where" in out.decode()
    assert "columns: raw/ad_impressions.filled, raw/ad_impressions.revenue_micros, raw/ad_impressions.ts" in out.decode()
    _, out, _ = analytics("metrics", "list")
    assert len(out.decode().splitlines()) == 1 + len(listed)


@pytest.mark.usefixtures("acme")
def test_metrics_list_of_a_tenant_has_its_recorded_names_too(analytics: Analytics) -> None:
    _, out, _ = analytics("metrics", "list", "--tenant", "acme", "--json")
    assert [m["name"] for m in json.loads(out) if m["family"] == "points"] == ["queue depth"]


def test_own_declarations_are_in_the_list(analytics: Analytics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own.yaml").write_text(
        "metrics: [{name: half, description: x, type: derived, type_params: {expr: plays / 2}, unit: x, direction: neutral}]"
    )
    monkeypatch.setenv("ANALYTICS_METRICS", str(tmp_path))
    status, out, _ = analytics("metrics", "show", "half", "--json")
    assert status == 0
    assert json.loads(out)["declared_in"].endswith("own.yaml:1")


def test_a_board_has_a_rank_and_sums_to_the_total(analytics: Analytics, acme: Installation) -> None:
    board = ("query", "artist_streams_by_place", "--tenant", "acme", "--by", "country", "--top", "1", "--grain", "month")
    assert analytics(*board, "--format", "csv")[1] == (
        b"ts,country,rank,value\n2026-01-01T00:00:00Z,DE,1,1\n2026-01-01T00:00:00Z,Other,,1\n"
    )
    assert json.loads(analytics(*board, "--format", "json")[1])[1] == {
        "ts": "2026-01-01T00:00:00Z",
        "country": "Other",
        "rank": None,
        "value": 1,
    }
    status, _, err = analytics("query", "artist_streams_by_place", "--tenant", "acme", "--top", "1")
    assert (status, err) == (2, "analytics: top needs a dimension whose elements are ranked; split by one\n")
