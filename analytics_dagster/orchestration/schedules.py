"""Schedules: the day's run, the log's second chance, and the housekeeping that nobody should have to think of. UTC."""

import dagster as dg

from analytics_dagster.clock import yesterday
from analytics_dagster.orchestration.consuming import log_state, why_not_consume
from analytics_dagster.orchestration.jobs import UNDER_WAY, consume_log, maintenance, materialize_days
from analytics_dagster.orchestration.partitions import DayRange
from analytics_dagster.orchestration.planning import missed_days
from analytics_dagster.orchestration.resources import Platform


@dg.schedule(
    job=materialize_days,
    # Half past one: a client's clock skew and the last batch of the day are in, and six in the morning is far.
    cron_schedule="30 1 * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Materializes yesterday, and the days that were missed while nothing ran.",
)
def daily(context: dg.ScheduleEvaluationContext, platform: Platform) -> dg.RunRequest | dg.SkipReason:
    installation = platform.open()
    published = [p.day for p in installation.publications.newest_days("raw/")]
    owed = missed_days(max(published, default=None), yesterday(installation.clock))
    if owed is None:
        return dg.SkipReason("nothing was ever published; import or simulate something first")
    days = DayRange(*owed)
    return dg.RunRequest(run_key=f"{days.first}:{days.last}", tags=days.tags)


keep_house_daily = dg.ScheduleDefinition(
    name="keep_house_daily",
    job=maintenance,
    cron_schedule="40 3 * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)


@dg.schedule(
    job=consume_log,
    cron_schedule="*/10 * * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Has the ingest log consumed where the sensor that does is stopped.",
)
def consume_log_regularly(context: dg.ScheduleEvaluationContext, platform: Platform) -> dg.RunRequest | dg.SkipReason:
    installation = platform.open()
    running = dg.RunsFilter(job_name=consume_log.name, statuses=UNDER_WAY)
    under_way = bool(context.instance.get_run_ids(running, limit=1))
    reason = why_not_consume(log_state(installation), installation.clock.now(), under_way=under_way)
    return dg.SkipReason(reason) if reason else dg.RunRequest()


SCHEDULES = [daily, consume_log_regularly, keep_house_daily]
