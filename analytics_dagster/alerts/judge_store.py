"""What judging reads and writes in the database: publications, verdicts, instances, transitions, outbox rows.

One tenant's verdicts are written in one transaction with compare-and-set on `verdicts`: of two judges that saw the same
publications one writes, the other finds that it is late and leaves no trace.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from analytics_dagster.alerts.digests import merge_digests, renamed_digest
from analytics_dagster.alerts.messages import Message, for_channel, removal_message
from analytics_dagster.alerts.rules import Labels, Severity, fingerprint, sorted_labels
from analytics_dagster.alerts.state import Instance, State, Transition
from analytics_dagster.lake import state_tables as tables

if TYPE_CHECKING:
    from analytics_dagster.lake.database import Database

ASSETS = "aggregates/"
CURSOR = "alerts.judge"
# A run publishes one asset after the other; a digest waits until nothing has been added to it for so long.
DIGEST_SETTLES = timedelta(seconds=30)


class LateError(Exception):
    """Another judge wrote first; what was decided here is out of date."""


@dataclass(frozen=True)
class Published:
    """A tenant-day of an asset as `publications` has it."""

    day: date
    sequence: int
    rows: int
    gated: bool
    run_id: str


@dataclass(frozen=True)
class Verdict:
    """How far a rule was judged for a tenant."""

    asset: str
    rule_version: str
    sequence: int
    through: date | None
    errors: int = 0
    last_error: str | None = None


@dataclass(frozen=True)
class Mark:
    """How far anything was judged for a tenant's asset."""

    sequence: int
    through: date | None
    history_run: str | None


@dataclass(frozen=True)
class Stored:
    """An instance with what only the database knows of it."""

    instance: Instance
    occurrence: str
    severity: Severity


@dataclass(frozen=True)
class TenantState:
    """All that judging one tenant needs to know."""

    verdicts: Mapping[str, Verdict]
    marks: Mapping[str, Mark]
    instances: Mapping[str, Mapping[Labels, Stored]]


@dataclass
class Change:
    """What judging one tenant came to; written whole or not at all."""

    tenant: str
    verdicts: dict[str, tuple[Verdict | None, Verdict | None]] = field(default_factory=dict)
    """Before and after, by rule; None is no row."""
    marks: dict[str, Mark] = field(default_factory=dict)
    instances: dict[str, Mapping[Labels, Stored]] = field(default_factory=dict)
    """All instances of a rule, replacing what was stored."""
    versions: dict[str, str] = field(default_factory=dict)
    transitions: list[tuple[str, str, Transition]] = field(default_factory=list)
    """Rule, occurrence, transition."""
    messages: list[Message] = field(default_factory=list)
    resolved: list[Message] = field(default_factory=list)
    """Without a channel: sent to every channel that has a firing message of the same occurrence."""
    removed: dict[str, datetime] = field(default_factory=dict)
    """Occurrences whose rule is gone, and since when: told resolved from what was told firing."""
    digests: list[Message] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        return not (self.verdicts or self.marks)


def active_tenants(connection: sa.Connection) -> dict[str, bool]:
    """Every registered tenant, and whether it is alerted on."""
    rows = connection.execute(sa.select(tables.tenants.c.tenant, tables.tenants.c.status))
    return {tenant: status == "active" for tenant, status in rows}


def newest_sequence(connection: sa.Connection) -> int:
    """Up to where anything was published."""
    return int(connection.execute(sa.select(sa.func.max(tables.publications.c.sequence))).scalar() or 0)


def changed_tenants(connection: sa.Connection, after: int) -> set[str]:
    """Tenants with anything published after `after`, and, from the beginning, those with stored alerts."""
    table = tables.publications
    query = sa.select(table.c.tenant).distinct().where(table.c.sequence > after, table.c.asset.startswith(ASSETS))
    found = set(connection.execute(query).scalars())
    if after <= 0:
        found |= set(connection.execute(sa.select(tables.alert_instances.c.tenant).distinct()).scalars())
    return found


def published(connection: sa.Connection, tenant: str) -> dict[str, list[Published]]:
    """The tenant's published and gated days of each aggregates asset, oldest first."""
    table = tables.publications
    query = (
        sa.select(table.c.asset, table.c.day, table.c.sequence, table.c.rows, table.c.status, table.c.run_id)
        .where(table.c.tenant == tenant, table.c.asset.startswith(ASSETS))
        .order_by(table.c.asset, table.c.day)
    )
    found: dict[str, list[Published]] = {}
    for asset, day, sequence, rows, status, run_id in connection.execute(query):
        found.setdefault(asset, []).append(Published(day, sequence, rows, status != "published", run_id))
    return found


def tenant_state(connection: sa.Connection, tenant: str) -> TenantState:
    """What is stored about a tenant's rules."""

    def mine(table: sa.Table) -> Iterable[Any]:
        return connection.execute(sa.select(table).where(table.c.tenant == tenant))

    verdicts = {
        row.rule: Verdict(row.asset, row.rule_version, row.judged_sequence, row.judged_through, row.errors, row.last_error)
        for row in mine(tables.verdicts)
    }
    marks = {row.asset: Mark(row.judged_sequence, row.judged_through, row.history_run) for row in mine(tables.judged_assets)}
    instances: dict[str, dict[Labels, Stored]] = {}
    for row in mine(tables.alert_instances):
        stored = _stored(row)
        instances.setdefault(row.rule, {})[stored.instance.labels] = stored
    return TenantState(verdicts, marks, instances)


def read_cursor(connection: sa.Connection) -> dict[str, Any]:
    """Where the last pass stood: newest sequence, hash of the rules, day, tenants to try again."""
    value = connection.execute(sa.select(tables.cursors.c.value).where(tables.cursors.c.name == CURSOR)).scalar()
    return {} if value is None else dict(json.loads(value))


def write_cursor(database: Database, value: Mapping[str, Any], now: datetime) -> None:
    """Remember where this pass stood."""

    def write(connection: sa.Connection) -> None:
        values = {"value": json.dumps(value), "changed_at": now}
        insert = _insert(connection, tables.cursors).values(name=CURSOR, **values)
        connection.execute(insert.on_conflict_do_update(index_elements=["name"], set_=values))

    database.write(write)


def write_change(database: Database, change: Change, now: datetime) -> int:
    """Write it in one transaction; returns how many messages are new in the outbox.

    Raises LateError, leaving nothing written, when a verdict is no longer what it was when the change was decided.
    """

    def write(connection: sa.Connection) -> int:
        for rule, (before, after) in change.verdicts.items():
            _set_verdict(connection, change.tenant, rule, before, after, now)
        for asset, mark in change.marks.items():
            _set_mark(connection, change.tenant, asset, mark)
        for rule, instances in change.instances.items():
            _set_instances(connection, change.tenant, rule, change.versions.get(rule, ""), instances)
        _add_transitions(connection, change, now)
        resolved = [*_resolved_messages(connection, change.resolved), *_last_words(connection, change.removed)]
        digests = sum(put_digest(connection, message, now) for message in change.digests)
        return digests + add_messages(connection, [*change.messages, *resolved], now)

    return database.write(write)


def add_messages(connection: sa.Connection, messages: Sequence[Message], now: datetime, due_at: datetime | None = None) -> int:
    """Put messages into the outbox, each once: a dedup key that is there already is left as it is."""
    if not messages:
        return 0
    rows = [
        {
            "dedup_key": message.dedup_key,
            "tenant": message.tenant,
            "channel": message.channel,
            "rule": message.rule,
            "fingerprint": message.fingerprint,
            "occurrence": message.occurrence,
            "status": message.status.value,
            "severity": message.severity.value,
            "urgent": message.urgent,
            "payload": json.dumps(message.payload, ensure_ascii=False),
            "state": "due",
            "due_at": due_at or now,
            "attempts": 0,
            "maybe_told": False,
            "created_at": now,
        }
        for message in messages
    ]
    insert = _insert(connection, tables.outbox)
    return sum(
        connection.execute(insert.values(row).on_conflict_do_nothing(index_elements=["dedup_key"])).rowcount for row in rows
    )


def put_digest(connection: sa.Connection, message: Message, now: datetime) -> int:
    """Add a digest, or add to the one of the same run that still waits: a run publishes its assets one after the other."""
    table = tables.outbox
    waiting = sa.select(table.c.payload).where(table.c.dedup_key == message.dedup_key)
    found = connection.execute(waiting).scalar()
    due_at = now + DIGEST_SETTLES
    if found is not None:
        merged = merge_digests(json.loads(found), message.payload)
        change = table.update().where(table.c.dedup_key == message.dedup_key, table.c.state == "due", table.c.attempts == 0)
        if connection.execute(change.values(payload=json.dumps(merged, ensure_ascii=False), due_at=due_at)).rowcount:
            return 0
        message = renamed_digest(message, now)
    return add_messages(connection, [message], now, due_at)


def _resolved_messages(connection: sa.Connection, templates: Sequence[Message]) -> list[Message]:
    told = _told(connection, [template.occurrence for template in templates])
    return [
        for_channel(template, channel)
        for template in templates
        for channel in sorted({channel for occurrence, channel, _ in told if occurrence == template.occurrence})
    ]


def _last_words(connection: sa.Connection, removed: Mapping[str, datetime]) -> list[Message]:
    found = {(occurrence, channel): row for occurrence, channel, row in _told(connection, list(removed))}
    return [
        removal_message(row, json.loads(row.payload), channel, removed[occurrence])
        for (occurrence, channel), row in sorted(found.items())
    ]


def _told(connection: sa.Connection, occurrences: Sequence[str]) -> list[tuple[str, str, Any]]:
    """Channels that were, will be or may have been told that an occurrence fires, each with the row that says so."""
    table = tables.outbox
    told: list[tuple[str, str, Any]] = []
    unique = sorted(set(occurrences))
    for start in range(0, len(unique), 500):  # SQLite takes a limited number of parameters
        query = sa.select(table).where(
            table.c.occurrence.in_(unique[start : start + 500]),
            table.c.status == "firing",
            sa.or_(table.c.state.in_(["due", "sending", "sent"]), table.c.maybe_told),
        )
        told += [(row.occurrence, row.channel, row) for row in connection.execute(query.order_by(table.c.id))]
    return told


def _set_verdict(
    connection: sa.Connection, tenant: str, rule: str, before: Verdict | None, after: Verdict | None, now: datetime
) -> None:
    table = tables.verdicts
    key = (table.c.tenant == tenant, table.c.rule == rule)
    unchanged = (
        () if before is None else (table.c.rule_version == before.rule_version, table.c.judged_sequence == before.sequence)
    )
    if after is None:
        done = connection.execute(table.delete().where(*key, *unchanged)).rowcount
    else:
        values = {
            "asset": after.asset,
            "rule_version": after.rule_version,
            "judged_sequence": after.sequence,
            "judged_through": after.through,
            "judged_at": now,
            "errors": after.errors,
            "last_error": after.last_error,
        }
        if before is None:
            insert = _insert(connection, table).values(tenant=tenant, rule=rule, **values)
            done = connection.execute(insert.on_conflict_do_nothing(index_elements=["tenant", "rule"])).rowcount
        else:
            done = connection.execute(table.update().where(*key, *unchanged).values(values)).rowcount
    if done != 1:
        raise LateError


def _set_mark(connection: sa.Connection, tenant: str, asset: str, mark: Mark) -> None:
    values = {"judged_sequence": mark.sequence, "judged_through": mark.through, "history_run": mark.history_run}
    insert = _insert(connection, tables.judged_assets).values(tenant=tenant, asset=asset, **values)
    connection.execute(insert.on_conflict_do_update(index_elements=["tenant", "asset"], set_=values))


def _set_instances(connection: sa.Connection, tenant: str, rule: str, version: str, instances: Mapping[Labels, Stored]) -> None:
    table = tables.alert_instances
    connection.execute(table.delete().where(table.c.tenant == tenant, table.c.rule == rule))
    rows = [_instance_row(tenant, rule, version, stored) for stored in instances.values()]
    if rows:
        connection.execute(table.insert(), rows)


def _add_transitions(connection: sa.Connection, change: Change, now: datetime) -> None:
    rows = [
        {
            "tenant": change.tenant,
            "rule": rule,
            "fingerprint": fingerprint(transition.labels),
            "occurrence": occurrence,
            "from_state": transition.before.value,
            "to_state": transition.after.value,
            "at": transition.at,
            "recorded_at": now,
            "value": _finite(transition.value),
            "reason": transition.reason,
            "labels": json.dumps(dict(transition.labels), ensure_ascii=False),
        }
        for rule, occurrence, transition in change.transitions
    ]
    if rows:
        connection.execute(tables.alert_transitions.insert(), rows)


def _instance_row(tenant: str, rule: str, version: str, stored: Stored) -> dict[str, Any]:
    instance = stored.instance
    return {
        "tenant": tenant,
        "rule": rule,
        "fingerprint": fingerprint(instance.labels),
        "labels": json.dumps(dict(instance.labels), ensure_ascii=False),
        "state": instance.state.value,
        "severity": stored.severity.value,
        "value": _finite(instance.value),
        "active_since": instance.active_since,
        "fired_at": instance.fired_at,
        "keep_since": instance.keep_since,
        "last_seen": instance.last_seen,
        "missed": instance.missed,
        "occurrence": stored.occurrence,
        "rule_version": version,
    }


def _stored(row: Any) -> Stored:
    instance = Instance(
        labels=sorted_labels(json.loads(row.labels)),
        state=State(row.state),
        active_since=row.active_since,
        last_seen=row.last_seen,
        value=row.value,
        fired_at=row.fired_at,
        keep_since=row.keep_since,
        missed=row.missed,
    )
    return Stored(instance, row.occurrence, Severity(row.severity))


def _finite(value: float | None) -> float | None:
    # SQLite turns NaN into NULL; both databases then say the same.
    return None if value is None or value != value else value


def _insert(connection: sa.Connection, table: sa.Table) -> Any:
    """An INSERT that knows ON CONFLICT, which both databases have and SQLAlchemy's neutral one has not."""
    from sqlalchemy.dialects import postgresql, sqlite

    return (postgresql if connection.dialect.name == "postgresql" else sqlite).insert(table)
