"""Dagster's event log over long ranges of days: nothing lost, nothing said twice, and small."""

import datetime as dt
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.storage.event_log import ConsolidatedSqliteEventLogStorage, SqliteEventLogStorage

from analytics_dagster.orchestration.event_log import BATCH_SIZE, BATCH_VARIABLE, BatchedSqliteEventLogStorage
from analytics_dagster.orchestration.partitions import DAYS, DayRange, day_range

FIRST = dt.date(2024, 1, 1)
DAY_COUNT = 300
RANGE = DayRange(FIRST, FIRST + dt.timedelta(days=DAY_COUNT - 1))
KEYS = (dg.AssetKey("first"), dg.AssetKey("second"))
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


def two_assets() -> dg.Definitions:
    """Two daily assets as ours are: a range in one step, a number on each day, one check for the range."""
    policy = dg.BackfillPolicy.single_run()

    def made(name: str, deps: list[str]) -> dg.AssetsDefinition:
        @dg.asset(
            name=name,
            deps=deps,
            partitions_def=DAYS,
            backfill_policy=policy,
            check_specs=[dg.AssetCheckSpec("right", asset=name)],
        )
        def compute(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
            days = day_range(context)
            for number in range(days.days):
                day = days.first + dt.timedelta(days=number)
                context.add_asset_metadata({"dagster/partition_row_count": number}, partition_key=day.isoformat())
            yield dg.MaterializeResult()
            yield dg.AssetCheckResult(check_name="right", passed=True)

        return compute

    return dg.Definitions(assets=[made("first", []), made("second", ["first"])])


@contextmanager
def instance_of(folder: Path, storage: str) -> Iterator[dg.DagsterInstance]:
    """An instance whose event log is `storage`; the default one for an empty name."""
    folder.mkdir()
    lines = ["telemetry: {enabled: false}"]
    if storage:
        lines.append(
            f"event_log_storage: {{module: analytics_dagster.orchestration.event_log, class: {storage}, "
            f"config: {{base_dir: {folder / 'history'}}}}}"
        )
    (folder / "dagster.yaml").write_text("\n".join(lines))
    with dg.DagsterInstance.from_config(str(folder)) as instance:
        yield instance


def run(instance: dg.DagsterInstance, days: DayRange = RANGE) -> dg.ExecuteInProcessResult:
    job = two_assets().resolve_implicit_global_asset_job_def()
    return job.execute_in_process(instance=instance, tags=days.tags, run_config=QUIET)


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `analytics` sets for its processes."""
    monkeypatch.setenv(BATCH_VARIABLE, BATCH_SIZE)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dg.DagsterInstance, str]]:
    """300 days of two assets in one run on our storage, and its run id."""
    with instance_of(tmp_path_factory.mktemp("log") / "ours", "BatchedSqliteEventLogStorage") as instance:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(BATCH_VARIABLE, BATCH_SIZE)
            run_id = run(instance).run_id
        yield instance, run_id


def test_every_day_of_a_range_is_stored(ran: tuple[dg.DagsterInstance, str]) -> None:
    instance, run_id = ran
    assert isinstance(instance.event_log_storage, BatchedSqliteEventLogStorage)
    for key in KEYS:
        records = instance.fetch_materializations(key, limit=1_000, ascending=True).records
        assert [r.partition_key for r in records] == [(FIRST + dt.timedelta(days=n)).isoformat() for n in range(DAY_COUNT)]
        counts = [
            r.asset_materialization.metadata["dagster/partition_row_count"].value for r in records if r.asset_materialization
        ]
        assert counts == list(range(DAY_COUNT))
        assert {r.run_id for r in records} == {run_id}
        assert len({r.storage_id for r in records}) == DAY_COUNT


def test_dagster_shows_every_partition_as_materialized_and_none_as_under_way(ran: tuple[dg.DagsterInstance, str]) -> None:
    instance, _ = ran
    for key in KEYS:
        assert len(instance.get_materialized_partitions(key)) == DAY_COUNT
        status = instance.get_status_by_partition(key, DAYS.get_partition_keys_in_range(dg.PartitionKeyRange(*ends())), DAYS)
        assert status is not None
        assert {value.value for value in status.values()} == {"MATERIALIZED"}
        latest = instance.get_latest_materialization_event(key)
        assert latest is not None
        assert latest.asset_materialization is not None
        assert latest.asset_materialization.partition == RANGE.last.isoformat()


def ends() -> tuple[str, str]:
    return RANGE.first.isoformat(), RANGE.last.isoformat()


def test_a_range_is_planned_once_for_each_asset_and_check(ran: tuple[dg.DagsterInstance, str]) -> None:
    instance, run_id = ran
    kinds = {dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED, dg.DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED}
    planned = [
        record.event_log_entry.dagster_event.event_type
        for record in instance.get_records_for_run(run_id, of_type=kinds).records
        if record.event_log_entry.dagster_event
    ]
    assert sorted(kind.value for kind in planned) == sorted(kind.value for kind in kinds for _ in KEYS)


def test_checks_are_shown_with_their_outcome(ran: tuple[dg.DagsterInstance, str]) -> None:
    instance, _ = ran
    for key in KEYS:
        history = instance.event_log_storage.get_asset_check_execution_history(dg.AssetCheckKey(key, "right"), limit=500)
        assert [record.status.value for record in history] == ["SUCCEEDED"]


def test_an_event_takes_less_than_half_of_what_the_default_storage_takes(
    ran: tuple[dg.DagsterInstance, str], tmp_path: Path
) -> None:
    ours, _ = ran
    with instance_of(tmp_path / "default", "") as default:
        assert isinstance(default.event_log_storage, SqliteEventLogStorage)
        run(default, DayRange(FIRST, FIRST + dt.timedelta(days=99)))
        theirs = size(Path(default.root_directory) / "history") / (2 * 100)
    mine = size(Path(ours.root_directory) / "history") / (2 * DAY_COUNT)
    assert mine < theirs / 2
    assert mine < 3_500


def size(folder: Path) -> int:
    """Bytes of all event logs below `folder`; what is still in a journal counts."""
    return sum(path.stat().st_size for path in folder.rglob("*.db*") if "schedules" not in path.parts)


def test_a_batch_that_fails_midway_leaves_nothing_behind_and_is_stored_event_by_event(
    tmp_path: Path, batches: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = ConsolidatedSqliteEventLogStorage.store_event
    materializations = 0

    def disk_fails_once(self: ConsolidatedSqliteEventLogStorage, event: dg.EventLogEntry) -> None:
        nonlocal materializations
        materializations += bool(event.dagster_event and event.dagster_event.is_step_materialization)
        if materializations == 5:
            materializations += 1
            raise OSError("disk full")
        stored(self, event)

    monkeypatch.setattr(ConsolidatedSqliteEventLogStorage, "store_event", disk_fails_once)
    with instance_of(tmp_path / "ours", "BatchedSqliteEventLogStorage") as instance:
        assert run(instance, DayRange(FIRST, FIRST + dt.timedelta(days=9))).success
        for key in KEYS:
            records = instance.fetch_materializations(key, limit=100, ascending=True).records
            assert [r.partition_key for r in records] == [(FIRST + dt.timedelta(days=n)).isoformat() for n in range(10)]


def test_without_the_variable_events_are_stored_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(BATCH_VARIABLE, raising=False)
    with instance_of(tmp_path / "ours", "BatchedSqliteEventLogStorage") as instance:
        run(instance, DayRange(FIRST, FIRST + dt.timedelta(days=9)))
        assert len(instance.get_materialized_partitions(KEYS[0])) == 10
