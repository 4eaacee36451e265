"""Alerting on one installation: what the sensor, the notification op and `analytics up` all call.

Judging and delivering are apart on purpose. Judging writes state and messages in one transaction; delivering sends what the
outbox holds, whoever does it, as often as it takes, with the same key for the same message.
"""

from __future__ import annotations

import datetime as dt
import json
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from analytics_dagster.alerts.config import AlertingConfig, load_alerting, load_installed_rules
from analytics_dagster.alerts.messages import RunFailure
from analytics_dagster.alerts.rules import Problem, RuleSet
from analytics_dagster.errors import UserError
from analytics_dagster.installation import Installation
from analytics_dagster.orchestration.tables import catalogue, tenant_catalogue

if TYPE_CHECKING:
    import dagster as dg

    from analytics_dagster.alerts.judge import Judged
    from analytics_dagster.alerts.metric_source import CatalogueSource
    from analytics_dagster.alerts.outbox import DeliveryReport

DELIVERER = "deliverer"
"""Cursor that a process which delivers all the time (`analytics up`) renews on each turn."""
DELIVERER_SECONDS = 15


def judge(installation: Installation) -> Judged:
    """Judge what was published or edited since the last time. Raises UserError when the rule file as a whole cannot be read."""
    from analytics_dagster.alerts.judge import judge_publications

    alerting = _alerting(installation)
    source = _source(installation)
    return judge_publications(
        installation.database,
        _rules(installation, alerting, source),
        source,
        installation.clock,
        channels=default_channels(alerting),
        public_url=installation.settings.analytics_public_url,
    )


def deliver(installation: Installation) -> DeliveryReport:
    """Send what is due."""
    from analytics_dagster.alerts.channels.build import build_channels
    from analytics_dagster.alerts.outbox import DeliveryPolicy, DeliveryReport, deliver_due, has_due

    if not has_due(installation.database, installation.clock):
        return DeliveryReport()
    settings = installation.settings
    channels = build_channels(_alerting(installation), settings.analytics_home, installation.clock, os.environ)
    policy = DeliveryPolicy(dt.timedelta(seconds=settings.alert_cooldown_period), settings.max_alerts_per_hour)
    return deliver_due(installation.database, channels, installation.clock, policy=policy)


def delivery_needed(installation: Installation) -> bool:
    """Whether messages are due and no process delivers all the time."""
    import sqlalchemy as sa

    from analytics_dagster.alerts.outbox import has_due
    from analytics_dagster.lake.state_tables import cursors

    with installation.database.read() as connection:
        renewed = connection.execute(sa.select(cursors.c.changed_at).where(cursors.c.name == DELIVERER)).scalar()
    if renewed is not None and installation.clock.now() - renewed < dt.timedelta(seconds=DELIVERER_SECONDS):
        return False
    return has_due(installation.database, installation.clock)


def report_failed_runs(installation: Installation, instance: dg.DagsterInstance, records: Sequence[dg.RunRecord]) -> int:
    """Put a page for each failed run into the outbox; once for each run. Returns how many are new."""
    from analytics_dagster.alerts.judge import report_run_failures

    if not records:
        return 0
    failures = [
        RunFailure(
            record.dagster_run.run_id,
            record.dagster_run.job_name,
            _why_failed(instance, record.dagster_run.run_id),
            dt.datetime.fromtimestamp(record.end_time or record.update_timestamp.timestamp(), dt.UTC),
            _scope_of(record.dagster_run),
        )
        for record in records
    ]
    return report_run_failures(
        installation.database,
        failures,
        default_channels(_alerting(installation)),
        installation.clock,
        public_url=installation.settings.analytics_public_url,
    )


def default_channels(alerting: AlertingConfig) -> list[str]:
    """Who is told by what names no channel: every channel that is configured, else the log."""
    named = sorted(alerting.names - {"log"})
    return named or ["log"]


def rule_problems(installation: Installation) -> Iterator[Problem]:
    """What is wrong with the rule file and alerting.yaml."""
    alerting = _alerting(installation)
    yield from alerting.problems
    yield from _rules(installation, alerting, _source(installation)).problems


def rule_count(installation: Installation) -> int:
    return len(_rules(installation, _alerting(installation), _source(installation)).rules)


class Watch:
    """The loop of `analytics up`: judge when something changed, deliver what is due."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation
        self._said: set[str] = set()

    def turn(self) -> list[str]:
        """One turn. Returns lines for people: changes, deliveries, and each problem once."""
        self._renew()
        lines = []
        try:
            judged = judge(self._installation)
            lines += [
                f"{tenant}: {rule} {t.before.value} -> {t.after.value} ({t.reason})" for tenant, rule, t in judged.transitions
            ]
            lines += self._once(judged.errors)
            report = deliver(self._installation)
            if report.sent or report.failed:
                lines.append(f"messages: {report.sent} sent, {report.failed} failed for good")
        except UserError as error:
            lines += self._once([f"alerting stands still: {error}"])
        return lines

    def _once(self, problems: Sequence[str]) -> list[str]:
        new = [p for p in problems if p not in self._said]
        self._said = set(problems)
        return new

    def _renew(self) -> None:
        import sqlalchemy as sa

        from analytics_dagster.lake.state_tables import cursors

        values = {"value": json.dumps({"pid": os.getpid()}), "changed_at": self._installation.clock.now()}

        def write(connection: sa.Connection) -> None:
            changed = connection.execute(cursors.update().where(cursors.c.name == DELIVERER).values(**values))
            if changed.rowcount == 0:
                connection.execute(cursors.insert().values(name=DELIVERER, **values))

        self._installation.database.write(write)


def _alerting(installation: Installation) -> AlertingConfig:
    return load_alerting(installation.settings, os.environ)


def _source(installation: Installation) -> CatalogueSource:
    from analytics_dagster.alerts.metric_source import CatalogueSource

    return CatalogueSource(
        installation.lake,
        catalogue(installation.settings.analytics_metrics),
        lambda tenant: tenant_catalogue(installation, tenant),
    )


def _rules(installation: Installation, alerting: AlertingConfig, source: CatalogueSource) -> RuleSet:
    from analytics_dagster.alerts.rule_quota import within_quota
    from analytics_dagster.tenancy.quotas import Quotas

    tenants = installation.tenants.active()
    rules = load_installed_rules(installation.settings, alerting.names, lambda name: source.knows(name, tenants))
    limits_of = Quotas(installation.database, installation.settings, installation.clock).limits_of()
    return within_quota(rules, tenants, lambda tenant: limits_of(tenant).rules)


def _scope_of(run: dg.DagsterRun) -> tuple[str, ...]:
    """The tenants that a run was for; empty for all."""
    from analytics_dagster.orchestration.resources import scoped_tenants

    return scoped_tenants(run.run_config)


def _why_failed(instance: dg.DagsterInstance, run_id: str) -> str:
    import dagster as dg

    kinds = {dg.DagsterEventType.STEP_FAILURE, dg.DagsterEventType.RUN_FAILURE}
    events = [record.event_log_entry.dagster_event for record in instance.get_records_for_run(run_id, of_type=kinds).records]
    said = [f"{e.step_key}: {e.step_failure_data.error_display_string}" for e in events if e is not None and e.is_step_failure]
    said += [e.message or "" for e in events if e is not None and not e.is_step_failure]
    return "\n".join(said) or "the run ended without saying why; see its log in the UI"
