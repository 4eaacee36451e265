"""Sensors and schedules through several ticks, on a real instance: what each asks for, and why it does nothing."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import dagster as dg
import pytest
from orchestration.ticking import Ticking, ticking

from analytics_dagster.alerts.outbox import has_due
from analytics_dagster.errors import UserError
from analytics_dagster.orchestration import alerting
from analytics_dagster.orchestration.partitions import RANGE_END_TAG, RANGE_START_TAG
from analytics_dagster.orchestration.resources import scoped_tenants
from analytics_dagster.orchestration.running import Request, stale_plan
from analytics_dagster.orchestration.sensors import (
    ARRIVALS_TAG,
    MOST_TRIES,
    alert_sensor,
    arrivals_sensor,
    demo_sensor,
    plan_tags,
    run_failure_watch,
)

DAY = dt.date(2026, 3, 1)
FIGURES = ("raw/system_samples", "aggregates/system")
RULES = """
alert_rules:
  - {name: Hot, query: cpu_usage_percent, condition: gt, threshold: 50, severity: high, for_duration: 4d, channels: [nowhere]}
"""


@pytest.fixture
def here(home: Path) -> Iterator[Ticking]:
    with ticking(home) as opened:
        yield opened


def result(answer: object) -> dg.SensorResult:
    assert isinstance(answer, dg.SensorResult)
    return answer


def said(answer: object) -> str:
    """Why a tick did nothing."""
    skip = answer.skip_reason if isinstance(answer, dg.SensorResult) else answer
    assert isinstance(skip, dg.SkipReason)
    assert skip.skip_message
    return skip.skip_message


def requests(answer: object) -> Sequence[dg.RunRequest]:
    return result(answer).run_requests or ()


# --- alerts


def test_four_partitions_between_two_ticks_are_all_judged(here: Ticking) -> None:
    (here.path.parent / "rules.yaml").write_text(RULES)
    here.land(DAY)
    here.materialize(*FIGURES, first=DAY, last=DAY)
    first = result(here.tick(alert_sensor))
    here.land(DAY + dt.timedelta(days=1), days=4, cpu=90)
    for number in (1, 2, 3, 4):
        day = DAY + dt.timedelta(days=number)
        here.materialize(*FIGURES, first=day, last=day)
    second = result(here.tick(alert_sensor, first.cursor))
    # Four days in a row is what the rule asks for: had the tick seen only the newest partition, it would not fire.
    [fired] = here.transitions
    assert (fired.tenant, fired.rule, fired.to_state) == ("acme", "Hot", "firing")
    assert len(second.run_requests or ()) == 1
    newest = max(
        r.storage_id for r in here.instance.fetch_materializations(dg.AssetKey(["aggregates", "system"]), limit=10).records
    )
    assert second.cursor == str(newest)
    assert here.run_job("notify").success
    assert "0 new materializations" in said(here.tick(alert_sensor, second.cursor))


def test_a_tick_counts_what_was_materialized_since_its_cursor(here: Ticking) -> None:
    here.land(DAY, days=3)
    cursor = result(here.tick(alert_sensor)).cursor
    for number in range(3):
        day = DAY + dt.timedelta(days=number)
        here.materialize(*FIGURES, first=day, last=day)
    answer = here.tick(alert_sensor, cursor)
    assert "3 new materializations" in said(answer)
    assert "0 new materializations" in said(here.tick(alert_sensor, result(answer).cursor))


def test_a_delivery_is_asked_for_once_while_messages_are_due(here: Ticking) -> None:
    fire(here)
    [request] = requests(here.tick(alert_sensor))
    assert request.run_key is None
    under_way = here.begin("notify")
    assert "nothing to deliver from here" in said(here.tick(alert_sensor))
    here.instance.delete_run(under_way.run_id)
    assert len(requests(here.tick(alert_sensor))) == 1


def test_no_delivery_is_asked_for_while_another_process_delivers(here: Ticking) -> None:
    fire(here)
    renew_deliverer(here)
    assert has_due(here.installation.database, here.installation.clock)
    assert "nothing to deliver from here" in said(here.tick(alert_sensor))
    here.clock.advance(dt.timedelta(seconds=alerting.DELIVERER_SECONDS + 1))
    assert len(requests(here.tick(alert_sensor))) == 1


def test_the_notification_job_delivers_and_then_nothing_is_asked_for(here: Ticking) -> None:
    fire(here)
    assert requests(here.tick(alert_sensor))
    assert here.run_job("notify").success
    assert not has_due(here.installation.database, here.installation.clock)
    assert "nothing to deliver" in said(here.tick(alert_sensor))
    [told] = (here.path / "alerts.log").read_text().splitlines()
    assert json.loads(told)["alertname"] == "Hot"


def test_a_tick_that_fails_keeps_its_cursor_and_the_next_one_misses_nothing(here: Ticking) -> None:
    rules = here.path.parent / "rules.yaml"
    rules.write_text(RULES)
    here.land(DAY)
    here.materialize(*FIGURES, first=DAY, last=DAY)
    cursor = result(here.tick(alert_sensor)).cursor
    here.land(DAY + dt.timedelta(days=1), days=4, cpu=90)
    here.materialize(*FIGURES, first=DAY + dt.timedelta(days=1), last=DAY + dt.timedelta(days=4))
    rules.write_text("alert_rules: [")
    context = here.context(cursor)
    with pytest.raises(UserError, match=r"rules\.yaml"):
        alert_sensor(context)
    assert context.cursor == cursor
    assert here.transitions == []
    rules.write_text(RULES)
    assert len(requests(here.tick(alert_sensor, cursor))) == 1
    assert [t.to_state for t in here.transitions] == ["firing"]


def renew_deliverer(here: Ticking) -> None:
    """What `analytics up` does on each turn; the alert itself is left due."""
    from analytics_dagster.lake.state_tables import cursors

    values = {"name": alerting.DELIVERER, "value": "{}", "changed_at": here.clock.now()}
    here.installation.database.write(lambda connection: connection.execute(cursors.insert().values(values)))


def fire(here: Ticking) -> None:
    """An alert that is due to be told."""
    (here.path.parent / "rules.yaml").write_text(RULES)
    here.land(DAY)
    here.materialize(*FIGURES, first=DAY, last=DAY)
    alerting.judge(here.installation)
    here.land(DAY + dt.timedelta(days=1), days=4, cpu=90)
    here.materialize(*FIGURES, first=DAY + dt.timedelta(days=1), last=DAY + dt.timedelta(days=4))
    assert alerting.judge(here.installation).queued == 1


# --- arrivals


def test_stale_days_are_requested_in_one_run_for_their_tenants_and_assets(here: Ticking) -> None:
    here.land(DAY, days=3)
    here.land(DAY + dt.timedelta(days=1), tenant="other")
    [request] = requests(here.tick(arrivals_sensor))
    assert request.tags[RANGE_START_TAG] == DAY.isoformat()
    assert request.tags[RANGE_END_TAG] == (DAY + dt.timedelta(days=2)).isoformat()
    assert {key.to_user_string() for key in request.asset_selection or ()} >= {*FIGURES, "quality/scorecard", "insights/daily"}
    assert "raw/plays" not in {key.to_user_string() for key in request.asset_selection or ()}
    assert scoped_tenants(request.run_config) == ("acme", "other")


def test_landings_are_reported_once_as_materializations_of_the_landing_asset(here: Ticking) -> None:
    here.land(DAY, days=2)
    here.land(DAY, tenant="other")
    first = result(here.tick(arrivals_sensor))
    [event] = first.asset_events
    assert event.asset_key == dg.AssetKey(["landing", "system_samples"])
    assert event.metadata["rows"].value == 3 * 24
    assert event.metadata["tenants"].value == "acme, other"
    assert result(here.tick(arrivals_sensor, first.cursor)).asset_events == []
    here.land(DAY + dt.timedelta(days=2))
    [later] = result(here.tick(arrivals_sensor, first.cursor)).asset_events
    assert later.metadata["rows"].value == 24


def test_while_a_run_is_under_way_its_days_are_not_requested_again(here: Ticking) -> None:
    here.land(DAY)
    [request] = requests(here.tick(arrivals_sensor))
    here.begin("materialize_days", dict(request.tags))
    answer = here.tick(arrivals_sensor)
    assert "is under way" in said(answer)
    assert not requests(answer)


def test_a_run_of_the_command_line_counts_as_under_way(here: Ticking) -> None:
    here.land(DAY)
    here.land_users()
    [plan] = stale_plan(here.installation, Request())
    assert "raw/users" in plan.assets
    here.begin("__ASSET_JOB", plan_tags(plan))
    # The days' run is under way; the catalogue alone would be another one, and takes the table's lock.
    [request] = requests(here.tick(arrivals_sensor))
    assert request.asset_selection == [dg.AssetKey(["raw", "users"])]


def test_a_catalogue_that_came_without_days_is_requested_once(here: Ticking) -> None:
    here.land_users()
    [request] = requests(here.tick(arrivals_sensor))
    assert request.asset_selection == [dg.AssetKey(["raw", "users"])]
    assert scoped_tenants(request.run_config) == ("acme",)
    here.begin("materialize_days", dict(request.tags))
    assert said(here.tick(arrivals_sensor)) == "the run of the catalogue is under way"
    here.materialize("raw/users")
    assert said(here.tick(arrivals_sensor)) == "every day is up to date"


def test_days_that_stay_stale_are_tried_twice_and_then_left_to_a_person(here: Ticking) -> None:
    here.land(DAY)
    for _ in range(MOST_TRIES):
        [request] = requests(here.tick(arrivals_sensor))
        here.instance.report_run_failed(here.begin("materialize_days", dict(request.tags)))
    answer = here.tick(arrivals_sensor)
    assert f"{DAY} to {DAY} is still stale after {MOST_TRIES} runs" in said(answer)
    assert not requests(answer)
    # Something new is another plan.
    here.land(DAY, cpu=11, tenant="other")
    [request] = requests(here.tick(arrivals_sensor))
    assert request.tags[ARRIVALS_TAG]


def test_materialized_days_are_up_to_date(here: Ticking) -> None:
    here.land(DAY, days=2)
    here.materialize(*FIGURES, "insights/daily", first=DAY, last=DAY + dt.timedelta(days=1))
    assert said(here.tick(arrivals_sensor)) == "every day is up to date"


def test_figures_that_no_page_has_seen_are_not_up_to_date(here: Ticking) -> None:
    here.land(DAY)
    here.materialize(*FIGURES, first=DAY, last=DAY)
    [request] = requests(here.tick(arrivals_sensor))
    assert dg.AssetKey(["insights", "daily"]) in (request.asset_selection or ())


# --- failed runs


def test_a_failed_run_is_paged_for_once(here: Ticking) -> None:
    here.installation.tenants.ensure("aurora", demo=True)
    failed = here.run_job("simulate_demo")
    assert not failed.success
    context = here.context()
    assert "1 failed runs" in said(run_failure_watch(context))
    [page] = here.outbox
    assert failed.run_id in page.payload
    assert "aurora was not simulated here" in page.payload
    assert "1 failed runs" in said(run_failure_watch(here.context(context.cursor)))
    assert len(here.outbox) == 1


def test_a_run_that_is_tried_again_is_not_paged_for(here: Ticking) -> None:
    here.instance.report_run_failed(here.begin("notify", {"dagster/will_retry": "true"}))
    assert "0 failed runs" in said(here.tick(run_failure_watch))
    here.instance.report_run_failed(here.begin("notify"))
    assert "1 failed runs" in said(here.tick(run_failure_watch))
    assert len(here.outbox) == 1


# --- the demo


def test_the_demo_goes_on_while_its_tenants_lack_yesterday(here: Ticking) -> None:
    assert said(here.tick(demo_sensor)) == "no demo tenant is behind"
    here.land(DAY)
    assert said(here.tick(demo_sensor)) == "no demo tenant is behind"
    here.installation.tenants.ensure("aurora", demo=True)
    request = here.tick(demo_sensor)
    assert isinstance(request, dg.RunRequest)
    assert request.run_key == "2026-03-09:aurora"
    here.begin("simulate_demo")
    assert said(here.tick(demo_sensor)) == "a simulation is under way"


def test_the_demo_job_simulates_up_to_yesterday(here: Ticking) -> None:
    from analytics_dagster.sources.simulation import SimulationPlan, simulate

    simulate(here.installation, SimulationPlan(until=DAY, tenants=1, users=3, days=6))
    assert isinstance(here.tick(demo_sensor), dg.RunRequest)
    assert here.run_job("simulate_demo").success
    assert said(here.tick(demo_sensor)) == "no demo tenant is behind"


# --- the daily schedule


def test_the_daily_run_takes_yesterday_and_the_days_that_were_missed(here: Ticking) -> None:
    assert "nothing was ever published" in said(here.tick_daily())
    here.land(dt.date(2026, 3, 5))
    here.materialize("raw/system_samples", first=dt.date(2026, 3, 5), last=dt.date(2026, 3, 5))
    request = here.tick_daily()
    assert isinstance(request, dg.RunRequest)
    assert (request.tags[RANGE_START_TAG], request.tags[RANGE_END_TAG]) == ("2026-03-06", "2026-03-09")
    here.land(dt.date(2026, 3, 9))
    here.materialize("raw/system_samples", first=dt.date(2026, 3, 6), last=dt.date(2026, 3, 9))
    request = here.tick_daily()
    assert isinstance(request, dg.RunRequest)
    assert (request.tags[RANGE_START_TAG], request.tags[RANGE_END_TAG]) == ("2026-03-09", "2026-03-09")
