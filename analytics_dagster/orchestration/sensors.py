"""Sensors: each reads its own cursor, decides by a plain function, and says why when it does nothing.

None is an `@asset_sensor` (it sees only the newest of several partitions that land between two ticks) or a run-status
sensor (its cursor moves even when it fails). None delivers anything: alerting writes to the outbox in one transaction with
its state, and asks for a delivery run only while messages are due and nobody else delivers.
"""

import datetime as dt
from collections.abc import Sequence
from dataclasses import replace

import dagster as dg

from analytics_dagster.clock import yesterday
from analytics_dagster.ingest.raw import Arrived, take_unreported
from analytics_dagster.installation import Installation
from analytics_dagster.orchestration import alerting
from analytics_dagster.orchestration.abandoned import ABANDONED_TAG, cancel_abandoned
from analytics_dagster.orchestration.consuming import log_state, why_not_consume
from analytics_dagster.orchestration.jobs import UNDER_WAY, consume_log, materialize_days, notify, send_reports, simulate_demo
from analytics_dagster.orchestration.partitions import RANGE_END_TAG, RANGE_START_TAG, DayRange
from analytics_dagster.orchestration.planning import PlannedRun, is_catalogue, plan_catalogue, plan_runs
from analytics_dagster.orchestration.resources import Platform, scope_config
from analytics_dagster.orchestration.staleness import COMPUTE_AGAIN, just_computed, stale_catalogue, stale_tenant_days
from analytics_dagster.orchestration.tables import family_sources, graph_catalogue

ARRIVALS_TAG = "analytics/arrivals"

# A plan that failed twice (the run and its retry's run) needs a person; trying for ever would hide it.
MOST_TRIES = 2

# Dagster's own sensor loop takes a turn every 5 s.
ALERT_SECONDS = 5
INGEST_SECONDS = 15
DEMO_SECONDS = 60
REPORT_SECONDS = 30

# Run failures this far before the cursor are read again: runs end out of the order in which they are stored, and reporting
# is idempotent by run id.
FAILURE_OVERLAP = dt.timedelta(minutes=2)


@dg.sensor(
    job=materialize_days,
    minimum_interval_seconds=INGEST_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Materializes the days for which rows arrived (imports, the simulated service, late rows).",
)
def arrivals_sensor(context: dg.SensorEvaluationContext, platform: Platform) -> dg.SensorResult:
    installation = platform.open()
    cancel_abandoned(context.instance, launched=True)
    plans, waiting = _plans(installation)
    under_way = context.instance.get_runs(dg.RunsFilter(statuses=UNDER_WAY))
    requests = []
    for plan in plans:
        reason = _why_not(context.instance, plan, under_way, installation.clock.now())
        if reason:
            waiting.append(reason)
        else:
            requests.append(run_request(plan))
    skip = None if requests else dg.SkipReason("; ".join(sorted(set(waiting))) or "every day is up to date")
    # Last, so that a tick that fails has taken no report away. The cursor is where this sensor once kept what was reported.
    after = int(context.cursor) if context.cursor else 0
    arrived = take_unreported(installation.database, installation.clock.now(), since=after)
    cursor = str(max([after, *(a.newest for a in arrived)]))
    return dg.SensorResult(run_requests=requests, skip_reason=skip, cursor=cursor, asset_events=[_landed(a) for a in arrived])


@dg.sensor(
    job=consume_log,
    minimum_interval_seconds=INGEST_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Has the ingest log consumed where neither the server nor anybody else does it.",
)
def ingest_log_sensor(context: dg.SensorEvaluationContext, platform: Platform) -> dg.RunRequest | dg.SkipReason:
    installation = platform.open()
    under_way = _running(context.instance, consume_log.name)
    reason = why_not_consume(log_state(installation), installation.clock.now(), under_way=under_way)
    return dg.SkipReason(reason) if reason else dg.RunRequest()


@dg.sensor(
    job=notify,
    minimum_interval_seconds=ALERT_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Judges the alert rules on each materialization and has due messages delivered.",
)
def alert_sensor(context: dg.SensorEvaluationContext, platform: Platform) -> dg.SensorResult:
    installation = platform.open()
    cursor, materializations = _new_materializations(context.instance, context.cursor)
    judged = alerting.judge(installation)
    needed = alerting.delivery_needed(installation) and not _running(context.instance, notify.name)
    requests = [dg.RunRequest()] if needed else []
    said = f"{materializations} new materializations; {judged}"
    skip = None if requests else dg.SkipReason(f"{said}; nothing to deliver from here")
    return dg.SensorResult(run_requests=requests, skip_reason=skip, cursor=cursor)


@dg.sensor(
    job=notify,
    minimum_interval_seconds=ALERT_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Pages for runs that failed for good.",
)
def run_failure_watch(context: dg.SensorEvaluationContext, platform: Platform) -> dg.SensorResult | dg.SkipReason:
    installation = platform.open()
    now = installation.clock.now()
    # The first tick looks at the last hour: a run that failed while nobody watched is still news then.
    since = dt.datetime.fromisoformat(context.cursor) if context.cursor else now - dt.timedelta(hours=1)
    filters = dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE], updated_after=since - FAILURE_OVERLAP)
    records = context.instance.get_run_records(filters)
    final = [r for r in records if r.dagster_run.tags.get("dagster/will_retry") != "true"]
    reported = alerting.report_failed_runs(installation, context.instance, final)
    context.update_cursor(now.isoformat())
    return dg.SkipReason(f"{len(final)} failed runs since {since:%H:%M:%S}, {reported} new")


@dg.sensor(
    job=send_reports,
    minimum_interval_seconds=REPORT_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Has reports sent when they are due, where the server does not.",
)
def report_sensor(context: dg.SensorEvaluationContext, platform: Platform) -> dg.RunRequest | dg.SkipReason:
    from analytics_dagster.reports.sendings import needs_a_sender

    installation = platform.open()
    if not needs_a_sender(installation.database, installation.clock.now()):
        return dg.SkipReason("no report is due, or the server sends them")
    if _running(context.instance, send_reports.name):
        return dg.SkipReason("a run that sends reports is under way")
    return dg.RunRequest()


@dg.sensor(
    job=simulate_demo,
    minimum_interval_seconds=DEMO_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Goes on with the demo tenants, so that they have a yesterday on every day.",
)
def demo_sensor(context: dg.SensorEvaluationContext, platform: Platform) -> dg.RunRequest | dg.SkipReason:
    from analytics_dagster.orchestration.demo import behind

    installation = platform.open()
    late = behind(installation, yesterday(installation.clock))
    if not late:
        return dg.SkipReason("no demo tenant is behind")
    if _running(context.instance, simulate_demo.name):
        return dg.SkipReason("a simulation is under way")
    return dg.RunRequest(run_key=f"{yesterday(installation.clock)}:{','.join(late)}")


SENSORS = [ingest_log_sensor, arrivals_sensor, alert_sensor, run_failure_watch, report_sensor, demo_sensor]


def run_request(plan: PlannedRun) -> dg.RunRequest:
    """One run of the planned days and assets."""
    return dg.RunRequest(
        job_name=materialize_days.name,
        asset_selection=[dg.AssetKey(path.split("/")) for path in plan.assets],
        run_config=scope_config(list(plan.tenants)),
        tags=plan_tags(plan),
    )


def plan_tags(plan: PlannedRun) -> dict[str, str]:
    """Tags of a plan's run. The same arrivals have the same tag, whether a sensor or the command line runs them."""
    # The last asset: the command line puts catalogue tables before the others.
    return {**DayRange(plan.first, plan.last).tags, ARRIVALS_TAG: f"{plan.newest}:{plan.first}:{plan.assets[-1]}"}


def _landed(arrived: Arrived) -> dg.AssetMaterialization:
    """What landed since the last tick, as an event of the landing asset."""
    return dg.AssetMaterialization(
        asset_key=["landing", arrived.table],
        description=f"{arrived.rows} rows of {', '.join(arrived.tenants)}",
        metadata={"rows": arrived.rows, "tenants": ", ".join(arrived.tenants)},
    )


def _plans(installation: Installation) -> tuple[list[PlannedRun], list[str]]:
    """What is to be computed, and what is not although rows came, with the reason."""
    tenants, clock = installation.tenants.active(), installation.clock
    stale, just_now = stale_tenant_days(installation, tenants), just_computed(installation, tenants)
    due = [replace(s, days=tuple(day for day in s.days if (s.tenant, s.table, day) not in just_now)) for s in stale]
    minutes = COMPUTE_AGAIN.seconds // 60
    held = [
        f"{s.table} of {s.days[0]} to {s.days[-1]} were computed less than {minutes} minutes ago"
        for s, kept in zip(stale, due, strict=True)
        if s.days != kept.days
    ]
    families = family_sources(installation.settings.analytics_metrics)
    days = plan_runs([s for s in due if s.days], families, clock.now().date())
    return [*days, *plan_catalogue(stale_catalogue(installation, tenants), yesterday(clock))], held


def _why_not(instance: dg.DagsterInstance, plan: PlannedRun, under_way: Sequence[dg.DagsterRun], now: dt.datetime) -> str | None:
    """Why this plan is not started now, None to start it."""
    if any(_is_about(run, plan) for run in under_way):
        return f"the run of {plan.when} is under way"
    found = instance.get_runs(dg.RunsFilter(tags={ARRIVALS_TAG: plan_tags(plan)[ARRIVALS_TAG]}))
    runs = [run for run in found if ABANDONED_TAG not in run.tags]
    if len(runs) >= MOST_TRIES:
        return f"{plan.when} is still stale after {len(runs)} runs; see run {runs[0].run_id[:8]}, then materialize it by hand"
    # Where rows come all the time each plan is a new one, and a defect would fail a run on every tick.
    lately = dg.RunsFilter(
        statuses=[dg.DagsterRunStatus.FAILURE],
        tags=DayRange(plan.first, plan.last).tags,
        created_after=now - COMPUTE_AGAIN,
        created_before=now,
    )
    if len(instance.get_run_ids(lately, limit=MOST_TRIES)) >= MOST_TRIES:
        return f"{plan.when} failed {MOST_TRIES} times in the last {COMPUTE_AGAIN.seconds // 60} minutes"
    return None


def _is_about(run: dg.DagsterRun, plan: PlannedRun) -> bool:
    """Whether a run that a sensor or the command line started computes some of the plan's days, or its catalogue."""
    mine, other = plan_tags(plan), run.tags
    if ARRIVALS_TAG not in other or ABANDONED_TAG in other:
        return False
    if mine[ARRIVALS_TAG] == other[ARRIVALS_TAG]:
        return True
    overlap = other[RANGE_START_TAG] <= mine[RANGE_END_TAG] and mine[RANGE_START_TAG] <= other[RANGE_END_TAG]
    return overlap and not plan.is_catalogue and not is_catalogue(other[ARRIVALS_TAG].rpartition(":")[2])


def _running(instance: dg.DagsterInstance, job: str) -> bool:
    return bool(instance.get_run_ids(dg.RunsFilter(job_name=job, statuses=UNDER_WAY), limit=1))


def _new_materializations(instance: dg.DagsterInstance, cursor: str | None) -> tuple[str, int]:
    """The newest storage id of any figure's materialization, and how many came since `cursor`.

    Only wakes and informs: what is judged follows from `publications`, because PostgreSQL may commit storage ids out of order.
    """
    after = int(cursor) if cursor else None
    newest, count = after or 0, 0
    for family in graph_catalogue().families:
        key = dg.AssetKey(family.asset.split("/"))
        records = instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=key, after_storage_id=after), limit=1_000, ascending=after is not None
        ).records
        count += len(records)
        newest = max([newest, *(r.storage_id for r in records)])
    return str(newest), count
