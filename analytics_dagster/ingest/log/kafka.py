"""Kafka in place of the embedded log: `ANALYTICS_LOG=kafka://broker:9092[,broker:9092]/topic`.

Messages carry the frames that the embedded log writes, each with the series it needs. A position is an offset plus one, and is
stored by whoever consumes, with the rows, in one transaction: a group's committed offsets are kept for monitoring only.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

from analytics_dagster.clock import Clock, SystemClock
from analytics_dagster.errors import IntegrityError, LogFullError, RetryableError, SettingsError
from analytics_dagster.ingest.log.interface import LogSource
from analytics_dagster.ingest.log.kafka_frames import frames
from analytics_dagster.ingest.points import Plays, Points
from analytics_dagster.settings import Settings

if TYPE_CHECKING:
    from confluent_kafka import Consumer, KafkaError, Message, Producer

_LOG = logging.getLogger(__name__)

# Room for what stands around a frame in its message, and in what the broker counts.
_MESSAGE_OVERHEAD = 4_096
_DEFAULT_MESSAGE_BYTES = 1_000_000
_MAX_WAITING_BYTES = 64 * 2**20
_POINT_BYTES = 20
# Rows of different requests in one group, and groups that wait for the brokers at once: while they do, the next one gathers.
_GROUP_ROWS = 100_000
_GROUPS_UNDER_WAY = 4
_DELIVERY_SECONDS = 30
_BROKER_SECONDS = 10.0
# What a consumer fetches ahead of its reader.
_AHEAD_KIB = 16 * 1_024
# Of the settings in the URL, those that a consumer does not know.
_PRODUCER_ONLY = frozenset(
    {
        "batch.num.messages", "batch.size", "compression.codec", "compression.level", "compression.type", "linger.ms",
        "message.send.max.retries", "message.timeout.ms", "delivery.timeout.ms", "queue.buffering.max.kbytes",
        "queue.buffering.max.messages", "queue.buffering.max.ms", "request.required.acks", "request.timeout.ms", "retries",
        "sticky.partitioning.linger.ms",
    }
)  # fmt: skip


@dataclass(frozen=True)
class KafkaAddress:
    """A topic and how to reach its brokers. Further settings of librdkafka come as the URL's parameters."""

    brokers: str
    topic: str
    options: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, url: str) -> KafkaAddress:
        """Raises SettingsError saying what is missing, without showing the parameters, which may hold a password."""
        parts = urlsplit(url)
        topic = parts.path.strip("/")
        if parts.scheme != "kafka" or not parts.netloc or not topic or "/" in topic:
            shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
            raise SettingsError(f"ANALYTICS_LOG={shown} is not allowed: write kafka://broker:9092[,broker:9092]/topic")
        return cls(parts.netloc, topic, tuple(parse_qsl(parts.query)))

    @property
    def message_bytes(self) -> int:
        return int(dict(self.options).get("message.max.bytes", _DEFAULT_MESSAGE_BYTES))

    def config(self, usual: Mapping[str, object], fixed: Mapping[str, object]) -> dict[str, Any]:
        """The configuration (of librdkafka) for a client: what is usual, what the URL says, and what nobody may change."""
        return {"logger": _LOG, **usual, **dict(self.options), **fixed, "bootstrap.servers": self.brokers}


@dataclass
class _Group:
    """Requests that go out together; they are done when all their messages are."""

    rows: list[Points | Plays]
    futures: list[Future[None]]
    size: int
    left: int = 1
    error: Exception | None = None
    settled: bool = False


class KafkaLog:
    """Implements IngestLog over a topic: an idempotent producer, acknowledged by all replicas in sync."""

    def __init__(self, address: KafkaAddress, *, max_waiting_bytes: int = _MAX_WAITING_BYTES) -> None:
        """Raises SettingsError for what librdkafka does not take. Brokers that are down are noticed by the first append."""
        self._address = address
        self._max_waiting = max_waiting_bytes
        # The last is the one in use; one that failed for good stays until it has told so of each message.
        self._producers = [_producer(address)]
        self._failed: Producer | None = None
        self._queue: deque[tuple[Points | Plays, Future[None], int]] = deque()
        self._waiting_bytes = self._under_way = 0
        self._closing = self._stopped = False
        self._changed = threading.Condition()
        self._sender = threading.Thread(target=self._send_all, name="kafka-log", daemon=True)
        self._poller = threading.Thread(target=self._poll_all, name="kafka-acknowledgements", daemon=True)
        self._sender.start()
        self._poller.start()

    @classmethod
    def from_url(cls, settings: Settings, _clock: Clock) -> KafkaLog:
        """The log that ANALYTICS_LOG names. Raises SettingsError, also when the client library is not installed."""
        return cls(KafkaAddress.parse(settings.analytics_log or ""))

    def append(self, rows: Points | Plays) -> Future[None]:
        """Take rows; the future is done when all replicas in sync have them.

        Raises LogFullError, before anything is taken, while the brokers are slower than what comes in, or away.
        """
        size = _POINT_BYTES * len(rows) if isinstance(rows, Points) else int(rows.rows.nbytes)
        future: Future[None] = Future()
        future.set_running_or_notify_cancel()
        if not len(rows):
            future.set_result(None)
            return future
        with self._changed:
            if self._closing:
                raise LogFullError("the log is closed; nothing was accepted")
            if self._waiting_bytes and self._waiting_bytes + size > self._max_waiting:
                raise LogFullError(
                    f"{self._waiting_bytes:,} bytes wait for {self._address.brokers} to acknowledge them; nothing was accepted: "
                    "see whether the brokers are up",
                    retry_after=1.0,
                )
            self._waiting_bytes += size
            self._queue.append((rows, future, size))
            self._changed.notify_all()
        return future

    def close(self) -> None:
        """Send what waits, wait for its acknowledgement and let go."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._sender.join()
        with self._changed:
            # Every message is delivered or given up after _DELIVERY_SECONDS, so this ends.
            self._changed.wait_for(lambda: not self._under_way)
            self._stopped = True
        self._poller.join()

    def _poll_all(self) -> None:
        """Acknowledgements come only while somebody asks for them."""
        while not self._stopped:
            *failed, current = self._producers
            current.poll(0.1)
            for producer in failed:
                producer.poll(0)
                if not len(producer):
                    self._producers.remove(producer)

    def _send_all(self) -> None:
        while (group := self._next_group()) is not None:
            try:
                messages = frames(group.rows, self._address.message_bytes - _MESSAGE_OVERHEAD)
                group.left = len(messages)
                for message in messages:
                    self._produce(message, group)
            except Exception as error:  # a caller waits for each future, and this thread must live on for the next group
                self._settle(group, group.left, error)

    def _next_group(self) -> _Group | None:
        """What has gathered, at least one request; None when the log is closed and all is sent."""
        with self._changed:
            self._changed.wait_for(
                lambda: (self._queue and self._under_way < _GROUPS_UNDER_WAY) or (self._closing and not self._queue)
            )
            if not self._queue:
                return None
            group = _Group([], [], 0)
            count = 0
            while self._queue and (not count or count + len(self._queue[0][0]) <= _GROUP_ROWS):
                rows, future, size = self._queue.popleft()
                group.rows.append(rows)
                group.futures.append(future)
                group.size += size
                count += len(rows)
            self._under_way += 1
            return group

    def _produce(self, message: bytes, group: _Group) -> None:
        deadline = time.monotonic() + _DELIVERY_SECONDS
        library = client_library()
        while True:
            producer = self._working()
            try:
                producer.produce(self._address.topic, message, on_delivery=partial(self._delivered, producer, group))
                return
            except library.KafkaException as error:
                if error.args[0].code() != library.KafkaError._FATAL or time.monotonic() > deadline:
                    raise
                self._failed = producer
            except BufferError:
                # librdkafka's own queue is full; the poller empties it.
                if time.monotonic() > deadline:
                    raise LogFullError("the brokers take nothing; see whether they are up", retry_after=5.0) from None
                time.sleep(0.01)

    def _working(self) -> Producer:
        """The producer in use, a new one in place of one that failed for good. Raises LogFullError when none can be made."""
        if self._producers[-1] is self._failed:
            _LOG.error("the Kafka producer failed for good; beginning a new one")
            try:
                self._producers.append(_producer(self._address))
            except Exception as error:  # whatever it is, nothing was accepted, and the next group tries again
                raise LogFullError(
                    f"no new Kafka producer can be made ({error}); nothing was accepted: see to the brokers"
                ) from error
        return self._producers[-1]

    def _delivered(self, producer: Producer, group: _Group, error: KafkaError | None, _message: Message) -> None:
        failure = None
        if error is not None:
            failure = LogFullError(
                f"{self._address.topic} at {self._address.brokers} did not take the rows: {error.str()}; see to the brokers"
            )
            if error.fatal() and producer is self._producers[-1]:
                # The sender makes the new one: what that raises would end this thread, and with it every acknowledgement.
                _LOG.error("the Kafka producer failed for good: %s", error.str())
                self._failed = producer
        self._settle(group, 1, failure)

    def _settle(self, group: _Group, messages: int, error: Exception | None) -> None:
        with self._changed:
            group.error = group.error or error
            group.left -= messages
            if group.left > 0 or group.settled:
                return
            group.settled = True
            self._under_way -= 1
            self._waiting_bytes -= group.size
            self._changed.notify_all()
        for future in group.futures:
            if group.error is None:
                future.set_result(None)
            else:
                # Each its own: raising sets the traceback of the very object.
                future.set_exception(copy(group.error))


class Consumers:
    """Consumers of one cluster, each used by one reader at a time; they are made when needed and kept."""

    def __init__(self, address: KafkaAddress) -> None:
        self._address = address
        self._idle: list[Consumer] = []

    @contextmanager
    def one(self) -> Iterator[Consumer]:
        """Borrow a consumer. Raises RetryableError when the brokers cannot be reached."""
        library = client_library()
        try:
            consumer = self._idle.pop()
        except IndexError:
            consumer = _consumer(self._address)
        try:
            yield consumer
        except library.KafkaException as error:
            raise RetryableError(f"Kafka at {self._address.brokers} does not answer: {error.args[0]}") from error
        finally:
            consumer.unassign()
            self._idle.append(consumer)


class KafkaMessage(NamedTuple):
    """One message. `written_us` is the time that Kafka has for it."""

    position: int
    value: bytes | None
    """None for a message without one, and where a position ends offsets that hold no message."""
    written_us: int | None


class PartitionReader:
    """The messages of one partition behind a position, read by assignment: nobody else's offsets count."""

    def __init__(self, consumers: Consumers, topic: str, partition: int) -> None:
        self._consumers, self._topic, self._partition = consumers, topic, partition

    @property
    def name(self) -> str:
        """`kafka/points/3`."""
        return f"kafka/{self.place}"

    @property
    def place(self) -> str:
        """`points/3`."""
        return f"{self._topic}/{self._partition}"

    def end(self) -> int:
        """Position of the newest message that is committed, 0 for none."""
        with self._consumers.one() as consumer:
            return self._bounds(consumer)[1]

    def messages(self, after: int) -> Iterator[KafkaMessage]:
        """Each message behind position `after` that is there now, oldest first.

        Raises RetryableError when the brokers stop answering, IntegrityError when the topic ends before `after`.
        """
        with self._consumers.one() as consumer:
            first, end = self._bounds(consumer)
            if after > end:
                raise IntegrityError(
                    f"{self.name} ends at {end}, but was consumed up to {after}: the topic was made anew; use one of another name"
                )
            if 0 < after < first:
                _LOG.error("%s begins at %d: messages %d to %d expired before they were consumed", self.name, first, after, first)
            if after >= end:
                return
            consumer.assign([client_library().TopicPartition(self._topic, self._partition, max(after, first))])
            yield from self._until(consumer, end)

    def note_consumed(self, through: int) -> None:
        """Commit the offset to the group, for those who watch its lag. Nothing reads it back."""
        library = client_library()
        try:
            with self._consumers.one() as consumer:
                consumer.commit(offsets=[library.TopicPartition(self._topic, self._partition, through)], asynchronous=True)
        except RetryableError as error:
            _LOG.warning("the offset of %s could not be committed for monitoring: %s", self.name, error)

    def _bounds(self, consumer: Consumer) -> tuple[int, int]:
        partition = client_library().TopicPartition(self._topic, self._partition)
        first, end = consumer.get_watermark_offsets(partition, timeout=_BROKER_SECONDS, cached=False)
        return int(first), int(end)

    def _until(self, consumer: Consumer, end: int) -> Iterator[KafkaMessage]:
        library = client_library()
        heard = time.monotonic()
        while True:
            message = consumer.poll(0.2)
            if message is None:
                if time.monotonic() - heard > _BROKER_SECONDS:
                    raise RetryableError(f"{self.name}: no message came for {_BROKER_SECONDS:.0f} s, though there are some")
                continue
            heard = time.monotonic()
            error = message.error()
            if error is None:
                kind, milliseconds = message.timestamp()
                written = None if kind == library.TIMESTAMP_NOT_AVAILABLE else milliseconds * 1_000
                position = (message.offset() or 0) + 1
                yield KafkaMessage(position, message.value(), written)
                if position >= end:
                    return
            elif error.code() == library.KafkaError._PARTITION_EOF:
                # The last offsets belong to transactions, or to messages that were compacted away.
                yield KafkaMessage(end, None, None)
                return
            else:
                raise RetryableError(f"{self.name}: {error.str()}")


def kafka_sources(settings: Settings, clock: Clock | None = None) -> list[LogSource]:
    """A source for each partition of the log's topic, if the log is on Kafka, and of each of ANALYTICS_KAFKA_TOPICS.

    Raises SettingsError, and RetryableError when the brokers cannot be reached.
    """
    from analytics_dagster.ingest.log.interface import POINTS
    from analytics_dagster.ingest.log.kafka_topics import ForeignTopicSource, LogTopicSource, Store, foreign_topics

    home = KafkaAddress.parse(settings.analytics_log) if settings.analytics_log else None
    store = Store(settings, clock or SystemClock())
    found: list[LogSource] = []
    if home is not None:
        own = consumers_of(home, os.getpid())
        found += [LogTopicSource(reader, store, POINTS, None) for reader in partition_readers(own, home.topic)]
    for topic in foreign_topics(settings.analytics_kafka_topics or "", home):
        others = consumers_of(topic.address, os.getpid())
        readers = partition_readers(others, topic.address.topic)
        found += [ForeignTopicSource(reader, store, topic.table, topic.tenant) for reader in readers]
    return found


@lru_cache(maxsize=16)
def consumers_of(address: KafkaAddress, _process: int) -> Consumers:
    """The process' consumers of a topic: connecting anew for each round would cost more than reading. Never a parent's."""
    return Consumers(address)


def partition_readers(consumers: Consumers, topic: str) -> Sequence[PartitionReader]:
    """A reader for each partition of a topic, none while it does not exist. Raises RetryableError."""
    return [PartitionReader(consumers, topic, partition) for partition in partitions(consumers, topic)]


def partitions(consumers: Consumers, topic: str) -> Sequence[int]:
    """The partitions of a topic, none while it does not exist. Raises RetryableError."""
    with consumers.one() as consumer:
        found = consumer.list_topics(topic, timeout=_BROKER_SECONDS).topics[topic]
    return sorted(found.partitions)


def client_library() -> Any:
    """confluent_kafka. Raises SettingsError saying how to install it."""
    try:
        import confluent_kafka
    except ImportError:
        raise SettingsError(
            "ANALYTICS_LOG or ANALYTICS_KAFKA_TOPICS names Kafka, whose client is not installed: "
            "pip install analytics-dagster[kafka]"
        ) from None
    return confluent_kafka


def _producer(address: KafkaAddress) -> Producer:
    usual = {"compression.type": "lz4", "linger.ms": 0, "message.timeout.ms": _DELIVERY_SECONDS * 1_000}
    library = client_library()
    try:
        made: Producer = library.Producer(address.config(usual, {"enable.idempotence": True, "acks": "all"}))
    except library.KafkaException as error:
        raise _not_allowed(address, error) from None
    return made


def _consumer(address: KafkaAddress) -> Consumer:
    usual = {"group.id": f"analytics-{address.topic}", "fetch.wait.max.ms": 100, "queued.max.messages.kbytes": _AHEAD_KIB}
    fixed = {
        "enable.auto.commit": False,
        "enable.partition.eof": True,
        "auto.offset.reset": "earliest",
        "isolation.level": "read_committed",
        "allow.auto.create.topics": False,
    }
    library = client_library()
    known = tuple((key, value) for key, value in address.options if key not in _PRODUCER_ONLY)
    try:
        made: Consumer = library.Consumer(KafkaAddress(address.brokers, address.topic, known).config(usual, fixed))
    except library.KafkaException as error:
        raise _not_allowed(address, error) from None
    return made


def _not_allowed(address: KafkaAddress, error: Exception) -> SettingsError:
    return SettingsError(f"ANALYTICS_LOG: librdkafka does not take the settings of topic {address.topic}: {error.args[0].str()}")
