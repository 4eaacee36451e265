"""The JSON documents that FastAPI's routes take and give. Field names are an interface: they stay."""

from __future__ import annotations

import datetime as dt

from pydantic import BaseModel, ConfigDict, Field

from analytics_dagster.tenancy.roles import Role


class Document(BaseModel):
    """What is sent with a field that is not known is refused: it is a mistake that would go unnoticed."""

    model_config = ConfigDict(extra="forbid")


class ProblemDocument(BaseModel):
    """RFC 9457. `errors` names rows that could not be taken, at most 100."""

    type: str
    title: str
    status: int
    detail: str
    request_id: str


class MetricDocument(BaseModel):
    name: str
    description: str
    type: str
    unit: str
    direction: str
    owner: str
    synonyms: list[str]
    family: str
    dimensions: list[str] = Field(description="What it can be split by; for recorded points, their labels.")
    recorded: bool = Field(description="Whether it is a name that the tenant recorded points under.")


class KeyDocument(BaseModel):
    key_id: str
    name: str
    role: Role
    tenants: list[str] | None = Field(description="null: every registered tenant.")
    created_at: dt.datetime
    created_by: str
    expires_at: dt.datetime | None
    revoked_at: dt.datetime | None
    last_used_at: dt.datetime | None


class CreatedKeyDocument(KeyDocument):
    key: str = Field(description="The key itself. It is shown here and never again.")


class NewReportDocument(Document):
    name: str = Field(max_length=63, description="Lower-case letters, digits, - and _.")
    view: str = Field(max_length=4_000, description="Address of the view: its page's, or overview?period=7d.")
    format: str = Field("pdf", max_length=8, description="pdf, or png: figures and charts as one picture.")
    schedule: str = Field(max_length=120, description="Minute, hour, day of the month, month, weekday; 0 7 * * mon.")
    time_zone: str = Field("UTC", max_length=64, description="IANA name of the zone whose wall clock the schedule means.")
    recipients: list[str] = Field(max_length=50, description="E-mail addresses, and slack:NAME.")
    tenant: str | None = Field(None, max_length=63, description="Left out: the tenant of the key that asks.")


class ReportDocument(BaseModel):
    name: str
    tenant: str
    view: str
    format: str
    schedule: str
    time_zone: str
    recipients: list[str]
    creator: str
    created_at: dt.datetime
    paused: bool
    next_due_at: dt.datetime | None = Field(description="null while it is paused.")
    state: str = Field(description="How the newest due time went, in words.")
    last_error: str | None


class SendingDocument(BaseModel):
    due_at: dt.datetime
    recipient: str
    state: str = Field(description="due, sending, sent, failed or skipped.")
    by_hand: bool
    missed: int = Field(description="Due times before it that went out to nobody.")
    attempts: int
    try_at: dt.datetime | None
    last_error: str | None
    days: str | None = Field(description="What the view covered when it was sent.")
    sent_at: dt.datetime | None


class NewKeyDocument(Document):
    role: Role
    tenant: str | None = Field(None, max_length=63, description="Left out: the tenant of the key that asks.")
    name: str = Field("", max_length=255)
    expires_at: dt.datetime | None = Field(None, description="RFC 3339, with a time zone.")


class TenantDocument(BaseModel):
    tenant: str
    status: str
    created_at: dt.datetime
    demo: bool


class NewTenantDocument(Document):
    tenant: str = Field(min_length=1, max_length=63)


class UsageDocument(BaseModel):
    tenant: str
    day: dt.date
    points: int
    plays: int
    requests: int
    stored_bytes: int | None


class AuditDocument(BaseModel):
    at: dt.datetime
    action: str
    actor: str
    tenant: str | None
    target: str
    outcome: str
    detail: str
    request_id: str | None
    count: int


class QuarantineDocument(BaseModel):
    file: str
    line: int
    field: str | None
    reason: str
    original: str = Field(description="The record as it came; bytes that are no UTF-8 are replaced.")
    format: str
    arrived_at: dt.datetime


class CountDocument(BaseModel):
    name: str
    metric: str
    policy: str
    version: int
    minimum_seconds: float
    adjusted: bool = Field(description="Without artificial plays.")
    rules_version: int | None = Field(description="Of the rules for artificial plays; null for a raw count.")
    plays: int
    stored: int | None = Field(description="What the metric says; null where a condition is on what it cannot be split by.")


class ReconciledPartDocument(BaseModel):
    counted_by: str = Field(description="The count that has these plays, or `both`.")
    reason: str | None = Field(description="Why the other has not.")
    plays: int


class ReconciliationDocument(BaseModel):
    counts: list[CountDocument]
    difference: int = Field(description="Plays of the first count less those of the second.")
    parts: list[ReconciledPartDocument]


class ReconciledPlayDocument(BaseModel):
    play_id: str
    ts: dt.datetime
    listener_id: str | None
    track_id: str | None
    track: str | None
    artist: str | None
    ms_played: int | None
    country: str | None
    tier: str | None
    format: str
    counted_by: str
    reason: str


class ReconciledPlaysDocument(BaseModel):
    plays: list[ReconciledPlayDocument]
    truncated: bool = Field(description="Whether there are more than were asked for.")


class OwnMetricDocument(BaseModel):
    name: str
    version: int
    text: str | None = Field(description="YAML; null: with this version it was removed.")
    author: str
    saved_at: dt.datetime
    problem: str | None = Field(None, description="Why the newest version cannot be used any more.")


class NewAnnotationDocument(Document):
    text: str = Field(min_length=1, max_length=500)
    from_: str = Field(alias="from", max_length=40, description="First day (UTC), or a time (RFC 3339).")
    to: str | None = Field(None, max_length=40, description="Last day (UTC), included, or a time. Default: from.")
    metric: str | None = Field(None, max_length=63, description="Only on charts of this metric.")
    where: str | None = Field(None, max_length=200, description='Only of one value of a dimension: `country="DE"`.')


class AnnotationDocument(BaseModel):
    id: int
    text: str
    begins_at: dt.datetime
    ends_at: dt.datetime = Field(description="Included.")
    metric: str | None
    where: str | None
    author: str
    created_at: dt.datetime


class RestatementDocument(BaseModel):
    restatement_id: str
    ts: dt.datetime = Field(description="When the change was noted.")
    day: dt.date = Field(description="The day whose figure changed.")
    asset: str
    metric: str
    split_by: str | None = Field(description="The dimension that the figure is of one value of; null: the day's whole figure.")
    dimensions: dict[str, str | None] = Field(description="Empty for the total.")
    old: float | None = Field(description="null: there was none.")
    new: float | None = Field(description="null: there is none any more.")
    difference: float | None
    share: float | None = Field(description="The difference's size as a share of the old figure's.")
    cause: str = Field(description="late_rows, correction, erasure, policy or rerun; several are joined by +.")
    batch: str
    run: str


class CheckDocument(BaseModel):
    name: str
    ready: bool
    detail: str | None = Field(None, description="Only for who may read the server's state.")


class ReadyDocument(BaseModel):
    ready: bool
    checks: list[CheckDocument]


class AliveDocument(BaseModel):
    status: str
    version: str
