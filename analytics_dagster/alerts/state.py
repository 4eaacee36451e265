"""The state machine of one rule: inactive -> pending -> firing -> inactive, with Prometheus's meaning.

Pure: what was, what is seen at one time, what is now, and which transitions lead there. It knows no clock, database or
channel, and is the same for ticks (evaluation time) and buckets (event time). A pending instance never becomes resolved;
a firing one resolves once, when `keep_firing_for` has passed since the first evaluation without a breach.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from analytics_dagster.alerts.rules import RESERVED_LABELS, Labels, NoData, Rule
from analytics_dagster.errors import UserError


class State(StrEnum):
    """Where an instance is in its life."""

    INACTIVE = "inactive"
    PENDING = "pending"
    FIRING = "firing"


class DuplicateSeriesError(UserError):
    """Two series have the same labels once the rule's own labels are applied: the whole evaluation is void."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What one series shows at an evaluation; None is no data, which NaN is not."""

    labels: Labels
    value: float | None


@dataclass(frozen=True, slots=True)
class Instance:
    """One series of a rule that is pending or firing (or inactive and remembered, for `no_data: alerting`).

    `value` is that of the newest breach. `keep_since` is set while a firing instance no longer breaches.
    """

    labels: Labels
    state: State
    active_since: datetime
    last_seen: datetime
    value: float | None = None
    fired_at: datetime | None = None
    keep_since: datetime | None = None
    missed: int = 0


@dataclass(frozen=True, slots=True)
class Transition:
    """`after` inactive means resolved when `before` is firing, and nothing worth telling when it is pending."""

    labels: Labels
    before: State
    after: State
    at: datetime
    value: float | None
    reason: str


@dataclass(frozen=True)
class Step:
    """All instances after an evaluation, and how they differ from before."""

    instances: Mapping[Labels, Instance]
    transitions: tuple[Transition, ...]


def step(
    rule: Rule,
    previous: Mapping[Labels, Instance],
    samples: Iterable[Sample],
    at: datetime,
    began: datetime | None = None,
) -> Step:
    """Judge one evaluation of `rule` at time `at` (of one tenant).

    `began` is when what is seen began to hold: at a tick it is the tick, for an event-time bucket, which holds for its
    whole length, it is the bucket's start while `at` is its end.

    Raises DuplicateSeriesError without any change of state.
    """
    seen = _unique(rule, samples)
    began = at if began is None else began
    instances: dict[Labels, Instance] = {}
    transitions: list[Transition] = []
    for labels in (*seen, *(labels for labels in previous if labels not in seen)):
        before = previous.get(labels)
        value = seen.get(labels)
        after, reason = _absent(rule, before, at, began) if value is None else _present(rule, labels, before, value, at, began)
        if after is not None:
            instances[labels] = after
        was = before.state if before is not None else State.INACTIVE
        now = after.state if after is not None else State.INACTIVE
        if was is not now:
            shown = value if value is not None else (after.value if after is not None else None)
            transitions.append(Transition(labels, was, now, at, shown, reason))
    return Step(instances, tuple(transitions))


def resume(
    instances: Mapping[Labels, Instance], last: datetime, first: datetime, interval: timedelta, tolerance: timedelta
) -> dict[Labels, Instance]:
    """The instances as they go on after a restart: `last` is the tick before the stop, `first` the first one after.

    Time spent stopped does not count as breached: pending holds are shifted by the gap when it exceeds one interval, and
    start over when it exceeds the outage tolerance. Firing instances and keep clocks are left alone.
    """
    gap = first - last
    if gap <= interval:
        return dict(instances)
    kept = {}
    for labels, instance in instances.items():
        if instance.state is not State.PENDING:
            kept[labels] = instance
        elif gap <= tolerance:
            kept[labels] = replace(instance, active_since=instance.active_since + gap)
    return kept


def _unique(rule: Rule, samples: Iterable[Sample]) -> dict[Labels, float | None]:
    seen: dict[Labels, float | None] = {}
    identities: set[Labels] = set()
    own = {name for name, _ in rule.labels} | RESERVED_LABELS
    for sample in samples:
        identity = tuple(label for label in sample.labels if label[0] not in own)
        if identity in identities:
            raise DuplicateSeriesError(
                f'rule "{rule.name}": two series have the labels {dict(identity)} once the rule\'s labels are applied; '
                "add aggregate and by, or a matcher"
            )
        identities.add(identity)
        seen[sample.labels] = sample.value
    return seen


def _present(
    rule: Rule, labels: Labels, before: Instance | None, value: float, at: datetime, began: datetime
) -> tuple[Instance | None, str]:
    if rule.breaches(value):
        return _breaching(rule, labels, before, value, at, began), "breach"
    after = _not_breaching(rule, before, at, began)
    if after is None:
        return _remembered(rule, labels, at), "no breach"
    return replace(after, last_seen=at, missed=0), "no breach"


def _breaching(
    rule: Rule, labels: Labels, before: Instance | None, value: float | None, at: datetime, began: datetime
) -> Instance:
    if before is None:
        before = Instance(labels, State.PENDING, active_since=began, last_seen=at)
    elif before.state is State.INACTIVE:
        before = replace(before, state=State.PENDING, active_since=began)
    missed = before.missed if value is None else 0
    last_seen = before.last_seen if value is None else at
    active = replace(before, value=value, last_seen=last_seen, keep_since=None, missed=missed)
    if active.state is State.PENDING and at - active.active_since >= rule.for_duration:
        return replace(active, state=State.FIRING, fired_at=at)
    return active


def _not_breaching(rule: Rule, before: Instance | None, at: datetime, began: datetime) -> Instance | None:
    if before is None or before.state is not State.FIRING:
        return None
    since = before.keep_since or began
    return replace(before, keep_since=since) if at - since < rule.keep_firing_for else None


def _absent(rule: Rule, before: Instance | None, at: datetime, began: datetime) -> tuple[Instance | None, str]:
    if before is None:
        return None, "no data"
    waiting = replace(before, missed=before.missed + 1)
    if waiting.missed < rule.missing_evals or rule.no_data is NoData.KEEP:
        return waiting, "no data"
    if rule.no_data is NoData.ALERTING:
        return _breaching(rule, before.labels, waiting, None, at, began), "no data"
    return _not_breaching(rule, waiting, at, began), "no data"


def _remembered(rule: Rule, labels: Labels, at: datetime) -> Instance | None:
    # Only `alerting` has to know a series that never breached, to notice that it is gone.
    return Instance(labels, State.INACTIVE, active_since=at, last_seen=at) if rule.no_data is NoData.ALERTING else None
