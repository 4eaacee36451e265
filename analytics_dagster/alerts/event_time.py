"""Judging figures by day: what a rule's instances are at the newest published day.

A day holds for its whole length: an instance fires when the end of its last consecutive breaching day minus the start of
the first is at least `for_duration`, so any hold up to a day fires at once; `keep_firing_for` is counted alike. A day
without a verdict (not published, or gated) neither resolves a firing instance nor counts towards a hold.

Pure: the same days give the same answer however often and in whatever portions they are judged.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta

from analytics_dagster.alerts.aggregation import over
from analytics_dagster.alerts.rules import Aggregate, Labels, NoData, Rule
from analytics_dagster.alerts.state import Instance, Sample, State, Transition, step

DAY = timedelta(days=1)
# Enough to say since when an alert has been active; a stored instance remembers more.
LEAST_LOOK_BACK = 35


@dataclass(frozen=True)
class SeriesBuckets:
    """One series by day. `total`: its values are counts already, so a window adds them up."""

    labels: Labels
    values: Mapping[date, float]
    total: bool = False


@dataclass(frozen=True)
class DayVerdict:
    """What a rule's instances are at the end of `day`, and what changed against what was stored."""

    day: date
    instances: Mapping[Labels, Instance]
    transitions: tuple[Transition, ...]


def bucket_start(day: date) -> datetime:
    """When a day begins (UTC)."""
    return datetime.combine(day, time(), UTC)


def bucket_end(day: date) -> datetime:
    """When a day has ended (UTC)."""
    return bucket_start(day) + DAY


def window_days(rule: Rule) -> int:
    """How many days one figure of the rule is made of."""
    if rule.aggregate is None or rule.window is None:
        return 1
    return max(1, math.ceil(rule.window / DAY))


def look_back_days(rule: Rule) -> int:
    """How many days before the newest one a verdict may depend on."""
    hold = math.ceil(max(rule.for_duration, rule.keep_firing_for) / DAY)
    return max(LEAST_LOOK_BACK, hold + rule.missing_evals + 1) + window_days(rule)


def figures(rule: Rule, series: Iterable[SeriesBuckets], days: Iterable[date]) -> dict[date, list[Sample]]:
    """The rule's samples on each of `days`: the day's value, or what `aggregate` makes of the window that ends with it."""
    taken = list(series)
    return {day: list(_figures_of_day(rule, taken, day)) for day in days}


def judge_newest(
    rule: Rule, samples: Mapping[date, Sequence[Sample]], days: Sequence[date], stored: Mapping[Labels, Instance]
) -> DayVerdict:
    """Judge the last of `days` (published days, rising) given the stored instances.

    Raises DuplicateSeriesError when two series of a day cannot be told apart.
    """
    instances: dict[Labels, Instance] = {}
    replayed = _replay(rule, samples, days, {})
    for labels in sorted(set(replayed) | set(stored)):
        before = stored.get(labels)
        if before is not None and before.state is State.FIRING:
            after = _still_firing(rule, samples, days, before)
        else:
            after = _newly_active(replayed.get(labels))
        if after is not None:
            instances[labels] = after
    return DayVerdict(days[-1], instances, tuple(_transitions(rule, days[-1], samples, stored, instances)))


def breaching_days(rule: Rule, samples: Mapping[date, Sequence[Sample]]) -> list[date]:
    """Days on which any series is on the wrong side of the threshold."""
    return [day for day, seen in samples.items() if any(s.value is not None and rule.breaches(s.value) for s in seen)]


def _figures_of_day(rule: Rule, series: Iterable[SeriesBuckets], day: date) -> Iterable[Sample]:
    if rule.aggregate is None:
        for one in series:
            if day in one.values:
                yield Sample(one.labels, one.values[day])
        return
    window = [day - timedelta(days=back) for back in reversed(range(window_days(rule)))]
    for one in series:
        values = [one.values[past] for past in window if past in one.values]
        if values:
            yield Sample(one.labels, over(Aggregate.SUM if one.total else rule.aggregate, values))


def _replay(
    rule: Rule, samples: Mapping[date, Sequence[Sample]], days: Sequence[date], start: Mapping[Labels, Instance]
) -> dict[Labels, Instance]:
    instances = dict(start)
    last: date | None = None
    for day in days:
        if last is not None and day - last > DAY:
            instances = {labels: i for labels, i in instances.items() if i.state is not State.PENDING}
        instances = dict(step(rule, instances, samples.get(day, ()), bucket_end(day), bucket_start(day)).instances)
        last = day
    return instances


def _still_firing(
    rule: Rule, samples: Mapping[date, Sequence[Sample]], days: Sequence[date], before: Instance
) -> Instance | None:
    # Only the days since its last breach can end it, and they decide alone: corrections of older days do not.
    mine = {day: [sample for sample in samples.get(day, ()) if sample.labels == before.labels] for day in days}
    breaches = set(breaching_days(rule, mine))
    since = max((number + 1 for number, day in enumerate(days) if day in breaches), default=0)
    seed = replace(before, keep_since=None, missed=0)
    after = _replay(rule, mine, days[min(since, len(days) - 1) :], {before.labels: seed}).get(before.labels)
    return after if after is not None and after.state is State.FIRING else None


def _newly_active(found: Instance | None) -> Instance | None:
    # What is over, and only kept firing, was never told: there is nothing to keep.
    if found is None or found.state is State.INACTIVE or found.keep_since is not None:
        return None
    return found


def _transitions(
    rule: Rule,
    day: date,
    samples: Mapping[date, Sequence[Sample]],
    stored: Mapping[Labels, Instance],
    instances: Mapping[Labels, Instance],
) -> Iterable[Transition]:
    values = {sample.labels: sample.value for sample in samples.get(day, ())}
    for labels in sorted(set(stored) | set(instances)):
        was = stored[labels].state if labels in stored else State.INACTIVE
        now = instances[labels].state if labels in instances else State.INACTIVE
        if was is not now:
            value = values.get(labels)
            absent = value is None and rule.no_data is not NoData.KEEP
            reason = "no data" if absent else "breach" if now is not State.INACTIVE else "no breach"
            yield Transition(labels, was, now, bucket_end(day), value, reason)
