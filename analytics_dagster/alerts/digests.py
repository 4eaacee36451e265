"""Digests: one message a run, tenant and channel about stored history or a backfill, instead of pages.

A run publishes its assets one after the other, so what is found later is merged into a digest that was not sent yet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from analytics_dagster.alerts.messages import VERSION, Message, Source, Status, alert_summary, digest_of, json_number
from analytics_dagster.alerts.rules import Rule, Severity
from analytics_dagster.alerts.state import Instance

MOST_ALERTS = 500
"""More are counted and not listed, so that a row of the outbox stays small."""


class DigestKind(StrEnum):
    """Why a digest is sent instead of pages."""

    HISTORY = "history"
    BACKFILL = "backfill"

    @property
    def heading(self) -> str:
        return "Alerts over stored history" if self is DigestKind.HISTORY else "Alerts over a backfill"


@dataclass(frozen=True)
class DigestLine:
    """What a digest says about one rule: what fires now, and how many of the past days breach."""

    rule: Rule
    firing: tuple[Instance, ...]
    breaching: int
    days: int


def digest_message(
    tenant: str, channel: str, kind: DigestKind, lines: Sequence[DigestLine], run_id: str, source: Source
) -> Message:
    """The digest of what was found so far; never followed by a resolved message."""
    alerts = [_alert(line.rule, instance, tenant) for line in lines for instance in line.firing]
    rules = [
        {"alertname": line.rule.name, "firing": len(line.firing), "breaching_days": line.breaching, "days": line.days}
        for line in lines
    ]
    key = digest_of("digest", tenant, channel, kind, run_id)
    payload = {
        "version": VERSION,
        "status": Status.DIGEST.value,
        "kind": kind.value,
        "alertname": kind.heading,
        "severity": Severity.INFO.value,
        "tenant_id": tenant,
        "labels": {"alertname": kind.heading, "tenant_id": tenant, "severity": Severity.INFO.value},
        "annotations": {},
        "rules": rules,
        "alerts": alerts[:MOST_ALERTS],
        "more_alerts": max(0, len(alerts) - MOST_ALERTS),
        "alert_id": key,
        "dedup_key": key,
        "url": source.url,
    }
    payload["summary"] = _summary(payload)
    return Message(key, tenant, channel, "", "", key, Status.DIGEST, Severity.INFO, False, payload)


def merge_digests(before: Mapping[str, Any], added: Mapping[str, Any]) -> dict[str, Any]:
    """One payload of two of the same run: history is counted anew each time, the days of a backfill add up."""
    news = {rule["alertname"]: rule for rule in added["rules"]}
    rules = {rule["alertname"]: rule for rule in before["rules"]}
    for name, rule in news.items():
        old = rules.get(name)
        if old is not None and before["kind"] == DigestKind.BACKFILL:
            counts = {key: rule[key] + old[key] for key in ("breaching_days", "days")}
            rules[name] = {**rule, **counts}
        else:
            rules[name] = rule
    alerts = [alert for alert in before["alerts"] if alert["alertname"] not in news] + list(added["alerts"])
    more = before["more_alerts"] + added["more_alerts"] + max(0, len(alerts) - MOST_ALERTS)
    merged = {**before, "rules": list(rules.values()), "alerts": alerts[:MOST_ALERTS], "more_alerts": more}
    return {**merged, "summary": _summary(merged)}


def renamed_digest(message: Message, at: datetime) -> Message:
    """The same digest under a key of its own, for a run that goes on after its first digest was sent."""
    key = digest_of(message.dedup_key, at.isoformat())
    payload = {**message.payload, "alert_id": key, "dedup_key": key}
    return replace(message, dedup_key=key, occurrence=key, payload=payload)


def _alert(rule: Rule, instance: Instance, tenant: str) -> dict[str, Any]:
    return {
        "alertname": rule.name,
        "severity": rule.severity.value,
        "labels": rule.full_labels(instance.labels, tenant),
        "value": json_number(instance.value),
        "threshold": json_number(rule.threshold),
        "summary": alert_summary(rule, instance, tenant, Status.FIRING),
        "active_since": instance.active_since.isoformat(),
    }


def _summary(payload: Mapping[str, Any]) -> str:
    count = len(payload["alerts"]) + payload["more_alerts"]
    firing = f"{count} {'alert is' if count == 1 else 'alerts are'} firing at the newest day"
    rules = payload["rules"]
    if len(rules) == 1:
        return f"{rules[0]['breaching_days']} of {rules[0]['days']} historical days breach; {firing}"
    breaching = sum(1 for rule in rules if rule["breaching_days"])
    return f"{breaching} rules have historical days that breach; {firing}"
