"""What a query becomes for Spark, and what is refused: this part needs neither Spark nor Java."""

from __future__ import annotations

import datetime as dt
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from analytics_dagster.errors import UserError
from analytics_dagster.installation import Installation
from analytics_dagster.lake.schemas import MEASURED, METRICS, RESTATEMENTS
from analytics_dagster.lake.spark import open_spark, what_is_missing
from analytics_dagster.metrics.compile import FINER, SOURCE
from analytics_dagster.metrics.declarations import Family
from analytics_dagster.metrics.load import load_catalogue
from analytics_dagster.metrics.sets import sets_of
from analytics_dagster.metrics.spark_sql import NoSparkFormError, to_spark
from analytics_dagster.orchestration.build import build_aggregates, build_ledger_figures
from analytics_dagster.orchestration.tenant_steps import EveryTenantFailedError
from tests.metrics.odd_rows import FIRST, LAST, odd_rows

IN_DUCKDB = ("audience", "deliveries")


@pytest.mark.parametrize("family", [f for f in load_catalogue().families if f.name not in IN_DUCKDB], ids=lambda f: f.name)
def test_every_family_of_the_catalogue_has_a_spark_form(family: Family) -> None:
    source = {SOURCE: MEASURED[family.source]}
    texts = [to_spark(family.queries.build, source)]
    for finer, merge in zip(family.grains, family.queries.merges.values(), strict=False):
        texts.append(to_spark(merge, {FINER: family.table(finer)}))
    assert len(texts) == len(family.grains)
    sets = [to_spark(query, source) for queries in family.queries.plain_sets.values() for query in queries]
    assert len(sets) == len(sets_of(family)) * len(family.set_grains)
    assert all("BIT_OR" in text for text in sets)


def test_two_families_are_computed_by_duckdb_whatever_the_engine() -> None:
    assert {f.name for f in load_catalogue().families if f.step and f.step.in_duckdb} == set(IN_DUCKDB)


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("lower(name)", "LOWER"),
        ("strftime(ts, '%H')", "STRFTIME"),
        ("cast(value as varchar)", r"DOUBLE to TEXT"),
        ("cast(name as double)", r"TEXT to DOUBLE"),
        ("try_cast(name as decimal(29, 9))", "TRY_CAST"),
        ("value % 3", "%"),
        ("length(name) % length(name)", "written out"),
        ("length(name) // 0", "written out"),
        ("hash(name)", "HASH"),
        ("sum(value)", "order of rows"),
        ("list(value)", "may be null"),
        ("list(name order by ts)", "ordered by itself"),
        ("md5_number_lower(name)", "MD5_NUMBER_LOWER"),
        ("md5_number_upper(name)", "MD5_NUMBER_UPPER"),
        ("length(name) >> 3", ">>"),
        ("histogram(name)", "HISTOGRAM"),
        ("first(name)", "FIRST"),
        ("last_value(name ignore nulls) over (order by ts)", "LAST_VALUE"),
    ],
)
def test_what_is_not_known_to_be_the_same_is_refused_by_name(expression: str, said: str) -> None:
    with pytest.raises(NoSparkFormError, match=said) as refusal:
        to_spark(f"SELECT {expression} AS x FROM source", {SOURCE: METRICS})
    assert "ANALYTICS_ENGINE=duckdb" in str(refusal.value)


def test_a_column_that_is_not_there_is_an_error() -> None:
    with pytest.raises(NoSparkFormError, match="nosuch"):
        to_spark("SELECT nosuch FROM source", {SOURCE: METRICS})


def test_without_java_it_is_said_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyspark", reason="without it, it is said first that pyspark is missing")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert "has no bin/java" in (what_is_missing() or "")
    monkeypatch.delenv("JAVA_HOME")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="needs Java 17 or newer: there is no `java`"):
        open_spark()


def test_a_run_computes_where_the_setting_says(
    installation: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without Java: a run that were DuckDB's in spite of the setting would succeed."""
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    installation.tenants.ensure("acme")
    point: dict[str, Any] = {
        "point_id": "1",
        "ts": dt.datetime(2026, 3, 9, 12, tzinfo=dt.UTC),
        "name": "n",
        "type": "gauge",
        "value": 1.0,
    }
    day, rows = point["ts"].date(), pa.Table.from_pylist([point], schema=METRICS.arrow)
    installation.landing.append("acme", METRICS, rows, "first")
    installation.lake.tenant("acme").table(METRICS).overwrite_days(rows, day, day)
    spark = replace(installation, settings=installation.settings.model_copy(update={"analytics_engine": "spark"}))
    log, points = logging.getLogger(__name__), load_catalogue().family("points")
    with pytest.raises(EveryTenantFailedError, match="ANALYTICS_ENGINE=spark needs"):
        build_aggregates(spark, points, METRICS, ["acme"], day, day, "run", log)
    assert build_aggregates(installation, points, METRICS, ["acme"], day, day, "run", log).failed == {}
    installation.lake.tenant("acme").table(RESTATEMENTS).append(odd_rows(RESTATEMENTS, 1))
    with pytest.raises(EveryTenantFailedError, match="ANALYTICS_ENGINE=spark needs"):
        build_ledger_figures(spark, ["acme"], FIRST, LAST, "run", log)
    assert build_ledger_figures(installation, ["acme"], FIRST, LAST, "run", log).failed == {}
