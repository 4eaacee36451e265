"""Putting a view on a schedule in the browser and over the API; the server sends it by itself."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from reports.conftest import Mailbox, mail_server
from server.running import Running, serving, wait_for
from server.signing_in import HERE, browser, sign_in, token_in

from analytics_dagster.tenancy.roles import Role

FIELDS = {
    "name": "weekly",
    "recipients": "ann@example.com\r\nbob@example.com",
    "format": "pdf",
    "schedule": "0 7 * * mon",
    "time_zone": "Europe/Berlin",
}
BODY = {"name": "api", "view": "overview?period=7d", "schedule": "0 7 * * *", "recipients": ["ann@example.com"]}


@pytest.fixture(scope="module")
def mails() -> Iterator[Mailbox]:
    with mail_server(auth_required=False) as box:
        yield box


@pytest.fixture(scope="module")
def mailer(mails: Mailbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server that may mail to example.com, with tenants `acme` and `borealis`."""
    home = tmp_path_factory.mktemp("mailer") / ".analytics"
    Path(home).mkdir()
    settings = {**mails.settings(), "ANALYTICS_REPORT_DOMAINS": "example.com", "ANALYTICS_SERVER_WORKERS": "1"}
    with serving(home, **settings) as running:
        for tenant in ("acme", "borealis"):
            running.installation.tenants.ensure(tenant)
        yield running


@contextmanager
def signed_in(server: Running, role: Role, tenant: str = "acme", name: str = "") -> Iterator[httpx.Client]:
    with browser(server) as client:
        assert sign_in(client, server.key(role, tenant, name=name)).status_code == 303
        yield client


def form_of(client: httpx.Client, view: str) -> tuple[str, str]:
    """Follow *Send...* of a view: the form's page and the token in it."""
    page = client.get(view)
    found = re.search(r'<a href="([^"]+)">Send&hellip;</a>', page.text)
    assert found, page.text
    form = client.get(html.unescape(found[1]))
    assert form.status_code == 200
    return form.text, token_in(form)


def test_a_view_is_sent_from_its_page_on(mailer: Running, mails: Mailbox) -> None:
    with signed_in(mailer, Role.ANALYST, name="ann") as client:
        page, token = form_of(client, "/dashboards/acme/overview?period=7d&f=is,country,DE")
        assert 'name="view" value="overview?period=7d&amp;f=is,country,DE"' in page
        assert "Its last day is the newest with figures when it is sent." in page
        sent = {"csrf": token, "do": "add", "view": "overview?period=7d&f=is,country,DE", **FIELDS}
        made = client.post("/dashboards/acme/reports", data=sent, headers=HERE)
        assert (made.status_code, made.headers["location"]) == (303, "/dashboards/acme/reports")
        again = client.post("/dashboards/acme/reports", data=sent, headers=HERE)
        assert again.status_code == 409
        assert "acme has a report &#39;weekly&#39; already" in again.text
        listed = client.get("/dashboards/acme/reports").text
        assert "ann@example.com, bob@example.com" in listed
        assert "Europe/Berlin; next" in listed
        assert client.post("/dashboards/acme/reports", data={"do": "send", "name": "weekly"}, headers=HERE).status_code == 403
        now = {"csrf": token, "do": "send", "name": "weekly"}
        assert client.post("/dashboards/acme/reports", data=now, headers=HERE).status_code == 303
        wait_for("the server's own sending", lambda: len(mails.mails) == 2)
        assert {str(mail["To"]) for mail in mails.mails} == {"ann@example.com", "bob@example.com"}
        [attached] = mails.mails[0].iter_attachments()
        assert attached.get_content().startswith(b"%PDF-")
        text = mails.mails[0].get_body(("plain",))
        assert text is not None
        assert "Only where country is DE" in text.get_content()
        assert "asked for by hand; set up by ann." in text.get_content()
        wait_for("the list to say so", lambda: "sent to 2 of 2" in client.get("/dashboards/acme/reports").text)
        gone = client.post("/dashboards/acme/reports", data={"csrf": token, "do": "remove", "name": "weekly"}, headers=HERE)
        assert gone.status_code == 303
        assert "None yet." in client.get("/dashboards/acme/reports").text


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"name": "Weekly!"}, "name &#39;Weekly!&#39; cannot be used"),
        ({"recipients": "eve@elsewhere.example"}, "may not be mailed to eve@elsewhere.example"),
        ({"recipients": "slack:music"}, "no Slack channel &#39;music&#39; is configured"),
        ({"schedule": "every monday"}, "cannot be used: 2 fields are given"),
        ({"view": "overvieww"}, "overvieww"),
        ({"view": "overview?metric=streems"}, "did you mean &#39;streams&#39;"),
        ({"do": "explode"}, "do=&#39;explode&#39; is not known"),
    ],
)
def test_what_is_refused_comes_back_in_its_form(mailer: Running, wrong: dict[str, str], said: str) -> None:
    with signed_in(mailer, Role.ANALYST, name="ann") as client:
        token = token_in(client.get("/dashboards/acme/reports?view=overview"))
        sent = {"csrf": token, "do": "add", "view": "overview", **FIELDS, **wrong}
        refused = client.post("/dashboards/acme/reports", data=sent, headers=HERE)
    assert refused.status_code in (400, 404)
    assert said in refused.text
    assert f'value="{FIELDS["time_zone"]}"' in refused.text  # nothing that was written is lost


def test_the_api_adds_lists_pauses_resumes_and_removes(mailer: Running) -> None:
    with mailer.client(mailer.key(Role.ANALYST, "acme", name="api")) as client:
        made = client.post("/analytics/reports", json=BODY)
        assert made.status_code == 201, made.text
        assert made.json()["view"] == "overview?period=7d"
        assert (made.json()["format"], made.json()["time_zone"], made.json()["creator"]) == ("pdf", "UTC", "api")
        assert client.post("/analytics/reports", json=BODY).status_code == 409
        assert [one["name"] for one in client.get("/analytics/reports").json()] == ["api"]
        assert client.post("/analytics/reports/api/pause").json()["next_due_at"] is None
        assert client.post("/analytics/reports/api/resume").json()["next_due_at"] is not None
        assert client.get("/analytics/reports/api/sendings").json() == []
        refused = client.post("/analytics/reports", json={**BODY, "name": "other", "view": "/dashboards/borealis/overview"})
        assert refused.status_code == 400
        assert "is of tenant 'borealis'" in refused.json()["detail"]
        assert client.delete("/analytics/reports/api").status_code == 204
        assert client.get("/analytics/reports/api").status_code == 404


def test_who_may_not_send_sees_no_recipients_either(mailer: Running) -> None:
    with mailer.client(mailer.key(Role.ANALYST, "acme")) as client:
        assert client.post("/analytics/reports", json={**BODY, "name": "mine"}).status_code == 201
    with signed_in(mailer, Role.VIEWER) as viewer:
        assert "Send&hellip;" not in viewer.get("/dashboards/acme/overview").text
        assert viewer.get("/dashboards/acme/reports").status_code == 403
        assert viewer.get("/analytics/reports").status_code == 403
    with mailer.client(mailer.key(Role.TENANT_ADMIN, "borealis")) as other:
        assert other.get("/analytics/reports", params={"tenant": "acme"}).status_code == 404
        assert other.get("/analytics/reports/mine").status_code == 404
        assert other.post("/analytics/reports/mine/send").status_code == 404
        assert other.delete("/analytics/reports/mine").status_code == 404
        assert other.get("/dashboards/acme/reports").status_code == 404
        assert other.get("/analytics/reports").json() == []


def test_what_did_not_go_out_is_a_metric(mailer: Running, mails: Mailbox) -> None:
    mails.answer = lambda _: "550 no such user"
    try:
        with mailer.client(mailer.key(Role.ANALYST, "borealis")) as client:
            assert client.post("/analytics/reports", json={**BODY, "name": "lost"}).status_code == 201
            assert client.post("/analytics/reports/lost/send").status_code == 200

            def failed() -> bool:
                return client.get("/analytics/reports/lost").json()["last_error"] == "550 no such user"

            wait_for("the refusal", failed)
        with mailer.client() as prometheus:
            assert 'analytics_reports_not_sent{of="borealis"} 1.0' in prometheus.get("/metrics").text
    finally:
        mails.answer = lambda _: None
