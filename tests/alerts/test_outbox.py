"""Delivery: what is sent when, in which order, how often, and that a killed sender loses nothing."""

from __future__ import annotations

import datetime as dt
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace

import pytest

from analytics_dagster.alerts.channels.base import Channel, Delivery, GoneError, ThrottledError, UncertainError
from analytics_dagster.alerts.channels.build import Channels
from analytics_dagster.alerts.outbox import DeliveryPolicy, DeliveryReport, deliver_due, has_due
from analytics_dagster.alerts.rules import Severity
from analytics_dagster.errors import DeliveryError, RetryableDeliveryError
from analytics_dagster.lake.database import Database
from tests.alerts.conftest import Alerting
from tests.alerts.rules_for_tests import make_rule

RULE = replace(make_rule(), channels=("webhook",))
POLICY = DeliveryPolicy(cooldown=dt.timedelta(0))


@dataclass
class Receiver:
    """A channel that remembers what it got and fails as it is told to."""

    name: str = "webhook"
    target: str = "here"
    send_resolved: bool = True
    group_size: int = 1
    got: list[Delivery] = field(default_factory=list)
    errors: list[Exception | None] = field(default_factory=list)

    def send(self, deliveries):
        error = self.errors.pop(0) if self.errors else None
        if error is not None:
            raise error
        self.got.extend(deliveries)

    @property
    def told(self) -> list[str]:
        return [f"{d.status} {d.tenant}" for d in self.got]


@pytest.fixture
def receiver() -> Receiver:
    return Receiver()


def deliver(alerting: Alerting, receiver: Channel, policy: DeliveryPolicy = POLICY) -> DeliveryReport:
    return deliver_due(alerting.database, Channels({"webhook": receiver}, receiver), alerting.clock, policy=policy)


def advance(alerting: Alerting, **by: float) -> None:
    alerting.clock.advance(dt.timedelta(**by))


def fire(alerting: Alerting, *, tenant: str = "acme", rule=RULE) -> None:
    alerting.publish({0: 11}, tenant=tenant)
    alerting.judge(rule)


def resolve(alerting: Alerting, *, tenant: str = "acme") -> None:
    alerting.publish({0: 9}, tenant=tenant)
    alerting.judge()


def test_an_alert_is_sent_once_and_its_all_clear_after_it(alerting, receiver):
    fire(alerting)
    resolve(alerting)
    assert deliver(alerting, receiver).sent == 2
    assert deliver(alerting, receiver).sent == 0
    assert not has_due(alerting.database, alerting.clock)
    assert receiver.told == ["firing acme", "resolved acme"]
    assert receiver.got[0].payload["alert_id"] == receiver.got[1].payload["alert_id"]
    assert receiver.got[0].dedup_key != receiver.got[1].dedup_key


def test_a_failed_try_is_repeated_later_and_later_under_the_same_key(alerting, receiver):
    fire(alerting)
    receiver.errors = [RetryableDeliveryError("away")] * 3
    waits = []
    for _ in range(3):
        assert deliver(alerting, receiver).retried == 1
        row = alerting.rows("outbox")[0]
        waits.append((row["due_at"] - alerting.clock.now()).total_seconds())
        assert not has_due(alerting.database, alerting.clock)
        advance(alerting, seconds=waits[-1])
    assert waits == [5, 10, 20]
    assert deliver(alerting, receiver).sent == 1
    assert receiver.got[0].dedup_key == alerting.rows("outbox")[0]["dedup_key"]


def test_a_refused_message_is_kept_as_failed_with_the_reason_and_its_all_clear_is_not_sent(alerting, receiver):
    fire(alerting)
    receiver.errors = [DeliveryError("HTTP 400: no")]
    report = deliver(alerting, receiver)
    assert (report.failed, report.sent) == (1, 0)
    assert "HTTP 400" in str(report)
    resolve(alerting)
    deliver(alerting, receiver)
    assert receiver.got == []
    assert [(row["state"], row["last_error"]) for row in alerting.rows("outbox")] == [("failed", "HTTP 400: no")]


def test_what_may_have_arrived_is_cleared_even_if_it_failed_in_the_end(alerting, receiver):
    fire(alerting)
    receiver.errors = [UncertainError("no answer"), DeliveryError("HTTP 400")]
    deliver(alerting, receiver)
    advance(alerting, seconds=5)
    deliver(alerting, receiver)
    resolve(alerting)
    deliver(alerting, receiver)
    assert receiver.told == ["resolved acme"]


def test_an_all_clear_waits_for_its_alert(alerting, receiver):
    fire(alerting)
    receiver.errors = [RetryableDeliveryError("away")]
    deliver(alerting, receiver)
    resolve(alerting)
    assert deliver(alerting, receiver).sent == 0
    advance(alerting, seconds=5)
    deliver(alerting, receiver)
    advance(alerting, seconds=3)
    deliver(alerting, receiver)
    assert receiver.told == ["firing acme", "resolved acme"]


def test_a_throttled_channel_waits_as_a_whole_and_no_other_does(alerting):
    slow, other = Receiver("webhook"), Receiver("other")
    for tenant in ("a", "b", "c"):
        fire(alerting, tenant=tenant, rule=replace(RULE, channels=("webhook", "other")))
    slow.errors = [ThrottledError("HTTP 429", 3)]
    channels = Channels({"webhook": slow, "other": other}, slow)
    deliver_due(alerting.database, channels, alerting.clock, policy=POLICY)
    assert (len(slow.got), len(other.got)) == (0, 3)
    fire(alerting, tenant="d", rule=RULE)
    advance(alerting, seconds=2.9)
    assert deliver_due(alerting.database, channels, alerting.clock, policy=POLICY).sent == 0
    advance(alerting, seconds=0.2)
    assert deliver_due(alerting.database, channels, alerting.clock, policy=POLICY).sent == 4


def test_a_receiver_that_is_gone_is_not_called_again_until_its_address_changes(alerting, receiver):
    for tenant in ("a", "b"):
        fire(alerting, tenant=tenant)
    receiver.errors = [GoneError("HTTP 410")]
    deliver(alerting, receiver)
    assert deliver(alerting, receiver).sent == 0
    assert {row["state"] for row in alerting.rows("outbox")} == {"failed"}
    fire(alerting, tenant="c")
    assert deliver(alerting, Receiver(target="elsewhere")).sent == 1


def test_the_cooldown_counts_from_the_last_firing_message_and_defers(alerting, receiver):
    policy = DeliveryPolicy(cooldown=dt.timedelta(seconds=900))
    fire(alerting)
    deliver(alerting, receiver, policy)
    advance(alerting, seconds=100)
    resolve(alerting)
    deliver(alerting, receiver, policy)
    advance(alerting, seconds=400)
    fire(alerting)
    assert deliver(alerting, receiver, policy).deferred == 1
    assert receiver.told == ["firing acme", "resolved acme"]
    assert alerting.rows("outbox")[2]["deferred"] == "cooldown"
    advance(alerting, seconds=399)
    assert deliver(alerting, receiver, policy).sent == 0
    advance(alerting, seconds=1)
    assert deliver(alerting, receiver, policy).sent == 1
    assert receiver.told == ["firing acme", "resolved acme", "firing acme"]


def test_what_is_over_before_its_cooldown_ends_is_never_told(alerting, receiver):
    policy = DeliveryPolicy(cooldown=dt.timedelta(seconds=900))
    fire(alerting)
    deliver(alerting, receiver, policy)
    resolve(alerting)
    fire(alerting)
    deliver(alerting, receiver, policy)
    resolve(alerting)
    advance(alerting, seconds=1_000)
    deliver(alerting, receiver, policy)
    assert receiver.told == ["firing acme", "resolved acme"]
    assert [row["state"] for row in alerting.rows("outbox")] == ["sent", "sent", "dropped", "dropped"]


def test_critical_alerts_and_a_rise_in_severity_pass_the_cooldown(alerting, receiver):
    policy = DeliveryPolicy(cooldown=dt.timedelta(seconds=900))
    fire(alerting)
    deliver(alerting, receiver, policy)
    advance(alerting, seconds=300)
    alerting.judge(replace(RULE, severity=Severity.CRITICAL))
    deliver(alerting, receiver, policy)
    assert [d.severity for d in receiver.got] == ["high", "critical"]
    resolve(alerting)
    fire(alerting, rule=alerting.rules.rules[0])
    deliver(alerting, receiver, policy)
    assert receiver.told == ["firing acme", "firing acme", "resolved acme", "firing acme"]


def test_the_hourly_cap_defers_what_is_too_much_and_critical_passes(alerting, receiver):
    policy = DeliveryPolicy(cooldown=dt.timedelta(0), most_per_hour=3)
    for number in range(5):
        alerting.publish({0: 11}, labels=(("host", str(number)),))
    alerting.judge(RULE)
    report = deliver(alerting, receiver, policy)
    assert (report.sent, report.deferred) == (3, 2)
    alerting.judge(RULE, replace(RULE, name="Fire", severity=Severity.CRITICAL))
    assert deliver(alerting, receiver, policy).sent == 5
    advance(alerting, minutes=59)
    assert deliver(alerting, receiver, policy).sent == 0
    advance(alerting, minutes=2)
    assert deliver(alerting, receiver, policy).sent == 2


def test_a_channel_that_does_not_want_resolved_gets_none(alerting, receiver):
    receiver.send_resolved = False
    fire(alerting)
    resolve(alerting)
    deliver(alerting, receiver)
    assert receiver.told == ["firing acme"]
    assert not has_due(alerting.database, alerting.clock)


def test_a_group_is_one_call(alerting):
    receiver = Receiver(group_size=10)
    for number in range(12):
        alerting.publish({0: 11}, labels=(("host", str(number)),))
    alerting.judge(RULE)
    calls = []
    receiver.send = lambda deliveries: calls.append(len(deliveries))
    assert deliver(alerting, receiver).sent == 12
    assert calls == [10, 2]


def test_a_row_of_a_sender_that_died_is_sent_again_when_its_lease_has_run_out(alerting, receiver):
    class Killed(BaseException):
        pass

    fire(alerting)
    receiver.errors = [Killed()]
    with pytest.raises(Killed):
        deliver(alerting, receiver)
    assert alerting.rows("outbox")[0]["state"] == "sending"
    assert deliver(alerting, receiver).sent == 0
    advance(alerting, seconds=61)
    assert deliver(alerting, receiver).sent == 1


def test_nothing_is_tried_for_ever(alerting, receiver):
    fire(alerting)
    advance(alerting, days=4)
    receiver.errors = [RetryableDeliveryError("away")]
    assert deliver(alerting, receiver).failed == 1


def test_a_digest_waits_until_the_run_has_published_everything(alerting, receiver):
    alerting.publish(dict.fromkeys(range(10), 11))
    alerting.judge(RULE)
    assert deliver(alerting, receiver).sent == 0
    advance(alerting, seconds=31)
    assert deliver(alerting, receiver).sent == 1
    assert receiver.got[0].status == "digest"


def test_a_message_for_an_unknown_channel_goes_to_the_log(sqlite_alerting, tmp_path):
    from analytics_dagster.alerts.channels.build import build_channels
    from analytics_dagster.alerts.config import AlertingConfig, ChannelConfig, ChannelType

    fire(sqlite_alerting, rule=replace(RULE, channels=("pagerduty",)))
    config = AlertingConfig((ChannelConfig("log", ChannelType.LOG),))
    channels = build_channels(config, tmp_path, sqlite_alerting.clock, {})
    assert deliver_due(sqlite_alerting.database, channels, sqlite_alerting.clock).sent == 1
    line = json.loads((tmp_path / "alerts.log").read_text())
    assert (line["channel"], line["alertname"], line["status"]) == ("pagerduty", "R", "firing")


SENDER = """
import sys
from pathlib import Path
import datetime as dt
from analytics_dagster.alerts.channels.build import build_channels
from analytics_dagster.alerts.config import AlertingConfig, ChannelConfig, ChannelType, SecretReference
from analytics_dagster.alerts.outbox import DeliveryPolicy, deliver_due
from analytics_dagster.clock import SystemClock
from analytics_dagster.lake.database import Database
from pydantic import SecretStr

database, url, home = Database(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
config = AlertingConfig((ChannelConfig("webhook", ChannelType.WEBHOOK, SecretReference(value=SecretStr(url))),))
channels = build_channels(config, home, SystemClock(), {})
policy = DeliveryPolicy(cooldown=dt.timedelta(0), most_per_hour=10_000, lease=dt.timedelta(seconds=1))
print("ready", flush=True)
while True:
    deliver_due(database, channels, SystemClock(), policy=policy)
"""


def test_a_sender_killed_at_random_moments_loses_no_alert(tmp_path, clock, httpserver):
    url = f"sqlite:///{tmp_path / 'state.db'}"
    database = Database(url)
    database.migrate()
    alerting = Alerting(database, clock)
    count = 60
    for number in range(count):
        alerting.publish({0: 11}, labels=(("host", str(number)),))
    alerting.judge(RULE)
    expected = {str(row["dedup_key"]) for row in alerting.rows("outbox")}
    assert len(expected) == count
    httpserver.expect_request("/hook").respond_with_handler(_slowly)
    chance, deadline, kills = random.Random(7), time.monotonic() + 28, 0
    while time.monotonic() < deadline:
        command = [sys.executable, "-c", SENDER, url, httpserver.url_for("/hook"), str(tmp_path)]
        sender = subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ})
        assert sender.stdout is not None
        sender.stdout.readline()
        time.sleep(chance.uniform(0.05, 0.3) if kills < 8 else 3)
        sender.send_signal(signal.SIGKILL)
        sender.wait()
        sender.stdout.close()
        kills += 1
        if kills >= 8 and all(row["state"] == "sent" for row in alerting.rows("outbox")):
            break
    got = [request.headers["webhook-id"] for request, _ in httpserver.log]
    database.dispose()
    assert kills >= 8
    assert set(got) == expected
    # At least once, and only what was on the way when a sender died may come twice.
    assert len(got) <= count + kills * 2


def _slowly(_request):
    from werkzeug import Response

    time.sleep(0.01)
    return Response("", 204)


def test_rules_without_channels_tell_every_configured_one(alerting):
    fire(alerting, rule=replace(RULE, channels=None))
    assert [row["channel"] for row in alerting.rows("outbox")] == ["webhook"]
