"""Reads rule-test files: promtool's unit-test format, with the additions of docs/reference/rules.md.

What cannot be run here is never passed over: `RuleTestFile.not_run` names it, and the run ends with status 2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from glob import glob
from pathlib import Path
from typing import NoReturn, TypeVar

from analytics_dagster.alerts.durations import format_duration, parse_duration
from analytics_dagster.alerts.rules import Labels, sorted_labels
from analytics_dagster.alerts.series_notation import Mark, parse_series, parse_values
from analytics_dagster.alerts.yaml_nodes import Entries, Value, read_yaml, text_of
from analytics_dagster.errors import DeclarationError

DEFAULT_INTERVAL = timedelta(minutes=1)
_FILE_KEYS = ("rule_files", "evaluation_interval", "group_eval_order", "fuzzy_compare", "tests")
_TEST_KEYS = (
    "name",
    "interval",
    "input_series",
    "alert_rule_test",
    "promql_expr_test",
    "external_labels",
    "external_url",
    "start_timestamp",
    "restarts",
    "evaluations_lost",
    "settings",
    "materializations",
    "state_test",
    "actions",
    "notification_test",
)
_SETTINGS = (
    "alert_cooldown_period",
    "max_alerts_per_hour",
    "group_wait",
    "group_interval",
    "repeat_interval",
    "outage_tolerance",
)
_WITHOUT_MEANING = {
    "group_eval_order": "rule files have no groups: rules run in file order",
    "fuzzy_compare": "values are compared only through alerts",
    "external_labels": "there are no external labels here",
    "external_url": "templates have no external URL",
    "start_timestamp": "test time begins at 0",
    "settings": "they concern what is sent, which is not tested yet",
}
_NOT_RUN = {
    "promql_expr_test": "there is no PromQL here; test the rule with alert_rule_test or state_test",
    "materializations": "event-time tests are not run yet",
    "actions": "people's actions are not tested yet",
    "notification_test": "what is sent is not tested yet",
}
T = TypeVar("T")


@dataclass(frozen=True)
class InputSeries:
    """One series of `input_series`, its values one interval apart."""

    metric: str
    labels: Labels
    values: tuple[float | Mark, ...]


@dataclass(frozen=True)
class ExpectedAlert:
    """Labels of a firing instance, and its annotations where they matter."""

    labels: Labels
    annotations: Labels | None


@dataclass(frozen=True)
class AlertTest:
    """One `alert_rule_test`: all instances that fire at a time."""

    eval_time: timedelta
    alertname: str
    expected: tuple[ExpectedAlert, ...]


@dataclass(frozen=True)
class ExpectedState:
    """Labels (a subset), state and start of an instance."""

    labels: Labels
    state: str
    active_since: timedelta | None


@dataclass(frozen=True)
class StateTest:
    """One `state_test`: all instances that are pending or firing at a time."""

    eval_time: timedelta
    alertname: str
    expected: tuple[ExpectedState, ...]


@dataclass(frozen=True)
class Outage:
    """Ticks in [start, end) did not run; `restart`: because the process was stopped."""

    start: timedelta
    end: timedelta
    restart: bool


@dataclass(frozen=True)
class TestGroup:
    """One member of `tests`: series, what happens to the process, and what is expected."""

    name: str
    interval: timedelta
    series: tuple[InputSeries, ...]
    alert_tests: tuple[AlertTest, ...]
    state_tests: tuple[StateTest, ...]
    outages: tuple[Outage, ...]
    outage_tolerance: timedelta

    # not a test class of pytest's, whatever its name
    __test__ = False


@dataclass
class RuleTestFile:
    """A file as read. `notices` are for people, `not_run` are reasons for status 2."""

    path: Path
    rule_files: tuple[Path, ...] = ()
    evaluation_interval: timedelta = DEFAULT_INTERVAL
    groups: tuple[TestGroup, ...] = ()
    notices: list[str] = field(default_factory=list)
    not_run: list[str] = field(default_factory=list)


def read_rule_test(path: Path) -> RuleTestFile:
    """Raises UnreadableFileError or DeclarationError (file:line, value, remedy)."""
    return _Reader(path).read()


class _Reader:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.result = RuleTestFile(path)

    def read(self) -> RuleTestFile:
        root = read_yaml(self.path)
        if root is None:
            raise DeclarationError(f"{self.path}:1: is empty; write rule_files and tests")
        entries = self._entries(root, "the file", _FILE_KEYS)
        self._remarks(entries, "file")
        interval = self._duration(entries, "evaluation_interval", DEFAULT_INTERVAL)
        if not interval:
            self._fail(root.line, "evaluation_interval is 0; write 1m")
        self.result.evaluation_interval = interval
        self.result.rule_files = tuple(self._rule_files(entries))
        if not self.result.rule_files:
            self._fail(root.line, "names no rule_files; write rule_files: [rules.yaml]")
        groups = []
        for number, item in enumerate(self._list(entries, "tests"), start=1):
            groups.append(self._group(item, number))
        self.result.groups = tuple(groups)
        return self.result

    def _rule_files(self, entries: Entries) -> Iterator[Path]:
        for item in self._list(entries, "rule_files"):
            pattern = self._text(item, "rule_files")
            found = [Path(name) for name in sorted(glob(str(self.path.parent / pattern)))]
            if not found:
                self._fail(item.line, f'rule_files "{pattern}" matches no file; paths are relative to the test file')
            yield from found

    def _group(self, item: Value, number: int) -> TestGroup:
        entries = self._entries(item, f"test {number}", _TEST_KEYS)
        name = entries.get("name")
        label = self._text(name, "name") if name is not None else f"test {number}"
        self._remarks(entries, label)
        interval = self._duration(entries, "interval", self.result.evaluation_interval)
        if not interval:
            self._fail(item.line, "interval is 0; write 1m")
        return TestGroup(
            name=label if name is not None else "",
            interval=interval,
            series=tuple(self._series(value) for value in self._list(entries, "input_series")),
            alert_tests=tuple(self._alert_test(value) for value in self._list(entries, "alert_rule_test")),
            state_tests=tuple(self._state_test(value) for value in self._list(entries, "state_test")),
            outages=(*self._restarts(entries), *self._losses(entries)),
            outage_tolerance=self._settings(entries),
        )

    def _remarks(self, entries: Entries, where: str) -> None:
        for key, reason in _WITHOUT_MEANING.items():
            if entries.get(key) is not None:
                self.result.notices.append(f"{self.path}:{entries.values[key].line}: {key} has no effect ({where}): {reason}")
        for key, reason in _NOT_RUN.items():
            value = entries.get(key)
            if value is not None and (value.is_scalar or value.node.value):
                self.result.not_run.append(f"{self.path}:{value.line}: {key} is not run ({where}): {reason}")

    def _series(self, item: Value) -> InputSeries:
        entries = self._entries(item, "an input series", ("series", "values"))
        series = self._required(entries, "series", item, "name{label='value'}")
        values = self._required(entries, "values", item, "1+1x4")
        name, labels = self._read(series, "series", lambda value: parse_series(text_of(value)))
        return InputSeries(name, labels, tuple(self._read(values, "values", lambda value: parse_values(text_of(value)))))

    def _alert_test(self, item: Value) -> AlertTest:
        entries = self._entries(item, "an alert_rule_test", ("eval_time", "alertname", "exp_alerts"))
        expected = []
        for alert in self._list(entries, "exp_alerts"):
            parts = self._entries(alert, "an expected alert", ("exp_labels", "exp_annotations"))
            annotations = parts.get("exp_annotations")
            expected.append(
                ExpectedAlert(
                    self._labels(parts.get("exp_labels"), "exp_labels"),
                    None if annotations is None else self._labels(annotations, "exp_annotations"),
                )
            )
        return AlertTest(self._duration(entries, "eval_time", timedelta(0)), self._alertname(entries, item), tuple(expected))

    def _state_test(self, item: Value) -> StateTest:
        entries = self._entries(item, "a state_test", ("eval_time", "alertname", "exp_states"))
        expected = []
        for value in self._list(entries, "exp_states"):
            parts = self._entries(value, "an expected state", ("labels", "state", "active_since"))
            state = self._text(self._required(parts, "state", value, "pending or firing"), "state").replace("-", "_")
            if state not in ("pending", "firing", "keep_firing"):
                self._fail(value.line, f'state "{state}" is not known; write pending, firing or keep_firing')
            since = self._duration(parts, "active_since", None)
            expected.append(ExpectedState(self._labels(parts.get("labels"), "labels"), state, since))
        return StateTest(self._duration(entries, "eval_time", timedelta(0)), self._alertname(entries, item), tuple(expected))

    def _restarts(self, entries: Entries) -> Iterator[Outage]:
        for item in self._list(entries, "restarts"):
            parts = self._entries(item, "a restart", ("at", "down_for"))
            at = self._read(self._required(parts, "at", item, "7m30s"), "at", _duration)
            down = self._duration(parts, "down_for", timedelta(0))
            yield Outage(at, at + down, restart=True)

    def _losses(self, entries: Entries) -> Iterator[Outage]:
        for item in self._list(entries, "evaluations_lost"):
            parts = self._entries(item, "a loss of evaluations", ("from", "to"))
            start = self._read(self._required(parts, "from", item, "13m"), "from", _duration)
            end = self._read(self._required(parts, "to", item, "15m"), "to", _duration)
            if end < start:
                self._fail(item.line, f"to {format_duration(end)} is before from {format_duration(start)}; swap them")
            yield Outage(start, end, restart=False)

    def _settings(self, entries: Entries) -> timedelta:
        value = entries.get("settings")
        if value is None:
            return timedelta(hours=1)
        parts = self._entries(value, "settings", _SETTINGS)
        for key, given in parts.values.items():
            if key in ("alert_cooldown_period", "max_alerts_per_hour"):
                if not given.text.isdigit():
                    self._read(given, key, _duration)
            else:
                self._read(given, key, _duration)
        return self._duration(parts, "outage_tolerance", timedelta(hours=1))

    def _alertname(self, entries: Entries, item: Value) -> str:
        return self._text(self._required(entries, "alertname", item, "the rule's name"), "alertname")

    def _labels(self, value: Value | None, what: str) -> Labels:
        if value is None or value.is_null:
            return ()
        entries = self._read(value, what, lambda given: given.entries())
        return sorted_labels({name: self._text(given, f"{what} {name}") for name, given in entries.values.items()})

    def _duration(self, entries: Entries, key: str, default: T) -> timedelta | T:
        value = entries.get(key)
        return default if value is None else self._read(value, key, _duration)

    def _list(self, entries: Entries, key: str) -> list[Value]:
        value = entries.get(key)
        return [] if value is None else self._read(value, key, lambda given: list(given.items()))

    def _entries(self, value: Value, what: str, allowed: tuple[str, ...]) -> Entries:
        entries = self._read(value, what, lambda given: given.entries())
        for key, given, hint in entries.unknown(allowed):
            self._fail(given.line, f'unknown key "{key}" in {what}; {hint}')
        return entries

    def _required(self, entries: Entries, key: str, item: Value, example: str) -> Value:
        value = entries.get(key)
        if value is None:
            # An empty string is a value: a series without points.
            given = entries.values.get(key)
            if given is not None and given.quoted:
                return given
            self._fail(item.line, f"{key} is missing; write {key}: {example}")
        return value

    def _text(self, value: Value, what: str) -> str:
        return self._read(value, what, text_of)

    def _read(self, value: Value, what: str, read: Callable[[Value], T]) -> T:
        try:
            return read(value)
        except ValueError as error:
            self._fail(value.line, f"{what}: {error}")

    def _fail(self, line: int, message: str) -> NoReturn:
        raise DeclarationError(f"{self.path}:{line}: {message}")


def _duration(value: Value) -> timedelta:
    return parse_duration(text_of(value, "a duration").strip())
