"""The whole graph over the small service: a range of days in one run, broken input, late rows, running again."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pytest
from small_home import BROKEN_DAY, DAYS, FIRST, LAST, OLD_DAY, TENANTS, Copied, Home, content, opened

from analytics_dagster.lake import schemas
from analytics_dagster.lake.content import day_contents
from analytics_dagster.lake.publications import Status
from analytics_dagster.orchestration import alerting
from analytics_dagster.orchestration.checks import BUILT_CHECK
from analytics_dagster.orchestration.tables import derived_tables

EVERY_DAY = [FIRST + dt.timedelta(days=n) for n in range(DAYS)]
LISTENING = ("raw/plays", "aggregates/listening")
RULES = """
alert_rules:
  - {name: Errors, query: api_error_ratio, condition: gt, threshold: 0.0001, severity: critical, for_duration: 0s}
  - {name: Plays, query: plays, condition: gt, threshold: 1, severity: low, for_duration: 0s}
"""


@pytest.fixture(scope="module")
def whole(materialized_home: Path) -> Iterator[Home]:
    """Everything materialized in one run; only looked at."""
    with opened(materialized_home) as home:
        yield home


@pytest.fixture
def mine(copied: Copied, materialized_home: Path) -> Iterator[Home]:
    """The same in a copy that a test may change."""
    with opened(copied(materialized_home)) as home:
        yield home


def retries(home: Home) -> list[str]:
    """Steps of any run that needed a second try."""
    kinds = {dg.DagsterEventType.STEP_UP_FOR_RETRY}
    return [
        str(record.event_log_entry.step_key)
        for run in home.instance.get_runs()
        for record in home.instance.get_records_for_run(run.run_id, of_type=kinds).records
    ]


def daily_assets(home: Home) -> list[dg.AssetKey]:
    graph = home.definitions.resolve_asset_graph()
    return sorted(key for key in graph.materializable_asset_keys if graph.get(key).is_partitioned)


def rows_by_day(home: Home, tenant: str, table: schemas.TableSchema) -> dict[dt.date, int]:
    return {
        day: found.rows for day, found in day_contents(home.installation.lake.tenant(tenant).table(table), FIRST, LAST).items()
    }


def tables_of(home: Home) -> dict[tuple[str, str, dt.date], str]:
    """Hash of each day of each table that steps write, straight from the files."""
    tables = [*schemas.EVENT_TABLES, *(t for t in derived_tables(None) if t.time and t.layer is not schemas.Layer.LANDING)]
    horizon = LAST + dt.timedelta(days=40)
    return {
        (tenant, table.path, day): found.content_hash
        for tenant in TENANTS
        for table in tables
        for day, found in day_contents(home.installation.lake.tenant(tenant).table(table), FIRST, horizon).items()
    }


def plays_of(day: dt.date, count: int, *, listener: str | None, name: str) -> pa.Table:
    start = dt.datetime(day.year, day.month, day.day, 12, tzinfo=dt.UTC)
    rows = [
        {"play_id": f"{name}-{n}", "ts": start + dt.timedelta(seconds=n % 3600), "listener_id": listener, "format": "simulation"}
        for n in range(count)
    ]
    return pa.Table.from_pylist(rows, schema=schemas.PLAYS.arrow)


def evaluation(result: dg.ExecuteInProcessResult, asset: str, check: str) -> dg.AssetCheckEvaluation:
    [found] = [e for e in result.get_asset_check_evaluations() if e.asset_key.to_user_string() == asset and e.check_name == check]
    return found


def test_a_range_in_one_run_materializes_every_partition_of_every_asset(whole: Home) -> None:
    keys = daily_assets(whole)
    assert len(keys) >= 16
    for key in keys:
        assert whole.instance.get_materialized_partitions(key) == {day.isoformat() for day in EVERY_DAY}, key
    for table in schemas.CATALOGUE_TABLES:
        assert whole.instance.get_latest_materialization_event(dg.AssetKey(["raw", table.name])) is not None
    assert len(whole.instance.get_runs()) == 1
    assert retries(whole) == []


def test_each_partition_says_how_many_rows_it_has(whole: Home) -> None:
    for table in (schemas.PLAYS, schemas.METRICS):
        counted = [rows_by_day(whole, tenant, table) for tenant in TENANTS]
        records = whole.instance.fetch_materializations(dg.AssetKey(["raw", table.name]), limit=1_000).records
        said = {r.partition_key: r.asset_materialization.metadata for r in records if r.asset_materialization}
        for day in EVERY_DAY:
            rows = said[day.isoformat()]["dagster/partition_row_count"].value
            assert rows == sum(by_day[day] for by_day in counted)
        newest = said[LAST.isoformat()]
        assert newest["dagster/row_count"].value == sum(sum(by_day.values()) for by_day in counted)
        assert "tenants" in newest
        assert "tenants" not in said[FIRST.isoformat()]


def test_pictures_are_on_the_newest_day_only(whole: Home) -> None:
    for path in ("aggregates/listening", "forecasts/kpi", "insights/daily"):
        records = whole.instance.fetch_materializations(dg.AssetKey(path.split("/")), limit=1_000).records
        with_pictures = {
            r.partition_key
            for r in records
            if r.asset_materialization
            and any(isinstance(value, dg.MarkdownMetadataValue) for value in r.asset_materialization.metadata.values())
        }
        assert with_pictures == {LAST.isoformat()}, path


def test_every_check_is_evaluated(whole: Home) -> None:
    graph = whole.definitions.resolve_asset_graph()
    assert len(graph.asset_check_keys) > 60
    for check in graph.asset_check_keys:
        summary = whole.instance.event_log_storage.get_asset_check_execution_history(check, limit=1)
        assert summary, check
        assert summary[0].evaluation is not None, check
        if check.name == BUILT_CHECK:
            assert summary[0].evaluation.passed, check


def test_a_range_is_one_commit_for_each_table(whole: Home) -> None:
    lakes = [whole.installation.lake.tenant(tenant) for tenant in TENANTS]
    tables = [lake.table(schema) for lake in lakes for schema in (*schemas.RAW_TABLES, *derived_tables(None))]
    versions = {table.uri: table.version() for table in tables if table.exists()}
    assert len(versions) > 2 * 25
    assert set(versions.values()) == {0}


def test_broken_input_fails_its_check_which_names_the_tenant_the_day_and_the_rows(whole: Home) -> None:
    key = dg.AssetCheckKey(dg.AssetKey(["raw", "plays"]), "listener_is_known")
    [record] = whole.instance.event_log_storage.get_asset_check_execution_history(key, limit=1)
    found = record.evaluation
    assert found is not None
    assert not found.passed
    assert found.severity is dg.AssetCheckSeverity.ERROR
    assert "aurora" in (found.description or "")
    assert "borealis" not in (found.description or "")
    where = found.metadata["where"].records
    assert [(row.data["tenant"], row.data["day"]) for row in where] == [("aurora", BROKEN_DAY.isoformat())]
    rows = found.metadata[f"rows aurora {BROKEN_DAY}"].records
    assert rows
    assert all(row.data["listener_id"] == "None" for row in rows)


def test_broken_input_closes_the_gate_of_that_tenant_and_day_alone(whole: Home) -> None:
    closed = {key for key, record in whole.published().items() if record.status is Status.GATED}
    assert closed == {("aurora", "raw/plays", BROKEN_DAY)}
    published = whole.published("aggregates/listening")
    assert ("aurora", "aggregates/listening", BROKEN_DAY) not in published
    assert len(published) == 2 * DAYS - 1
    assert rows_by_day(whole, "aurora", derived("listening_day"))[BROKEN_DAY] == 0


def derived(name: str) -> schemas.TableSchema:
    return next(table for table in derived_tables(None) if table.name == name)


def test_other_tenants_figures_are_what_they_are_without_the_broken_one(whole: Home, copied: Copied, landed_home: Path) -> None:
    with opened(copied(landed_home)) as alone:
        alone.materialize(*LISTENING, "quality/scorecard", tenants=["borealis"])
        assert {key[0] for key in alone.published()} == {"borealis"}
        expected = {key: value for key, value in content(alone).items() if key[1] in LISTENING}
    assert len(expected) == 2 * DAYS
    assert {key: value for key, value in content(whole).items() if key in expected} == expected


def test_a_gated_day_keeps_the_figures_it_had(mine: Home) -> None:
    before, figures = mine.published(), tables_of(mine)
    broken = plays_of(OLD_DAY, 3_000, listener=None, name="broken")
    assert mine.installation.landing.append("borealis", schemas.PLAYS, broken, "broken").kept == 3_000
    result = mine.materialize(*LISTENING, first=OLD_DAY, last=OLD_DAY)
    assert "borealis" in (evaluation(result, "raw/plays", "listener_is_known").description or "")
    after = mine.published()
    assert {key for key in after if after[key] != before[key]} == {("borealis", "raw/plays", OLD_DAY)}
    assert after["borealis", "raw/plays", OLD_DAY].status is Status.GATED
    changed = {key for key, value in tables_of(mine).items() if figures[key] != value}
    assert changed == {("borealis", "raw/plays", OLD_DAY), ("borealis", "quality/plays", OLD_DAY)}


def test_a_late_row_changes_only_its_own_day(mine: Home) -> None:
    before, figures = mine.published(), tables_of(mine)
    late = plays_of(OLD_DAY, 1, listener="somebody", name="late")
    mine.installation.landing.append("borealis", schemas.PLAYS, late, "late")
    mine.materialize(*LISTENING, first=OLD_DAY - dt.timedelta(days=2), last=OLD_DAY + dt.timedelta(days=2))
    after = mine.published()
    # The day is closed, so the ledger has a day of its own: that of noting it.
    [noted] = [key for key in after if key not in before]
    assert noted[:2] == ("borealis", "aggregates/restatements")
    del after[noted]
    ledger = mine.installation.lake.tenant("borealis").table(schemas.RESTATEMENTS).read(columns=["day", "cause"]).to_pylist()
    assert {(row["day"], row["cause"]) for row in ledger} == {(OLD_DAY, "late_rows")}
    records = mine.instance.fetch_materializations(dg.AssetKey(["aggregates", "listening"]), limit=5).records
    said = {r.partition_key: r.asset_materialization.metadata for r in records if r.asset_materialization}
    assert {day: int(m["restated_figures"].value) for day, m in said.items() if "restated_figures" in m} == {
        OLD_DAY.isoformat(): len(ledger)
    }
    assert {key for key in after if content_of(after, key) != content_of(before, key)} == {
        ("borealis", asset, OLD_DAY) for asset in LISTENING
    }
    assert after["borealis", "raw/plays", OLD_DAY].version == 2
    changed = {key for key, value in tables_of(mine).items() if figures[key] != value}
    ahead = {key for key in changed if key[1].endswith("_counts")}
    assert {(tenant, day) for tenant, _, day in changed - ahead} == {("borealis", OLD_DAY)}
    # Whoever came late is one more in the windows of the days after.
    assert {tenant for tenant, _, _ in ahead} == {"borealis"}
    assert min(day for _, _, day in ahead) == OLD_DAY
    assert max(day for _, _, day in ahead) <= OLD_DAY + dt.timedelta(days=27)


def content_of(published: dict, key: tuple[str, str, dt.date]) -> tuple[str, int, int]:
    return published[key].content_hash, published[key].version, published[key].sequence


def test_materializing_again_gives_equal_rows_hashes_and_versions_and_no_new_alert(mine: Home) -> None:
    (mine.path.parent / "rules.yaml").write_text(RULES)
    assert alerting.judge(mine.installation).transitions
    figures, told = tables_of(mine), (mine.count("outbox"), mine.count("alert_transitions"))
    before = mine.published()
    mine.materialize(first=LAST, last=LAST, tenants=["aurora"])
    assert mine.published() == before
    assert tables_of(mine) == figures
    alerting.judge(mine.installation)
    assert (mine.count("outbox"), mine.count("alert_transitions")) == told

    old = ("raw/plays", "aggregates/listening", "quality/scorecard", "models/anomaly", "forecasts/kpi", "insights/daily")
    mine.materialize(*old, first=OLD_DAY, last=OLD_DAY, tenants=["aurora"])
    # A range makes the forecasts and the page of its newest day only, so these two are new for an old day; nothing else is.
    first_time = {key: record for key, record in mine.published().items() if key not in before}
    assert {(asset, day) for _, asset, day in first_time} == {("forecasts/kpi", OLD_DAY), ("insights/daily", OLD_DAY)}
    assert {key: record for key, record in mine.published().items() if key in before} == before
    figures = tables_of(mine)
    mine.materialize(*old, first=OLD_DAY, last=OLD_DAY, tenants=["aurora"])
    assert mine.published() == {**before, **first_time}
    assert tables_of(mine) == figures
    alerting.judge(mine.installation)
    assert (mine.count("outbox"), mine.count("alert_transitions")) == told


def test_wiping_an_asset_in_dagster_leaves_rows_and_publications(mine: Home) -> None:
    before, figures = mine.published(), tables_of(mine)
    key = dg.AssetKey(["raw", "plays"])
    mine.instance.wipe_assets([key])
    assert not mine.instance.get_materialized_partitions(key)
    assert (mine.published(), tables_of(mine)) == (before, figures)
    mine.materialize("raw/plays", first=OLD_DAY, last=OLD_DAY)
    assert mine.instance.get_materialized_partitions(key) == {OLD_DAY.isoformat()}
    assert (mine.published(), tables_of(mine)) == (before, figures)


def test_a_tenant_with_a_damaged_file_is_named_and_the_others_are_computed(copied: Copied, landed_home: Path) -> None:
    with opened(copied(landed_home)) as home:
        damaged = home.installation.lake.tenant("borealis").table(schemas.landing(schemas.SUBSCRIPTIONS))
        for file in damaged.files():
            Path(file.removeprefix("file://")).write_bytes(b"not parquet")
        result = home.materialize("raw/subscriptions", "aggregates/subscriptions")
        found = evaluation(result, "raw/subscriptions", BUILT_CHECK)
        assert not found.passed
        assert found.description == "not computed: borealis"
        [row] = found.metadata["failed"].records
        assert row.data["tenant"] == "borealis"
        assert {tenant for tenant, _, _ in home.published("raw/subscriptions")} == {"aurora"}
        assert len(home.published("raw/subscriptions")) == DAYS
        assert {tenant for tenant, _, _ in home.published("aggregates/subscriptions")} == {"aurora"}


def test_a_run_for_one_tenant_leaves_the_others_as_they_were(copied: Copied, landed_home: Path) -> None:
    with opened(copied(landed_home)) as home:
        home.materialize("raw/subscriptions", first=LAST, last=LAST, tenants=["aurora"])
        assert set(home.published()) == {("aurora", "raw/subscriptions", LAST)}
        refused = home.attempt("raw/subscriptions", first=LAST, last=LAST, tenants=["nobody"])
        assert not refused.success
        [failure] = [e for e in refused.all_events if e.is_step_failure]
        assert "no active tenant nobody" in str(failure.step_failure_data.user_failure_data)
        assert retries(home) == []


def test_days_before_a_tenants_first_arrival_are_not_published(copied: Copied, landed_home: Path) -> None:
    with opened(copied(landed_home)) as home:
        home.materialize("raw/subscriptions", first=FIRST - dt.timedelta(days=5), last=FIRST)
        assert {day for _, _, day in home.published()} <= {FIRST}
