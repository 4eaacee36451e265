"""Judges published figures: which alerts fire, resolve or go on, tenant by tenant, and what is to be told about it.

Work is found in `publications` and never in Dagster's cursors, which only wake this up: publishing the same content again
is nothing new, and being called too often or twice at once does no harm. A first start on stored history and a backfill
page nobody: they give one digest. Delivering is the outbox's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Protocol

from analytics_dagster.alerts.digests import DigestKind, DigestLine, digest_message
from analytics_dagster.alerts.event_time import (
    DayVerdict,
    SeriesBuckets,
    breaching_days,
    bucket_end,
    figures,
    judge_newest,
    look_back_days,
    window_days,
)
from analytics_dagster.alerts.messages import (
    RunFailure,
    Source,
    Status,
    alert_message,
    digest_of,
    new_occurrence,
    run_failure_message,
    unevaluable_message,
)
from analytics_dagster.alerts.rules import Labels, Rule, RuleSet
from analytics_dagster.alerts.state import State, Transition
from analytics_dagster.clock import Clock
from analytics_dagster.errors import AnalyticsError, RetryableError, UserError

if TYPE_CHECKING:
    from analytics_dagster.alerts.judge_store import Change, Mark, Published, Stored, TenantState, Verdict
    from analytics_dagster.lake.database import Database

MOST_MISSED_DAYS = 31
"""More new days than this at once are stored history, not a few days that nobody materialized."""
SILENT_DAYS = 3
"""A source without rows for longer is stored history that ends there, and its newest day with rows is judged; days of silence
until then are days without data, which may be what an alert is about."""
LEAST_BACKFILL = 2
"""Fewer corrected past days than this are a day's late rows, and worth no digest."""
ERRORS_BEFORE_TELLING = 3
MOST_INSTANCES = 10_000
"""A rule with more is a mistake that would flood everybody."""
_TRIES = 3


class MetricSource(Protocol):
    """Where figures come from."""

    def asset_of(self, tenant: str, rule: Rule) -> str | None:
        """The asset (`aggregates/api`) that feeds a rule, or None when the tenant has no such metric."""

    def read(self, tenant: str, rule: Rule, first: date, last: date) -> list[SeriesBuckets]:
        """The rule's series by day, `first` to `last` inclusive. Raises AnalyticsError."""

    def settled_early(self, tenant: str, rule: Rule) -> bool:
        """Whether a breach on an unfinished day stays one whatever rows still come."""


@dataclass
class Judged:
    """What one pass came to. `str()` is a line for a log."""

    tenants: int = 0
    rules: int = 0
    transitions: list[tuple[str, str, Transition]] = field(default_factory=list)
    """Tenant, rule, transition."""
    queued: int = 0
    """Messages new in the outbox."""
    errors: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        said = f"{self.rules} rules judged for {self.tenants} tenants, {len(self.transitions)} changes, {self.queued} messages"
        return said + (f", {len(self.errors)} errors (first: {self.errors[0]})" if self.errors else "")


def judge_publications(
    database: Database, rules: RuleSet, source: MetricSource, clock: Clock, *, channels: Sequence[str], public_url: str
) -> Judged:
    """Judge everything that was published or edited since the last pass.

    `channels` are told by rules that name none; `public_url` is the Dagster UI's, for links. Each tenant's verdicts,
    transitions and messages are written in one transaction. A rule that cannot be evaluated keeps its state and is
    reported in `Judged.errors`.
    """
    from analytics_dagster.alerts import judge_store as store

    now = clock.now()
    with database.read() as connection:
        newest, cursor = store.newest_sequence(connection), store.read_cursor(connection)
        stand = {"sequence": newest, "rules": _hash(rules), "day": now.date().isoformat()}
        same_rules = all(cursor.get(key) == stand[key] for key in ("rules", "day"))
        failed = cursor.get("failed", [])
        if same_rules and cursor.get("sequence") == newest and not failed:
            return Judged()
        changed = store.changed_tenants(connection, cursor["sequence"] if same_rules else -1) | set(failed)
        registered = store.active_tenants(connection)
    this = _Pass(rules, source, now, tuple(channels), public_url)
    judged = Judged()
    tenants = [tenant for tenant in sorted(changed) if registered.get(tenant, True)]
    again = [tenant for tenant in tenants if not _judge_tenant(database, this, tenant, judged)]
    store.write_cursor(database, {**stand, "failed": again}, now)
    return judged


def report_run_failures(
    database: Database, failures: Sequence[RunFailure], channels: Sequence[str], clock: Clock, *, public_url: str
) -> int:
    """Put a page for each failed run into the outbox, once however often it is reported. Returns how many are new."""
    from analytics_dagster.alerts.judge_store import add_messages

    messages = [run_failure_message(failure, channel, public_url) for failure in failures for channel in channels]
    now = clock.now()
    return database.write(lambda connection: add_messages(connection, messages, now)) if messages else 0


def _hash(rules: RuleSet) -> str:
    beyond = sorted((tenant, sorted(names)) for tenant, names in rules.beyond_quota.items())
    each = ((r.name, r.tenant_id, r.version, r.channels) for r in rules.rules)
    return digest_of(rules.missing, sorted(rules.refused), beyond, *each)


@dataclass(frozen=True)
class _Pass:
    """What all tenants of one pass are judged with."""

    rules: RuleSet
    source: MetricSource
    now: datetime
    channels: tuple[str, ...]
    public_url: str

    def channels_of(self, rule: Rule) -> tuple[str, ...]:
        return self.channels if rule.channels is None else rule.channels


def _judge_tenant(database: Database, this: _Pass, tenant: str, judged: Judged) -> bool:
    """False when the tenant has to be tried again."""
    from analytics_dagster.alerts import judge_store as store

    for _ in range(_TRIES):
        with database.read() as connection:
            state, published = store.tenant_state(connection, tenant), store.published(connection, tenant)
        decision = _Decision(this, tenant, state, published)
        change = decision.decide()
        try:
            queued = 0 if change.empty else store.write_change(database, change, this.now)
        except store.LateError:
            continue
        judged.tenants += 1
        judged.rules += decision.judged
        judged.queued += queued
        judged.errors += decision.errors
        judged.transitions += [(tenant, rule, transition) for rule, _, transition in change.transitions]
        return not decision.retry
    return False


@dataclass(frozen=True)
class _AssetNews:
    """What is new of one asset, whichever rules read it."""

    days: Sequence[Published]
    mark: Mark | None
    history: bool

    @property
    def sequence(self) -> int:
        return max(p.sequence for p in self.days)

    @property
    def newest_run(self) -> str:
        return max(self.days, key=lambda p: p.sequence).run_id

    @property
    def newest_with_rows(self) -> date | None:
        return max((p.day for p in self.days if p.rows), default=None)

    @property
    def judgeable(self) -> list[date]:
        """Days that a verdict may rest on: published, and not the long silence after the last rows."""
        last = self.newest_with_rows
        return [] if last is None else [p.day for p in self.days if not p.gated and (p.day - last).days <= SILENT_DAYS]

    @classmethod
    def of(cls, days: Sequence[Published], mark: Mark | None) -> _AssetNews:
        filled = [p for p in days if p.rows]
        if mark is None:
            return cls(days, None, len(filled) > 1)
        fresh = [p for p in filled if p.sequence > mark.sequence and not p.gated]
        ahead = [p.day for p in fresh if mark.through is None or p.day > mark.through]
        goes_on = bool(fresh) and all(p.run_id == mark.history_run for p in fresh)
        # Another stretch of history, as an import with a long gap has: its run is not the first stretch's.
        apart = len(ahead) > 1 and mark.through is not None and (ahead[0] - mark.through).days > MOST_MISSED_DAYS
        return cls(days, mark, goes_on or apart or len(ahead) > MOST_MISSED_DAYS)


@dataclass
class _Decision:
    """Decides for one tenant what changes; nothing is written here."""

    this: _Pass
    tenant: str
    state: TenantState
    published: Mapping[str, Sequence[Published]]
    judged: int = 0
    retry: bool = False
    errors: list[str] = field(default_factory=list)
    digests: dict[tuple[DigestKind, str, str], list[tuple[DigestLine, Source]]] = field(default_factory=dict)
    """Kind, run and channel to what is said."""

    def decide(self) -> Change:
        from analytics_dagster.alerts.judge_store import Change, Mark

        change = Change(self.tenant)
        news = {asset: _AssetNews.of(days, self.state.marks.get(asset)) for asset, days in self.published.items()}
        for rule in self.this.rules.for_tenant(self.tenant):
            if rule.judged:
                self._rule(change, rule, news)
        if not self.this.rules.missing:
            self._remove(change)
        for asset, new in news.items():
            through = new.newest_with_rows
            if through is not None and (new.mark is None or new.mark.sequence < new.sequence):
                change.marks[asset] = Mark(new.sequence, through, new.newest_run if new.history else None)
        for (kind, run_id, channel), said in self.digests.items():
            lines = [line for line, _ in said]
            change.digests.append(digest_message(self.tenant, channel, kind, lines, run_id, said[0][1]))
        return change

    def _rule(self, change: Change, rule: Rule, news: Mapping[str, _AssetNews]) -> None:
        before = self.state.verdicts.get(rule.name)
        try:
            asset = self.this.source.asset_of(self.tenant, rule)
            if asset is None or asset not in news:
                return
            work = _Work.of(rule, news[asset], before, asset, self.this.now, self.this.source.settled_early(self.tenant, rule))
            if work is None:
                return
            self._judge(change, work)
        except AnalyticsError as error:
            self._failed(change, rule, before, str(error), isinstance(error, RetryableError))

    def _judge(self, change: Change, work: _Work) -> None:
        from analytics_dagster.alerts.judge_store import Verdict

        rule, before = work.rule, work.before
        self.judged += 1
        stored = self.state.instances.get(rule.name, {})
        firing = tuple(s.instance for s in stored.values() if s.instance.state is State.FIRING)
        if work.days_to_read:
            first = work.days_to_read[0] - timedelta(days=window_days(rule) - 1)
            series = self.this.source.read(self.tenant, rule, first, work.days_to_read[-1])
            if len(series) > MOST_INSTANCES:
                raise UserError(
                    f"{len(series)} series are more than {MOST_INSTANCES}; narrow the query, or aggregate by fewer labels"
                )
            if work.judge_newest:
                days = work.look_back
                verdict = judge_newest(rule, figures(rule, series, days), days, {k: s.instance for k, s in stored.items()})
                self._apply(change, work, verdict, stored)
                firing = tuple(i for i in verdict.instances.values() if i.state is State.FIRING)
            if work.past:
                breaching = breaching_days(rule, figures(rule, series, work.past))
                self._digest(work, DigestLine(rule, firing, len(breaching), len(work.past)))
        after = Verdict(work.asset, rule.version, max(work.news.sequence, before.sequence if before else 0), work.through)
        change.verdicts[rule.name] = (before, after)
        if before is not None and before.errors >= ERRORS_BEFORE_TELLING:
            change.resolved.append(
                unevaluable_message(
                    rule, self.tenant, "", self._error_key(rule, before), None, self.this.now, self.this.public_url
                )
            )

    def _apply(self, change: Change, work: _Work, verdict: DayVerdict, stored: Mapping[Labels, Stored]) -> None:
        from analytics_dagster.alerts.judge_store import Stored

        rule, kept = work.rule, {}
        at, source = bucket_end(verdict.day), Source(self.this.public_url, work.asset, verdict.day)
        for labels, instance in verdict.instances.items():
            before = stored.get(labels)
            was_firing = before is not None and before.instance.state is State.FIRING
            occurrence = before.occurrence if before is not None and was_firing else ""
            if instance.state is State.FIRING and not was_firing:
                occurrence = new_occurrence()
            kept[labels] = Stored(instance, occurrence, rule.severity)
            rises = before is not None and was_firing and rule.severity.rank > before.severity.rank
            if rises or (instance.state is State.FIRING and not was_firing and not work.news.history):
                for channel in self.this.channels_of(rule):
                    message = alert_message(rule, self.tenant, channel, instance, occurrence, Status.FIRING, at, source)
                    change.messages.append(replace(message, urgent=message.urgent or rises))
        for transition in verdict.transitions:
            before = stored.get(transition.labels)
            now = kept.get(transition.labels)
            occurrence = now.occurrence if now is not None else before.occurrence if before is not None else ""
            change.transitions.append((rule.name, occurrence, transition))
            if before is not None and transition.before is State.FIRING:
                gone = replace(before.instance, value=transition.value)
                template = alert_message(rule, self.tenant, "", gone, before.occurrence, Status.RESOLVED, at, source)
                change.resolved.append(template)
        change.instances[rule.name], change.versions[rule.name] = kept, rule.version

    def _digest(self, work: _Work, line: DigestLine) -> None:
        if not line.breaching and not line.firing:
            return
        kind = DigestKind.HISTORY if work.news.history else DigestKind.BACKFILL
        source = Source(self.this.public_url, work.asset, work.past[-1])
        for channel in self.this.channels_of(work.rule):
            self.digests.setdefault((kind, work.news.newest_run, channel), []).append((line, source))

    def _failed(self, change: Change, rule: Rule, before: Verdict | None, error: str, retry: bool) -> None:
        from analytics_dagster.alerts.judge_store import Verdict

        self.errors.append(f'rule "{rule.name}" of tenant {self.tenant} cannot be evaluated: {error}')
        self.retry = self.retry or retry
        # An empty version makes the rule be judged again whatever is published.
        was = before or Verdict("", "", 0, None)
        after = replace(was, errors=was.errors + 1, last_error=error)
        change.verdicts[rule.name] = (before, after)
        if retry and after.errors == ERRORS_BEFORE_TELLING:
            key = self._error_key(rule, after)
            for channel in self.this.channels_of(rule):
                change.messages.append(
                    unevaluable_message(rule, self.tenant, channel, key, error, self.this.now, self.this.public_url)
                )

    def _error_key(self, rule: Rule, verdict: Verdict) -> str:
        return digest_of("unevaluable", self.tenant, rule.name, verdict.rule_version, verdict.sequence)

    def _remove(self, change: Change) -> None:
        """Alerts of rules that are gone end; those of a rule that is only broken wait until it is mended."""
        names = {rule.name for rule in self.this.rules.for_tenant(self.tenant)} | self.this.rules.refused
        for name, verdict in self.state.verdicts.items():
            if name in names:
                continue
            change.verdicts[name] = (verdict, None)
            change.instances[name] = {}
            for labels, stored in self.state.instances.get(name, {}).items():
                value, was = stored.instance.value, stored.instance.state
                transition = Transition(labels, was, State.INACTIVE, self.this.now, value, "rule removed")
                change.transitions.append((name, stored.occurrence, transition))
                if was is State.FIRING:
                    change.removed[stored.occurrence] = self.this.now


@dataclass(frozen=True)
class _Work:
    """What there is to judge of one rule: the days to read, whether the newest is judged, which past days are counted."""

    rule: Rule
    asset: str
    news: _AssetNews
    before: Verdict | None
    through: date | None
    judge_newest: bool
    look_back: list[date]
    past: list[date]

    @property
    def days_to_read(self) -> list[date]:
        return sorted({*(self.look_back if self.judge_newest else ()), *self.past})

    @classmethod
    def of(
        cls, rule: Rule, news: _AssetNews, before: Verdict | None, asset: str, now: datetime, settled_early: bool
    ) -> _Work | None:
        """None when everything is judged already."""
        days = [day for day in news.judgeable if settled_early or bucket_end(day) <= now]
        newest = days[-1] if days else None
        known = before is not None and before.rule_version == rule.version and before.asset == asset
        base = before.sequence if known and before is not None else news.mark.sequence if news.mark else 0
        through = before.through if known and before is not None else None
        fresh = {p.day for p in news.days if p.sequence > base and not p.gated}
        reaches = newest is not None and (through is None or newest > through)
        if known and not reaches and not any(p.sequence > base for p in news.days):
            return None
        window = {newest - timedelta(days=back) for back in range(window_days(rule))} if newest else set()
        judge = newest is not None and (not known or reaches or (newest == through and bool(fresh & window)))
        first = newest - timedelta(days=look_back_days(rule)) if newest else None
        look_back = [day for day in days if first is not None and day >= first]
        past = _past(news, days, fresh, newest)
        return cls(rule, asset, news, before, max(filter(None, (through, newest)), default=None), judge, look_back, past)


def _past(news: _AssetNews, days: Iterable[date], fresh: set[date], newest: date | None) -> list[date]:
    """The historical days that a digest counts; none when this is everyday work."""
    if news.history:
        return list(days)
    judged = news.mark.through if news.mark is not None else None
    if judged is None or newest is None:
        return []
    older = [day for day in days if day in fresh and day < newest and day <= judged]
    return older if len(older) >= LEAST_BACKFILL else []
