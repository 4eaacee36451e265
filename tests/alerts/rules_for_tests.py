"""Rules and series as the tests of the state machine need them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from analytics_dagster.alerts.durations import parse_duration
from analytics_dagster.alerts.queries import Query
from analytics_dagster.alerts.rules import Condition, Labels, NoData, Rule, Severity
from analytics_dagster.alerts.state import Instance, Sample, State, Transition, step

ZERO = datetime(1970, 1, 1, tzinfo=UTC)
NO_LABELS: Labels = ()


def make_rule(
    condition: str = "gt",
    threshold: float = 10,
    hold: str = "0",
    keep: str = "0",
    no_data: NoData = NoData.OK,
    missing_evals: int = 1,
    labels: Labels = (),
) -> Rule:
    return Rule(
        name="R",
        query=Query("metric"),
        condition=Condition(condition),
        threshold=threshold,
        severity=Severity.HIGH,
        for_duration=parse_duration(hold),
        keep_firing_for=parse_duration(keep),
        no_data=no_data,
        missing_evals=missing_evals,
        labels=labels,
    )


def at(seconds: float) -> datetime:
    return ZERO + timedelta(seconds=seconds)


def seconds(time: datetime) -> float:
    return (time - ZERO).total_seconds()


def spelled(*spans: tuple[int, float]) -> list[float]:
    """`(8, 5.0), (2, 11.0)`: eight times 5, then twice 11."""
    return [value for count, value in spans for _ in range(count)]


class Machine:
    """Feeds the state machine tick by tick and remembers all transitions."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.instances: Mapping[Labels, Instance] = {}
        self.transitions: list[Transition] = []

    def tick(self, time: float, samples: Mapping[Labels, float | None] | Iterable[Sample]) -> None:
        given = [Sample(*pair) for pair in samples.items()] if isinstance(samples, Mapping) else samples
        result = step(self.rule, self.instances, given, at(time))
        self.instances = result.instances
        self.transitions.extend(result.transitions)

    def run(self, values: Sequence[float | None], every: float = 60, labels: Labels = NO_LABELS) -> Machine:
        """One series, one value a tick; None is a tick without the series."""
        for number, value in enumerate(values):
            self.tick(number * every, {} if value is None else {labels: value})
        return self

    def changes(self, labels: Labels = NO_LABELS) -> list[tuple[float, str]]:
        return [(seconds(t.at), t.after.value) for t in self.transitions if t.labels == labels]

    def state(self, labels: Labels = NO_LABELS) -> str:
        instance = self.instances.get(labels)
        return State.INACTIVE.value if instance is None else instance.state.value


def states(rule: Rule, values: Sequence[float | None], every: float = 60) -> list[str]:
    """The state after each tick."""
    machine, found = Machine(rule), []
    for number, value in enumerate(values):
        machine.tick(number * every, {} if value is None else {NO_LABELS: value})
        found.append(machine.state())
    return found


def sampled(values: Sequence[float], step_seconds: int, eval_seconds: int, until: int) -> list[float | None]:
    """What ticks see of a series with a point every `step_seconds`: the newest point at or before the tick."""
    seen: list[float | None] = []
    for tick in range(0, until + 1, eval_seconds):
        position = tick // step_seconds
        # Look-back of five minutes after the last point, exclusive.
        gone = tick - (len(values) - 1) * step_seconds >= 300
        seen.append(None if gone else values[min(position, len(values) - 1)])
    return seen
