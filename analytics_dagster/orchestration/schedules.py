"""Schedules: the day's run, and the housekeeping that nobody should have to think of. UTC."""

import dagster as dg

from analytics_dagster.clock import yesterday
from analytics_dagster.orchestration.jobs import maintenance, materialize_days
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

SCHEDULES = [daily, keep_house_daily]
