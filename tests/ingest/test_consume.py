"""From the log to landing: every batch once, whatever is repeated, interrupted or late."""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import struct
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import filelock
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ingest.logs import NOON, ListedSource, landed, points
from rows import plays

from analytics_dagster.clock import ManualClock
from analytics_dagster.errors import BusyError, IntegrityError
from analytics_dagster.ingest.consume import PAUSE, Consumed, consume, consume_all
from analytics_dagster.ingest.positions import positions, waiting
from analytics_dagster.ingest.raw import build_raw_days, stale_days, take_unreported
from analytics_dagster.installation import Installation, open_installation
from analytics_dagster.lake import schemas
from analytics_dagster.lake.database import Database
from analytics_dagster.lake.lake import Lake, Table, TenantLake
from analytics_dagster.settings import Settings
from analytics_dagster.tenancy.tenants import TenantStatus
from analytics_dagster.tenancy.usage import Usage

TENANTS = ("acme", "other", "third")
DAY = NOON.date()


@pytest.fixture
def house(installation: Installation) -> Installation:
    for tenant in TENANTS:
        installation.tenants.ensure(tenant)
    return installation


def metrics_of(house: Installation, tenant: str) -> Table:
    return house.lake.tenant(tenant).table(schemas.landing(schemas.METRICS))


def billed(house: Installation) -> dict[str, tuple[int, int]]:
    usage = Usage(house.database, house.clock)
    return {t: (sum(d.points for d in usage.days(t)), sum(d.plays for d in usage.days(t))) for t in TENANTS}


# --- what is landed


def test_each_tenants_rows_go_to_its_own_tables_and_come_once(house: Installation) -> None:
    source = ListedSource("log/server-0")
    source.add(points(("acme", "a", 1), ("other", "a", 2), ("acme", "b", 3)))
    source.add_plays("acme", plays(("p1", NOON), ("p2", NOON)))
    source.add(points(("other", "c", 4)))
    assert consume(house, sources=[source]) == Consumed(4, 2, frozenset({"acme", "other"}), more=False)
    assert consume(house, sources=[source]) == Consumed()
    assert landed(house.lake, TENANTS) == [("acme", "a", 1), ("acme", "b", 3), ("other", "a", 2), ("other", "c", 4)]
    assert landed(house.lake, TENANTS, schemas.PLAYS) == [("acme", "p1"), ("acme", "p2")]
    assert billed(house) == {"acme": (2, 2), "other": (2, 0), "third": (0, 0)}
    assert source.released == 30
    assert positions(house.database)["log/server-0"].position == 30


def test_rows_are_stored_by_series_and_time_with_where_they_came_from(house: Installation) -> None:
    source = ListedSource("log/server-0")
    source.add(points(("acme", "b", 1), ("acme", "a", 2)))
    source.add(points(("acme", "a", 3), at=NOON - dt.timedelta(hours=1)))
    consume(house, sources=[source])
    rows = metrics_of(house, "acme").read().to_pylist()
    assert [(r["name"], r["value"], r["arrival_row"]) for r in rows] == [("a", 3, 2), ("a", 2, 1), ("b", 1, 0)]
    assert {(r["arrival"], r["arrived_at"]) for r in rows} == {("log/server-0@20", house.clock.now())}


def test_a_round_takes_whole_batches_and_says_when_there_is_more(house: Installation) -> None:
    source = ListedSource("log/server-0")
    for number in range(5):
        source.add(points(*(("acme", "a", number * 10 + n) for n in range(4)), at=NOON + dt.timedelta(minutes=number)))
    assert consume(house, sources=[source], max_rows=6) == Consumed(8, 0, frozenset({"acme"}), more=True)
    assert source.released == 20
    assert consume(house, sources=[source], max_rows=6, max_seconds=60) == Consumed(12, 0, frozenset({"acme"}), more=False)
    assert len(landed(house.lake, TENANTS)) == 20


def test_every_source_has_its_share_of_a_round(house: Installation) -> None:
    busy, quiet = ListedSource("log/server-0"), ListedSource("log/local-0")
    for number in range(50):
        busy.add(points(("acme", "busy", number), at=NOON + dt.timedelta(seconds=number)))
    quiet.add(points(("acme", "quiet", 1)))
    consume(house, sources=[busy, quiet], max_rows=10)
    assert ("acme", "quiet", 1) in landed(house.lake, TENANTS)
    table = metrics_of(house, "acme")
    assert table.transactions(["log/server-0", "log/local-0"]) == {"log/server-0": 50, "log/local-0": 10}
    assert table.version() == 0


def test_a_batch_with_dictionaries_that_name_a_text_twice_loses_nothing(house: Installation) -> None:
    import pyarrow as pa

    rows = points(("acme", "a", 1), ("acme", "a", 2), ("other", "a", 3))
    tenants = pa.DictionaryArray.from_arrays(pa.array([0, 2, 1], pa.int32()), ["acme", "other", "acme", "nobody"])
    source = ListedSource("log/server-0")
    source.add(rows.set_column(0, rows.schema.field(0), tenants))
    consume(house, sources=[source])
    assert landed(house.lake, TENANTS) == [("acme", "a", 1), ("acme", "a", 2), ("other", "a", 3)]


# --- what a point is


def test_an_equal_gauge_is_one_point_in_raw_and_equal_observations_stay_two(house: Installation) -> None:
    source = ListedSource("log/server-0")
    for kind in ("gauge", "counter", "timer", "histogram"):
        for _ in range(2):
            source.add(points(("acme", kind, 1.5), type_=kind))
    consume(house, sources=[source])
    assert metrics_of(house, "acme").read().num_rows == 8
    lake = house.lake.tenant("acme")
    build_raw_days(lake, schemas.METRICS, DAY, DAY, house.database)
    names = sorted(lake.table(schemas.METRICS).read(columns=["name"]).column(0).to_pylist())
    assert names == ["counter", "gauge", "histogram", "histogram", "timer", "timer"]


def test_ids_are_md5_microseconds_and_bits_and_places_in_the_log(house: Installation) -> None:
    source = ListedSource("log/server-0")
    labels = '{"region":"us-east"}'
    source.add(points(("acme", "a", -2.5), labels=labels))
    source.add(points(("acme", "t", 1), ("acme", "t", 1), type_="timer"))
    consume(house, sources=[source])
    ids = set(metrics_of(house, "acme").read(columns=["point_id"]).column(0).to_pylist())
    series = hashlib.md5(f"gauge\x1fa\x1f{labels}".encode(), usedforsecurity=False).hexdigest()
    bits = struct.pack(">d", -2.5).hex()
    us = int(NOON.timestamp() * 1_000_000)
    assert ids == {f"{series}-{us:x}-{bits}", "log/server-0-20-0", "log/server-0-20-1"}


# --- days


def test_a_late_point_goes_to_its_own_day_and_makes_it_stale(house: Installation) -> None:
    source = ListedSource("log/server-0")
    source.add(points(("acme", "a", 1), ("other", "a", 1)))
    consume(house, sources=[source])
    build_and_publish(house, "acme", DAY)
    assert [s.tenant for s in stale_days(house.database)] == ["other"]
    late = NOON - dt.timedelta(days=40)
    source.add(points(("acme", "a", 2), at=late))
    consume(house, sources=[source])
    stale = {s.tenant: s.days for s in stale_days(house.database)}
    assert stale == {"acme": (late.date(),), "other": (DAY,)}


def test_the_log_leaves_one_note_for_each_day_and_counts_rows_until_they_are_reported(house: Installation) -> None:
    source = ListedSource("log/server-0")
    for number in range(3):
        source.add(points(("acme", "a", number)))
        consume(house, sources=[source])
    [arrived] = take_unreported(house.database, house.clock.now())
    assert (arrived.table, arrived.rows, arrived.tenants) == ("metrics", 3, ("acme",))
    assert len(all_notes(house)) == 1


def build_and_publish(house: Installation, tenant: str, day: dt.date) -> None:
    from analytics_dagster.lake.content import day_contents
    from analytics_dagster.lake.publications import Publication

    lake = house.lake.tenant(tenant)
    noted = build_raw_days(lake, schemas.METRICS, day, day, house.database)
    content = day_contents(lake.table(schemas.METRICS), day, day)[day]
    house.publications.record([Publication(tenant, "raw/metrics", content, input_id=noted)], "run")


def all_notes(house: Installation) -> Sequence[Any]:
    import sqlalchemy as sa

    from analytics_dagster.lake.state_tables import arrivals

    with house.database.read() as connection:
        return connection.execute(sa.select(arrivals)).all()


# --- who consumes


def test_only_one_consumes_at_a_time_and_the_others_return_at_once(house: Installation) -> None:
    source = ListedSource("log/server-0")
    source.add(points(("acme", "a", 1)))
    path = house.settings.analytics_home / "locks" / "consume.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(path):
        assert consume(house, sources=[source]) == Consumed()
        with pytest.raises(BusyError, match="another process has been consuming"):
            consume_all(house, sources=[source], patience=0.1)
    assert consume_all(house, sources=[source]).points == 1


def test_two_threads_that_consume_all_the_time_land_each_batch_once(house: Installation) -> None:
    source = ListedSource("log/server-0")
    for number in range(12):
        source.add(points(("acme", "a", number), ("other", "a", number), at=NOON + dt.timedelta(minutes=number)))
    threads = [
        threading.Thread(target=lambda: [consume(house, sources=[source], max_rows=2) for _ in range(12)]) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    consume_all(house, sources=[source])
    assert landed(house.lake, TENANTS) == sorted((t, "a", n) for t in ("acme", "other") for n in range(12))
    assert billed(house)["acme"] == (12, 0)


def test_with_a_pause_little_waits_and_much_does_not(house: Installation, clock: ManualClock) -> None:
    source = ListedSource("log/server-0")
    source.add(points(("acme", "a", 1)))
    assert consume(house, sources=[source], pause=PAUSE).points == 1
    source.add(points(("acme", "a", 2)))
    assert consume(house, sources=[source], pause=PAUSE) == Consumed()
    [left] = waiting(house.database, [source])
    assert (left.source, left.left, left.since) == ("log/server-0", 10, clock.now())
    clock.advance(PAUSE)
    assert consume(house, sources=[source], pause=PAUSE).points == 1
    source.batches.append(replace(source.batches[-1], position=source.end() + 2**25))
    assert consume(house, sources=[source], pause=PAUSE).points == 1


# --- crashes


class CrashError(Exception):
    """The process ends here, as far as a test can tell."""


@dataclass
class Fuse:
    """Burns at the `left`-th step from now on; None: never."""

    left: int | None = None

    def step(self) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise CrashError


class CrashingTable(Table):
    def append(self, data: Any, *, transactions: Any = None) -> int:
        FUSES[self.uri.split("/lake/")[0]].step()
        version = super().append(data, transactions=transactions)
        FUSES[self.uri.split("/lake/")[0]].step()
        return version


class CrashingTenantLake(TenantLake):
    def table(self, schema: schemas.TableSchema) -> Table:
        made = super().table(schema)
        return CrashingTable(made.schema, made.uri, made._lock_path, made._storage_options)


class CrashingLake(Lake):
    def tenant(self, tenant: str) -> TenantLake:
        made = super().tenant(tenant)
        return CrashingTenantLake(made.tenant, made._root, made._lock_root, made._storage_options)


class CrashingDatabase(Database):
    fuse: Fuse

    def write(self, change: Callable[[Any], Any]) -> Any:
        self.fuse.step()
        written = super().write(change)
        self.fuse.step()
        return written


@dataclass
class CrashingSource(ListedSource):
    fuse: Fuse = field(default_factory=Fuse)

    def read(self, after: int, max_rows: int) -> Any:
        for batch in super().read(after, max_rows):
            self.fuse.step()
            yield batch

    def release(self, through: int) -> None:
        self.fuse.step()
        super().release(through)
        self.fuse.step()


FUSES: dict[str, Fuse] = {}


def breakable(home: Path, clock: ManualClock) -> tuple[Installation, Fuse]:
    """An installation that crashes at a chosen step: before or after any commit, transaction, batch or release."""
    opened = open_installation(Settings.from_environment(home), clock, create=True)
    for tenant in TENANTS:
        opened.tenants.ensure(tenant)
    fuse = FUSES.setdefault(str(home), Fuse())
    database = CrashingDatabase(opened.settings.database_url)
    database.fuse = fuse
    opened.database.dispose()
    lake = CrashingLake(opened.settings.lake_root, home / "locks")
    made = replace(opened, lake=lake, database=database, landing=type(opened.landing)(lake, database, clock))
    return made, fuse


def test_a_crash_at_any_step_neither_loses_nor_doubles(home: Path, clock: ManualClock) -> None:
    house, fuse = breakable(home, clock)
    sources = [CrashingSource("log/server-0", fuse=fuse), CrashingSource("log/local-0", fuse=fuse)]
    expected, expected_plays, number, crashes = [], [], 0, 0
    for burn in range(26):
        for source in sources:
            rows = [(tenant, "a", float(number)) for tenant in TENANTS[: 1 + burn % 3]]
            source.add(points(*rows, at=NOON + dt.timedelta(seconds=number)))
            expected += rows
            number += 1
        sources[0].add_plays("acme", plays((f"p{burn}", NOON)))
        expected_plays.append(("acme", f"p{burn}"))
        fuse.left = burn
        try:
            consume(house, sources=sources, max_rows=4 + burn % 5)
        except CrashError:
            crashes += 1
        fuse.left = None
        clock.advance(dt.timedelta(seconds=1))
    assert crashes > 12
    while consume(house, sources=sources).more:
        pass
    assert landed(house.lake, TENANTS) == sorted(expected)
    assert landed(house.lake, TENANTS, schemas.PLAYS) == sorted(expected_plays)
    counted = {t: sum(row[0] == t for row in expected) for t in TENANTS}
    assert billed(house) == {t: (counted[t], 26 if t == "acme" else 0) for t in TENANTS}
    assert {s.tenant for s in stale_days(house.database)} == set(TENANTS)
    assert [source.released for source in sources] == [source.end() for source in sources]
    house.database.dispose()


ROUND = st.lists(st.tuples(st.integers(0, 1), st.sampled_from(TENANTS), st.integers(1, 4)), max_size=5)


@settings(max_examples=6)
@given(
    rounds=st.lists(st.tuples(ROUND, st.integers(1, 9), st.one_of(st.none(), st.integers(0, 14)), st.booleans()), max_size=5),
)
def test_any_interleaving_of_batches_rounds_crashes_and_compactions_lands_each_batch_once(
    rounds: list[tuple[list[tuple[int, str, int]], int, int | None, bool]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    clock = ManualClock(NOON)
    house, fuse = breakable(tmp_path_factory.mktemp("home") / ".analytics", clock)
    sources = [CrashingSource("log/server-0", fuse=fuse), CrashingSource("log/server-1", fuse=fuse)]
    expected: list[tuple[object, ...]] = []
    for batches, max_rows, burn, compacted in rounds:
        for which, tenant, rows in batches:
            made = [(tenant, "a", float(len(expected) + n)) for n in range(rows)]
            # A value comes again after a while, so that equal gauges meet.
            sources[which].add(points(*made, at=NOON + dt.timedelta(minutes=len(expected))))
            expected += made
        fuse.left = burn
        with contextlib.suppress(CrashError):
            consume(house, sources=sources, max_rows=max_rows)
        fuse.left = None
        if compacted:
            for tenant in TENANTS:
                metrics_of(house, tenant).maintain(dt.timedelta(0))
    consume_all(house, sources=sources)
    assert landed(house.lake, TENANTS) == sorted(expected)
    assert sum(points_ for points_, _ in billed(house).values()) == len(expected)
    for tenant in {str(row[0]) for row in expected}:
        lake = house.lake.tenant(tenant)
        build_raw_days(lake, schemas.METRICS, DAY, DAY, house.database)
        raw = sorted((tenant, r["name"], r["value"]) for r in lake.table(schemas.METRICS).read().to_pylist())
        assert raw == sorted(row for row in expected if row[0] == tenant)
    house.database.dispose()


# --- small files


def test_small_files_are_merged_now_and_then_and_exactly_once_survives_it(
    house: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("analytics_dagster.ingest.consume._COMPACT_EVERY", 8)
    source = ListedSource("log/server-0")
    table = metrics_of(house, "acme")
    most = 0
    for number in range(11):
        source.add(points(("acme", "a", number), at=NOON + dt.timedelta(minutes=number)))
        consume(house, sources=[source])
        most = max(most, len(table.files()))
    assert most == 8
    assert len(table.files()) < 5
    assert table.transaction("log/server-0") == 110
    assert consume(house, sources=[source]) == Consumed()
    assert len(landed(house.lake, TENANTS)) == 11
    table.maintain(dt.timedelta(0))
    assert len(table.files()) == 1
    assert table.transaction("log/server-0") == 110
    assert len(landed(house.lake, TENANTS)) == 11


# --- who cannot be landed


def test_a_damaged_table_stops_its_own_tenant_only_and_nothing_of_it_is_lost(house: Installation) -> None:
    source = ListedSource("log/server-0")
    source.add(points(("acme", "a", 1), ("other", "a", 1)))
    consume(house, sources=[source])
    log = Path(metrics_of(house, "acme").uri) / "_delta_log" / "00000000000000000000.json"
    whole = log.read_text()
    log.write_text("not json\n")
    for number in (2, 3):
        source.add(points(("acme", "a", number), ("other", "a", number)))
        assert consume(house, sources=[source]).points == 2
    assert landed(house.lake, ["other"]) == [("other", "a", n) for n in (1, 2, 3)]
    assert source.released == 30
    assert len(list((house.settings.analytics_home / "held" / "acme").glob("*.arrow"))) == 2
    log.write_text(whole)
    source.add(points(("acme", "a", 4)))
    consume(house, sources=[source])
    assert landed(house.lake, ["acme"]) == [("acme", "a", n) for n in (1, 2, 3, 4)]
    assert not list((house.settings.analytics_home / "held").rglob("*.arrow"))
    assert billed(house)["acme"] == (4, 0)


def test_rows_of_an_unregistered_tenant_are_held_until_it_is_registered(house: Installation) -> None:
    source = ListedSource("log/server-0")
    source.add(points(("stranger", "a", 1), ("acme", "a", 1)))
    source.add_plays("stranger", plays(("p", NOON)))
    consume(house, sources=[source])
    assert not metrics_of(house, "stranger").exists()
    assert source.released == 20
    house.tenants.ensure("stranger")
    consume(house, sources=[source])
    assert landed(house.lake, ["stranger"]) == [("stranger", "a", 1)]
    assert landed(house.lake, ["stranger"], schemas.PLAYS) == [("stranger", "p")]


def test_a_removed_tenants_rows_are_landed_in_its_grace_period_and_dropped_after_it(
    house: Installation, clock: ManualClock
) -> None:
    source = ListedSource("log/server-0")
    house.tenants.set_status("acme", TenantStatus.REMOVED)
    source.add(points(("acme", "a", 1), ("other", "a", 1)))
    consume(house, sources=[source])
    assert landed(house.lake, ["acme"]) == [("acme", "a", 1)]
    clock.advance(dt.timedelta(days=31))
    source.add(points(("acme", "a", 2), ("other", "a", 2)))
    assert consume(house, sources=[source]).points == 1
    assert landed(house.lake, ["acme"]) == [("acme", "a", 1)]
    assert landed(house.lake, ["other"]) == [("other", "a", 1), ("other", "a", 2)]


class DamagedSource(ListedSource):
    def read(self, after: int, max_rows: int) -> Any:
        yield from super().read(after, max_rows)
        raise IntegrityError(f"{self.name} is damaged at offset 7; restore the file")


def test_a_damaged_source_is_told_of_after_everything_that_can_be_read_was_landed(house: Installation) -> None:
    damaged, whole = DamagedSource("log/local-0"), ListedSource("log/server-0")
    damaged.add(points(("acme", "a", 1)))
    whole.add(points(("acme", "a", 2)))
    with pytest.raises(IntegrityError, match="log/local-0 is damaged at offset 7"):
        consume(house, sources=[damaged, whole])
    assert landed(house.lake, ["acme"]) == [("acme", "a", 1), ("acme", "a", 2)]
    assert (damaged.released, whole.released) == (10, 10)


def test_a_log_that_was_replaced_is_told_of_and_not_passed_over(house: Installation) -> None:
    source = ListedSource("log/local-0")
    source.add(points(("acme", "a", 1)))
    source.add(points(("acme", "a", 2)))
    consume(house, sources=[source])
    source.batches.clear()
    source.add(points(("acme", "a", 3)))
    with pytest.raises(IntegrityError, match="log/local-0 ends at 10 but was consumed up to 20"):
        consume(house, sources=[source])
