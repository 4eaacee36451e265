"""Channels against real HTTP servers: what counts as success, what is tried again, what a message may contain."""

from __future__ import annotations

import datetime as dt
import json
import socket
import ssl
import threading

import pytest
import trustme
from pytest_httpserver import HTTPServer
from slack_sdk.models.blocks import Block
from standardwebhooks.webhooks import Webhook

from analytics_dagster.alerts.channels.base import Delivery, GoneError, ThrottledError, UncertainError, retry_after
from analytics_dagster.alerts.channels.build import build_channels
from analytics_dagster.alerts.channels.slack import SlackChannel, render
from analytics_dagster.alerts.channels.webhook import WebhookChannel
from analytics_dagster.alerts.config import load_alerting
from analytics_dagster.clock import ManualClock, SystemClock
from analytics_dagster.errors import DeliveryError, NotFoundError, RetryableDeliveryError, SettingsError
from analytics_dagster.settings import Settings

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def delivery(key: str = "msg_1", status: str = "firing", **changes) -> Delivery:
    payload = {
        "version": 1,
        "status": status,
        "alertname": "High Error Rate",
        "severity": "critical",
        "tenant_id": "acme",
        "labels": {"alertname": "High Error Rate", "tenant_id": "acme", "severity": "critical", "endpoint": "/play"},
        "annotations": {},
        "summary": "api_error_ratio is 0.07, > 0.05",
        "expression": "api_error_ratio > 0.05",
        "value": 0.07,
        "day": "2026-03-09",
        "dedup_key": key,
        "alert_id": "a",
        "url": "http://127.0.0.1:3000/assets/aggregates/api?view=partitions&partition=2026-03-09",
        **changes,
    }
    return Delivery(key, "acme", "webhook", "High Error Rate", status, "critical", payload)


def test_a_webhook_is_signed_so_that_the_standards_own_library_accepts_it(httpserver: HTTPServer):
    httpserver.expect_request("/hook", method="POST").respond_with_data("", 204)
    channel = WebhookChannel("webhook", httpserver.url_for("/hook"), SECRET, SystemClock())
    channel.send([delivery()])
    request = httpserver.log[0][0]
    body = Webhook(SECRET).verify(request.get_data(), dict(request.headers))
    assert body["alertname"] == "High Error Rate"
    assert body["channel"] == "webhook"
    assert request.headers["webhook-id"] == "msg_1"


def test_the_signature_is_that_of_the_specifications_worked_example():
    clock = ManualClock(dt.datetime.fromtimestamp(1614265330, dt.timezone(dt.timedelta(hours=5))))
    channel = WebhookChannel("webhook", "https://example.org", SECRET, clock)
    signed = channel._sign("msg_p5jXN8AQM9LWM0D4loKWxJek", '{"test": 2432232314}')
    assert signed["webhook-timestamp"] == "1614265330"
    assert signed["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_each_try_has_the_same_id_and_a_new_timestamp(httpserver: HTTPServer):
    httpserver.expect_request("/hook").respond_with_data("", 200)
    clock = ManualClock(dt.datetime(2026, 3, 10, tzinfo=dt.UTC))
    channel = WebhookChannel("webhook", httpserver.url_for("/hook"), SECRET, clock)
    channel.send([delivery()])
    clock.advance(dt.timedelta(seconds=5))
    channel.send([delivery()])
    first, second = (request.headers for request, _ in httpserver.log)
    assert first["webhook-id"] == second["webhook-id"]
    assert int(second["webhook-timestamp"]) - int(first["webhook-timestamp"]) == 5
    assert first["webhook-signature"] != second["webhook-signature"]


@pytest.mark.parametrize(
    ("status", "headers", "error", "wait"),
    [
        (302, {"Location": "http://127.0.0.1:1/"}, DeliveryError, None),
        (400, {}, DeliveryError, None),
        (404, {}, DeliveryError, None),
        (410, {}, GoneError, None),
        (429, {"Retry-After": "3"}, ThrottledError, 3),
        (429, {}, ThrottledError, None),
        (503, {"Retry-After": "30"}, ThrottledError, 30),
        (500, {}, UncertainError, None),
        (502, {}, UncertainError, None),
    ],
)
def test_an_http_status_says_whether_to_try_again(httpserver: HTTPServer, status, headers, error, wait):
    httpserver.expect_request("/hook").respond_with_data("why", status, headers)
    channel = WebhookChannel("webhook", httpserver.url_for("/hook"), None, SystemClock())
    with pytest.raises(error, match=str(status)) as caught:
        channel.send([delivery()])
    assert type(caught.value) is error
    assert getattr(caught.value, "retry_after", None) == wait
    assert len(httpserver.log) == 1


def test_nobody_listening_is_tried_again_and_certainly_told_nothing():
    for channel in (
        WebhookChannel("webhook", "http://127.0.0.1:9/", None, SystemClock()),
        SlackChannel("slack", SystemClock(), webhook_url="http://127.0.0.1:9/"),
    ):
        with pytest.raises(RetryableDeliveryError, match="cannot connect") as caught:
            channel.send([delivery()])
        assert not isinstance(caught.value, UncertainError)


def test_a_webhook_over_https_needs_a_certificate_that_is_trusted():
    authority = trustme.CA()
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(server_side)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    with HTTPServer(host="localhost", ssl_context=server_side) as server:
        server.expect_request("/hook").respond_with_data("", 200)
        WebhookChannel("webhook", server.url_for("/hook"), None, SystemClock(), verify=trusting).send([delivery()])
        assert len(server.log) == 1
        with pytest.raises(RetryableDeliveryError, match="certificate"):
            WebhookChannel("webhook", server.url_for("/hook"), None, SystemClock()).send([delivery()])


def test_a_secret_that_is_not_base64_is_refused_at_once():
    with pytest.raises(SettingsError, match="whsec_"):
        WebhookChannel("webhook", "https://example.org", "whsec_%%%", SystemClock())


def test_slacks_webhook_succeeds_with_200_and_ok_only(httpserver: HTTPServer):
    httpserver.expect_ordered_request("/slack").respond_with_data("ok", 200)
    httpserver.expect_ordered_request("/slack").respond_with_data("invalid_blocks", 200)
    httpserver.expect_ordered_request("/slack").respond_with_data("slow", 429, {"Retry-After": "3"})
    httpserver.expect_ordered_request("/slack").respond_with_data("oops", 500)
    httpserver.expect_ordered_request("/slack").respond_with_data("no_service", 404)
    channel = SlackChannel("slack", SystemClock(), webhook_url=httpserver.url_for("/slack"))
    channel.send([delivery()])
    body = httpserver.log[0][0].json
    assert body["text"] == "FIRING: High Error Rate (acme): api_error_ratio is 0.07, &gt; 0.05"
    with pytest.raises(DeliveryError, match="invalid_blocks"):
        channel.send([delivery()])
    with pytest.raises(ThrottledError) as throttled:
        channel.send([delivery()])
    assert throttled.value.retry_after == 3
    with pytest.raises(UncertainError):
        channel.send([delivery()])
    with pytest.raises(DeliveryError, match="no_service"):
        channel.send([delivery()])
    assert len(httpserver.log) == 5


def test_a_bot_token_posts_to_its_channel_and_ok_false_is_a_failure(httpserver: HTTPServer):
    address = "/api/chat.postMessage"
    httpserver.expect_ordered_request(address, headers={"Authorization": "Bearer xoxb-1"}).respond_with_json(
        {"ok": True, "ts": "1.2", "channel": "C1"}
    )
    httpserver.expect_ordered_request(address).respond_with_json({"ok": False, "error": "channel_not_found"})
    httpserver.expect_ordered_request(address).respond_with_json(
        {"ok": False, "error": "ratelimited"}, headers={"Retry-After": "7"}
    )
    httpserver.expect_ordered_request(address).respond_with_json(
        {"ok": False, "error": "ratelimited"}, status=429, headers={"Retry-After": "8"}
    )
    httpserver.expect_ordered_request(address).respond_with_data("<html>", 503)
    channel = SlackChannel("slack", SystemClock(), bot_token="xoxb-1", channel="#alerts", api_url=httpserver.url_for("/api/"))
    channel.send([delivery()])
    assert httpserver.log[0][0].json["channel"] == "#alerts"
    with pytest.raises(DeliveryError, match="channel_not_found"):
        channel.send([delivery()])
    for wait in (7, 8):
        with pytest.raises(ThrottledError) as throttled:
            channel.send([delivery()])
        assert throttled.value.retry_after == wait
    with pytest.raises(UncertainError):
        channel.send([delivery()])


@pytest.mark.parametrize("count", [1, 60, 5_000])
def test_a_slack_message_stays_within_the_limits_however_many_alerts_it_tells(count):
    _, blocks = render([delivery(str(n), summary="x" * 80, alertname="n" * 500) for n in range(count)])
    for block in blocks:
        Block.parse(block).validate_json()
    header, section, context = blocks
    assert len(header["text"]["text"]) <= 150
    assert len(section["text"]["text"]) <= 3000
    assert len(json.dumps(blocks)) < 13_000
    shown = section["text"]["text"].count("•")
    assert shown + int(section["text"]["text"].rpartition("+")[2].split()[0] if count > 1 else 0) == count
    assert context["elements"][0]["type"] == "mrkdwn"


def test_text_from_data_can_neither_mention_nor_link():
    text, blocks = render([delivery(summary="<!channel> & <http://evil|click>", alertname="<@U1>")])
    assert "<!channel>" not in text + json.dumps(blocks)
    assert "&lt;!channel&gt; &amp; &lt;http://evil|click&gt;" in blocks[1]["text"]["text"]
    assert "<@U1>" not in text


def test_a_digest_lists_its_rules_and_what_fires_now():
    rules = [{"alertname": "R", "firing": 1, "breaching_days": 40, "days": 90}]
    alerts = [{"alertname": "R", "summary": "m is 11"}]
    _, blocks = render([delivery(status="digest", rules=rules, alerts=alerts, more_alerts=3)])
    lines = blocks[1]["text"]["text"].split("\n")
    assert lines == ["• R: 40 of 90 historical days breach, 1 firing now", "• firing now: R: m is 11", "+3 more"]


def test_retry_after_is_read_in_both_forms():
    now = dt.datetime(2026, 3, 10, 12, 0, 0, tzinfo=dt.UTC)
    assert retry_after("120", now) == 120
    assert retry_after("Tue, 10 Mar 2026 12:00:30 GMT", now) == 30
    assert retry_after("Tue, 10 Mar 2026 11:00:30 GMT", now) == 0
    assert retry_after("soon", now) is None
    assert retry_after(None, now) is None


@pytest.fixture
def configure(home, monkeypatch):
    home.mkdir()

    def configure(text: str | None, environ: dict[str, str] | None = None):
        for name, value in (environ or {}).items():
            monkeypatch.setenv(name, value)
        if text is not None:
            (home / "alerting.yaml").write_text(text)
        settings = Settings.from_environment(home)
        return load_alerting(settings, environ or {})

    return configure


def test_without_alerting_yaml_the_environment_gives_the_channels(configure, clock, home):
    config = configure(
        None,
        {
            "SLACK_BOT_TOKEN": "xoxb-1",
            "SLACK_CHANNEL": "#a",
            "ALERT_WEBHOOK_URL": "http://127.0.0.1:1/x",
            "ALERT_WEBHOOK_SECRET": SECRET,
        },
    )
    assert [channel.name for channel in config.channels] == ["slack", "webhook", "log"]
    channels = build_channels(config, home, clock, {})
    assert channels.problems == ()
    assert channels.default_names == ("slack", "webhook")
    assert channels.of("email").name == "log"


def test_channels_of_alerting_yaml_come_before_those_of_the_environment(configure, clock, home):
    (home / "token").write_text("xoxb-2\n")
    config = configure(
        """
channels:
  - {name: slack, type: slack, bot_token_file: token, channel: "#alerts", send_resolved: false}
  - {name: ops, type: webhook, url_env: OPS_URL, secret_env: OPS_SECRET}
  - {name: audit, type: log}
route: {receiver: slack}
""",
        {"SLACK_WEBHOOK_URL": "https://hooks.slack.com/x", "OPS_URL": "https://ops.example/x", "OPS_SECRET": SECRET},
    )
    assert [channel.name for channel in config.channels] == ["slack", "ops", "audit", "log"]
    assert [str(problem) for problem in config.problems] == ["alerting.yaml:6: route is not acted on yet"]
    built = build_channels(config, home, clock, {"OPS_URL": "https://ops.example/x", "OPS_SECRET": SECRET})
    assert built.problems == ("alerting.yaml:6: route is not acted on yet",)
    assert built.of("slack").send_resolved is False


@pytest.mark.parametrize(
    ("channel", "said"),
    [
        ("{name: slack, type: slack, api_url: 'https://hooks.slack.com/services/x'}", "api_url is a secret"),
        ("{name: slack, type: slack, api_url_env: NOWHERE}", "environment variable NOWHERE is not set"),
        ("{name: slack, type: slack, bot_token: xoxb-1}", "bot_token must not stand here in clear"),
        ("{name: slack, type: slack}", "names no webhook and no bot token"),
        ("{name: w, type: webhook, url: 'http://example.org/'}", "neither https:// nor on this machine"),
        ("{name: w, type: webhook, url: 'https://example.org/', secret: abc}", "secret must not stand here in clear"),
        ("{name: w, type: webhook}", "names no address"),
        ("{name: pager, type: pagerduty}", "type pagerduty is not acted on yet"),
        ("{name: x, type: fax}", 'type "fax" is not known'),
        ("{name: l, type: log, send_resolve: true}", 'did you mean "send_resolved"?'),
        ("{type: log, name: ''}", "name is missing"),
    ],
)
def test_a_channel_that_cannot_be_used_is_reported_and_the_others_work(configure, channel, said):
    config = configure(f"channels:\n  - {channel}\n  - {{name: good, type: log}}\n", {})
    assert [one.name for one in config.channels] == ["good", "log"]
    message = str(config.problems[0])
    assert message.startswith("alerting.yaml:2: channel")
    assert said in message
    assert "log channel" in message


@pytest.mark.parametrize(
    ("tenants", "line", "said"),
    [
        ("[acme, Borealis!]", 6, "tenant 'Borealis!' is not a tenant id"),
        ("acme", 6, '"acme" is not a list; write [a, b]'),
        ("[]", 6, "tenants names nobody; write tenants: [acme], or leave it out for every tenant"),
        ("", 6, "tenants names nobody"),
        ("\n      - acme\n      - [b]", 8, "is a list, not text"),
    ],
)
def test_a_channel_whose_tenants_cannot_be_read_is_nobodys(configure, tenants, line, said):
    text = f"channels:\n  - name: slack\n    type: slack\n    bot_token_env: T\n    channel: C0\n    tenants: {tenants}\n"
    config = configure(text, {"T": "xoxb-1", "SLACK_WEBHOOK_URL": "https://hooks.slack.com/x"})
    assert [one.name for one in config.channels] == ["log"]  # not the environment's `slack` in its place
    (problem,) = config.problems
    assert (problem.line, problem.message.startswith("channel 'slack': ")) == (line, True)
    assert said in problem.message


def test_a_configured_file_that_is_missing_is_an_error(configure):
    with pytest.raises(NotFoundError, match="ANALYTICS_ALERTING"):
        configure(None, {"ANALYTICS_ALERTING": "/nowhere/alerting.yaml"})


@pytest.fixture
def hangs_up():
    """The address of a server that takes a request and closes the connection without an answer."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(65_536)

    thread = threading.Thread(target=serve)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


def test_a_server_that_hangs_up_may_have_taken_the_message(hangs_up):
    for channel in (
        WebhookChannel("webhook", hangs_up, None, SystemClock()),
        SlackChannel("slack", SystemClock(), webhook_url=hangs_up),
        SlackChannel("bot", SystemClock(), bot_token="xoxb-1", channel="#a", api_url=hangs_up),
    ):
        with pytest.raises(UncertainError, match="no answer"):
            channel.send([delivery()])
