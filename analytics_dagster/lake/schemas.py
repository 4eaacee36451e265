"""The columns of every event and catalogue table, in one place, with the descriptions that the Dagster UI shows.

`landing/<table>` holds the columns of `raw/<table>` plus where they came from (`ARRIVAL_COLUMNS`). Metric series are
not here: their columns follow from the declarations (`metrics/`). Money, durations and latencies are int64.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from enum import StrEnum

import pyarrow as pa

TIMESTAMP = pa.timestamp("us", tz="UTC")

FIRST_DAY = dt.date(2005, 1, 1)
"""First day of every daily table (UTC). Fixed: Dagster's partitions begin here, and moving it would rename none of them but
lose the meaning of "all days". Early enough for the oldest scrobbles; earlier events are quarantined."""

CATALOGUE_DAY = dt.date(1970, 1, 1)
"""The day under which a catalogue table, which has none, is published."""


class Layer(StrEnum):
    LANDING = "landing"
    RAW = "raw"
    AGGREGATES = "aggregates"
    QUALITY = "quality"
    MODELS = "models"
    FORECASTS = "forecasts"
    INSIGHTS = "insights"


class PartitionBy(StrEnum):
    """How a Delta table is laid out; the partition column is derived from `ts`."""

    DAY = "day"
    MONTH = "month"
    NONE = "none"


@dataclass(frozen=True)
class Column:
    name: str
    type: pa.DataType
    description: str
    required: bool = False
    """A row without it is refused at import. Not a Delta constraint: a broken client's nulls must be able to land."""


@dataclass(frozen=True)
class TableSchema:
    """One table of every tenant. `key` identifies a row: of several arrivals with one key the newest is kept."""

    layer: Layer
    name: str
    description: str
    columns: tuple[Column, ...]
    key: str
    partition_by: PartitionBy
    time: str | None = "ts"
    personal: frozenset[str] = field(default_factory=frozenset)

    @property
    def path(self) -> str:
        """`raw/plays`: the Dagster asset key and the folder below the tenant's root."""
        return f"{self.layer}/{self.name}"

    @property
    def arrow(self) -> pa.Schema:
        return pa.schema([pa.field(c.name, c.type, metadata={"comment": c.description}) for c in self.columns])

    def column(self, name: str) -> Column:
        return next(c for c in self.columns if c.name == name)


_S, _I, _F, _B = pa.string(), pa.int64(), pa.float64(), pa.bool_()

INTERACTION_EVENTS = (
    "save",
    "unsave",
    "playlist_add",
    "playlist_remove",
    "share",
    "discover",
    "follow",
    "unfollow",
    "invite",
    "join",
)
"""What a listener can do to content. `discover`: heard it for the first time through somebody's share. `invite`: asked somebody
to join the service; `join`: joined it by an invitation (the new listener's own event)."""

ARRIVAL_COLUMNS = (
    Column("arrival", _S, "The import, simulation or log segment that brought the row.", required=True),
    Column("arrived_at", TIMESTAMP, "When the row was stored (UTC).", required=True),
    Column("arrival_row", _I, "Position of the row within its arrival.", required=True),
)

PLAYS = TableSchema(
    Layer.RAW,
    "plays",
    "One play of one track, whoever reported it.",
    (
        Column("play_id", _S, "Identity of the play; equal plays of one source have equal ids.", required=True),
        Column("ts", TIMESTAMP, "When the play began (UTC).", required=True),
        Column("listener_id", _S, "Who listened; empty where the source names nobody (a radio log)."),
        Column("track_id", _S, "Track: the source's id, else a hash of artist and title."),
        Column("track", _S, "Title as the source wrote it."),
        Column("artist_id", _S, "Artist: the source's id, else a hash of the name."),
        Column("artist", _S, "Artist as the source wrote it."),
        Column("album", _S, "Release as the source wrote it."),
        Column("ms_played", _I, "Milliseconds listened; empty where the source does not say."),
        Column("track_ms", _I, "Length of the track in milliseconds; empty where unknown."),
        Column("source", _S, "Where in the product the play started: playlist, search, library, artist, radio, ..."),
        Column("playlist_id", _S, "The playlist it came from, if one."),
        Column("country", _S, "Country of the listener at that time, ISO 3166-1 alpha-2."),
        Column("tier", _S, "premium or free at that time."),
        Column("device", _S, "Kind of device or platform."),
        Column("end_reason", _S, "Why the play ended: trackdone, fwdbtn, backbtn, logout, ..."),
        Column("skipped", _B, "The source's own mark that the listener skipped."),
        Column("offline", _B, "Played without a connection and reported later."),
        Column("session_id", _S, "The source's session, if it has one."),
        Column("format", _S, "Format that the row was read from.", required=True),
    ),
    key="play_id",
    partition_by=PartitionBy.DAY,
    personal=frozenset({"listener_id"}),
)

METRICS = TableSchema(
    Layer.RAW,
    "metrics",
    "Points that clients recorded under names of their own.",
    (
        Column("point_id", _S, "Identity of the point.", required=True),
        Column("ts", TIMESTAMP, "Time of the point (UTC).", required=True),
        Column("name", _S, "Metric name.", required=True),
        Column("type", _S, "gauge, counter, histogram or timer.", required=True),
        Column("value", _F, "The value."),
        Column("labels", _S, "Labels as canonical JSON (sorted keys)."),
    ),
    key="point_id",
    partition_by=PartitionBy.DAY,
)

SUBSCRIPTIONS = TableSchema(
    Layer.RAW,
    "subscriptions",
    "What happened to subscriptions: starts, upgrades, renewals, cancellations, with money.",
    (
        Column("event_id", _S, "Identity of the event.", required=True),
        Column("ts", TIMESTAMP, "When it happened (UTC).", required=True),
        Column("listener_id", _S, "Whose subscription.", required=True),
        Column("event", _S, "signup, trial, upgrade, renewal, downgrade, cancel or reactivate.", required=True),
        Column("from_tier", _S, "Tier before."),
        Column("to_tier", _S, "Tier after."),
        Column("amount_minor", _I, "Money paid, in minor units (cents) of the currency; empty for none."),
        Column(
            "mrr_change_minor",
            _I,
            "What the event changes in monthly recurring revenue, in minor units: below 0 for less, 0 for nothing; empty where "
            "the source does not say.",
        ),
        Column("currency", _S, "ISO 4217 code."),
        Column("country", _S, "Country of the listener, ISO 3166-1 alpha-2."),
        Column("channel", _S, "Sales channel: web, ios, android, partner, ..."),
        Column("format", _S, "Format that the row was read from.", required=True),
    ),
    key="event_id",
    partition_by=PartitionBy.DAY,
    personal=frozenset({"listener_id"}),
)

AD_IMPRESSIONS = TableSchema(
    Layer.RAW,
    "ad_impressions",
    "One request for an advertisement, filled or not.",
    (
        Column("event_id", _S, "Identity of the request.", required=True),
        Column("ts", TIMESTAMP, "When it happened (UTC).", required=True),
        Column("listener_id", _S, "Who would have seen or heard it."),
        Column("filled", _B, "An advertisement was delivered.", required=True),
        Column("revenue_micros", _I, "Earned, in millionths of the currency; 0 when not filled."),
        Column("currency", _S, "ISO 4217 code."),
        Column("country", _S, "Country of the listener, ISO 3166-1 alpha-2."),
        Column("ad_format", _S, "audio, display or video."),
        Column("format", _S, "Format that the row was read from.", required=True),
    ),
    key="event_id",
    partition_by=PartitionBy.DAY,
    personal=frozenset({"listener_id"}),
)

API_REQUESTS = TableSchema(
    Layer.RAW,
    "api_requests",
    "One request to the service's own API.",
    (
        Column("request_id", _S, "Identity of the request.", required=True),
        Column("ts", TIMESTAMP, "When it came in (UTC).", required=True),
        Column("listener_id", _S, "Who asked, where known."),
        Column("endpoint", _S, "Route template or page, never with ids in it.", required=True),
        Column("method", _S, "HTTP method."),
        Column("status", _I, "HTTP status."),
        Column("latency_us", _I, "Microseconds until the answer; empty where not measured."),
        Column("format", _S, "Format that the row was read from.", required=True),
    ),
    key="request_id",
    partition_by=PartitionBy.DAY,
    personal=frozenset({"listener_id"}),
)

SYSTEM_SAMPLES = TableSchema(
    Layer.RAW,
    "system_samples",
    "One sample of one machine's load.",
    (
        Column("sample_id", _S, "Identity of the sample.", required=True),
        Column("ts", TIMESTAMP, "When it was taken (UTC).", required=True),
        Column("host", _S, "Machine.", required=True),
        Column("cpu_percent", _F, "Processor use, 0 to 100."),
        Column("memory_percent", _F, "Memory use, 0 to 100."),
        Column("disk_percent", _F, "Disk use, 0 to 100."),
        Column("network_bytes", _I, "Bytes sent and received since the sample before."),
        Column("db_queries", _I, "Queries that the machine's database answered since the sample before."),
        Column("db_time_us", _I, "Microseconds that these took together."),
        Column("db_slowest_us", _I, "Microseconds that the slowest of these took."),
        Column("cache_hits", _I, "Look-ups that the machine's cache answered since the sample before."),
        Column("cache_misses", _I, "Look-ups that it could not answer."),
        Column("format", _S, "Format that the row was read from.", required=True),
    ),
    key="sample_id",
    partition_by=PartitionBy.DAY,
)

INTERACTIONS = TableSchema(
    Layer.RAW,
    "interactions",
    "What listeners did to content other than playing it: saved, shared, followed, added to a playlist, and took back.",
    (
        Column("event_id", _S, "Identity of the event.", required=True),
        Column("ts", TIMESTAMP, "When it happened (UTC).", required=True),
        Column("listener_id", _S, "Who did it.", required=True),
        Column("event", _S, f"One of {', '.join(INTERACTION_EVENTS)}.", required=True),
        Column("track_id", _S, "The track it was done to, if one: as in plays."),
        Column("artist_id", _S, "The artist it was done to, or the track's: as in plays."),
        Column("playlist_id", _S, "The playlist that was added to, removed from, saved, shared or followed."),
        Column("source", _S, "Where in the product it was done: playlist, search, library, artist, radio, ..."),
        Column("channel", _S, "How it was shared or invited: link, messenger, story, embed, ..."),
        Column("country", _S, "Country of the listener at that time, ISO 3166-1 alpha-2."),
        Column("tier", _S, "premium or free at that time."),
        Column("format", _S, "Format that the row was read from.", required=True),
    ),
    key="event_id",
    partition_by=PartitionBy.DAY,
    personal=frozenset({"listener_id"}),
)

USERS = TableSchema(
    Layer.RAW,
    "users",
    "Listeners as last described by their source.",
    (
        Column("user_id", _S, "Listener.", required=True),
        Column("gender", _S, "As stated by the listener."),
        Column("age", _I, "Years, as stated."),
        Column("country", _S, "Country as the source wrote it."),
        Column("tier", _S, "premium or free."),
        Column("registered", pa.date32(), "Day of registration."),
        Column("format", _S, "Format that the row was read from.", required=True),
    ),
    key="user_id",
    partition_by=PartitionBy.NONE,
    time=None,
    personal=frozenset({"user_id", "gender", "age"}),
)

TRACKS = TableSchema(
    Layer.RAW,
    "tracks",
    "Tracks as last described by their source.",
    (
        Column("track_id", _S, "Track.", required=True),
        Column("title", _S, "Title."),
        Column("artist_id", _S, "Artist."),
        Column("artist", _S, "Artist's name."),
        Column("album", _S, "Release."),
        Column("duration_ms", _I, "Length in milliseconds."),
        Column("released", pa.date32(), "Day of release."),
        Column("isrc", _S, "International Standard Recording Code."),
        Column("genre", _S, "Main genre."),
        Column("format", _S, "Format that the row was read from.", required=True),
    ),
    key="track_id",
    partition_by=PartitionBy.NONE,
    time=None,
)

ARTISTS = TableSchema(
    Layer.RAW,
    "artists",
    "Artists as last described by their source.",
    (
        Column("artist_id", _S, "Artist.", required=True),
        Column("name", _S, "Name."),
        Column("country", _S, "Country, ISO 3166-1 alpha-2."),
        Column("genre", _S, "Main genre."),
        Column("format", _S, "Format that the row was read from.", required=True),
    ),
    key="artist_id",
    partition_by=PartitionBy.NONE,
    time=None,
)

PLAYLISTS = TableSchema(
    Layer.RAW,
    "playlists",
    "Playlists as last described by their source.",
    (
        Column("playlist_id", _S, "Playlist.", required=True),
        Column("name", _S, "Name."),
        Column("owner", _S, "Who keeps it: editorial, algorithmic or a user's id."),
        Column("followers", _I, "Followers when described."),
        Column("created", pa.date32(), "Day it was made."),
        Column("format", _S, "Format that the row was read from.", required=True),
    ),
    key="playlist_id",
    partition_by=PartitionBy.NONE,
    time=None,
)

QUARANTINE = TableSchema(
    Layer.LANDING,
    "quarantine",
    "Records that could not be taken, with everything needed to see why and to send them again.",
    (
        Column("quarantine_id", _S, "Identity: the same record of the same file has the same id.", required=True),
        Column("file", _S, "Name of the file.", required=True),
        Column("line", _I, "Record's first line in the file, counted from 1.", required=True),
        Column("field", _S, "Field that is wrong; empty when the record as a whole is."),
        Column("reason", _S, "What is wrong and what would be right.", required=True),
        Column("original", pa.binary(), "The record's bytes as they stand in the file.", required=True),
        Column("format", _S, "Format it was read as.", required=True),
        Column("arrival", _S, "The import that met it.", required=True),
        Column("arrived_at", TIMESTAMP, "When it was set aside (UTC).", required=True),
    ),
    key="quarantine_id",
    partition_by=PartitionBy.NONE,
    time=None,
)

RESTATEMENTS = TableSchema(
    Layer.LANDING,
    "restatements",
    "The ledger of published figures of closed days that changed: one row for each figure, appended and never changed.",
    (
        Column("restatement_id", _S, "Identity of the row: its batch, day, metric and dimensions.", required=True),
        Column("ts", TIMESTAMP, "When the change was noted (UTC).", required=True),
        Column("day", pa.date32(), "The day whose figure changed (UTC).", required=True),
        Column("asset", _S, "The family of metrics, for example aggregates/listening.", required=True),
        Column("metric", _S, "The declared metric.", required=True),
        Column("split_by", _S, "The dimension that the figure is of one value of; empty: the day's whole figure."),
        Column("dimensions", _S, "Its dimensions as a JSON object with sorted keys; {} is the total.", required=True),
        Column("old", _F, "The figure that was published; empty: there was none."),
        Column("new", _F, "The figure that took its place; empty: there is none any more."),
        Column("difference", _F, "New less old; empty where one of them is."),
        Column("share", _F, "The difference's size as a share of the old figure's; empty where that is 0 or was none."),
        Column("cause", _S, "late_rows, correction, erasure, policy or rerun; several are joined by +.", required=True),
        Column("batch", _S, "The materialization that changed it: its rows were noted together.", required=True),
        Column("run", _S, "Dagster's run.", required=True),
    ),
    key="restatement_id",
    partition_by=PartitionBy.MONTH,
)

DELIVERIES = TableSchema(
    Layer.QUALITY,
    "deliveries",
    "How the rows of each table came: how long they were on their way, and how old the newest one was when the day ended.",
    (
        Column("ts", TIMESTAMP, "The day (UTC, event time).", required=True),
        Column("table_name", _S, "The raw table.", required=True),
        Column("lag_ms", _I, "Milliseconds from the event to its arrival, rounded to 0.1 %; empty in a row about age."),
        Column("rows", _I, "Arrivals with that lag; 1 in a row about age.", required=True),
        Column(
            "age_ms",
            _I,
            "Milliseconds from the newest event to the end of the day, or to now on a day that is not over; empty in a row about "
            "lag.",
        ),
    ),
    key="ts",
    partition_by=PartitionBy.MONTH,
)

MODEL_SCORES = TableSchema(
    Layer.QUALITY,
    "model_scores",
    "How the models do: each forecast beside what came, and how far each series' days are from those that models learnt from.",
    (
        Column("ts", TIMESTAMP, "The day (UTC).", required=True),
        Column("figure", _S, "The KPI, with its currency where it has several.", required=True),
        Column("horizon", _I, "Days that the forecast looked ahead; empty in a row about drift."),
        Column("actual", _F, "What came."),
        Column("yhat", _F, "What was forecast; empty in a row about drift."),
        Column("within_band", _B, "Whether what came lay within the 95 % interval; empty where there was none."),
        Column("psi", _F, "Population stability index of the newest days against those before; empty in a row about a forecast."),
        Column("ks", _F, "Kolmogorov-Smirnov statistic of the same; empty in a row about a forecast."),
    ),
    key="ts",
    partition_by=PartitionBy.MONTH,
)

EVENT_TABLES = (PLAYS, METRICS, SUBSCRIPTIONS, AD_IMPRESSIONS, API_REQUESTS, SYSTEM_SAMPLES, INTERACTIONS)
CATALOGUE_TABLES = (USERS, TRACKS, ARTISTS, PLAYLISTS)
RAW_TABLES = EVENT_TABLES + CATALOGUE_TABLES
BY_NAME = {table.name: table for table in RAW_TABLES}
OWN_TABLES = (DELIVERIES, MODEL_SCORES)
"""What the platform tells of itself: written by the step that measures it."""
MEASURED = {table.name: table for table in (*EVENT_TABLES, RESTATEMENTS, *OWN_TABLES)}
"""Tables that families of metrics may be declared over, by name."""


def landing(raw: TableSchema) -> TableSchema:
    """The append-only table of arrivals behind a raw one."""
    return TableSchema(
        Layer.LANDING,
        raw.name,
        f"Arrivals for {raw.path}, appended and never changed.",
        raw.columns + ARRIVAL_COLUMNS,
        key=raw.key,
        partition_by=PartitionBy.NONE if raw.partition_by is PartitionBy.NONE else PartitionBy.MONTH,
        time=raw.time,
        personal=raw.personal,
    )
