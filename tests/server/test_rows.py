"""From figures of pages to the raw rows behind them, over HTTP: who may, how many, as which file."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urljoin

import httpx
import pyarrow.parquet as pq
import pytest
from server.running import Running, serving
from server.signing_in import browser, sign_in
from small_home import copy_of, landed_home, materialized_home

from analytics_dagster.tenancy.roles import Role

__all__ = ["landed_home", "materialized_home"]

BOARD = "/dashboards/aurora/overview"


@pytest.fixture(scope="module")
def shown(materialized_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The small service, served."""
    home = tmp_path_factory.mktemp("rows") / ".analytics"
    copy_of(materialized_home, home)
    with serving(home, ANALYTICS_SERVER_WORKERS="1") as running:
        yield running


@pytest.fixture(scope="module")
def analyst(shown: Running) -> Iterator[httpx.Client]:
    with browser(shown) as client:
        assert sign_in(client, shown.key(Role.ANALYST, "aurora")).status_code == 303
        yield client


def links(page: str, metric: str) -> list[str]:
    """Addresses of rows that a page leads to."""
    found = [html.unescape(link) for link in re.findall(r'href="(rows\?[^"]+)"', page)]
    return [urljoin(BOARD, link) for link in found if f"metric={metric}&" in link]


def test_each_day_each_figure_and_each_place_of_a_board_leads_to_as_many_rows_as_it_says(analyst: httpx.Client) -> None:
    page = analyst.get(f"{BOARD}?period=7d&metric=streams").text
    found = dict.fromkeys(links(page, "streams"))
    assert len(found) > 15  # seven days, the whole week, and places of the leaderboards
    for link in [*found][:3] + [*found][-3:]:
        rows = analyst.get(link.replace("/rows?", "/rows.json?")).json()
        assert (rows["counted"], rows["total"]) == (True, rows["figure"]), link
        assert rows["total"] > 0
    table = analyst.get([*found][-1])
    assert "As many rows as the figure says." in table.text
    assert "default-src 'none'" in table.headers["content-security-policy"]
    assert "<script>" not in table.text


def test_a_page_of_rows_is_a_part_with_links_to_the_next_one(analyst: httpx.Client) -> None:
    at = "/dashboards/aurora/rows?metric=skip_rate&from=2026-03-02&to=2026-03-08"
    page = analyst.get(at).text
    total = analyst.get(at.replace("rows?", "rows.json?")).json()["total"]
    assert f"Rows 1 to 100 of {total:,}" in page
    assert page.count("<tr>") == 101
    [behind] = re.findall(r'href="([^"]+)" rel="next"', page)
    second = analyst.get(html.unescape(behind)).text
    assert "Rows 101 to " in second
    assert 'rel="prev"' in second
    [whole] = [html.unescape(link) for link in re.findall(r'href="([^"]+&amp;of=[^"]+)"', page) if "plays" in link][:1]
    assert "denominator" in analyst.get(whole).text


def test_rows_are_also_files_and_a_cut_one_says_so(analyst: httpx.Client, shown: Running) -> None:
    at = "/dashboards/aurora/rows.{}?metric=plays&from=2026-03-08&to=2026-03-08"
    told = analyst.get(at.format("json")).json()
    assert pq.read_table(io.BytesIO(analyst.get(at.format("parquet")).content)).num_rows == told["total"]
    assert len(analyst.get(at.format("csv")).text.splitlines()) == told["total"] + 1
    with shown.client(shown.key(Role.ANALYST, "aurora")) as client:
        asked = {"metric": "plays", "from": "2026-03-08", "to": "2026-03-08", "limit": 2, "format": "csv"}
        cut = client.get("/analytics/rows", params=asked).text.splitlines()
        assert cut[-1] == f"# rows 1 to 2 of {told['total']}; the next ones begin at offset=2"
        assert client.get("/analytics/rows", params={**asked, "format": "json"}).json()["truncated"] is True
        assert client.get("/analytics/rows", params={**asked, "format": "xml"}).status_code == 400
        assert client.get("/analytics/rows", params={**asked, "where": 'contry="DE"'}).status_code == 404


def test_who_sees_figures_only_gets_no_rows_and_no_links_to_them(shown: Running) -> None:
    with browser(shown) as viewer:
        sign_in(viewer, shown.key(Role.VIEWER, "aurora"))
        assert "rows?metric" not in viewer.get(BOARD).text
        assert viewer.get("/dashboards/aurora/rows?metric=plays").status_code == 403
    with shown.client(shown.key(Role.TENANT_ADMIN, "borealis")) as other:
        assert other.get("/dashboards/aurora/rows?metric=plays").status_code == 404
        assert other.get("/analytics/rows", params={"metric": "plays", "tenant": "aurora"}).status_code == 404


def test_the_catalogues_pages_are_a_tenants_own_and_of_whoever_may_look(analyst: httpx.Client, shown: Running) -> None:
    assert 'href="/dashboards/aurora/metrics/streams"' in analyst.get("/dashboards/aurora/metrics").text
    page = analyst.get("/dashboards/aurora/metrics/streams")
    assert (page.status_code, "raw/plays" in page.text, 'role="img"' in page.text) == (200, True, True)
    assert str(shown.home) not in page.text
    assert analyst.get("/dashboards/aurora/metrics/streems").status_code == 404
    assert analyst.get("/dashboards/borealis/metrics/streams").status_code == 404
