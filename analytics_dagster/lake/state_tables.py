"""The tables of the operational database (SQLite or PostgreSQL), all in one place; `migrations/` follows them and a test
holds the two together. What they mean is said by the rooms that own them. Times are aware UTC.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

import sqlalchemy as sa
from sqlalchemy.types import TypeDecorator


class UtcDateTime(TypeDecorator[dt.datetime]):
    """Aware UTC datetimes on both databases (SQLite has no time zones): stored naive in UTC, returned aware."""

    impl = sa.DateTime
    cache_ok = True

    def process_bind_param(self, value: dt.datetime | None, dialect: Any) -> dt.datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"naive datetime {value!r}; times in the database are aware UTC")
        return value.astimezone(dt.UTC).replace(tzinfo=None)

    def process_result_value(self, value: dt.datetime | None, dialect: Any) -> dt.datetime | None:
        return None if value is None else value.replace(tzinfo=dt.UTC)


metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)
_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

tenants = sa.Table(
    "tenants",
    metadata,
    sa.Column("tenant", sa.String(63), primary_key=True),
    sa.Column("status", sa.String(16), nullable=False),  # active, suspended, removed, purging
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("changed_at", UtcDateTime, nullable=False),
    sa.Column("demo", sa.Boolean, nullable=False, default=False),  # simulated, and simulated on each day
)

# What arrived, by day: written in the same step as the landing commit, read to know which days are stale.
arrivals = sa.Table(
    "arrivals",
    metadata,
    sa.Column("id", _BIG, primary_key=True, autoincrement=True),
    sa.Column("arrival", sa.String(64), nullable=False),
    sa.Column("tenant", sa.String(63), nullable=False),
    sa.Column("table_name", sa.String(64), nullable=False),
    sa.Column("day", sa.Date, nullable=True),  # null: a catalogue table, which has no days
    sa.Column("rows", sa.BigInteger, nullable=False),
    sa.Column("arrived_at", UtcDateTime, nullable=False),
    sa.Index("ix_arrivals_tenant_table_name_day", "tenant", "table_name", "day"),
)

# The truth about what is published. `input_id` is the newest arrivals.id that the figures contain.
publications = sa.Table(
    "publications",
    metadata,
    sa.Column("tenant", sa.String(63), primary_key=True),
    sa.Column("asset", sa.String(128), primary_key=True),
    sa.Column("day", sa.Date, primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),  # +1 each time the content changes
    sa.Column("content_hash", sa.String(64), nullable=False),
    sa.Column("rows", sa.BigInteger, nullable=False),
    sa.Column("status", sa.String(16), nullable=False),  # published, gated
    sa.Column("failed_checks", sa.Text, nullable=False, default=""),  # names, comma separated
    sa.Column("run_id", sa.String(64), nullable=False),
    sa.Column("input_id", sa.BigInteger, nullable=False, default=0),
    sa.Column("published_at", UtcDateTime, nullable=False),
    sa.Column("sequence", sa.BigInteger, nullable=False),  # rises with every write; alerting's cursor
    sa.Column("basis", sa.Text, nullable=True),  # JSON: what figures were computed with (metrics/restatement_causes.py)
    sa.Index("ix_publications_sequence", "sequence"),
)

# How far each source has come, renewed with each arrival (ingest/lateness.py).
watermarks = sa.Table(
    "watermarks",
    metadata,
    sa.Column("tenant", sa.String(63), primary_key=True),
    sa.Column("table_name", sa.String(64), primary_key=True),
    sa.Column("newest_event", UtcDateTime, nullable=False),
    sa.Column("last_arrival", UtcDateTime, nullable=False),
    sa.Column("closed_through", sa.Date, nullable=True),  # days to here were closed when the last rows came
)

# Closed days whose figures are being computed again: the Delta version that holds the figures of before, until the ledger has
# what changed. No row: nothing is under way, and no run was killed.
restatement_batches = sa.Table(
    "restatement_batches",
    metadata,
    sa.Column("tenant", sa.String(63), primary_key=True),
    sa.Column("asset", sa.String(128), primary_key=True),
    sa.Column("batch", sa.String(32), nullable=False),
    sa.Column("table_version", sa.BigInteger, nullable=False),  # of the family's table of days
    sa.Column("days", sa.Text, nullable=False),  # JSON: day -> cause
    sa.Column("run_id", sa.String(64), nullable=False),
    sa.Column("noted_at", UtcDateTime, nullable=False),
)

sequences = sa.Table(
    "sequences",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("value", sa.BigInteger, nullable=False),
)

# alerts/: one row per instance of a rule that is not inactive
alert_instances = sa.Table(
    "alert_instances",
    metadata,
    sa.Column("tenant", sa.String(63), primary_key=True),
    sa.Column("rule", sa.String(255), primary_key=True),
    sa.Column("fingerprint", sa.String(64), primary_key=True),  # of the instance's labels
    sa.Column("labels", sa.Text, nullable=False),  # canonical JSON, the series' labels (not the rule's own)
    sa.Column("state", sa.String(16), nullable=False),  # pending, firing
    sa.Column("severity", sa.String(16), nullable=False),
    sa.Column("value", sa.Float, nullable=True),
    sa.Column("active_since", UtcDateTime, nullable=False),
    sa.Column("fired_at", UtcDateTime, nullable=True),
    sa.Column("keep_since", UtcDateTime, nullable=True),
    sa.Column("last_seen", UtcDateTime, nullable=False),
    sa.Column("missed", sa.Integer, nullable=False, default=0),  # evaluations in a row without a value
    sa.Column("occurrence", sa.String(64), nullable=False),  # identity of this alert from firing to resolved
    sa.Column("rule_version", sa.String(64), nullable=False),
)

alert_transitions = sa.Table(
    "alert_transitions",
    metadata,
    sa.Column("id", _BIG, primary_key=True, autoincrement=True),
    sa.Column("tenant", sa.String(63), nullable=False),
    sa.Column("rule", sa.String(255), nullable=False),
    sa.Column("fingerprint", sa.String(64), nullable=False),
    sa.Column("occurrence", sa.String(64), nullable=False),
    sa.Column("from_state", sa.String(16), nullable=False),
    sa.Column("to_state", sa.String(16), nullable=False),
    sa.Column("at", UtcDateTime, nullable=False),  # event or evaluation time
    sa.Column("recorded_at", UtcDateTime, nullable=False),
    sa.Column("value", sa.Float, nullable=True),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("labels", sa.Text, nullable=False),
    sa.Index("ix_alert_transitions_tenant_rule", "tenant", "rule"),
)

# How far each rule has been judged. Compare and set on (rule_version, judged_sequence) is what keeps two judges apart.
verdicts = sa.Table(
    "verdicts",
    metadata,
    sa.Column("tenant", sa.String(63), primary_key=True),
    sa.Column("rule", sa.String(255), primary_key=True),
    sa.Column("asset", sa.String(128), nullable=False),  # what the rule read when it was judged
    sa.Column("rule_version", sa.String(64), nullable=False),
    sa.Column("judged_sequence", sa.BigInteger, nullable=False),  # publications up to here are judged
    sa.Column("judged_through", sa.Date, nullable=True),  # newest day that was judged
    sa.Column("judged_at", UtcDateTime, nullable=False),
    sa.Column("errors", sa.Integer, nullable=False, default=0),  # evaluations that failed in a row
    sa.Column("last_error", sa.Text, nullable=True),
)

# How far any judge has seen a tenant's asset, with or without rules: no row means a first start on stored history.
judged_assets = sa.Table(
    "judged_assets",
    metadata,
    sa.Column("tenant", sa.String(63), primary_key=True),
    sa.Column("asset", sa.String(128), primary_key=True),
    sa.Column("judged_sequence", sa.BigInteger, nullable=False),
    sa.Column("judged_through", sa.Date, nullable=True),
    sa.Column(
        "history_run", sa.String(64), nullable=True
    ),  # the run whose days were taken as stored history; more of it may follow
)

outbox = sa.Table(
    "outbox",
    metadata,
    sa.Column("id", _BIG, primary_key=True, autoincrement=True),
    sa.Column("dedup_key", sa.String(255), nullable=False, unique=True),  # same on each try; told to the receiver
    sa.Column("tenant", sa.String(63), nullable=False),
    sa.Column("channel", sa.String(128), nullable=False),
    sa.Column("rule", sa.String(255), nullable=False),
    sa.Column("fingerprint", sa.String(64), nullable=False),
    sa.Column("occurrence", sa.String(64), nullable=False),
    sa.Column("status", sa.String(16), nullable=False),  # firing, resolved, correction, digest
    sa.Column("severity", sa.String(16), nullable=False),
    sa.Column("urgent", sa.Boolean, nullable=False, default=False),  # passes cooldown and cap
    sa.Column("payload", sa.Text, nullable=False),  # JSON: what every channel's message is made from
    sa.Column("state", sa.String(16), nullable=False),  # due, sending, sent, failed, dropped
    sa.Column("due_at", UtcDateTime, nullable=False),
    sa.Column("deferred", sa.Text, nullable=True),  # why a firing message waits: cooldown, cap
    sa.Column("attempts", sa.Integer, nullable=False, default=0),
    sa.Column("maybe_told", sa.Boolean, nullable=False, default=False),  # an attempt ended without an answer
    sa.Column("claimed_by", sa.String(128), nullable=True),
    sa.Column("claimed_until", UtcDateTime, nullable=True),
    sa.Column("last_error", sa.Text, nullable=True),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("sent_at", UtcDateTime, nullable=True),
    sa.Index("ix_outbox_state_due_at", "state", "due_at"),
    sa.Index("ix_outbox_occurrence_channel", "occurrence", "channel"),
    sa.Index("ix_outbox_tenant_channel_sent_at", "tenant", "channel", "sent_at"),
)

# A channel that asked for a pause (HTTP 429) or refused for good (HTTP 410); `target` tells a changed address from the old one.
channel_pauses = sa.Table(
    "channel_pauses",
    metadata,
    sa.Column("channel", sa.String(128), primary_key=True),
    sa.Column("target", sa.String(64), nullable=False),
    sa.Column("paused_until", UtcDateTime, nullable=True),
    sa.Column("gone", sa.Boolean, nullable=False, default=False),
    sa.Column("reason", sa.Text, nullable=False),
)

cursors = sa.Table(
    "cursors",
    metadata,
    sa.Column("name", sa.String(128), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
    sa.Column("changed_at", UtcDateTime, nullable=False),
)

# tenancy/: keys as SHA-256, never in the clear. A key without rows in `api_key_tenants` is for every tenant (`all_tenants`).
api_keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("key_id", sa.String(16), primary_key=True),  # the key's first characters; what people name it by
    sa.Column("digest", sa.String(64), nullable=False, unique=True),  # SHA-256 of the whole key, hex
    sa.Column("name", sa.String(255), nullable=False, default=""),
    sa.Column("role", sa.String(32), nullable=False),
    sa.Column("all_tenants", sa.Boolean, nullable=False, default=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("created_by", sa.String(64), nullable=False),  # a key id, or "command line"
    sa.Column("expires_at", UtcDateTime, nullable=True),
    sa.Column("revoked_at", UtcDateTime, nullable=True),
    sa.Column("last_used_at", UtcDateTime, nullable=True),  # to the minute
)

api_key_tenants = sa.Table(
    "api_key_tenants",
    metadata,
    sa.Column("key_id", sa.String(16), primary_key=True),
    sa.Column("tenant", sa.String(63), primary_key=True),
    sa.Index("ix_api_key_tenants_tenant", "tenant"),
)

# People who signed in to pages: with a key (its standing is looked up each time), or as a person of an OpenID provider.
sessions = sa.Table(
    "sessions",
    metadata,
    sa.Column("digest", sa.String(64), primary_key=True),  # SHA-256 of the cookie's value, hex
    sa.Column("session_id", sa.String(16), nullable=False, unique=True),  # what people name it by
    sa.Column("key_id", sa.String(16), nullable=True),
    sa.Column("key_digest", sa.String(64), nullable=True),
    sa.Column("issuer", sa.String(255), nullable=True),  # of a person; null: a key's session
    sa.Column("subject", sa.String(255), nullable=True),
    sa.Column("name", sa.String(255), nullable=False, default=""),
    sa.Column("role", sa.String(32), nullable=True),
    sa.Column("tenants", sa.Text, nullable=True),  # of a person: comma separated; null: every registered one
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("last_used_at", UtcDateTime, nullable=False),  # to the minute
    sa.Column("expires_at", UtcDateTime, nullable=False),
    sa.Column("revoked_at", UtcDateTime, nullable=True),
    sa.Index("ix_sessions_expires_at", "expires_at"),
)

# Secrets that work once and for minutes: a link to sign in with, the state of a sign-in that is under way at a provider.
tickets = sa.Table(
    "tickets",
    metadata,
    sa.Column("digest", sa.String(64), primary_key=True),  # SHA-256 of the secret, hex
    sa.Column("kind", sa.String(16), nullable=False),  # once, oidc
    sa.Column("payload", sa.Text, nullable=False),
    sa.Column("expires_at", UtcDateTime, nullable=False),
    sa.Index("ix_tickets_expires_at", "expires_at"),
)

# Boards that people of a tenant made, each version as it was saved. The newest is the one that is shown; without text, removed.
dashboards = sa.Table(
    "dashboards",
    metadata,
    sa.Column("tenant", sa.String(63), primary_key=True),
    sa.Column("name", sa.String(63), primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column("text", sa.Text, nullable=True),  # YAML
    sa.Column("author", sa.String(255), nullable=False),  # key id, or who signed in
    sa.Column("saved_at", UtcDateTime, nullable=False),
)

# Views that go out by e-mail or to Slack on a schedule (reports/).
reports = sa.Table(
    "reports",
    metadata,
    sa.Column("tenant", sa.String(63), primary_key=True),
    sa.Column("name", sa.String(63), primary_key=True),
    sa.Column("board", sa.String(80), nullable=False),
    sa.Column("query", sa.Text, nullable=False),  # of the view's address, with ?
    sa.Column("format", sa.String(8), nullable=False),  # pdf, png
    sa.Column("schedule", sa.String(120), nullable=False),  # five fields of cron
    sa.Column("time_zone", sa.String(64), nullable=False),  # IANA
    sa.Column("recipients", sa.Text, nullable=False),  # JSON list
    sa.Column("creator", sa.String(255), nullable=False),  # key id, who signed in, or "command line"
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("paused", sa.Boolean, nullable=False, default=False),
    sa.Column("next_due_at", UtcDateTime, nullable=False),
    sa.Index("ix_reports_next_due_at", "next_due_at"),
)

# One row for each report, due time and recipient, written before anything is sent.
report_sendings = sa.Table(
    "report_sendings",
    metadata,
    sa.Column("tenant", sa.String(63), primary_key=True),
    sa.Column("name", sa.String(63), primary_key=True),
    sa.Column("due_at", UtcDateTime, primary_key=True),
    sa.Column("recipient", sa.String(255), primary_key=True),
    sa.Column("by_hand", sa.Boolean, nullable=False, default=False),  # somebody asked for it beside the schedule
    sa.Column("missed", sa.Integer, nullable=False, default=0),  # due times before it that went out to nobody
    sa.Column("state", sa.String(16), nullable=False),  # due, sending, sent, failed, skipped
    sa.Column("try_at", UtcDateTime, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False, default=0),
    sa.Column("claimed_by", sa.String(128), nullable=True),
    sa.Column("claimed_until", UtcDateTime, nullable=True),
    sa.Column("last_error", sa.Text, nullable=True),
    sa.Column("days", sa.String(32), nullable=True),  # that the view covered when it was sent
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("sent_at", UtcDateTime, nullable=True),
    sa.Index("ix_report_sendings_state_try_at", "state", "try_at"),
)

# What people said of findings. A story is a finding without its day: metric, element and direction.
finding_feedback = sa.Table(
    "finding_feedback",
    metadata,
    sa.Column("tenant", sa.String(63), primary_key=True),
    sa.Column("day", sa.Date, primary_key=True),
    sa.Column("story", sa.String(16), primary_key=True),
    sa.Column("verdict", sa.String(16), nullable=False),  # useful, dismiss
    sa.Column("author", sa.String(255), nullable=False),  # key id, or who signed in
    sa.Column("said_at", UtcDateTime, nullable=False),
)

# What people say of a tenant's days: drawn on charts. A moment begins and ends at the same time.
chart_annotations = sa.Table(
    "chart_annotations",
    metadata,
    sa.Column("id", _BIG, primary_key=True, autoincrement=True),
    sa.Column("tenant", sa.String(63), nullable=False),
    sa.Column("metric", sa.String(63), nullable=True),  # null: every metric
    sa.Column("condition", sa.Text, nullable=True),  # country="DE"; null: every value
    sa.Column("begins_at", UtcDateTime, nullable=False),
    sa.Column("ends_at", UtcDateTime, nullable=False),  # included
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("author", sa.String(255), nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Index("ix_chart_annotations_tenant_begins_at", "tenant", "begins_at"),
)

# Metrics that tenants declare for themselves, each version as it was saved. Without text: with this version it was removed.
own_metrics = sa.Table(
    "own_metrics",
    metadata,
    sa.Column("tenant", sa.String(63), primary_key=True),
    sa.Column("name", sa.String(63), primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column("text", sa.Text, nullable=True),  # YAML
    sa.Column("author", sa.String(255), nullable=False),
    sa.Column("saved_at", UtcDateTime, nullable=False),
)

# A tenant's own limits; null: the installation's default, 0: no limit.
quotas = sa.Table(
    "quotas",
    metadata,
    sa.Column("tenant", sa.String(63), primary_key=True),
    sa.Column("points_per_second", sa.BigInteger, nullable=True),
    sa.Column("active_series", sa.BigInteger, nullable=True),
    sa.Column("stored_bytes", sa.BigInteger, nullable=True),
    sa.Column("rules", sa.BigInteger, nullable=True),
    sa.Column("metrics", sa.BigInteger, nullable=True),
    sa.Column("changed_at", UtcDateTime, nullable=False),
)

# What each tenant used on each day of arrival (UTC), for billing: kept when the tenant's data is deleted.
usage = sa.Table(
    "usage",
    metadata,
    sa.Column("tenant", sa.String(63), primary_key=True),
    sa.Column("day", sa.Date, primary_key=True),
    sa.Column("points", sa.BigInteger, nullable=False, default=0),
    sa.Column("plays", sa.BigInteger, nullable=False, default=0),
    sa.Column("requests", sa.BigInteger, nullable=False, default=0),
    sa.Column("stored_bytes", sa.BigInteger, nullable=True),  # as last measured on that day
)

# Newest position of a log source that `usage` contains: a batch that is consumed again after a crash is not billed again.
usage_positions = sa.Table(
    "usage_positions",
    metadata,
    sa.Column("tenant", sa.String(63), primary_key=True),
    sa.Column("source", sa.String(255), primary_key=True),
    sa.Column("table_name", sa.String(64), primary_key=True),  # metrics, plays
    sa.Column("position", sa.BigInteger, nullable=False),
)

audit = sa.Table(
    "audit",
    metadata,
    sa.Column("id", _BIG, primary_key=True, autoincrement=True),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.Column("action", sa.String(64), nullable=False),  # key.create, tenant.remove, foreign_tenant, ...
    sa.Column("actor", sa.String(255), nullable=False),  # a key id, or "command line"
    sa.Column("tenant", sa.String(63), nullable=True),
    sa.Column("target", sa.String(255), nullable=False),
    sa.Column("outcome", sa.String(16), nullable=False),  # done, refused
    sa.Column("detail", sa.Text, nullable=False, default=""),
    sa.Column("request_id", sa.String(128), nullable=True),
    sa.Column("count", sa.BigInteger, nullable=False, default=1),  # equal attempts that this row stands for
    sa.Index("ix_audit_tenant_at", "tenant", "at"),
)

# Requests that carried an Idempotency-Key: the same request again gets the same answer.
idempotency_keys = sa.Table(
    "idempotency_keys",
    metadata,
    sa.Column("tenant", sa.String(63), primary_key=True),
    sa.Column("key_id", sa.String(16), primary_key=True),
    sa.Column("route", sa.String(128), primary_key=True),
    sa.Column("idempotency_key", sa.String(255), primary_key=True),
    sa.Column("body_hash", sa.String(64), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),  # pending, done
    sa.Column("status", sa.Integer, nullable=True),  # of the answer, once done
    sa.Column("answer", sa.Text, nullable=True),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Index("ix_idempotency_keys_created_at", "created_at"),
)
