"""The log on Kafka, and topics that others write, against librdkafka's own broker, which speaks the real protocol."""

from __future__ import annotations

import datetime as dt
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from analytics_dagster import AnalyticsMetric, LocalEngine
from analytics_dagster.clock import ManualClock
from analytics_dagster.errors import LogFullError, SettingsError
from analytics_dagster.ingest.consume import consume
from analytics_dagster.ingest.log import kafka
from analytics_dagster.ingest.log.interface import PLAYS, POINTS, Batch, LogSource
from analytics_dagster.ingest.log.kafka import KafkaAddress, KafkaLog, kafka_sources
from analytics_dagster.ingest.log.kafka_frames import decode_frame, frames
from analytics_dagster.ingest.log.kafka_topics import foreign_topics
from analytics_dagster.ingest.log.open import open_log, open_sources
from analytics_dagster.ingest.points import Plays, Points, SeriesTable
from analytics_dagster.ingest.wire.json_plays import play_rows
from analytics_dagster.installation import Installation, open_installation
from analytics_dagster.lake import schemas
from analytics_dagster.settings import Settings

NOW_US = 1_773_122_400_000_000  # the clock fixture's
PATIENCE = 60.0


@pytest.fixture(scope="module")
def brokers() -> Iterator[str]:
    """Address of a cluster of one broker, which lives as long as the client that made it."""
    owner = Producer({"test.mock.num.brokers": 1, "bootstrap.servers": "", "log_level": 0})
    found = owner.list_topics(timeout=PATIENCE).brokers.values()
    yield ",".join(f"{broker.host}:{broker.port}" for broker in found)
    owner.flush(PATIENCE)


@pytest.fixture
def topic(request: pytest.FixtureRequest) -> str:
    """A topic of the test's own."""
    return f"t-{abs(hash(request.node.nodeid)):x}"


Open = Callable[..., Installation]


@pytest.fixture
def opened(home: Path, clock: ManualClock) -> Iterator[Open]:
    """Opens an installation with further settings."""
    made: list[Installation] = []

    def open_with(**settings: Any) -> Installation:
        installation = open_installation(Settings.from_environment(home, settings), clock, create=True)
        installation.tenants.register_defaults()
        made.append(installation)
        return installation

    yield open_with
    for installation in made:
        installation.database.dispose()


def _points(*rows: tuple[str, str, int, float], table: SeriesTable | None = None) -> Points:
    """Rows of tenant, name, seconds before now, value."""
    table = table or SeriesTable()
    series = [table.number(tenant, "gauge", name, '{"region":"eu"}') for tenant, name, _, _ in rows]
    ts = [NOW_US - ago * 1_000_000 for _, _, ago, _ in rows]
    return Points(table, np.array(series, np.int32), np.array(ts, np.int64), np.array([v for *_, v in rows], np.float64))


def _everything(sources: Sequence[LogSource]) -> list[tuple[str, Batch]]:
    return [(source.name, batch) for source in sources for batch in source.read(0, 10**9)]


def _rows(sources: Sequence[LogSource]) -> list[dict[str, Any]]:
    return [row for _, batch in _everything(sources) for row in batch.rows.to_pylist()]


def _send(brokers: str, topic: str, *messages: bytes, at_ms: int = NOW_US // 1_000) -> None:
    producer = Producer({"bootstrap.servers": brokers})
    for message in messages:
        producer.produce(topic, message, partition=0, timestamp=at_ms)
    assert producer.flush(PATIENCE) == 0


# --- the log itself


def test_acknowledged_points_are_read_back_once_and_in_whole_batches(brokers: str, topic: str, opened: Open) -> None:
    installation = opened(analytics_log=f"kafka://{brokers}/{topic}")
    log = open_log(installation.settings, installation.clock, "local")
    table = SeriesTable()
    futures = [log.append(_points(("default", "cpu", i, float(i)), table=table)) for i in range(500)]
    for future in futures:
        future.result(PATIENCE)
    log.close()
    read = _rows(open_sources(installation.settings))
    assert sorted(row["value"] for row in read) == [float(i) for i in range(500)]
    assert {(row["tenant"], row["name"], row["type"], row["labels"]) for row in read} == {
        ("default", "cpu", "gauge", '{"region":"eu"}')
    }


def test_a_position_is_an_offset_plus_one_and_reading_goes_on_behind_it(brokers: str, topic: str, opened: Open) -> None:
    installation = opened(analytics_log=f"kafka://{brokers}/{topic}")
    log = open_log(installation.settings, installation.clock, "local")
    for i in range(6):
        log.append(_points(("default", "cpu", i, float(i)))).result(PATIENCE)
    log.close()
    for source in open_sources(installation.settings):
        batches = list(source.read(0, 10**9))
        assert [batch.position for batch in batches] == list(range(1, source.end() + 1))
        for batch in batches:
            assert [later.position for later in source.read(batch.position, 10**9)] == [
                b.position for b in batches if b.position > batch.position
            ]
        assert [batch.position for batch in source.read(0, 1)] == [b.position for b in batches[:1]]


def test_rows_larger_than_a_message_may_be_go_in_several(brokers: str, topic: str, opened: Open) -> None:
    installation = opened(analytics_log=f"kafka://{brokers}/{topic}?message.max.bytes=20000")
    log = open_log(installation.settings, installation.clock, "local")
    many = _points(*[("default", f"m{i % 50}", i, float(i)) for i in range(5_000)])
    log.append(many).result(PATIENCE)
    log.close()
    found = _everything(open_sources(installation.settings))
    assert len(found) > 5
    assert sorted(v for _, batch in found for v in batch.rows.column("value").to_pylist()) == [float(i) for i in range(5_000)]


def test_plays_and_points_share_a_topic(brokers: str, topic: str, opened: Open) -> None:
    installation = opened(analytics_log=f"kafka://{brokers}/{topic}")
    log = open_log(installation.settings, installation.clock, "local")
    names = [column.name for column in schemas.PLAYS.columns]
    play = tuple({"play_id": "p1", "ts": NOW_US, "track": "Wüste", "format": "plays"}.get(name) for name in names)
    log.append(Plays(play_rows([("tenant_123", *play)]))).result(PATIENCE)
    log.append(_points(("default", "cpu", 1, 1.0))).result(PATIENCE)
    log.close()
    by_table = {batch.table: batch.rows.to_pylist() for _, batch in _everything(open_sources(installation.settings))}
    assert [(row["tenant"], row["track"]) for row in by_table[PLAYS]] == [("tenant_123", "Wüste")]
    assert [row["value"] for row in by_table[POINTS]] == [1.0]


def test_what_is_consumed_is_landed_once_however_often_it_is_consumed(brokers: str, topic: str, opened: Open) -> None:
    installation = opened(analytics_log=f"kafka://{brokers}/{topic}")
    log = open_log(installation.settings, installation.clock, "local")
    log.append(_points(*[("default", "cpu", i, float(i)) for i in range(100)])).result(PATIENCE)
    assert consume(installation).points == 100
    assert consume(installation).points == 0
    log.append(_points(("tenant_123", "cpu", 1, 7.0))).result(PATIENCE)
    log.close()
    assert consume(installation).tenants == frozenset({"tenant_123"})
    landed = installation.lake.tenant("default").table(schemas.landing(schemas.METRICS)).read()
    assert sorted(landed.column("value").to_pylist()) == [float(i) for i in range(100)]


def test_a_program_records_into_the_topic_and_its_point_is_landed(brokers: str, topic: str, opened: Open) -> None:
    installation = opened(analytics_log=f"kafka://{brokers}/{topic}")
    with LocalEngine(settings=installation.settings, clock=installation.clock) as engine:
        engine.record_metrics_sync([AnalyticsMetric("cpu", n, installation.clock.now()) for n in range(3)])
    assert consume(installation).points == 3
    assert not (installation.settings.analytics_home / "log").exists()


def test_the_groups_offset_follows_what_is_consumed_for_those_who_watch_its_lag(brokers: str, topic: str, opened: Open) -> None:
    installation = opened(analytics_log=f"kafka://{brokers}/{topic}")
    log = open_log(installation.settings, installation.clock, "local")
    log.append(_points(("default", "cpu", 1, 1.0))).result(PATIENCE)
    log.close()
    assert consume(installation).points == 1
    watcher = Consumer({"bootstrap.servers": brokers, "group.id": f"analytics-{topic}"})
    wanted = {source.name: source.end() for source in open_sources(installation.settings)}
    for _ in range(200):
        found = watcher.committed([TopicPartition(topic, partition) for partition in range(len(wanted))], timeout=PATIENCE)
        if {f"kafka/{topic}/{p.partition}": max(0, p.offset) for p in found} == wanted:
            break
        threading.Event().wait(0.05)
    else:
        pytest.fail(f"the group is at {found}, the topic at {wanted}")
    watcher.close()


def test_brokers_that_are_away_are_a_full_log_and_no_loss(topic: str) -> None:
    log = KafkaLog(KafkaAddress.parse(f"kafka://127.0.0.1:1/{topic}?message.timeout.ms=300"), max_waiting_bytes=1_000)
    first = log.append(_points(("default", "cpu", 1, 1.0)))
    many = _points(*[("default", "cpu", i, 1.0) for i in range(100)])
    with pytest.raises(LogFullError, match="nothing was accepted"):
        log.append(many)
    with pytest.raises(LogFullError, match="did not take the rows"):
        first.result(PATIENCE)
    log.close()
    with pytest.raises(LogFullError, match="closed"):
        log.append(_points(("default", "cpu", 1, 1.0)))


def test_writers_learn_that_a_producer_failed_for_good_and_the_next_one_takes_rows(
    brokers: str, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Dying:
        """A producer as it is after an error for which only a new one helps; librdkafka makes none of those on request."""

        def __init__(self) -> None:
            self.told: list[Callable[[KafkaError, None], None]] = []

        def produce(self, _topic: str, _message: bytes, on_delivery: Callable[[KafkaError, None], None]) -> None:
            self.told.append(on_delivery)

        def poll(self, _seconds: float) -> None:
            while self.told:
                self.told.pop()(KafkaError(KafkaError._FATAL, "fenced", fatal=True), None)

        def __len__(self) -> int:
            return len(self.told)

    def none(_: KafkaAddress) -> Producer:
        raise SettingsError("no producer")

    with monkeypatch.context() as patched:
        patched.setattr(kafka, "_producer", lambda _: Dying())
        log = KafkaLog(KafkaAddress.parse(f"kafka://{brokers}/{topic}"))
        patched.setattr(kafka, "_producer", none)
        with pytest.raises(LogFullError, match="fenced"):
            log.append(_points(("default", "cpu", 1, 1.0))).result(PATIENCE)
        with pytest.raises(LogFullError, match="no producer"):
            log.append(_points(("default", "cpu", 1, 1.0))).result(PATIENCE)
    log.append(_points(("default", "cpu", 1, 1.0))).result(PATIENCE)
    log.close()


def test_a_message_that_no_log_wrote_is_set_aside_and_passed(brokers: str, topic: str, opened: Open) -> None:
    installation = opened(analytics_log=f"kafka://{brokers}/{topic}")
    _send(brokers, topic, b"hello", b"ADP1\x05")
    assert consume(installation).points == 0
    aside = installation.landing.quarantined("unassigned").to_pylist()
    assert sorted((row["file"], row["original"]) for row in aside) == [(f"{topic}/0/0", b"hello"), (f"{topic}/0/1", b"ADP1\x05")]
    [first] = [source for source in open_sources(installation.settings) if source.name.endswith("/0")]
    assert [batch.position for batch in first.read(0, 10)] == [1, 2]
    assert installation.landing.quarantined("unassigned").num_rows == 2


@pytest.mark.parametrize(
    "url", ["kafka://broker:9092", "kafka:///points", "kafka://broker:9092/a/b", "kafka://broker:9092/t?no.such.setting=1"]
)
def test_an_address_that_is_none_is_refused_by_name(url: str) -> None:
    with pytest.raises(SettingsError, match="ANALYTICS_LOG"):
        KafkaLog(KafkaAddress.parse(url))


def test_a_password_in_an_address_is_not_shown() -> None:
    with pytest.raises(SettingsError) as error:
        KafkaAddress.parse("kafka://broker:9092?sasl.password=secret")
    assert "secret" not in str(error.value)


def test_without_the_client_library_the_message_says_how_to_get_it(tmp_path: Path) -> None:
    (tmp_path / "confluent_kafka.py").write_text("raise ImportError('not here')", encoding="utf-8")
    program = "from analytics_dagster.ingest.log.kafka import *; KafkaLog(KafkaAddress.parse('kafka://b:1/t'))"
    ran = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {program}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "pip install analytics-dagster[kafka]" in ran.stderr


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b"]), st.text(min_size=1, max_size=5), st.integers(0, 1_000), st.floats(allow_nan=False)
        ),
        min_size=1,
        max_size=40,
    ),
    st.integers(200, 5_000),
)
def test_frames_hold_every_row_in_order_whatever_their_size(rows: list[tuple[str, str, int, float]], most: int) -> None:
    points = _points(*rows)
    found = [decode_frame(frame) for frame in frames([points], most)]
    assert {(table, origin) for table, _, origin in found} == {(POINTS, None)}
    read = pa.concat_tables([some for _, some, _ in found]).to_pylist()
    assert [(row["tenant"], row["name"], row["value"]) for row in read] == [(t, n, v) for t, n, _, v in rows]


def test_a_request_that_is_sent_again_is_the_same_observations_however_it_was_cut(brokers: str, topic: str, opened: Open) -> None:
    installation = opened(analytics_log=f"kafka://{brokers}/{topic}?message.max.bytes=20000")
    table = SeriesTable()
    timer = table.number("default", "timer", "request", "{}")
    rows = np.full(2_000, timer, np.int32), np.full(2_000, NOW_US, np.int64), np.full(2_000, 0.25)
    log = open_log(installation.settings, installation.clock, "local")
    for origin in ("a" * 32, "a" * 32, "b" * 64):
        log.append(Points(table, *rows, origin)).result(PATIENCE)
    log.close()
    consume(installation)
    landed = installation.lake.tenant("default").table(schemas.landing(schemas.METRICS)).read()
    assert len(set(landed.column("point_id").to_pylist())) == 4_000


# --- topics that others write


def test_points_of_a_tenants_topic_are_landed_and_bad_ones_set_aside(brokers: str, topic: str, opened: Open) -> None:
    installation = opened(analytics_kafka_topics=f"metrics={brokers}/{topic}@tenant_123")
    good = {"name": "cpu", "value": 1.5, "timestamp": "2026-03-10T05:00:00Z", "labels": {"region": "eu"}}
    _send(
        brokers,
        topic,
        json.dumps(good).encode(),
        b"{broken",
        json.dumps([{**good, "value": 2.5}, {**good, "labels": {"a b": "c"}}]).encode(),
        json.dumps({**good, "tenant_id": "default"}).encode(),
        json.dumps({"name": "no_time", "value": 3.5}).encode(),
        b"\xff",
    )
    assert consume(installation).points == 3
    landed = installation.lake.tenant("tenant_123").table(schemas.landing(schemas.METRICS)).read().to_pylist()
    assert sorted((row["name"], row["value"]) for row in landed) == [("cpu", 1.5), ("cpu", 2.5), ("no_time", 3.5)]
    assert [row["ts"] for row in landed if row["name"] == "no_time"] == [dt.datetime.fromtimestamp(NOW_US / 1e6, dt.UTC)]
    aside = installation.landing.quarantined("tenant_123").to_pylist()
    assert sorted((row["file"], row["line"], row["field"]) for row in aside) == [
        (f"{topic}/0/1", 1, None),
        (f"{topic}/0/2", 2, "labels"),
        (f"{topic}/0/3", 1, "tenant_id"),
        (f"{topic}/0/5", 1, None),
    ]
    assert consume(installation).points == 0
    assert installation.landing.quarantined("tenant_123").num_rows == 4


def test_a_topic_of_nobody_needs_a_registered_tenant_in_each_record(brokers: str, topic: str, opened: Open) -> None:
    installation = opened(analytics_kafka_topics=f"metrics={brokers}/{topic}")
    point = {"name": "cpu", "value": 1.0, "timestamp": "2026-03-10T05:00:00Z"}
    named = [{**point, "tenant_id": "default"}, {**point, "tenant_id": "stranger"}, point]
    _send(brokers, topic, json.dumps(named).encode())
    assert consume(installation).tenants == frozenset({"default"})
    aside = installation.landing.quarantined("unassigned").to_pylist()
    assert sorted((row["line"], row["field"]) for row in aside) == [(2, "tenant_id"), (3, "tenant_id")]
    assert "stranger" not in {record.tenant for record in installation.tenants.records()}


def test_plays_come_as_own_columns_and_as_listens(brokers: str, topic: str, opened: Open) -> None:
    installation = opened(analytics_kafka_topics=f"plays={brokers}/{topic}@default")
    listen = {"listened_at": 1_773_100_000, "user_name": "ada", "track_metadata": {"artist_name": "Can", "track_name": "Spoon"}}
    own = {"ts": "2026-03-10T05:00:00Z", "listener_id": "ada", "track": "Spoon", "artist": "Can", "ms_played": 61_000}
    bad = [{**own, "ms_played": -1}, {**own, "colour": "red"}, {"track": "x"}, 7, {**listen, "track_metadata": {}}]
    _send(brokers, topic, json.dumps(listen).encode(), json.dumps([own, *bad]).encode())
    assert consume(installation).plays == 2
    landed = installation.lake.tenant("default").table(schemas.landing(schemas.PLAYS)).read().to_pylist()
    assert {(row["format"], row["track"], row["artist"], row["ms_played"]) for row in landed} == {
        ("listenbrainz", "Spoon", "Can", None),
        ("plays", "Spoon", "Can", 61_000),
    }
    aside = installation.landing.quarantined("default").to_pylist()
    assert sorted((row["line"], row["field"]) for row in aside) == [
        (2, "ms_played"),
        (3, "colour"),
        (4, "ts"),
        (5, "play"),
        (6, "track_metadata.track_name"),
    ]


def test_a_play_from_a_topic_is_the_play_of_an_imported_file(brokers: str, topic: str, opened: Open, tmp_path: Path) -> None:
    from analytics_dagster.sources.formats import FORMATS
    from analytics_dagster.sources.importer import ImportRequest, run_import

    installation = opened(analytics_kafka_topics=f"plays={brokers}/{topic}@default")
    own = {"ts": "2026-03-10T05:00:00Z", "listener_id": "ada", "track": "Spoon", "artist": "Can", "ms_played": 61_000}
    listen = {"listened_at": 1_773_100_000, "user_name": "ada", "track_metadata": {"artist_name": "Can", "track_name": "Spoon"}}
    _send(brokers, topic, json.dumps(own).encode(), json.dumps(listen).encode())
    assert consume(installation).plays == 2
    for name, record in (("plays", own), ("listenbrainz", listen)):
        file = tmp_path / f"{name}.jsonl"
        file.write_text(json.dumps(record), encoding="utf-8")
        imported = run_import(ImportRequest(FORMATS[name], [file], tenant="default"), installation)
        assert (imported.kept, imported.duplicate) == (0, 1)


def test_a_suspended_tenants_topic_is_set_aside(brokers: str, topic: str, opened: Open) -> None:
    from analytics_dagster.tenancy.tenants import TenantStatus

    installation = opened(analytics_kafka_topics=f"metrics={brokers}/{topic}@tenant_123")
    installation.tenants.set_status("tenant_123", TenantStatus.SUSPENDED)
    _send(brokers, topic, b'{"name": "cpu", "value": 1}')
    assert consume(installation).points == 0
    [aside] = installation.landing.quarantined("tenant_123").to_pylist()
    assert "suspended" in aside["reason"]


def test_a_point_too_far_ahead_of_its_message_is_refused_whenever_it_is_read(
    brokers: str, topic: str, opened: Open, clock: ManualClock
) -> None:
    installation = opened(analytics_kafka_topics=f"metrics={brokers}/{topic}@default", analytics_future_skew=60)
    _send(brokers, topic, b'{"name": "cpu", "value": 1, "timestamp": "2026-03-10T06:05:00Z"}')
    clock.advance(dt.timedelta(hours=1))
    [source] = [s for s in kafka_sources(installation.settings, clock) if s.end()]
    assert [batch.rows.num_rows for batch in source.read(0, 10)] == [0]


@pytest.mark.parametrize(
    "text", ["metrics", "lies=topic", "metrics=", "metrics=topic", "metrics=b:1/t@Not Allowed", "metrics=b:1/t,plays=b:1/t"]
)
def test_topics_that_make_no_sense_are_refused(text: str) -> None:
    from analytics_dagster.errors import UserError

    with pytest.raises(UserError):
        foreign_topics(text, None)


def test_topics_on_the_logs_brokers_need_no_address() -> None:
    home = KafkaAddress.parse("kafka://a:1,b:2/points?security.protocol=SSL")
    [first, second] = foreign_topics("metrics=cpu@acme, plays=c:3/listens", home)
    assert (first.address.brokers, first.address.options, first.tenant) == ("a:1,b:2", home.options, "acme")
    assert (second.address.brokers, second.address.topic, second.tenant) == ("c:3", "listens", None)
    with pytest.raises(SettingsError, match="twice"):
        foreign_topics("metrics=points@acme", home)
