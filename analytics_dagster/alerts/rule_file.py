"""Reads rule files (docs/reference/rules.md): every field typed and checked, every complaint with file, line and remedy.

One bad rule never takes the others with it: it is left out and reported. Fields that are understood and not acted on
yet are reported as notices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from analytics_dagster.alerts.durations import REMEDY, parse_duration
from analytics_dagster.alerts.queries import LABEL_NAME, Query, parse_query, snake_case
from analytics_dagster.alerts.rules import (
    RESERVED_LABELS,
    Aggregate,
    Condition,
    Level,
    NoData,
    Problem,
    Rule,
    RuleSet,
    Severity,
    sorted_labels,
)
from analytics_dagster.alerts.templates import Template, parse_template
from analytics_dagster.alerts.yaml_nodes import Entries, Value, number_of, read_yaml, text_of
from analytics_dagster.errors import DeclarationError, InvalidNameError
from analytics_dagster.tenancy.tenants import validate_tenant_id

FIELDS = (
    "name",
    "query",
    "condition",
    "threshold",
    "severity",
    "for_duration",
    "keep_firing_for",
    "channels",
    "tenant_id",
    "aggregate",
    "window",
    "by",
    "no_data",
    "missing_evals",
    "labels",
    "annotations",
    "depends_on",
    "remediation",
)
LONGEST_NAME = 200  # the database keeps 255, and derived names need room
MOST_MISSING_EVALS = 1_000
ALERTS = "ALERTS"

_CONDITIONS = {
    **{condition.value: condition for condition in Condition},
    "greater_than": Condition.GT,
    "greater_than_or_equal": Condition.GE,
    "greater_than_or_equal_to": Condition.GE,
    "greater_equal": Condition.GE,
    "greater_or_equal": Condition.GE,
    "less_than": Condition.LT,
    "less_than_or_equal": Condition.LE,
    "less_than_or_equal_to": Condition.LE,
    "less_equal": Condition.LE,
    "less_or_equal": Condition.LE,
    "equal": Condition.EQ,
    "equals": Condition.EQ,
    "equal_to": Condition.EQ,
    "not_equal": Condition.NE,
    "not_equals": Condition.NE,
    "not_equal_to": Condition.NE,
}
_SYMBOLS = {">": "gt", ">=": "ge", "<": "lt", "<=": "le", "==": "eq", "=": "eq", "!=": "ne"}
_FOREIGN_SEVERITIES = {"warning": "medium", "warn": "medium", "error": "high", "page": "critical", "information": "info"}
T = TypeVar("T")
E = TypeVar("E", bound=StrEnum)


def load_rules(
    paths: Sequence[Path],
    *,
    known: Callable[[str], bool] | None = None,
    channels: Iterable[str] | None = None,
    shown: Callable[[Path], str] = str,
) -> RuleSet:
    """Read rule files. `known` says whether a name is a metric, `channels` are the configured ones; without them neither
    is checked. `shown` gives the file's name in messages.

    Raises UnreadableFileError or DeclarationError when a file as a whole cannot be read.
    """
    rules: list[Rule] = []
    problems: list[Problem] = []
    refused: set[str] = set()
    names = None if channels is None else frozenset(channels)
    for path in paths:
        for reader in _readers(path, shown(path), problems):
            rule = reader.read()
            if rule is not None:
                reader.check_unique(rule, rules)
                reader.check_surroundings(rule, known, names)
            problems.extend(reader.problems)
            if rule is not None and not reader.failed:
                rules.append(rule)
            elif reader.name is not None:
                refused.add(reader.name)
    problems.extend(_unknown_dependencies(rules))
    return RuleSet(tuple(rules), tuple(problems), frozenset(refused - {rule.name for rule in rules}))


def _readers(path: Path, file: str, problems: list[Problem]) -> list[_RuleReader]:
    def complain(line: int, message: str) -> None:
        problems.append(Problem(Level.ERROR, file, line, None, message))

    root = read_yaml(path)
    if root is None:
        complain(1, "is empty; write `alert_rules:` and a list of rules below it")
        return []
    try:
        entries = root.entries()
        listed = entries.values.get("alert_rules")
        for key, value, hint in entries.unknown(("alert_rules",)):
            if key == "groups" and listed is None:
                raise DeclarationError(
                    f"{file}:{value.line}: is a rule file of Prometheus (groups); ours lists rules under alert_rules"
                )
            complain(value.line, f'unknown key "{key}"; {hint}')
        if listed is None:
            if not entries.values:
                complain(root.line, "has no rules; write `alert_rules:` and a list of rules below it")
            return []
        return [] if listed.is_null else [_RuleReader(file, item) for item in listed.items()]
    except ValueError as error:
        raise DeclarationError(f"{file}:{root.line}: {error}") from None


def _unknown_dependencies(rules: Sequence[Rule]) -> list[Problem]:
    names = {rule.name for rule in rules}
    found = []
    for rule in rules:
        for name in rule.depends_on:
            if name not in names:
                near = get_close_matches(name, names, n=1)
                hint = f'did you mean "{near[0]}"?' if near else "name a rule of this file"
                message = f'depends_on "{name}" is no rule; {hint}'
                found.append(Problem(Level.WARNING, rule.file, rule.line, rule.name, message))
    return found


@dataclass
class _RuleReader:
    """Reads one member of `alert_rules`, noting every problem it meets instead of stopping at the first."""

    file: str
    item: Value
    problems: list[Problem] = field(default_factory=list)
    name: str | None = None

    @property
    def failed(self) -> bool:
        return any(problem.level is Level.ERROR for problem in self.problems)

    def read(self) -> Rule | None:
        try:
            entries = self.item.entries()
        except ValueError as error:
            self._say(Level.ERROR, self.item.line, str(error))
            return None
        self.name = self._name(entries)
        for key, value, hint in entries.unknown(FIELDS):
            self._say(Level.ERROR, value.line, f'unknown field "{key}"; {hint}')
        rule = self._rule(entries)
        return None if self.failed else rule

    def _rule(self, entries: Entries) -> Rule | None:
        query = self._query(entries)
        condition = self._field(entries, "condition", _condition, required='write condition: "gt" (or ge, lt, le, eq, ne)')
        threshold = self._threshold(entries, condition)
        severity = self._field(entries, "severity", _severity, required="write one of " + ", ".join(Severity))
        aggregate = self._field(entries, "aggregate", lambda value: _choice(value, Aggregate))
        window = self._field(entries, "window", _positive_duration)
        by = self._by(entries, aggregate)
        for_duration = self._field(entries, "for_duration", _duration)
        keep_firing_for = self._field(entries, "keep_firing_for", _duration)
        channels = self._field(entries, "channels", _names)
        tenant_id = self._field(entries, "tenant_id", _tenant)
        no_data = self._field(entries, "no_data", lambda value: _choice(value, NoData))
        missing_evals = self._field(entries, "missing_evals", _missing_evals)
        labels = self._field(entries, "labels", _labels)
        annotations = self._field(entries, "annotations", _annotations)
        depends_on = self._field(entries, "depends_on", _names)
        remediation = self._field(entries, "remediation", _text)
        if self.failed or self.name is None or query is None or condition is None or severity is None:
            return None
        return Rule(
            name=self.name,
            query=query,
            condition=condition,
            threshold=threshold,
            severity=severity,
            for_duration=for_duration or timedelta(0),
            keep_firing_for=keep_firing_for or timedelta(0),
            channels=channels or None,
            tenant_id=tenant_id,
            aggregate=aggregate,
            window=window,
            by=by,
            no_data=no_data or NoData.OK,
            missing_evals=missing_evals or 1,
            labels=labels or (),
            annotations=annotations or {},
            depends_on=depends_on or (),
            remediation=remediation,
            file=self.file,
            line=self.item.line,
        )

    def check_unique(self, rule: Rule, others: Iterable[Rule]) -> None:
        """A name is unique among the rules that one tenant has."""
        for other in others:
            if other.name == rule.name and (
                other.tenant_id is None or rule.tenant_id is None or other.tenant_id == rule.tenant_id
            ):
                self._say(
                    Level.ERROR,
                    rule.line,
                    f'the name "{rule.name}" is taken ({other.file}:{other.line}); names are unique in a tenant',
                )
                return

    def check_surroundings(self, rule: Rule, known: Callable[[str], bool] | None, channels: frozenset[str] | None) -> None:
        """What is no fault of the rule's own form: unknown metrics and channels, and parts that nothing acts on yet."""
        if known is not None and rule.query.metric == ALERTS:
            self._say(Level.NOTICE, rule.line, f"query {ALERTS} is read by rule tests only; the rule never fires yet")
        elif known is not None and not known(rule.query.metric):
            message = f'query "{rule.query.metric}" matches no metric, so the rule never fires; see `analytics metrics list`'
            self._say(Level.WARNING, rule.line, message)
        for channel in rule.channels or ():
            if channels is not None and channel not in channels:
                message = f'channel "{channel}" is not configured in alerting.yaml; its messages go to the log channel'
                self._say(Level.WARNING, rule.line, message)
        if not rule.judged:
            self._say(Level.NOTICE, rule.line, f"condition {rule.condition.value} is not acted on yet; the rule never fires")
        if rule.no_data is NoData.NO_DATA:
            self._say(Level.NOTICE, rule.line, "no_data: no_data is not acted on yet; it counts as ok")
        for name, given in (("depends_on", rule.depends_on), ("remediation", rule.remediation)):
            if given:
                self._say(Level.NOTICE, rule.line, f"{name} is not acted on yet")
        if rule.window is not None and rule.aggregate is None:
            self._say(Level.WARNING, rule.line, "window does nothing without aggregate; write aggregate: avg (or another)")

    def _say(self, level: Level, line: int, message: str) -> None:
        self.problems.append(Problem(level, self.file, line, self.name or "(without a name)", message))

    def _field(self, entries: Entries, key: str, read: Callable[[Value], T], required: str | None = None) -> T | None:
        value = entries.get(key)
        if value is None:
            if required is not None:
                self._say(Level.ERROR, self.item.line, f"{key} is missing; {required}")
            return None
        try:
            return read(value)
        except ValueError as error:
            self._say(Level.ERROR, value.line, f"{key} {error}")
            return None

    def _name(self, entries: Entries) -> str | None:
        name = self._field(entries, "name", _text, required='write name: "What is wrong"')
        if name is not None and (not name.strip() or len(name) > LONGEST_NAME):
            self._say(
                Level.ERROR, entries.values["name"].line, f"name is empty or longer than {LONGEST_NAME} characters; shorten it"
            )
        return name

    def _query(self, entries: Entries) -> Query | None:
        if entries.get("query") is not None:
            return self._field(entries, "query", lambda value: parse_query(_text(value)))
        metric = snake_case(self.name or "")
        if not metric and self.name is not None:
            self._say(Level.ERROR, self.item.line, "query is missing and the name gives none; write query: a_metric")
            return None
        return Query(metric)

    def _threshold(self, entries: Entries, condition: Condition | None) -> float | None:
        if condition is None or condition.needs_threshold:
            remedy = None if condition is None else "write threshold: 0.05 (in the metric's own unit)"
            return self._field(entries, "threshold", _threshold, required=remedy)
        given = entries.get("threshold")
        if given is not None:
            self._say(Level.ERROR, given.line, f"threshold {given.text} has no meaning with {condition.value}; remove it")
        return None

    def _by(self, entries: Entries, aggregate: Aggregate | None) -> tuple[str, ...]:
        by = self._field(entries, "by", _label_names) or ()
        if by and aggregate is None and entries.get("aggregate") is None:
            self._say(
                Level.ERROR, entries.values["by"].line, f"by [{', '.join(by)}] needs aggregate; write aggregate: avg (or another)"
            )
        return by


def _text(value: Value) -> str:
    return text_of(value)


def _duration(value: Value) -> timedelta:
    if not value.is_scalar:
        raise ValueError(f"is a {value.kind}, not a duration; {REMEDY}")
    return parse_duration(value.text.strip())


def _positive_duration(value: Value) -> timedelta:
    duration = _duration(value)
    if not duration:
        raise ValueError(f'"{value.text}" is no length of time; {REMEDY}, or leave it out')
    return duration


def _condition(value: Value) -> Condition:
    text = text_of(value, "a condition").strip()
    found = _CONDITIONS.get(text.lower())
    if found is not None:
        return found
    near = _SYMBOLS.get(text) or next(iter(get_close_matches(text.lower(), _CONDITIONS, n=1)), None)
    hint = f'write "{near}"' if near else f"write one of {', '.join(Condition)}"
    raise ValueError(f'"{text}" is not a condition; {hint}')


def _severity(value: Value) -> Severity:
    text = text_of(value, "a severity")
    if text.lower() in _FOREIGN_SEVERITIES:
        raise ValueError(f'"{text}" is not a severity here; write {_FOREIGN_SEVERITIES[text.lower()]}')
    return _choice(value, Severity)


def _choice(value: Value, choices: type[E]) -> E:
    text = text_of(value, f"one of {', '.join(choices)}").strip()
    try:
        return choices(text.lower())
    except ValueError:
        near = get_close_matches(text.lower(), list(choices), n=1)
        hint = f'did you mean "{near[0]}"? (known are {", ".join(choices)})' if near else f"write one of {', '.join(choices)}"
        raise ValueError(f'"{text}" is not known; {hint}') from None


def _threshold(value: Value) -> float:
    try:
        number = number_of(value)
    except ValueError as error:
        text = value.text.strip()
        if text.endswith("%"):
            raise ValueError(f'"{text}" is not a number; write a percentage as a fraction, 5% as 0.05') from None
        raise error from None
    if number != number:
        raise ValueError(f"{value.text} cannot be compared with; write a number")
    return number


def _missing_evals(value: Value) -> int:
    text = text_of(value, "a whole number")
    if value.quoted or not text.isascii() or not text.isdigit() or not 1 <= int(text) <= MOST_MISSING_EVALS:
        raise ValueError(f'"{text}" is not a whole number from 1 to {MOST_MISSING_EVALS}')
    return int(text)


def _tenant(value: Value) -> str:
    try:
        return validate_tenant_id(text_of(value, "a tenant's id"))
    except InvalidNameError as error:
        raise ValueError(f'"{value.text}": {error}') from None


def _names(value: Value) -> tuple[str, ...]:
    items = [value] if value.is_scalar else list(value.items())
    names = tuple(text_of(item, "a name").strip() for item in items)
    if not all(names):
        raise ValueError("holds an empty name; remove it")
    return tuple(dict.fromkeys(names))


def _label_names(value: Value) -> tuple[str, ...]:
    names = _names(value)
    for name in names:
        _check_label(name)
        if name in RESERVED_LABELS or name.startswith("__"):
            raise ValueError(f'"{name}" is reserved; every tenant and rule is judged alone anyway, so leave it out')
    return names


def _check_label(name: str) -> None:
    if not LABEL_NAME.fullmatch(name):
        raise ValueError(f'"{name}" is not a label name; use letters, digits and _ (not first a digit)')


def _labels(value: Value) -> tuple[tuple[str, str], ...]:
    labels = {}
    for name, entry in value.entries().values.items():
        _check_label(name)
        if name in RESERVED_LABELS or name.startswith("__"):
            raise ValueError(f'"{name}" is reserved and set by the platform; choose another name')
        labels[name] = text_of(entry, "text")
        if "{{" in labels[name]:
            raise ValueError(f'"{name}" holds a template; labels are an alert\'s identity and stay fixed: use annotations')
    return sorted_labels(labels)


def _annotations(value: Value) -> dict[str, Template]:
    found: dict[str, Template] = {}
    for name, entry in value.entries().values.items():
        _check_label(name)
        try:
            found[name] = parse_template(text_of(entry, "text"))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return found
