"""What is told: the payload of one outbox row, from which every channel makes its own message.

A payload is plain JSON (docs/reference/alerting.md); text in it is unescaped, since each channel escapes for its own
format. A message's key is derived from the alert's, so that telling the same thing twice is the same row.
"""

from __future__ import annotations

import hashlib
import json
import math
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime
from enum import StrEnum
from typing import Any
from urllib.parse import quote

from analytics_dagster.alerts.rules import Rule, Severity, fingerprint
from analytics_dagster.alerts.state import Instance
from analytics_dagster.alerts.templates import format_number

VERSION = 1


class Status(StrEnum):
    """What kind of message a row is."""

    FIRING = "firing"
    RESOLVED = "resolved"
    DIGEST = "digest"


@dataclass(frozen=True)
class Message:
    """One row of the outbox, before it has an id."""

    dedup_key: str
    tenant: str
    channel: str
    rule: str
    fingerprint: str
    occurrence: str
    status: Status
    severity: Severity
    urgent: bool
    payload: Mapping[str, Any]


@dataclass(frozen=True)
class Source:
    """Where a figure comes from: the asset and day that a message links to."""

    public_url: str
    asset: str
    day: date

    @property
    def url(self) -> str:
        return f"{self.public_url.rstrip('/')}/assets/{quote(self.asset)}?view=partitions&partition={self.day.isoformat()}"


def digest_of(*parts: object) -> str:
    """32 hexadecimal digits that stand for `parts`."""
    return hashlib.sha256(json.dumps([str(part) for part in parts], ensure_ascii=False).encode()).hexdigest()[:32]


def new_occurrence() -> str:
    """Identity of one alert from firing to resolved; a later firing of the same instance is another."""
    return uuid.uuid4().hex


def alert_message(
    rule: Rule, tenant: str, channel: str, instance: Instance, occurrence: str, status: Status, at: datetime, source: Source
) -> Message:
    """A firing or resolved message. `at` is the end of the day that decided."""
    firing = status is Status.FIRING
    labels = rule.full_labels(instance.labels, tenant)
    key = digest_of("message", occurrence, channel, status, rule.severity)
    payload = {
        "version": VERSION,
        "status": status.value,
        "alertname": rule.name,
        "severity": rule.severity.value,
        "tenant_id": tenant,
        "labels": {**labels, "alertname": rule.name},
        "annotations": rule.annotate(instance.labels, tenant, instance.value),
        "summary": alert_summary(rule, instance, tenant, status),
        "value": json_number(instance.value),
        "threshold": json_number(rule.threshold),
        "condition": rule.condition.value,
        "expression": rule.expression,
        "active_since": instance.active_since.isoformat(),
        "starts_at": (instance.fired_at or at).isoformat(),
        "ends_at": None if firing else at.isoformat(),
        "day": source.day.isoformat(),
        "alert_id": occurrence,
        "dedup_key": key,
        "url": source.url,
    }
    urgent = firing and rule.severity is Severity.CRITICAL
    return Message(
        key, tenant, channel, rule.name, fingerprint(instance.labels), occurrence, status, rule.severity, urgent, payload
    )


def alert_summary(rule: Rule, instance: Instance, tenant: str, status: Status) -> str:
    """One line that says what is wrong: the rule's own summary annotation, else the figures."""
    own = rule.annotate(instance.labels, tenant, instance.value).get("summary")
    if own:
        return own
    where = ", ".join(f"{name}={value}" for name, value in instance.labels)
    shown = "no data" if instance.value is None else format_number(instance.value)
    what = f"{rule.query.metric}{f' ({where})' if where else ''}"
    if status is Status.RESOLVED:
        return f"{what} no longer breaches {rule.condition.sign} {_limit(rule)}"
    return f"{what} is {shown}, breaching {rule.condition.sign} {_limit(rule)}"


def _limit(rule: Rule) -> str:
    return "" if rule.threshold is None else format_number(rule.threshold)


def for_channel(template: Message, channel: str) -> Message:
    """A message made without a channel, for one."""
    key = digest_of("message", template.occurrence, channel, template.status, template.severity)
    return replace(template, channel=channel, dedup_key=key, payload={**template.payload, "dedup_key": key})


def removal_message(told: Any, payload: Mapping[str, Any], channel: str, at: datetime) -> Message:
    """The resolved message of an alert whose rule is gone, made from the outbox row that told it firing."""
    key = digest_of("message", told.occurrence, channel, Status.RESOLVED, "removed")
    summary = f"rule {told.rule} was removed"
    changed = {**payload, "status": Status.RESOLVED.value, "ends_at": at.isoformat(), "dedup_key": key, "summary": summary}
    severity = Severity(told.severity)
    return Message(
        key, told.tenant, channel, told.rule, told.fingerprint, told.occurrence, Status.RESOLVED, severity, False, changed
    )


@dataclass(frozen=True)
class RunFailure:
    """A Dagster run that failed for good."""

    run_id: str
    job: str
    error: str
    at: datetime
    tenants: tuple[str, ...] = ()


RUN_FAILED = "Dagster run failed"
LONGEST_ERROR = 4_000


def run_failure_message(failure: RunFailure, channel: str, public_url: str) -> Message:
    """A page about a failed run; keyed by run and channel, so that reporting twice tells once."""
    occurrence = digest_of("run", failure.run_id)
    key = digest_of("message", occurrence, channel, Status.FIRING)
    tenant = failure.tenants[0] if len(failure.tenants) == 1 else ""
    labels = {"job": failure.job, "run_id": failure.run_id, "severity": Severity.HIGH.value}
    payload = {
        "version": VERSION,
        "status": Status.FIRING.value,
        "alertname": RUN_FAILED,
        "severity": Severity.HIGH.value,
        "tenant_id": tenant or None,
        "labels": {**labels, "alertname": RUN_FAILED},
        "annotations": {"error": failure.error[:LONGEST_ERROR], "tenants": ", ".join(failure.tenants)},
        "summary": f"job {failure.job} failed (run {failure.run_id[:8]})",
        "value": None,
        "threshold": None,
        "condition": None,
        "active_since": failure.at.isoformat(),
        "starts_at": failure.at.isoformat(),
        "ends_at": None,
        "alert_id": occurrence,
        "dedup_key": key,
        "url": f"{public_url.rstrip('/')}/runs/{quote(failure.run_id)}",
    }
    return Message(key, tenant, channel, RUN_FAILED, occurrence, occurrence, Status.FIRING, Severity.HIGH, False, payload)


def unevaluable_message(
    rule: Rule, tenant: str, channel: str, occurrence: str, error: str | None, at: datetime, public_url: str
) -> Message:
    """A rule could not be evaluated several times in a row (`error`), or can be again (None). Its own alerts keep their state."""
    status = Status.RESOLVED if error is None else Status.FIRING
    key = digest_of("message", occurrence, channel, status, Severity.MEDIUM)
    name = f"{rule.name} cannot be evaluated"
    said = "is evaluated again" if error is None else "cannot be evaluated; its alerts stay as they are"
    labels = {"alertname": name, "rule": rule.name, "tenant_id": tenant, "severity": Severity.MEDIUM.value}
    payload = {
        "version": VERSION,
        "status": status.value,
        "alertname": name,
        "severity": Severity.MEDIUM.value,
        "tenant_id": tenant,
        "labels": labels,
        "annotations": {} if error is None else {"error": error[:LONGEST_ERROR]},
        "summary": f"rule {rule.name} {said}",
        "value": None,
        "threshold": None,
        "condition": None,
        "active_since": at.isoformat(),
        "starts_at": at.isoformat(),
        "ends_at": at.isoformat() if error is None else None,
        "alert_id": occurrence,
        "dedup_key": key,
        "url": public_url,
    }
    return Message(key, tenant, channel, name, "", occurrence, status, Severity.MEDIUM, False, payload)


def json_number(value: float | None) -> float | str | None:
    """JSON has no NaN and no infinity: they are told as the text that people know."""
    return value if value is None or math.isfinite(value) else format_number(value)
