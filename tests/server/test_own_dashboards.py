"""Making, changing and sharing a dashboard through the forms of the pages, and through the API."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from server.running import Running
from server.signing_in import HERE, browser, sign_in, token_in

from analytics_dagster.tenancy.roles import Role

YAML = "name: {name}\ntitle: Mine\ndescription: What I look at.\npanels:\n- figures: [plays]\n- trend: streams\n"


@contextmanager
def signed_in(server: Running, role: Role, tenant: str = "acme", name: str = "") -> Iterator[httpx.Client]:
    with browser(server) as client:
        assert sign_in(client, server.key(role, tenant, name=name)).status_code == 303
        yield client


@pytest.fixture
def analyst(server: Running) -> Iterator[httpx.Client]:
    with signed_in(server, Role.ANALYST, name="ann") as client:
        yield client


def send(client: httpx.Client, path: str, **fields: object) -> httpx.Response:
    """Load the form's page, fill it in, send it."""
    token = token_in(client.get(path))
    return client.post(path, data={"csrf": token, **fields}, headers=HERE)


def create(client: httpx.Client, name: str) -> None:
    fields = {"name": name, "title": f"About {name}", "description": "Why.", "kind": "figures", "metrics": ["plays", "streams"]}
    made = send(client, "/dashboards/acme/edit", do="create", **fields)
    assert (made.status_code, made.headers["location"]) == (303, f"/dashboards/acme/edit/{name}")


def test_a_dashboard_is_made_arranged_looked_at_and_removed(analyst: httpx.Client, server: Running) -> None:
    create(analyst, "weekly")
    page = "/dashboards/acme/edit/weekly"
    assert send(analyst, page, do="add", version=1, kind="leaderboards", metrics=["streams"], by=["country"]).status_code == 303
    assert send(analyst, page, do="up", version=2, panel=1).status_code == 303
    exported = analyst.get("/dashboards/acme/weekly.yaml")
    assert exported.headers["content-type"] == "application/yaml"
    assert exported.text.index("leaderboards") < exported.text.index("figures")
    with signed_in(server, Role.VIEWER) as viewer:
        # Shared: whoever may see the tenant's figures finds it in the navigation, and may not change it.
        assert 'href="/dashboards/acme/weekly"' in viewer.get("/dashboards/acme/overview").text
        assert "About weekly" in viewer.get("/dashboards/acme/weekly").text
        assert viewer.get(page).status_code == 403
    assert send(analyst, page, do="drop", version=3, panel=0).status_code == 303
    assert send(analyst, page, do="restore", version=4, to=2).status_code == 303
    assert "by ann" in analyst.get("/dashboards/acme/edit").text
    assert send(analyst, page, do="remove", version=5).headers["location"] == "/dashboards/acme/edit"
    assert analyst.get("/dashboards/acme/weekly").status_code == 404


def test_another_tenant_can_neither_open_nor_change_it(analyst: httpx.Client, server: Running) -> None:
    create(analyst, "secret")
    with signed_in(server, Role.TENANT_ADMIN, "borealis") as other:
        for path in ("secret", "secret.yaml", "secret.json", "edit", "edit/secret"):
            assert other.get(f"/dashboards/acme/{path}").status_code == 404
        assert other.get("/dashboards/borealis/secret").status_code == 404
        token = token_in(other.get("/dashboards/borealis/edit"))
        sent = other.post("/dashboards/acme/edit/secret", data={"csrf": token, "do": "remove", "version": 1}, headers=HERE)
        assert sent.status_code == 404
    assert analyst.get("/dashboards/acme/secret").status_code == 200


def test_what_was_saved_meanwhile_is_not_overwritten(analyst: httpx.Client) -> None:
    create(analyst, "shared")
    page = "/dashboards/acme/edit/shared"
    text = YAML.format(name="shared")
    assert send(analyst, page, do="write", version=1, text=text).status_code == 303
    late = send(analyst, page, do="write", version=1, text=text.replace("Mine", "Too late"))
    assert late.status_code == 409
    assert "was saved by ann" in late.text
    assert "Too late" in late.text  # what was written is still in its form
    assert "Too late" not in analyst.get("/dashboards/acme/shared").text


def test_a_mistake_comes_back_in_its_form_with_its_line(analyst: httpx.Client) -> None:
    refused = send(
        analyst, "/dashboards/acme/edit", do="import", text="name: x\ntitle: t\ndescription: d\npanels:\n- trend: streems\n"
    )
    assert refused.status_code == 400
    assert "no metric &#39;streems&#39;; did you mean" in refused.text
    assert "- trend: streems" in refused.text


def test_a_form_without_the_sessions_token_changes_nothing(analyst: httpx.Client) -> None:
    sent = analyst.post("/dashboards/acme/edit", data={"do": "import", "text": YAML.format(name="forged")}, headers=HERE)
    assert sent.status_code == 403
    assert analyst.get("/dashboards/acme/forged").status_code == 404


def test_text_of_a_dashboard_is_never_markup(analyst: httpx.Client) -> None:
    hostile = YAML.format(name="hostile").replace("Mine", "'<script>alert(1)</script>'")
    assert send(analyst, "/dashboards/acme/edit", do="import", text=hostile).status_code == 303
    for path in ("hostile", "edit/hostile", "edit", "overview"):
        assert "<script>alert" not in analyst.get(f"/dashboards/acme/{path}").text


def test_a_dashboard_is_exported_and_imported_by_key(server: Running) -> None:
    with server.client(server.key(Role.ANALYST, "acme")) as client:
        path = "/analytics/dashboard/acme/by-key"
        text = YAML.format(name="by-key")
        assert client.put(path, content=text, headers={"Content-Type": "application/yaml"}).status_code == 204
        saved = client.get(path)
        assert (saved.headers["etag"], "trend: streams" in saved.text) == ('"1"', True)
        assert client.put(path, content=text).status_code == 409
        assert client.put(path, params={"version": 1}, content=saved.text).status_code == 204
        assert client.put(path, params={"version": 2}, content=text.replace("by-key", "other")).status_code == 400
        assert client.get("/analytics/dashboard/acme", params={"dashboard": "by-key"}).json()["title"] == "Mine"
        assert client.delete(path, params={"version": 2}).status_code == 204
        assert client.get(path).status_code == 404
    with server.client(server.key(Role.VIEWER, "acme")) as client:
        assert client.put(path, content=text).status_code == 403
