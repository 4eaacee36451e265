"""Runs rule tests without home, database, tenant or channel, and says what differs as promtool does.

Ticks are at 0, one evaluation interval, two, ...; rules run in file order, and `ALERTS` of a rule can be read by the
rules after it in the same tick. Between ticks the last tick's state counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from analytics_dagster.alerts.durations import format_duration
from analytics_dagster.alerts.rule_file import load_rules
from analytics_dagster.alerts.rule_test_file import AlertTest, ExpectedState, StateTest, TestGroup, read_rule_test
from analytics_dagster.alerts.rules import DEFAULT_TENANT, Labels, Level, Problem, Rule, RuleSet, sorted_labels
from analytics_dagster.alerts.series import SeriesStore
from analytics_dagster.alerts.series_notation import Mark
from analytics_dagster.alerts.state import DuplicateSeriesError, Instance, State, resume, step
from analytics_dagster.errors import AnalyticsError

ZERO = datetime(1970, 1, 1, tzinfo=UTC)
_INDENT = " " * 4


@dataclass(frozen=True)
class FileResult:
    """What running one file gave. `could_not` explains status 2, `failures` status 1."""

    path: Path
    failures: tuple[str, ...] = ()
    could_not: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def status(self) -> int:
        return 2 if self.could_not else 1 if self.failures else 0


@dataclass(frozen=True)
class Active:
    """An instance that is pending or firing at a time, as tests see it."""

    rule: Rule
    tenant: str
    instance: Instance

    @property
    def labels(self) -> dict[str, str]:
        return {**self.rule.full_labels(self.instance.labels, self.tenant), "alertname": self.rule.name}

    @property
    def annotations(self) -> Labels:
        return sorted_labels(self.rule.annotate(self.instance.labels, self.tenant, self.instance.value))


def run_rule_test(path: Path) -> FileResult:
    """Run one file. Never raises for what is wrong with the file: that is `could_not`."""
    try:
        tests = read_rule_test(path)
        rules = load_rules(tests.rule_files, shown=lambda file: file.name)
    except AnalyticsError as error:
        return FileResult(path, could_not=(str(error),))
    remarks = [f"{problem.level.value}: {problem}" for problem in rules.problems] + tests.notices
    failures: list[str] = []
    for group in tests.groups:
        run = _Run(rules, group, tests.evaluation_interval)
        found = list(run.differences())
        if found and group.name:
            found[0] = f"{_INDENT}name: {group.name},\n{found[0]}"
        failures.extend(found)
        remarks.extend(run.remarks)
    return FileResult(path, tuple(failures), tuple(tests.not_run), tuple(dict.fromkeys(remarks)))


@dataclass
class _Run:
    """One test group: its series by tenant, the state after each tick, and the snapshots that its tests ask for."""

    rules: RuleSet
    group: TestGroup
    interval: timedelta
    remarks: list[str] = field(default_factory=list)
    stores: dict[str, SeriesStore] = field(default_factory=dict)
    states: dict[tuple[str, str], Mapping[Labels, Instance]] = field(default_factory=dict)
    alerts: dict[tuple[str, str], set[Labels]] = field(default_factory=dict)

    def differences(self) -> Iterator[str]:
        self._load()
        asked: list[AlertTest | StateTest] = [*self.group.alert_tests, *self.group.state_tests]
        snapshots: dict[timedelta, list[Active]] = {}
        waiting = sorted({test.eval_time for test in asked})
        last_tick: datetime | None = None
        time = timedelta(0)
        while waiting:
            if not any(outage.start <= time < outage.end for outage in self.group.outages):
                if last_tick is not None:
                    self._resume(last_tick, ZERO + time)
                self._tick(ZERO + time)
                last_tick = ZERO + time
            time += self.interval
            while waiting and waiting[0] < time:
                snapshots[waiting.pop(0)] = list(self._active())
        for test in self.group.alert_tests:
            yield from self._judge_alerts(test, snapshots[test.eval_time])
        for state_test in self.group.state_tests:
            yield from self._judge_states(state_test, snapshots[state_test.eval_time])

    def _load(self) -> None:
        for series in self.group.series:
            tenant = dict(series.labels).get("tenant_id", DEFAULT_TENANT)
            stored = self.stores.setdefault(tenant, SeriesStore()).series(series.metric, series.labels)
            for number, value in enumerate(series.values):
                if value is not Mark.MISSING:
                    stored.append(ZERO + number * self.group.interval, None if isinstance(value, Mark) else value)
        for rule in self.rules.rules:
            self.stores.setdefault(rule.tenant_id or DEFAULT_TENANT, SeriesStore())

    def _resume(self, last: datetime, first: datetime) -> None:
        stopped = [
            outage for outage in self.group.outages if outage.restart and last < ZERO + outage.end and ZERO + outage.start < first
        ]
        if stopped:
            for key, instances in self.states.items():
                self.states[key] = resume(instances, last, first, self.interval, self.group.outage_tolerance)

    def _tick(self, at: datetime) -> None:
        for rule in self.rules.rules:
            if not rule.judged:
                continue
            for tenant, store in self.stores.items():
                if not rule.applies_to(tenant):
                    continue
                key = (rule.name, tenant)
                try:
                    self.states[key] = step(rule, self.states.get(key, {}), store.samples(rule, at), at).instances
                except DuplicateSeriesError as error:
                    self.remarks.append(f"error at {_shown(at)}: {error}; its state stays as it was")
                self._record_alerts(key, rule, store, at)

    def _record_alerts(self, key: tuple[str, str], rule: Rule, store: SeriesStore, at: datetime) -> None:
        current = {
            sorted_labels({**Active(rule, key[1], instance).labels, "alertstate": instance.state.value})
            for instance in self.states.get(key, {}).values()
            if instance.state is not State.INACTIVE
        }
        for labels in self.alerts.get(key, set()) - current:
            store.series("ALERTS", labels).append(at, None)
        for labels in current:
            store.series("ALERTS", labels).append(at, 1.0)
        self.alerts[key] = current

    def _active(self) -> Iterator[Active]:
        rules = {(rule.name, tenant): rule for rule in self.rules.rules for tenant in self.stores if rule.applies_to(tenant)}
        for (name, tenant), instances in self.states.items():
            for instance in instances.values():
                if instance.state is not State.INACTIVE:
                    yield Active(rules[name, tenant], tenant, instance)

    def _missing_rule(self, alertname: str) -> str | None:
        if any(rule.name == alertname for rule in self.rules.rules):
            return None
        if alertname in self.rules.refused:
            reasons = [p for p in self.rules.problems if p.rule == alertname and p.level is Level.ERROR]
            return f"the rule was refused: {'; '.join(_reason(p) for p in reasons)}"
        self.remarks.append(f'warning: no rule is named "{alertname}"')
        return None

    def _judge_alerts(self, test: AlertTest, active: Sequence[Active]) -> Iterator[str]:
        head = f"{_INDENT}alertname: {test.alertname}, time: {format_duration(test.eval_time)}, "
        refused = self._missing_rule(test.alertname)
        if refused is not None:
            yield f"{head}\n{_INDENT * 2}{refused}"
            return
        firing = [a for a in active if a.rule.name == test.alertname and a.instance.state is State.FIRING]
        expected = [
            (sorted_labels({"alertname": test.alertname, **dict(alert.labels)}), alert.annotations) for alert in test.expected
        ]
        got = [(sorted_labels(alert.labels), alert.annotations) for alert in firing]
        if not _same_alerts(expected, got):
            yield f"{head}\n{_block('exp', _describe_alerts(expected))}, \n{_block('got', _describe_alerts(got))}"

    def _judge_states(self, test: StateTest, active: Sequence[Active]) -> Iterator[str]:
        head = f"{_INDENT}alertname: {test.alertname}, time: {format_duration(test.eval_time)}, states"
        refused = self._missing_rule(test.alertname)
        if refused is not None:
            yield f"{head}\n{_INDENT * 2}{refused}"
            return
        mine = [a for a in active if a.rule.name == test.alertname]
        if not _same_states(test.expected, mine):
            exp = [_describe_state(e.labels, e.state, e.active_since) for e in test.expected]
            got = [_describe_state(sorted_labels(a.labels), _state(a), a.instance.active_since - ZERO) for a in mine]
            yield f"{head}\n{_block('exp', exp)}, \n{_block('got', sorted(got))}"


def _state(active: Active) -> str:
    return "keep_firing" if active.instance.keep_since is not None else active.instance.state.value


def _same_alerts(expected: Sequence[tuple[Labels, Labels | None]], got: Sequence[tuple[Labels, Labels | None]]) -> bool:
    left = list(got)
    # Those that say what annotations they want choose first.
    for labels, texts in sorted(expected, key=lambda pair: pair[1] is None):
        match = next((g for g in left if g[0] == labels and texts in (None, g[1])), None)
        if match is None:
            return False
        left.remove(match)
    return not left


def _same_states(expected: Sequence[ExpectedState], got: Sequence[Active]) -> bool:
    """Whether each expectation has an instance of its own: a perfect matching, since subsets of labels may overlap."""
    if len(expected) != len(got):
        return False
    chosen: dict[int, int] = {}

    def place(wanted: int, tried: set[int]) -> bool:
        for number, active in enumerate(got):
            if number in tried or not _fits(expected[wanted], active):
                continue
            tried.add(number)
            if number not in chosen or place(chosen[number], tried):
                chosen[number] = wanted
                return True
        return False

    return all(place(wanted, set()) for wanted in range(len(expected)))


def _fits(expected: ExpectedState, active: Active) -> bool:
    # `firing` covers an instance that only keeps firing; `keep_firing` asks for exactly that.
    states = {_state(active), active.instance.state.value}
    since = expected.active_since
    labels = active.labels
    return (
        expected.state in states
        and all(labels.get(name) == value for name, value in expected.labels)
        and (since is None or active.instance.active_since == ZERO + since)
    )


def _shown(at: datetime) -> str:
    return format_duration(at - ZERO)


def _reason(problem: Problem) -> str:
    return f"{problem.file}:{problem.line}: {problem.message}"


def _block(name: str, entries: Iterable[str]) -> str:
    lines = [f"{_INDENT * 3}{number}:\n{entry}" for number, entry in enumerate(entries)]
    if not lines:
        return f"{_INDENT * 2}{name}:[]"
    return f"{_INDENT * 2}{name}:[\n" + ",\n".join(lines) + f"\n{_INDENT * 3}]"


def _describe_alerts(alerts: Iterable[tuple[Labels, Labels | None]]) -> list[str]:
    described = []
    for labels, texts in sorted(alerts, key=lambda pair: (pair[0], pair[1] or ())):
        shown = "(any)" if texts is None else _braces(texts)
        described.append(f"{_INDENT * 3}  Labels:{_braces(labels)}\n{_INDENT * 3}  Annotations:{shown}")
    return described


def _describe_state(labels: Labels, state: str, since: timedelta | None) -> str:
    active = "" if since is None else f", active since {format_duration(since)}"
    return f"{_INDENT * 3}  Labels:{_braces(labels)}\n{_INDENT * 3}  State:{state}{active}"


def _braces(labels: Labels) -> str:
    return "{" + ", ".join(f'{name}="{value}"' for name, value in labels) + "}"
