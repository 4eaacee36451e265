"""Judging published days: when an alert fires, for whom, and that nothing is told twice."""

from __future__ import annotations

import datetime as dt
import json
import threading
from dataclasses import replace

import pytest

from analytics_dagster.alerts.judge import RunFailure, report_run_failures
from analytics_dagster.alerts.rules import RuleSet, Severity
from analytics_dagster.errors import RetryableError, UserError
from tests.alerts.conftest import day
from tests.alerts.rules_for_tests import make_rule

RULE = make_rule(hold="5m")
FIRED, RESOLVED, DIGEST = ("firing", "R"), ("resolved", "R"), ("digest", "")


def test_a_first_day_that_breaches_fires_at_once_whatever_the_hold_up_to_a_day(alerting):
    for hold in ("0", "5m", "1d"):
        alerting.publish({0: 11}, tenant=f"t{hold}")
    alerting.judge(make_rule(hold="1d"))
    assert alerting.told() == [FIRED] * 3
    payload = json.loads(alerting.rows("outbox")[0]["payload"])
    assert payload["value"] == 11
    assert payload["starts_at"] == "2026-01-02T00:00:00+00:00"
    assert payload["active_since"] == "2026-01-01T00:00:00+00:00"
    assert payload["url"] == "http://dagster.test/assets/aggregates/api?view=partitions&partition=2026-01-01"


def test_a_hold_of_three_days_needs_three_days_in_a_row(alerting):
    alerting.judge(make_rule(hold="3d"))
    for number, value in enumerate([11, 11, 9, 11, 11, 11]):
        alerting.publish({number: value})
        alerting.judge()
        assert alerting.states() == ({} if number == 2 else {"R": "firing" if number == 5 else "pending"})
    assert alerting.told() == [FIRED]


def test_a_day_that_is_missing_interrupts_a_hold_and_resolves_nothing(alerting):
    alerting.judge(make_rule(hold="2d"))
    for number in (0, 2, 3):
        alerting.publish({number: 11})
        alerting.judge()
    assert alerting.told() == [FIRED]
    assert alerting.rows("alert_instances")[0]["active_since"] == dt.datetime(2026, 1, 3, tzinfo=dt.UTC)


def test_publishing_the_same_content_again_is_nothing_new(alerting):
    alerting.publish({0: 11})
    alerting.judge(RULE)
    reads = alerting.figures.reads
    for _ in range(3):
        alerting.publish({0: 11})
        judged = alerting.judge()
        assert (judged.rules, judged.queued, judged.transitions) == (0, 0, [])
    assert alerting.figures.reads == reads
    assert alerting.told() == [FIRED]


def test_new_content_that_breaches_is_the_same_alert_and_content_that_does_not_resolves_it(alerting):
    alerting.publish({0: 11})
    alerting.judge(RULE)
    before = alerting.rows("alert_instances")[0]
    alerting.publish({0: 15})
    alerting.judge()
    after = alerting.rows("alert_instances")[0]
    assert alerting.told() == [FIRED]
    assert after["value"] == 15
    assert {key: after[key] for key in ("occurrence", "fired_at", "active_since")} == {
        key: before[key] for key in ("occurrence", "fired_at", "active_since")
    }
    alerting.publish({0: 9})
    alerting.judge()
    assert alerting.told() == [FIRED, RESOLVED]
    assert alerting.states() == {}
    alerting.publish({0: 12})
    alerting.judge()
    assert alerting.told() == [FIRED, RESOLVED, FIRED]
    assert len({row["occurrence"] for row in alerting.rows("outbox")}) == 2


def test_a_first_start_on_stored_history_pages_nobody_and_gives_one_digest(alerting):
    alerting.publish({number: 11 if number >= 50 else 9 for number in range(90)})
    alerting.clock.advance(dt.timedelta(days=60))
    alerting.judge(RULE)
    assert alerting.told() == [DIGEST]
    payload = json.loads(alerting.rows("outbox")[0]["payload"])
    assert payload["summary"] == "40 of 90 historical days breach; 1 alert is firing at the newest day"
    assert alerting.states() == {"R": "firing"}
    # What was never told firing is never told resolved.
    alerting.publish({90: 9})
    alerting.judge()
    assert alerting.told() == [DIGEST]
    alerting.publish({91: 11})
    alerting.judge()
    assert alerting.told() == [DIGEST, FIRED]


def test_history_that_one_run_publishes_in_portions_is_still_one_digest(alerting):
    alerting.clock.advance(dt.timedelta(days=60))
    alerting.judge(RULE)
    for start in (0, 30, 60):
        alerting.publish(dict.fromkeys(range(start, start + 30), 11), run_id="first")
        alerting.judge()
    assert alerting.told() == [DIGEST]
    assert "90 of 90" in json.loads(alerting.rows("outbox")[0]["payload"])["summary"]


def test_a_second_stretch_of_history_after_a_long_gap_pages_nobody_either(alerting):
    alerting.judge(RULE)
    alerting.publish(dict.fromkeys(range(5), 9), run_id="first")
    alerting.judge()
    alerting.publish(dict.fromkeys(range(50, 55), 11), run_id="second")
    alerting.judge()
    assert alerting.told() == [DIGEST]
    alerting.publish({55: 9})
    alerting.judge()
    alerting.publish({56: 11})
    alerting.judge()
    assert alerting.told() == [DIGEST, FIRED]


def test_a_first_start_with_nothing_to_say_is_silent(alerting):
    alerting.publish(dict.fromkeys(range(90), 9))
    alerting.judge(RULE)
    assert alerting.told() == []


def test_a_backfill_leaves_the_live_state_alone_and_gives_one_digest(alerting):
    alerting.publish({100: 11})
    alerting.clock.advance(dt.timedelta(days=100))
    alerting.judge(RULE)
    live = alerting.rows("alert_instances")
    alerting.publish({number: 11 if number >= 50 else 9 for number in range(90)})
    alerting.judge()
    assert alerting.told() == [FIRED, DIGEST]
    assert alerting.rows("alert_instances") == live
    payload = json.loads(alerting.rows("outbox")[1]["payload"])
    assert payload["summary"].startswith("40 of 90 historical days breach")
    assert payload["severity"] == "info"


def test_one_corrected_past_day_is_worth_no_digest(alerting):
    alerting.publish({0: 9})
    alerting.judge(RULE)
    alerting.publish({1: 9})
    alerting.judge()
    alerting.publish({0: 11})
    alerting.judge()
    assert alerting.told() == []


def test_several_missed_days_are_live_and_the_newest_counts(alerting):
    alerting.publish({0: 9})
    alerting.judge(RULE)
    alerting.publish({1: 11, 2: 9, 3: 9})
    alerting.judge()
    assert alerting.told() == []
    alerting.publish({4: 9, 5: 11, 6: 11})
    alerting.judge()
    assert alerting.told() == [FIRED]


def test_a_gated_day_has_no_verdict_and_changes_nothing(alerting):
    alerting.publish({0: 11})
    alerting.judge(RULE)
    alerting.publish({1: 9}, gated=[1])
    alerting.judge()
    assert alerting.states() == {"R": "firing"}
    alerting.publish({1: 9})
    alerting.judge()
    assert alerting.told() == [FIRED, RESOLVED]


def test_tenants_are_judged_alone(alerting):
    alerting.publish({0: 11}, tenant="a")
    alerting.publish({0: 9}, tenant="b")
    alerting.judge(RULE, replace(RULE, name="Only B", tenant_id="b", condition=RULE.condition, threshold=5))
    rows = {(row["tenant"], row["rule"]) for row in alerting.rows("outbox")}
    assert rows == {("a", "R"), ("b", "Only B")}


def test_instances_of_one_rule_have_lives_of_their_own(alerting):
    play, search = (("endpoint", "/play"),), (("endpoint", "/search"),)
    alerting.publish({0: 11}, labels=play)
    alerting.publish({0: 9}, labels=search)
    alerting.judge(RULE)
    alerting.publish({1: 9}, labels=play)
    alerting.publish({1: 11.5}, labels=search)
    alerting.judge()
    told = [(row["status"], json.loads(row["payload"])["labels"]["endpoint"]) for row in alerting.rows("outbox")]
    assert sorted(told) == [("firing", "/play"), ("firing", "/search"), ("resolved", "/play")]


def test_a_vanished_series_resolves_unless_the_rule_says_otherwise(alerting):
    alerting.publish({0: 11})
    alerting.judge(RULE, replace(RULE, name="Kept", no_data=RULE.no_data.KEEP))
    alerting.publish({1: None})
    alerting.judge()
    assert alerting.states() == {"Kept": "firing"}
    resolved = [row for row in alerting.rows("alert_transitions") if row["to_state"] == "inactive"]
    assert [(row["rule"], row["reason"]) for row in resolved] == [("R", "no data")]


def test_a_source_that_fell_silent_for_long_is_judged_at_its_newest_day_with_rows(alerting):
    alerting.publish(dict.fromkeys(range(20, 60)))
    alerting.judge(RULE)
    alerting.publish({0: 9, 1: 11})
    alerting.judge()
    assert alerting.told() == [DIGEST]
    assert alerting.states() == {"R": "firing"}
    alerting.publish({1: 9})
    alerting.judge()
    alerting.publish({1: 12})
    alerting.judge()
    assert alerting.told() == [DIGEST, FIRED]


def test_a_source_that_just_fell_silent_is_without_data(alerting):
    alerting.judge(RULE, replace(RULE, name="Silence", no_data=RULE.no_data.ALERTING))
    alerting.publish({0: 11})
    alerting.judge()
    for number in range(1, 8):
        alerting.publish({number: None})
        alerting.judge()
    assert alerting.told() == [FIRED, ("firing", "Silence"), RESOLVED]
    assert alerting.states() == {"Silence": "firing"}


def test_keep_firing_for_two_days_resolves_after_the_second_good_day(alerting):
    alerting.judge(make_rule(keep="2d"))
    for number, value in enumerate([11, 9, 11, 9, 9]):
        alerting.publish({number: value})
        alerting.judge()
    assert alerting.told() == [FIRED, RESOLVED]


def test_a_window_sums_its_days(alerting):
    rule = replace(make_rule(threshold=30), aggregate="sum", window=dt.timedelta(days=3))
    from analytics_dagster.alerts.rules import Aggregate

    rule = replace(rule, aggregate=Aggregate.SUM)
    alerting.judge(rule)
    for number, value in enumerate([9, 11, 10, 12, 1]):
        alerting.publish({number: value})
        alerting.judge()
    # 30 is not above 30, 33 is, 23 is not.
    assert alerting.told() == [FIRED, RESOLVED]


def test_a_corrected_day_within_the_window_judges_the_newest_again(alerting):
    from analytics_dagster.alerts.rules import Aggregate

    alerting.judge(replace(make_rule(threshold=30), aggregate=Aggregate.SUM, window=dt.timedelta(days=3)))
    for number in range(3):
        alerting.publish({number: 10})
        alerting.judge()
    assert alerting.told() == []
    alerting.publish({1: 15})
    alerting.judge()
    assert alerting.told() == [FIRED]


def test_an_edited_rule_is_judged_right_away_and_told_only_when_its_verdict_differs(alerting):
    alerting.publish({0: 11})
    alerting.judge(RULE)
    alerting.judge(replace(RULE, threshold=10.5))
    assert alerting.told() == [FIRED]
    alerting.judge(replace(RULE, threshold=20))
    assert alerting.told() == [FIRED, RESOLVED]
    alerting.judge(replace(RULE, threshold=5))
    assert alerting.told() == [FIRED, RESOLVED, FIRED]


def test_a_rise_in_severity_is_told_and_passes_the_cooldown_and_a_fall_is_not(alerting):
    alerting.publish({0: 11})
    alerting.judge(RULE)
    alerting.judge(replace(RULE, severity=Severity.CRITICAL))
    alerting.judge(replace(RULE, severity=Severity.LOW))
    rows = alerting.rows("outbox")
    assert [(row["status"], row["severity"], row["urgent"]) for row in rows] == [
        ("firing", "high", False),
        ("firing", "critical", True),
    ]
    assert len({row["occurrence"] for row in rows}) == 1


def test_a_new_rule_on_history_that_was_seen_is_live(alerting):
    alerting.judge(make_rule())  # nothing is published yet
    alerting.publish(dict.fromkeys(range(10), 11))
    alerting.judge()
    assert alerting.told() == [DIGEST]
    alerting.judge(make_rule(), replace(make_rule(), name="New"))
    assert alerting.told() == [DIGEST, ("firing", "New")]


def test_a_removed_rule_ends_what_it_told_and_a_broken_one_keeps_it(alerting):
    alerting.publish({0: 11})
    alerting.judge(RULE)
    alerting.rules = RuleSet((), refused=frozenset({"R"}))
    alerting.judge()
    alerting.rules = RuleSet((), missing=True)
    alerting.judge()
    assert alerting.states() == {"R": "firing"}
    alerting.rules = RuleSet(())
    alerting.judge()
    assert alerting.states() == {}
    assert alerting.told() == [FIRED, RESOLVED]
    assert json.loads(alerting.rows("outbox")[1]["payload"])["summary"] == "rule R was removed"


def test_the_rules_channels_are_told_and_the_all_clear_goes_to_those_that_were(alerting):
    alerting.publish({0: 11})
    alerting.judge(replace(RULE, channels=("slack", "pagerduty")))
    alerting.publish({1: 9})
    alerting.judge(replace(RULE, channels=("slack", "other")))
    told = sorted((row["status"], row["channel"]) for row in alerting.rows("outbox"))
    assert told == [("firing", "pagerduty"), ("firing", "slack"), ("resolved", "pagerduty"), ("resolved", "slack")]


def test_a_day_that_has_not_ended_waits_unless_more_rows_cannot_undo_it(alerting):
    today = (alerting.clock.now().date() - day(0)).days
    alerting.publish({today: 11})
    alerting.judge(RULE)
    assert alerting.told() == []
    alerting.clock.advance(dt.timedelta(days=1))
    alerting.judge()
    assert alerting.told() == [FIRED]
    alerting.figures.early = True
    alerting.publish({today + 2: 11}, tenant="other")
    alerting.clock.advance(dt.timedelta(hours=1))
    alerting.judge()
    assert alerting.told() == [FIRED, FIRED]


def test_a_source_that_fails_changes_no_state_and_is_reported_after_three_times(alerting):
    alerting.publish({0: 11})
    alerting.judge(RULE)
    alerting.publish({1: 9})
    alerting.figures.error = RetryableError("the lake is away")
    for _ in range(4):
        assert "the lake is away" in alerting.judge().errors[0]
    assert alerting.states() == {"R": "firing"}
    broken = ("firing", "R cannot be evaluated")
    assert alerting.told() == [FIRED, broken]
    alerting.figures.error = None
    alerting.judge()
    assert alerting.told()[:2] == [FIRED, broken]
    assert sorted(alerting.told()[2:]) == [RESOLVED, ("resolved", "R cannot be evaluated")]


def test_a_rule_that_asks_for_what_is_not_there_is_reported_once_a_publication(alerting):
    alerting.publish({0: 11})
    alerting.figures.error = UserError("no dimension 'x'")
    assert len(alerting.judge(RULE).errors) == 1
    assert alerting.judge().errors == []
    alerting.figures.error = None
    alerting.publish({1: 11})
    alerting.judge()
    assert alerting.told() == [FIRED]


def test_two_judges_at_once_write_one_transition(alerting):
    for number in range(5):
        alerting.publish({0: 11}, tenant=f"t{number}")
    alerting.rules = RuleSet((RULE,))
    start, failures = threading.Barrier(4), []

    def judge():
        start.wait()
        try:
            alerting.judge()
        except Exception as error:  # whatever a thread raises fails the test below
            failures.append(error)

    threads = [threading.Thread(target=judge) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(alerting.rows("alert_transitions")) == 5
    assert alerting.told() == [FIRED] * 5


def test_a_suspended_tenant_is_not_alerted_on(alerting):
    from analytics_dagster.tenancy.tenants import Tenants, TenantStatus

    Tenants(alerting.database, alerting.clock).ensure("acme")
    Tenants(alerting.database, alerting.clock).set_status("acme", TenantStatus.SUSPENDED)
    alerting.publish({0: 11})
    alerting.judge(RULE)
    assert alerting.told() == []


def test_a_failed_run_is_paged_once_for_each_channel(alerting):
    failure = RunFailure("run-1", "materialize", "boom", alerting.clock.now(), ("acme",))
    for expected in (2, 0):
        assert (
            report_run_failures(alerting.database, [failure], ["slack", "webhook"], alerting.clock, public_url="http://d")
            == expected
        )
    payload = json.loads(alerting.rows("outbox")[0]["payload"])
    assert payload["url"] == "http://d/runs/run-1"
    assert payload["annotations"]["error"] == "boom"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_no_numbers_are_stored_and_told(alerting, value):
    alerting.publish({0: value})
    alerting.judge(RULE)
    assert alerting.told() == ([] if value != value else [FIRED])
    if value == value:
        assert json.loads(alerting.rows("outbox")[0]["payload"])["value"] == "+Inf"
