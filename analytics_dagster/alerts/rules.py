"""An alert rule as a value: what is read, when it breaches, how long it must hold, who is told.

No reading of files (`rule_file`), no time and no state (`state`). Field names and meaning are those of
docs/reference/rules.md.
"""

from __future__ import annotations

import hashlib
import json
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum

from analytics_dagster.alerts.durations import format_duration
from analytics_dagster.alerts.queries import Query
from analytics_dagster.alerts.templates import Template, TemplateContext, format_number

Labels = tuple[tuple[str, str], ...]
"""Labels of a series or instance, sorted by name: usable as a key."""

RESERVED_LABELS = frozenset({"tenant_id", "alertname", "severity"})
DEFAULT_TENANT = "default"


class Severity(StrEnum):
    """How bad it is, worst first."""

    CRITICAL = "critical"
    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"
    INFO = "info"

    @property
    def rank(self) -> int:
        """Higher is worse."""
        return len(Severity) - list(Severity).index(self)


class Condition(StrEnum):
    """What a breach is."""

    GT = "gt"
    GE = "ge"
    LT = "lt"
    LE = "le"
    EQ = "eq"
    NE = "ne"
    OUTSIDE_FORECAST = "outside_forecast"
    ANOMALOUS = "anomalous"

    @property
    def needs_threshold(self) -> bool:
        return self in _COMPARISONS

    @property
    def sign(self) -> str:
        return {"gt": ">", "ge": ">=", "lt": "<", "le": "<=", "eq": "==", "ne": "!="}.get(self.value, self.value)


_COMPARISONS: Mapping[Condition, Callable[[float, float], bool]] = {
    Condition.GT: operator.gt,
    Condition.GE: operator.ge,
    Condition.LT: operator.lt,
    Condition.LE: operator.le,
    Condition.EQ: operator.eq,
    Condition.NE: operator.ne,
}


class Aggregate(StrEnum):
    """How points become one figure, over a window and across series."""

    AVG = "avg"
    SUM = "sum"
    MIN = "min"
    MAX = "max"
    LAST = "last"
    COUNT = "count"
    P50 = "p50"
    P95 = "p95"
    P99 = "p99"


class NoData(StrEnum):
    """What becomes of an instance whose series is gone."""

    OK = "ok"
    ALERTING = "alerting"
    KEEP = "keep"
    NO_DATA = "no_data"


@dataclass(frozen=True)
class Rule:
    """One rule of a rule file. `channels` None means: what routing says, until then every configured channel."""

    name: str
    query: Query
    condition: Condition
    threshold: float | None
    severity: Severity
    for_duration: timedelta = timedelta(0)
    keep_firing_for: timedelta = timedelta(0)
    channels: tuple[str, ...] | None = None
    tenant_id: str | None = None
    aggregate: Aggregate | None = None
    window: timedelta | None = None
    by: tuple[str, ...] = ()
    no_data: NoData = NoData.OK
    missing_evals: int = 1
    labels: Labels = ()
    annotations: Mapping[str, Template] = field(default_factory=dict)
    depends_on: tuple[str, ...] = ()
    remediation: str | None = None
    file: str = ""
    line: int = 0

    @property
    def judged(self) -> bool:
        """False for conditions that are parsed and reported as not acted on yet."""
        return self.condition.needs_threshold

    def breaches(self, value: float) -> bool:
        """Whether `value` is on the wrong side. Equality is no breach of gt or lt; NaN never breaches; infinity may."""
        if self.threshold is None or math.isnan(value):
            return False
        return _COMPARISONS[self.condition](value, self.threshold)

    def applies_to(self, tenant: str) -> bool:
        return self.tenant_id is None or self.tenant_id == tenant

    @property
    def version(self) -> str:
        """Hash of everything that can change a verdict. Texts, labels and channels may be edited without judging again."""
        meaning = (
            str(self.query),
            self.condition,
            self.threshold,
            self.severity,
            format_duration(self.for_duration),
            format_duration(self.keep_firing_for),
            self.aggregate,
            None if self.window is None else format_duration(self.window),
            sorted(self.by),
            self.no_data,
            self.missing_evals,
        )
        return hashlib.sha256(json.dumps(meaning).encode()).hexdigest()[:32]

    @property
    def expression(self) -> str:
        """`avg by (endpoint) (api_error_ratio[5m]) > 0.05`, for people."""
        read = str(self.query)
        if self.aggregate is not None:
            window = f"[{format_duration(self.window)}]" if self.window else ""
            by = f" by ({', '.join(self.by)})" if self.by else ""
            read = f"{self.aggregate.value}{by} ({read}{window})"
        limit = "" if self.threshold is None else f" {format_number(self.threshold)}"
        return f"{read} {self.condition.sign}{limit}"

    def full_labels(self, series: Labels, tenant: str) -> dict[str, str]:
        """An instance's labels as they are told: the series' own, overridden by the rule's, with tenant and severity."""
        own = {name: value for name, value in series if name not in RESERVED_LABELS}
        return {**own, **dict(self.labels), "tenant_id": tenant, "severity": self.severity.value}

    def annotate(self, series: Labels, tenant: str, value: float | None) -> dict[str, str]:
        """The annotations with their templates filled in."""
        context = TemplateContext(
            labels=self.full_labels(series, tenant),
            value=value,
            threshold=self.threshold,
            alertname=self.name,
            severity=self.severity.value,
            tenant_id=tenant,
            condition=self.condition.value,
        )
        return {name: template.render(context) for name, template in self.annotations.items()}


def sorted_labels(labels: Mapping[str, str]) -> Labels:
    """Labels as a key."""
    return tuple(sorted(labels.items()))


def fingerprint(labels: Labels) -> str:
    """Identity of an instance within its rule and tenant: from the series' labels, so that editing a rule keeps it."""
    return hashlib.sha256(json.dumps(labels, ensure_ascii=False).encode()).hexdigest()[:32]


class Level(StrEnum):
    """How much a problem matters."""

    ERROR = "error"
    """The rule is not loaded."""
    WARNING = "warning"
    """The rule is loaded, and probably does not do what its author thinks."""
    NOTICE = "notice"
    """The rule is loaded; a part of it is not acted on yet."""


@dataclass(frozen=True)
class Problem:
    """One thing to say about a file. `str()` gives the line that people read."""

    level: Level
    file: str
    line: int
    rule: str | None
    message: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}"
        return f'rule "{self.rule}" ({where}): {self.message}' if self.rule is not None else f"{where}: {self.message}"


@dataclass(frozen=True)
class RuleSet:
    """The good rules of one or more files in their order, and what is to be said about the rest."""

    rules: tuple[Rule, ...]
    problems: tuple[Problem, ...] = ()
    refused: frozenset[str] = frozenset()
    """Names of rules that were refused: what they had stored is kept until they are mended."""
    missing: bool = False
    """There is no rule file: nothing is judged, and what is stored is kept."""
    beyond_quota: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """For a tenant with more rules than its quota the names of those that are not judged for it."""

    @property
    def errors(self) -> tuple[Problem, ...]:
        return tuple(problem for problem in self.problems if problem.level is Level.ERROR)

    def for_tenant(self, tenant: str) -> tuple[Rule, ...]:
        beyond = self.beyond_quota.get(tenant, frozenset())
        return tuple(rule for rule in self.rules if rule.applies_to(tenant) and rule.name not in beyond)
