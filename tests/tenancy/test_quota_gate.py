"""The gate: all of a request is checked before any of it is charged, over all processes of the machine."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tenancy.requests_for_tests import Stopwatch, joined, points

from analytics_dagster.clock import ManualClock
from analytics_dagster.errors import LogFullError, QuotaExceededError
from analytics_dagster.ingest.points import Points, SeriesTable
from analytics_dagster.installation import Installation
from analytics_dagster.tenancy.hash_set import HashSet
from analytics_dagster.tenancy.quota_gate import QuotaGate
from analytics_dagster.tenancy.quotas import Quotas
from analytics_dagster.tenancy.stored_bytes import limited_tenants, measure_stored_bytes
from analytics_dagster.tenancy.token_buckets import RateExceededError, RateState
from analytics_dagster.tenancy.usage import Usage

HOUR = dt.timedelta(hours=1)


class Door:
    """An installation with the tenants acme and globex, and as many gates as processes would have."""

    def __init__(self, installation: Installation, stopwatch: Stopwatch) -> None:
        self.installation, self.stopwatch = installation, stopwatch
        self.home, self.clock = installation.settings.analytics_home, installation.clock
        self.quotas = Quotas(installation.database, installation.settings, installation.clock)
        self.table = SeriesTable()
        for tenant in ("acme", "globex"):
            installation.tenants.ensure(tenant)

    def gate(self) -> QuotaGate:
        return QuotaGate(self.home, self.installation.settings, self.installation.database, self.clock, self.stopwatch)

    def points(self, tenant: str, numbers: range, label: str = "region") -> Points:
        return points(self.table, tenant, [{label: f"v{number}"} for number in numbers])


@pytest.fixture
def door(installation: Installation, stopwatch: Stopwatch) -> Door:
    return Door(installation, stopwatch)


@pytest.fixture
def limited(door: Door) -> Iterator[QuotaGate]:
    door.quotas.set("acme", {"active_series": 10, "points_per_second": 100})
    gate = door.gate()
    yield gate
    gate.close()


def test_what_is_within_the_quotas_is_admitted_and_charged(door: Door, limited: QuotaGate) -> None:
    assert limited.admit(door.points("acme", range(10))).remaining == 990
    assert limited.admit(door.points("acme", range(10))).remaining == 980
    assert limited.active_series("acme") == 10
    assert limited.admit(door.points("globex", range(500))) == RateState()


def test_a_request_without_rows_is_nothing(door: Door, limited: QuotaGate) -> None:
    assert limited.admit(door.points("acme", range(0))) == RateState()


def test_a_runaway_label_is_refused_with_its_name_and_how_many_values_it_has(door: Door, limited: QuotaGate) -> None:
    limited.admit(door.points("acme", range(8)))
    sessions = points(door.table, "acme", [{"session_id": f"s{n}", "region": f"v{n % 3}"} for n in range(41)])
    with pytest.raises(QuotaExceededError, match=r"has 8 active series, 41 more .* quota of 10: label session_id has 41 values"):
        limited.admit(sessions)
    assert limited.active_series("acme") == 8


def test_a_runaway_name_is_told_too(door: Door, limited: QuotaGate) -> None:
    names = [points(door.table, "acme", [{}], name=f"request_{number}") for number in range(11)]
    with pytest.raises(QuotaExceededError, match="the metric's name has 11 values"):
        limited.admit(joined(*names))


def test_each_client_is_told_of_its_own_label(door: Door, limited: QuotaGate) -> None:
    names = [points(door.table, "acme", [{"host": "a"}], name=f"request_{number}") for number in range(11)]
    with pytest.raises(QuotaExceededError, match="the metric's name has 11 values"):
        limited.admit(joined(*names))
    sessions = points(door.table, "acme", [{"session_id": f"s{n}"} for n in range(41)])
    with pytest.raises(QuotaExceededError, match="label session_id has 41 values"):
        limited.admit(sessions)


def test_series_that_are_active_go_on_when_no_new_one_may_begin(door: Door, limited: QuotaGate) -> None:
    limited.admit(door.points("acme", range(10)))
    with pytest.raises(QuotaExceededError):
        limited.admit(door.points("acme", range(11)))
    assert limited.admit(door.points("acme", range(10))).remaining == 980


def test_a_refusal_for_series_charges_no_points_and_one_for_points_counts_no_series(door: Door, limited: QuotaGate) -> None:
    with pytest.raises(QuotaExceededError):
        limited.admit(door.points("acme", range(11)))
    assert limited.admit(door.points("acme", range(1))).remaining == 999
    limited.admit_rows({"acme": 999})
    with pytest.raises(RateExceededError):
        limited.admit(door.points("acme", range(1, 5)))
    assert limited.active_series("acme") == 1


def test_rows_of_several_tenants_are_charged_to_their_own_or_to_nobody(door: Door, limited: QuotaGate) -> None:
    door.quotas.set("globex", {"points_per_second": 50})
    door.stopwatch.advance(5)
    both = joined(door.points("acme", range(5)), door.points("globex", range(20)))
    assert limited.admit(both) == RateState(500, 480, 0.4)  # globex has least left
    too_many = joined(door.points("globex", range(20, 25)), door.points("acme", range(5, 16)))
    with pytest.raises(QuotaExceededError, match="tenant acme"):
        limited.admit(too_many)
    assert limited.admit_rows({"acme": 1}).remaining == 994
    assert limited.admit_rows({"globex": 1}).remaining == 479


def test_only_the_rows_that_are_named_count(door: Door, limited: QuotaGate) -> None:
    both = joined(door.points("acme", range(12)), door.points("globex", range(3)))
    assert limited.admit(both, np.array([0, 1, 13])).remaining == 998
    assert limited.admit(both, np.arange(15) < 4).remaining == 994
    assert limited.active_series("acme") == 4
    assert limited.admit(both, np.array([], np.int64)) == RateState()


def test_a_series_is_active_for_this_hour_and_the_next(door: Door, limited: QuotaGate, clock: ManualClock) -> None:
    limited.admit(door.points("acme", range(10)))
    clock.advance(HOUR)
    limited.admit(door.points("acme", range(5)))
    with pytest.raises(QuotaExceededError):
        limited.admit(door.points("acme", range(10, 11)))
    clock.advance(HOUR)
    assert limited.active_series("acme") == 5
    limited.admit(door.points("acme", range(10, 15)))
    assert limited.active_series("acme") == 10


def test_files_of_hours_that_are_over_are_removed(door: Door, limited: QuotaGate, clock: ManualClock) -> None:
    for _ in range(5):
        limited.admit(door.points("acme", range(3)))
        clock.advance(HOUR)
    folder = door.home / "quota" / "series" / "acme"
    assert len(list(folder.glob("*.series"))) == 2
    assert len(list(folder.glob("*.labels"))) == 2


def test_a_clock_that_is_stepped_back_counts_no_series_twice(door: Door, limited: QuotaGate, clock: ManualClock) -> None:
    limited.admit(door.points("acme", range(10)))
    clock.advance(-3 * HOUR)
    limited.admit(door.points("acme", range(10)))
    assert limited.active_series("acme") == 10


def test_two_processes_count_together_and_a_new_one_knows_what_was_before(door: Door, limited: QuotaGate) -> None:
    other, table = door.gate(), SeriesTable()
    limited.admit(door.points("acme", range(6)))
    other.admit(points(table, "acme", [{"region": f"v{number}"} for number in range(3, 9)]))
    assert (limited.active_series("acme"), other.active_series("acme")) == (9, 9)
    third = door.gate()
    with pytest.raises(QuotaExceededError, match="label region has 11 values"):
        third.admit(door.points("acme", range(7, 11)))
    third.admit(door.points("acme", range(10)))
    assert limited.active_series("acme") == 10


def test_processes_that_send_at_once_stay_within_the_limit(door: Door) -> None:
    door.quotas.set("acme", {"active_series": 300})
    program = """
import sys
import numpy as np
from pathlib import Path
from analytics_dagster.errors import QuotaExceededError
from analytics_dagster.ingest.points import Points, SeriesTable
from analytics_dagster.installation import open_installation
from analytics_dagster.settings import Settings
from analytics_dagster.tenancy.quota_gate import QuotaGate
home, begin = Path(sys.argv[1]), int(sys.argv[2])
opened = open_installation(Settings.from_environment(home), create=False)
gate, table, admitted = QuotaGate(home, opened.settings, opened.database, opened.clock), SeriesTable(), 0
for number in range(begin, begin + 200):
    series = np.array([table.number("acme", "gauge", "m", '{"n":"%d"}' % number)], np.int32)
    try:
        gate.admit(Points(table, series, np.zeros(1, np.int64), np.zeros(1)))
        admitted += 1
    except QuotaExceededError:
        pass
print(admitted)
"""
    command = [sys.executable, "-c", program, str(door.home)]
    running = [subprocess.Popen([*command, str(begin)], stdout=subprocess.PIPE, text=True) for begin in (0, 1_000, 2_000)]
    admitted = [int(process.communicate()[0]) for process in running]
    # The machine's hour may change meanwhile, and changes nothing: what was active in the hour before still counts.
    assert sum(admitted) == 300


def test_a_write_that_was_cut_short_costs_that_series_and_no_other(door: Door, limited: QuotaGate) -> None:
    limited.admit(door.points("acme", range(4)))
    [file] = (door.home / "quota" / "series" / "acme").glob("*.series")
    with file.open("ab") as cut:
        cut.write(b"\x01\x02\x03")
    other = door.gate()
    other.admit(door.points("acme", range(3, 7)))
    assert (limited.active_series("acme"), door.gate().active_series("acme")) == (7, 7)


def test_a_changed_quota_counts_within_five_seconds(door: Door, limited: QuotaGate) -> None:
    limited.admit(door.points("acme", range(10)))
    door.quotas.set("acme", {"active_series": 12, "points_per_second": 0})
    door.stopwatch.advance(5)
    assert limited.admit(door.points("acme", range(12))) == RateState()
    door.quotas.set("acme", {"active_series": 1})
    door.stopwatch.advance(5)
    with pytest.raises(QuotaExceededError):
        limited.admit(door.points("acme", range(12, 13)))


def test_a_gate_that_is_renewed_never_reads_the_database_and_keeps_limits_that_cannot_be_read(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(_: Quotas) -> None:
        raise ConnectionError("the database is away")

    door.quotas.set("acme", {"active_series": 10})
    gate = QuotaGate(door.home, door.installation.settings, door.installation.database, door.clock, door.stopwatch, renewed=True)
    gate.renew()
    door.quotas.set("acme", {"active_series": 12})
    with monkeypatch.context() as patched:
        patched.setattr(Quotas, "own", away)
        door.stopwatch.advance(60)
        gate.admit(door.points("acme", range(10)))
        with pytest.raises(ConnectionError):
            gate.renew()
        with pytest.raises(QuotaExceededError):
            gate.admit(door.points("acme", range(12)))
    gate.renew()
    gate.admit(door.points("acme", range(12)))
    gate.close()


def test_rows_without_a_series_are_charged_with_the_points(door: Door, limited: QuotaGate) -> None:
    assert limited.admit(door.points("acme", range(10)), further={"acme": 5}).remaining == 985
    assert limited.admit(door.points("acme", range(0)), further={"acme": 5}).remaining == 980
    assert limited.admit(door.points("globex", range(1)), further={"acme": 980}).remaining == 0
    with pytest.raises(RateExceededError):
        limited.admit(door.points("globex", range(1)), further={"acme": 5})


def test_a_limit_that_is_set_later_counts_what_was_sent_without_one(door: Door) -> None:
    door.quotas.set("acme", {"active_series": 0})
    gate = door.gate()
    gate.admit(door.points("acme", range(20)))
    door.quotas.set("acme", {"active_series": 10})
    door.stopwatch.advance(5)
    with pytest.raises(QuotaExceededError):
        gate.admit(door.points("acme", range(20)))
    gate.admit(door.points("acme", range(10)))


def test_a_table_of_series_that_is_replaced_changes_nothing(door: Door, limited: QuotaGate) -> None:
    limited.admit(door.points("acme", range(10)))
    door.table = SeriesTable()
    limited.admit(door.points("acme", range(9, -1, -1)))
    assert limited.active_series("acme") == 10


def test_a_full_disk_is_said_and_counts_nothing(door: Door, limited: QuotaGate, monkeypatch: pytest.MonkeyPatch) -> None:
    limited.admit(door.points("acme", range(2)))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("analytics_dagster.tenancy.active_series._Hour.add", full)
        with pytest.raises(LogFullError, match="No space left on device"):
            limited.admit(door.points("acme", range(5)))
    limited.admit(door.points("acme", range(5)))
    assert limited.active_series("acme") == 5


def test_stored_bytes_are_what_was_measured_last(door: Door, installation: Installation, clock: ManualClock) -> None:
    gate, usage = door.gate(), Usage(installation.database, clock)
    folder = Path(installation.settings.lake_root) / "acme" / "raw"
    folder.mkdir(parents=True)
    (folder / "rows.parquet").write_bytes(b"x" * 2_000)
    door.quotas.set("acme", {"stored_bytes": 2_000})

    def measured() -> object:
        door.stopwatch.advance(5)
        measuring = limited_tenants(installation.tenants, door.quotas)
        return measure_stored_bytes(door.home, installation.lake, measuring, usage, clock)

    gate.admit(door.points("acme", range(1)))
    assert measured() == {"acme": 2_000}
    with pytest.raises(QuotaExceededError, match="tenant acme stores 2,000 bytes, its quota is 2,000"):
        gate.admit(door.points("acme", range(1)))
    with pytest.raises(QuotaExceededError, match="stores 2,000 bytes"):
        gate.admit_rows({"acme": 1})
    gate.admit(door.points("globex", range(1)))
    assert usage.days("acme")[0].stored_bytes == 2_000
    (folder / "rows.parquet").unlink()
    assert measured() == {}  # it was done less than a minute ago
    clock.advance(dt.timedelta(minutes=1))
    assert measured() == {"acme": 0}
    gate.admit(door.points("acme", range(1)))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=30)
@given(data=st.data())
def test_the_count_is_what_a_set_of_each_hour_would_give(
    tmp_path_factory: pytest.TempPathFactory, make_door: Callable[[], Door], clock: ManualClock, data: st.DataObject
) -> None:
    door = make_door()
    gates = [door.gate(), door.gate()]
    hours: dict[int, set[int]] = {}
    for _ in range(data.draw(st.integers(1, 8))):
        hour = int(clock.now().timestamp()) // 3_600
        sent = data.draw(st.sets(st.integers(0, 30), min_size=1))
        active = hours.get(hour, set()) | hours.get(hour - 1, set())
        try:
            data.draw(st.sampled_from(gates)).admit(points(door.table, "acme", [{"n": str(n)} for n in sorted(sent)]))
        except QuotaExceededError:
            assert len(active | sent) > 15
        else:
            assert len(active | sent) <= 15 or sent <= active
            hours.setdefault(hour, set()).update(sent)
        clock.advance(data.draw(st.sampled_from([dt.timedelta(0), HOUR, 2 * HOUR])))
    for gate in gates:
        gate.close()


@pytest.fixture
def make_door(installation: Installation) -> Callable[[], Door]:
    """Another empty quota folder of the same installation, where acme may have 15 series."""
    number = iter(range(1_000_000))

    def make() -> Door:
        door = Door(installation, Stopwatch())
        door.home = installation.settings.analytics_home / f"another-{next(number)}"
        door.quotas.set("acme", {"active_series": 15})
        return door

    return make


@given(st.lists(st.lists(st.integers(0, 2**64 - 1), max_size=50), max_size=6))
def test_a_set_of_hashes_is_a_set(groups: list[list[int]]) -> None:
    made, wanted = HashSet(), set[int]()
    for group in groups:
        hashes = np.array(group, np.uint64)
        assert made.has(hashes).tolist() == [value in wanted for value in group]
        made.add(hashes)
        wanted |= set(group)
    assert len(made) == len(wanted)


def test_a_large_set_of_hashes_keeps_them_all() -> None:
    made = HashSet()
    hashes = np.random.default_rng(1).integers(0, 2**64, 30_000, np.uint64)
    for part in np.split(hashes, 30):
        made.add(part)
    assert len(made) == len(np.unique(hashes))
    assert made.has(hashes).all()
    assert made.missing_from(HashSet()) == len(made)
    assert made.missing_from(made) == 0
