"""Ops: what jobs outside the asset graph do. Each calls one domain function and reports what came of it."""

import dagster as dg

from analytics_dagster.clock import yesterday
from analytics_dagster.orchestration.alerting import deliver
from analytics_dagster.orchestration.housekeeping import keep_house as keep_house_of
from analytics_dagster.orchestration.resources import Platform
from analytics_dagster.tenancy.tenants import TenantStatus


@dg.op(description="Send what the outbox holds; what cannot be sent now stays due and is tried again.")
def deliver_notifications(context: dg.OpExecutionContext, platform: Platform) -> None:
    report = deliver(platform.open())
    context.log.info("%s", report)


@dg.op(description="Send the reports that are due; what cannot be sent now stays due and is tried again.")
def send_due_reports(context: dg.OpExecutionContext, platform: Platform) -> None:
    from analytics_dagster.reports.send import send_due

    context.log.info("%s", send_due(platform.open()))


@dg.op(description="Simulate each demo tenant's days from its last one to yesterday.")
def continue_demo(context: dg.OpExecutionContext, platform: Platform) -> None:
    from analytics_dagster.sources.simulation import simulate_through

    installation = platform.open()
    until = yesterday(installation.clock)
    for record in installation.tenants.records():
        if record.demo and record.status is TenantStatus.ACTIVE:  # simulating a removed one would bring it back
            days = simulate_through(installation, record.tenant, until)
            context.log.info("tenant %s: %s", record.tenant, days)


@dg.op(description="Vacuum, checkpoint, prune; delete removed tenants' data when their grace period is over.")
def keep_house(context: dg.OpExecutionContext, platform: Platform) -> None:
    report = keep_house_of(platform.open(), context.instance)
    context.log.info("%d tables maintained, %d runs pruned", report.tables, report.runs)
    for tenant in report.purged:
        context.log.warning("tenant %s was removed, and its grace period is over: its data is deleted", tenant)
