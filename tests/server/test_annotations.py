"""Annotations by people (form, API) and by what happened, on the charts of one tenant and of nobody else."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from server.running import Running, serving
from server.signing_in import HERE, browser, sign_in, token_in
from small_home import LAST, NOW, copy_of, landed_home, materialized_home

from analytics_dagster.tenancy.roles import Role

__all__ = ["landed_home", "materialized_home"]

PAGE = "/dashboards/aurora/annotations"


@pytest.fixture(scope="module")
def shown(materialized_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The small service, served, with an alert that fired and a figure that was restated on its last day."""
    home = tmp_path_factory.mktemp("annotations") / ".analytics"
    copy_of(materialized_home, home)
    with serving(home, ANALYTICS_SERVER_WORKERS="1") as running:
        happened(running)
        yield running


def happened(running: Running) -> None:
    import pyarrow as pa

    from analytics_dagster.lake.schemas import RESTATEMENTS
    from analytics_dagster.lake.state_tables import alert_transitions, verdicts

    at = dt.datetime.combine(LAST, dt.time(12), dt.UTC)
    alert = {
        "tenant": "aurora", "rule": "few_streams", "fingerprint": "f", "occurrence": "o", "from_state": "pending",
        "to_state": "firing", "at": at, "recorded_at": NOW, "value": 1.0, "reason": "below", "labels": "{}",
    }  # fmt: skip
    verdict = {
        "tenant": "aurora", "rule": "few_streams", "asset": "aggregates/listening", "rule_version": "1",
        "judged_sequence": 1, "judged_at": NOW,
    }  # fmt: skip
    running.installation.database.write(lambda connection: connection.execute(alert_transitions.insert().values(**alert)))
    running.installation.database.write(lambda connection: connection.execute(verdicts.insert().values(**verdict)))
    changed: dict[str, Any] = {
        "restatement_id": "r1", "ts": NOW, "day": LAST, "asset": "aggregates/listening", "metric": "streams", "split_by": None,
        "dimensions": "{}", "old": 40.0, "new": 50.0, "difference": 10.0, "share": 0.25, "cause": "late_rows", "batch": "b",
        "run": "0123456789ab",
    }  # fmt: skip
    ledger = running.installation.lake.tenant("aurora").table(RESTATEMENTS)
    ledger.append(pa.Table.from_pylist([changed], schema=RESTATEMENTS.arrow))


@pytest.fixture
def analyst(shown: Running) -> Iterator[httpx.Client]:
    with browser(shown) as client:
        assert sign_in(client, shown.key(Role.ANALYST, "aurora", name="ann")).status_code == 303
        yield client


def streams(client: httpx.Client, query: str = "") -> list[dict[str, Any]]:
    """The annotations of the chart of streams."""
    board = client.get(f"/dashboards/aurora/overview.json?metric=streams{query}").json()
    [chart] = [panel["metrics"][0] for panel in board["panels"] if panel["kind"] == "trend"]
    found: list[dict[str, Any]] = chart["annotations"]
    return found


def test_somebody_marks_days_in_a_form_and_everybody_of_the_tenant_sees_it(analyst: httpx.Client, shown: Running) -> None:
    fields = {"do": "add", "text": "Campaign <b>", "from": "2026-03-04", "to": "2026-03-06", "where": 'country="DE"'}
    assert analyst.post(PAGE, data=fields, headers=HERE).status_code == 403  # without the session's token
    sent = analyst.post(PAGE, data={**fields, "csrf": token_in(analyst.get(PAGE))}, headers=HERE)
    assert (sent.status_code, sent.headers["location"]) == (303, PAGE)
    with browser(shown) as viewer:
        sign_in(viewer, shown.key(Role.VIEWER, "aurora"))
        page = viewer.get("/dashboards/aurora/overview?metric=streams").text
        told = "Campaign &lt;b&gt; (country=&#34;DE&#34;), ann"
        assert f"4 Mar 2026 to 6 Mar 2026: {told}" in page
        assert f"<td>{told}</td>" in page
        assert "<title>Campaign &lt;b&gt; (country=" in page
        assert "<b>" not in page
        assert viewer.get(PAGE).status_code == 403
        assert PAGE not in page
        [mark] = [one for one in streams(viewer) if one["kind"] == "person"]
        assert (mark["from"], mark["to"], mark["author"]) == ("2026-03-04", "2026-03-06", "ann")
        assert [one for one in streams(viewer, "&f=is_not,country,DE") if one["kind"] == "person"] == []
        assert viewer.get("/dashboards/aurora/overview.pdf?metric=streams").status_code == 200
    removed = analyst.post(PAGE, data={"do": "remove", "id": mark["id"], "csrf": token_in(analyst.get(PAGE))}, headers=HERE)
    assert removed.status_code == 303
    with shown.client(shown.key(Role.TENANT_ADMIN, "aurora")) as client:
        trail = [(row["action"], row["actor"]) for row in client.get("/analytics/audit").json()]
    assert {("annotation.add", "ann"), ("annotation.remove", "ann")} <= set(trail)


def test_what_is_wrong_comes_back_in_the_form(analyst: httpx.Client) -> None:
    fields = {"do": "add", "text": "Launch", "from": "2026-03-04", "metric": "streems", "csrf": token_in(analyst.get(PAGE))}
    refused = analyst.post(PAGE, data=fields, headers=HERE)
    assert (refused.status_code, "did you mean &#39;streams&#39;" in refused.text) == (404, True)
    assert 'value="Launch"' in refused.text
    backwards = analyst.post(PAGE, data={**fields, "metric": "", "to": "2026-03-01"}, headers=HERE)
    assert backwards.status_code == 400
    assert "is after to=2026-03-01" in backwards.text


def test_programs_add_list_and_remove_annotations_of_their_tenant_alone(shown: Running) -> None:
    with shown.client(shown.key(Role.ANALYST, "aurora")) as client, shown.client(shown.key(Role.ANALYST, "borealis")) as other:
        new = {"text": "Player 4.2", "from": "2026-03-05T10:00:00Z", "metric": "streams"}
        made = client.post("/analytics/annotations", json=new)
        assert (made.status_code, made.json()["ends_at"]) == (201, "2026-03-05T10:00:00Z")
        assert [one["text"] for one in client.get("/analytics/annotations?from=2026-03-05&to=2026-03-05").json()] == [
            "Player 4.2"
        ]
        assert client.get("/analytics/annotations?to=2026-03-04").json() == []
        assert other.get("/analytics/annotations").json() == []
        at = f"/analytics/annotations/{made.json()['id']}"
        assert other.delete(at).status_code == 404
        assert client.post("/analytics/annotations", json={**new, "where": 'country!="DE"'}).status_code == 400
        assert client.post("/analytics/annotations", json={**new, "where": 'contry="DE"'}).status_code == 404
        assert (client.delete(at).status_code, client.delete(at).status_code) == (204, 404)
    with shown.client(shown.key(Role.VIEWER, "aurora")) as viewer:
        assert viewer.post("/analytics/annotations", json=new).status_code == 403


def test_alerts_restatements_and_releases_mark_themselves(analyst: httpx.Client) -> None:
    found = {one["kind"]: one["text"] for one in streams(analyst)}
    assert found["alert"] == "Alert few_streams fired"
    assert found["restatement"] == "Restated from 40 to 50 (late rows)"
    assert found["release"].startswith("Release of ")
    # An alert stands on charts of the table that its rule reads, a restatement on those of its metric.
    board = analyst.get("/dashboards/aurora/technical.json").json()
    kinds = {one["kind"] for panel in board["panels"] for chart in panel.get("metrics", ()) for one in chart["annotations"]}
    assert not kinds & {"alert", "restatement"}


def test_the_quality_board_lists_restated_figures_and_the_trust_strip_leads_there(analyst: httpx.Client) -> None:
    page = analyst.get("/dashboards/aurora/overview").text
    assert '<a href="/dashboards/aurora/quality#restated">1 figure restated</a>' in page
    board = analyst.get("/dashboards/aurora/quality").text
    assert 'id="restated"' in board
    for cell in ("<td>2026-03-09</td>", '<td class="number">40</td>', '<td class="number">50</td>', "<td>late rows</td>"):
        assert cell in board
    told = analyst.get("/dashboards/aurora/quality.json").json()
    [listed] = [panel["restatements"] for panel in told["panels"] if panel["kind"] == "restatements"]
    assert [(one["metric"], one["old"], one["new"], one["cause"]) for one in listed] == [("streams", 40.0, 50.0, "late_rows")]
    assert analyst.get("/dashboards/aurora/quality.pdf").status_code == 200
    assert "No published figure of these days" in analyst.get("/dashboards/aurora/quality?period=day&to=2026-03-01").text
