"""A tenant's own metrics over HTTP: declared, queried, shown, changed and removed by it alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from server.running import Running, serving
from small_home import copy_of, landed_home, materialized_home

from analytics_dagster.tenancy.quotas import Quotas
from analytics_dagster.tenancy.roles import Role

__all__ = ["landed_home", "materialized_home"]

AT = "/analytics/metrics/premium_share"
YAML = """\
metrics:
  - name: premium_share
    description: Streams of plays, as we tell it.
    type: ratio
    type_params: {numerator: streams, denominator: plays}
    unit: ratio
    direction: down_is_bad
"""
ASKED = {"metric": "premium_share", "from": "2026-03-08", "to": "2026-03-08"}


@pytest.fixture(scope="module")
def shown(materialized_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The small service, served."""
    home = tmp_path_factory.mktemp("own-metrics") / ".analytics"
    copy_of(materialized_home, home)
    with serving(home, ANALYTICS_SERVER_WORKERS="1") as running:
        yield running


@pytest.fixture
def client(shown: Running) -> Iterator[httpx.Client]:
    with shown.client(shown.key(Role.ANALYST, "aurora", name="ann")) as made:
        yield made


def test_a_formula_is_there_for_queries_boards_and_pages_at_once_and_for_one_tenant_alone(
    client: httpx.Client, shown: Running
) -> None:
    assert client.get("/analytics/query", params=ASKED).status_code == 404
    assert client.put(AT, content=YAML, headers={"Content-Type": "application/yaml"}).status_code == 204
    [figure] = client.get("/analytics/query", params=ASKED).json()
    streams, plays = (
        client.get("/analytics/query", params={**ASKED, "metric": m}).json()[0]["value"] for m in ("streams", "plays")
    )
    assert figure["value"] == streams / plays
    assert "premium_share" in [one["name"] for one in client.get("/analytics/metrics").json()]
    board = "name: ours\ntitle: Ours\ndescription: Own metrics.\npanels:\n- trend: premium_share\n"
    assert client.put("/analytics/dashboard/aurora/ours", content=board).status_code == 204
    assert "Premium share" in client.get("/dashboards/aurora/ours").text
    assert "Streams of plays, as we tell it." in client.get("/dashboards/aurora/metrics/premium_share").text
    assert client.get("/analytics/rows", params=ASKED).json()["total"] == streams
    with shown.client(shown.key(Role.TENANT_ADMIN, "borealis")) as other:
        assert other.get("/analytics/query", params=ASKED).status_code == 404
        assert other.get(AT).status_code == 404
        assert other.get(AT, params={"tenant": "aurora"}).status_code == 404
        assert other.get("/dashboards/borealis/metrics/premium_share").status_code == 404
        assert "premium_share" not in [one["name"] for one in other.get("/analytics/metrics").json()]
    saved = client.get(AT)
    assert (saved.text, saved.headers["etag"]) == (YAML, '"1"')
    assert client.put(AT, content=YAML).status_code == 409
    changed = YAML.replace("as we tell it", "as they tell it")
    assert client.put(AT, params={"version": 1}, content=changed).status_code == 204
    told = client.get(f"{AT}/versions").json()
    assert [(one["version"], one["author"]) for one in told] == [(2, "ann"), (1, "ann")]
    assert client.delete(AT, params={"version": 2}).status_code == 204
    assert client.get("/analytics/query", params=ASKED).status_code == 404
    # The board says what is missing instead of showing nothing.
    assert client.get("/dashboards/aurora/ours").status_code == 400
    with shown.client(shown.key(Role.TENANT_ADMIN, "aurora")) as admin:
        assert {"metric.save", "metric.remove"} <= {row["action"] for row in admin.get("/analytics/audit").json()}


def test_what_cannot_be_used_is_told_with_its_line_and_field(client: httpx.Client) -> None:
    refused = client.put(AT, content=YAML.replace("numerator: streams", "numerator: streems"))
    assert (refused.status_code, refused.headers["content-type"]) == (422, "application/problem+json")
    [error] = refused.json()["errors"]
    assert (error["line"], "did you mean 'streams'" in error["reason"]) == (5, True)
    hostile = {
        "metrics": [{"name": "premium_share", "description": "x", "type": "derived", "unit": "x", "direction": "neutral",
                     "type_params": {"expr": "plays + (select 1)"}}]
    }  # fmt: skip
    refused = client.put(AT, json=hostile)
    [error] = refused.json()["errors"]
    assert (refused.status_code, error["field"], "is not taken in own declarations" in error["reason"]) == (422, "expr", True)
    assert client.put("/analytics/metrics/streams", content=YAML.replace("premium_share", "streams")).status_code == 422
    assert client.get(AT).status_code == 404


def test_a_viewer_declares_nothing_and_a_quota_holds(client: httpx.Client, shown: Running) -> None:
    with shown.client(shown.key(Role.VIEWER, "aurora")) as viewer:
        assert viewer.put(AT, content=YAML).status_code == 403
    opened = shown.installation
    Quotas(opened.database, opened.settings, opened.clock).set("aurora", {"metrics": 1})
    assert client.put(AT, content=YAML).status_code in (204, 409)
    refused = client.put("/analytics/metrics/second", content=YAML.replace("premium_share", "second"))
    assert (refused.status_code, "1 are allowed" in refused.json()["detail"]) == (400, True)
