"""Mail and Slack against real servers: encryption, log-in, refusals, uploads, webhooks."""

from __future__ import annotations

import datetime as dt
import json
import ssl
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import trustme
from pytest_httpserver import HTTPServer
from reports.conftest import Mailbox, drawn, keep, mail_server
from werkzeug import Request, Response

from analytics_dagster.alerts.channels.base import ThrottledError, UncertainError
from analytics_dagster.clock import ManualClock
from analytics_dagster.errors import DeliveryError, RetryableDeliveryError, SettingsError
from analytics_dagster.installation import Installation
from analytics_dagster.reports.document import Message, message_for
from analytics_dagster.reports.mail import MailServer, compose
from analytics_dagster.reports.mail import mail_server as mail_of
from analytics_dagster.reports.send import require_ways, send_due
from analytics_dagster.reports.slack import as_mrkdwn, slack_channels, slack_way
from analytics_dagster.reports.store import Reports


@pytest.fixture
def message(installation: Installation, clock: ManualClock) -> Message:
    report = keep(installation)
    clock.advance(dt.timedelta(days=1))
    from analytics_dagster.reports.sendings import note_due

    note_due(installation.database, clock.now())
    (sending,) = Reports(installation.database, clock).sendings("acme", "weekly")
    return message_for(drawn(installation, report), report, sending)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def secure(authority: trustme.CA) -> Iterator[tuple[Mailbox, MailServer]]:
    """A server that takes nothing without STARTTLS and a password, and the way to it."""
    theirs, ours = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(theirs)
    authority.configure_trust(ours)
    with mail_server(tls_context=theirs, require_starttls=True, auth_required=True) as box:
        yield box, MailServer("127.0.0.1", box.port, "starttls", "reports@house.example", "ann", "right", ours)


def test_mail_is_encrypted_and_logged_in_for(secure: tuple[Mailbox, MailServer], message: Message, clock: ManualClock) -> None:
    box, server = secure
    server.send("ann@example.com", message, clock)
    assert (len(box.mails), box.logins) == (1, [("ann", "right")])


def test_a_wrong_password_and_an_unknown_authority_may_be_mended(
    secure: tuple[Mailbox, MailServer], message: Message, clock: ManualClock
) -> None:
    box, server = secure
    with pytest.raises(RetryableDeliveryError, match=r"mail server 127\.0\.0\.1:\d+: 535"):
        replace(server, password="wrong").send("ann@example.com", message, clock)
    with pytest.raises(RetryableDeliveryError, match="certificate verify failed"):
        replace(server, trust=None).send("ann@example.com", message, clock)
    with pytest.raises(RetryableDeliveryError, match="STARTTLS"):
        replace(server, security="off", user=None).send("ann@example.com", message, clock)
    assert box.mails == []


def test_refusals_for_now_and_for_good_are_told_apart(mailbox: Mailbox, message: Message, clock: ManualClock) -> None:
    server = MailServer("127.0.0.1", mailbox.port, "off", "reports@house.example")
    mailbox.answer = lambda _: "452 mailbox full"
    with pytest.raises(RetryableDeliveryError, match="452 mailbox full"):
        server.send("ann@example.com", message, clock)
    mailbox.answer = lambda _: "550 no such user"
    with pytest.raises(DeliveryError, match="550 no such user"):
        server.send("ann@example.com", message, clock)
    with pytest.raises(RetryableDeliveryError, match="refused"):
        replace(server, port=1).send("ann@example.com", message, clock)


def test_a_picture_is_seen_within_the_mail(message: Message, clock: ManualClock) -> None:
    picture = replace(message, document=replace(message.document, media_type="image/png", content=b"\x89PNG", file_name="a.png"))
    mail = compose(picture, "reports@house.example", "ann@example.com", clock)
    html = mail.get_body(("html",))
    assert html is not None
    assert f'src="cid:{message.key}"' in html.get_content()
    (shown,) = [part for part in mail.walk() if part.get_content_type() == "image/png"]
    assert (shown["Content-ID"], shown.get_content()) == (f"<{message.key}>", b"\x89PNG")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\x0b", "\x1c", "\x85", "\u2028"])
def test_a_subject_is_one_line_whatever_a_title_has_in_it(message: Message, clock: ManualClock, end: str) -> None:
    odd = replace(message, document=replace(message.document, subject=f"Monday{end}Bcc: eve@example.com"))
    mail = compose(odd, "reports@house.example", "ann@example.com", clock)
    assert (str(mail["Subject"]), mail["Bcc"]) == ("Monday Bcc: eve@example.com", None)
    assert b"\nBcc" not in mail.as_bytes()


def test_words_of_tenants_are_no_markup(message: Message, clock: ManualClock) -> None:
    odd = replace(message, document=replace(message.document, covers=("Only where artist is <b>&Co</b>",)))
    html = compose(odd, "reports@house.example", "ann@example.com", clock).get_body(("html",))
    assert html is not None
    assert "&lt;b&gt;&amp;Co&lt;/b&gt;" in html.get_content()
    assert "&lt;b&gt;&amp;Co&lt;/b&gt;" in as_mrkdwn(odd)


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"SMTP_FROM": "a@b.example"}, "no mail can be sent: SMTP_HOST is not set"),
        ({"SMTP_HOST": "mail.example"}, "no mail can be sent: SMTP_FROM is not set"),
        (
            {"SMTP_HOST": "mail.example", "SMTP_FROM": "a@b.example", "SMTP_SECURITY": "off", "SMTP_PASSWORD": "s3cret"},
            "SMTP_SECURITY=off would send SMTP_PASSWORD in the clear",
        ),
    ],
)
def test_what_is_missing_of_the_mail_server_is_named(installation: Installation, environment: dict[str, str], said: str) -> None:
    settings = installation.settings.model_validate(
        {**installation.settings.model_dump(), **{k.lower(): v for k, v in environment.items()}}
    )
    with pytest.raises(SettingsError, match=said):
        mail_of(settings)


# --- Slack


def config(home: Path, text: str) -> None:
    (home / "alerting.yaml").write_text(text, encoding="utf-8")


BOT = """channels:
- {{name: music, type: slack, bot_token_env: TOKEN, channel: {channel}, api_url: "{api}"}}
- {{name: hook, type: slack, api_url_env: HOOK}}
- {{name: loud, type: webhook, url: "https://elsewhere.example"}}
"""


@pytest.fixture
def slack(httpserver: HTTPServer, installation: Installation, home: Path) -> HTTPServer:
    """Slack's three calls that upload a file."""
    config(home, BOT.format(channel="C0123ABCD", api=httpserver.url_for("/api/")))
    there = {"ok": True, "upload_url": httpserver.url_for("/upload"), "file_id": "F1"}
    httpserver.expect_request("/api/files.getUploadURLExternal").respond_with_json(there)
    httpserver.expect_request("/upload").respond_with_data("OK - 14")
    httpserver.expect_request("/api/files.completeUploadExternal").respond_with_json({"ok": True, "files": [{"id": "F1"}]})
    return httpserver


def secrets(server: HTTPServer) -> dict[str, str]:
    return {"TOKEN": "xoxb-1", "HOOK": server.url_for("/hook")}


def test_a_bot_uploads_the_file_with_the_words_in_one_message(
    slack: HTTPServer, installation: Installation, message: Message, clock: ManualClock
) -> None:
    slack_way(installation.settings, secrets(slack), "music", "acme").send(message, clock)
    asked, uploaded, completed = (request for request, _ in slack.log)
    assert (asked.form["filename"], asked.form["length"]) == ("acme-overview.pdf", "14")
    assert asked.headers["Authorization"] == "Bearer xoxb-1"
    assert b"%PDF-1.7 small" in uploaded.data
    assert completed.form["channel_id"] == "C0123ABCD"
    said = completed.form["initial_comment"]
    assert said.startswith("*Overview: acme*\n2026-03-10 to 2026-03-10, 1 days, UTC\nData through 2026-03-10 23:59 UTC")
    assert "<http://127.0.0.1:8000/dashboards/acme/overview?period=7d|Open it live>" in said


def test_a_webhook_says_what_the_report_covers_and_that_it_takes_no_file(
    slack: HTTPServer, installation: Installation, message: Message, clock: ManualClock
) -> None:
    slack.expect_request("/hook").respond_with_data("ok")
    slack_way(installation.settings, secrets(slack), "hook", "acme").send(message, clock)
    said = json.loads(slack.log[0][0].data)["text"]
    assert "Streams: *1.2k* +12 %" in said
    assert "A webhook takes no files; with a bot token the file comes along." in said


def test_what_slack_answers_decides_what_becomes_of_it(
    httpserver: HTTPServer, installation: Installation, home: Path, message: Message, clock: ManualClock
) -> None:
    config(home, BOT.format(channel="C0123ABCD", api=httpserver.url_for("/api/")))
    way = slack_way(installation.settings, secrets(httpserver), "music", "acme")
    answers: list[Response] = []
    httpserver.expect_request("/api/files.getUploadURLExternal").respond_with_handler(lambda _request: answers.pop())

    def told(body: str, status: int = 200, **headers: str) -> Response:
        return Response(body, status, headers, content_type="application/json")

    answers.append(told('{"ok": false, "error": "ratelimited"}', 429, **{"Retry-After": "30"}))
    with pytest.raises(ThrottledError) as throttled:
        way.send(message, clock)
    assert throttled.value.retry_after == 30
    answers.append(told('{"ok": false, "error": "not_in_channel"}'))
    with pytest.raises(RetryableDeliveryError, match="not_in_channel"):
        way.send(message, clock)
    answers.append(told('{"ok": false, "error": "channel_not_found"}'))
    with pytest.raises(DeliveryError, match="Slack refused: channel_not_found"):
        way.send(message, clock)
    there = json.dumps({"ok": True, "upload_url": httpserver.url_for("/upload"), "file_id": "F1"})
    answers.append(told(there))
    httpserver.expect_request("/upload").respond_with_data("no", status=500)
    with pytest.raises(UncertainError, match="no answer: INTERNAL SERVER ERROR"):
        way.send(message, clock)


def test_only_slack_channels_with_an_id_take_files(installation: Installation, home: Path, httpserver: HTTPServer) -> None:
    config(home, BOT.format(channel='"#music"', api=httpserver.url_for("/api/")))
    with pytest.raises(SettingsError, match="channel 'music' has '#music'; write the id that Slack shows"):
        slack_way(installation.settings, secrets(httpserver), "music", "acme")
    for name in ("loud", "nobody"):
        with pytest.raises(SettingsError, match="there are slack:music, slack:hook"):
            slack_way(installation.settings, secrets(httpserver), name, "acme")


def test_a_report_to_slack_goes_out_once_though_it_was_throttled(
    slack: HTTPServer, installation: Installation, clock: ManualClock
) -> None:
    keep(installation, "weekly", "slack:music")
    clock.advance(dt.timedelta(days=1))
    slack.clear()
    answers = [Response('{"ok": false, "error": "ratelimited"}', 429, {"Retry-After": "30"}, content_type="application/json")]
    there = json.dumps({"ok": True, "upload_url": slack.url_for("/upload"), "file_id": "F1"})

    def answer(_request: Request) -> Response:
        return answers.pop() if answers else Response(there, content_type="application/json")

    slack.expect_request("/api/files.getUploadURLExternal").respond_with_handler(answer)
    slack.expect_request("/upload").respond_with_data("OK")
    slack.expect_request("/api/files.completeUploadExternal").respond_with_json({"ok": True, "files": [{"id": "F1"}]})
    assert "1 retried" in str(send_due(installation, draw=drawn, environ=secrets(slack)))
    clock.advance(dt.timedelta(seconds=29))
    assert str(send_due(installation, draw=drawn, environ=secrets(slack))) == "nothing to send"
    clock.advance(dt.timedelta(seconds=1))
    assert str(send_due(installation, draw=drawn, environ=secrets(slack))) == "1 sent"
    assert sum(request.path == "/api/files.completeUploadExternal" for request, _ in slack.log) == 1


def test_a_channel_with_tenants_takes_their_reports_alone_also_when_it_is_narrowed_later(
    slack: HTTPServer, installation: Installation, home: Path, clock: ManualClock
) -> None:
    narrowed = BOT.format(channel="C0123ABCD", api=slack.url_for("/api/")).replace("music,", "music, tenants: [borealis],")
    report = keep(installation, "weekly", "slack:music")
    require_ways(installation, "acme", report.wanted, secrets(slack))
    config(home, narrowed)
    with pytest.raises(SettingsError, match=r"no Slack channel 'music' is configured for acme; there are slack:hook$"):
        require_ways(installation, "acme", report.wanted, secrets(slack))
    require_ways(installation, "borealis", report.wanted, secrets(slack))
    assert list(slack_channels(installation.settings, secrets(slack), "acme")) == ["hook"]
    assert list(slack_channels(installation.settings, secrets(slack), "borealis")) == ["music", "hook"]
    clock.advance(dt.timedelta(days=1))
    assert "'music' is configured for acme" in str(send_due(installation, draw=drawn, environ=secrets(slack)))
    assert slack.log == []
