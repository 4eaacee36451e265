"""Dashboards over HTTP: whose they are, what an address gives, and what every page carries."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pyarrow.parquet as pq
import pytest
from server.running import Running, serving
from server.signing_in import HERE, browser, sign_in, token_in
from small_home import copy_of, landed_home, materialized_home

from analytics_dagster.tenancy.roles import Role

__all__ = ["landed_home", "materialized_home"]

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def shown(materialized_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The small service, served. Tenants `aurora` and `borealis` have figures."""
    home = tmp_path_factory.mktemp("dashboards") / ".analytics"
    copy_of(materialized_home, home)
    with serving(home, ANALYTICS_SERVER_WORKERS="1") as running:
        yield running


@pytest.fixture(scope="module")
def aurora(shown: Running) -> Iterator[httpx.Client]:
    """A viewer of aurora who signed in with a browser."""
    with browser(shown) as client:
        assert sign_in(client, shown.key(Role.VIEWER, "aurora")).status_code == 303
        yield client


def test_whoever_is_not_signed_in_is_sent_to_sign_in_and_comes_back(shown: Running) -> None:
    with browser(shown) as client:
        answer = client.get("/dashboards/aurora/overview?period=7d")
        assert answer.status_code == 303
        assert answer.headers["location"] == "/signin?next=%2Fdashboards%2Faurora%2Foverview%3Fperiod%3D7d"
        back = sign_in(client, shown.key(Role.VIEWER, "aurora"), "/dashboards/aurora/overview?period=7d")
        assert back.headers["location"] == "/dashboards/aurora/overview?period=7d"


def test_the_first_address_leads_to_the_only_tenant_and_its_overview(aurora: httpx.Client) -> None:
    answer = aurora.get("/", follow_redirects=True)
    assert [str(step.headers["location"]) for step in answer.history] == [
        "/dashboards",
        "/dashboards/aurora",
        "/dashboards/aurora/overview",
    ]
    assert answer.status_code == 200


def test_a_platform_admin_chooses_among_tenants(shown: Running) -> None:
    with browser(shown) as client:
        sign_in(client, shown.key(Role.PLATFORM_ADMIN))
        page = client.get("/dashboards").text
        assert 'href="/dashboards/aurora"' in page
        assert 'href="/dashboards/borealis"' in page


@pytest.mark.parametrize(
    "path",
    [
        "/dashboards/borealis",
        "/dashboards/borealis/overview",
        "/dashboards/borealis/overview.json",
        "/dashboards/nobody/overview",
    ],
)
def test_another_tenants_pages_are_not_found(aurora: httpx.Client, path: str) -> None:
    answer = aurora.get(path)
    assert answer.status_code == 404
    assert "borealis" not in answer.text.replace("no tenant", "").replace("&#39;borealis&#39;", "").replace("'borealis'", "")


def test_the_apis_of_another_tenant_are_not_found(shown: Running) -> None:
    with shown.client(shown.key(Role.VIEWER, "aurora")) as client:
        assert client.get("/analytics/dashboard/borealis").status_code == 404
        assert client.get("/analytics/insights/borealis").status_code == 404


def test_a_page_carries_a_strict_policy_and_loads_only_what_is_there(aurora: httpx.Client) -> None:
    answer = aurora.get("/dashboards/aurora/overview")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["cache-control"] == "no-store"
    for kind in ("css", "js"):
        [path] = {part for part in answer.text.split('"') if part.startswith("/static/dashboards.") and part.endswith(f".{kind}")}
        static = aurora.get(path)
        assert static.status_code == 200
        assert "immutable" in static.headers["cache-control"]
        assert static.headers["content-type"].startswith("text/")
    assert aurora.get("/static/../../etc/passwd").status_code == 404


def test_a_page_is_small_and_compressed_where_the_client_takes_it(aurora: httpx.Client) -> None:
    answer = aurora.get("/dashboards/aurora/overview")
    assert answer.headers["content-encoding"] == "gzip"
    assert int(answer.headers["content-length"]) < 60_000
    plain = aurora.get("/dashboards/aurora/overview", headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers


def test_an_address_has_one_shortest_form(aurora: httpx.Client) -> None:
    answer = aurora.get("/dashboards/aurora/overview?period=28d&compare=previous&dimension=country&operator=is&value=DE")
    assert answer.status_code == 303
    assert answer.headers["location"] == "/dashboards/aurora/overview?f=is,country,DE"
    assert aurora.get(answer.headers["location"]).status_code == 200


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("/dashboards/aurora/overview?period=8d", 400, "is not known; one of day"),
        ("/dashboards/aurora/overview?metric=streems", 404, "did you mean"),
        ("/dashboards/aurora/overviw", 404, "no dashboard"),
        ("/dashboards/aurora/overview.xlsx", 404, "there are .json, .csv"),
        ("/dashboards/aurora/overview?f=matches,country,%28", 400, "is not a regular expression"),
    ],
)
def test_what_cannot_be_shown_is_told_as_a_page(aurora: httpx.Client, path: str, status: int, said: str) -> None:
    answer = aurora.get(path)
    assert answer.status_code == status
    assert answer.headers["content-type"].startswith("text/html")
    assert said in answer.text


def test_a_view_is_also_json_csv_parquet_pdf_and_a_picture(aurora: httpx.Client) -> None:
    def get(kind: str) -> httpx.Response:
        answer = aurora.get(f"/dashboards/aurora/overview.{kind}?period=7d")
        assert answer.status_code == 200, answer.text
        return answer

    told = get("json").json()
    [streams] = [one for one in told["panels"][0]["metrics"] if one["metric"] == "streams"]
    rows = [
        row for row in csv.DictReader(io.StringIO(get("csv").text)) if row["metric"] == "streams" and row["panel"] == "1 figures"
    ]
    assert [float(row["value"]) for row in rows if not row["ts"]] == [streams["value"]]
    assert pq.read_table(io.BytesIO(get("parquet").content)).num_rows == len(list(csv.reader(io.StringIO(get("csv").text)))) - 1
    assert get("svg").text.startswith("<svg")
    assert get("png").content.startswith(PNG)
    assert get("pdf").content.startswith(b"%PDF-")


def test_the_data_of_a_dashboard_and_insights_answer_a_key(shown: Running) -> None:
    with shown.client(shown.key(Role.VIEWER, "aurora")) as client:
        board = client.get(
            "/analytics/dashboard/aurora", params={"dashboard": "engagement", "period": "7d", "f": "is,country,DE"}
        )
        assert board.status_code == 200, board.text
        told = board.json()
        assert (told["dashboard"], told["filters"][0]["values"], told["period"]["days"]) == ("engagement", ["DE"], 7)
        found = client.get("/analytics/insights/aurora").json()
        assert found["day"] == "2026-03-09"
        assert found["headline"]
        assert found["freshness"]["through"] == "2026-03-09"
        for one in found["findings"]:
            assert client.get(one["link"]).status_code == 200
        assert client.get("/analytics/insights/aurora", params={"day": "2005-01-01"}).json()["headline"] is None
        assert client.get("/analytics/dashboard/aurora", params={"periode": "7d"}).status_code == 400


def test_insights_come_with_recommendations_warnings_and_links(shown: Running) -> None:
    with shown.client(shown.key(Role.VIEWER, "aurora")) as client:
        told = client.get("/analytics/insights/aurora").json()
        assert {"findings", "warnings", "dismissed", "freshness", "headline"} <= set(told)
        for one in [*told["findings"], *told["warnings"]]:
            assert one["recommendation"]
            assert client.get(one["link"]).status_code == 200
            assert "evidence" in one or {"drivers", "mix", "element"} <= set(one)


def test_a_finding_is_dismissed_only_with_an_id_a_verdict_and_the_right(shown: Running) -> None:
    path = "/analytics/insights/aurora/2026-03-09-0123456789/feedback"
    with shown.client(shown.key(Role.ANALYST, "aurora")) as client:
        assert client.post(path, data={"verdict": "dismiss"}).status_code == 204
        assert client.post(path, data={"verdict": "boring"}).status_code == 400
        assert client.post(path.replace("0123456789", "x"), data={"verdict": "dismiss"}).status_code == 400
        assert client.post(path.replace("aurora", "borealis"), data={"verdict": "dismiss"}).status_code == 404
    with shown.client(shown.key(Role.VIEWER, "aurora")) as client:
        assert client.post(path, data={"verdict": "dismiss"}).status_code == 403
    with browser(shown) as client:
        assert sign_in(client, shown.key(Role.ANALYST, "aurora")).status_code == 303
        assert client.post(path, data={"verdict": "dismiss"}, headers=HERE).status_code == 403
        token = token_in(client.get("/dashboards/aurora/edit"))
        sent = client.post(path, data={"verdict": "dismiss", "csrf": token}, headers=HERE)
        assert (sent.status_code, sent.headers["location"]) == (303, "/dashboards/aurora/overview")


def test_no_answer_shows_another_tenants_figures(shown: Running) -> None:
    """Both tenants have the same boards; each key's documents are its own tenant's."""
    totals = {}
    for tenant in ("aurora", "borealis"):
        with shown.client(shown.key(Role.VIEWER, tenant)) as client:
            told = client.get(f"/analytics/dashboard/{tenant}").json()
            assert told["tenant"] == tenant
            totals[tenant] = json.dumps(told["panels"][0]["metrics"])
    assert totals["aurora"] != totals["borealis"]
