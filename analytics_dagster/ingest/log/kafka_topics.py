"""Topics that others write: JSON points or plays, one object or array a message, consumed as the log is.

A message or row that cannot be taken goes to quarantine, with topic, partition and offset for its file, before anything behind it
is handed on: so the position may pass it, and reading again sets nothing aside twice.
"""

from __future__ import annotations

import datetime as dt
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from analytics_dagster.clock import Clock
from analytics_dagster.errors import SettingsError, UserError
from analytics_dagster.ingest.landing import Landing, Refused
from analytics_dagster.ingest.log.interface import PLAYS, POINTS, Batch
from analytics_dagster.ingest.log.kafka import KafkaAddress, KafkaMessage, PartitionReader
from analytics_dagster.ingest.log.kafka_frames import decode_frame, frames
from analytics_dagster.ingest.points import (
    PLAY_ROWS,
    POINT_ROWS,
    Admission,
    RefusedValueError,
    RowRefusal,
    SeriesTable,
    WriteScope,
)
from analytics_dagster.ingest.wire.json_plays import parse_plays
from analytics_dagster.ingest.wire.json_points import parse_json
from analytics_dagster.lake.database import Database
from analytics_dagster.lake.lake import Lake
from analytics_dagster.settings import Settings
from analytics_dagster.tenancy.tenants import Tenants, TenantStatus, validate_tenant_id

_LOG = logging.getLogger(__name__)

UNASSIGNED = "unassigned"
"""Whose quarantine takes what names no tenant that is known; imports use the same."""

_FORMAT = "kafka"
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)
# Messages that are read before what is bad among them is set aside, in one write, and the others are handed on.
_MESSAGES_AT_ONCE = 1_000
_NO_LIMIT = 2**62
_EMPTY = {POINTS: POINT_ROWS.empty_table(), PLAYS: PLAY_ROWS.empty_table()}


@dataclass(frozen=True)
class ForeignTopic:
    """One entry of ANALYTICS_KAFKA_TOPICS. `tenant` None: each record names its own."""

    table: str
    address: KafkaAddress
    tenant: str | None


def foreign_topics(text: str, home: KafkaAddress | None) -> Sequence[ForeignTopic]:
    """`table=topic@tenant`, comma separated. A topic elsewhere than the log's brokers is written `broker:9092/topic`.

    Raises SettingsError for what is not so, and for a topic that is there twice or is the log's own: positions are by topic.
    """
    found = [_foreign_topic(entry.strip(), home) for entry in text.split(",") if entry.strip()]
    names = [topic.address.topic for topic in found] + ([home.topic] if home else [])
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise SettingsError(
            f"ANALYTICS_KAFKA_TOPICS names topic {twice[0]} twice, or it is the log's own; a topic is consumed once"
        )
    return found


def _foreign_topic(entry: str, home: KafkaAddress | None) -> ForeignTopic:
    table, equals, rest = entry.partition("=")
    where, _, tenant = rest.partition("@")
    brokers, _, topic = where.rpartition("/")
    if table not in _EMPTY or not equals or not topic:
        raise SettingsError(f"ANALYTICS_KAFKA_TOPICS: {entry!r} is not allowed: write metrics=topic@tenant or plays=topic")
    if brokers:
        return ForeignTopic(table, KafkaAddress(brokers, topic), validate_tenant_id(tenant) if tenant else None)
    if home is None:
        raise SettingsError(
            f"ANALYTICS_KAFKA_TOPICS: {entry!r} names no broker and neither does ANALYTICS_LOG; write {table}=broker:9092/{topic}"
        )
    return ForeignTopic(table, KafkaAddress(home.brokers, topic, home.options), validate_tenant_id(tenant) if tenant else None)


@dataclass(frozen=True)
class _TopicScope(WriteScope):
    """Which tenants a topic's rows may be of. One that is not registered, or not active, is a mistake of its row alone."""

    statuses: Mapping[str, TenantStatus] = field(default_factory=dict)

    def resolve(self, named: str | None) -> str:
        tenant = named or self.default
        if not tenant:
            raise RefusedValueError("tenant_id", "", "is missing; the topic is not one tenant's (table=topic@tenant)")
        if self.default is not None and tenant != self.default:
            raise RefusedValueError("tenant_id", tenant, f"is not the topic's tenant {self.default}")
        status = self.statuses.get(tenant)
        if status is not TenantStatus.ACTIVE:
            told = f"is {status} and takes no data" if status else "is not registered; `analytics tenant add` registers it"
            raise RefusedValueError("tenant_id", tenant, told)
        return tenant


class Store:
    """The parts of an installation that refusing needs, opened for as long as it takes."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._settings, self.clock = settings, clock

    @property
    def skew_us(self) -> int:
        return self._settings.analytics_future_skew * 1_000_000

    def statuses(self) -> Mapping[str, TenantStatus]:
        """The register of tenants."""
        database = Database(self._settings.database_url)
        try:
            return {record.tenant: record.status for record in Tenants(database, self.clock).records()}
        finally:
            database.dispose()

    def set_aside(self, tenant: str, refused: Sequence[Refused]) -> None:
        """Keep what was refused; the same message's once."""
        database = Database(self._settings.database_url)
        try:
            lake = Lake(self._settings.lake_root, self._settings.analytics_home / "locks")
            if tenant == UNASSIGNED:
                Tenants(database, self.clock).ensure(tenant)
            new = Landing(lake, database, self.clock).quarantine(tenant, refused, refused[0].file, _FORMAT)
        finally:
            database.dispose()
        if new:
            _LOG.warning("%d records of %s and later were refused and are in the quarantine of %s", new, refused[0].file, tenant)


@dataclass
class _Taken:
    """What some messages hold: batches to hand on, and what is to be set aside first."""

    batches: list[Batch] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    rows: int = 0


class RefusingSource(ABC):
    """Implements LogSource over a partition whose messages may be bad. Subclasses say what a message is."""

    def __init__(self, reader: PartitionReader, store: Store, table: str, tenant: str | None) -> None:
        self._reader, self._store = reader, store
        self._table, self._home = table, tenant or UNASSIGNED
        self._tenant = tenant

    @property
    def name(self) -> str:
        """Identity for ever: `kafka/points/3`."""
        return self._reader.name

    def end(self) -> int:
        """Position behind the newest message, 0 for none."""
        return self._reader.end()

    def read(self, after: int, max_rows: int) -> Iterator[Batch]:
        """What the messages behind `after` hold; one of which nothing can be taken is an empty batch, so that it is passed."""
        messages = self._reader.messages(after)
        self._prepare()
        given = 0
        while given < max_rows and (taken := self._some(messages, max_rows - given)).batches:
            if taken.refused:
                self._store.set_aside(self._home, taken.refused)
            yield from taken.batches
            given += taken.rows

    def release(self, through: int) -> None:
        """Kafka drops messages by the topic's own retention; the position is shown to those who watch the group."""
        self._reader.note_consumed(through)

    def _some(self, messages: Iterator[KafkaMessage], most_rows: int) -> _Taken:
        taken = _Taken()
        for message in messages:
            batch, refused = self._taken(message)
            file = f"{self._reader.place}/{message.position - 1}"
            taken.refused += [Refused(file, row.index + 1, row.field, row.reason, row.original) for row in refused]
            taken.batches.append(batch)
            taken.rows += batch.rows.num_rows
            if taken.rows >= most_rows or len(taken.batches) >= _MESSAGES_AT_ONCE:
                break
        return taken

    @abstractmethod
    def _prepare(self) -> None:
        """Called once before each reading."""

    @abstractmethod
    def _taken(self, message: KafkaMessage) -> tuple[Batch, Sequence[RowRefusal]]:
        """A message's rows, and those of them that are refused."""


class LogTopicSource(RefusingSource):
    """A partition of the log's own topic. What no log of ours wrote there stops nobody else's points."""

    def _prepare(self) -> None:
        """Nothing: a frame holds its own series."""

    def _taken(self, message: KafkaMessage) -> tuple[Batch, Sequence[RowRefusal]]:
        if message.value is None:
            return _nothing(message, POINTS), ()
        try:
            return Batch(message.position, *decode_frame(message.value)), ()
        except ValueError as error:
            return _nothing(message, POINTS), [RowRefusal(0, None, "", f"the message {error}", message.value)]


class ForeignTopicSource(RefusingSource):
    """A partition of a topic that others write."""

    def _prepare(self) -> None:
        self._series = SeriesTable()
        self._scope = _TopicScope(self._tenant, frozenset(), self._store.statuses())
        self._now = (self._store.clock.now() - _EPOCH) // _MICROSECOND

    def _taken(self, message: KafkaMessage) -> tuple[Batch, Sequence[RowRefusal]]:
        nothing = _nothing(message, self._table)
        if message.value is None:
            return nothing, ()
        # What is refused as too new must be so when it is read again: the message's own time does not pass.
        now = self._now if message.written_us is None else min(message.written_us, self._now)
        admission = Admission(self._series, self._scope, now + self._store.skew_us)
        try:
            if self._table == PLAYS:
                plays = parse_plays(message.value, admission)
                return Batch(message.position, PLAYS, plays.plays.rows), plays.refused
            parsed = parse_json(message.value, admission, now)
        except UserError as error:
            return nothing, [RowRefusal(0, None, "", str(error), message.value)]
        if not len(parsed.points):
            return nothing, parsed.refused
        return Batch(message.position, *decode_frame(frames([parsed.points], _NO_LIMIT)[0])), parsed.refused


def _nothing(message: KafkaMessage, table: str) -> Batch:
    """Passes a message of which no row is taken."""
    return Batch(message.position, table, _EMPTY[table])
