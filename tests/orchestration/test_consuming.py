"""The ingest log through Dagster: who consumes it and when, what the UI is told, and how a day that is not over is computed."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from pathlib import Path

import dagster as dg
import numpy as np
import pytest
from orchestration.ticking import Ticking, ticking
from small_home import NOW

from analytics_dagster.ingest.consume import consume_all
from analytics_dagster.ingest.log.open import open_log
from analytics_dagster.ingest.points import Points, SeriesTable
from analytics_dagster.ingest.raw import forget_covered_notes
from analytics_dagster.lake.schemas import METRICS
from analytics_dagster.orchestration.consuming import SOMEBODY_CONSUMES
from analytics_dagster.orchestration.diagnosis import CONSUMER_SILENT, Finding, Level, diagnose
from analytics_dagster.orchestration.partitions import RANGE_END_TAG, RANGE_START_TAG
from analytics_dagster.orchestration.schedules import consume_log_regularly
from analytics_dagster.orchestration.sensors import MOST_TRIES, arrivals_sensor, ingest_log_sensor
from analytics_dagster.orchestration.staleness import COMPUTE_AGAIN

TODAY = NOW.date()
YESTERDAY = TODAY - dt.timedelta(days=1)
FIGURES = ("raw/metrics", "aggregates/points", "quality/scorecard", "aggregates/deliveries")
PAGE = ("insights/daily",)


@pytest.fixture
def here(home: Path) -> Iterator[Ticking]:
    with ticking(home) as opened:
        opened.installation.tenants.ensure("acme")
        yield opened


def record(here: Ticking, *values: float, day: dt.date = TODAY, tenant: str = "acme", name: str = "signups") -> None:
    """Gauges of one series, a minute apart from one in the morning on, into the log."""
    series = SeriesTable()
    number = series.number(tenant, "gauge", name, "{}")
    start = dt.datetime(day.year, day.month, day.day, 1, tzinfo=dt.UTC)
    ts = int(start.timestamp()) * 1_000_000 + np.arange(len(values)) * 60_000_000
    log = open_log(here.installation.settings, here.clock, "local")
    log.append(Points(series, np.full(len(values), number, np.int32), ts, np.array(values))).result(timeout=30)
    log.close()


def said(answer: object) -> str:
    skip = answer.skip_reason if isinstance(answer, dg.SensorResult) else answer
    assert isinstance(skip, dg.SkipReason)
    return skip.skip_message or ""


def requests(answer: object) -> Sequence[dg.RunRequest]:
    assert isinstance(answer, dg.SensorResult)
    return answer.run_requests or ()


def selected(request: dg.RunRequest) -> set[str]:
    return {key.to_user_string() for key in request.asset_selection or ()}


def materializations(here: Ticking, path: str) -> list[dg.AssetMaterialization]:
    records = here.instance.fetch_materializations(dg.AssetKey(path.split("/")), limit=100, ascending=True).records
    return [r.asset_materialization for r in records if r.asset_materialization is not None]


# --- consuming


def test_points_come_from_the_log_to_figures_by_sensors_and_runs_alone(here: Ticking) -> None:
    assert said(here.tick(ingest_log_sensor)) == "the log is consumed"
    record(here, 1, 2, 3, day=YESTERDAY)
    assert isinstance(here.tick(ingest_log_sensor), dg.RunRequest)
    assert here.run_job("consume_log").success
    assert said(here.tick(ingest_log_sensor)) == "the log is consumed"
    [request] = requests(here.tick(arrivals_sensor))
    assert selected(request) >= {*FIGURES, "insights/daily"}
    here.materialize(*selected(request), first=YESTERDAY, last=YESTERDAY)
    lake = here.installation.lake.tenant("acme")
    assert sorted(lake.table(METRICS).read(columns=["value"]).column(0).to_pylist()) == [1, 2, 3]
    assert here.published("aggregates/points")["acme", "aggregates/points", YESTERDAY].rows == 1
    assert said(here.tick(arrivals_sensor)) == "every day is up to date"


def test_no_run_is_started_while_somebody_consumes(here: Ticking) -> None:
    record(here, 1)
    consume_all(here.installation)
    record(here, 2)
    here.clock.advance(dt.timedelta(seconds=20))
    assert said(here.tick(ingest_log_sensor)).startswith("the log was consumed 20 s ago")
    here.clock.advance(SOMEBODY_CONSUMES)
    assert isinstance(here.tick(ingest_log_sensor), dg.RunRequest)
    here.begin("consume_log")
    assert said(here.tick(ingest_log_sensor)) == "a run that consumes the log is under way"


def test_the_schedule_stands_in_for_the_sensor(here: Ticking) -> None:
    context = dg.build_schedule_context(here.instance, here.clock.now(), resources=here.resources)
    assert said(consume_log_regularly(context)) == "the log is consumed"
    record(here, 1)
    assert isinstance(consume_log_regularly(context), dg.RunRequest)


def test_rows_are_reported_once_by_the_step_or_by_the_sensor(here: Ticking) -> None:
    record(here, 1, 2)
    here.run_job("consume_log")
    assert not here.tick(arrivals_sensor).asset_events
    record(here, 3)
    record(here, 4, tenant="other")
    here.installation.tenants.ensure("other")
    consume_all(here.installation)  # as the server does
    [event] = here.tick(arrivals_sensor).asset_events
    assert event.asset_key == dg.AssetKey(["landing", "metrics"])
    assert (event.metadata["rows"].value, event.metadata["tenants"].value) == (2, "acme, other")
    record(here, 5)
    here.run_job("consume_log")
    metrics, plays = materializations(here, "landing/metrics"), materializations(here, "landing/plays")
    assert [m.metadata["rows"].value for m in metrics] == [2, 1]
    assert [m.metadata["rows"].value for m in plays] == [0, 0]
    assert metrics[-1].metadata["bytes left in the log"].value == 0


def test_materializing_one_landing_table_consumes_the_whole_log(here: Ticking) -> None:
    record(here, 1)
    here.materialize("landing/plays")
    assert said(here.tick(ingest_log_sensor)) == "the log is consumed"
    [event] = here.tick(arrivals_sensor).asset_events
    assert event.asset_key == dg.AssetKey(["landing", "metrics"])


# --- a day that is not over


def test_a_day_that_is_not_over_has_figures_and_no_models_until_it_is(here: Ticking) -> None:
    record(here, 1, 2)
    record(here, 3, day=YESTERDAY)
    consume_all(here.installation)
    over, unfinished = requests(here.tick(arrivals_sensor))
    assert (over.tags[RANGE_END_TAG], unfinished.tags[RANGE_START_TAG]) == (YESTERDAY.isoformat(), TODAY.isoformat())
    assert "models/anomaly" in selected(over)
    assert selected(unfinished) == set(FIGURES)
    here.materialize(*selected(over), first=YESTERDAY, last=YESTERDAY)
    here.materialize(*FIGURES, first=TODAY, last=TODAY)
    assert said(here.tick(arrivals_sensor)) == "every day is up to date"
    here.clock.advance(dt.timedelta(days=1))
    [request] = requests(here.tick(arrivals_sensor))
    assert (request.tags[RANGE_START_TAG], request.tags[RANGE_END_TAG]) == (TODAY.isoformat(), TODAY.isoformat())
    assert selected(request) >= {*FIGURES, *PAGE}


def test_a_day_with_rows_all_the_time_is_computed_every_ten_minutes(here: Ticking) -> None:
    record(here, 1)
    consume_all(here.installation)
    [first] = requests(here.tick(arrivals_sensor))
    under_way = here.begin("materialize_days", dict(first.tags))
    record(here, 2)
    consume_all(here.installation)
    # Newer rows are another plan, and about a day that is being computed.
    assert "is under way" in said(here.tick(arrivals_sensor))
    here.materialize(*FIGURES, first=TODAY, last=TODAY)
    here.instance.delete_run(under_way.run_id)
    record(here, 3)
    consume_all(here.installation)
    here.clock.advance(COMPUTE_AGAIN - dt.timedelta(seconds=1))
    assert said(here.tick(arrivals_sensor)) == f"metrics of {TODAY} to {TODAY} were computed less than 10 minutes ago"
    here.clock.advance(dt.timedelta(seconds=1))
    assert len(requests(here.tick(arrivals_sensor))) == 1


def test_a_late_point_has_its_own_day_computed_at_once_and_no_other(here: Ticking) -> None:
    old = TODAY - dt.timedelta(days=60)
    record(here, 1, day=YESTERDAY)
    consume_all(here.installation)
    here.materialize(*FIGURES, *PAGE, first=YESTERDAY, last=YESTERDAY)
    record(here, 2, day=old)
    consume_all(here.installation)
    [request] = requests(here.tick(arrivals_sensor))
    assert (request.tags[RANGE_START_TAG], request.tags[RANGE_END_TAG]) == (old.isoformat(), old.isoformat())


def test_an_import_into_a_day_that_was_just_computed_does_not_wait(here: Ticking) -> None:
    import pyarrow as pa

    record(here, 1)
    consume_all(here.installation)
    here.materialize(*FIGURES, first=TODAY, last=TODAY)
    row = {"point_id": "p", "ts": NOW, "name": "signups", "type": "gauge", "value": 5.0, "labels": "{}"}
    here.installation.landing.append("acme", METRICS, pa.Table.from_pylist([row], schema=METRICS.arrow), "import")
    assert len(requests(here.tick(arrivals_sensor))) == 1


def test_a_day_that_fails_and_has_rows_all_the_time_is_not_run_on_every_tick(here: Ticking) -> None:
    # Dagster notes a run's time by the machine's clock.
    here.clock.advance(dt.datetime.now(dt.UTC) - here.clock.now())
    today = here.clock.now().date()
    for number in range(MOST_TRIES):
        record(here, number, day=today - dt.timedelta(days=1))
        consume_all(here.installation)
        [request] = requests(here.tick(arrivals_sensor))
        here.instance.report_run_failed(here.begin("materialize_days", dict(request.tags)))
    here.clock.advance(dt.timedelta(seconds=5))
    record(here, 7, day=today - dt.timedelta(days=1))
    consume_all(here.installation)
    assert f"failed {MOST_TRIES} times in the last 10 minutes" in said(here.tick(arrivals_sensor))
    here.clock.advance(COMPUTE_AGAIN)
    assert len(requests(here.tick(arrivals_sensor))) == 1


# --- notes and findings


def test_notes_that_say_nothing_new_are_forgotten_and_nothing_changes_by_that(here: Ticking) -> None:
    for _ in range(3):
        here.land(YESTERDAY, cpu=len(here.rows_of_arrivals()))
    record(here, 1)
    consume_all(here.installation)
    before = here.tick(arrivals_sensor)
    assert forget_covered_notes(here.installation.database) == 2
    assert len(here.rows_of_arrivals()) == 2
    assert [r.tags for r in requests(here.tick(arrivals_sensor))] == [r.tags for r in requests(before)]


def about_log(here: Ticking) -> list[Finding]:
    return [finding for finding in diagnose(here.installation) if finding.about in ("log", "held")]


def test_doctor_tells_of_what_waits_in_the_log_who_writes_and_what_is_held(here: Ticking) -> None:
    assert [f.found for f in about_log(here)] == ["nobody is writing to it", "nothing waits; never consumed"]
    record(here, 1)
    log = open_log(here.installation.settings, here.clock, "local")
    writing, waiting = about_log(here)
    assert writing.found.startswith("written by local-0 (process ")
    assert (waiting.level, "MiB wait" in waiting.found) == (Level.OK, True)
    log.close()
    here.clock.advance(CONSUMER_SILENT + dt.timedelta(minutes=1))
    _, stuck = about_log(here)
    assert stuck.level is Level.PROBLEM
    assert "nobody consumes log/local-0" in stuck.found
    record(here, 2, tenant="stranger")
    consume_all(here.installation)
    *_, held = about_log(here)
    assert (held.level, held.found.split(":")[0]) == (Level.PROBLEM, "stranger")
    assert "analytics tenant add stranger" in held.remedy
